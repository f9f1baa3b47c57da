//! One flow from its door to its end, step by step.

use std::sync::Arc;

use crate::audit::Log;
use crate::limits::{Governor, Pressure, Slot, retry_after};
use crate::model::{DecisionId, Facts, Reason, Refusal, Timestamp};
use crate::policy::{Permit, Policy, Verdict};
use crate::resilience::Pool;
use crate::telemetry::Metrics;

use super::exit::{self, Far};
use super::intake::{Asker, Intake, Wanted};
use super::record::Record;
use super::relay;
use super::routes::{self, Route};
use super::settings::Settings;
use super::table::{Cut, Seat, Table};

/// What a flow meets on its way.
pub struct Rooms {
    /// The services there are.
    pub settings: Settings,
    /// Who may do what.
    pub policy: Policy,
    /// Who may do how much.
    pub governor: Governor,
    /// Whether this process can take more at all.
    pub pressure: Pressure,
    /// The addresses of our own doors: never a target.
    pub own_doors: Vec<std::net::SocketAddr>,
    /// The living flows.
    pub table: Table,
    /// The way to the peers.
    pub pool: Pool,
    /// What happened.
    pub audit: Log,
    /// How often.
    pub metrics: Metrics,
    /// Turns true when the sidecar shuts down.
    pub drain: tokio::sync::watch::Receiver<bool>,
}

/// Carries one flow from its door to its end. Everything it meets on the way is written down.
pub async fn run(rooms: Arc<Rooms>, intake: Intake) {
    let now = Timestamp::now();
    let mut record = Record::new(&rooms, decision_id(now), &intake, now);
    let Intake { asker, wanted, answer } = intake;

    let admitted = match admit(&rooms, &asker, wanted, &record, now) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            record.denied(&refusal);
            return answer.refuse(refusal).await;
        }
    };
    let Admitted { slot, route, seat, permit } = admitted;
    record.admitted(&route, &seat, &permit);

    let opened = match record.allowed() {
        Ok(()) => open(&rooms, &route, &seat, &record).await,
        Err(reason) => Err(record.refusal(reason)),
    };
    let far = match opened {
        Ok(far) => far,
        Err(refusal) => {
            record.denied(&refusal);
            return answer.refuse(refusal).await;
        }
    };
    if let Some(session) = &far.session {
        seat.leaves_on(Arc::clone(session));
    }
    // No entry, no bytes.
    if let Err(reason) = record.opened(&far) {
        let refusal = record.refusal(reason);
        record.denied(&refusal);
        return answer.refuse(refusal).await;
    }
    let end = match answer.accept().await {
        Ok(near) => relay::relay(permit, near, far.stream, &seat, &slot, idle_timeout(&route)).await,
        Err(e) => relay::End::Reset(e),
    };
    record.closed(&end, &seat, Timestamp::now());
}

struct Admitted<'a> {
    slot: Slot,
    route: Route<'a>,
    seat: Seat,
    permit: Permit,
}

/// Admits, registers, judges, in this order: bounded first, and findable by a reload before it is judged.
fn admit<'a>(
    rooms: &'a Rooms,
    asker: &Asker,
    wanted: Result<Wanted, Reason>,
    record: &Record<'_>,
    now: Timestamp,
) -> Result<Admitted<'a>, Refusal> {
    let refuse = |reason| record.refusal(reason);
    if *rooms.drain.borrow() {
        return Err(refuse(Reason::Draining));
    }
    rooms.pressure.admit().map_err(refuse)?;
    let slot = rooms.governor.admit(&asker.device.id, std::time::Instant::now()).map_err(|reason| {
        let mut refusal = refuse(reason);
        refusal.retry_after = retry_after(reason);
        refusal
    })?;
    let wanted = wanted.map_err(refuse)?;
    let route = routes::find(&rooms.settings, asker.direction, &wanted).map_err(refuse)?;
    let facts = asker.facts(route.name().clone(), now);
    let seat = rooms.table.register(record.id(), facts.clone(), &asker.source, asker.session.clone(), now);
    match rooms.policy.current().decide(&facts, record.id()) {
        Verdict::Permit(permit) => Ok(Admitted { slot, route, seat, permit }),
        Verdict::Denial(denial) => Err(denial.refusal()),
    }
}

/// Opens the far side, unless the flow is cut meanwhile.
async fn open(rooms: &Rooms, route: &Route<'_>, seat: &Seat, record: &Record<'_>) -> Result<Far, Refusal> {
    tokio::select! {
        cut = seat.until_cut() => Err(record.refusal(cut.reason).rule(cut.rule).detail(cut.detail)),
        far = exit::open(rooms, route) => far.map_err(|e| record.refusal(e.reason).detail(e.detail)),
    }
}

fn idle_timeout(route: &Route<'_>) -> std::time::Duration {
    match route {
        Route::Service(inbound) => inbound.idle_timeout,
        Route::Peer(outbound) => outbound.idle_timeout,
    }
}

/// A fresh decision id.
pub fn decision_id(now: Timestamp) -> DecisionId {
    let mut random = [0u8; 10];
    // Ids are names, not secrets: a random source that fails leaves the clock's part.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random);
    DecisionId::new(now, random)
}

/// Has a living flow judged again under the running policy: `None` when it may go on.
pub fn judge_again(policy: &Policy, facts: &Facts, decision: DecisionId) -> Option<Cut> {
    match policy.current().decide(facts, decision) {
        Verdict::Permit(_) => None,
        Verdict::Denial(denial) => {
            Some(Cut { reason: Reason::PolicyWithdrawn, rule: denial.rule, detail: denial.why })
        }
    }
}
