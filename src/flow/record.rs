//! Writes down what happens to one flow: into the audit, the log and the meters, under one decision id.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::audit::{Entry, Kind, Source};
use crate::channel::Session;
use crate::model::{DecisionId, Direction, Reason, Refusal, Timestamp};
use crate::policy::Permit;
use crate::telemetry::{Metrics, Way};

use super::exit::Far;
use super::intake::Intake;
use super::relay::End;
use super::routes::Route;
use super::run::Rooms;
use super::table::Living;

/// What is known of one flow so far, and where it is written.
pub(super) struct Record<'a> {
    rooms: &'a Rooms,
    id: DecisionId,
    direction: Direction,
    since: Timestamp,
    /// What every entry of this flow says.
    said: Entry,
}

impl<'a> Record<'a> {
    pub(super) fn new(rooms: &'a Rooms, id: DecisionId, intake: &Intake, now: Timestamp) -> Self {
        let asker = &intake.asker;
        let mut said = Entry::new(now, Kind::Deny);
        said.decision = Some(id);
        said.direction = Some(asker.direction);
        said.device = Some(asker.id.clone());
        said.source = match asker.uid {
            Some(uid) => Some(Source::Uid(uid)),
            None => asker.source.parse().ok().map(|addr: SocketAddr| Source::Ip(addr.ip())),
        };
        if let Ok(wanted) = &intake.wanted {
            said.target = Some(wanted.to_string().into());
        }
        if let Some(session) = &asker.session {
            rides(&mut said, session);
        }
        Self { rooms, id, direction: asker.direction, since: now, said }
    }

    /// The decision's id.
    pub(super) fn id(&self) -> DecisionId {
        self.id
    }

    /// A refusal under this decision's id.
    pub(super) fn refusal(&self, reason: Reason) -> Refusal {
        Refusal::new(self.id, reason)
    }

    /// The flow has a seat and a permit.
    pub(super) fn admitted(&mut self, route: &Route<'_>, seat: &Living, permit: &Permit) {
        self.said.flow = Some(seat.id);
        self.said.service = Some(route.name().clone());
        self.said.rule = Some(permit.rules().join(",").into());
        self.said.bundle = Some((&**permit.digest()).into());
    }

    /// Writes that policy allows it.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`] when it cannot be written: then it is not allowed.
    pub(super) fn allowed(&self) -> Result<(), Reason> {
        self.write(Kind::Allow, self.since)
    }

    /// Writes that the far side is open.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`] when it cannot be written: then no byte passes.
    pub(super) fn opened(&mut self, far: &Far) -> Result<(), Reason> {
        self.said.target = Some(far.target.as_str().into());
        if let Some(session) = &far.session {
            self.said.peer = Some(session.peer.id().clone());
            rides(&mut self.said, session);
        }
        self.write(Kind::Open, Timestamp::now())?;
        self.rooms.metrics.flow_opened(self.direction);
        Ok(())
    }

    /// Writes a refusal.
    pub(super) fn denied(&self, refusal: &Refusal) {
        let mut entry = self.said.clone();
        entry.kind = Kind::Deny;
        entry.at = Timestamp::now();
        entry.reason = Some(refusal.reason);
        if &*refusal.rule != "-" {
            entry.rule = Some(refusal.rule.clone());
        }
        entry.detail = (!refusal.detail.is_empty()).then(|| refusal.detail.clone());
        // A denial stands whether or not it can be written; the log counts what it could not take.
        let _ = self.rooms.audit.append(entry);
        self.rooms.metrics.refused(refusal.reason);
        tracing::warn!(
            decision = %self.id, reason = refusal.reason.code(), rule = &*refusal.rule,
            device = self.said.device.as_ref().map(|d| d.as_str()), "refused: {refusal}"
        );
    }

    /// Keeps what the closing entry needs and the living flow does not know.
    pub(super) fn settle(self, permit: &Permit) -> Closing<'a> {
        Closing {
            rooms: self.rooms,
            source: self.said.source,
            target: self.said.target,
            rules: Arc::clone(permit.rules()),
            digest: Arc::clone(permit.digest()),
        }
    }

    fn write(&self, kind: Kind, at: Timestamp) -> Result<(), Reason> {
        let mut entry = self.said.clone();
        entry.kind = kind;
        entry.at = at;
        self.rooms.audit.append(entry).map_err(|_| Reason::AuditUnavailable)
    }
}

/// What the closing entry needs. Small: thousands of flows may be idle, and each holds one.
pub(super) struct Closing<'a> {
    rooms: &'a Rooms,
    source: Option<Source>,
    target: Option<Box<str>>,
    rules: Arc<[Box<str>]>,
    digest: Arc<str>,
}

impl Closing<'_> {
    /// Writes how the flow ended.
    pub(super) fn closed(self, end: &End, seat: &Living, now: Timestamp) {
        let direction = seat.facts.session.direction;
        let mut entry = Entry::new(now, Kind::Close);
        entry.decision = Some(seat.decision);
        entry.flow = Some(seat.id);
        entry.direction = Some(direction);
        entry.device = Some(seat.facts.device.id.clone());
        entry.peer = seat.leaves_on().map(|session| session.peer.id().clone());
        entry.source = self.source;
        entry.service = Some(seat.facts.service.clone());
        entry.target = self.target;
        entry.rule = Some(self.rules.join(",").into());
        entry.bundle = Some((&*self.digest).into());
        if let Some(session) = seat.session() {
            rides(&mut entry, session);
        }
        let (up, down) = (seat.moved.up.all(), seat.moved.down.all());
        entry.bytes_in = Some(up);
        entry.bytes_out = Some(down);
        entry.ms = u64::try_from(now.since(seat.since).as_millis()).ok();
        match end {
            End::Closed => {}
            End::Reset(e) => entry.detail = Some(e.to_string().into()),
            End::Cut(cut) => {
                if &*cut.rule != "-" {
                    entry.rule = Some(cut.rule.clone());
                }
                entry.detail = (!cut.detail.is_empty()).then(|| cut.detail.clone());
                entry.reason = Some(cut.reason);
            }
        }
        let reason = entry.reason;
        let _ = self.rooms.audit.append(entry);
        look_after(&self.rooms.metrics, seat, Instant::now());
        self.rooms.metrics.flow_closed(direction, reason);
        if let Some(reason) = reason {
            tracing::warn!(decision = %seat.decision, flow = %seat.id, reason = reason.code(), "flow cut");
        } else {
            tracing::debug!(decision = %seat.decision, flow = %seat.id, up, down, "flow closed");
        }
    }
}

/// Adds what a flow moved since the last look to the meters, and ends it when it has been idle for too long.
pub fn look_after(metrics: &Metrics, living: &Living, now: Instant) {
    let direction = living.facts.session.direction;
    let (up, down) = living.look(now);
    metrics.moved(direction, Way::Up, up);
    metrics.moved(direction, Way::Down, down);
}

/// Says which session an entry's flow rides on.
fn rides(entry: &mut Entry, session: &Session) {
    entry.key_age_s = Some(entry.at.since(session.since).as_secs());
    entry.transport = Some(session.transport);
    entry.group = Some(session.group.into());
    entry.cipher = Some(session.cipher.into());
    entry.session = Some(session.id.to_string().into());
}
