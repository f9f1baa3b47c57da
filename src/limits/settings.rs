//! What `limits` can be told.

use std::num::{NonZeroU32, NonZeroU64};

/// `[limits]`. Every rate is a GCRA bucket: so many per second, so many at once.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections per second from one source (an IPv4 address or an IPv6 /64) before anyone is known. Default 50.
    pub knocks_per_second: NonZeroU32,
    /// Connections at once from one source. Default 200.
    pub knocks_burst: NonZeroU32,
    /// Most sources remembered; past it the oldest quiet ones are forgotten, else the newcomer is refused. Default 65536.
    pub sources_max: usize,
    /// Most handshakes under way at once. Default 512.
    pub handshakes_max: usize,
    /// Flows one device may open per second. Default 20000.
    pub flows_per_second: NonZeroU32,
    /// Flows one device may open at once. Default 20000.
    pub flows_burst: NonZeroU32,
    /// Flows one device may hold. Default 20000.
    pub flows_per_device_max: usize,
    /// Flows the whole sidecar may hold. Default 50000.
    pub flows_max: usize,
    /// Bytes per second one device may move, both directions together. Default 4 GiB.
    pub bytes_per_second: NonZeroU64,
    /// Most devices remembered. Default 65536.
    pub devices_max: usize,
    /// Resident bytes above which new flows are refused. Default 2 GiB.
    pub memory_max: u64,
    /// Descriptors kept back for the living when new flows are judged. Default 64.
    pub descriptors_reserve: u64,
}
