//! What the console sees of the house, and how its asks are carried out.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::contact::Contact;
use super::remember::Keeper;
use super::watch::Orders;
use crate::audit::{Entry, Kind, Source};
use crate::channel::{Attester, OwnStanding, Sessions, Standing};
use crate::config::Config;
use crate::console::{AdminEvent, Ask, AskError, Caller, Check, House};
use crate::flow::{self, Cut, Rooms};
use crate::identity::{CrlStatus, Identity};
use crate::model::{Reason, Timestamp};
use crate::net::BoxFuture;

/// The house as its console may see it.
pub(super) struct Inside {
    pub rooms: Arc<Rooms>,
    pub identity: Identity,
    pub attester: Attester,
    pub sessions: Sessions,
    pub orders: Orders,
    /// Asks the sidecar to drain and stop.
    pub asked: mpsc::Sender<()>,
    pub config: Config,
    pub contact: Arc<Contact>,
    pub memory: Arc<Keeper>,
    pub since: Timestamp,
}

impl Inside {
    /// What there is to say of the authority; nothing when all is well.
    fn remark(&self, now: Timestamp) -> String {
        let state = self.contact.state();
        let silence = now.since(state.last.unwrap_or(self.since));
        let mut remarks = Vec::new();
        if let (Some(problem), Some(_)) = (&state.problem, &self.contact.authority) {
            remarks.push(format!(
                "the authority has not been heard for {} s, nothing new joins or is renewed: {problem}",
                silence.as_secs()
            ));
        }
        remarks.extend(state.refused);
        if state.skew_ms.unsigned_abs() > SKEW_TOLD_MS {
            remarks.push(skew_text(state.skew_ms));
        }
        remarks.join("; ")
    }

    fn behaviour_json(&self) -> Value {
        let (counted, kept) = (self.rooms.behaviour.counted(), self.memory.state());
        json!({
            "mode": self.rooms.behaviour.mode().name(),
            "devices": counted.devices,
            "judged": counted.judged,
            "would_act": counted.would,
            "quarantined": counted.quarantined,
            "memory": self.memory.begun(),
            "kept_at": kept.kept_at.map(|at| at.to_string()),
            "problem": kept.problem,
        })
    }

    fn authority_json(&self, now: Timestamp) -> Value {
        let Some(id) = &self.contact.authority else { return Value::Null };
        let state = self.contact.state();
        json!({
            "id": id.as_str(),
            "heard": state.last.map(|at| at.to_string()),
            "silence_s": now.since(state.last.unwrap_or(self.since)).as_secs(),
            "clock_ahead_ms": state.skew_ms,
            "remark": self.remark(now),
        })
    }
}

impl House for Inside {
    fn live(&self) -> bool {
        true
    }

    fn checks(&self) -> Vec<Check> {
        let now = Timestamp::now();
        let identity = self.identity.status(now);
        let margin = self.config.enrolment.ready_before;
        let certificate = if now >= identity.not_after {
            Err(format!("the certificate expired at {}", identity.not_after))
        } else if now.plus(margin) >= identity.not_after && !margin.is_zero() {
            Err(format!("the certificate ends soon, at {}", identity.not_after))
        } else {
            Ok(())
        };
        let crl = match identity.crl {
            CrlStatus::Good { next_update } if now.plus(margin) >= next_update && !margin.is_zero() => {
                Err(format!("the revocation list ends soon, at {next_update}"))
            }
            CrlStatus::Off | CrlStatus::Good { .. } => Ok(()),
            CrlStatus::Expired { next_update } => {
                Err(format!("the revocation list expired at {next_update}"))
            }
            CrlStatus::Unavailable { why } => Err(format!("no usable revocation list: {why}")),
        };
        let audit = match self.rooms.audit.status().failing {
            Some(why) => Err(format!("the audit log cannot be written: {why}")),
            None => Ok(()),
        };
        let pressure = self.rooms.pressure.admit().map_err(|reason| reason.sentence().to_string());
        let draining = if *self.rooms.drain.borrow() { Err("draining".to_string()) } else { Ok(()) };
        let own = self.attester.own();
        let record = match (own.problem, own.record) {
            (Some(problem), _) => Err(format!("the record of this device is not used: {problem}")),
            (None, Some((_, expires_at))) if now >= expires_at => {
                Err(format!("the record of this device expired at {expires_at}"))
            }
            (None, _) => Ok(()),
        };
        [
            ("certificate", certificate),
            ("record", record),
            ("crl", crl),
            ("audit", audit),
            ("pressure", pressure),
            ("drain", draining),
        ]
        .into_iter()
        .map(|(name, found)| Check { name, ok: found.is_ok(), sentence: found.err().unwrap_or_default() })
        // What is issued goes on without the authority: it is told, and makes nothing red.
        .chain(std::iter::once(Check { name: "authority", ok: true, sentence: self.remark(now) }))
        .collect()
    }

    fn metrics(&self) -> String {
        self.rooms.metrics.render()
    }

    fn status(&self) -> Value {
        let now = Timestamp::now();
        let (identity, audit) = (self.identity.status(now), self.rooms.audit.status());
        let bundle = self.rooms.policy.current();
        let usage = self.rooms.pressure.latest();
        let sessions = self.sessions.all();
        let sessions: Vec<_> = sessions.iter().take(LISTED_MAX).map(|s| session_json(s, now)).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "id": identity.id.as_str(),
            "up_s": now.since(self.since).as_secs(),
            "draining": *self.rooms.drain.borrow(),
            "certificate": {
                "serial": identity.serial,
                "not_after": identity.not_after.to_string(),
                "roots": identity.roots,
                "crl": crl_text(&identity.crl),
            },
            "device": own_json(&self.attester.own()),
            "policy": { "digest": bundle.digest(), "rules": bundle.rules().len(), "loaded_at": bundle.loaded_at().to_string() },
            "audit": {
                "entries": audit.size, "queued": audit.queued, "refused": audit.refused,
                "dropped": audit.dropped, "failing": audit.failing,
            },
            "authority": self.authority_json(now),
            "behaviour": self.behaviour_json(),
            "flows": self.rooms.table.len(),
            "descriptors": format!("{} of {}", usage.descriptors_used, usage.descriptors_limit),
            "resident_bytes": usage.resident_bytes,
            "sessions": sessions,
        })
    }

    fn flows(&self) -> Value {
        let now = Timestamp::now();
        let flows = self.rooms.table.all();
        let listed: Vec<_> = flows
            .iter()
            .take(LISTED_MAX)
            .map(|f| {
                json!({
                    "flow": f.id.to_string(), "decision": f.decision.to_string(),
                    "direction": f.facts.session.direction.name(), "device": f.facts.device.id.as_str(),
                    "source": &*f.source, "service": f.facts.service.as_str(),
                    "age_s": now.since(f.since).as_secs(),
                    "bytes_up": f.moved.up.all(), "bytes_down": f.moved.down.all(),
                    "session": f.session().map(|s| s.id.to_string()),
                })
            })
            .collect();
        json!({ "count": flows.len(), "flows": listed })
    }

    fn config(&self) -> String {
        self.config.to_toml()
    }

    fn ask(&self, ask: Ask) -> BoxFuture<Result<String, AskError>> {
        let failed = |reason, detail: String| AskError::Failed { reason, detail };
        match ask {
            Ask::Checkpoint => {
                let checkpoint = self.rooms.audit.checkpoint();
                Box::pin(async move { Ok(checkpoint) })
            }
            Ask::Reload => {
                let orders = self.orders.clone();
                Box::pin(async move {
                    let said = tokio::task::spawn_blocking(move || orders.reload()).await;
                    match said {
                        Ok(Ok(text)) => Ok(text),
                        Ok(Err(text)) => Err(failed(Reason::ReloadFailed, text)),
                        Err(e) => Err(failed(Reason::Internal, e.to_string())),
                    }
                })
            }
            Ask::Drain => {
                let begun = self.asked.try_send(());
                Box::pin(async move {
                    Ok(if begun.is_ok() { "draining" } else { "draining already" }.to_string())
                })
            }
            Ask::Release => {
                let released = self.rooms.behaviour.release_all();
                Box::pin(async move { Ok(format!("devices out of quarantine: {released}")) })
            }
            Ask::CloseFlow(id) => {
                let cut = self.rooms.table.cut_flow(id, Cut::new(Reason::AdminClosed));
                Box::pin(async move {
                    if cut { Ok(format!("flow {id} is ended")) } else { Err(AskError::FlowUnknown(id)) }
                })
            }
        }
    }

    fn saw(&self, event: AdminEvent) -> BoxFuture<Result<(), Reason>> {
        let now = Timestamp::now();
        let appended = self.rooms.audit.append(Entry {
            decision: Some(flow::decision_id(now)),
            source: Some(Source::Uid(event.uid)),
            target: Some(event.what.into()),
            reason: event.refused,
            ..Entry::new(now, Kind::Admin)
        });
        Box::pin(async move { appended.map_err(|_| Reason::AuditUnavailable) })
    }

    fn refused(&self, reason: Reason) {
        self.rooms.metrics.refused(reason);
    }

    fn turned_away(&self, caller: Caller, what: &str, reason: Reason) {
        self.refused(reason);
        let now = Timestamp::now();
        let source = match caller {
            Caller::At(ip) => Source::Ip(ip),
            Caller::User(uid) => Source::Uid(uid),
        };
        // As with knocks: what comes too often to be told one by one is summed up.
        let _ = self.rooms.audit.append(Entry {
            decision: Some(flow::decision_id(now)),
            source: Some(source),
            target: (!what.is_empty()).then(|| what.into()),
            reason: Some(reason),
            ..Entry::new(now, Kind::Deny)
        });
    }
}

fn session_json(session: &crate::channel::Session, now: Timestamp) -> Value {
    json!({
        "session": session.id.to_string(), "peer": session.peer.id().as_str(),
        "remote": session.remote.to_string(), "transport": session.transport.name(),
        "group": session.group, "cipher": session.cipher,
        "age_s": now.since(session.since).as_secs(),
        "certificate_until": session.proven().svid().not_after.to_string(),
        "proven_s": now.since(session.proven_at()).as_secs(),
        "standing": standing_json(session.standing()),
    })
}

fn own_json(own: &OwnStanding) -> Value {
    json!({
        "tier": own.device.tier.level(), "score": own.device.score.percent(),
        "verdict": own.verdict.map(|v| v.name()), "profile": own.profile,
        "record": own.record.map(|(version, _)| version),
        "record_until": own.record.map(|(_, until)| until.to_string()),
        "problem": own.problem,
    })
}

fn standing_json(standing: Standing) -> Value {
    match standing {
        Standing::Unproven(reason) => json!({ "tier": null, "reason": reason.code() }),
        Standing::Exempt => json!({ "tier": 0 }),
        Standing::Leased { lease, verdict, record_version, .. } => json!({
            "tier": lease.tier.level(), "score": lease.score.percent(), "verdict": verdict.name(),
            "record": record_version, "lease_until": lease.until.to_string(),
        }),
    }
}

fn crl_text(crl: &CrlStatus) -> String {
    match crl {
        CrlStatus::Off => "none configured".into(),
        CrlStatus::Good { next_update } => format!("good until {next_update}"),
        CrlStatus::Expired { next_update } => format!("expired at {next_update}"),
        CrlStatus::Unavailable { why } => format!("unavailable: {why}"),
    }
}

/// Flows and sessions listed in one answer.
const LISTED_MAX: usize = 1000;

/// In words for people.
fn skew_text(skew_ms: i64) -> String {
    let (by, way) = (skew_ms.unsigned_abs(), if skew_ms > 0 { "behind" } else { "ahead of" });
    format!("the clock of this host is {}.{:03} s {way} the authority's", by / 1000, by % 1000)
}

/// A difference of the clocks that is told.
const SKEW_TOLD_MS: u64 = 5_000;
