//! Counts and logs; knows nouns, not rooms.

mod settings;

pub use settings::*;
