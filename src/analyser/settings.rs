//! How the analyser is set.

use std::time::Duration;

use super::event::Moment;
use super::prior::Prior;
use super::verdict::Rule;

/// What the analyser may hold and when it acts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The most flows at a time; the least suspicious make room.
    pub flows_max: usize,
    /// The most devices; the least suspicious and longest silent make room.
    pub devices_max: usize,
    /// Learning ends here, and enforcing begins, whatever the rules of promotion say. For replays.
    pub learn_until: Option<Moment>,
    /// The least time a device is learnt by itself.
    pub learn_min: Duration,
    /// The least checkpoints it is learnt by.
    pub learn_checkpoints_min: u32,
    /// The stated share of honest checkpoints that are blocked.
    pub alpha: f32,
    /// Rules that are off.
    pub without: Vec<Rule>,
    /// The shipped prior; none: it is off.
    pub prior: Option<Prior>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flows_max: 100_000,
            devices_max: 10_000,
            learn_until: None,
            learn_min: Duration::from_secs(86_400),
            learn_checkpoints_min: 2000,
            alpha: 1e-5,
            without: Vec::new(),
            prior: None,
        }
    }
}
