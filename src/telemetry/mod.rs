//! Counts and logs; knows nouns, not rooms.

mod log;
mod metrics;
mod settings;

pub use log::{FilterError, LogError, check_filter, start_logging};
pub use metrics::{Metrics, Outcome, Snapshot, Way};
pub use settings::*;
