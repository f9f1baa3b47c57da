//! Turns the shape of traffic into a `Risk`: events in, verdicts out, no clock, no payload kept.

mod decay;
mod device;
mod engine;
pub mod event;
mod evidence;
mod features;
mod flow;
mod ladder;
mod limits;
mod loda;
mod prior;
mod relation;
mod settings;
mod sketch;
mod snapshot;
mod sparse;
mod table;
mod tail;
#[cfg(test)]
mod tests;
mod tongue;
mod usage;
mod verdict;

pub use engine::{Engine, Meters};
pub use event::{Event, Keys, Moment};
pub use features::{FEATURES, NAMES as FEATURE_NAMES};
pub use prior::{Prior, PriorError};
pub use settings::Settings;
pub use snapshot::{Restored, SNAPSHOT_BYTES_MAX, SnapshotError};
pub use verdict::{Action, Band, Rule, Stage, Unit, Verdict, Why};
