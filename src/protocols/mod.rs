//! What is said at the doors: reads requests and writes answers as plain bytes, without touching a socket.
//!
//! Pure functions of byte slices: the parsers take what has arrived so far and may be asked again with more.

mod connect_request;
mod proxy_v2;
mod refusal_wire;
pub mod socks5;

pub use connect_request::{ConnectRequest, HEAD_LEN_MAX, parse};
pub use proxy_v2::{IDENTITY, ProxyV2, ProxyV2Error, ProxyV2Tls, proxy_v2};
pub use refusal_wire::{
    NAME, PeerRefusal, http1_refusal, parse_proxy_status, problem_json, proxy_status, retry_after_seconds,
};

/// What bytes from outside amount to so far.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parsed<T> {
    /// Nothing wrong yet, but more is needed.
    Partial,
    /// All there.
    Complete {
        /// What was asked.
        request: T,
        /// How many of the bytes it took; the rest belongs to what follows.
        head_len: usize,
    },
    /// Not acceptable, whatever follows.
    Refused(crate::model::Reason),
}
