//! Notices two machines that use one identity, without special hardware: each renewal hands out a fresh token.
//!
//! One of these per device and verifier. The prover has one renewal under way at a time. The token shown last stays
//! good until the one handed out for it is shown: a crash or a lost answer brands nobody. Who shows nothing, or what
//! this verifier never made, starts anew and thereby ends what was before: when that comes back, there are two.

use std::collections::VecDeque;

use super::record::digest_of;
use crate::model::Reason;

/// Spent tokens that are remembered; an older one is as good as none, and starts anew.
pub const SPENT_MAX: usize = 64;

/// What one verifier remembers of one device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Continuity {
    /// Digests of the tokens that would go on: the one handed out last, and the one that was shown for it.
    good: Vec<[u8; 32]>,
    spent: VecDeque<[u8; 32]>,
    boot: Option<[u8; 16]>,
    generation: u64,
    suspected: bool,
}

/// A span without a break: leases of an earlier one are over.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Generation(u64);

/// What a device shows.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The token it was handed last.
    pub token: Option<[u8; 32]>,
    /// What it presents of its boot.
    pub boot: [u8; 16],
    /// The generation of the lease that it renews; `None` on a new session.
    pub renews: Option<Generation>,
}

impl Continuity {
    /// Takes what the device shows and hands out `next`, which must be random. Says to which generation its lease belongs.
    ///
    /// # Errors
    /// `CloneSuspected`, from now on until [`Continuity::reset`]: a spent token, or a lease that was superseded.
    pub fn show(&mut self, arrival: &Arrival, next: &[u8; 32]) -> Result<Generation, Reason> {
        let token = arrival.token.map(|token| digest_of(&token));
        let spent = token.is_some_and(|token| self.spent.contains(&token));
        let superseded = arrival.renews.is_some_and(|lease| lease.0 != self.generation);
        if self.suspected || spent || superseded {
            self.suspected = true;
            return Err(Reason::CloneSuspected);
        }
        let known = token.filter(|token| self.good.contains(token));
        if known.is_none() || self.boot != Some(arrival.boot) {
            self.generation += 1;
        }
        // What was shown stays good until what is handed out now is shown; everything else is over.
        for old in std::mem::take(&mut self.good).into_iter().filter(|old| Some(*old) != known) {
            self.spend(old);
        }
        self.good.extend(known);
        self.good.push(digest_of(next));
        self.boot = Some(arrival.boot);
        Ok(Generation(self.generation))
    }

    /// Whether a lease of this generation may go on.
    ///
    /// # Errors
    /// `CloneSuspected` while there is a suspicion, `LeaseExpired` when a newer generation took its place.
    pub fn check(&self, lease: Generation) -> Result<(), Reason> {
        if self.suspected {
            return Err(Reason::CloneSuspected);
        }
        if lease.0 != self.generation {
            return Err(Reason::LeaseExpired);
        }
        Ok(())
    }

    /// Whether two machines seem to use this identity.
    pub fn suspected(&self) -> bool {
        self.suspected
    }

    /// Forgets everything: someone has looked at it.
    pub fn reset(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }

    fn spend(&mut self, token: [u8; 32]) {
        if self.spent.len() >= SPENT_MAX {
            self.spent.pop_front();
        }
        self.spent.push_back(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: u8) -> [u8; 32] {
        [n; 32]
    }

    /// Plays `(token shown, boot, lease renewed)`; the answer to the n-th hands out token n, from 1.
    fn play(arrivals: &[(u8, u8, u64)]) -> Vec<Result<u64, Reason>> {
        let mut state = Continuity::default();
        let mut said = Vec::new();
        for ((shown, boot, renews), n) in arrivals.iter().zip(1..) {
            let arrival = Arrival {
                token: (*shown > 0).then(|| token(*shown)),
                boot: [*boot; 16],
                renews: (*renews > 0).then_some(Generation(*renews)),
            };
            said.push(state.show(&arrival, &token(n)).map(|g| g.0));
        }
        said
    }

    const CLONE: Result<u64, Reason> = Err(Reason::CloneSuspected);

    #[test]
    fn an_honest_device_goes_on() {
        assert_eq!(play(&[(0, 1, 0), (1, 1, 1), (2, 1, 1), (3, 1, 0)]), [Ok(1); 4]);
    }

    #[test]
    fn a_lost_answer_brands_nobody() {
        // The second answer is lost twice, so token 1 is shown three times.
        assert_eq!(play(&[(0, 1, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1), (4, 1, 1)]), [Ok(1); 5]);
        // The very first is lost.
        assert_eq!(play(&[(0, 1, 0), (0, 1, 0), (2, 1, 2)]), [Ok(1), Ok(2), Ok(2)]);
    }

    #[test]
    fn a_reboot_supersedes_the_old_lease() {
        assert_eq!(play(&[(0, 1, 0), (1, 2, 0), (2, 2, 2)]), [Ok(1), Ok(2), Ok(2)]);
        assert_eq!(play(&[(0, 1, 0), (1, 2, 0), (2, 1, 1)]), [Ok(1), Ok(2), CLONE]);
    }

    #[test]
    fn a_spent_token_is_a_clone() {
        assert_eq!(play(&[(0, 1, 0), (1, 1, 1), (2, 1, 1), (1, 1, 0)]), [Ok(1), Ok(1), Ok(1), CLONE]);
    }

    #[test]
    fn a_copy_that_shows_first_is_noticed_when_the_original_comes() {
        // The copy has token 1 as the original had, and shows it after the original was handed token 2.
        assert_eq!(play(&[(0, 1, 0), (1, 1, 1), (1, 1, 0), (2, 1, 1)]), [Ok(1), Ok(1), Ok(1), CLONE]);
    }

    #[test]
    fn a_copy_that_shows_no_token_is_noticed_when_the_original_renews() {
        assert_eq!(play(&[(0, 1, 0), (0, 1, 0), (1, 1, 1)]), [Ok(1), Ok(2), CLONE]);
        assert_eq!(play(&[(0, 1, 0), (99, 1, 0), (1, 1, 0)]), [Ok(1), Ok(2), CLONE]);
    }

    #[test]
    fn a_suspicion_stays_until_someone_looked() {
        let mut state = Continuity::default();
        let arrival = |shown, renews| Arrival { token: Some(token(shown)), boot: [1; 16], renews };
        let first = state.show(&arrival(0, None), &token(1)).unwrap();
        state.show(&arrival(1, Some(first)), &token(2)).unwrap();
        state.show(&arrival(2, Some(first)), &token(3)).unwrap();
        assert_eq!(state.check(first), Ok(()));
        assert!(!state.suspected());
        assert_eq!(state.show(&arrival(1, None), &token(4)), Err(Reason::CloneSuspected));
        assert_eq!(state.show(&arrival(3, Some(first)), &token(5)), Err(Reason::CloneSuspected));
        assert!(state.suspected());
        assert_eq!(state.check(first), Err(Reason::CloneSuspected));
        state.reset();
        assert_eq!(state.check(first), Err(Reason::LeaseExpired));
        assert!(state.show(&arrival(3, None), &token(6)).unwrap() > first);
    }

    #[test]
    fn spent_tokens_are_remembered_up_to_their_bound() {
        let mut state = Continuity::default();
        for n in 0..=u8::try_from(SPENT_MAX).unwrap() + 1 {
            let arrival = Arrival { token: (n > 0).then(|| token(n)), boot: [1; 16], renews: None };
            state.show(&arrival, &token(n + 1)).unwrap();
        }
        assert_eq!(state.spent.len(), SPENT_MAX);
        let oldest = Arrival { token: Some(token(1)), boot: [1; 16], renews: None };
        assert!(state.clone().show(&oldest, &token(200)).is_err(), "the oldest that is remembered");
        let one_more = Arrival { token: Some(token(66)), boot: [1; 16], renews: None };
        state.show(&one_more, &token(67)).unwrap();
        assert_eq!(state.spent.len(), SPENT_MAX);
        assert!(state.show(&oldest, &token(200)).is_ok(), "forgotten, it starts anew");
    }
}
