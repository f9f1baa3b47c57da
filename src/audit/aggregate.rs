//! Sums denials that come faster than a rate, so that a flood cannot fill the log; none goes uncounted. Pure.

use std::collections::HashMap;

use super::entry::{Entry, Kind, Source};
use crate::model::{Reason, ServiceName, SpiffeId, Timestamp};

/// What denials have in common when they are summed.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    reason: Option<Reason>,
    source: Option<Source>,
    device: Option<SpiffeId>,
    service: Option<ServiceName>,
}

/// Passes the first denials of each kind in each second and sums the rest.
///
/// Holds at most `keys_max` kinds; what comes on top shares one cell.
#[derive(Debug)]
pub struct Aggregate {
    passes_per_second: u32,
    keys_max: usize,
    cells: HashMap<Key, Cell>,
    overflow: Cell,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    second: u64,
    passed: u32,
    summed: u64,
    first: Timestamp,
    last: Timestamp,
}

/// What becomes of a denial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It becomes an entry of its own.
    Write,
    /// It is counted in the next sum.
    Summed,
}

impl Aggregate {
    /// Denials of one kind that become entries of their own, per second.
    pub const PASSES_PER_SECOND: u32 = 20;
    /// Kinds told apart at once.
    pub const KEYS_MAX: usize = 4096;

    /// With its two bounds.
    pub fn new(passes_per_second: u32, keys_max: usize) -> Self {
        Self { passes_per_second, keys_max, cells: HashMap::new(), overflow: Cell::default() }
    }

    /// Passes or sums `denial`, whose `at` is the time that counts.
    pub fn offer(&mut self, denial: &Entry) -> Verdict {
        let key = Key {
            reason: denial.reason,
            source: denial.source,
            device: denial.device.clone(),
            service: denial.service.clone(),
        };
        let full = self.cells.len() >= self.keys_max;
        let cell = match self.cells.get_mut(&key) {
            Some(cell) => cell,
            None if full => &mut self.overflow,
            None => self.cells.entry(key).or_default(),
        };
        cell.offer(denial.at, self.passes_per_second)
    }

    /// The sums of the seconds before `now`, each an entry, and forgets the kinds that have gone quiet.
    pub fn drain(&mut self, now: Timestamp) -> Vec<Entry> {
        self.drain_where(|cell| cell.second < now.as_secs())
    }

    /// Every sum there is.
    pub fn drain_all(&mut self) -> Vec<Entry> {
        self.drain_where(|_| true)
    }

    fn drain_where(&mut self, over: impl Fn(&Cell) -> bool) -> Vec<Entry> {
        let mut sums = Vec::new();
        self.cells.retain(|key, cell| {
            let over = over(cell);
            if over && cell.summed > 0 {
                sums.push(Entry {
                    reason: key.reason,
                    source: key.source,
                    device: key.device.clone(),
                    service: key.service.clone(),
                    ..cell.sum("like those before")
                });
            }
            !over
        });
        if over(&self.overflow) {
            if self.overflow.summed > 0 {
                sums.push(self.overflow.sum("of too many kinds to tell apart"));
            }
            self.overflow = Cell::default();
        }
        sums
    }
}

impl Cell {
    fn offer(&mut self, at: Timestamp, passes_per_second: u32) -> Verdict {
        // A clock set back stays in the later second: it may not buy fresh passes.
        if at.as_secs() > self.second {
            self.second = at.as_secs();
            self.passed = 0;
        }
        if self.passed < passes_per_second {
            self.passed += 1;
            return Verdict::Write;
        }
        if self.summed == 0 {
            self.first = at;
        }
        self.summed += 1;
        self.last = at;
        Verdict::Summed
    }

    fn sum(&self, what: &str) -> Entry {
        Entry {
            count: Some(self.summed),
            ms: u64::try_from(self.last.since(self.first).as_millis()).ok(),
            detail: Some(format!("{} more {what}, from {} on", self.summed, self.first).into()),
            ..Entry::new(self.last, Kind::Deny)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn denial(source: u32, ms: u64) -> Entry {
        let at = Timestamp::from_millis(ms);
        Entry { source: Some(Source::Uid(source)), ..Entry::new(at, Kind::Deny) }
    }

    /// Plays denials of one source at the given ms; how many became entries of their own, and the sums.
    fn play(passes: u32, at_ms: &[u64], drain_ms: u64) -> (usize, Vec<u64>) {
        let mut aggregate = Aggregate::new(passes, 10);
        let own = at_ms.iter().filter(|ms| aggregate.offer(&denial(1, **ms)) == Verdict::Write).count();
        let sums = aggregate.drain(Timestamp::from_millis(drain_ms));
        (own, sums.iter().filter_map(|s| s.count).collect())
    }

    #[test]
    fn the_first_of_each_second_pass_and_the_rest_are_summed() {
        assert_eq!(play(2, &[1000, 1001, 1002, 1003], 2000), (2, vec![2]));
        assert_eq!(play(2, &[1000, 1001, 2000, 2001], 3000), (4, vec![]));
        assert_eq!(play(2, &[1000, 1001, 1002], 1999), (2, vec![]), "the second is not over");
    }

    #[test]
    fn a_clock_set_back_buys_no_passes() {
        assert_eq!(play(1, &[5000, 1000, 2000, 5001], 6000), (1, vec![3]));
    }

    #[test]
    fn at_the_bound_strangers_share_one_cell() {
        let mut aggregate = Aggregate::new(1, 2);
        for source in 0..10 {
            aggregate.offer(&denial(source, 1000));
        }
        let sums = aggregate.drain(Timestamp::from_millis(2000));
        assert_eq!(sums.len(), 1);
        // Two kinds passed, one of the other eight passed the shared cell.
        assert_eq!((sums[0].count, sums[0].source), (Some(7), None));
        assert!(aggregate.cells.is_empty(), "quiet kinds are forgotten");
    }

    proptest! {
        #[test]
        fn no_denial_goes_uncounted(
            denials in prop::collection::vec((0u32..6, 0u64..5000), 0..400),
            drains in prop::collection::vec(0u64..6000, 0..10),
            passes in 0u32..4, keys in 0usize..5,
        ) {
            let mut aggregate = Aggregate::new(passes, keys);
            let (mut own, mut summed) = (0u64, 0u64);
            for (n, (source, ms)) in denials.iter().enumerate() {
                own += u64::from(aggregate.offer(&denial(*source, *ms)) == Verdict::Write);
                prop_assert!(aggregate.cells.len() <= keys);
                if let Some(at) = drains.get(n / 40).filter(|_| n % 40 == 0) {
                    let sums = aggregate.drain(Timestamp::from_millis(*at));
                    summed += sums.iter().filter_map(|s| s.count).sum::<u64>();
                }
            }
            summed += aggregate.drain_all().iter().filter_map(|s| s.count).sum::<u64>();
            prop_assert_eq!(own + summed, denials.len() as u64);
            prop_assert!(aggregate.drain_all().is_empty());
        }
    }
}
