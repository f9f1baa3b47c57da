//! Signing without knowing whose key it is or where it is kept.

/// Makes signatures with one private key. `identity` implements it; `device` and `audit` only ask.
pub trait Sign: Send + Sync {
    /// Signs `message` whole: ECDSA in ASN.1 (RFC 3279 §2.2.3), Ed25519 as its 64 bytes (RFC 8032 §5.1.6).
    ///
    /// # Errors
    /// [`SignError`] when the key cannot be used now.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// The key's public half as a DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    fn public_key_spki(&self) -> &[u8];
}

/// The private key refused to sign.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the private key could not sign")]
pub struct SignError;
