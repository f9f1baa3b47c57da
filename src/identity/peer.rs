//! Who is at the other end of a completed handshake.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::svid::{Svid, SvidError, svid};
use crate::model::{SpiffeId, Timestamp};

/// A peer proven by the leaf of a completed handshake, with the chain kept so that it can be checked again.
///
/// Nothing else makes one but a renewed leaf whose key was proven on the same session: no header, no address, no later
/// certificate of the chain.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    chain: Vec<CertificateDer<'static>>,
    svid: Svid,
    spki: Box<[u8]>,
    proven_at: Timestamp,
}

impl PeerIdentity {
    /// Its SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.svid.id
    }

    /// What its leaf says.
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// The chain as it was presented, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// DER SubjectPublicKeyInfo of its leaf.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// When its key was proven.
    pub fn proven_at(&self) -> Timestamp {
        self.proven_at
    }
}

/// Reads the peer from `peer_certificates()` of a **completed** handshake that one of this room's
/// configurations verified; only the first certificate counts.
///
/// # Errors
/// [`SvidError`] when there is no leaf or it breaks a rule of X.509-SVID.
pub fn peer(chain: &[CertificateDer<'_>], now: Timestamp) -> Result<PeerIdentity, SvidError> {
    let leaf = chain.first().ok_or(SvidError::Malformed)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| SvidError::Malformed)?;
    Ok(PeerIdentity {
        svid: svid(leaf)?,
        spki: parsed.public_key().raw.into(),
        chain: chain.iter().map(|c| c.clone().into_owned()).collect(),
        proven_at: now,
    })
}
