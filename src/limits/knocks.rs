//! Bounds what strangers may do before anyone is known: connections per source, handshakes at once.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Settings;
use super::bucket::{Bucket, Dial, Rate};
use super::places::{Place, Places};
use super::remembered::Remembered;
use crate::model::Reason;

/// Connections per second from one source, for at most [`Settings::sources_max`] sources.
#[derive(Debug)]
pub struct Knocks {
    dial: Dial,
    rate: Rate,
    // Held for one look-up, or for a few when the map is full.
    sources: Mutex<Remembered<Source, Bucket>>,
}

impl Knocks {
    /// Knows nobody yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            dial: Dial::default(),
            rate: Rate::per_second(settings.knocks_per_second, settings.knocks_burst),
            sources: Mutex::new(Remembered::new(settings.sources_max)),
        }
    }

    /// Lets one connection of `source` in: an IPv4 address (also when mapped into IPv6) or an IPv6 /64.
    ///
    /// # Errors
    /// [`Reason::KnockLimited`] when the source knocks too fast, or is new while too many others are not quiet.
    pub fn admit(&self, source: IpAddr, now: Instant) -> Result<(), Reason> {
        let now = self.dial.read(now);
        let source = Source::from(source);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = sources.get(&source) {
            return self.rate.take(bucket, now).then_some(()).ok_or(Reason::KnockLimited);
        }
        if !sources.make_room(|bucket| bucket.is_full(now)) {
            return Err(Reason::KnockLimited);
        }
        let bucket = Bucket::default();
        // A full bucket always has one: the burst is at least 1.
        self.rate.take(&bucket, now);
        sources.insert(source, bucket);
        Ok(())
    }

    /// Sources remembered now, at most [`Settings::sources_max`].
    pub fn sources(&self) -> usize {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Handshakes under way, at most [`Settings::handshakes_max`].
#[derive(Clone, Debug)]
pub struct Handshakes(Arc<Places>);

/// The right to one handshake, given back on drop.
#[derive(Debug)]
#[must_use = "dropping it ends the handshake's right"]
pub struct HandshakeSlot(#[allow(dead_code, reason = "kept for its drop")] Place);

impl Handshakes {
    /// None under way.
    pub fn new(settings: &Settings) -> Self {
        Self(Places::new(settings.handshakes_max))
    }

    /// Begins one.
    ///
    /// # Errors
    /// [`Reason::HandshakesLimited`] when as many as allowed are under way.
    pub fn begin(&self) -> Result<HandshakeSlot, Reason> {
        self.0.take().map(HandshakeSlot).ok_or(Reason::HandshakesLimited)
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.0.taken()
    }
}

/// Whom a knock is counted for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Source {
    V4([u8; 4]),
    /// The /64 that one subscriber commonly holds (RFC 6177 §2): counting single addresses would bound nobody.
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::tests::settings;
    use proptest::prelude::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    /// Plays knocks `(at_ms, source)`; returns who was let in. Two at once, one per 100 ms, two sources.
    fn play(knocks: &[(u64, &str)]) -> Vec<bool> {
        let door = Knocks::new(&Settings {
            knocks_per_second: NonZeroU32::new(10).unwrap(),
            knocks_burst: NonZeroU32::new(2).unwrap(),
            sources_max: 2,
            ..settings()
        });
        let start = Instant::now();
        let admit = |(ms, source): &(u64, &str)| {
            let answer = door.admit(source.parse().unwrap(), start + Duration::from_millis(*ms));
            assert!(matches!(answer, Ok(()) | Err(Reason::KnockLimited)));
            assert!(door.sources() <= 2);
            answer.is_ok()
        };
        knocks.iter().map(admit).collect()
    }

    #[test]
    fn a_burst_passes_then_the_source_waits_and_others_do_not() {
        let (a, b) = ("192.0.2.1", "192.0.2.2");
        assert_eq!(
            play(&[(0, a), (0, a), (0, a), (0, b), (99, a), (100, a)]),
            [true, true, false, true, false, true]
        );
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_slash_64() {
        let (v4, mapped) = ("192.0.2.1", "::ffff:192.0.2.1");
        assert_eq!(play(&[(0, v4), (0, mapped), (0, v4), (0, mapped)]), [true, true, false, false]);
        let (one, same, other) = ("2001:db8::1", "2001:db8::ffff:0:0:1", "2001:db8:0:1::1");
        assert_eq!(play(&[(0, one), (0, same), (0, one), (0, other)]), [true, true, false, true]);
    }

    #[test]
    fn at_the_bound_a_newcomer_is_refused_until_somebody_is_quiet() {
        let (a, b, c) = ("192.0.2.1", "192.0.2.2", "192.0.2.3");
        assert_eq!(play(&[(0, a), (50, b), (60, c), (100, c), (110, a)]), [true, true, false, true, false]);
    }

    #[test]
    fn a_handshake_past_the_bound_is_refused_until_one_ends() {
        let handshakes = Handshakes::new(&Settings { handshakes_max: 2, ..settings() });
        let (one, _two) = (handshakes.begin().unwrap(), handshakes.begin().unwrap());
        assert_eq!(handshakes.begin().unwrap_err(), Reason::HandshakesLimited);
        drop(one);
        assert!(handshakes.begin().is_ok());
        assert_eq!(handshakes.under_way(), 1);
    }

    proptest! {
        #[test]
        fn neither_the_map_nor_a_source_exceeds_its_bound(
            knocks in prop::collection::vec((0u8..12, 0u64..30), 1..400)
        ) {
            let limits = Settings {
                knocks_per_second: NonZeroU32::new(20).unwrap(),
                knocks_burst: NonZeroU32::new(3).unwrap(),
                sources_max: 5,
                ..settings()
            };
            let door = Knocks::new(&limits);
            let start = Instant::now();
            let (mut ms, mut admitted) = (0, [0u64; 12]);
            for (source, step) in knocks {
                ms += step;
                let ip = IpAddr::from([192, 0, 2, source]);
                let admit = door.admit(ip, start + Duration::from_millis(ms)).is_ok();
                admitted[usize::from(source)] += u64::from(admit);
                prop_assert!(door.sources() <= 5);
                prop_assert!(admitted[usize::from(source)] <= 3 + ms * 20 / 1000);
            }
        }
    }
}
