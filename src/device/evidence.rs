//! Evidence: what a device claims, as an EAT in COSE_Sign1 (RFC 9711, RFC 8392, RFC 9052) made for one connection.

use std::collections::BTreeMap;

use ciborium::value::Value;
use coset::iana::Algorithm;
use coset::{
    AsCborValue, CoseSign1, CoseSign1Builder, Header, HeaderBuilder, SignatureContext,
    TaggedCborSerializable, sig_structure_data,
};

use super::binder::{Binder, EVIDENCE_LABEL};
use super::cbor::{self, Fields};
use super::p256::{SIGNATURE_LEN, sign_p256, verify_p256};
use super::record::{VALUES_MAX, digest_of};
use super::{Component, Presented};
use crate::model::{Reason, Sign, Timestamp};

/// Longest evidence in bytes.
pub const EVIDENCE_LEN_MAX: usize = 16 * 1024;
/// Longest name or version of a program in bytes.
pub const TEXT_LEN_MAX: usize = 64;

/// What a device claims of itself, now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claims {
    /// Names the machine without telling anything (RFC 9711 §4.2.1).
    pub ueid: [u8; 17],
    /// When it was made, in whole seconds.
    pub issued_at: Timestamp,
    /// What it presents of itself.
    pub components: BTreeMap<Component, Presented>,
    /// Changes with each boot.
    pub boot: [u8; 16],
    /// Grows with each evidence that this device makes.
    pub counter: u64,
    /// Name of the sidecar program, printable ASCII of at most [`TEXT_LEN_MAX`] bytes.
    pub program: String,
    /// Its version, likewise.
    pub version: String,
    /// SHA-256 of the configuration in force.
    pub config_digest: [u8; 32],
    /// SHA-256 of the policy in force.
    pub policy_digest: [u8; 32],
    /// SHA-256 of the leaf certificate that takes the place of the handshake's, at a renewal.
    pub new_leaf_sha256: Option<[u8; 32]>,
}

/// Makes evidence for the connection of `binder`, signed with the key that opened it.
///
/// # Errors
/// [`EvidenceError`] when the key cannot sign, or nobody would take what it would say.
pub fn make(claims: &Claims, binder: &Binder, signer: &dyn Sign) -> Result<Vec<u8>, EvidenceError> {
    let payload = cbor::write(&claims.to_value(binder));
    if parse_claims(&payload)? != (claims.clone(), binder.0) {
        return Err(EvidenceError::Claims);
    }
    let header = header(digest_of(signer.public_key_spki()));
    let cose = CoseSign1Builder::new()
        .protected(header)
        .payload(payload)
        .try_create_signature(EVIDENCE_LABEL, |message| {
            sign_p256(signer, message).map(Vec::from).map_err(|_| EvidenceError::Sign)
        })?
        .build();
    let bytes = cose.to_tagged_vec().map_err(|_| EvidenceError::Claims)?;
    if bytes.len() > EVIDENCE_LEN_MAX {
        return Err(EvidenceError::TooLarge { len: bytes.len() });
    }
    Ok(bytes)
}

/// Reads evidence made for the connection of `binder` with the key of the leaf that the handshake proved.
///
/// # Errors
/// [`EvidenceError`]; no claim is read before the signature is verified.
pub fn open(bytes: &[u8], binder: &Binder, spki_der: &[u8]) -> Result<Claims, EvidenceError> {
    if bytes.len() > EVIDENCE_LEN_MAX {
        return Err(EvidenceError::TooLarge { len: bytes.len() });
    }
    let cose = envelope(bytes).ok_or(EvidenceError::Envelope)?;
    let expected = header(digest_of(spki_der));
    if cose.protected.header.alg != expected.alg {
        return Err(EvidenceError::Algorithm);
    }
    if cose.protected.header != expected {
        return Err(EvidenceError::OtherKey);
    }
    let payload = cose.payload.unwrap_or_default();
    let message =
        sig_structure_data(SignatureContext::CoseSign1, cose.protected, None, EVIDENCE_LABEL, &payload);
    if cose.signature.len() != SIGNATURE_LEN || !verify_p256(spki_der, &message, &cose.signature) {
        return Err(EvidenceError::Signature);
    }
    let (claims, nonce) = parse_claims(&payload)?;
    if nonce != binder.0 {
        return Err(EvidenceError::OtherConnection);
    }
    Ok(claims)
}

/// Reads the payload of evidence: claims and nonce. Nothing is verified; [`open`] does that first.
///
/// # Errors
/// [`EvidenceError::Claims`].
pub fn parse_claims(payload: &[u8]) -> Result<(Claims, [u8; 32]), EvidenceError> {
    cbor::read(payload).and_then(Claims::of).ok_or(EvidenceError::Claims)
}

/// The COSE_Sign1 that `bytes` are, in its deterministic form and with an empty unprotected header.
fn envelope(bytes: &[u8]) -> Option<CoseSign1> {
    let Value::Tag(CoseSign1::TAG, inner) = cbor::read(bytes)? else { return None };
    // Before `coset` reads it, which would go deeper than we do.
    let protected = inner.as_array().and_then(|parts| parts.first())?.as_bytes()?;
    if protected.len() > PROTECTED_LEN_MAX {
        return None;
    }
    let cose = CoseSign1::from_cbor_value(*inner).ok()?;
    // No signature covers the unprotected header and how the parts are put together.
    let exact = cose.clone().to_tagged_vec().is_ok_and(|again| again == bytes);
    (exact && cose.unprotected.is_empty() && cose.payload.is_some()).then_some(cose)
}

/// The only protected header there is for this key.
fn header(spki_sha256: [u8; 32]) -> Header {
    HeaderBuilder::new().algorithm(Algorithm::ES256).key_id(spki_sha256.to_vec()).build()
}

impl Claims {
    fn to_value(&self, binder: &Binder) -> Value {
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
        let mut by_name: Vec<_> = self.components.iter().map(|(c, values)| (c.name(), values)).collect();
        by_name.sort_unstable_by_key(|(name, _)| (name.len(), *name));
        let component = |(name, values): (&str, &Presented)| {
            (Value::from(name), Value::Array(values.iter().map(|v| bytes(v)).collect()))
        };
        let mut fields = vec![
            (IAT, Value::from(self.issued_at.as_secs())),
            (EAT_NONCE, bytes(&binder.0)),
            (UEID, bytes(&self.ueid)),
            (EAT_PROFILE, Value::from(PROFILE)),
            (SWNAME, Value::from(self.program.as_str())),
            (SWVERSION, Value::Array(vec![Value::from(self.version.as_str())])),
            (COMPONENTS, Value::Map(by_name.into_iter().map(component).collect())),
            (BOOT, bytes(&self.boot)),
            (COUNTER, Value::from(self.counter)),
            (CONFIG, bytes(&self.config_digest)),
            (POLICY, bytes(&self.policy_digest)),
        ];
        fields.extend(self.new_leaf_sha256.map(|digest| (NEW_LEAF, bytes(&digest))));
        cbor::map(fields)
    }

    /// Claims and nonce; `None` when one is missing, foreign, twice there or of the wrong shape.
    fn of(value: Value) -> Option<(Self, [u8; 32])> {
        let mut fields = Fields::of(value)?;
        if fields.text(EAT_PROFILE, PROFILE.len())? != PROFILE {
            return None;
        }
        let nonce = fields.bytes(EAT_NONCE)?;
        let issued_at = Timestamp::from_secs(i64::try_from(fields.number(IAT)?).ok()?);
        let version = fields.take(SWVERSION)?.into_array().ok()?;
        let [version] = <[Value; 1]>::try_from(version).ok()?;
        let claims = Self {
            ueid: fields.bytes(UEID)?,
            issued_at,
            components: components(fields.take(COMPONENTS)?)?,
            boot: fields.bytes(BOOT)?,
            counter: fields.number(COUNTER)?,
            program: fields.text(SWNAME, TEXT_LEN_MAX)?,
            version: cbor::text(version, TEXT_LEN_MAX)?,
            config_digest: fields.bytes(CONFIG)?,
            policy_digest: fields.bytes(POLICY)?,
            new_leaf_sha256: fields.maybe_bytes(NEW_LEAF)?,
        };
        fields.end()?;
        Some((claims, nonce))
    }
}

fn components(value: Value) -> Option<BTreeMap<Component, Presented>> {
    let mut components = BTreeMap::new();
    for (name, values) in value.into_map().ok()? {
        let component = Component::from_name(name.as_text()?)?;
        let values: Option<Presented> = values.into_array().ok()?.into_iter().map(cbor::bytes).collect();
        let values = values.filter(|v| (1..=VALUES_MAX).contains(&v.len()))?;
        // A set: sorted, and each value once. Else one value could be counted for many.
        let rising = values.iter().zip(values.iter().skip(1)).all(|(a, b)| a < b);
        if !rising || components.insert(component, values).is_some() {
            return None;
        }
    }
    Some(components)
}

/// Why evidence is refused, or could not be made. What it says is never told: it may be a stranger's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Another algorithm than ES256.
    #[error("the evidence is signed with another algorithm than ES256")]
    Algorithm,
    /// A claim is missing, unknown, twice there or of the wrong shape.
    #[error("the claims of the evidence are not those of its profile")]
    Claims,
    /// No COSE_Sign1, or one with anything in its unprotected header.
    #[error("the evidence is no COSE_Sign1 in its deterministic form")]
    Envelope,
    /// Made for another connection or role: replayed or reflected.
    #[error("the evidence was made for another connection or role")]
    OtherConnection,
    /// Made with another key than the connection's: relayed or reflected.
    #[error("the evidence names another key than that of the connection")]
    OtherKey,
    /// Our own key did not sign.
    #[error("the device's key could not sign the evidence")]
    Sign,
    /// The signature does not fit.
    #[error("the signature of the evidence does not fit")]
    Signature,
    /// Longer than [`EVIDENCE_LEN_MAX`].
    #[error("the evidence is {len} bytes, expected at most {EVIDENCE_LEN_MAX}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
    },
}

impl EvidenceError {
    /// What a stranger is told.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Algorithm | Self::Claims | Self::Envelope | Self::TooLarge { .. } => {
                Reason::EvidenceMalformed
            }
            Self::OtherConnection | Self::OtherKey => Reason::EvidenceBinding,
            Self::Signature => Reason::EvidenceSignature,
            Self::Sign => Reason::Internal,
        }
    }
}

const PROFILE: &str = "urn:x-countersign:evidence:1";
// Registered claims (RFC 8392 §3.1.6, RFC 9711 §4).
const IAT: i64 = 6;
const EAT_NONCE: i64 = 10;
const UEID: i64 = 256;
const EAT_PROFILE: i64 = 265;
const SWNAME: i64 = 270;
const SWVERSION: i64 = 271;
// Ours, in the range for private use (RFC 8392 §9.1).
const COMPONENTS: i64 = -70_001;
const BOOT: i64 = -70_004;
const COUNTER: i64 = -70_005;
const CONFIG: i64 = -70_006;
const POLICY: i64 = -70_007;
const NEW_LEAF: i64 = -70_008;
/// Longest protected header in bytes; ours has 39.
const PROTECTED_LEN_MAX: usize = 64;

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
