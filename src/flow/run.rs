//! One flow from its door to its end, step by step.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::Log;
use crate::limits::{Governor, Pressure, Slot, retry_after};
use crate::model::{DecisionId, Facts, Reason, Refusal, Timestamp};
use crate::policy::{Permit, Policy, Verdict};
use crate::resilience::Pool;
use crate::telemetry::Metrics;

use super::behaviour::{Behaviour, End, Heeding, Watch};
use super::exit::{self, Far};
use super::intake::{Asker, Intake, Wanted};
use super::record::{Closing, Record};
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
    /// How every device behaves.
    pub behaviour: Behaviour,
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
    // Boxed: what opening takes is given back before the flow settles down, perhaps to be idle for hours.
    let Some(Open { seat, slot, mut ways, watch, closing }) = Box::pin(open(&rooms, intake)).await else {
        return;
    };
    let end = match &mut ways {
        Ok(ways) => relay::relay(ways, &seat, &slot, &Heeding { watch: &watch, living: &seat }).await,
        Err(end) => std::mem::replace(end, relay::End::Closed),
    };
    closing.closed(&end, &seat, Timestamp::now());
    watch.close(&seat, end.for_analyser());
}

/// A flow that may carry bytes.
struct Open<'a> {
    seat: Seat,
    slot: Slot,
    /// Or how it ended when the one who asked had left.
    ways: Result<relay::Ways, relay::End>,
    watch: Watch<'a>,
    closing: Closing<'a>,
}

/// Judges a flow and opens it; `None` when it was refused.
async fn open(rooms: &Rooms, intake: Intake) -> Option<Open<'_>> {
    let now = Timestamp::now();
    let mut record = Record::new(rooms, decision_id(now), &intake, now);
    let Intake { asker, wanted, answer } = intake;

    let admitted = match admit(rooms, &asker, wanted, &record, now) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            record.denied(&refusal);
            answer.refuse(refusal).await;
            return None;
        }
    };
    let Admitted { slot, route, seat, permit, watch, wait } = admitted;
    record.admitted(&route, &seat, &permit);

    let opened = match record.allowed() {
        Ok(()) => open_far(rooms, &route, &seat, wait, &record).await,
        Err(reason) => Err(record.refusal(reason)),
    };
    let far = match opened {
        Ok(far) => far,
        Err(refusal) => {
            record.denied(&refusal);
            answer.refuse(refusal).await;
            return None;
        }
    };
    if let Some(session) = &far.session {
        seat.leave_on(Arc::clone(session));
    }
    // No entry, no bytes.
    if let Err(reason) = record.opened(&far) {
        let refusal = record.refusal(reason);
        record.denied(&refusal);
        answer.refuse(refusal).await;
        return None;
    }
    let closing = record.settle(&permit);
    let ways = match answer.accept().await {
        Ok(near) => Ok(relay::Ways::new(permit, near, far.stream)),
        Err(e) => Err(relay::End::Reset(e)),
    };
    Some(Open { seat, slot, ways, watch, closing })
}

struct Admitted<'a> {
    slot: Slot,
    route: Route<'a>,
    seat: Seat,
    permit: Permit,
    watch: Watch<'a>,
    /// The device looks strange: so long its flow waits.
    wait: Duration,
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
    let slot = rooms.governor.admit(&asker.id, std::time::Instant::now()).map_err(|reason| {
        let mut refusal = refuse(reason);
        refusal.retry_after = retry_after(reason);
        refusal
    })?;
    let device = asker.device.clone().map_err(refuse)?;
    let wanted = wanted.map_err(refuse)?;
    let route = routes::find(&rooms.settings, asker.direction, &wanted).map_err(refuse)?;
    let mut facts = asker.facts(device, route.name().clone(), now);
    facts.session.risk = rooms.behaviour.risk(&asker.id);
    let idle = idle_timeout(&route);
    let seat =
        rooms.table.register(record.id(), facts.clone(), &asker.source, asker.session.clone(), idle, now);
    let decided = rooms.policy.current().decide(&facts, record.id());
    let (watch, behaves) = Watch::open(rooms, &seat, matches!(decided, Verdict::Denial(_)), now);
    match (decided, behaves) {
        (Verdict::Permit(permit), Ok(wait)) => Ok(Admitted { slot, route, seat, permit, watch, wait }),
        (Verdict::Permit(_), Err(cut)) => {
            let refusal = record.refusal(cut.reason);
            Err(cut.refusal(refusal))
        }
        (Verdict::Denial(denial), _) => {
            watch.close(&seat, End::Policy);
            Err(denial.refusal())
        }
    }
}

/// Opens the far side, unless the flow is cut meanwhile.
async fn open_far(
    rooms: &Rooms,
    route: &Route<'_>,
    seat: &Seat,
    wait: Duration,
    record: &Record<'_>,
) -> Result<Far, Refusal> {
    let far = async {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        exit::open(rooms, route, seat).await
    };
    tokio::select! {
        cut = seat.until_cut() => Err(record.refusal(cut.reason).rule(cut.rule).detail(cut.detail)),
        far = far => far.map_err(|e| record.refusal(e.reason).detail(e.detail)),
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
