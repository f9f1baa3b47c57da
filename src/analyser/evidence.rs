//! Evidence over time: many weak signs of one device, gathered as an e-process.

use serde::{Deserialize, Serialize};

use super::event::Moment;

/// What was gathered. Under honest traffic its mean is at most 1, so it passes `10^n` no oftener than once in `10^n`
/// checkpoints (Ville's inequality), as long as the probabilities it is fed are right.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Evidence {
    /// log10 of the e-value, never below 0.
    pub(super) log: f32,
    /// Suspicious checkpoints that count in it.
    pub(super) signs: u32,
    pub(super) at: Moment,
}

impl Evidence {
    /// Adds a checkpoint of −log10 p `score`: `0.545 / sqrt(p)` when p < 0.01, 0.9 otherwise. One checkpoint counts for no
    /// more than p = 1e-4, so that evidence is always several.
    pub fn add(&mut self, score: f32, now: Moment) {
        let idle = now.since(self.at);
        self.at = now;
        // What was gathered does not outlive a quiet hour.
        self.log *= (-(idle as f32) / FADE_US).exp();
        if score > 2.0 {
            self.log += 0.5 * score.min(ONE_MAX) + E_FACTOR.log10();
            self.signs = self.signs.saturating_add(1);
        } else {
            self.log += DECAY.log10();
        }
        if self.log <= 0.0 {
            (self.log, self.signs) = (0.0, 0);
        }
    }
}

const E_FACTOR: f32 = 0.545;
const DECAY: f32 = 0.9;
const ONE_MAX: f32 = 4.0;
const FADE_US: f32 = 3600e6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_weak_signs_make_a_strong_one_and_quiet_takes_it_away() {
        let mut e = Evidence::default();
        e.add(12.0, Moment(0));
        assert!(e.log < 2.0, "one alone is no evidence");
        for i in 1..6 {
            e.add(3.0, Moment(i * 1_000_000));
        }
        assert!(e.log > 5.0 && e.signs == 6, "{e:?}");
        for i in 0..200 {
            e.add(0.1, Moment((10 + i) * 1_000_000));
        }
        assert_eq!((e.log, e.signs), (0.0, 0));
    }
}
