//! A bounded table by key: pages of slots, and a hand that finds who makes room.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::sketch::mix;

/// A table of at most `max` values. Keys are numbers that strangers cannot choose.
#[derive(Clone, Debug)]
pub struct Table<V> {
    index: HashMap<u64, u32, BuildHasherDefault<Mixed>>,
    pages: Vec<Vec<Option<(u64, V)>>>,
    free: Vec<u32>,
    hand: u32,
    max: usize,
    evicted: u64,
}

impl<V> Table<V> {
    /// An empty table that will hold at most `max`, at least 1.
    pub fn new(max: usize) -> Self {
        let max = max.clamp(1, u32::MAX as usize / 2);
        Self { index: HashMap::default(), pages: Vec::new(), free: Vec::new(), hand: 0, max, evicted: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Where the hand stands.
    pub fn hand(&self) -> u32 {
        self.hand
    }

    /// Turns the hand there: a table that was filled in another's order then gives away what the other would.
    pub fn turn(&mut self, hand: u32) {
        self.hand = hand % self.slots().max(1);
    }

    /// How many had to make room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The value of a key.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let at = *self.index.get(&key)?;
        self.slot(at)?.as_mut().map(|(_, v)| v)
    }

    /// The value of a key.
    pub fn get(&self, key: u64) -> Option<&V> {
        let at = *self.index.get(&key)?;
        self.pages.get(at as usize / PAGE)?.get(at as usize % PAGE)?.as_ref().map(|(_, v)| v)
    }

    /// Puts a value in. At the bound the one of [`PROBES`] with the least `worth` makes room and is given back.
    pub fn insert<W: PartialOrd>(&mut self, key: u64, value: V, worth: impl Fn(&V) -> W) -> Option<(u64, V)> {
        if let Some(old) = self.get_mut(key) {
            return Some((key, std::mem::replace(old, value)));
        }
        let out = if self.len() >= self.max { self.evict(worth) } else { None };
        let at = self.free.pop().unwrap_or_else(|| self.grow());
        if let Some(slot) = self.slot(at) {
            *slot = Some((key, value));
            self.index.insert(key, at);
        }
        out
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: u64) -> Option<V> {
        let at = self.index.remove(&key)?;
        let (_, value) = self.slot(at)?.take()?;
        self.free.push(at);
        Some(value)
    }

    /// The next at most `n` slots' values after those of the last call, round and round.
    pub fn sweep(&mut self, n: usize, mut each: impl FnMut(u64, &mut V)) {
        let slots = self.slots();
        for _ in 0..n.min(slots as usize) {
            self.hand = (self.hand + 1) % slots.max(1);
            let hand = self.hand;
            if let Some(Some((key, value))) = self.slot(hand) {
                each(*key, value);
            }
        }
    }

    /// Every key and value.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.pages.iter().flatten().flatten().map(|(k, v)| (*k, v))
    }

    fn evict<W: PartialOrd>(&mut self, worth: impl Fn(&V) -> W) -> Option<(u64, V)> {
        let mut least: Option<(u64, W)> = None;
        self.sweep(PROBES, |key, value| {
            let worth = worth(value);
            if least.as_ref().is_none_or(|(_, w)| worth < *w) {
                least = Some((key, worth));
            }
        });
        let (key, _) = least?;
        self.evicted += 1;
        self.remove(key).map(|v| (key, v))
    }

    fn slots(&self) -> u32 {
        self.pages.iter().map(Vec::len).sum::<usize>() as u32
    }

    fn grow(&mut self) -> u32 {
        let at = self.slots();
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE => page.push(None),
            _ => {
                let mut page = Vec::with_capacity(PAGE.min(self.max));
                page.push(None);
                self.pages.push(page);
            }
        }
        at
    }

    fn slot(&mut self, at: u32) -> Option<&mut Option<(u64, V)>> {
        self.pages.get_mut(at as usize / PAGE)?.get_mut(at as usize % PAGE)
    }
}

/// Spreads keys that are numbers already.
#[derive(Clone, Copy, Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = mix(self.0 ^ u64::from(*b));
        }
    }

    fn write_u64(&mut self, x: u64) {
        self.0 = mix(x);
    }
}

/// Slots of a page.
const PAGE: usize = 128;
/// How many are looked at to find who makes room.
pub const PROBES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_keeps_what_is_worth_most() {
        let mut table = Table::new(300);
        for key in 0..100_000u64 {
            table.insert(key, if key % 5000 == 0 { 9 } else { 1 }, |v| *v);
            assert!(table.len() <= 300);
        }
        assert_eq!(table.iter().filter(|(_, v)| **v == 9).count(), 20);
        assert_eq!(table.evicted(), 100_000 - 300);
    }

    #[test]
    fn slots_are_used_again() {
        let mut table = Table::new(10_000);
        for key in 0..10_000u64 {
            table.insert(key, key, |v| *v);
            if key > 5 {
                assert_eq!(table.remove(key - 5), Some(key - 5));
            }
        }
        assert!(table.slots() < 20);
        assert_eq!(table.get_mut(9_999), Some(&mut 9_999));
        assert_eq!(table.get(3), None);
    }
}
