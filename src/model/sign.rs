//! Signing without knowing whose key it is or where it is kept.

/// Makes signatures with one private key. `identity` implements it; `device` and `audit` only ask.
pub trait Sign: Send + Sync {
    /// Signs `message` whole.
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
