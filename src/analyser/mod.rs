//! Turns the shape of traffic into a `Risk`: events in, verdicts out, no clock, no payload kept.

pub mod event;
mod verdict;

pub use event::{Event, Keys, Moment};
pub use verdict::{Action, Band, Rule, Stage, Unit, Verdict, Why};
