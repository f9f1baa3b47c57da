//! What is known of a flow when it is judged.

use super::{ServiceName, SpiffeId};

/// Everything policy may look at. The principal is the device, the resource the service, the context the session.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Facts {
    /// Whose flow it is: the peer device at the peers' door, this very device at a local door.
    pub device: DeviceFacts,
    /// What it wants to reach.
    pub service: ServiceName,
    /// How it comes.
    pub session: SessionFacts,
}

/// The device asking.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct DeviceFacts {
    /// Proven by the handshake's leaf certificate.
    pub id: SpiffeId,
    /// How far its identity is bound to a device.
    pub tier: Tier,
    /// How much of the enrolled fingerprint matches.
    pub score: Score,
}

/// How far an identity is bound to a device; the order is strength.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Tier {
    /// 0: a certificate and no evidence.
    #[default]
    None = 0,
    /// 1: key file and software fingerprint.
    Software = 1,
    /// 2: key in a token, not proven resident.
    Bound = 2,
    /// 3: key proven resident in a TPM.
    Attested = 3,
}

/// Matching share of the enrolled fingerprint in percent, 0..=100.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Score(u8);

impl Score {
    /// Cut to 100.
    pub fn from_percent(percent: u8) -> Self {
        Self(percent.min(100))
    }

    /// In percent.
    pub fn percent(self) -> u8 {
        self.0
    }
}

/// How anomalous the traffic behaves, 0 (nothing known) to 100.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Risk(u8);

impl Risk {
    /// Cut to 100.
    pub fn new(level: u8) -> Self {
        Self(level.min(100))
    }

    /// 0..=100.
    pub fn level(self) -> u8 {
        self.0
    }
}

/// Which way a flow goes, seen from this sidecar.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// From a peer to a local service.
    Inbound,
    /// From a local app to a peer.
    Outbound,
}

/// What carries the flow between the sidecars.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transport {
    /// HTTP/1.1 CONNECT over TLS.
    H1,
    /// HTTP/2 CONNECT over TLS.
    H2,
    /// HTTP/3 CONNECT over QUIC.
    H3,
    /// Not yet on a channel: a local app at a local door.
    Local,
}

/// The session a flow came on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SessionFacts {
    /// Which way the flow goes.
    pub direction: Direction,
    /// Hour of the day in UTC, 0..=23.
    pub hour: u8,
    /// Seconds since the session was last proven (its handshake, later its lease).
    pub lease_age_s: u32,
    /// Whether the key exchange was post-quantum (X25519MLKEM768). At a local door: `true`, nothing has crossed a network.
    pub pq: bool,
    /// The analyser's opinion.
    pub risk: Risk,
    /// What carries it.
    pub transport: Transport,
    /// The local caller's user id, known on Unix sockets only.
    pub uid: Option<u32>,
}

macro_rules! named {
    ($type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name used in policy, audit and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

named!(Direction { Inbound => "inbound", Outbound => "outbound" });
named!(Transport { H1 => "h1", H2 => "h2", H3 => "h3", Local => "local" });
named!(Tier { None => "none", Software => "software", Bound => "bound", Attested => "attested" });

impl Tier {
    /// As a number, 0..=3.
    pub fn level(self) -> u8 {
        self as u8
    }
}
