//! What the local doors can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::ServiceName;
use crate::net::UnixMode;

/// One local door.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Door {
    /// What it speaks.
    pub mode: Mode,
    /// Where it listens.
    pub listen: Listen,
    /// Longest wait for the app's whole request (SOCKS5, CONNECT). Default 10 s.
    pub request_timeout: Duration,
}

/// What a local door speaks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Everything goes to one outbound (`[[outbound]] listen`).
    Forward(ServiceName),
    /// SOCKS5 CONNECT (RFC 1928).
    Socks5,
    /// HTTP/1.1 CONNECT (RFC 9110 §9.3.6).
    Connect,
}

/// Where a local door listens: loopback or a Unix socket.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket; the callers' uid is a policy fact.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: UnixMode,
    },
}
