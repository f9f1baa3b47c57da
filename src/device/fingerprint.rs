//! A machine as others may see it: HMACs of its values under a salt that only it knows.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use ring::digest::{Context, SHA256};
use ring::hmac;

use super::{Class, Collected, Component, Presented, Profile, Salt, Weights};

/// Machines that weigh less when they are enrolled are [`Profile::Thin`].
pub const FULL_WEIGHT_MIN: u32 = 40;

/// What a machine presents of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fingerprint {
    /// How much of it could be seen, by the default weights.
    pub profile: Profile,
    /// The components that it has.
    pub values: BTreeMap<Component, Presented>,
    /// Changes with each boot.
    pub boot: [u8; 16],
    /// Names the machine without telling anything: type RAND and 16 bytes (RFC 9711 §4.2.1).
    pub ueid: [u8; 17],
}

/// Presents what was collected: HMAC-SHA256(salt, name ‖ 0x00 ‖ value), cut to 16 bytes.
pub fn fingerprint(collected: &Collected, salt: &Salt) -> Fingerprint {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt.bytes());
    let mut values: BTreeMap<Component, Presented> = BTreeMap::new();
    for (component, raw) in collected.values() {
        let mut presented: Presented = raw.map(|value| present(&key, component.name(), value)).collect();
        presented.sort_unstable();
        presented.dedup();
        values.insert(component, presented);
    }
    let mut ueid = [UEID_RAND; 17];
    if let Some((_, id)) = ueid.split_first_chunk_mut::<1>() {
        id.copy_from_slice(&present(&key, "ueid", ""));
    }
    let profile = Profile::of(&values, collected.container, &Weights::default());
    Fingerprint { profile, values, boot: present(&key, "boot_id", collected.boot()), ueid }
}

impl Fingerprint {
    /// All that weighs, in one line: SHA-256 in hex. For the eye only.
    pub fn digest(&self) -> String {
        let mut context = Context::new(&SHA256);
        for (component, presented) in self.values.iter().filter(|(c, _)| c.class() != Class::Observed) {
            context.update(component.name().as_bytes());
            context.update(&[0]);
            context.update(presented.as_flattened());
        }
        HEXLOWER.encode(context.finish().as_ref())
    }
}

impl Profile {
    /// The profile of a machine that presents this.
    pub fn of(values: &BTreeMap<Component, Presented>, container: bool, weights: &Weights) -> Self {
        if container {
            Self::Container
        } else if weights.sum(values.keys()) < FULL_WEIGHT_MIN {
            Self::Thin
        } else {
            Self::Full
        }
    }
}

fn present(key: &hmac::Key, name: &str, value: &str) -> [u8; 16] {
    let mut context = hmac::Context::with_key(key);
    for part in [name.as_bytes(), &[0], value.as_bytes()] {
        context.update(part);
    }
    let mut cut = [0; 16];
    if let Some(head) = context.sign().as_ref().first_chunk::<16>() {
        cut = *head;
    }
    cut
}

const UEID_RAND: u8 = 0x01;

#[cfg(test)]
#[path = "fingerprint_tests.rs"]
mod tests;
