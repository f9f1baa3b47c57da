//! A map that never grows past its bound and forgets only what is quiet.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Values by key, at most `max`. Full, it forgets quiet ones, oldest first; when none is found, newcomers find no room.
///
/// A newcomer at the bound looks at [`LOOKS_MAX`] entries and moves those that are not quiet to the back: constant
/// time under a flood of newcomers, and every entry is looked at within `max / LOOKS_MAX` of them.
#[derive(Debug)]
pub(super) struct Remembered<K, V> {
    values: HashMap<K, V>,
    /// The keys of `values`, each once, in the order in which they are looked at.
    order: VecDeque<K>,
    max: usize,
}

impl<K: Clone + Eq + Hash, V> Remembered<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { values: HashMap::new(), order: VecDeque::new(), max }
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.values.get(key)
    }

    /// Room for one newcomer, made by forgetting a quiet entry if need be; `false` when there is none.
    pub(super) fn make_room(&mut self, quiet: impl Fn(&V) -> bool) -> bool {
        if self.values.len() < self.max {
            return true;
        }
        for _ in 0..LOOKS_MAX {
            let Some(key) = self.order.pop_front() else { return false };
            if self.values.get(&key).is_none_or(&quiet) {
                self.values.remove(&key);
                return true;
            }
            self.order.push_back(key);
        }
        false
    }

    /// Remembers a newcomer for whom [`Remembered::make_room`] has just made room; without room it is not kept.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.values.len() < self.max && self.values.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }
}

/// Entries a newcomer may look at before it is turned away.
const LOOKS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_oldest_quiet_entry_goes_first_and_the_busy_ones_stay() {
        let mut map = Remembered::new(3);
        for (key, quiet) in [(1, false), (2, true), (3, true)] {
            assert!(map.make_room(|q| *q));
            map.insert(key, quiet);
        }
        assert!(map.make_room(|q| *q));
        map.insert(4, false);
        assert_eq!([1, 2, 3, 4].map(|k| map.get(&k).is_some()), [true, false, true, true]);
    }

    #[test]
    fn among_many_busy_entries_the_one_quiet_is_found_within_a_few_newcomers() {
        let mut map = Remembered::new(100);
        for key in 0..100 {
            map.insert(key, key == 99);
        }
        let tries = (1..).find(|_| map.make_room(|q| *q)).unwrap();
        assert_eq!(tries, 100usize.div_ceil(LOOKS_MAX));
    }

    #[test]
    fn a_map_for_nobody_has_no_room() {
        let mut map = Remembered::new(0);
        assert!(!map.make_room(|()| true));
        map.insert(1, ());
        assert_eq!(map.len(), 0);
    }

    proptest! {
        #[test]
        fn it_never_exceeds_its_bound(max in 0usize..20, keys in prop::collection::vec((0u8..60, any::<bool>()), 0..300)) {
            let mut map = Remembered::new(max);
            for (key, quiet) in keys {
                if map.get(&key).is_none() && map.make_room(|q| *q) {
                    map.insert(key, quiet);
                }
                prop_assert!(map.len() <= max && map.order.len() == map.len());
            }
        }
    }
}
