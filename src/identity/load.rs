//! From files to material, or to every problem at once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring::sign::{any_ecdsa_type, any_eddsa_type};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use sha2::{Digest, Sha256};
use webpki::OwnedCertRevocationList;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::Settings;
use super::file::{FileError, read, read_secret};
use super::material::Own;
use super::svid::{SvidError, svid};
use super::trust::{Lists, Revocation, Root, Stage, TrustError, check_chain};
use crate::model::{Reason, SpiffeId, Timestamp, TrustDomain};

/// Reads leaf, key and bundle and checks that they fit each other, the trust domain and the clock.
pub(crate) fn load_own(settings: &Settings, now: Timestamp) -> Result<Own, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut keep = |problem: Problem| problems.push(problem);
    let chain = load_chain(&settings.leaf).map_err(&mut keep).ok();
    let key = load_key(&settings.key).map_err(&mut keep).ok();
    let bundle = load_bundle(&settings.bundle).map_err(&mut keep).ok();
    let leaf = chain.as_ref().and_then(|chain| match leaf_of(&settings.leaf, chain) {
        Ok(leaf) if leaf.0.id.trust_domain() == &settings.trust_domain => Some(leaf),
        Ok((svid, _)) => {
            keep(Problem::Foreign {
                path: settings.leaf.clone(),
                id: svid.id,
                expected: settings.trust_domain.clone(),
            });
            None
        }
        Err(problem) => {
            keep(problem);
            None
        }
    });
    if let (Some((svid, _)), Some(chain), Some((roots, _))) = (&leaf, &chain, &bundle)
        && let Err(error) = check_chain(roots, &Revocation::Off, chain, now, Stage::Handshake)
    {
        keep(match error.reason() {
            Reason::CertificateExpired if now > svid.not_after => {
                Problem::Expired { path: settings.leaf.clone(), not_after: svid.not_after, now }
            }
            Reason::CertificateNotYetValid if now < svid.not_before => {
                Problem::NotYetValid { path: settings.leaf.clone(), not_before: svid.not_before, now }
            }
            _ if roots.iter().all(|r| now > r.not_after) => {
                Problem::BundleExpired { path: settings.bundle.clone(), now }
            }
            _ => Problem::Chain { path: settings.leaf.clone(), bundle: settings.bundle.clone(), error },
        });
    }
    let certified = match (&chain, key) {
        (Some(chain), Some(key)) => {
            let certified = CertifiedKey::new(chain.clone(), key);
            // `Unknown` is an error too: what cannot be compared is not known to match.
            certified.keys_match().map(|()| certified).map_err(|_| {
                keep(Problem::KeyMismatch { path: settings.key.clone(), leaf: settings.leaf.clone() });
            })
        }
        _ => Err(()),
    };
    match (certified, leaf, bundle) {
        (Ok(certified), Some((svid, spki)), Some((roots, bundle_digest))) if problems.is_empty() => {
            Ok(Own { certified: Arc::new(certified), svid, spki, roots, bundle_digest })
        }
        _ => Err(problems),
    }
}

/// Reads the revocation lists: each must parse, have a nextUpdate and not be past it.
pub(crate) fn load_lists(path: &Path, now: Timestamp) -> Result<Lists, Problem> {
    let bytes = read(path, CRL_FILE_MAX)?;
    let lists = parse_lists(&bytes).map_err(|why| Problem::Crl { path: path.into(), why })?;
    if now >= lists.next_update {
        return Err(Problem::CrlExpired { path: path.into(), next_update: lists.next_update, now });
    }
    Ok(lists)
}

/// Parses revocation lists: PEM when `bytes` begin a PEM section anywhere, one DER list otherwise.
pub(crate) fn parse_lists(bytes: &[u8]) -> Result<Lists, &'static str> {
    let mut ders = Vec::new();
    if bytes.windows(PEM_BEGIN.len()).any(|w| w == PEM_BEGIN) {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
            match section {
                Ok((SectionKind::Crl, der)) => ders.push(der),
                Ok(_) => return Err("has PEM sections other than `X509 CRL`"),
                Err(_) => return Err("is no well-formed PEM"),
            }
        }
    } else {
        ders.push(bytes.to_vec());
    }
    if ders.is_empty() || ders.len() > LISTS_MAX {
        return Err("must hold 1..=64 revocation lists");
    }
    let mut lists = Vec::new();
    for der in ders {
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| "is no well-formed CRL")?;
        let next_update = list.next_update().ok_or("has a list without nextUpdate")?.timestamp();
        let this_update = list.last_update().timestamp();
        let number = list.crl_number().cloned();
        let checked = OwnedCertRevocationList::from_der(&CertificateRevocationListDer::from(der.as_slice()))
            .map_err(|_| "is no CRL of version 2 that can be used here (RFC 5280 §5)")?;
        lists.push((this_update, number, Timestamp::from_secs(next_update), checked));
    }
    let next_update = lists.iter().map(|l| l.2).min().unwrap_or_default();
    // webpki asks the first list of an issuer only, so the newest must come first.
    lists.sort_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
    let lists = lists.into_iter().map(|l| l.3.into()).collect();
    Ok(Lists { lists, next_update, digest: Sha256::digest(bytes).into() })
}

fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain = parse_certificates(&read(path, PEM_FILE_MAX)?)
        .map_err(|why| Problem::Pem { path: path.into(), why })?;
    if chain.len() > CHAIN_MAX {
        return Err(Problem::TooMany { path: path.into(), max: CHAIN_MAX });
    }
    Ok(chain)
}

fn leaf_of(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(super::Svid, Box<[u8]>), Problem> {
    let fail = |error| Problem::Svid { path: path.into(), error };
    let leaf = chain.first().ok_or_else(|| fail(SvidError::Malformed))?;
    let svid = svid(leaf).map_err(fail)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| fail(SvidError::Malformed))?;
    Ok((svid, certificate.public_key().raw.into()))
}

fn load_key(path: &Path) -> Result<Arc<dyn SigningKey>, Problem> {
    let bytes = read_secret(path, PEM_FILE_MAX)?;
    let fail = |why| Problem::Key { path: path.into(), why };
    let mut keys = PrivatePkcs8KeyDer::pem_slice_iter(&bytes);
    let key = match (keys.next(), keys.next()) {
        (Some(Ok(key)), None) => key,
        (Some(Ok(_)), Some(_)) => return Err(fail("holds more than one private key")),
        _ => return Err(fail("holds no PKCS#8 private key (`BEGIN PRIVATE KEY`)")),
    };
    any_eddsa_type(&key)
        .or_else(|_| any_ecdsa_type(&PrivateKeyDer::Pkcs8(key)))
        .map_err(|_| fail("is neither a P-256, a P-384 nor an Ed25519 key"))
}

fn load_bundle(path: &Path) -> Result<(Vec<Root>, [u8; 32]), Problem> {
    let bytes = read(path, PEM_FILE_MAX)?;
    let fail = |why| Problem::Pem { path: path.into(), why };
    let certificates = parse_certificates(&bytes).map_err(fail)?;
    if certificates.len() > ROOTS_MAX {
        return Err(Problem::TooMany { path: path.into(), max: ROOTS_MAX });
    }
    let mut roots = Vec::new();
    for certificate in &certificates {
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| fail(BROKEN))?;
        if !rest.is_empty() {
            return Err(fail(BROKEN));
        }
        if !parsed.is_ca() {
            return Err(Problem::NotCa { path: path.into(), subject: parsed.subject().to_string() });
        }
        let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| fail(BROKEN))?;
        roots.push(Root {
            anchor: anchor.to_owned(),
            not_before: Timestamp::from_secs(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_secs(parsed.validity().not_after.timestamp()),
        });
    }
    Ok((roots, Sha256::digest(&bytes).into()))
}

/// Parses PEM that holds certificates and nothing else, at least one.
pub(crate) fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let mut certificates = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        match section {
            Ok((SectionKind::Certificate, der)) => certificates.push(CertificateDer::from(der)),
            Ok(_) => return Err("has PEM sections other than `CERTIFICATE`"),
            Err(_) => return Err("is no well-formed PEM"),
        }
    }
    if certificates.is_empty() {
        return Err("holds no certificate");
    }
    Ok(certificates)
}

/// Every problem of the identity's files.
#[derive(Debug)]
pub struct LoadError {
    /// At least one, in the order leaf, key, bundle, how they fit, CRL.
    pub problems: Vec<Problem>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// One thing that is wrong with one file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Every root is past its notAfter.
    #[error("`{}` has no root that is still valid at {now}", path.display())]
    BundleExpired {
        /// The bundle.
        path: PathBuf,
        /// The clock.
        now: Timestamp,
    },
    /// The leaf does not chain to the bundle.
    #[error("`{}` does not chain to `{}`: {error}", path.display(), bundle.display())]
    Chain {
        /// The leaf.
        path: PathBuf,
        /// The bundle.
        bundle: PathBuf,
        /// Why.
        error: TrustError,
    },
    /// The CRL file is broken.
    #[error("`{}` {why}", path.display())]
    Crl {
        /// The file.
        path: PathBuf,
        /// What is wrong, to be read after the file's name.
        why: &'static str,
    },
    /// A list is past its nextUpdate.
    #[error("`{}` expired at {next_update}, the clock says {now}: publish a fresh one with `countersign ca crl`", path.display())]
    CrlExpired {
        /// The file.
        path: PathBuf,
        /// The earliest nextUpdate.
        next_update: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// The leaf is past its notAfter.
    #[error("`{}` expired at {not_after}, the clock says {now}: issue a new one with `countersign device issue`", path.display())]
    Expired {
        /// The leaf.
        path: PathBuf,
        /// Its notAfter.
        not_after: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// Could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The leaf is of another trust domain.
    #[error("`{}` is `{id}`, expected trust domain `{expected}`", path.display())]
    Foreign {
        /// The leaf.
        path: PathBuf,
        /// Who it is.
        id: SpiffeId,
        /// The trust domain of the settings.
        expected: TrustDomain,
    },
    /// The leaf on disk is of another device than the one that runs.
    #[error("`{}` is `{id}`, but this sidecar runs as `{running}`: restart it to change its identity", path.display())]
    IdChanged {
        /// The leaf.
        path: PathBuf,
        /// Who it is.
        id: SpiffeId,
        /// Who runs.
        running: SpiffeId,
    },
    /// The key file holds no usable key.
    #[error("`{}` {why}", path.display())]
    Key {
        /// The key.
        path: PathBuf,
        /// What is wrong, to be read after the file's name.
        why: &'static str,
    },
    /// The key is not the leaf's.
    #[error("`{}` is not the private key of `{}`", path.display(), leaf.display())]
    KeyMismatch {
        /// The key.
        path: PathBuf,
        /// The leaf.
        leaf: PathBuf,
    },
    /// A certificate of the bundle is no CA.
    #[error("`{}` holds `{subject}`, which is no CA", path.display())]
    NotCa {
        /// The bundle.
        path: PathBuf,
        /// Its subject.
        subject: String,
    },
    /// The leaf is before its notBefore.
    #[error("`{}` is valid from {not_before}, the clock says {now}", path.display())]
    NotYetValid {
        /// The leaf.
        path: PathBuf,
        /// Its notBefore.
        not_before: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// The CRL file revokes this device, or says nothing of its issuer.
    #[error("`{}` is refused by `{}`: {error}", path.display(), crl.display())]
    OwnRefused {
        /// The leaf.
        path: PathBuf,
        /// The CRL file.
        crl: PathBuf,
        /// Why.
        error: TrustError,
    },
    /// Not the PEM that was expected.
    #[error("`{}` {why}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong, to be read after the file's name.
        why: &'static str,
    },
    /// The leaf is no X.509-SVID.
    #[error("`{}` is no SPIFFE X.509-SVID: {error}", path.display())]
    Svid {
        /// The leaf.
        path: PathBuf,
        /// The broken rule.
        error: SvidError,
    },
    /// No TLS configuration can be made.
    #[error("no TLS 1.3 configuration can be made: {0}")]
    Tls(rustls::Error),
    /// More certificates than a file may hold.
    #[error("`{}` holds more than {max} certificates", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// The bound.
        max: usize,
    },
}

/// Longest leaf, key or bundle file in bytes.
pub const PEM_FILE_MAX: u64 = 1024 * 1024;
/// Longest CRL file in bytes.
pub const CRL_FILE_MAX: u64 = 16 * 1024 * 1024;
/// Most roots in a bundle.
pub const ROOTS_MAX: usize = 64;
/// Most revocation lists in a file.
pub const LISTS_MAX: usize = 64;
/// Most certificates in the leaf's file, itself counted.
pub const CHAIN_MAX: usize = super::trust::INTERMEDIATES_MAX + 1;

const BROKEN: &str = "holds a certificate that is not well-formed";
const PEM_BEGIN: &[u8] = b"-----BEGIN ";
