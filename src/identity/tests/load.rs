//! What is said when the files make no identity.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::super::load::parse_lists;
use super::super::testing::{HOUR, World};
use super::super::*;
use crate::model::Timestamp;

/// Loads `a` after `change` bent its files; what was said.
fn said(change: impl FnOnce(&World, &mut Settings)) -> String {
    let world = World::new();
    world.issue("a");
    let mut settings = world.settings("a");
    change(&world, &mut settings);
    let error = Identity::load(&settings, world.now).unwrap_err();
    assert!(!error.problems.is_empty());
    let dir = world.dir.path().to_string_lossy().into_owned();
    error.to_string().replace(&dir, "D")
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).unwrap();
}

#[test]
fn every_missing_file_is_named_at_once() {
    let text = said(|world, _| {
        std::fs::remove_dir_all(world.dir.path().join("a")).unwrap();
        std::fs::remove_file(world.ca().join("crl.pem")).unwrap();
    });
    for file in ["D/a/leaf.pem", "D/a/leaf.key", "D/a/bundle.pem", "D/ca/crl.pem"] {
        assert!(text.contains(file), "{text}");
    }
    assert_eq!(text.lines().count(), 4);
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    for mode in [0o640, 0o644, 0o660] {
        let text = said(|_, s| {
            std::fs::set_permissions(&s.key, std::fs::Permissions::from_mode(mode)).unwrap();
        });
        assert_eq!(text, format!("`D/a/leaf.key` has mode {mode:04o}, expected 0600 (`chmod 600` it)"));
    }
}

#[test]
fn a_key_of_another_leaf_is_refused() {
    let text = said(|world, s| write(&s.key, world.issue("b").key_pem));
    assert_eq!(text, "`D/a/leaf.key` is not the private key of `D/a/leaf.pem`");
}

#[test]
fn what_is_no_key_is_refused() {
    let no_key = "`D/a/leaf.key` holds no PKCS#8 private key (`BEGIN PRIVATE KEY`)";
    assert_eq!(said(|_, s| write(&s.key, "")), no_key);
    assert_eq!(said(|world, s| write(&s.key, world.issue("b").leaf_pem)), no_key);
    let two = said(|world, s| write(&s.key, world.issue("a").key_pem.repeat(2)));
    assert_eq!(two, "`D/a/leaf.key` holds more than one private key");
    let odd = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let text = said(|_, s| write(&s.key, odd));
    assert_eq!(text, "`D/a/leaf.key` is neither a P-256, a P-384 nor an Ed25519 key");
}

#[test]
fn what_is_no_certificate_is_refused() {
    assert_eq!(said(|_, s| write(&s.leaf, "")), "`D/a/leaf.pem` holds no certificate");
    let text = said(|world, s| {
        let issued = world.issue("a");
        write(&s.leaf, issued.leaf_pem + &issued.key_pem);
    });
    // The key on disk is the new one too, so that only the PEM is wrong.
    assert_eq!(text, "`D/a/leaf.pem` has PEM sections other than `CERTIFICATE`");
    let cut = said(|_, s| {
        let pem = std::fs::read(&s.bundle).unwrap();
        write(&s.bundle, &pem[..pem.len() / 2]);
    });
    assert_eq!(cut, "`D/a/bundle.pem` is no well-formed PEM");
}

#[test]
fn a_bundle_of_something_else_than_cas_is_refused() {
    let text = said(|_, s| {
        let leaf = std::fs::read(&s.leaf).unwrap();
        write(&s.bundle, leaf);
    });
    assert_eq!(text, "`D/a/bundle.pem` holds `CN=a`, which is no CA");
}

#[test]
fn files_beyond_their_bounds_are_refused() {
    let many = said(|world, s| write(&s.bundle, world.issue("a").bundle_pem.repeat(ROOTS_MAX + 1)));
    assert_eq!(many, "`D/a/bundle.pem` holds more than 64 certificates");
    let long = said(|world, s| write(&s.leaf, world.issue("a").leaf_pem.repeat(CHAIN_MAX)));
    assert_eq!(long, "`D/a/leaf.pem` holds more than 9 certificates");
    let large = said(|_, s| {
        for path in [&s.leaf, &s.key, &s.bundle] {
            write(path, vec![b'\n'; usize::try_from(PEM_FILE_MAX).unwrap() + 1]);
        }
        write(s.crl.as_ref().unwrap(), vec![b'\n'; usize::try_from(CRL_FILE_MAX).unwrap() + 1]);
    });
    assert_eq!(large.matches("is larger than").count(), 4, "{large}");
}

#[test]
fn a_leaf_of_another_trust_domain_or_ca_is_refused() {
    let text = said(|_, s| s.trust_domain = "other.org".parse().unwrap());
    assert_eq!(text, "`D/a/leaf.pem` is `spiffe://example.org/device/a`, expected trust domain `other.org`");
    let text = said(|_, s| write(&s.bundle, World::new().issue("a").bundle_pem));
    assert!(text.starts_with("`D/a/leaf.pem` does not chain to `D/a/bundle.pem`: "), "{text}");
}

#[test]
fn a_leaf_that_peers_would_refuse_is_refused_here() {
    let text = said(|world, _| {
        let issued = world.bent("a", |p| p.key_usages.clear());
        install(&world.dir.path().join("a"), &issued).unwrap();
    });
    assert_eq!(text, "`D/a/leaf.pem` is no SPIFFE X.509-SVID: keyUsage is missing");
}

#[test]
fn an_expired_leaf_names_its_end_and_the_clock() {
    let world = World::new();
    world.issue_for("a", HOUR);
    let settings = Settings { crl: None, ..world.settings("a") };
    let late = world.now.plus(2 * HOUR);
    let text = Identity::load(&settings, late).unwrap_err().to_string();
    let end = Timestamp::from_millis(world.now.plus(HOUR).as_secs() * 1000);
    assert!(text.contains(&format!("expired at {end}, the clock says {late}")), "{text}");
    let early = Timestamp::from_millis(world.now.as_millis() - 3_600_000);
    let text = Identity::load(&settings, early).unwrap_err().to_string();
    assert!(text.contains(&format!("the clock says {early}")), "{text}");
}

#[test]
fn revocation_lists_that_cannot_be_used_are_refused() {
    let crl = |text: &[u8]| said(|_, s| write(s.crl.as_ref().unwrap(), text));
    assert_eq!(crl(b""), "`D/ca/crl.pem` is no well-formed CRL");
    assert_eq!(crl(b"-----BEGIN "), "`D/ca/crl.pem` is no well-formed PEM");
    let world = World::new();
    let pem = std::fs::read(world.ca().join("crl.pem")).unwrap();
    assert_eq!(crl(&pem.repeat(LISTS_MAX / 2 + 1)), "`D/ca/crl.pem` must hold 1..=64 revocation lists");
    let bundle = std::fs::read(world.ca().join("bundle.pem")).unwrap();
    let other = "`D/ca/crl.pem` has PEM sections other than `X509 CRL`";
    assert_eq!(crl(&[pem, bundle].concat()), other);
    let then = Timestamp::from_millis(world.now.as_millis() - 8 * 24 * 3_600_000);
    let stale = std::fs::read(World::of("example.org", then).ca().join("crl.pem")).unwrap();
    assert!(crl(&stale).contains("`D/ca/crl.pem` expired at "));
}

#[test]
fn the_newest_of_two_lists_of_one_issuer_comes_first() {
    let world = World::new();
    let crl = world.ca().join("crl.pem");
    let old = std::fs::read(&crl).unwrap();
    world.issue("a");
    authority::revoke(&world.ca(), "a", world.now.plus(HOUR / 60)).unwrap();
    let new = std::fs::read(&crl).unwrap();
    for both in [[&old[..], &new].concat(), [&new[..], &old].concat()] {
        std::fs::write(&crl, both).unwrap();
        let error = Identity::load(&world.settings("a"), world.now).unwrap_err();
        assert!(matches!(error.problems.as_slice(), [Problem::OwnRefused { .. }]), "{error}");
    }
}

#[test]
fn one_list_in_der_is_read_too() {
    let world = World::new();
    world.issue("a");
    let crl = world.ca().join("crl.pem");
    let der = world.first_list();
    std::fs::write(&crl, &der).unwrap();
    Identity::load(&world.settings("a"), world.now).unwrap();
    assert!(parse_lists(&[der.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn keys_of_p_384_and_ed25519_can_be_used() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let world = World::new();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issued = world.with_key("a", &key);
        install(&world.dir.path().join("a"), &issued).unwrap();
        let a = Identity::load(&world.settings("a"), world.now).unwrap();
        let b = world.device("b");
        super::super::testing::handshake(a.client_config(b.id(), &[]), b.server_config(&[])).unwrap();
        super::super::testing::handshake(b.client_config(a.id(), &[]), a.server_config(&[])).unwrap();
    }
}

#[test]
fn an_altered_list_never_stops_us() {
    let world = World::new();
    let der = world.first_list();
    assert!(crl_next_update(&der).is_ok());
    for at in 0..der.len() {
        for bit in [1, 0x80] {
            let mut bent = der.clone();
            bent[at] ^= bit;
            let _ = crl_next_update(&bent);
        }
        assert!(crl_next_update(&der[..at]).is_err());
    }
}
