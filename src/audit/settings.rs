//! What `audit` can be told.

use std::path::PathBuf;
use std::time::Duration;

/// `[audit]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of the log. Default `audit`.
    pub dir: PathBuf,
    /// Ed25519 signing key (PKCS#8 PEM, 0600), made at the first start. Default `audit.key` beside the configuration file.
    pub key: PathBuf,
    /// What happens when the log cannot take an entry. Default block.
    pub on_full: OnFull,
    /// Most entries waiting for the writer. Default 16384.
    pub queue_max: usize,
    /// Longest wait before a group of entries is written and synced. Default 50 ms.
    pub commit_interval: Duration,
    /// A segment is closed at this size in bytes. Default 64 MiB.
    pub segment_bytes_max: u64,
    /// Free bytes the disk must keep; below it the log counts as full. Default 64 MiB.
    pub disk_reserve: u64,
}

/// What happens when the log cannot take an entry.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFull {
    /// Nothing new may start.
    #[default]
    Block,
    /// Entries that allow are dropped and counted; denials still must be recorded.
    DropAllow,
}
