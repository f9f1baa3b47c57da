//! Who is at the other end of a completed handshake.

use rustls::pki_types::CertificateDer;

use super::svid::{Svid, SvidError, svid};
use crate::model::{SpiffeId, Timestamp};

/// A peer proven by the leaf of a completed handshake, with the chain kept so that it can be checked again.
///
/// Nothing else makes one: no header, no address, no later certificate of the chain.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    chain: Vec<CertificateDer<'static>>,
    svid: Svid,
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

    /// When the handshake completed.
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
    Ok(PeerIdentity {
        svid: svid(leaf)?,
        chain: chain.iter().map(|c| c.clone().into_owned()).collect(),
        proven_at: now,
    })
}
