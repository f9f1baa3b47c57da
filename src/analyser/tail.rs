//! From a score to a probability: the share seen in the body, a generalised Pareto tail beyond (Siffer 2017, SPOT).

use serde::{Deserialize, Serialize};

use super::sparse;

/// Honest scores of one kind, 0..=[`Tail::SCORE_MAX`], in 96 bins, and the tail fitted to them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Tail {
    #[serde(with = "sparse")]
    pub(super) bins: [u16; Tail::BINS],
    pub(super) total: u32,
    /// Adds until the tail is fitted again.
    pub(super) due: u16,
    pub(super) fit: Fit,
}

/// A fitted tail: scores above `from` exceed it by a generalised Pareto law.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Fit {
    pub(super) from: f32,
    pub(super) share: f32,
    pub(super) shape: f32,
    pub(super) scale: f32,
}

impl Tail {
    /// Bins of a quarter each.
    pub const BINS: usize = 96;
    /// Larger scores count as this.
    pub const SCORE_MAX: f32 = 24.0;

    /// Nothing seen.
    pub const fn new() -> Self {
        Self {
            bins: [0; Self::BINS],
            total: 0,
            due: REFIT,
            fit: Fit { from: 0.0, share: 1.0, shape: 0.1, scale: 1.0 },
        }
    }

    /// Adds an honest score.
    pub fn add(&mut self, score: f32) {
        let Some(bin) = self.bins.get_mut(bin(score)) else { return };
        *bin = bin.saturating_add(1);
        let full = *bin == u16::MAX;
        self.total += 1;
        if full {
            self.bins.iter_mut().for_each(|b| *b /= 2);
            self.total = self.bins.iter().map(|b| u32::from(*b)).sum();
        }
        self.due -= 1;
        if self.due == 0 {
            self.fit();
            self.due = REFIT;
        }
    }

    /// −log10 of the share of honest scores that reach this one; 0 as long as too few were seen.
    pub fn score(&self, score: f32) -> f32 {
        if self.total < SEEN_MIN {
            return 0.0;
        }
        let score = score.clamp(0.0, Self::SCORE_MAX);
        if score <= self.fit.from {
            let above: u32 = self.bins.iter().skip(bin(score)).map(|b| u32::from(*b)).sum();
            return -((above as f32 + 1.0) / (self.total as f32 + 1.0)).min(1.0).log10();
        }
        let over = (score - self.fit.from) / self.fit.scale;
        let beyond = if self.fit.shape < 1e-4 {
            over * std::f32::consts::LOG10_E
        } else {
            (1.0 + self.fit.shape * over).log10() / self.fit.shape
        };
        (beyond - self.fit.share.log10()).max(0.0)
    }

    /// Fits the tail above the 98th percentile by its moments. Its scale is never thinner than a quarter of what lies
    /// between median and that percentile, nor than half a unit.
    fn fit(&mut self) {
        let middle = self.at_share(0.5);
        let from = self.at_share(0.98);
        let (mut n, mut sum, mut square) = (0.0_f32, 0.0, 0.0);
        for (at, count) in self.bins.iter().enumerate() {
            let excess = (at as f32 + 0.5) * WIDTH - from;
            if excess > 0.0 {
                let count = f32::from(*count);
                n += count;
                sum += count * excess;
                square += count * excess * excess;
            }
        }
        let least = (0.25 * (from - middle)).max(SCALE_MIN);
        let (mut shape, mut scale) = (0.1, least);
        if n >= 5.0 {
            let mean = sum / n;
            let variance = (square / n - mean * mean).max(1e-6);
            shape = (0.5 * (1.0 - mean * mean / variance)).clamp(0.0, 0.5);
            scale = least.max(mean * (1.0 - shape));
        }
        self.fit = Fit { from, share: (n + 1.0) / (self.total as f32 + 1.0), shape, scale };
    }

    /// The upper edge of the bin below which this share lies.
    fn at_share(&self, share: f32) -> f32 {
        let mut left = self.total as f32 * share;
        for (at, bin) in self.bins.iter().enumerate() {
            left -= f32::from(*bin);
            if left <= 0.0 {
                return (at as f32 + 1.0) * WIDTH;
            }
        }
        Self::SCORE_MAX
    }
}

fn bin(score: f32) -> usize {
    ((score.max(0.0) / WIDTH) as usize).min(Tail::BINS - 1)
}

const WIDTH: f32 = Tail::SCORE_MAX / Tail::BINS as f32;
/// A tail is fitted again after so many scores.
pub(super) const REFIT: u16 = 64;
const SEEN_MIN: u32 = 128;
const SCALE_MIN: f32 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;

    /// A tail that saw exponential scores of mean 1, evenly spread.
    fn seen(n: u32) -> Tail {
        let mut tail = Tail::new();
        for i in 0..n {
            let u = (f64::from(i) * 0.618_033_988_749).fract();
            tail.add(-(1.0 - u).ln() as f32);
        }
        tail
    }

    #[test]
    fn probabilities_are_right_in_the_body_and_within_half_a_decade_in_the_tail() {
        let tail = seen(20_000);
        for (p, slack) in [(0.5_f32, 0.15), (0.1, 0.15), (0.01, 0.3), (1e-3, 0.4), (1e-4, 0.7), (1e-5, 1.0)] {
            let (got, want) = (tail.score(-p.ln()), -p.log10());
            assert!((got - want).abs() < slack, "{want} {got}");
        }
    }

    #[test]
    fn nothing_is_said_from_little_and_nothing_odd_breaks_it() {
        assert_eq!(seen(100).score(20.0), 0.0);
        let mut tail = seen(1000);
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            tail.add(odd);
            assert!(tail.score(odd).is_finite() || odd.is_nan());
        }
        for _ in 0..200_000 {
            tail.add(1.0);
        }
        assert!(tail.total < 70_000 && tail.score(23.0) > 3.0);
    }
}
