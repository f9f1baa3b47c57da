//! Values are presented as the format says, so that others can compute them.

use super::super::testing::machine;
use super::*;

#[test]
fn a_value_is_presented_as_the_format_says() {
    let shown = machine(1, 9);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[9; 32]);
    let tag = hmac::sign(&key, b"dmi.product_serial\0pf017a3k");
    assert_eq!(shown.values[&Component::ProductSerial][0], tag.as_ref()[..16]);
    let boot = hmac::sign(&key, b"boot_id\x001b2c3d4e-5f60-4711-8899-aabbccddee01");
    assert_eq!(shown.boot, boot.as_ref()[..16]);
    assert_eq!(shown.ueid[0], 1);
    assert_eq!(shown.ueid[1..], hmac::sign(&key, b"ueid\0").as_ref()[..16]);
}

#[test]
fn the_profile_is_fixed_by_weight() {
    let with = |names: &[Component]| names.iter().map(|c| (*c, vec![[1; 16]])).collect::<BTreeMap<_, _>>();
    let weights = Weights::default();
    let forty = with(&[Component::ProductUuid, Component::ProductSerial, Component::Cpu]);
    assert_eq!(Profile::of(&forty, false, &weights), Profile::Full);
    assert_eq!(Profile::of(&forty, true, &weights), Profile::Container);
    let less = Weights::with([(Component::Cpu, 9)]);
    assert_eq!(Profile::of(&forty, false, &less), Profile::Thin);
    assert_eq!(FULL_WEIGHT_MIN, 40);
}

#[test]
fn what_is_observed_only_is_no_part_of_the_fingerprint() {
    let mut shown = machine(1, 1);
    let before = shown.digest();
    shown.values.insert(Component::Virtual, vec![[7; 16]]);
    assert_eq!(shown.digest(), before);
    shown.values.insert(Component::Cpu, vec![[7; 16]]);
    assert_ne!(shown.digest(), before);
}
