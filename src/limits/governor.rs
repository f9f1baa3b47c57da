//! Admits flows under the name of a device that is known, and meters what they move.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Settings;
use super::bucket::{Bucket, ByteRate, Dial, Rate};
use super::places::{Place, Places};
use super::remembered::Remembered;
use crate::model::{Reason, SpiffeId};

/// Flows of the whole sidecar and of each device, for at most [`Settings::devices_max`] devices.
#[derive(Debug)]
pub struct Governor {
    rules: Arc<Rules>,
    flows: Arc<Places>,
    flows_per_device_max: usize,
    // Held for one look-up and one take, or for a few looks more when the map is full.
    devices: Mutex<Remembered<Arc<SpiffeId>, Arc<Device>>>,
}

/// What every slot needs of the governor.
#[derive(Debug)]
struct Rules {
    dial: Dial,
    opening: Rate,
    moving: ByteRate,
}

#[derive(Debug)]
struct Device {
    places: Arc<Places>,
    opened: Bucket,
    moved: Bucket,
}

impl Governor {
    /// Knows no device yet.
    pub fn new(settings: &Settings) -> Self {
        let rules = Rules {
            dial: Dial::default(),
            opening: Rate::per_second(settings.flows_per_second, settings.flows_burst),
            moving: ByteRate::per_second(settings.bytes_per_second),
        };
        Self {
            rules: Arc::new(rules),
            flows: Places::new(settings.flows_max),
            flows_per_device_max: settings.flows_per_device_max,
            devices: Mutex::new(Remembered::new(settings.devices_max)),
        }
    }

    /// Admits one flow of `device`; the slot holds its place until dropped.
    ///
    /// # Errors
    /// - [`Reason::FlowsExhausted`] when the sidecar holds as many flows as it may, or the device is new while too
    ///   many others are not quiet (no flows, nothing owed).
    /// - [`Reason::FlowsLimited`] when this device does.
    /// - [`Reason::RateLimited`] when this device opens flows too fast; such a refusal costs it nothing.
    pub fn admit(&self, device: &SpiffeId, now: Instant) -> Result<Slot, Reason> {
        let total = self.flows.take().ok_or(Reason::FlowsExhausted)?;
        let now = self.rules.dial.read(now);
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match devices.get(device) {
            Some(known) => known.clone(),
            None => {
                let quiet =
                    |d: &Arc<Device>| d.places.taken() == 0 && d.opened.is_full(now) && d.moved.is_full(now);
                if !devices.make_room(quiet) {
                    return Err(Reason::FlowsExhausted);
                }
                let places = Places::new(self.flows_per_device_max);
                let new = Arc::new(Device { places, opened: Bucket::default(), moved: Bucket::default() });
                devices.insert(Arc::new(device.clone()), new.clone());
                new
            }
        };
        // Taken while the map is locked: else the device could be forgotten, and counted afresh, in between.
        let place = known.places.take().ok_or(Reason::FlowsLimited)?;
        if !self.rules.opening.take(&known.opened, now) {
            return Err(Reason::RateLimited);
        }
        drop(devices);
        Ok(Slot { device: known, rules: self.rules.clone(), _places: [total, place] })
    }

    /// Flows held now, at most [`Settings::flows_max`].
    pub fn flows(&self) -> usize {
        self.flows.taken()
    }

    /// Devices remembered now, at most [`Settings::devices_max`].
    pub fn devices(&self) -> usize {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One admitted flow's place; given back on drop.
#[derive(Debug)]
#[must_use = "dropping it gives the flow's place away"]
pub struct Slot {
    device: Arc<Device>,
    rules: Arc<Rules>,
    _places: [Place; 2],
}

impl Slot {
    /// Charges `len` bytes to the device, which may move [`Settings::bytes_per_second`] with a burst of one
    /// second's worth. All its flows share the bucket; no lock is taken.
    ///
    /// # Errors
    /// How long to wait before these very bytes are passed on. They are booked already and must not be charged
    /// again; a chunk larger than the burst waits longer, but always gets its turn.
    pub fn bytes(&self, len: usize, now: Instant) -> Result<(), Duration> {
        self.rules.moving.book(&self.device.moved, len, self.rules.dial.read(now))
    }
}

/// When trying again makes sense after a refusal for want of room or rate; `None` for any other reason.
///
/// Rates are whole numbers per second, so one more fits within a second. When a place is free again nobody knows.
pub fn retry_after(reason: Reason) -> Option<Duration> {
    match reason {
        Reason::KnockLimited | Reason::RateLimited => Some(RETRY_RATE),
        Reason::AdminLimited
        | Reason::DescriptorsExhausted
        | Reason::ErrandsLimited
        | Reason::FlowsExhausted
        | Reason::FlowsLimited
        | Reason::HandshakesLimited
        | Reason::JoinLimited
        | Reason::NewsLimited
        | Reason::MemoryExhausted
        | Reason::StreamsExhausted => Some(RETRY_PLACE),
        _ => None,
    }
}

const RETRY_PLACE: Duration = Duration::from_secs(5);
const RETRY_RATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::tests::settings;
    use proptest::prelude::*;
    use std::num::{NonZeroU32, NonZeroU64};

    fn device(name: &str) -> SpiffeId {
        format!("spiffe://example.org/device/{name}").parse().unwrap()
    }

    /// Opens flows `(at_ms, device)` and keeps them; returns each reason, `-` for admitted.
    fn play(limits: Settings, opens: &[(u64, &str)]) -> Vec<&'static str> {
        let governor = Governor::new(&limits);
        let start = Instant::now();
        let mut kept = Vec::new();
        let mut answers = Vec::new();
        for (ms, name) in opens {
            match governor.admit(&device(name), start + Duration::from_millis(*ms)) {
                Ok(slot) => {
                    kept.push(slot);
                    answers.push("-");
                }
                Err(reason) => answers.push(reason.code()),
            }
            assert_eq!(governor.flows(), kept.len());
            assert!(governor.devices() <= limits.devices_max);
        }
        drop(kept);
        assert_eq!(governor.flows(), 0);
        answers
    }

    #[test]
    fn the_whole_sidecar_holds_only_so_many_flows() {
        let limits = Settings { flows_max: 2, ..settings() };
        assert_eq!(play(limits, &[(0, "a"), (0, "b"), (0, "c")]), ["-", "-", "flows_exhausted"]);
    }

    #[test]
    fn one_device_holds_only_so_many_flows_and_others_may_go_on() {
        let limits = Settings { flows_per_device_max: 2, ..settings() };
        let opens = [(0, "a"), (0, "a"), (9000, "a"), (9000, "b")];
        assert_eq!(play(limits, &opens), ["-", "-", "flows_limited", "-"]);
    }

    #[test]
    fn one_device_opens_flows_only_so_fast_and_a_refusal_costs_it_nothing() {
        let one = |n| NonZeroU32::new(n).unwrap();
        let limits = Settings { flows_per_second: one(10), flows_burst: one(2), ..settings() };
        let opens = [(0, "a"), (0, "a"), (0, "a"), (0, "b"), (99, "a"), (100, "a"), (100, "a")];
        let (no, yes) = ("rate_limited", "-");
        assert_eq!(play(limits, &opens), [yes, yes, no, yes, no, yes, no]);
    }

    #[test]
    fn a_new_device_at_the_bound_is_refused_while_no_other_is_quiet() {
        let limits = Settings { devices_max: 2, ..settings() };
        assert_eq!(play(limits, &[(0, "a"), (0, "b"), (9000, "c")]), ["-", "-", "flows_exhausted"]);
    }

    #[test]
    fn a_device_is_forgotten_only_without_flows_and_without_debt() {
        let limits = Settings {
            devices_max: 1,
            bytes_per_second: NonZeroU64::new(1000).unwrap(),
            flows_per_second: NonZeroU32::new(1000).unwrap(),
            ..settings()
        };
        let governor = Governor::new(&limits);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let slot = governor.admit(&device("a"), at(0)).unwrap();
        let _ = slot.bytes(3000, at(0));
        assert_eq!(governor.admit(&device("b"), at(9000)).unwrap_err(), Reason::FlowsExhausted);
        drop(slot);
        assert_eq!(governor.admit(&device("b"), at(2999)).unwrap_err(), Reason::FlowsExhausted);
        assert!(governor.admit(&device("b"), at(3000)).is_ok());
        assert_eq!(governor.admit(&device("a"), at(3000)).unwrap_err(), Reason::FlowsExhausted);
        assert!(governor.admit(&device("a"), at(3001)).is_ok());
    }

    #[test]
    fn the_flows_of_one_device_share_its_bytes() {
        let limits = Settings { bytes_per_second: NonZeroU64::new(1000).unwrap(), ..settings() };
        let governor = Governor::new(&limits);
        let now = Instant::now();
        let [one, two, other] = ["a", "a", "b"].map(|name| governor.admit(&device(name), now).unwrap());
        assert_eq!(one.bytes(1000, now), Ok(()));
        assert_eq!(two.bytes(500, now), Err(Duration::from_millis(500)));
        assert_eq!(one.bytes(500, now), Err(Duration::from_millis(1000)));
        assert_eq!(other.bytes(1000, now), Ok(()));
    }

    #[test]
    fn every_refusal_for_want_of_room_or_rate_says_when_to_try_again() {
        for reason in Reason::ALL {
            let ours = retry_after(*reason).is_some();
            let code = reason.code();
            assert_eq!(ours, code.ends_with("_limited") || code.ends_with("_exhausted"), "{code}");
        }
    }

    proptest! {
        #[test]
        fn neither_flows_nor_devices_exceed_their_bounds(
            steps in prop::collection::vec((0u8..8, 0u64..50, any::<bool>()), 1..300)
        ) {
            let limits = Settings {
                devices_max: 4,
                flows_max: 6,
                flows_per_device_max: 3,
                flows_per_second: NonZeroU32::new(50).unwrap(),
                flows_burst: NonZeroU32::new(4).unwrap(),
                ..settings()
            };
            let governor = Governor::new(&limits);
            let start = Instant::now();
            let (mut ms, mut kept) = (0, Vec::new());
            for (name, step, close) in steps {
                ms += step;
                if close && !kept.is_empty() {
                    drop(kept.remove(0));
                }
                let id = device(&name.to_string());
                if let Ok(slot) = governor.admit(&id, start + Duration::from_millis(ms)) {
                    kept.push((name, slot));
                }
                prop_assert_eq!(governor.flows(), kept.len());
                prop_assert!(kept.len() <= 6 && governor.devices() <= 4);
                prop_assert!(kept.iter().filter(|(n, _)| *n == name).count() <= 3);
            }
        }
    }
}
