//! What rustls asks us in a handshake: is this peer's chain good, and which chain do we show.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};

use super::material::{Own, Shared};
use super::provider::ALGORITHMS;
use super::svid::{Svid, SvidError, svid};
use super::trust::{Stage, TrustError, check_chain};
use crate::model::{Reason, SpiffeId, Timestamp, TrustDomain};

/// Shows our leaf and judges the peer's, with whatever material is in force at that very moment.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) shared: Arc<Shared>,
    /// Who must be at the other end; `None` at the peers' door, where policy judges who may.
    pub(crate) expected: Option<SpiffeId>,
    /// The leaf to show, where it must be known beforehand; else the one in force.
    pub(crate) own: Option<Arc<Own>>,
}

impl Door {
    fn leaf(&self) -> Arc<CertifiedKey> {
        match &self.own {
            Some(own) => Arc::clone(&own.certified),
            None => Arc::clone(&self.shared.material.load().own.certified),
        }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let material = self.shared.material.load();
        let now = Timestamp::from_millis(now.as_secs().saturating_mul(1000));
        let mut chain = vec![leaf.clone()];
        chain.extend_from_slice(intermediates);
        check_chain(&material.own.roots, &material.revocation, &chain, now, Stage::Handshake)
            .map_err(PeerError::from)
            .and_then(|_| check_leaf(leaf, &self.shared.settings.trust_domain, self.expected.as_ref()))
            .map_err(|error| Error::InvalidCertificate(error.into()))
    }
}

/// The rules that come after the chain: X.509-SVID, our trust domain, the expected ID.
pub(super) fn check_leaf(
    leaf: &CertificateDer<'_>,
    trust_domain: &TrustDomain,
    expected: Option<&SpiffeId>,
) -> Result<(), PeerError> {
    let Svid { id, .. } = svid(leaf)?;
    if id.trust_domain() != trust_domain {
        return Err(PeerError::Foreign { id });
    }
    match expected {
        Some(expected) if *expected != id => Err(PeerError::Unexpected { id, expected: expected.clone() }),
        _ => Ok(()),
    }
}

impl ClientCertVerifier for Door {
    // No hints: a stranger learns no names of ours, and a peer has only one leaf to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ServerCertVerifier for Door {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // A device is known by its SPIFFE ID; DNS names in its leaf grant nothing here.
        _: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ResolvesServerCert for Door {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.leaf())
    }
}

impl ResolvesClientCert for Door {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.leaf())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Why a peer's certificate was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Of another trust domain.
    #[error("`{id}` belongs to another trust domain")]
    Foreign {
        /// Who it is.
        id: SpiffeId,
    },
    /// Breaks a rule of X.509-SVID.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// Its chain is not trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Not the device the configuration names.
    #[error("the peer is `{id}`, expected `{expected}`")]
    Unexpected {
        /// Who it is.
        id: SpiffeId,
        /// Who was expected.
        expected: SpiffeId,
    },
}

impl PeerError {
    /// What a stranger may know of it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Foreign { .. } => Reason::TrustDomainForeign,
            Self::Svid(
                SvidError::Malformed | SvidError::TooLarge { .. } | SvidError::TrailingBytes { .. },
            ) => Reason::CertificateInvalid,
            Self::Svid(_) => Reason::CertificateNotSvid,
            Self::Trust(error) => error.reason(),
            Self::Unexpected { .. } => Reason::PeerUnexpected,
        }
    }
}

// Where TLS has an alert of its own the plain variant is used, so that the peer hears it (RFC 8446 §6.2).
// Everything else travels whole inside `Other` and comes out again in `reason_of`.
impl From<PeerError> for CertificateError {
    fn from(error: PeerError) -> Self {
        use webpki::Error as E;
        match &error {
            PeerError::Trust(TrustError::Path(E::CertRevoked)) => Self::Revoked,
            PeerError::Trust(TrustError::Path(E::UnknownIssuer)) => Self::UnknownIssuer,
            PeerError::Trust(TrustError::Path(E::CertExpired { time, not_after })) => {
                Self::ExpiredContext { time: *time, not_after: *not_after }
            }
            PeerError::Trust(TrustError::Path(E::CertNotValidYet { time, not_before })) => {
                Self::NotValidYetContext { time: *time, not_before: *not_before }
            }
            _ => Self::Other(OtherError(Arc::new(error))),
        }
    }
}
