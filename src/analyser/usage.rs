//! What the devices have in common: which services are used, and by whom besides oneself.

use serde::{Deserialize, Serialize};

use super::event::{DeviceKey, ServiceKey};
use super::sketch::mix;
use super::sparse;

/// Services and a sketch of their users: 4 KiB. A service is told by 16 bits of its keyed hash and its users by one bit of
/// theirs each; at the bound a chance place is given away.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Usage {
    #[serde(with = "sparse")]
    pub(super) places: [[Users; WAYS]; BUCKETS],
}

/// Who uses a service.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Users {
    /// 16 bits of the service's hash; 0 where nothing is.
    pub(super) mark: u16,
    /// One bit of 16 for each user.
    pub(super) bits: u16,
}

impl Usage {
    /// Nothing is known yet.
    pub const fn new() -> Self {
        Self { places: [[Users { mark: 0, bits: 0 }; WAYS]; BUCKETS] }
    }

    /// A device that is known uses the service.
    pub fn add(&mut self, service: ServiceKey, device: DeviceKey) {
        let (bucket, mark) = split(service);
        let Some(places) = self.places.get_mut(bucket) else { return };
        let at = places
            .iter()
            .position(|p| p.mark == mark)
            .or_else(|| places.iter().position(|p| p.mark == 0))
            .unwrap_or(usize::from(mark) % WAYS);
        let Some(place) = places.get_mut(at) else { return };
        if place.mark != mark {
            *place = Users { mark, bits: 0 };
        }
        place.bits |= bit(device);
    }

    /// Whether a device other than this uses the service.
    pub fn has(&self, service: ServiceKey, device: DeviceKey) -> bool {
        let (bucket, mark) = split(service);
        let users = self.places.get(bucket).and_then(|places| places.iter().find(|p| p.mark == mark));
        users.is_some_and(|u| u.bits & !bit(device) != 0)
    }
}

fn split(service: ServiceKey) -> (usize, u16) {
    let mixed = mix(service.0);
    ((mixed >> 32) as usize % BUCKETS, (mixed as u16).max(1))
}

fn bit(device: DeviceKey) -> u16 {
    1 << (mix(device.0) % 16)
}

const BUCKETS: usize = 256;
const WAYS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_common_to_whoever_is_not_its_only_user() {
        let mut usage = Usage::new();
        assert!(!usage.has(ServiceKey(7), DeviceKey(1)));
        usage.add(ServiceKey(7), DeviceKey(1));
        assert!(!usage.has(ServiceKey(7), DeviceKey(1)), "oneself is nobody else");
        assert!(usage.has(ServiceKey(7), DeviceKey(2)));
        assert!(!usage.has(ServiceKey(8), DeviceKey(2)));
    }

    #[test]
    fn it_never_grows() {
        let mut usage = Usage::new();
        for n in 0..100_000 {
            usage.add(ServiceKey(n), DeviceKey(n));
        }
        assert_eq!(size_of::<Usage>(), 4096);
        let known = (0..100_000).filter(|n| usage.has(ServiceKey(*n), DeviceKey(n + 1))).count();
        assert!(known < 4000, "{known}");
    }
}
