//! Keys and claims of devices, to make evidence by hand, right and wrong.

use std::fs;
use std::path::Path;

use countersign::device::{self, Claims, Salt};
use countersign::model::{Sign, SignError, Timestamp};
use rcgen::{KeyPair, PublicKeyData, SigningKey};

/// The key of a device.
pub struct Key {
    pair: KeyPair,
    spki: Vec<u8>,
}

impl Key {
    /// From a PEM file.
    pub fn read(path: &Path) -> Self {
        Self::of(KeyPair::from_pem(&fs::read_to_string(path).unwrap()).unwrap())
    }

    fn of(pair: KeyPair) -> Self {
        let spki = pair.subject_public_key_info();
        Self { pair, spki }
    }

    pub fn spki_sha256(&self) -> [u8; 32] {
        use sha2::Digest;
        sha2::Sha256::digest(&self.spki).into()
    }
}

impl Sign for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.pair.sign(message).map_err(|_| SignError)
    }

    fn public_key_spki(&self) -> &[u8] {
        &self.spki
    }
}

/// What the machine below `machine` claims of itself now, salted with the salt in `certs`.
pub fn claims(machine: &Path, certs: &Path) -> Claims {
    let salt = Salt::load_or_make(&certs.join("device.salt")).unwrap();
    let seen = device::fingerprint(&device::collect(machine).unwrap(), &salt);
    let now = i64::try_from(Timestamp::now().as_secs()).unwrap();
    Claims {
        ueid: seen.ueid,
        issued_at: Timestamp::from_secs(now),
        components: seen.values,
        boot: seen.boot,
        counter: Timestamp::now().as_millis(),
        program: "countersign".into(),
        version: "0.1.0".into(),
        config_digest: [1; 32],
        policy_digest: [2; 32],
        new_leaf_sha256: None,
    }
}
