//! What `console` can be told.

use std::net::SocketAddr;
use std::path::PathBuf;

/// `[admin]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TCP address of `/livez`, `/readyz`, `/metrics`; none turns it off.
    pub listen: Option<SocketAddr>,
    /// Host header values accepted besides the address itself, `localhost` and loopback literals.
    pub hosts: Vec<String>,
    /// Path of the 0600 admin socket. Default `countersign.sock`.
    pub socket: PathBuf,
}
