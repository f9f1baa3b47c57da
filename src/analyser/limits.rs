//! The named limits on what is counted: each a floor in plain units, lifted by what the device usually does.
//!
//! A limit stands at `max(floor, factor × usual)`. The tail of a device's own figures is taken to be a Pareto tail
//! through one in a thousand at `usual` and one in 200,000 at the limit; the floor on `usual` is a floor on its scale, so
//! that a figure that never moved cannot make its first move a certainty.

use serde::{Deserialize, Serialize};

use super::decay::{Count, Counters, Horizon};
use super::sparse;
use super::verdict::{Rule, Unit};

/// One limit.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Whose limit.
    pub rule: Rule,
    /// What is counted.
    pub count: Count,
    /// Over how long.
    pub over: Horizon,
    /// As explanations name it.
    pub measure: &'static str,
    /// In which unit.
    pub unit: Unit,
    /// Where it stands for a device that never does such a thing.
    pub floor: f32,
    /// How many times its usual a device may do.
    pub factor: f32,
    /// How fast what was usual in the beginning is forgotten: it weighs (then / now)^fade, in checkpoints. First
    /// contacts are many when a device is new, and few later.
    pub fade: f32,
}

/// How many limits there are.
pub const LIMITS: usize = TABLE.len();

/// The limits, in the order in which a device's `usual` holds them.
pub const TABLE: &[Limit] = &[
    limit(Rule::Scan, Count::FreshFailures, Horizon::M1, "failed_first_contacts_1m", 8.0, 2.0, 1.0),
    limit(Rule::Scan, Count::FreshFailures, Horizon::M10, "failed_first_contacts_10m", 10.0, 2.0, 1.0),
    limit(Rule::Scan, Count::FreshFailures, Horizon::H1, "failed_first_contacts_1h", 18.0, 2.0, 1.0),
    limit(Rule::Scan, Count::FreshFailures, Horizon::D1, "failed_first_contacts_1d", 30.0, 2.0, 1.0),
    limit(Rule::FanOut, Count::Fresh, Horizon::M1, "first_contacts_1m", 5.0, 3.0, 1.0),
    limit(Rule::FanOut, Count::Fresh, Horizon::M10, "first_contacts_10m", 6.0, 3.0, 1.0),
    limit(Rule::FanOut, Count::Fresh, Horizon::H1, "first_contacts_1h", 15.0, 3.0, 1.0),
    limit(Rule::FanOut, Count::FreshAllowed, Horizon::M10, "first_contacts_allowed_10m", 3.3, 3.0, 1.0),
    limit(Rule::FanOut, Count::FreshAllowed, Horizon::H1, "first_contacts_allowed_1h", 3.6, 3.0, 1.0),
    limit(Rule::Stranger, Count::Moves, Horizon::H1, "moves_between_networks_1h", 1.9, 2.0, 0.1),
    limit(Rule::Stranger, Count::FreshAway, Horizon::H1, "first_contacts_from_elsewhere_1h", 1.9, 2.0, 0.1),
    limit(Rule::Failures, Count::YoungFailures, Horizon::M1, "young_failures_1m", 10.0, 3.0, 1.0),
    limit(Rule::Failures, Count::YoungFailures, Horizon::M10, "young_failures_10m", 15.0, 3.0, 1.0),
    limit(Rule::Failures, Count::YoungFailures, Horizon::H1, "young_failures_1h", 25.0, 3.0, 1.0),
    limit(Rule::Failures, Count::Failures, Horizon::M1, "failures_1m", 30.0, 3.0, 0.1),
    limit(Rule::Failures, Count::Failures, Horizon::M10, "failures_10m", 100.0, 3.0, 0.1),
    limit(Rule::Logins, Count::Logins, Horizon::S10, "logins_refused_10s", 10.0, 3.0, 0.1),
    limit(Rule::Logins, Count::Logins, Horizon::M10, "logins_refused_10m", 20.0, 3.0, 0.1),
    limit(Rule::Logins, Count::Logins, Horizon::H1, "logins_refused_1h", 30.0, 3.0, 0.1),
    bytes(Rule::Exfil, Count::YoungOut, Horizon::M10, "bytes_out_young_10m", 4e6, 3.0, 0.1),
    bytes(Rule::Exfil, Count::YoungOut, Horizon::H1, "bytes_out_young_1h", 1e7, 3.0, 0.1),
    bytes(Rule::Exfil, Count::Out, Horizon::M10, "bytes_out_10m", 2e7, 5.0, 0.1),
    bytes(Rule::Exfil, Count::Out, Horizon::H1, "bytes_out_1h", 5e7, 5.0, 0.1),
    limit(Rule::Flood, Count::Opens, Horizon::S1, "flows_1s", 15.0, 3.0, 0.1),
    limit(Rule::Flood, Count::Opens, Horizon::S10, "flows_10s", 60.0, 3.0, 0.1),
    limit(Rule::Flood, Count::Opens, Horizon::M1, "flows_1m", 200.0, 3.0, 0.1),
    limit(Rule::Flood, Count::Opens, Horizon::M10, "flows_10m", 1000.0, 3.0, 0.1),
    limit(Rule::Flood, Count::Requests, Horizon::S1, "requests_1s", 100.0, 3.0, 0.1),
    limit(Rule::Flood, Count::Requests, Horizon::S10, "requests_10s", 300.0, 3.0, 0.1),
    limit(Rule::Flood, Count::Requests, Horizon::M1, "requests_1m", 1000.0, 3.0, 0.1),
    limit(Rule::Flood, Count::Busy, Horizon::S1, "exchanges_in_a_flow_3s", BUSY_3S, BUSY_FACTOR, 0.1),
    limit(Rule::Flood, Count::Busy, Horizon::S10, "exchanges_in_a_flow_10s", BUSY_10S, BUSY_FACTOR, 0.1),
    limit(Rule::Flood, Count::FreshWords, Horizon::M1, "new_paths_or_topics_1m", 60.0, 3.0, 1.0),
    limit(Rule::Slow, Count::Unfinished, Horizon::M1, "unfinished_requests_1m", 10.0, 3.0, 0.1),
];

const BUSY_3S: f32 = 12.0;
const BUSY_10S: f32 = 25.0;
const BUSY_FACTOR: f32 = 2.0;
/// The share of bytes from which on a relation is to blame for them.
const BLAME: f32 = 0.1;
/// −log10 of the share of honest checkpoints that reach a limit: 1 in 200,000.
pub const AT_LIMIT: f32 = 5.302;
/// −log10 of the share that reaches what is usual.
const AT_USUAL: f32 = 3.0;

/// What is usual for one device, one figure per limit, and how far it may drift.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Usual {
    #[serde(with = "sparse")]
    pub(super) now: [f32; LIMITS],
    /// As of the last day, week and month; drift is held against the tightest of them.
    #[serde(with = "sparse::grid")]
    pub(super) anchors: [[f32; LIMITS]; 3],
    /// When each of them was taken, in hours.
    pub(super) taken_h: [u32; 3],
    /// When a figure was last let rise, in hours.
    pub(super) raised_h: u32,
}

impl Usual {
    /// Nothing is usual yet.
    pub const fn new() -> Self {
        Self { now: [0.0; LIMITS], anchors: [[0.0; LIMITS]; 3], taken_h: [0; 3], raised_h: 0 }
    }

    /// Learns freely: the device is new. `checkpoints` have been seen before.
    pub fn learn(&mut self, counters: &Counters, checkpoints: u32) {
        let n = checkpoints.max(1) as f32;
        for (usual, limit) in self.now.iter_mut().zip(TABLE) {
            let kept = *usual * (1.0 - limit.fade / n).max(0.0);
            *usual = kept.max(counters.get(limit.count, limit.over));
        }
    }

    /// Where the limits on exchanges in one flow stand, over its two time scales.
    pub fn busy(&self, without: u16, strictness: f32) -> [f32; 2] {
        let mut limits = [f32::MAX; 2];
        if without & (1 << Rule::Flood as u16) != 0 {
            return limits;
        }
        let busy = self.now.iter().zip(TABLE).filter(|(_, l)| l.count == Count::Busy);
        for (place, (usual, limit)) in limits.iter_mut().zip(busy) {
            *place = (limit.floor * strictness).max(limit.factor * usual);
        }
        limits
    }

    /// What was learnt is what drift is measured from.
    pub fn settle(&mut self, hour: u32) {
        self.anchors = [self.now; 3];
        self.taken_h = [hour; 3];
        self.raised_h = hour;
    }

    /// Learns slowly: at most 2 % an hour, and never above the tightest anchor's allowance.
    pub fn drift(&mut self, counters: &Counters, hour: u32) {
        for ((anchor, taken), every) in self.anchors.iter_mut().zip(&mut self.taken_h).zip(ANCHOR_EVERY_H) {
            if hour.saturating_sub(*taken) >= every {
                *anchor = self.now;
                *taken = hour;
            }
        }
        let hours = hour.saturating_sub(self.raised_h).min(24);
        if hours == 0 {
            return;
        }
        self.raised_h = hour;
        let growth = RISE_PER_HOUR.powi(hours as i32);
        for (at, (usual, limit)) in self.now.iter_mut().zip(TABLE).enumerate() {
            let value = counters.get(limit.count, limit.over);
            if value <= *usual {
                continue;
            }
            // A device that never did it may come to do a little: a tenth of the floor's share is a beginning.
            let least = limit.floor / limit.factor;
            let mut most = (usual.max(0.1 * least) * growth).min(value);
            for (anchor, allowed) in self.anchors.iter().zip(ANCHOR_RISE) {
                most = most.min(anchor.get(at).copied().unwrap_or(0.0).max(least) * allowed);
            }
            *usual = usual.max(most);
        }
    }

    /// The worst of all limits that the present checkpoint adds to. `moved`: bytes out of its relation of late.
    pub fn judge(&self, counters: &Counters, moved: f32, without: u16, strictness: f32) -> Reached {
        let mut worst = Reached::default();
        for (usual, limit) in self.now.iter().zip(TABLE) {
            if without & (1 << limit.rule as u16) != 0 {
                continue;
            }
            // Only who adds to a count is to blame for it; of bytes, a relation that moves a notable part.
            let value = counters.get(limit.count, limit.over);
            if !counters.is_added(limit.count) || (limit.unit == Unit::Bytes && moved < BLAME * value) {
                continue;
            }
            let scale = (limit.floor * strictness / limit.factor).max(*usual);
            let score = tail(value, scale, limit.factor);
            if score > worst.score {
                worst = Reached {
                    score,
                    rule: limit.rule,
                    measure: limit.measure,
                    unit: limit.unit,
                    value,
                    limit: scale * limit.factor,
                    usual: *usual,
                };
            }
        }
        worst
    }
}

/// The limit that was reached furthest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// −log10 p.
    pub score: f32,
    /// Whose limit.
    pub rule: Rule,
    /// What was measured.
    pub measure: &'static str,
    /// In which unit.
    pub unit: Unit,
    /// What was measured.
    pub value: f32,
    /// Where the limit stood.
    pub limit: f32,
    /// What is usual for the device.
    pub usual: f32,
}

/// −log10 p of a value whose usual most is `scale` and whose limit is `factor` times that.
pub fn tail(value: f32, scale: f32, factor: f32) -> f32 {
    let ratio = value / scale.max(f32::MIN_POSITIVE);
    if ratio <= 1.0 {
        return (AT_USUAL * ratio).max(0.0);
    }
    AT_USUAL + (AT_LIMIT - AT_USUAL) * ratio.ln() / factor.ln()
}

const fn limit(
    rule: Rule,
    count: Count,
    over: Horizon,
    measure: &'static str,
    floor: f32,
    factor: f32,
    fade: f32,
) -> Limit {
    Limit { rule, count, over, measure, unit: Unit::Count, floor, factor, fade }
}

const fn bytes(
    rule: Rule,
    count: Count,
    over: Horizon,
    measure: &'static str,
    floor: f32,
    factor: f32,
    fade: f32,
) -> Limit {
    Limit { unit: Unit::Bytes, ..limit(rule, count, over, measure, floor, factor, fade) }
}

/// How much what is usual may rise in an hour without approval.
const RISE_PER_HOUR: f32 = 1.02;
/// How much above the day's, the week's and the month's anchor it may be.
const ANCHOR_RISE: [f32; 3] = [1.1, 1.2, 1.3];
/// How old each anchor grows, in hours.
const ANCHOR_EVERY_H: [u32; 3] = [24, 168, 720];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyser::Moment;

    fn counted(what: Count, amount: f32) -> Counters {
        let mut c = Counters::new(Moment(0));
        c.add(what, amount);
        c
    }

    #[test]
    fn the_floor_is_the_limit_of_who_never_did_it() {
        let fresh = Usual::new();
        let score = |n| fresh.judge(&counted(Count::FreshFailures, n), 0.0, 0, 1.0).score;
        assert!(score(7.5) < AT_LIMIT && score(8.1) > AT_LIMIT);
        assert!(score(4.0) <= 3.0);
        let off = fresh.judge(&counted(Count::FreshFailures, 100.0), 0.0, 1 << Rule::Scan as u16, 1.0);
        assert_eq!(off.score, 0.0, "a rule that is off says nothing");
    }

    #[test]
    fn what_is_usual_lifts_the_limit() {
        let mut usual = Usual::new();
        usual.learn(&counted(Count::Opens, 500.0), 1);
        let reached = usual.judge(&counted(Count::Opens, 1000.0), 0.0, 0, 1.0);
        assert!(reached.score < AT_LIMIT, "{reached:?}");
        let reached = usual.judge(&counted(Count::Opens, 1600.0), 0.0, 0, 1.0);
        assert!(reached.score > AT_LIMIT && reached.rule == Rule::Flood && reached.limit == 1500.0);
    }

    #[test]
    fn first_contacts_of_the_beginning_are_forgotten_as_the_device_grows_old() {
        let mut usual = Usual::new();
        usual.learn(&counted(Count::Fresh, 20.0), 10);
        for n in 11..1000 {
            usual.learn(&counted(Count::Fresh, 0.0), n);
        }
        let left = usual.now.iter().zip(TABLE).find(|(_, l)| l.count == Count::Fresh).unwrap().0;
        assert!((0.15..0.25).contains(left), "{left}");
    }

    #[test]
    fn a_frog_is_not_boiled() {
        let mut usual = Usual::new();
        usual.learn(&counted(Count::Out, 1e8), 1);
        usual.settle(0);
        let before = usual.now;
        let mut sent = 1e8_f32;
        for hour in 1..=21 * 24 {
            sent *= 1.05_f32.powf(1.0 / 24.0);
            usual.drift(&counted(Count::Out, sent), hour);
        }
        assert!(sent > 2.7e8);
        for ((now, before), limit) in usual.now.iter().zip(before).zip(TABLE) {
            assert!(
                *now <= 1.3001 * before.max(limit.floor / limit.factor),
                "{}: {before} to {now}",
                limit.measure
            );
        }
    }
}
