//! The features of a checkpoint: all named, all bounded or decayed, so that none drifts by merely growing old.

use serde::{Deserialize, Serialize};

use super::decay::{Count, Counters, Horizon};
use super::event::{Carrier, End, Moment, Reach};
use super::flow::Flow;
use super::relation::Relation;

/// How many features there are.
pub const FEATURES: usize = NAMES.len();

/// Their names, in order. Logarithms are natural, of one plus the figure.
pub const NAMES: [&str; 28] = [
    "log_bytes_out",
    "log_bytes_in",
    "log_chunks_out",
    "log_chunks_in",
    "log_duration_ds",
    "direction",
    "log_chunk_size_out",
    "log_chunk_size_in",
    "log_throughput",
    "failed",
    "log_gap_device_s",
    "log_gap_relation_s",
    "log_opens_10s",
    "log_opens_60s",
    "log_opens_600s",
    "log_fresh_60s",
    "log_fresh_600s",
    "log_fresh_failures_60s",
    "failure_share_60s",
    "log_failures_600s",
    "log_out_60s",
    "log_out_600s",
    "log_young_out_600s",
    "new_service",
    "new_host",
    "new_port",
    "log_young_600s",
    "far_or_udp",
];

/// Below which spread a feature's own spread is not believed.
const SPREAD_MIN: [f32; FEATURES] = [
    0.5, 0.5, 0.3, 0.3, 0.7, 0.2, 0.4, 0.4, 0.7, 0.3, 1.0, 1.0, 0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.15, 0.5, 1.0,
    1.0, 2.0, 0.4, 0.4, 0.4, 0.5, 0.5,
];

/// What was known of the target before this flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Novelty {
    /// The service was never used.
    pub service: bool,
    /// The host was never reached.
    pub host: bool,
    /// The port was never used.
    pub port: bool,
}

/// The features of `flow` at `now`, ended as `end` says if it has ended.
pub fn features(
    flow: &Flow,
    end: Option<End>,
    counters: &Counters,
    relation: Option<&Relation>,
    last_open: Moment,
    novelty: Novelty,
    now: Moment,
) -> [f32; FEATURES] {
    let [out, back] = flow.bytes.map(|b| b as f32);
    let [chunks_out, chunks_in] = flow.chunks.map(|c| c as f32);
    let seconds = now.since(flow.began) as f32 / 1e6;
    let gap = |from: Moment| ((flow.began.since(from)) as f32 / 1e6).min(GAP_MAX_S);
    let get = |what, over| counters.get(what, over).ln_1p();
    let failed = match end {
        Some(end) if end.failed() => 1.0,
        Some(End::Reset) => 0.5,
        _ => 0.0,
    };
    let bit = |b: bool| if b { 1.0 } else { 0.0 };
    let relation_gap = relation.filter(|r| r.count > 0).map_or(GAP_MAX_S, |r| gap(r.last));
    let failures = counters.get(Count::Failures, Horizon::M1);
    let opens = counters.get(Count::Opens, Horizon::M1);
    [
        out.ln_1p(),
        back.ln_1p(),
        chunks_out.ln_1p(),
        chunks_in.ln_1p(),
        (10.0 * seconds).ln_1p(),
        (out - back) / (out + back + 1.0),
        (out / chunks_out.max(1.0)).ln_1p(),
        (back / chunks_in.max(1.0)).ln_1p(),
        ((out + back) / (seconds + 0.05)).ln_1p(),
        failed,
        gap(last_open).ln_1p(),
        relation_gap.ln_1p(),
        get(Count::Opens, Horizon::S10),
        get(Count::Opens, Horizon::M1),
        get(Count::Opens, Horizon::M10),
        get(Count::Fresh, Horizon::M1),
        get(Count::Fresh, Horizon::M10),
        get(Count::FreshFailures, Horizon::M1),
        failures / (opens + 4.0),
        get(Count::Failures, Horizon::M10),
        get(Count::Out, Horizon::M1),
        get(Count::Out, Horizon::M10),
        get(Count::YoungOut, Horizon::M10),
        bit(novelty.service),
        bit(novelty.host),
        bit(novelty.port),
        get(Count::Young, Horizon::M10),
        bit(flow.target.reach != Reach::Near) + bit(flow.target.carrier == Carrier::Udp),
    ]
}

/// Where a feature of one device usually lies.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Offset {
    pub(super) middle: f32,
    pub(super) spread: f32,
}

impl Offset {
    /// Learns one value, as the `n`-th of the device. What is far off moves it no further than what is not.
    pub fn learn(&mut self, value: f32, n: u32, at: usize) {
        let rate = 1.0 / (n as f32 + 1.0).min(OFFSET_MEMORY);
        if n == 0 {
            self.middle = value;
        }
        let reach = 3.0 * self.spread.max(spread_min(at));
        let off = (value - self.middle).clamp(-reach, reach);
        self.middle += rate * off;
        self.spread += rate * (off.abs() - self.spread);
    }

    /// How far off a value is, in spreads; compressed, and within ±6.
    pub fn off(&self, value: f32, at: usize) -> f32 {
        ((value - self.middle) / self.spread.max(spread_min(at))).asinh().clamp(-6.0, 6.0)
    }
}

fn spread_min(at: usize) -> f32 {
    SPREAD_MIN.get(at).copied().unwrap_or(1.0)
}

const GAP_MAX_S: f32 = 1e5;
const OFFSET_MEMORY: f32 = 1000.0;
