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
    if !signer.public_key_spki().starts_with(SPKI_PREFIX) {
        return Err(SignError);
    }
    fixed(&signer.sign(message)?).ok_or(SignError)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Key;

    struct Says(Vec<u8>, Vec<u8>);

    impl Sign for Says {
        fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
            Ok(self.0.clone())
        }

        fn public_key_spki(&self) -> &[u8] {
            &self.1
        }
    }

    #[test]
    fn what_one_key_signs_only_that_key_verifies() {
        let (key, other) = (Key::new(), Key::new());
        // Often enough that `r` and `s` come short, and with a leading zero.
        for n in 0..600_u32 {
            let message = n.to_be_bytes();
            let signature = sign_p256(&key, &message).unwrap();
            assert!(verify_p256(key.public_key_spki(), &message, &signature));
            if n < 5 {
                assert!(!verify_p256(other.public_key_spki(), &message, &signature));
                assert!(!verify_p256(key.public_key_spki(), b"another", &signature));
                assert!(!verify_p256(&key.public_key_spki()[1..], &message, &signature));
                assert!(!verify_p256(key.public_key_spki(), &message, &signature[..63]));
            }
        }
    }

    #[test]
    fn what_is_no_signature_of_p256_is_not_passed_on() {
        let spki = Key::new().public_key_spki().to_vec();
        let right = [vec![0x30, 6, 2, 1, 7, 2, 1, 9]].concat();
        let fixed = sign_p256(&Says(right.clone(), spki.clone()), b"").unwrap();
        assert_eq!((fixed[31], fixed[63], fixed.iter().map(|b| u32::from(*b)).sum()), (7, 9, 16));
        assert!(
            sign_p256(&Says(right.clone(), spki[..26].to_vec()), b"").is_ok(),
            "the prefix is what counts"
        );
        assert!(sign_p256(&Says(right.clone(), vec![0; 44]), b"").is_err(), "a key of another kind");
        let mut long = vec![0x30, 38, 2, 33, 1];
        long.extend([0; 32]);
        long.extend([2, 1, 9]);
        for wrong in [
            vec![],
            right[..7].to_vec(),
            [right.clone(), vec![0]].concat(),
            vec![0x30, 7, 2, 1, 7, 2, 1, 9, 0],
            vec![0x31, 6, 2, 1, 7, 2, 1, 9],
            vec![0x30, 6, 3, 1, 7, 2, 1, 9],
            vec![0x30, 0x81, 6, 2, 1, 7, 2, 1, 9],
            long,
            vec![7; 64],
        ] {
            assert!(sign_p256(&Says(wrong.clone(), spki.clone()), b"").is_err(), "{wrong:?}");
        }
    }
}
