//! The peers' door and the way out: one authenticated session, many flows.

mod settings;

pub use settings::*;
