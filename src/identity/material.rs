//! What one handshake works with: our leaf and key, the roots, the revocation lists.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;

use super::Settings;
use super::svid::Svid;
use super::trust::{Revocation, Root};

/// Shared by every clone of the identity and every configuration made from it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) material: ArcSwap<Material>,
}

/// In force at one moment; replaced whole.
#[derive(Clone, Debug)]
pub(crate) struct Material {
    pub(crate) own: Arc<Own>,
    pub(crate) revocation: Revocation,
}

/// Leaf, key and bundle: read together, because they must fit each other.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) svid: Svid,
    /// The leaf's DER SubjectPublicKeyInfo.
    pub(crate) spki: Box<[u8]>,
    pub(crate) roots: Vec<Root>,
    /// SHA-256 of the bundle file.
    pub(crate) bundle_digest: [u8; 32],
}
