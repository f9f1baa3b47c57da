//! The shipped prior: a logistic rule learnt from simulated attacks, read from a small file in the repository.

use super::features::{FEATURES, NAMES};

/// Weights for raw features and what is added to their sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Prior {
    weights: [f32; FEATURES],
    bias: f32,
    silent: bool,
}

/// Why a file holds no prior.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PriorError {
    /// A line is not `name number`.
    #[error("line {line}: expected a feature's name and its weight")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// No feature of this name.
    #[error("line {line}: no feature is called `{name}`")]
    Feature {
        /// Its number, from 1.
        line: usize,
        /// The name, cut to 40 characters.
        name: String,
    },
}

impl Prior {
    /// Reads `name weight` lines; `bias` is a name too, `#` begins a comment, what is not named weighs nothing.
    ///
    /// # Errors
    /// [`PriorError`] at the first line that is neither.
    pub fn parse(text: &str) -> Result<Self, PriorError> {
        let mut prior = Self { weights: [0.0; FEATURES], bias: 0.0, silent: true };
        for (at, line) in text.lines().enumerate() {
            let line_number = at + 1;
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(name), Some(number), None) = (words.next(), words.next(), words.next()) else {
                return Err(PriorError::Line { line: line_number });
            };
            let weight: f32 = number
                .parse()
                .ok()
                .filter(|w: &f32| w.is_finite())
                .ok_or(PriorError::Line { line: line_number })?;
            if name == "bias" {
                prior.bias = weight;
                continue;
            }
            let place = NAMES.iter().position(|n| *n == name).and_then(|i| prior.weights.get_mut(i));
            let Some(place) = place else {
                let name = name.chars().take(40).collect();
                return Err(PriorError::Feature { line: line_number, name });
            };
            *place = weight;
            prior.silent &= weight == 0.0;
        }
        Ok(prior)
    }

    /// Log-odds that an attack looks like this, never below 0; none without weights.
    pub fn odds(&self, vector: &[f32; FEATURES]) -> Option<f32> {
        if self.silent {
            return None;
        }
        let sum: f32 = self.weights.iter().zip(vector).map(|(w, x)| w * x).sum();
        Some((sum + self.bias + SHIFT).max(0.0))
    }
}

/// Log-odds are shifted so that honest traffic, far below 0, can still be told apart.
const SHIFT: f32 = 8.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_by_name_and_what_is_no_weight_is_refused() {
        let prior = Prior::parse("# a comment\nnew_service 2\nbias -1\n").unwrap();
        let mut vector = [0.0; FEATURES];
        assert_eq!(prior.odds(&vector), Some(SHIFT - 1.0));
        vector[NAMES.iter().position(|n| *n == "new_service").unwrap()] = 1.0;
        assert_eq!(prior.odds(&vector), Some(SHIFT + 1.0));
        assert_eq!(Prior::parse("").unwrap().odds(&vector), None);
        for bad in ["new_service", "new_service x", "new_service NaN", "new_service 1 2"] {
            assert_eq!(Prior::parse(bad), Err(PriorError::Line { line: 1 }), "{bad}");
        }
        assert!(matches!(Prior::parse("\nwonder 1"), Err(PriorError::Feature { line: 2, .. })));
    }
}
