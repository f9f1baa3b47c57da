//! What `channel` and the pool above it can be told.

use std::net::SocketAddr;
use std::time::Duration;

/// `[channel]` and `[peers]`. (`pq` belongs to `identity`.)
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where peers knock; none when this sidecar only dials.
    pub listen: Option<SocketAddr>,
    /// Connections kept to one peer at most. Default 16.
    pub connections_max: usize,
    /// Flows one connection carries at most. Default 1000.
    pub streams_max: u32,
    /// Longest handshake: TLS and the first request or SETTINGS. Default 10 s.
    pub handshake_timeout: Duration,
    /// Longest wait for a TCP connection to a peer. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest wait for the peer's answer to a CONNECT. Default 15 s.
    pub answer_timeout: Duration,
    /// Silence after which a session is pinged. Default 10 s.
    pub ping_interval: Duration,
    /// Wait for the ping's answer before the session is given up. Default 20 s.
    pub ping_timeout: Duration,
    /// A connection takes no new flows after this: a new one with new keys takes its place. Default 1 h.
    pub rekey_after: Duration,
    /// A connection without flows is closed after this. Default 90 s.
    pub idle_timeout: Duration,
    /// Names in `paths` are resolved again after this. Default 5 s.
    pub resolve_interval: Duration,
    /// Longest wait for a name. Default 5 s.
    pub resolve_timeout: Duration,
}
