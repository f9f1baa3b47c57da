//! What is kept of a living flow: who, what, how much, in which rhythm.

use super::event::{Both, DeviceKey, First, Moment, Target, Tongue};

/// One living flow.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub(super) device: DeviceKey,
    pub(super) target: Target,
    pub(super) began: Moment,
    pub(super) last: Moment,
    pub(super) bytes: Both<u64>,
    pub(super) chunks: Both<u32>,
    /// Bytes that the device's counters have heard of.
    pub(super) told: Both<u64>,
    /// Chunks at which the next checkpoint is due.
    pub(super) due_chunks: u32,
    /// When the next checkpoint is due, whatever the chunks.
    pub(super) due: Moment,
    pub(super) first: Both<Option<First>>,
    /// The service was young to the device when the flow opened; this was the first contact.
    pub(super) young: bool,
    pub(super) fresh: bool,
    /// Counted as unfinished.
    pub(super) unfinished: bool,
    /// Requests it carried, and whether one of them did more than to connect (MQTT).
    pub(super) requests: u32,
    pub(super) useful: bool,
    /// Gaps of over [`GAP_MIN_S`] between chunks out: how many, and mean and spread of their logarithms.
    pub(super) gaps: Spread,
    pub(super) last_out: Moment,
    /// Bytes out at which the next checkpoint is due.
    pub(super) due_out: u64,
    /// Exchanges: a chunk out that follows one in, or the first.
    pub(super) turns: u32,
    pub(super) last_turn: Moment,
    /// The way of the last chunk was out.
    pub(super) is_asking: bool,
    /// Exchanges of late, decayed over [`BUSY_S`], as of the last one; the most there ever were; and where the device's
    /// limits stood when the flow opened.
    pub(super) busy: [f32; 2],
    pub(super) busiest: [f32; 2],
    pub(super) busy_limits: [f32; 2],
    /// The smallest and the largest chunk out.
    pub(super) sizes_out: (u32, u32),
    /// The worst score it ever had; eviction keeps the suspects.
    pub(super) worst: f32,
}

/// The time constants of [`Flow::busy`], in seconds.
pub const BUSY_S: [f32; 2] = [3.0, 10.0];

/// Mean and spread of a stream of figures (Welford 1962).
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    pub(super) count: u32,
    pub(super) mean: f32,
    pub(super) squares: f32,
}

impl Spread {
    /// Takes a figure in.
    pub fn add(&mut self, x: f32) {
        self.count = self.count.saturating_add(1);
        let off = x - self.mean;
        self.mean += off / self.count as f32;
        self.squares += off * (x - self.mean);
    }

    /// The standard deviation.
    pub fn deviation(&self) -> f32 {
        (self.squares / self.count.max(1) as f32).sqrt()
    }
}

impl Flow {
    /// A flow just opened.
    pub fn new(device: DeviceKey, target: Target, began: Moment, now: Moment) -> Self {
        Self {
            device,
            target,
            began,
            last: now,
            bytes: [0; 2],
            chunks: [0; 2],
            told: [0; 2],
            due_chunks: FIRST_DUE,
            due: now.plus(DUE_US),
            first: [None; 2],
            young: false,
            fresh: false,
            unfinished: false,
            requests: 0,
            useful: false,
            gaps: Spread::default(),
            last_out: Moment(0),
            due_out: DUE_OUT,
            turns: 0,
            last_turn: now,
            is_asking: false,
            busy: [0.0; 2],
            busiest: [0.0; 2],
            busy_limits: [f32::MAX; 2],
            sizes_out: (u32::MAX, 0),
            worst: 0.0,
        }
    }

    /// Whether a checkpoint is due at `now`; the next is then set.
    pub fn is_due(&mut self, now: Moment) -> bool {
        let [out, back] = self.chunks;
        let chunks = out.saturating_add(back);
        let [bytes_out, _] = self.bytes;
        if chunks < self.due_chunks && bytes_out < self.due_out && now < self.due {
            return false;
        }
        if chunks >= self.due_chunks {
            // At a young service the beginning tells the most.
            let next = self.due_chunks.saturating_mul(2);
            self.due_chunks = if self.young && next <= CLOSE_CHUNKS {
                self.due_chunks.saturating_add(FIRST_DUE)
            } else {
                next
            };
        }
        if bytes_out >= self.due_out {
            self.due_out = bytes_out.saturating_add(DUE_OUT);
        }
        self.due = now.plus(DUE_US);
        true
    }

    /// Counts a chunk out of so many bytes; whether it makes the flow busier than its device ever was.
    pub fn ask(&mut self, now: Moment, len: u32) -> bool {
        if len > 0 {
            let (least, most) = &mut self.sizes_out;
            (*least, *most) = ((*least).min(len), (*most).max(len));
        }
        if std::mem::replace(&mut self.is_asking, true) {
            return false;
        }
        self.exchange(now)
    }

    /// Counts an exchange; whether it makes the flow busier than its device ever was.
    pub fn exchange(&mut self, now: Moment) -> bool {
        let seconds = now.since(self.last_turn) as f32 / 1e6;
        self.last_turn = self.last_turn.max(now);
        self.turns = self.turns.saturating_add(1);
        let mut is_over = false;
        for (((busy, busiest), limit), tau) in
            self.busy.iter_mut().zip(&mut self.busiest).zip(self.busy_limits).zip(BUSY_S)
        {
            *busy = *busy * (-seconds / tau).exp() + 1.0;
            is_over |= *busy > limit && *busiest <= limit;
            *busiest = busiest.max(*busy);
        }
        is_over
    }

    /// Whether both sides say as much as each other in pieces of one size, again and again: what is padded or asked for
    /// piecewise, whatever it says it is.
    pub fn is_even(&self) -> bool {
        let [out, back] = self.bytes;
        let share = out as f32 / out.saturating_add(back).max(1) as f32;
        let (least, most) = self.sizes_out;
        (EVEN_LEAST..=EVEN_MOST).contains(&share)
            && least >= EVEN_BYTES_MIN
            && most as f32 <= least as f32 * EVEN_SPREAD
    }

    /// Counts a gap between two chunks out.
    pub fn gap(&mut self, now: Moment) {
        let gap_s = now.since(self.last_out) as f32 / 1e6;
        if self.last_out.0 > 0 && gap_s >= GAP_MIN_S {
            self.gaps.add(gap_s.ln());
        }
        self.last_out = now;
    }

    /// Whether it waits for an answer and sends hardly anything: bytes out at `now`, none in.
    pub fn is_unfinished(&self, now: Moment) -> bool {
        let [out, back] = self.bytes;
        let age_us = now.since(self.began);
        // A client of a broker that connects and says nothing more (SlowITe, Vaccari 2020).
        let idles = self.target.declared == Tongue::Mqtt && self.requests > 0 && !self.useful;
        age_us >= UNFINISHED_US && (idles || (back == 0 && (out as f32) < SLOW_BYTES_S * age_us as f32 / 1e6))
    }
}

const FIRST_DUE: u32 = 4;
/// Until so many chunks a flow to a young service is looked at every [`FIRST_DUE`].
const CLOSE_CHUNKS: u32 = 64;
const DUE_OUT: u64 = 1 << 20;
const EVEN_LEAST: f32 = 0.4;
const EVEN_MOST: f32 = 0.6;
const EVEN_BYTES_MIN: u32 = 64;
const EVEN_SPREAD: f32 = 1.25;
const DUE_US: u64 = 10_000_000;
/// Shorter gaps are within a piece of work.
pub const GAP_MIN_S: f32 = 0.3;
/// A request that takes longer than this to be made is slow.
pub const UNFINISHED_US: u64 = 5_000_000;
const SLOW_BYTES_S: f32 = 1000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_small_and_due_at_powers_of_two_and_after_ten_seconds() {
        assert!(size_of::<Flow>() <= 256, "{}", size_of::<Flow>());
        let mut flow = Flow::new(DeviceKey(1), Target::default(), Moment(0), Moment(0));
        let mut due = Vec::new();
        for i in 1..=64 {
            flow.chunks = [i, 0];
            if flow.is_due(Moment(0)) {
                due.push(i);
            }
        }
        assert_eq!(due, [4, 8, 16, 32, 64]);
        assert!(!flow.is_due(Moment(9_999_999)));
        assert!(flow.is_due(Moment(10_000_000)));
    }

    #[test]
    fn a_rhythm_inside_a_flow_is_seen() {
        let mut flow = Flow::new(DeviceKey(1), Target::default(), Moment(0), Moment(0));
        for i in 1..=30u64 {
            flow.gap(Moment(i * 10_000_000));
        }
        assert_eq!(flow.gaps.count, 29);
        assert!(flow.gaps.deviation() < 0.01, "{:?}", flow.gaps);
        let mut person = Flow::new(DeviceKey(1), Target::default(), Moment(0), Moment(0));
        let mut t = 1_000_000;
        for i in 0..30 {
            person.gap(Moment(t));
            t += (-1.5e6 * (1.0 - (f64::from(i) * 0.618).fract() * 0.999).ln()) as u64;
        }
        assert!(person.gaps.deviation() > 0.5, "{:?}", person.gaps);
    }
}
