//! Sketches of fixed size: what was seen, and how many differ.

use serde::{Deserialize, Serialize};

use super::sparse;

/// How many different things were seen, in 64 bytes: HyperLogLog with 64 registers (Flajolet 2007); error about 13 %.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Hll64 {
    #[serde(with = "sparse")]
    pub(super) registers: [u8; 64],
}

impl Hll64 {
    /// Nothing seen.
    pub const fn new() -> Self {
        Self { registers: [0; 64] }
    }

    /// Sees a hash. Whether the estimate moved.
    pub fn add(&mut self, hash: u64) -> bool {
        let mixed = mix(hash);
        let rank = ((mixed | 63).leading_zeros() + 1) as u8;
        match self.registers.get_mut((mixed & 63) as usize) {
            Some(register) if *register < rank => {
                *register = rank;
                true
            }
            _ => false,
        }
    }

    /// The estimate, with linear counting while registers are empty.
    #[cfg(test)]
    pub fn estimate(&self) -> f32 {
        let zeros = self.registers.iter().filter(|r| **r == 0).count();
        if zeros > 12 {
            return 64.0 * (64.0 / zeros as f32).ln();
        }
        let sum: f32 = self.registers.iter().map(|r| (-f32::from(*r)).exp2()).sum();
        0.709 * 64.0 * 64.0 / sum
    }
}

/// Which things were ever seen, and since which hour: `BUCKETS` × 8 places of 4 bytes. A thing is told by 16 bits of its
/// keyed hash, so one in 8,000 strangers passes for known; at the bound a chance place is given away.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Known<const BUCKETS: usize> {
    #[serde(with = "sparse")]
    pub(super) places: [[Place; 8]; BUCKETS],
}

/// One thing known.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Place {
    /// 16 bits of its hash; 0 where nothing is.
    pub(super) mark: u16,
    /// The hour it was first seen ([`Known::DOUBTFUL`]: while the device was suspicious).
    pub(super) hour: u16,
}

impl<const BUCKETS: usize> Known<BUCKETS> {
    /// The hour of what was first seen while the device was suspicious: it never grows old.
    pub const DOUBTFUL: u16 = u16::MAX;

    /// Nothing known.
    pub const fn new() -> Self {
        Self { places: [[Place { mark: 0, hour: 0 }; 8]; BUCKETS] }
    }

    /// The hour at which it was first seen, if it was.
    pub fn since(&self, hash: u64) -> Option<u16> {
        let (bucket, mark) = Self::split(hash);
        self.places.get(bucket)?.iter().find(|p| p.mark == mark).map(|p| p.hour)
    }

    /// Remembers it as first seen at that hour, whatever was known of it.
    pub fn set(&mut self, hash: u64, hour: u16) {
        let (bucket, mark) = Self::split(hash);
        let Some(places) = self.places.get_mut(bucket) else { return };
        let at = places
            .iter()
            .position(|p| p.mark == mark)
            .or_else(|| places.iter().position(|p| p.mark == 0))
            .unwrap_or((mark % 8) as usize);
        if let Some(place) = places.get_mut(at) {
            *place = Place { mark, hour };
        }
    }

    /// Remembers it as first seen at that hour, unless it is known.
    pub fn set_if_new(&mut self, hash: u64, hour: u16) {
        if self.since(hash).is_none() {
            self.set(hash, hour);
        }
    }

    /// How many things are known.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.places.iter().flatten().filter(|p| p.mark != 0).count()
    }

    fn split(hash: u64) -> (usize, u16) {
        let mixed = mix(hash);
        ((mixed >> 32) as usize % BUCKETS, (mixed as u16).max(1))
    }
}

/// Spreads the bits of a key (the finaliser of MurmurHash3).
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_things_are_counted_within_a_third() {
        for n in [10u64, 100, 1000, 100_000] {
            let mut h = Hll64::new();
            for i in 0..n {
                h.add(i);
                h.add(i);
            }
            let ratio = h.estimate() / n as f32;
            assert!((0.67..1.5).contains(&ratio), "{n}: {ratio}");
        }
    }

    #[test]
    fn what_is_known_stays_known_until_the_bound() {
        let mut k = Known::<16>::new();
        for i in 0..60u64 {
            assert_eq!(k.since(i), None, "{i}");
            k.set(i, i as u16);
        }
        let kept = (0..60u64).filter(|i| k.since(*i) == Some(*i as u16)).count();
        assert!(kept >= 55, "{kept}");
        for i in 0..1_000_000u64 {
            k.set(i, 1);
        }
        assert_eq!(k.len(), 128);
    }
}
