//! Whom this device trusts: roots and revocation lists, and the one check of a chain against them.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeIdIter,
    RevocationCheckDepth, RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::provider::ALGORITHMS;
use crate::model::{Reason, Timestamp};

/// A root of the bundle, trusted between two times.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    pub(crate) anchor: TrustAnchor<'static>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// Revocation lists, the newest of an issuer first; never empty.
#[derive(Debug)]
pub(crate) struct Lists {
    pub(crate) lists: Vec<CertRevocationList<'static>>,
    /// The earliest nextUpdate.
    pub(crate) next_update: Timestamp,
    /// SHA-256 of the file they came from.
    pub(crate) digest: [u8; 32],
}

/// What is known of revocation.
#[derive(Clone, Debug)]
pub(crate) enum Revocation {
    /// No list is configured.
    Off,
    /// The lists that were read last are good.
    Good(Arc<Lists>),
    /// The configured file became missing, broken or expired. `last` still judges living sessions.
    Unavailable { why: String, last: Option<Arc<Lists>> },
}

/// Whose chain is checked: it decides which lists may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// A handshake: only lists that are good now.
    Handshake,
    /// A session that was proven before: the last good lists, until they expire.
    Living,
}

/// Checks `chain` (leaf first) up to one of `roots` at `now` (RFC 5280 §6.1, §6.3).
///
/// The leaf must be covered by a list when lists are configured. An intermediate is checked wherever a
/// list of its issuer is at hand: root lists come from an offline key, so they may be rare, but a
/// revoked intermediate must never pass. Two passes, because webpki has one policy for the whole path.
///
/// Gives the SubjectPublicKeyInfo of the CA that issued the leaf, taken from the path that was verified: what merely
/// stands next in the chain need not be the issuer.
///
/// # Errors
/// [`TrustError`] says why the chain is not trusted.
pub(crate) fn check_chain(
    roots: &[Root],
    revocation: &Revocation,
    chain: &[CertificateDer<'_>],
    now: Timestamp,
    stage: Stage,
) -> Result<IssuerSpki, TrustError> {
    let lists = match (revocation, stage) {
        (Revocation::Off, _) => None,
        (Revocation::Good(lists), _) | (Revocation::Unavailable { last: Some(lists), .. }, Stage::Living) => {
            Some(lists)
        }
        (Revocation::Unavailable { .. }, _) => return Err(TrustError::CrlUnavailable),
    };
    let Some(lists) = lists else {
        return check_path(roots, chain, now, None);
    };
    // Every list, not only the one that is asked: half a set of lists is a broken set.
    if now >= lists.next_update {
        return Err(TrustError::CrlUnavailable);
    }
    let lists: Vec<_> = lists.lists.iter().collect();
    let passes = [
        (RevocationCheckDepth::EndEntity, UnknownStatusPolicy::Deny),
        (RevocationCheckDepth::Chain, UnknownStatusPolicy::Allow),
    ];
    let mut issuer = None;
    for (depth, status) in passes {
        let options = RevocationOptionsBuilder::new(&lists)
            .map_err(|_| TrustError::CrlUnavailable)?
            .with_depth(depth)
            .with_status_policy(status)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build();
        issuer = Some(check_path(roots, chain, now, Some(options))?);
    }
    issuer.ok_or(TrustError::NoCertificate)
}

fn check_path(
    roots: &[Root],
    chain: &[CertificateDer<'_>],
    now: Timestamp,
    revocation: Option<RevocationOptions<'_>>,
) -> Result<IssuerSpki, TrustError> {
    let (leaf, intermediates) = chain.split_first().ok_or(TrustError::NoCertificate)?;
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(TrustError::TooLong);
    }
    // webpki takes a root's word for ever; we hold it to its dates.
    let anchors: Vec<_> = roots
        .iter()
        .filter(|r| r.not_before <= now && now <= r.not_after)
        .map(|r| r.anchor.clone())
        .collect();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| {
            leaf.verify_for_usage(
                ALGORITHMS.all,
                &anchors,
                intermediates,
                time,
                BothPurposes,
                revocation,
                None,
            )
            .map(|path| path.issuer_spki().as_ref().into())
        })
        .map_err(TrustError::Path)
}

/// DER SubjectPublicKeyInfo of the CA that issued a verified leaf.
pub(crate) type IssuerSpki = Box<[u8]>;

/// A device is client and server alike: where purposes are named at all, both must be.
struct BothPurposes;

impl ExtendedKeyUsageValidator for BothPurposes {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut any, mut client, mut server) = (false, false, false);
        for purpose in purposes {
            let oid = purpose?.to_decoded_oid();
            any = true;
            client |= oid == webpki::KeyUsage::CLIENT_AUTH_REPR;
            server |= oid == webpki::KeyUsage::SERVER_AUTH_REPR;
        }
        if !any || (client && server) {
            return Ok(());
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext {
            required: if client { webpki::KeyUsage::server_auth() } else { webpki::KeyUsage::client_auth() },
            present: Vec::new(),
        }))
    }
}

/// Why a chain is not trusted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The configured revocation lists are missing, broken or expired.
    #[error("the configured revocation list is missing, broken or expired")]
    CrlUnavailable,
    /// The chain is empty.
    #[error("the chain is empty")]
    NoCertificate,
    /// No valid path to a root of the bundle.
    #[error("no valid path to a root of the bundle: {0}")]
    Path(webpki::Error),
    /// More than [`INTERMEDIATES_MAX`] certificates follow the leaf.
    #[error("more than {INTERMEDIATES_MAX} certificates follow the leaf")]
    TooLong,
}

impl TrustError {
    /// What a stranger may know of it.
    pub fn reason(&self) -> Reason {
        use webpki::Error as E;
        match self {
            Self::CrlUnavailable => Reason::CrlUnavailable,
            Self::NoCertificate => Reason::CertificateMissing,
            Self::TooLong => Reason::CertificateInvalid,
            Self::Path(error) => match error {
                E::CertExpired { .. } | E::InvalidCertValidity => Reason::CertificateExpired,
                E::CertNotValidYet { .. } => Reason::CertificateNotYetValid,
                E::CertRevoked => Reason::CertificateRevoked,
                E::UnknownIssuer => Reason::CertificateUntrusted,
                E::CaUsedAsEndEntity | E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => {
                    Reason::CertificateNotSvid
                }
                E::CrlExpired { .. }
                | E::UnknownRevocationStatus
                | E::IssuerNotCrlSigner
                | E::InvalidCrlSignatureForPublicKey
                | E::UnsupportedCrlSignatureAlgorithmContext(_)
                | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => Reason::CrlUnavailable,
                _ => Reason::CertificateInvalid,
            },
        }
    }
}

/// Most certificates a chain may have after its leaf.
pub const INTERMEDIATES_MAX: usize = 8;
