//! Admits or refuses work before it costs anything.

mod settings;

pub use settings::*;
