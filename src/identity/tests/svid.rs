//! The rules of a leaf, one by one.

use proptest::prelude::*;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use sha2::{Digest, Sha256};

use super::super::authority::device_params;
use super::super::svid::{LEAF_LEN_MAX, SvidError, svid};
use super::super::testing::id;
use super::super::{crl_next_update, parse_certificates};
use crate::model::Timestamp;

fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let (domain, device) = ("example.org".parse().unwrap(), "a".parse().unwrap());
    let (from, until) = (Timestamp::from_secs(1_800_000_000), Timestamp::from_secs(1_800_003_600));
    let mut params = device_params(&domain, &device, from, until).unwrap();
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// The rule that a bent certificate breaks.
fn broken(change: impl FnOnce(&mut CertificateParams)) -> SvidError {
    svid(&made(change)).unwrap_err()
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// An extension by the last arc of its OID below 2.5.29, not critical.
fn extension(arc: u64, der: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 5, 29, arc], der.to_vec())
}

#[test]
fn a_leaf_that_keeps_the_rules_is_read() {
    let der = made(|p| p.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x80, 1])));
    let leaf = svid(&der).unwrap();
    assert_eq!((&leaf.id, leaf.serial_hex().as_str()), (&id("a"), "8001"));
    assert_eq!(leaf.not_before, Timestamp::from_secs(1_800_000_000 - 60));
    assert_eq!(leaf.not_after, Timestamp::from_secs(1_800_003_600));
    assert_eq!(leaf.fingerprint_sha256, <[u8; 32]>::from(Sha256::digest(&der)));
    assert_ne!(leaf.spki_sha256, leaf.fingerprint_sha256);
}

#[test]
fn exactly_one_uri_is_allowed() {
    assert_eq!(broken(|p| p.subject_alt_names.clear()), SvidError::UriCount { count: 0 });
    let second = |p: &mut CertificateParams| p.subject_alt_names.push(uri("https://example.org/"));
    assert_eq!(broken(second), SvidError::UriCount { count: 2 });
    let twice = |p: &mut CertificateParams| p.subject_alt_names.push(uri(id("a").as_str()));
    assert_eq!(broken(twice), SvidError::UriCount { count: 2 });
}

#[test]
fn the_uri_must_be_a_spiffe_id_with_a_path() {
    for text in ["https://example.org/a", "spiffe://example.org", "spiffe://example.org/", "SPIFFE://e/a"] {
        let error = broken(|p| p.subject_alt_names = vec![uri(text)]);
        assert!(matches!(error, SvidError::Id(_)), "{text}: {error}");
    }
}

#[test]
fn a_name_of_bytes_that_are_no_text_is_refused() {
    // GeneralNames { URI "spiffe://e/a", URI ff }: the second must not vanish.
    let names = [&[0x30, 17, 0x86, 12][..], b"spiffe://e/a", &[0x86, 1, 0xff]].concat();
    let error = broken(|p| {
        p.subject_alt_names.clear();
        p.custom_extensions = vec![extension(17, &names)];
    });
    assert_eq!(error, SvidError::Malformed);
}

#[test]
fn a_ca_is_no_leaf() {
    let ca = |constraints| broken(|p| p.is_ca = IsCa::Ca(constraints));
    assert_eq!(ca(BasicConstraints::Unconstrained), SvidError::Ca);
    assert_eq!(ca(BasicConstraints::Constrained(0)), SvidError::Ca);
    assert!(svid(&made(|p| p.is_ca = IsCa::NoCa)).is_ok());
}

#[test]
fn the_key_usage_must_be_critical_and_for_signatures_alone() {
    use KeyUsagePurpose as K;
    let with = |usages: &[K]| broken(|p| p.key_usages = usages.to_vec());
    assert_eq!(with(&[]), SvidError::KeyUsageMissing);
    assert_eq!(with(&[K::KeyAgreement]), SvidError::NoDigitalSignature);
    assert_eq!(with(&[K::DigitalSignature, K::KeyCertSign]), SvidError::Signs);
    assert_eq!(with(&[K::DigitalSignature, K::CrlSign]), SvidError::Signs);
    let lax = |critical| {
        made(|p| {
            p.key_usages.clear();
            // BIT STRING with bit 0, digitalSignature.
            let mut usage = extension(15, &[3, 2, 7, 0x80]);
            usage.set_criticality(critical);
            p.custom_extensions = vec![usage];
        })
    };
    assert_eq!(svid(&lax(false)), Err(SvidError::KeyUsageNotCritical));
    assert!(svid(&lax(true)).is_ok());
}

#[test]
fn purposes_are_both_there_or_none() {
    use ExtendedKeyUsagePurpose as E;
    let with = |purposes: &[E]| svid(&made(|p| p.extended_key_usages = purposes.to_vec())).map(|_| ());
    assert_eq!(with(&[]), Ok(()));
    assert_eq!(with(&[E::ClientAuth, E::ServerAuth, E::CodeSigning]), Ok(()));
    for purposes in [&[E::ClientAuth][..], &[E::ServerAuth], &[E::Any]] {
        assert_eq!(with(purposes), Err(SvidError::ExtendedKeyUsage));
    }
}

#[test]
fn an_extension_twice_is_refused() {
    // A second keyUsage that would be right by itself.
    let error = broken(|p| p.custom_extensions = vec![extension(15, &[3, 2, 7, 0x80])]);
    assert_eq!(error, SvidError::DuplicateExtension);
}

#[test]
fn an_extension_that_cannot_be_read_is_refused() {
    let error = broken(|p| {
        p.extended_key_usages.clear();
        p.custom_extensions = vec![extension(37, &[0xff, 0xff])];
    });
    assert_eq!(error, SvidError::Malformed);
}

#[test]
fn bytes_after_the_certificate_are_refused() {
    let mut der = made(|_| {});
    der.extend_from_slice(&[0, 0]);
    assert_eq!(svid(&der), Err(SvidError::TrailingBytes { len: 2 }));
}

#[test]
fn the_longest_leaf_is_looked_at_and_a_longer_one_is_not() {
    assert_eq!(svid(&vec![0x30; LEAF_LEN_MAX]), Err(SvidError::Malformed));
    let len = LEAF_LEN_MAX + 1;
    assert_eq!(svid(&vec![0x30; len]), Err(SvidError::TooLarge { len }));
}

proptest! {
    #[test]
    fn altered_bytes_never_stop_us(at in 0..600_usize, byte: u8, cut in 0..600_usize) {
        let mut der = made(|_| {});
        let at = at % der.len();
        der[at] = byte;
        let _ = svid(&der);
        der.truncate(cut);
        let _ = svid(&der);
    }

    #[test]
    fn any_bytes_never_stop_us(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = svid(&bytes);
        let _ = crl_next_update(&bytes);
        let _ = parse_certificates(&bytes);
    }
}
