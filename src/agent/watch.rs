//! The watchman: one thread that looks for changed files and lapsed rights, and has living flows judged again.
//!
//! Files are compared by their stamps at every look instead of being watched by the kernel: that also sees the
//! symlink swaps of Kubernetes, overlay and network file systems, and cannot run out of watches
//! (docs/adr/0006-polling-for-file-changes.md).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use super::attest;
use super::contact::Contact;
use crate::audit::{Entry, Kind};
use crate::channel::{Attester, Digests, Session, Sessions, Standing};
use crate::device;
use crate::flow::{self, Cut, Rooms};
use crate::identity::Identity;
use crate::limits;
use crate::model::{Reason, Timestamp};
use crate::policy::{self, Stamp};
use crate::telemetry::Outcome;

/// Asks the watchman for something.
pub(super) enum Order {
    /// Look at every file now; the answer says what came of it.
    Reload(SyncSender<Result<String, String>>),
    /// Go home.
    Stop,
}

/// What the watchman looks after.
pub(super) struct Watchman {
    pub rooms: Arc<Rooms>,
    pub identity: Identity,
    pub attester: Attester,
    pub device: device::Settings,
    /// Names the configuration in our evidence.
    pub config_digest: [u8; 32],
    pub sessions: Sessions,
    pub policy_dir: PathBuf,
    /// How it stands with the authority, and what it says of others.
    pub contact: Arc<Contact>,
}

/// How to reach the watchman.
#[derive(Clone)]
pub(super) struct Orders(SyncSender<Order>);

impl Orders {
    /// Has every file read again; says what came of it. Blocks: call it off the runtime.
    pub fn reload(&self) -> Result<String, String> {
        let (answer, answered) = sync_channel(1);
        self.0.try_send(Order::Reload(answer)).map_err(|_| "a reload is under way".to_string())?;
        answered.recv_timeout(RELOAD_TIMEOUT).unwrap_or_else(|_| Err("the reload took too long".into()))
    }

    /// Ends the thread.
    pub fn stop(&self) {
        let _ = self.0.try_send(Order::Stop);
    }
}

/// Starts the thread.
pub(super) fn start(watchman: Watchman) -> std::io::Result<(Orders, std::thread::JoinHandle<()>)> {
    let (send, orders) = sync_channel(ORDERS_MAX);
    let thread = std::thread::Builder::new().name("watchman".into()).spawn(move || watchman.run(&orders))?;
    Ok((Orders(send), thread))
}

/// What was seen at the last look.
struct Seen {
    policy: Stamp,
    policy_moved: bool,
    identity: Vec<Option<FileStamp>>,
    identity_moved: bool,
    hour: u8,
    second: u64,
    minute: u64,
    /// When the watch began.
    since: Timestamp,
    /// When this machine was looked at last.
    looked: Instant,
    /// Entries in the log, and entries it could not take.
    entries: u64,
    lost: u64,
    /// What the analyser had counted.
    behaviour: flow::Counted,
}

#[derive(Clone, Copy, Eq, PartialEq)]
struct FileStamp {
    len: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Watchman {
    fn run(self, orders: &Receiver<Order>) {
        let now = Timestamp::now();
        let mut seen = Seen {
            policy: policy::fingerprint(&self.policy_dir),
            policy_moved: false,
            identity: self.identity_stamps(),
            identity_moved: false,
            hour: now.hour(),
            second: now.as_secs(),
            minute: now.as_secs() / 60,
            since: now,
            looked: Instant::now(),
            entries: 0,
            lost: 0,
            behaviour: flow::Counted::default(),
        };
        loop {
            match orders.recv_timeout(LOOK_EVERY) {
                Ok(Order::Reload(answer)) => {
                    let _ = answer.send(self.reload_all());
                }
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    return attest::save_versions(&self.attester, &self.device.records);
                }
                Err(RecvTimeoutError::Timeout) => self.look(&mut seen, Timestamp::now()),
            }
        }
    }

    fn look(&self, seen: &mut Seen, now: Timestamp) {
        let policy = policy::fingerprint(&self.policy_dir);
        if settled(&mut seen.policy, &mut seen.policy_moved, policy) {
            let _ = self.reload_policy();
        }
        if settled(&mut seen.identity, &mut seen.identity_moved, self.identity_stamps()) {
            let _ = self.reload_identity(now);
        }
        if now.as_secs() != seen.second {
            seen.second = now.as_secs();
            self.every_second(seen, now);
        }
        if now.as_secs() / 60 != seen.minute {
            seen.minute = now.as_secs() / 60;
            self.recheck_sessions(now);
        }
        if now.hour() != seen.hour {
            seen.hour = now.hour();
            self.judge_again("the hour changed");
        }
    }

    fn every_second(&self, seen: &mut Seen, now: Timestamp) {
        match limits::sample() {
            Ok(sample) => self.rooms.pressure.update(sample),
            Err(_) => self.rooms.pressure.unknown(),
        }
        let status = self.rooms.audit.status();
        let metrics = &self.rooms.metrics;
        metrics.audit_appended(status.size.saturating_sub(std::mem::replace(&mut seen.entries, status.size)));
        let lost = status.dropped + status.refused;
        metrics.audit_dropped(lost.saturating_sub(std::mem::replace(&mut seen.lost, lost)));
        metrics.sessions(self.sessions.len());
        metrics.certificate_expires(self.identity.not_after());
        metrics.crl_expires(self.identity.crl_next_update());
        let look = Instant::now();
        for living in self.rooms.table.all() {
            flow::look_after(metrics, &living, look);
        }
        flow::tick(&self.rooms, now);
        let counted = self.rooms.behaviour.counted();
        let before = std::mem::replace(&mut seen.behaviour, counted);
        let (judged, would) = (counted.judged - before.judged, counted.would - before.would);
        metrics.behaviour_counted(judged, would, counted.quarantined);
        if self.contact.authority.is_some() {
            let last = self.contact.state().last.unwrap_or(seen.since);
            metrics.authority_silent(now.since(last));
        }
        attest::save_versions(&self.attester, &self.device.records);
        if seen.looked.elapsed() >= self.device.look_interval {
            seen.looked = Instant::now();
            self.look_at_machine(now);
        }
        // What lapses by the clock alone is found here; signatures are checked again when a file changes.
        for session in self.sessions.all() {
            if let Err(reason) = self.lapsed(&session, now) {
                self.end_session(&session, reason, now);
            }
        }
    }

    /// Whether a session must end now: its leaf or its lease is over, and for the lease the drain time, too.
    fn lapsed(&self, session: &Session, now: Timestamp) -> Result<(), Reason> {
        if session.proven().svid().not_after <= now {
            return Err(Reason::SessionExpired);
        }
        let version = match session.standing() {
            Standing::Leased { record_version, .. } => Some(record_version),
            Standing::Exempt | Standing::Unproven(_) => None,
        };
        self.contact.admits(session.peer.id(), version)?;
        match session.standing() {
            Standing::Leased { lease, .. } if lease.check(now).is_err() => {
                match now < lease.until.plus(self.device.lease_drain) {
                    true => Ok(()),
                    false => Err(Reason::LeaseExpired),
                }
            }
            _ => self.attester.check(session, now),
        }
    }

    fn look_at_machine(&self, now: Timestamp) {
        let before = self.attester.own();
        if let Err(e) = self.attester.look_again(now) {
            return tracing::error!("this machine cannot be looked at, evidence stays what it was: {e}");
        }
        let own = self.attester.own();
        if own != before {
            let verdict = own.verdict.map_or("none", |v| v.name());
            tracing::warn!(verdict, tier = own.device.tier.level(), "this device stands differently now");
        }
        if let (Some(problem), true) = (&own.problem, own.problem != before.problem) {
            tracing::error!("the record of this device is not used: {problem}");
        }
    }

    fn reload_all(&self) -> Result<String, String> {
        let policy = self.reload_policy();
        let identity = self.reload_identity(Timestamp::now());
        match (policy, identity) {
            (Ok(policy), Ok(identity)) => Ok(format!("{policy}; {identity}")),
            (policy, identity) => {
                let said: Vec<_> = [policy, identity].into_iter().filter_map(Result::err).collect();
                Err(said.join("\n"))
            }
        }
    }

    fn reload_policy(&self) -> Result<String, String> {
        let reloaded = self.rooms.policy.reload(Timestamp::now());
        let said = match &reloaded {
            Ok(r) if r.changed => {
                let digests =
                    Digests { config: self.config_digest, policy: attest::policy_digest(&self.rooms.policy) };
                self.attester.set_digests(digests);
                let cut = self.judge_again("the policy changed");
                Ok(format!("policy {} replaced {}, {cut} flows cut", r.new, r.old))
            }
            Ok(r) => Ok(format!("policy {} unchanged", r.new)),
            Err(e) => Err(format!("policy kept as it was: {e}")),
        };
        self.rooms.metrics.policy_reloaded(if reloaded.is_ok() { Outcome::Ok } else { Outcome::Failed });
        self.tell(Kind::Reload, &said);
        said
    }

    fn reload_identity(&self, now: Timestamp) -> Result<String, String> {
        let record = self.attester.own().record;
        let said = match self.identity.reload(now) {
            Ok(changed) => {
                self.look_at_machine(now);
                if changed.leaf || self.attester.own().record != record {
                    self.attester.renewed();
                }
                Ok(format!("identity reloaded, certificate valid until {}", self.identity.not_after()))
            }
            Err(e) => Err(format!("identity: {e}")),
        };
        self.tell(Kind::Reload, &said);
        self.recheck_sessions(now);
        said
    }

    /// Verifies every living session's chain against the bundle, list and clock of now.
    fn recheck_sessions(&self, now: Timestamp) {
        for session in self.sessions.all() {
            let still =
                self.identity.recheck(&session.proven(), now).and_then(|()| self.lapsed(&session, now));
            if let Err(reason) = still {
                self.end_session(&session, reason, now);
            }
        }
    }

    fn end_session(&self, session: &Session, reason: Reason, now: Timestamp) {
        if session.ended().is_some() {
            return;
        }
        let flows = self.rooms.table.cut_session(session.id, reason);
        session.end(reason);
        let _ = self.rooms.audit.append(Entry {
            decision: Some(flow::decision_id(now)),
            device: Some(session.peer.id().clone()),
            reason: Some(reason),
            session: Some(session.id.to_string().into()),
            detail: Some(
                format!("certificate {} ended with {flows} flows", session.proven().svid().serial_hex())
                    .into(),
            ),
            ..Entry::new(now, Kind::Revoke)
        });
        tracing::warn!(session = %session.id, peer = %session.peer.id(), reason = reason.code(), flows, "session ended");
    }

    fn judge_again(&self, why: &str) -> usize {
        let now = Timestamp::now();
        let policy = &self.rooms.policy;
        let cut = self.rooms.table.judge_again(|living| {
            flow::judge_again(policy, &living.facts_at(now), living.decision)
                .map(|c| Cut { detail: c.detail, ..c })
        });
        if cut > 0 {
            tracing::warn!(flows = cut, "{why}: flows no longer allowed are cut");
        }
        cut
    }

    fn tell(&self, kind: Kind, said: &Result<String, String>) {
        let (ok, text) = match said {
            Ok(text) => (true, text),
            Err(text) => (false, text),
        };
        let now = Timestamp::now();
        let _ = self.rooms.audit.append(Entry {
            decision: Some(flow::decision_id(now)),
            detail: Some(text.as_str().into()),
            bundle: Some(self.rooms.policy.current().digest().into()),
            ..Entry::new(now, kind)
        });
        if ok {
            tracing::info!("{text}");
        } else {
            for line in text.lines() {
                tracing::error!("{line}");
            }
        }
    }

    fn identity_stamps(&self) -> Vec<Option<FileStamp>> {
        use std::os::unix::fs::MetadataExt;
        let stamp = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some(FileStamp { len: meta.len(), modified: meta.modified().ok(), inode: meta.ino() })
        };
        self.identity.watch_paths().iter().chain([&self.device.record]).map(stamp).collect()
    }
}

/// Whether something changed and has been still for one look since: a file being written is not read half-way.
fn settled<T: PartialEq>(seen: &mut T, moved: &mut bool, now: T) -> bool {
    if *seen != now {
        *seen = now;
        *moved = true;
        return false;
    }
    std::mem::take(moved)
}

/// Time between two looks. A change is acted on after two looks at most.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Orders that may wait.
const ORDERS_MAX: usize = 8;
/// Longest wait for a reload that was asked for.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::settled;

    #[test]
    fn a_change_is_acted_on_once_it_has_been_still_for_one_look() {
        let (mut seen, mut moved) = (1, false);
        let looks = [1, 2, 3, 3, 3, 4, 4];
        let acted: Vec<_> = looks.iter().map(|n| settled(&mut seen, &mut moved, *n)).collect();
        assert_eq!(acted, [false, false, false, true, false, false, true]);
    }
}
