//! From suspicion to action: throttle, tarpit, kill, prove, quarantine; harder with each strike, and quarantine doubles.

use serde::{Deserialize, Serialize};

use super::event::Moment;
use super::verdict::{Action, Band, Rule};

/// Where one device stands on the ladder.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Ladder {
    /// Strikes, decayed over ten minutes, as of `at`.
    pub(super) strikes: f32,
    pub(super) at: Moment,
    /// Until when the device is quarantined.
    pub(super) until: Moment,
    /// How long the next quarantine takes, in seconds; 0 before the first.
    pub(super) ttl_s: u32,
}

impl Ladder {
    /// Whether the device is quarantined at `now`.
    pub fn is_quarantined(&self, now: Moment) -> bool {
        now < self.until
    }

    /// Takes a strike and says what is to be done. `quarantine` says whether the valve still lets a device go there.
    pub fn strike(&mut self, rule: Rule, band: Band, now: Moment, quarantine: bool) -> Action {
        let idle = now.since(self.at);
        self.strikes = self.strikes * (-(idle as f32) / STRIKES_FADE_US).exp() + 1.0;
        self.at = now;
        if idle > TTL_FORGET_US {
            self.ttl_s = 0;
        }
        let first = match rule {
            // A device that only does much of what it may is slowed first.
            Rule::Flood | Rule::Exfil | Rule::Generic | Rule::Prior => Action::Throttle,
            Rule::Logins | Rule::Slow => Action::Tarpit,
            Rule::Stranger => Action::Prove,
            _ => Action::Kill,
        };
        match self.strikes {
            s if s >= QUARANTINE_AT && band >= Band::High && quarantine => {
                self.ttl_s = (self.ttl_s * 2).clamp(TTL_MIN_S, TTL_MAX_S);
                self.until = now.plus(u64::from(self.ttl_s) * 1_000_000);
                self.strikes = 0.0;
                Action::Quarantine
            }
            s if s >= PROVE_AT => first.max(Action::Prove),
            s if s >= KILL_AT => first.max(Action::Kill),
            s if s >= TARPIT_AT => first.max(Action::Tarpit),
            _ => first,
        }
    }

    /// Lets the device go, and forgets its strikes.
    pub fn release(&mut self) {
        *self = Self::default();
    }
}

const STRIKES_FADE_US: f32 = 600e6;
const TARPIT_AT: f32 = 3.0;
const KILL_AT: f32 = 6.0;
const PROVE_AT: f32 = 12.0;
const QUARANTINE_AT: f32 = 20.0;
/// The first quarantine, in seconds, and the longest.
pub const TTL_MIN_S: u32 = 60;
/// The longest quarantine, in seconds.
pub const TTL_MAX_S: u32 = 3600;
/// After so long without a strike the next quarantine is a first one.
const TTL_FORGET_US: u64 = 86_400_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of what is done at each of `n` strikes, a second apart from `t`.
    fn play(ladder: &mut Ladder, rule: Rule, t: u64, n: u64, valve: bool) -> Vec<Action> {
        (0..n).map(|i| ladder.strike(rule, Band::High, Moment((t + i) * 1_000_000), valve)).collect()
    }

    #[test]
    fn each_strike_is_answered_harder() {
        let mut ladder = Ladder::default();
        let mut done = play(&mut ladder, Rule::Flood, 1, 21, true);
        done.dedup();
        use Action::{Kill, Prove, Quarantine, Tarpit, Throttle};
        assert_eq!(done, [Throttle, Tarpit, Kill, Prove, Quarantine]);
        assert!(ladder.is_quarantined(ladder.at) && !ladder.is_quarantined(ladder.at.plus(60_000_000)));
        assert_eq!(play(&mut Ladder::default(), Rule::Scan, 1, 1, true), [Kill]);
    }

    #[test]
    fn quarantine_doubles_up_to_its_bound_and_a_closed_valve_holds_it() {
        let mut ladder = Ladder::default();
        let mut ttls = Vec::new();
        for round in 0..9 {
            play(&mut ladder, Rule::Scan, 1 + round * 30, 21, true);
            ttls.push(ladder.ttl_s);
        }
        assert_eq!(ttls, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        ladder.release();
        assert!(!play(&mut ladder, Rule::Scan, 900, 50, false).contains(&Action::Quarantine));
    }
}
