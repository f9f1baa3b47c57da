//! What `policy` can be told.

use std::path::PathBuf;

/// `[policy]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of `*.cedar`, `groups.toml` and `behaviour.toml`. Default `policies`.
    pub dir: PathBuf,
    /// Most distinct questions remembered with their answers. Default 4096.
    pub cache_max: usize,
    /// Whether there must be a `behaviour.toml`: `[behaviour] mode` is `enforce`. Default no.
    pub behaviour_needed: bool,
}
