//! What a device has to do with one service: since when, how regularly, how much each way.

use serde::{Deserialize, Serialize};

use super::event::{Both, First, Moment, ServiceKey, Tongue};

/// How many contacts are remembered.
pub const CONTACTS: usize = 32;

/// One device and one service.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Relation {
    pub(super) service: ServiceKey,
    pub(super) port: u16,
    /// Flows so far.
    pub(super) count: u32,
    /// When its last flow began.
    pub(super) last: Moment,
    /// Gaps between the beginnings of flows and bytes out of each, as logarithms, in a ring.
    pub(super) gaps: [u16; CONTACTS],
    pub(super) sizes: [u16; CONTACTS],
    /// The greatest share of bytes that went out while it was learnt, 0..=1; and how much was learnt.
    pub(super) out_share: f32,
    pub(super) learnt: u32,
    /// The most bytes out of ten minutes that are usual, and when they were last let rise, in hours.
    pub(super) usual_out: f32,
    pub(super) raised_h: u32,
    /// Bytes each way, decayed over ten minutes, as of `last`.
    pub(super) recent: Both<f32>,
    /// What was spoken each way while it was learnt; [`Tongue::Binary`] once it was this and that.
    pub(super) spoken: Both<Tongue>,
    /// Mean bytes of its last contacts, both ways together.
    pub(super) mean: f32,
}

/// How regular contacts are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Regular {
    /// −log10 of the chance that irregular contacts look like this.
    pub score: f32,
    /// How many contacts were looked at.
    pub contacts: u32,
    /// The middle gap in seconds.
    pub period_s: f32,
    /// The middle of bytes out.
    pub size: f32,
}

impl Relation {
    /// Adds a flow that began at `began`.
    pub fn add(&mut self, began: Moment, bytes: Both<u64>) {
        let gap = if self.count == 0 { 0 } else { began.since(self.last) };
        let at = self.count as usize % CONTACTS;
        let [out, _] = bytes;
        if let (Some(g), Some(s)) = (self.gaps.get_mut(at), self.sizes.get_mut(at)) {
            (*g, *s) = (code(gap as f32), code(out as f32));
        }
        let keep = (-(began.since(self.last) as f32) / RECENT_US).exp();
        for (recent, bytes) in self.recent.iter_mut().zip(bytes) {
            *recent = *recent * keep + bytes as f32;
        }
        let [out, back] = bytes.map(|b| b as f32);
        self.mean += (out + back - self.mean) / (self.count as f32 + 1.0).min(MEAN_MEMORY);
        self.count = self.count.saturating_add(1);
        self.last = self.last.max(began);
    }

    /// Bytes out of the last ten minutes, as of a flow that begins at `began`.
    pub fn out_by(&self, began: Moment) -> f32 {
        let [out, _] = self.recent;
        out * (-(began.since(self.last) as f32) / RECENT_US).exp()
    }

    /// The share of recent bytes that went out.
    pub fn out_share_now(&self) -> f32 {
        let [out, back] = self.recent;
        out / (out + back).max(1.0)
    }

    /// Remembers how much went out, and which share of all that is, as usual: freely while the device is new, later so
    /// slowly that weeks hardly move it.
    pub fn learn(&mut self, is_new: bool, hour: u32) {
        let ([out, _], share) = (self.recent, self.out_share_now());
        if is_new {
            self.out_share = self.out_share.max(share);
            self.usual_out = self.usual_out.max(out);
            self.raised_h = hour;
        } else {
            let hours = hour.saturating_sub(self.raised_h).min(HOURS_MAX);
            if hours > 0 {
                self.raised_h = hour;
                let hours = hours as f32;
                self.out_share = self.out_share.max(share.min(self.out_share + SHARE_RISE_PER_HOUR * hours));
                self.usual_out =
                    self.usual_out.max(out.min(self.usual_out * (1.0 + OUT_RISE_PER_HOUR * hours)));
            }
        }
        self.learnt = self.learnt.saturating_add(1);
    }

    /// Remembers what was spoken.
    pub fn learn_tongues(&mut self, first: Both<Option<First>>) {
        for (spoken, first) in self.spoken.iter_mut().zip(first) {
            *spoken = match (*spoken, first.map_or(Tongue::Unknown, |f| f.tongue)) {
                (known, Tongue::Unknown) => known,
                (Tongue::Unknown, new) => new,
                (known, new) if known == new => known,
                _ => Tongue::Binary,
            };
        }
    }

    /// How regular its contacts are. Chance gaps (exponential) have a median deviation of 0.69 of their median; the
    /// chance that `n` of them look much more regular falls with a power of `n`.
    pub fn regular(&self) -> Regular {
        let contacts = self.count.min(CONTACTS as u32);
        if contacts < CONTACTS_MIN {
            return Regular::default();
        }
        if self.mean > CONTACT_BYTES_MAX {
            return Regular::default();
        }
        // The first gap is none.
        let skip = usize::from(self.count <= CONTACTS as u32);
        let Some(gaps) = self.gaps.get(skip..contacts as usize) else { return Regular::default() };
        let Some(sizes) = self.sizes.get(..contacts as usize) else { return Regular::default() };
        let (period, gap_spread) = spread(gaps);
        let (size, size_spread) = spread(sizes);
        let period_s = period / 1e6;
        if period_s < PERIOD_MIN_S {
            return Regular { score: 0.0, contacts, period_s, size };
        }
        let n = contacts as f32;
        let time = (CHANCE_SPREAD / (gap_spread / period + SPREAD_FLOOR)).log10().max(0.0);
        let same = (CHANCE_SPREAD / (size_spread / (size + SIZE_FLOOR) + SPREAD_FLOOR)).log10().max(0.0);
        // Sizes alone are no rhythm.
        let score = n / 4.0 * (time + 0.5 * same.min(time));
        Regular { score, contacts, period_s, size }
    }

    /// Whether this looks like the same caller and errand as another relation: same port, same rhythm, same sizes. A poller
    /// whose target moved to another address is no new beacon.
    pub fn is_like(&self, port: u16, regular: &Regular) -> bool {
        let mine = self.regular();
        self.port == port
            && mine.contacts >= CONTACTS_MIN
            && within(mine.period_s, regular.period_s, 0.3)
            && within(mine.size, regular.size, 0.2)
    }
}

fn within(a: f32, b: f32, share: f32) -> bool {
    (a - b).abs() <= share * a.max(b)
}

/// Median, and the median distance from it.
fn spread(codes: &[u16]) -> (f32, f32) {
    let mut sorted = [0.0_f32; CONTACTS];
    let n = codes.len().min(CONTACTS);
    let Some(values) = sorted.get_mut(..n) else { return (0.0, 0.0) };
    for (value, code) in values.iter_mut().zip(codes) {
        *value = decode(*code);
    }
    let middle = median(values);
    for value in values.iter_mut() {
        *value = (*value - middle).abs();
    }
    (middle, median(values))
}

fn median(values: &mut [f32]) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let at = values.len() / 2;
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

/// A number of up to 2^42 in 16 bits, within 0.05 %.
fn code(value: f32) -> u16 {
    ((value.max(0.0) + 1.0).log2() * 1560.0) as u16
}

fn decode(code: u16) -> f32 {
    (f32::from(code) / 1560.0).exp2() - 1.0
}

/// A third in four weeks.
const OUT_RISE_PER_HOUR: f32 = 0.0004;
const SHARE_RISE_PER_HOUR: f32 = 0.0002;
const HOURS_MAX: u32 = 24;
const CONTACTS_MIN: u32 = 10;
/// Faster contacts are work, not a rhythm of their own.
const PERIOD_MIN_S: f32 = 0.5;
const CHANCE_SPREAD: f32 = 0.69;
/// No clock is trusted to be more regular than this.
const SPREAD_FLOOR: f32 = 0.03;
const SIZE_FLOOR: f32 = 32.0;
const MEAN_MEMORY: f32 = 8.0;
/// Contacts larger than this move goods: players fetch their next piece as regularly as a beacon calls.
const CONTACT_BYTES_MAX: f32 = 65_536.0;
const RECENT_US: f32 = 600e6;

#[cfg(test)]
mod tests {
    use super::*;

    fn contacts(gaps_s: impl Iterator<Item = f64>, size: impl Fn(usize) -> u64) -> Relation {
        let mut r = Relation::default();
        let mut t = 1000.0;
        for (i, gap) in gaps_s.enumerate() {
            r.add(Moment::from_secs(t), [size(i), 100]);
            t += gap;
        }
        r
    }

    #[test]
    fn a_rhythm_is_told_from_chance() {
        let steady = contacts([60.0; 14].into_iter(), |_| 300).regular();
        assert!(steady.score > 5.3 && (steady.period_s - 60.0).abs() < 0.5, "{steady:?}");
        let jittered = (0..30).map(|i| 60.0 * (1.0 + 0.3 * f64::from((i * 7) % 11 - 5) / 5.0));
        let jittered = contacts(jittered, |i| 300 + (i as u64 % 5)).regular();
        assert!(jittered.score > 5.3, "{jittered:?}");
        let chance = (0..32).map(|i| -60.0 * (1.0 - (f64::from(i) * 0.618).fract() * 0.999).ln());
        let chance = contacts(chance, |i| 300 << (i % 6)).regular();
        assert!(chance.score < 2.0, "{chance:?}");
        assert_eq!(contacts([60.0; 9].into_iter(), |_| 300).regular().score, 0.0);
        let player = contacts([60.0; 14].into_iter(), |_| 300_000).regular();
        assert_eq!(player.score, 0.0, "large contacts are work");
    }

    #[test]
    fn a_poller_that_moved_is_like_itself() {
        let old = contacts([60.0; 30].into_iter(), |_| 300);
        let moved = contacts([61.0; 15].into_iter(), |_| 310).regular();
        assert!(old.is_like(0, &moved));
        assert!(!old.is_like(1, &moved));
        assert!(!old.is_like(0, &contacts([20.0; 15].into_iter(), |_| 300).regular()));
    }
}
