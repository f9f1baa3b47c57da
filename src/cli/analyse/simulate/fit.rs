//! Fits a logistic prior: ridge-penalised, both classes weighing the same, by descent with momentum (Nesterov 1983).
//!
//! Sums run in the order of the rows and nothing is left to chance, so the same rows give the same weights.

/// What one checkpoint looked like, and whether an attack made it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its features.
    pub vector: Vec<f32>,
    /// Whether it was an attacker's.
    pub attack: bool,
}

/// Weights for raw features, and what is added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// One per feature.
    pub each: Vec<f64>,
    /// Added to the sum.
    pub bias: f64,
}

impl Weights {
    /// Log-odds that a vector is an attacker's.
    pub fn log_odds(&self, vector: &[f32]) -> f64 {
        self.bias + self.each.iter().zip(vector).map(|(w, x)| w * f64::from(*x)).sum::<f64>()
    }
}

/// Fits `width` weights to the rows; all zero where one of the classes is missing.
pub fn fit(rows: &[Row], width: usize, ridge: f64) -> Weights {
    let attacks = rows.iter().filter(|r| r.attack).count();
    let honest = rows.len() - attacks;
    if attacks == 0 || honest == 0 {
        return Weights { each: vec![0.0; width], bias: 0.0 };
    }
    let scales = Scales::of(rows, width);
    let scaled: Vec<(Vec<f64>, f64, f64)> = rows
        .iter()
        .map(|row| {
            let weight = 0.5 / if row.attack { attacks } else { honest } as f64;
            (scales.scaled(&row.vector), f64::from(u8::from(row.attack)), weight)
        })
        .collect();
    // The last weight is the bias; it is not penalised.
    let (mut now, mut before) = (vec![0.0; width + 1], vec![0.0; width + 1]);
    for step in 0..STEPS {
        let momentum = f64::from(step) / (f64::from(step) + 3.0);
        let ahead: Vec<f64> = now.iter().zip(&before).map(|(n, b)| n + momentum * (n - b)).collect();
        let mut slope = vec![0.0; width + 1];
        for (vector, is_attack, weight) in &scaled {
            let odds: f64 = vector.iter().zip(&ahead).map(|(x, w)| x * w).sum::<f64>() + last(&ahead);
            let miss = weight * (1.0 / (1.0 + (-odds).exp()) - is_attack);
            for (s, x) in slope.iter_mut().zip(vector.iter().chain(&[1.0])) {
                *s += miss * x;
            }
        }
        for (s, w) in slope.iter_mut().zip(&ahead).take(width) {
            *s += ridge * w;
        }
        // Features have deviation 1, so the curvature is at most a quarter of their number and the ridge.
        let rate = 1.0 / (0.25 * (width as f64 + 1.0) + ridge);
        before = now;
        now = ahead.iter().zip(&slope).map(|(w, s)| w - rate * s).collect();
    }
    scales.raw(&now, width)
}

/// Mean and deviation of each feature.
struct Scales {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Scales {
    fn of(rows: &[Row], width: usize) -> Self {
        let count = rows.len().max(1) as f64;
        let mut mean = vec![0.0; width];
        for row in rows {
            for (m, x) in mean.iter_mut().zip(&row.vector) {
                *m += f64::from(*x) / count;
            }
        }
        let mut square = vec![0.0; width];
        for row in rows {
            for ((s, x), m) in square.iter_mut().zip(&row.vector).zip(&mean) {
                *s += (f64::from(*x) - m).powi(2) / count;
            }
        }
        // A floor: a feature that hardly ever moved must not become the loudest of all.
        let deviation = square.into_iter().map(|s: f64| s.sqrt().max(DEVIATION_MIN)).collect();
        Self { mean, deviation }
    }

    fn scaled(&self, vector: &[f32]) -> Vec<f64> {
        let scales = self.mean.iter().zip(&self.deviation);
        vector.iter().zip(scales).map(|(x, (m, d))| ((f64::from(*x) - m) / d).clamp(-FAR, FAR)).collect()
    }

    fn raw(&self, weights: &[f64], width: usize) -> Weights {
        let each: Vec<f64> = weights.iter().zip(&self.deviation).take(width).map(|(w, d)| w / d).collect();
        let bias = last(weights) - each.iter().zip(&self.mean).map(|(w, m)| w * m).sum::<f64>();
        Weights { each, bias }
    }
}

fn last(weights: &[f64]) -> f64 {
    weights.last().copied().unwrap_or(0.0)
}

const STEPS: u32 = 400;
const DEVIATION_MIN: f64 = 0.05;
const FAR: f64 = 8.0;

#[cfg(test)]
mod tests {
    use super::super::dice::Dice;
    use super::*;

    /// Rows whose first feature tells, whose second is noise, and whose third never moves.
    fn rows(seed: u64, count: usize) -> Vec<Row> {
        let mut dice = Dice::new(seed, "fit");
        (0..count)
            .map(|_| {
                let attack = dice.chance(0.1);
                let tell = dice.normal() + if attack { 3.0 } else { 0.0 };
                Row { vector: vec![tell as f32 * 10.0 + 5.0, dice.normal() as f32, 1.0], attack }
            })
            .collect()
    }

    #[test]
    fn what_tells_gets_the_weight_and_noise_gets_none() {
        let weights = fit(&rows(1, 4000), 3, 1e-3);
        let [tell, noise, still] = weights.each.as_slice() else { panic!() };
        assert!(*tell > 0.1 && noise.abs() < 0.15 && still.abs() < 1e-9, "{weights:?}");
        let fresh = rows(2, 4000);
        let right = fresh.iter().filter(|r| (weights.log_odds(&r.vector) > 0.0) == r.attack).count();
        assert!(right > 3600, "{right}");
        assert_eq!(weights, fit(&rows(1, 4000), 3, 1e-3));
    }

    #[test]
    fn one_class_alone_teaches_nothing() {
        let mut honest = rows(1, 100);
        honest.retain(|r| !r.attack);
        assert_eq!(fit(&honest, 3, 1e-3), Weights { each: vec![0.0; 3], bias: 0.0 });
        assert_eq!(fit(&[], 2, 1e-3), Weights { each: vec![0.0; 2], bias: 0.0 });
    }
}
