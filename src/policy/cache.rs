//! Remembers answers in two generations: what is asked again moves to the young one, the old one is dropped whole.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// At most `max` answers; with a `max` below 2 none.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    /// Bound of each generation.
    half: usize,
    maps: Mutex<Generations<K, V>>,
}

#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    pub(crate) fn new(max: usize) -> Self {
        let maps = Generations { young: HashMap::new(), old: HashMap::new() };
        Self { half: max / 2, maps: Mutex::new(maps) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut maps = self.lock();
        if let Some(value) = maps.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = maps.old.remove_entry(key)?;
        let dropped = self.put_young(&mut maps, key, value.clone());
        drop(maps);
        drop(dropped);
        Some(value)
    }

    pub(crate) fn put(&self, key: K, value: V) {
        if self.half == 0 {
            return;
        }
        let mut maps = self.lock();
        maps.old.remove(&key);
        let dropped = self.put_young(&mut maps, key, value);
        drop(maps);
        // Thousands of entries, perhaps: freed after the lock is.
        drop(dropped);
    }

    fn put_young(&self, maps: &mut Generations<K, V>, key: K, value: V) -> HashMap<K, V> {
        let full = maps.young.len() >= self.half && !maps.young.contains_key(&key);
        let dropped = if full {
            let young = std::mem::take(&mut maps.young);
            std::mem::replace(&mut maps.old, young)
        } else {
            HashMap::new()
        };
        maps.young.insert(key, value);
        dropped
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let maps = self.lock();
        maps.young.len() + maps.old.len()
    }

    /// A panic elsewhere cannot leave the maps half-changed in a way that matters: each entry is whole.
    fn lock(&self) -> MutexGuard<'_, Generations<K, V>> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_bound_and_keeps_what_is_asked_again() {
        let cache = Cache::new(8);
        for key in 0..100 {
            cache.put(key, key);
            assert_eq!(cache.get(&0), Some(0), "after {key}");
            assert!(cache.len() <= 8);
        }
        assert_eq!((cache.get(&99), cache.get(&50)), (Some(99), None));
    }

    #[test]
    fn a_bound_below_two_remembers_nothing() {
        for max in [0, 1] {
            let cache = Cache::new(max);
            cache.put(1, 1);
            assert_eq!((cache.get(&1), cache.len()), (None, 0));
        }
    }
}
