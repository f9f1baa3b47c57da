//! What `policy` can be told.

use std::path::PathBuf;

/// `[policy]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of `*.cedar` and `groups.toml`. Default `policies`.
    pub dir: PathBuf,
    /// Most distinct questions remembered with their answers. Default 4096.
    pub cache_max: usize,
}
