//! What `device` can be told.

use std::path::PathBuf;
use std::time::Duration;

use super::Weights;
use crate::model::{SpiffeId, Tier};

/// `[device]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Root folder of the machine to collect from. Default `/`; in a container, where the host's is mounted.
    pub sysroot: PathBuf,
    /// This machine's salt, made when it joins. Default `certs/device.salt`.
    pub salt: PathBuf,
    /// This device's own record, which joining brings. Default `certs/device.record`.
    pub record: PathBuf,
    /// Folder of what is remembered of other devices' records. Default `devices`.
    pub records: PathBuf,
    /// The tier that every peer must have, unless it is exempt. Default 0.
    pub require_tier: Tier,
    /// Who need not attest, whatever `require_tier` says; never one that has a record.
    pub exempt: Vec<SpiffeId>,
    /// Devices that are remembered at most. Default 65536.
    pub devices_max: usize,
    /// How often this machine is looked at again. Default 1 min.
    pub look_interval: Duration,
    /// How long flows may go on after their lease is over. Default 3 s.
    pub lease_drain: Duration,
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
