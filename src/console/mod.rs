//! Admin API: shows what is, asks for what may be.

mod settings;

pub use settings::*;
