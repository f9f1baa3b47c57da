//! Appends entries to a Merkle log, proves it whole, answers questions.

mod settings;

pub use settings::*;
