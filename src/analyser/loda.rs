//! The generic detector: LODA (Pevný 2016), sparse random projections and their histograms, shared by a role.

use serde::{Deserialize, Serialize};

use super::features::FEATURES;
use super::sketch::mix;
use super::sparse;

/// How many projections.
pub const PROJECTIONS: usize = 64;
/// How many features each looks at.
const LOOKS: usize = 6;
const BINS: usize = 64;

/// The projections; the same in every engine.
#[derive(Clone, Debug)]
pub struct Projections {
    looks: [[(u8, f32); LOOKS]; PROJECTIONS],
}

/// What one role's devices look like, in 8 KiB.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Model {
    #[serde(with = "sparse::boxed")]
    pub(super) bins: Box<[[u16; BINS]; PROJECTIONS]>,
    pub(super) total: u32,
}

impl Projections {
    /// Drawn from a fixed seed.
    pub fn new() -> Self {
        let mut state = 0x5ca1_ab1e_u64;
        let mut draw = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        };
        let mut looks = [[(0_u8, 0.0_f32); LOOKS]; PROJECTIONS];
        for look in looks.iter_mut().flatten() {
            // The sum of twelve uniform numbers less six is close to normal.
            let normal = (0..12).map(|_| (draw() >> 40) as f32 / (1u32 << 24) as f32).sum::<f32>() - 6.0;
            *look = ((draw() % FEATURES as u64) as u8, normal);
        }
        Self { looks }
    }

    fn bin(looks: &[(u8, f32); LOOKS], vector: &[f32; FEATURES]) -> usize {
        let sum: f32 = looks
            .iter()
            .map(|(at, weight)| vector.get(usize::from(*at)).copied().unwrap_or(0.0) * weight)
            .sum();
        ((sum + RANGE) * (BINS as f32 / (2.0 * RANGE))).clamp(0.0, BINS as f32 - 1.0) as usize
    }
}

impl Model {
    /// Nothing learnt.
    pub fn new() -> Self {
        Self { bins: Box::new([[0; BINS]; PROJECTIONS]), total: 0 }
    }

    /// Mean surprise of the projections, in halves of a nat.
    pub fn score(&self, projections: &Projections, vector: &[f32; FEATURES]) -> f32 {
        let mut sum = 0.0;
        let all = (self.total as f32 + 0.5 * BINS as f32).ln();
        for (looks, bins) in projections.looks.iter().zip(self.bins.iter()) {
            let count = bins.get(Projections::bin(looks, vector)).copied().unwrap_or(0);
            sum += all - (f32::from(count) + 0.5).ln();
        }
        2.0 * sum / PROJECTIONS as f32
    }

    /// Learns a vector.
    pub fn add(&mut self, projections: &Projections, vector: &[f32; FEATURES]) {
        for (looks, bins) in projections.looks.iter().zip(self.bins.iter_mut()) {
            if let Some(count) = bins.get_mut(Projections::bin(looks, vector)) {
                *count = count.saturating_add(1);
            }
        }
        self.total += 1;
        if self.total >= u32::from(u16::MAX) {
            self.bins.iter_mut().flatten().for_each(|c| *c /= 2);
            self.total /= 2;
        }
    }
}

/// Projections reach about this far either way.
const RANGE: f32 = 10.0;
