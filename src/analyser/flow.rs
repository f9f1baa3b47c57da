//! What is kept of a living flow: who, what, how much, in which rhythm.

use super::event::{Both, DeviceKey, First, Moment, Target};

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
    /// Requests it carried.
    pub(super) requests: u32,
    /// Gaps between chunks out, by half-decades from a millisecond.
    pub(super) gaps: [u16; GAPS],
    pub(super) last_out: Moment,
    /// The worst score it ever had; eviction keeps the suspects.
    pub(super) worst: f32,
}

/// Bins of a flow's gaps.
pub const GAPS: usize = 16;

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
            gaps: [0; GAPS],
            last_out: Moment(0),
            worst: 0.0,
        }
    }

    /// Whether a checkpoint is due at `now`; the next is then set.
    pub fn is_due(&mut self, now: Moment) -> bool {
        let [out, back] = self.chunks;
        let chunks = out.saturating_add(back);
        if chunks < self.due_chunks && now < self.due {
            return false;
        }
        if chunks >= self.due_chunks {
            self.due_chunks = self.due_chunks.saturating_mul(2);
        }
        self.due = now.plus(DUE_US);
        true
    }

    /// Counts a gap between two chunks out.
    pub fn gap(&mut self, now: Moment) {
        let gap_ms = now.since(self.last_out) as f32 / 1000.0;
        if self.last_out.0 > 0 && gap_ms >= 1.0 {
            let bin = ((gap_ms.log10() * 2.0) as usize).min(GAPS - 1);
            if let Some(count) = self.gaps.get_mut(bin) {
                *count = count.saturating_add(1);
            }
        }
        self.last_out = now;
    }

    /// The rhythm inside the flow: its gaps of over half a second, and the share of them in two neighbouring bins.
    pub fn rhythm(&self) -> (u32, f32) {
        let long: u32 = self.gaps.iter().skip(LONG_BIN).map(|g| u32::from(*g)).sum();
        let pairs = self.gaps.windows(2).skip(LONG_BIN);
        let most = pairs.map(|w| w.iter().map(|g| u32::from(*g)).sum::<u32>()).max().unwrap_or(0);
        (long, most as f32 / long.max(1) as f32)
    }

    /// Whether it waits for an answer and sends hardly anything: bytes out at `now`, none in.
    pub fn is_unfinished(&self, now: Moment) -> bool {
        let [out, back] = self.bytes;
        let age_us = now.since(self.began);
        back == 0 && age_us >= UNFINISHED_US && (out as f32) < SLOW_BYTES_S * age_us as f32 / 1e6
    }
}

const FIRST_DUE: u32 = 4;
const DUE_US: u64 = 10_000_000;
/// From this bin on gaps are over 0.3 s.
const LONG_BIN: usize = 5;
/// A request that takes longer than this to be made is slow.
pub const UNFINISHED_US: u64 = 5_000_000;
const SLOW_BYTES_S: f32 = 1000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_small_and_due_at_powers_of_two_and_after_ten_seconds() {
        assert!(size_of::<Flow>() <= 200, "{}", size_of::<Flow>());
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
        assert_eq!(flow.rhythm(), (29, 1.0));
    }
}
