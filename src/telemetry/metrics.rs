//! Counters and gauges, rendered as OpenMetrics text.
//!
//! Labels come from closed lists only. Every series exists from the start, so that counting is one atomic
//! addition without a lock, and a rate can be told from the first event on.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::model::{Direction, Reason, Timestamp};

/// Everything that is counted. A clone counts into the same.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

/// Which way bytes go in a flow.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Way {
    /// From who opened the flow.
    Up,
    /// To who opened the flow.
    Down,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// The new one is in force.
    Ok,
    /// The old one stays in force.
    Failed,
}

/// What became of a snapshot of what the analyser learnt.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Snapshot {
    /// Written.
    Written,
    /// Could not be written.
    Failed,
    /// Found at the start, and not believed.
    Refused,
}

struct Inner {
    registry: Registry,
    opened: PerDirection<Counter>,
    closed: PerDirection<PerReason>,
    refusals: PerReason,
    bytes_up: PerDirection<Counter>,
    bytes_down: PerDirection<Counter>,
    handshakes: PerReason,
    knocks_refused: Counter,
    reloads_ok: Counter,
    reloads_failed: Counter,
    audit_entries: Counter,
    audit_dropped: Counter,
    attested: Counter,
    behaviour_judged: Counter,
    behaviour_would: Counter,
    behaviour_acted: Counter,
    behaviour_quarantined: Gauge,
    snapshots_written: Counter,
    snapshots_failed: Counter,
    snapshots_refused: Counter,
    flows_active: Gauge,
    sessions_active: Gauge,
    certificate_expiry: Gauge<u64, AtomicU64>,
    crl_expiry: Gauge<u64, AtomicU64>,
    authority_heard: Gauge<u64, AtomicU64>,
    authority_silence: Gauge<u64, AtomicU64>,
}

impl Metrics {
    /// All at zero; `version` is this program's.
    pub fn new(version: &'static str) -> Self {
        let mut registry = Registry::with_prefix("countersign");
        registry.register("build", "This program", Info::new(vec![("version", version)]));

        let opened = Family::<DirectionLabel, Counter>::default();
        registry.register("flows_opened", "Flows opened", opened.clone());
        let closed = Family::<CloseLabels, Counter>::default();
        registry.register(
            "flows_closed",
            "Flows ended, by reason; `done` is an ordinary end",
            closed.clone(),
        );
        let refusals = Family::<ReasonLabel, Counter>::default();
        registry.register("refusals", "Refusals, by reason", refusals.clone());
        let bytes = Family::<BytesLabels, Counter>::default();
        registry.register(
            "bytes",
            "Bytes carried; `up` is from who opened the flow, `down` is back",
            bytes.clone(),
        );
        let handshakes = Family::<ResultLabel, Counter>::default();
        registry.register("handshakes", "Handshakes with peers, `ok` or the reason", handshakes.clone());
        let reloads = Family::<ResultLabel, Counter>::default();
        registry.register("policy_reloads", "Policy reloads", reloads.clone());

        let snapshots = Family::<ResultLabel, Counter>::default();
        registry.register(
            "behaviour_snapshots",
            "Snapshots of what the analyser learnt: `written`, `failed` to be, `refused` at the start",
            snapshots.clone(),
        );

        let up_down =
            |direction, way| bytes.get_or_create_owned(&BytesLabels { direction: Name(direction), way });
        let inner = Inner {
            opened: PerDirection::of(|direction| {
                opened.get_or_create_owned(&DirectionLabel { direction: Name(direction) })
            }),
            closed: PerDirection::of(|direction| {
                PerReason::of("done", |reason| {
                    closed.get_or_create_owned(&CloseLabels {
                        direction: Name(direction),
                        reason: Name(reason),
                    })
                })
            }),
            // A refusal always has a reason; the nameless one would be our own mistake.
            refusals: PerReason::of(Reason::Internal.code(), |reason| {
                refusals.get_or_create_owned(&ReasonLabel { reason: Name(reason) })
            }),
            bytes_up: PerDirection::of(|direction| up_down(direction, Name("up"))),
            bytes_down: PerDirection::of(|direction| up_down(direction, Name("down"))),
            handshakes: PerReason::of("ok", |result| {
                handshakes.get_or_create_owned(&ResultLabel { result: Name(result) })
            }),
            reloads_ok: reloads.get_or_create_owned(&ResultLabel { result: Name("ok") }),
            reloads_failed: reloads.get_or_create_owned(&ResultLabel { result: Name("failed") }),
            knocks_refused: counter(
                &mut registry,
                "knocks_refused",
                "Connections refused before anyone was known",
            ),
            audit_entries: counter(&mut registry, "audit_entries", "Entries written to the audit log"),
            audit_dropped: counter(
                &mut registry,
                "audit_dropped",
                "Audit entries dropped (`on_full = \"drop-allow\"`)",
            ),
            attested: counter(&mut registry, "evidence_accepted", "Times that a peer's evidence was taken"),
            behaviour_judged: counter(
                &mut registry,
                "behaviour_judged",
                "Checkpoints of flows whose device is known well enough to be judged",
            ),
            behaviour_would: counter(
                &mut registry,
                "behaviour_would_act",
                "Judged checkpoints that were found strange, whether or not anything was done",
            ),
            behaviour_acted: counter(
                &mut registry,
                "behaviour_acted",
                "Times that something was done about strange behaviour",
            ),
            behaviour_quarantined: gauge(
                &mut registry,
                "behaviour_quarantined",
                "Devices in quarantine for their behaviour",
            ),
            snapshots_written: snapshots.get_or_create_owned(&ResultLabel { result: Name("written") }),
            snapshots_failed: snapshots.get_or_create_owned(&ResultLabel { result: Name("failed") }),
            snapshots_refused: snapshots.get_or_create_owned(&ResultLabel { result: Name("refused") }),
            flows_active: gauge(&mut registry, "flows_active", "Flows alive"),
            sessions_active: gauge(&mut registry, "sessions_active", "Sessions with peers alive"),
            certificate_expiry: gauge(
                &mut registry,
                "certificate_expiry_seconds",
                "When this device's certificate expires, in seconds since 1970; 0 when none is loaded",
            ),
            crl_expiry: gauge(
                &mut registry,
                "crl_expiry_seconds",
                "When the revocation list expires, in seconds since 1970; 0 when none is configured",
            ),
            authority_heard: gauge(
                &mut registry,
                "authority_heard_seconds",
                "When the authority was heard last, in seconds since 1970; 0 when never, or when there is none",
            ),
            authority_silence: gauge(
                &mut registry,
                "authority_silence_seconds",
                "Seconds since the authority was heard last, or since the start; 0 when there is none",
            ),
            registry,
        };
        Self(Arc::new(inner))
    }

    /// A flow began.
    pub fn flow_opened(&self, direction: Direction) {
        self.0.opened.get(direction).inc();
        self.0.flows_active.inc();
    }

    /// A flow that was counted as opened ended; without a reason when both ends were done.
    pub fn flow_closed(&self, direction: Direction, reason: Option<Reason>) {
        self.0.closed.get(direction).get(reason).inc();
        self.0.flows_active.dec();
    }

    /// Bytes were carried. May be called as they move, not only at the end.
    pub fn moved(&self, direction: Direction, way: Way, bytes: u64) {
        let per_direction = match way {
            Way::Up => &self.0.bytes_up,
            Way::Down => &self.0.bytes_down,
        };
        per_direction.get(direction).inc_by(bytes);
    }

    /// What the analyser has counted since this was said last, and how many devices are in quarantine now.
    pub fn behaviour_counted(&self, judged: u64, would: u64, quarantined: usize) {
        self.0.behaviour_judged.inc_by(judged);
        self.0.behaviour_would.inc_by(would);
        self.0.behaviour_quarantined.set(i64::try_from(quarantined).unwrap_or(i64::MAX));
    }

    /// Something was done about strange behaviour.
    pub fn behaviour_acted(&self) {
        self.0.behaviour_acted.inc();
    }

    /// A snapshot of what the analyser learnt was written or refused.
    pub fn behaviour_snapshot(&self, became: Snapshot) {
        match became {
            Snapshot::Written => self.0.snapshots_written.inc(),
            Snapshot::Failed => self.0.snapshots_failed.inc(),
            Snapshot::Refused => self.0.snapshots_refused.inc(),
        };
    }

    /// Something was refused.
    pub fn refused(&self, reason: Reason) {
        self.0.refusals.get(Some(reason)).inc();
    }

    /// A handshake with a peer came to its end; without a reason when it succeeded.
    pub fn handshake(&self, refusal: Option<Reason>) {
        self.0.handshakes.get(refusal).inc();
    }

    /// A peer's evidence was taken.
    pub fn attested(&self) {
        self.0.attested.inc();
    }

    /// A connection was refused before anyone was known.
    pub fn knock_refused(&self) {
        self.0.knocks_refused.inc();
    }

    /// Policy was read again.
    pub fn policy_reloaded(&self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.0.reloads_ok.inc(),
            Outcome::Failed => self.0.reloads_failed.inc(),
        };
    }

    /// So many more entries are in the audit log.
    pub fn audit_appended(&self, entries: u64) {
        self.0.audit_entries.inc_by(entries);
    }

    /// So many more entries did not get into the audit log.
    pub fn audit_dropped(&self, entries: u64) {
        self.0.audit_dropped.inc_by(entries);
    }

    /// So many sessions with peers live now.
    pub fn sessions(&self, count: usize) {
        self.0.sessions_active.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// When this device's certificate expires.
    pub fn certificate_expires(&self, at: Timestamp) {
        self.0.certificate_expiry.set(at.as_secs());
    }

    /// When the revocation list expires; none is configured without one.
    pub fn crl_expires(&self, at: Option<Timestamp>) {
        self.0.crl_expiry.set(at.map_or(0, Timestamp::as_secs));
    }

    /// The authority was heard.
    pub fn authority_heard(&self, now: Timestamp) {
        self.0.authority_heard.set(now.as_secs());
        self.0.authority_silence.set(0);
    }

    /// The authority has not been heard for so long.
    pub fn authority_silent(&self, silence: std::time::Duration) {
        self.0.authority_silence.set(silence.as_secs());
    }

    /// OpenMetrics 1.0 text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.0.registry);
        text
    }

    /// The media type of what [`Metrics::render`] gives.
    pub const MEDIA_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
}

/// One of something for each direction.
struct PerDirection<T> {
    inbound: T,
    outbound: T,
}

impl<T> PerDirection<T> {
    fn of(make: impl Fn(&'static str) -> T) -> Self {
        Self { inbound: make(Direction::Inbound.name()), outbound: make(Direction::Outbound.name()) }
    }

    fn get(&self, direction: Direction) -> &T {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// One counter for each reason, and one for none.
struct PerReason {
    none: Counter,
    /// In the order of [`Reason::ALL`], which is the order of the variants.
    reasons: Box<[Counter]>,
}

impl PerReason {
    fn of(none: &'static str, make: impl Fn(&'static str) -> Counter) -> Self {
        Self { none: make(none), reasons: Reason::ALL.iter().map(|reason| make(reason.code())).collect() }
    }

    fn get(&self, reason: Option<Reason>) -> &Counter {
        reason.and_then(|reason| self.reasons.get(reason as usize)).unwrap_or(&self.none)
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge<N, A>(registry: &mut Registry, name: &str, help: &str) -> Gauge<N, A>
where
    Gauge<N, A>: prometheus_client::registry::Metric + Clone + Default,
{
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

/// A label's value out of a closed list.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Name(&'static str);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DirectionLabel {
    direction: Name,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CloseLabels {
    direction: Name,
    reason: Name,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReasonLabel {
    reason: Name,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResultLabel {
    result: Name,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct BytesLabels {
    direction: Name,
    way: Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(metrics: &Metrics, series: &str) -> String {
        let text = metrics.render();
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {series} in\n{text}")).to_owned()
    }

    #[test]
    fn every_reason_counts_into_its_own_series() {
        for reason in Reason::ALL {
            let metrics = Metrics::new("1.2.3");
            metrics.refused(*reason);
            metrics.handshake(Some(*reason));
            metrics.flow_closed(Direction::Inbound, Some(*reason));
            let code = reason.code();
            assert_eq!(line(&metrics, &format!("countersign_refusals_total{{reason=\"{code}\"}}")), "1");
            assert_eq!(line(&metrics, &format!("countersign_handshakes_total{{result=\"{code}\"}}")), "1");
            let closed = format!("countersign_flows_closed_total{{direction=\"inbound\",reason=\"{code}\"}}");
            assert_eq!(line(&metrics, &closed), "1");
        }
    }

    #[test]
    fn a_flow_is_counted_from_its_opening_to_its_end() {
        let metrics = Metrics::new("1.2.3");
        let clone = metrics.clone();
        clone.flow_opened(Direction::Outbound);
        clone.flow_opened(Direction::Outbound);
        metrics.moved(Direction::Outbound, Way::Up, 5);
        metrics.moved(Direction::Outbound, Way::Down, 7);
        metrics.flow_closed(Direction::Outbound, None);
        for (series, value) in [
            ("countersign_flows_opened_total{direction=\"outbound\"}", "2"),
            ("countersign_flows_closed_total{direction=\"outbound\",reason=\"done\"}", "1"),
            ("countersign_flows_active", "1"),
            ("countersign_bytes_total{direction=\"outbound\",way=\"up\"}", "5"),
            ("countersign_bytes_total{direction=\"outbound\",way=\"down\"}", "7"),
            ("countersign_bytes_total{direction=\"inbound\",way=\"up\"}", "0"),
        ] {
            assert_eq!(line(&metrics, series), value, "{series}");
        }
    }

    #[test]
    fn the_other_series_have_the_names_that_dashboards_use() {
        let metrics = Metrics::new("1.2.3");
        metrics.knock_refused();
        for became in [Snapshot::Written, Snapshot::Failed, Snapshot::Refused] {
            metrics.behaviour_snapshot(became);
        }
        for result in ["written", "failed", "refused"] {
            let series = format!("countersign_behaviour_snapshots_total{{result=\"{result}\"}}");
            assert_eq!(line(&metrics, &series), "1");
        }
        metrics.policy_reloaded(Outcome::Ok);
        metrics.policy_reloaded(Outcome::Failed);
        metrics.audit_appended(3);
        metrics.audit_dropped(2);
        metrics.sessions(1);
        metrics.certificate_expires(Timestamp::from_secs(1_700_000_000));
        metrics.crl_expires(Some(Timestamp::from_secs(1_600_000_000)));
        metrics.authority_heard(Timestamp::from_secs(1_500_000_000));
        metrics.authority_silent(std::time::Duration::from_secs(7));
        metrics.handshake(None);
        for (series, value) in [
            ("countersign_knocks_refused_total", "1"),
            ("countersign_policy_reloads_total{result=\"ok\"}", "1"),
            ("countersign_policy_reloads_total{result=\"failed\"}", "1"),
            ("countersign_audit_entries_total", "3"),
            ("countersign_audit_dropped_total", "2"),
            ("countersign_sessions_active", "1"),
            ("countersign_certificate_expiry_seconds", "1700000000"),
            ("countersign_crl_expiry_seconds", "1600000000"),
            ("countersign_authority_heard_seconds", "1500000000"),
            ("countersign_authority_silence_seconds", "7"),
            ("countersign_handshakes_total{result=\"ok\"}", "1"),
            ("countersign_build_info{version=\"1.2.3\"}", "1"),
        ] {
            assert_eq!(line(&metrics, series), value, "{series}");
        }
        metrics.crl_expires(None);
        assert_eq!(line(&metrics, "countersign_crl_expiry_seconds"), "0");
        assert!(metrics.render().ends_with("# EOF\n"));
    }

    #[test]
    fn the_number_of_series_is_fixed_from_the_start() {
        let metrics = Metrics::new("1.2.3");
        let before = metrics.render().lines().count();
        for reason in Reason::ALL {
            metrics.refused(*reason);
            metrics.flow_closed(Direction::Inbound, Some(*reason));
        }
        assert_eq!(metrics.render().lines().count(), before);
    }
}
