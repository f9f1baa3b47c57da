//! Judges facts against a checked bundle and hands out permits.

mod settings;

pub use settings::*;
