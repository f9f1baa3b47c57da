//! Who is refused, on both sides, and with which reason.

use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::super::authority::Issued;
use super::super::load::parse_certificates;
use super::super::testing::{HOUR, Side, World, handshake, id, nameless_client, raw_client, raw_server};
use super::super::*;
use crate::model::{Reason, Timestamp};

/// Shows `issued` to a right device as client and as server; both must refuse it alike.
fn refused(world: &World, issued: &Issued) -> Reason {
    let judge = world.device("judge");
    let (side, error) = handshake(raw_client(issued), judge.server_config(&[])).unwrap_err();
    assert_eq!(side, Side::Server, "{error}");
    let at_door = reason_of(&error);
    let expected = &issued.id;
    let (side, error) = handshake(judge.client_config(expected, &[]), raw_server(issued)).unwrap_err();
    assert_eq!(side, Side::Client, "{error}");
    assert_eq!(reason_of(&error), at_door);
    at_door
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn date(at: Timestamp) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(at.as_secs().try_into().unwrap()).unwrap()
}

#[test]
fn a_right_device_passes_both_doors() {
    let world = World::new();
    let issued = world.bent("a", |_| {});
    let judge = world.device("judge");
    handshake(raw_client(&issued), judge.server_config(&[])).unwrap();
    handshake(judge.client_config(&id("a"), &[]), raw_server(&issued)).unwrap();
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let world = World::new();
    let (side, error) = handshake(nameless_client(), world.device("judge").server_config(&[])).unwrap_err();
    assert_eq!((side, reason_of(&error)), (Side::Server, Reason::CertificateMissing));
}

#[test]
fn a_device_of_another_ca_is_refused() {
    let (world, other) = (World::new(), World::new());
    assert_eq!(refused(&world, &other.issue("a")), Reason::CertificateUntrusted);
}

#[test]
fn an_expired_certificate_is_refused() {
    let world = World::new();
    let issued = world.bent("a", |p| p.not_after = date(world.now) - time::Duration::seconds(30));
    assert_eq!(refused(&world, &issued), Reason::CertificateExpired);
}

#[test]
fn a_certificate_of_the_future_is_refused() {
    let world = World::new();
    let issued = world.bent("a", |p| p.not_before = date(world.now.plus(HOUR / 2)));
    assert_eq!(refused(&world, &issued), Reason::CertificateNotYetValid);
}

#[test]
fn a_certificate_with_two_uris_is_refused() {
    let world = World::new();
    let issued = world.bent("a", |p| p.subject_alt_names.push(uri(id("b").as_str())));
    assert_eq!(refused(&world, &issued), Reason::CertificateNotSvid);
    let issued = world.bent("a", |p| p.subject_alt_names.push(uri("https://example.org/")));
    assert_eq!(refused(&world, &issued), Reason::CertificateNotSvid);
}

#[test]
fn a_certificate_without_a_spiffe_id_is_refused() {
    let world = World::new();
    for names in [vec![], vec![uri("spiffe://example.org")], vec![uri("https://example.org/a")]] {
        let issued = world.bent("a", |p| p.subject_alt_names = names);
        assert_eq!(refused(&world, &issued), Reason::CertificateNotSvid);
    }
}

#[test]
fn a_ca_certificate_is_refused_as_a_leaf() {
    let world = World::new();
    let issued = world.bent("a", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    assert_eq!(refused(&world, &issued), Reason::CertificateNotSvid);
}

#[test]
fn a_certificate_that_may_sign_others_is_refused() {
    let world = World::new();
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        let issued = world.bent("a", |p| p.key_usages.push(usage));
        assert_eq!(refused(&world, &issued), Reason::CertificateNotSvid);
    }
}

#[test]
fn a_certificate_without_the_right_key_usage_is_refused() {
    let world = World::new();
    for usages in [vec![], vec![KeyUsagePurpose::KeyAgreement]] {
        let issued = world.bent("a", |p| p.key_usages = usages);
        assert_eq!(refused(&world, &issued), Reason::CertificateNotSvid);
    }
}

#[test]
fn a_certificate_for_one_purpose_only_is_refused() {
    let world = World::new();
    for purpose in [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth] {
        let issued = world.bent("a", |p| p.extended_key_usages = vec![purpose]);
        assert_eq!(refused(&world, &issued), Reason::CertificateNotSvid);
    }
}

#[test]
fn a_device_of_a_ca_for_one_purpose_only_is_refused() {
    use ExtendedKeyUsagePurpose as E;
    let world = World::new();
    let judge = world.device("judge");
    for purposes in [&[E::ClientAuth][..], &[E::ServerAuth]] {
        world.limit_issuing(purposes);
        let (_, error) = handshake(raw_client(&world.issue("a")), judge.server_config(&[])).unwrap_err();
        assert_eq!(reason_of(&error), Reason::CertificateNotSvid);
    }
    world.limit_issuing(&[E::ClientAuth, E::ServerAuth]);
    handshake(raw_client(&world.issue("a")), judge.server_config(&[])).unwrap();
}

#[test]
fn a_certificate_without_any_purpose_passes() {
    let world = World::new();
    let issued = world.bent("a", |p| p.extended_key_usages.clear());
    handshake(raw_client(&issued), world.device("judge").server_config(&[])).unwrap();
}

#[test]
fn a_device_of_another_trust_domain_is_refused() {
    let world = World::new();
    let issued = world.bent("a", |p| p.subject_alt_names = vec![uri("spiffe://other.org/device/a")]);
    assert_eq!(refused(&world, &issued), Reason::TrustDomainForeign);
}

#[test]
fn another_device_than_the_expected_one_is_refused() {
    let world = World::new();
    let judge = world.device("judge");
    let (side, error) =
        handshake(judge.client_config(&id("b"), &[]), raw_server(&world.issue("a"))).unwrap_err();
    assert_eq!((side, reason_of(&error)), (Side::Client, Reason::PeerUnexpected));
    assert!(error.to_string().contains("device/b"), "{error}");
}

#[test]
fn a_leaf_too_long_to_be_read_is_refused() {
    let world = World::new();
    let name = |i: usize| SanType::DnsName(Ia5String::try_from(format!("{i}.{}", "a".repeat(60))).unwrap());
    let issued = world.bent("a", |p| p.subject_alt_names.extend((0..300).map(name)));
    assert_eq!(refused(&world, &issued), Reason::CertificateInvalid);
}

#[test]
fn a_chain_that_is_too_long_is_refused() {
    let world = World::new();
    let mut issued = world.issue("a");
    let with = |issued: &Issued, roots: usize| issued.leaf_pem.clone() + &issued.bundle_pem.repeat(roots);
    // One intermediate is there already.
    let longest = with(&issued, INTERMEDIATES_MAX - 1);
    issued.leaf_pem = with(&issued, INTERMEDIATES_MAX);
    assert_eq!(refused(&world, &issued), Reason::CertificateInvalid);
    issued.leaf_pem = longest;
    let judge = world.device("judge");
    handshake(raw_client(&issued), judge.server_config(&[])).unwrap();
    handshake(judge.client_config(&id("a"), &[]), raw_server(&issued)).unwrap();
}

#[test]
fn only_the_leaf_says_who_a_peer_is() {
    let world = World::new();
    let (mut a, b) = (world.issue("a"), world.issue("b"));
    a.leaf_pem += &b.leaf_pem;
    let judge = world.device("judge");
    let (_, server) = handshake(raw_client(&a), judge.server_config(&[])).unwrap();
    let seen = peer(server.peer_certificates().unwrap(), world.now).unwrap();
    assert_eq!(seen.id(), &id("a"));
    let (_, error) = handshake(judge.client_config(&id("b"), &[]), raw_server(&a)).unwrap_err();
    assert_eq!(reason_of(&error), Reason::PeerUnexpected);
}

#[test]
fn someone_elses_leaf_without_its_key_is_refused() {
    let world = World::new();
    let (a, b) = (world.issue("a"), world.issue("b"));
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(b.key_pem.as_bytes()).unwrap();
    let chain = parse_certificates(a.leaf_pem.as_bytes()).unwrap();
    let signing = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let stolen = rustls::sign::CertifiedKey::new(chain, signing);
    let mut client = (*raw_client(&b)).clone();
    client.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    let judge = world.device("judge");
    let (side, error) = handshake(Arc::new(client), judge.server_config(&[])).unwrap_err();
    assert_eq!((side, reason_of(&error)), (Side::Server, Reason::CertificateInvalid));
}

#[test]
fn an_empty_chain_is_nobody() {
    let none: [CertificateDer<'_>; 0] = [];
    assert!(peer(&none, Timestamp::default()).is_err());
}
