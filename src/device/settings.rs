//! What `device` can be told.

use std::path::PathBuf;
use std::time::Duration;

use super::Weights;

/// `[device]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Root folder of the machine to collect from. Default `/`; in a container, where the host's is mounted.
    pub sysroot: PathBuf,
    /// This machine's salt, made when missing. Default `certs/device.salt`.
    pub salt: PathBuf,
    /// When a device is taken for the same.
    pub thresholds: Thresholds,
}

/// When a device is taken for the same, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Thresholds {
    /// How much each component weighs.
    pub weights: Weights,
    /// From this score on, in percent, it is the same device. Default 85.
    pub match_min: u8,
    /// From this score on, in percent, it has drifted; below it goes to quarantine. Default 60.
    pub drift_min: u8,
    /// How many values of the board may change before it goes to quarantine whatever the score. Default 1.
    pub board_changed_max: usize,
    /// How long it must have been without drift for its baseline to follow by itself. Default 7 days.
    pub drift_quiet: Duration,
    /// How long a lease lasts. Default 15 min.
    pub lease_ttl: Duration,
    /// How long a lease lasts after drift. Default 1 min.
    pub lease_ttl_drift: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            weights: Weights::default(),
            match_min: 85,
            drift_min: 60,
            board_changed_max: 1,
            drift_quiet: Duration::from_secs(7 * 24 * 60 * 60),
            lease_ttl: Duration::from_secs(15 * 60),
            lease_ttl_drift: Duration::from_secs(60),
        }
    }
}
