//! What an authority distributes is judged before it is written.

use super::super::authority::{self, CRL_TTL_DEFAULT};
use super::super::testing::{HOUR, World};
use super::super::{Identity, Places, issuer_keys};
use crate::model::Timestamp;

fn read(world: &World, file: &str) -> String {
    std::fs::read_to_string(world.ca().join(file)).unwrap()
}

/// Judges `lists` of the world's CA, or of another, for a device that has `ours`.
fn judged(world: &World, device: &Identity, lists: &str, ours: &str, at: Timestamp) -> String {
    let issuers = authority::issuers(&world.ca(), world.now).unwrap();
    let bundle = read(world, "bundle.pem");
    device
        .judge_lists(&bundle, &issuers, lists.as_bytes(), ours.as_bytes(), at)
        .map_or_else(|e| e.why.to_owned(), |()| "taken".to_owned())
}

#[test]
fn newer_lists_of_our_ca_are_taken_and_older_broken_or_foreign_ones_are_not() {
    let world = World::new();
    let device = world.device("web-1");
    let first = read(&world, "crl.pem");
    authority::revoke(&world.ca(), "web-1", world.now).unwrap();
    let second = read(&world, "crl.pem");
    assert_eq!(judged(&world, &device, &second, &first, world.now), "taken");
    assert_eq!(judged(&world, &device, &second, &second, world.now), "taken");
    assert_eq!(judged(&world, &device, &second, "", world.now), "taken");
    assert_eq!(judged(&world, &device, &first, &second, world.now), "is older than ours");
    let late = world.now.plus(CRL_TTL_DEFAULT + HOUR);
    assert_eq!(judged(&world, &device, &second, &first, late), "has expired");
    assert_eq!(judged(&world, &device, "what", &first, world.now), "does not read");
    let other = World::new();
    let theirs = read(&other, "crl.pem");
    assert_eq!(judged(&world, &device, &theirs, &first, world.now), "is not signed by a CA that we trust");
    // The root's list alone says nothing of who issued us.
    let root: String = second.split_inclusive("-----END X509 CRL-----\n").skip(1).collect();
    assert_eq!(
        judged(&world, &device, &root, &first, world.now),
        "says nothing of the CA that issued our certificate"
    );
}

#[test]
fn a_list_whose_signature_was_bent_is_not_taken() {
    let world = World::new();
    let device = world.device("web-1");
    let good = read(&world, "crl.pem");
    let mut bent = Vec::new();
    for section in good.split_inclusive("-----END X509 CRL-----\n") {
        let body: String = section.lines().filter(|l| !l.starts_with('-')).collect();
        let mut der = data_encoding::BASE64.decode(body.as_bytes()).unwrap();
        *der.last_mut().unwrap() ^= 1;
        let body = data_encoding::BASE64.encode(&der);
        bent.push(format!("-----BEGIN X509 CRL-----\n{body}\n-----END X509 CRL-----\n"));
    }
    assert_eq!(judged(&world, &device, &bent.concat(), "", world.now), "is not signed by a CA that we trust");
}

#[test]
fn a_bundle_must_share_a_root_with_ours_and_lead_to_our_own_leaf() {
    let (world, other) = (World::new(), World::new());
    let device = world.device("web-1");
    let judge = |pem: &str| device.judge_bundle(pem, world.now).map_err(|e| e.why);
    let (ours, theirs) = (read(&world, "bundle.pem"), read(&other, "bundle.pem"));
    assert_eq!(judge(&ours), Ok(()));
    assert_eq!(judge(&(theirs.clone() + &ours)), Ok(()));
    assert_eq!(judge(&theirs), Err("shares no root with ours"));
    assert_eq!(judge("what"), Err("does not read"));
    assert_eq!(judge(&world.issue("web-2").leaf_pem), Err("holds something that is no root"));
    assert_eq!(judge(&ours.repeat(super::super::ROOTS_MAX + 1)), Err("holds too many roots"));
    // A root that we know, but not the one that our leaf needs.
    authority::rotate(&world.ca(), true, world.now).unwrap();
    let new_root = read(&world, "root.pem");
    let settings = world.settings("web-1");
    std::fs::write(&settings.bundle, new_root.clone() + &ours).unwrap();
    device.reload(world.now).unwrap();
    assert_eq!(judge(&new_root), Err("does not lead to our own certificate"));
}

#[test]
fn an_issuing_ca_that_no_root_signed_gives_no_key() {
    let (world, other) = (World::new(), World::new());
    let bundle = read(&world, "bundle.pem");
    let issuers = authority::issuers(&world.ca(), world.now).unwrap();
    assert_eq!(issuer_keys(&bundle, &issuers, world.now).unwrap().len(), 2);
    let theirs = authority::issuers(&other.ca(), other.now).unwrap();
    assert!(issuer_keys(&bundle, &theirs, world.now).is_err());
    assert!(issuer_keys(&bundle, &(issuers.clone() + &theirs), world.now).is_err());
    assert!(issuer_keys(&bundle, &issuers, world.now.plus(400 * 24 * HOUR)).is_err(), "it has ended");
}

#[test]
fn where_no_lists_are_configured_none_are_written() {
    let world = World::new();
    world.issue("web-1");
    let settings = super::super::Settings { crl: None, ..world.settings("web-1") };
    let places = Places::new(&settings, &world.dir.path().join("web-1/device.record"));
    places.write_crl(b"lists").unwrap();
    assert!(!places.has_crl() && places.read_crl().is_empty());
    let (crl, bundle) = places.digests();
    assert!(crl == [0; 32] && bundle != [0; 32]);
}
