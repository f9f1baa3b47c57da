//! Random numbers for the simulator: the same seed gives the same bytes, today and with any later version.
//!
//! xoshiro256++ seeded by SplitMix64 (Blackman and Vigna 2021). Written here, not taken from a crate, because the weights
//! of the shipped prior and the table of the documents hang on every single number.

/// A seeded source of random numbers.
#[derive(Clone, Debug)]
pub struct Dice {
    state: [u64; 4],
}

impl Dice {
    /// From a seed and a word that keeps several sources of one seed apart.
    pub fn new(seed: u64, word: &str) -> Self {
        // FNV-1a of the word, so that words may be given freely.
        let mut mix = word.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut next = || {
            mix = mix.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = mix;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (mut c2, mut d2) = (c ^ a, d ^ b);
        let (b2, a2) = (b ^ c2, a ^ d2);
        c2 ^= b << 17;
        d2 = d2.rotate_left(45);
        self.state = [a2, b2, c2, d2];
        result
    }

    /// In `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// In `from..to`.
    pub fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.unit()
    }

    /// In `0..count`; 0 for a count of 0.
    pub fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(count)) >> 64) as u64
    }

    /// In `from..=to`.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Time to the next event of a Poisson process, with this mean.
    pub fn wait(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Normal, mean 0 and deviation 1: the sum of twelve uniform numbers; no tail beyond 6.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// Log-normal with this median; `sigma` is the deviation of its logarithm.
    pub fn around(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    /// One of them; `default` of none.
    pub fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        usize::try_from(self.below(from.len() as u64))
            .ok()
            .and_then(|at| from.get(at))
            .copied()
            .unwrap_or_default()
    }

    /// One of `count`, the first ones far more often: 0 twice as often as 1, thrice as often as 2.
    pub fn favourite(&mut self, count: u64) -> u64 {
        // The inverse of the logarithm that sums 1/n.
        let top = (count.max(1) as f64 + 1.0).ln();
        ((self.unit() * top).exp() - 1.0).clamp(0.0, count.saturating_sub(1) as f64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let mut dice = Dice::new(1, "fixed");
        let first: Vec<u64> = (0..3).map(|_| dice.bits()).collect();
        assert_eq!(first, FIRST);
        assert_ne!(Dice::new(1, "other").bits(), first[0]);
        assert_ne!(Dice::new(2, "fixed").bits(), first[0]);
    }

    #[test]
    fn the_shapes_are_what_they_say() {
        let mut dice = Dice::new(3, "shapes");
        let count = 20_000;
        let mut mean = |f: &mut dyn FnMut(&mut Dice) -> f64| {
            (0..count).map(|_| f(&mut dice)).sum::<f64>() / f64::from(count)
        };
        let near = |value: f64, expected: f64| {
            assert!((value - expected).abs() < 0.05 * expected.max(1.0), "{value}")
        };
        near(mean(&mut |d| d.unit()), 0.5);
        near(mean(&mut |d| d.below(11) as f64), 5.0);
        near(mean(&mut |d| d.wait(3.0)), 3.0);
        near(mean(&mut |d| d.normal().powi(2)), 1.0);
        near(mean(&mut |d| f64::from(u8::from(d.around(7.0, 1.0) < 7.0))), 0.5);
        near(mean(&mut |d| f64::from(u8::from(d.favourite(7) == 0))), 1.0 / 3.0);
        let mut dice = Dice::new(4, "bounds");
        assert!((0..count).all(|_| dice.favourite(3) < 3 && dice.below(3) < 3 && dice.range(4, 5) / 2 == 2));
        assert_eq!((dice.below(0), dice.favourite(0), dice.pick::<u8>(&[])), (0, 0, 0));
    }

    #[test]
    fn the_generator_is_the_one_of_the_paper() {
        let mut dice = Dice { state: [1, 2, 3, 4] };
        let first: Vec<u64> = (0..5).map(|_| dice.bits()).collect();
        // The reference implementation in C, seeded with 1, 2, 3, 4.
        assert_eq!(first, [41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205]);
    }

    const FIRST: [u64; 3] = [5818008798104181149, 17915640393132737234, 11979586628800558119];
}
