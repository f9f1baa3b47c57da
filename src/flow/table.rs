//! The living flows: found by a reload, a revocation or an administrator, and ended there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::channel::{Session, SessionId};
use crate::model::{DecisionId, Facts, FlowId, Reason, Timestamp};

/// Why this sidecar ended a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cut {
    /// The reason.
    pub reason: Reason,
    /// The rule that decided, `-` where none did.
    pub rule: Box<str>,
    /// In a few words.
    pub detail: Box<str>,
}

impl Cut {
    /// A cut that no rule decided.
    pub fn new(reason: Reason) -> Self {
        Self { reason, rule: "-".into(), detail: "".into() }
    }
}

/// Bytes moved, counted where status and the meters can see them.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the one who asked.
    pub up: Count,
    /// To the one who asked.
    pub down: Count,
}

/// Bytes moved one way.
#[derive(Debug, Default)]
pub struct Count {
    all: AtomicU64,
    told: AtomicU64,
}

impl Count {
    /// So many more.
    pub(super) fn add(&self, len: usize) {
        self.all.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// All so far.
    pub fn all(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    /// How many since this was last asked.
    pub fn fresh(&self) -> u64 {
        let all = self.all();
        all.saturating_sub(self.told.swap(all, Ordering::Relaxed))
    }
}

/// One living flow.
pub struct Living {
    /// Its number in this process.
    pub id: FlowId,
    /// The decision that admitted it.
    pub decision: DecisionId,
    /// What was judged; the hour and the lease's age move on, see [`Living::facts_at`].
    pub facts: Facts,
    /// Where it came from, for people.
    pub source: Box<str>,
    /// When it arrived.
    pub since: Timestamp,
    /// Bytes so far.
    pub moved: Moved,
    /// The flow is ended when nothing moved for so long.
    idle_timeout: Duration,
    opened: Instant,
    /// When it was last seen to move, in milliseconds since it was opened.
    stirred_ms: AtomicU64,
    /// The session it came on, where it came from a peer.
    arrived_on: Option<Arc<Session>>,
    /// The session it leaves on, once it is opened at a peer.
    leaves_on: OnceLock<Arc<Session>>,
    // Boxed, and no channel: there are thousands of idle flows, and most are never cut.
    cut: OnceLock<Box<Cut>>,
    cut_made: Notify,
}

impl Living {
    /// Ends the flow; the first cut stays.
    pub fn cut(&self, cut: Cut) {
        if self.cut.set(Box::new(cut)).is_ok() {
            self.cut_made.notify_waiters();
        }
    }

    /// Looks after the flow, at least every few seconds: what it moved since the last look, up and down. Cuts it
    /// when that is nothing, and has been nothing for its idle time.
    pub fn look(&self, now: Instant) -> (u64, u64) {
        let fresh = (self.moved.up.fresh(), self.moved.down.fresh());
        let age = now.saturating_duration_since(self.opened);
        if fresh != (0, 0) {
            self.stirred_ms.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        } else if age.saturating_sub(Duration::from_millis(self.stirred_ms.load(Ordering::Relaxed)))
            >= self.idle_timeout
        {
            self.cut(Cut::new(Reason::IdleTimeout));
        }
        fresh
    }

    /// What would be judged at `now`.
    pub fn facts_at(&self, now: Timestamp) -> Facts {
        let mut facts = self.facts.clone();
        facts.session.hour = now.hour();
        if let Some(session) = &self.arrived_on {
            facts.session.lease_age_s =
                u32::try_from(now.since(session.proven_at()).as_secs()).unwrap_or(u32::MAX);
            // What it is taken for may be another since; whether it still is anything, the watchman sees.
            if let Ok(device) = session.device(now) {
                facts.device = device;
            }
        }
        facts
    }

    /// The session it came on, where it came from a peer.
    pub fn arrived_on(&self) -> Option<&Arc<Session>> {
        self.arrived_on.as_ref()
    }

    /// The sessions it rides on.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.arrived_on.iter().chain(self.leaves_on.get())
    }

    /// The session it leaves on.
    pub fn leaves_on(&self) -> Option<&Arc<Session>> {
        self.leaves_on.get()
    }

    /// The session that the audit names: the one shared with the other sidecar.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.sessions().next()
    }
}

/// The table. Bounded by `limits::Settings::flows_max`: a seat is taken only with a slot.
#[derive(Clone, Default)]
pub struct Table(Arc<Shared>);

#[derive(Default)]
struct Shared {
    living: Mutex<HashMap<FlowId, Arc<Living>>>,
    next: AtomicU64,
}

impl Table {
    /// Takes a seat. Before anyone judges the flow: a reload between the two must still find it.
    pub fn register(
        &self,
        decision: DecisionId,
        facts: Facts,
        source: &str,
        arrived_on: Option<Arc<Session>>,
        idle_timeout: Duration,
        now: Timestamp,
    ) -> Seat {
        let id = FlowId(self.0.next.fetch_add(1, Ordering::Relaxed) + 1);
        let living = Arc::new(Living {
            id,
            decision,
            facts,
            source: source.into(),
            since: now,
            moved: Moved::default(),
            arrived_on,
            idle_timeout,
            opened: Instant::now(),
            stirred_ms: AtomicU64::new(0),
            leaves_on: OnceLock::new(),
            cut: OnceLock::new(),
            cut_made: Notify::new(),
        });
        self.lock().insert(id, Arc::clone(&living));
        Seat { table: self.clone(), living }
    }

    /// The living flows.
    pub fn all(&self) -> Vec<Arc<Living>> {
        self.lock().values().cloned().collect()
    }

    /// The living flow of this number.
    pub fn get(&self, id: FlowId) -> Option<Arc<Living>> {
        self.lock().get(&id).cloned()
    }

    /// How many live.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// None lives.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Has every flow judged again; `judge` says which must end. Returns how many were cut.
    pub fn judge_again(&self, mut judge: impl FnMut(&Living) -> Option<Cut>) -> usize {
        let mut count = 0;
        for living in self.all() {
            if let Some(cut) = judge(&living) {
                living.cut(cut);
                count += 1;
            }
        }
        count
    }

    /// Ends every flow on a session. Returns how many.
    pub fn cut_session(&self, session: SessionId, reason: Reason) -> usize {
        self.judge_again(|l| l.sessions().any(|s| s.id == session).then(|| Cut::new(reason)))
    }

    /// Ends one flow; whether it lived.
    pub fn cut_flow(&self, id: FlowId, cut: Cut) -> bool {
        let living = self.lock().get(&id).cloned();
        living.inspect(|l| l.cut(cut)).is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FlowId, Arc<Living>>> {
        self.0.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow's place in the table, given back when dropped.
pub struct Seat {
    table: Table,
    living: Arc<Living>,
}

impl Seat {
    /// Says which session the flow leaves on.
    pub fn leave_on(&self, session: Arc<Session>) {
        let _ = self.living.leaves_on.set(session);
    }

    /// Waits for the flow's end by this sidecar.
    pub async fn until_cut(&self) -> Cut {
        loop {
            // Listening before looking: a cut between the two is heard.
            let made = self.living.cut_made.notified();
            if let Some(cut) = self.living.cut.get() {
                return Cut::clone(cut);
            }
            made.await;
        }
    }
}

impl std::ops::Deref for Seat {
    type Target = Living;

    fn deref(&self) -> &Living {
        &self.living
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.lock().remove(&self.living.id);
    }
}
