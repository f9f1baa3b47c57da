//! What the analyser hears: flows opening, bytes, requests, flows ending, and the time.
//!
//! Events are small, own all they hold and carry keys instead of names, so that a live relay, a packet capture and a
//! log say the same thing in the same words. The analyser has no clock: `t` is all the time it knows.

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Moment(pub u64);

impl Moment {
    /// From seconds since the epoch; what is negative or no number becomes the epoch, what is too late the last moment.
    pub fn from_secs(secs: f64) -> Self {
        // A cast of a float saturates and takes NaN for zero.
        Self((secs * 1e6).round() as u64)
    }

    /// Seconds since the epoch.
    pub fn secs(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Microseconds from `earlier` to this, zero when it is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This plus so many microseconds.
    pub fn plus(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }
}

/// One living flow. Whoever feeds the analyser numbers its flows; a number comes back only after its `Close`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey(pub u64);

/// A device, from [`Keys::device`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceKey(pub u64);

/// What is reached: a service by its name, or a host, a port and a transport, from [`Keys::service`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ServiceKey(pub u64);

/// Makes keys of names, under a seed that strangers do not know: nobody can choose names that meet in one table
/// place. Live engines draw the seed; replays take a fixed one, so that two runs say the same.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    seed: [u64; 2],
}

impl Keys {
    /// With this secret seed.
    pub fn new(seed: [u64; 2]) -> Self {
        Self { seed }
    }

    /// The key of a device's name.
    pub fn device(&self, name: &str) -> DeviceKey {
        DeviceKey(self.hash(&[1], name.as_bytes(), 0))
    }

    /// The key of a service. `name` is the service's name or the host reached; with a name of its own, `port` is 0.
    pub fn service(&self, name: &str, port: u16, carrier: Carrier) -> ServiceKey {
        ServiceKey(self.hash(&[2, carrier as u8], name.as_bytes(), port))
    }

    /// The key of a host, whatever the port; of a service reached by name: of that name.
    pub fn host(&self, name: &str) -> u32 {
        fold(self.hash(&[3], name.as_bytes(), 0))
    }

    /// The key of anything else that is compared and never read: a path, a topic, a JA4, a user, a source network.
    /// 0 is left for "not known".
    pub fn word(&self, text: &[u8]) -> u32 {
        fold(self.hash(&[4], text, 0)).max(1)
    }

    fn hash(&self, kind: &[u8], text: &[u8], port: u16) -> u64 {
        let [a, b] = self.seed;
        let mut hasher = SipHasher13::new_with_keys(a, b);
        hasher.write(kind);
        hasher.write(&port.to_le_bytes());
        hasher.write(text);
        hasher.finish()
    }
}

fn fold(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

/// What carries a flow.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Carrier {
    /// TCP, or a stream on a session.
    #[default]
    Tcp = 0,
    /// UDP, or datagrams on a session.
    Udp = 1,
    /// Anything else.
    Other = 2,
}

/// What is spoken in a flow: by its first bytes, by a log's word for it, or by what the service is declared as.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Tongue {
    /// Not known, or not said.
    #[default]
    Unknown = 0,
    /// TLS or QUIC.
    Tls,
    /// HTTP/1.
    Http,
    /// HTTP/2 with its preface, and gRPC.
    Http2,
    /// MQTT.
    Mqtt,
    /// SSH.
    Ssh,
    /// DNS.
    Dns,
    /// PostgreSQL.
    Postgres,
    /// MySQL.
    Mysql,
    /// Redis.
    Redis,
    /// Kafka.
    Kafka,
    /// RDP.
    Rdp,
    /// Readable text of no protocol known here.
    Text,
    /// Bytes of no protocol known here.
    Binary,
    /// Bytes that look drawn at random: no header, no text.
    Random,
}

/// What policy says of a service for this device.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Standing {
    /// There is no policy to ask: a capture, a log.
    #[default]
    Unknown = 0,
    /// The device may.
    Allowed,
    /// The device may not; the flow is refused.
    Refused,
}

/// Where a target is. A sidecar's own services are all `Near`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Reach {
    /// A service of the mesh, or a private address (RFC 1918, RFC 4193, link-local).
    #[default]
    Near = 0,
    /// A public address.
    Far,
    /// A multicast or broadcast address; nobody answers there.
    Many,
}

/// What a flow wants to reach.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Target {
    /// Host, port and carrier, or the service's name, as one key.
    pub service: ServiceKey,
    /// The host alone ([`Keys::host`]).
    pub host: u32,
    /// The port; 0 when it has none.
    pub port: u16,
    /// What carries it.
    pub carrier: Carrier,
    /// What the service speaks, as configuration or a well-known port says.
    pub declared: Tongue,
    /// What policy says.
    pub standing: Standing,
    /// Where it is.
    pub reach: Reach,
}

/// How the caller's end of the session looks; zero where it is not known ([`Keys::word`]).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Habit {
    /// The TLS client's fingerprint (JA4).
    pub stack: u32,
    /// The network it came from.
    pub source: u32,
    /// Age of its certificate, in hours; `u16::MAX` when not known.
    pub certificate_age_h: u16,
    /// Whether its session was resumed rather than made anew.
    pub resumed: bool,
}

impl Default for Habit {
    /// Nothing is known.
    fn default() -> Self {
        Self { stack: 0, source: 0, certificate_age_h: u16::MAX, resumed: false }
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Way {
    /// From the device to what it reaches.
    Out = 0,
    /// Back.
    In = 1,
}

/// Two numbers, one each way: `[out, in]`.
pub type Both<T> = [T; 2];

/// What the first payload of one direction looks like.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct First {
    /// Recognised by its first bytes.
    pub tongue: Tongue,
    /// Shannon entropy of its first bytes, in 1/32 of a bit per byte: 0..=255.
    pub entropy: u8,
}

/// What a request was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// One HTTP exchange.
    Http {
        /// [`Keys::word`] of the method.
        method: u32,
        /// [`Keys::word`] of the path without its query.
        path: u32,
        /// Status code; 0 when the answer never came.
        status: u16,
    },
    /// One gRPC call.
    Grpc {
        /// [`Keys::word`] of the method's full name.
        method: u32,
        /// Status code, 0..=16.
        code: u8,
    },
    /// One MQTT packet.
    Mqtt {
        /// Control packet type, 1..=15 (MQTT 5.0 §2.1.2).
        packet: u8,
        /// [`Keys::word`] of the topic; 0 when it has none.
        topic: u32,
        /// How many wildcards a subscription's filter holds; `#` counts as four.
        wildcards: u8,
        /// Reason code; from 0x80 on a failure (MQTT 5.0 §2.4).
        reason: u8,
    },
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum End {
    /// As it should.
    #[default]
    Fin = 0,
    /// Reset by one side.
    Reset,
    /// Nobody answered, or nothing came any more.
    Timeout,
    /// The target refused.
    Refused,
    /// Policy refused or withdrew it.
    Policy,
}

impl End {
    /// Whether the flow never came to anything.
    pub fn failed(self) -> bool {
        matches!(self, Self::Timeout | Self::Refused | Self::Policy)
    }
}

/// One thing that happened. At most [`Event::BYTES_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A flow is asked for. What policy refuses is told as well, with `standing` and a `Close` after it.
    Open {
        /// When it is heard. Logs tell a flow when it is over: then this is the end.
        t: Moment,
        /// When it began; live, the same as `t`.
        began: Moment,
        /// Its number.
        flow: FlowKey,
        /// Whose it is.
        device: DeviceKey,
        /// What it wants.
        target: Target,
        /// How its caller looks.
        habit: Habit,
    },
    /// Bytes were moved.
    Chunk {
        /// When.
        t: Moment,
        /// In which flow.
        flow: FlowKey,
        /// Which way.
        way: Way,
        /// How many bytes.
        len: u32,
        /// What they look like; told for the first chunk of each direction only.
        first: Option<First>,
    },
    /// A request was answered, or a packet of a protocol passed.
    Message {
        /// When it was over.
        t: Moment,
        /// In which flow.
        flow: FlowKey,
        /// What it was.
        request: Request,
        /// Bytes of request and answer.
        bytes: Both<u32>,
        /// From the request's first byte to the answer's, in microseconds; `u32::MAX` when it never came.
        latency_us: u32,
    },
    /// A flow ended.
    Close {
        /// When.
        t: Moment,
        /// Which.
        flow: FlowKey,
        /// How.
        end: End,
        /// All bytes it moved; what `Chunk` did not tell of is added now.
        bytes: Both<u64>,
        /// All chunks or packets.
        chunks: Both<u32>,
    },
    /// Time passes. Once a second when live.
    Tick {
        /// Now.
        t: Moment,
    },
}

impl Event {
    /// The size of an event, held by a test: events are copied by value.
    pub const BYTES_MAX: usize = 80;

    /// When it happened.
    pub fn at(&self) -> Moment {
        match self {
            Self::Open { t, .. }
            | Self::Chunk { t, .. }
            | Self::Message { t, .. }
            | Self::Close { t, .. }
            | Self::Tick { t } => *t,
        }
    }

    /// The flow it is about; none for the time.
    pub fn flow(&self) -> Option<FlowKey> {
        match self {
            Self::Open { flow, .. }
            | Self::Chunk { flow, .. }
            | Self::Message { flow, .. }
            | Self::Close { flow, .. } => Some(*flow),
            Self::Tick { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_small() {
        assert!(size_of::<Event>() <= Event::BYTES_MAX, "{} bytes", size_of::<Event>());
    }

    #[test]
    fn keys_differ_by_name_kind_and_seed_and_never_by_run() {
        let keys = Keys::new([1, 2]);
        assert_eq!(keys.device("a"), Keys::new([1, 2]).device("a"));
        assert_ne!(keys.device("a"), keys.device("b"));
        assert_ne!(keys.device("a"), Keys::new([1, 3]).device("a"));
        assert_ne!(keys.device("a").0, keys.service("a", 0, Carrier::Tcp).0);
        assert_ne!(keys.service("a", 1, Carrier::Tcp), keys.service("a", 2, Carrier::Tcp));
        assert_ne!(keys.service("a", 1, Carrier::Tcp), keys.service("a", 1, Carrier::Udp));
        // Fixed: keys are kept in snapshots, so another version must make the same.
        assert_eq!(keys.device("sensor-1").0, 4_548_433_192_734_499_922);
    }

    #[test]
    fn a_moment_cannot_leave_its_range() {
        assert_eq!(Moment::from_secs(1.5), Moment(1_500_000));
        assert_eq!(Moment::from_secs(-3.0), Moment(0));
        assert_eq!(Moment::from_secs(f64::NAN), Moment(0));
        assert_eq!(Moment::from_secs(f64::INFINITY), Moment(u64::MAX));
        assert_eq!(Moment(3).since(Moment(5)), 0);
        assert_eq!(Moment(u64::MAX).plus(9), Moment(u64::MAX));
    }
}
