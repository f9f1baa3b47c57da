//! Keys, machines, claims and records for tests.

use std::path::Path;
use std::time::Duration;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use super::record::digest_of;
use super::*;
use crate::model::{Sign, SignError, SpiffeId, Tier, Timestamp};

/// A P-256 key in memory.
pub(crate) struct Key {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl Key {
    pub(crate) fn new() -> Self {
        let rng = SystemRandom::new();
        let kind = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &rng).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &rng).unwrap();
        let head = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
        let mut spki = data_encoding::HEXLOWER.decode(head.as_bytes()).unwrap();
        spki.extend(pair.public_key().as_ref());
        Self { pair, spki }
    }

    pub(crate) fn spki_sha256(&self) -> [u8; 32] {
        digest_of(&self.spki)
    }
}

impl Sign for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SignError)?;
        Ok(signature.as_ref().to_vec())
    }

    fn public_key_spki(&self) -> &[u8] {
        &self.spki
    }
}

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn id(name: &str) -> SpiffeId {
    format!("spiffe://example.org/device/{name}").parse().unwrap()
}

/// What the machine of this seed presents under the salt of that number.
pub(crate) fn machine(seed: u8, salt: u8) -> Fingerprint {
    let dir = tempfile::tempdir().unwrap();
    demo_machine(dir.path(), seed).unwrap();
    present(dir.path(), salt)
}

pub(crate) fn present(sysroot: &Path, salt: u8) -> Fingerprint {
    fingerprint(&collect(sysroot).unwrap(), &Salt::new([salt; 32]))
}

pub(crate) fn claims(of: &Fingerprint) -> Claims {
    Claims {
        ueid: of.ueid,
        issued_at: NOW,
        components: of.values.clone(),
        boot: of.boot,
        counter: 7,
        program: "countersign".into(),
        version: "0.1.0".into(),
        config_digest: [1; 32],
        policy_digest: [2; 32],
        new_leaf_sha256: None,
    }
}

pub(crate) fn record(of: &Fingerprint, key: &Key) -> Record {
    Record {
        id: id("web-1"),
        version: 3,
        profile: of.profile,
        tier_max: Tier::Software,
        spki_sha256: key.spki_sha256(),
        baseline: Record::baseline_of(&of.values),
        status: Status::Active,
        issued_at: NOW,
        expires_at: NOW.plus(24 * HOUR),
    }
}
