//! ECDSA P-256 signatures with SHA-256 in their fixed form: `r` and `s`, 32 bytes each (RFC 9053 §2.1).

use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use crate::model::{Sign, SignError};

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// Whether the key of this SubjectPublicKeyInfo made `signature` over `message`. A key that is no P-256 key made none.
pub fn verify_p256(spki_der: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Some(point) = spki_der.strip_prefix(SPKI_PREFIX) else { return false };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
}

/// Signs with a P-256 key.
///
/// # Errors
/// [`SignError`] when the key cannot be used, or is of another kind.
pub(crate) fn sign_p256(signer: &dyn Sign, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError> {
    let fixed = fixed(&signer.sign(message)?).ok_or(SignError)?;
    // A signature that we would not accept ourselves never leaves: the key may be of another curve.
    if verify_p256(signer.public_key_spki(), message, &fixed) { Ok(fixed) } else { Err(SignError) }
}

/// The fixed form of an ASN.1 signature (RFC 3279 §2.2.3); `None` when it is none of P-256.
fn fixed(der: &[u8]) -> Option<[u8; SIGNATURE_LEN]> {
    let (body, rest) = element(der, SEQUENCE)?;
    let (r, after) = element(body, INTEGER)?;
    let (s, end) = element(after, INTEGER)?;
    if !rest.is_empty() || !end.is_empty() {
        return None;
    }
    let mut fixed = [0; SIGNATURE_LEN];
    let (left, right) = fixed.split_at_mut(SIGNATURE_LEN / 2);
    for (number, half) in [(r, left), (s, right)] {
        let digits = number.strip_prefix(&[0]).unwrap_or(number);
        let start = half.len().checked_sub(digits.len())?;
        half.get_mut(start..)?.copy_from_slice(digits);
    }
    Some(fixed)
}

/// Content and rest of a DER element with a length below 128: a P-256 signature has no longer one.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    match der {
        [t, len, rest @ ..] if *t == tag && *len < 128 => rest.split_at_checked(usize::from(*len)),
        _ => None,
    }
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
/// SubjectPublicKeyInfo of id-ecPublicKey on prime256v1, up to the uncompressed point (RFC 5480 §2.1.1, §2.2).
const SPKI_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
