//! What `identity` can be told.

use std::path::PathBuf;

use crate::model::TrustDomain;

/// `[identity]` and `[channel] pq`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain this sidecar and all its peers belong to.
    pub trust_domain: TrustDomain,
    /// PEM chain of this device, leaf first. Default `certs/leaf.pem`.
    pub leaf: PathBuf,
    /// PEM private key (PKCS#8), readable by its owner only. Default `certs/leaf.key`.
    pub key: PathBuf,
    /// PEM roots that peers are verified against. Default `certs/bundle.pem`.
    pub bundle: PathBuf,
    /// PEM or DER revocation lists. When configured, a missing, broken or expired list refuses everybody.
    pub crl: Option<PathBuf>,
    /// Which key exchange groups are offered.
    pub pq: Pq,
}

/// Post-quantum key exchange (X25519MLKEM768).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Pq {
    /// Classical groups only.
    Off,
    /// Hybrid first, classical accepted.
    #[default]
    Prefer,
    /// Hybrid or nothing.
    Require,
}
