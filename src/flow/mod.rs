//! The story of one flow, and the table of living ones.

mod settings;

pub use settings::*;
