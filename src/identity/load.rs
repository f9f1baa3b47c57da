//! From files to material, or to every problem at once.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring::sign::{any_ecdsa_type, any_eddsa_type};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use sha2::{Digest, Sha256};
use webpki::OwnedCertRevocationList;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::Settings;
use super::file::{read, read_secret};
use super::material::Own;
use super::problem::{Problem, Unusable};
use super::svid::{SvidError, svid};
use super::trust::{Lists, Revocation, Root, Stage, check_chain};
use crate::model::{Reason, Timestamp};

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
pub(crate) fn parse_lists(bytes: &[u8]) -> Result<Lists, Unusable> {
    let mut ders = Vec::new();
    if bytes.windows(PEM_BEGIN.len()).any(|w| w == PEM_BEGIN) {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
            match section {
                Ok((SectionKind::Crl, der)) => ders.push(der),
                Ok(_) => return Err(Unusable("has PEM sections other than `X509 CRL`")),
                Err(_) => return Err(Unusable("is no well-formed PEM")),
            }
        }
    } else {
        ders.push(bytes.to_vec());
    }
    if ders.is_empty() || ders.len() > LISTS_MAX {
        return Err(Unusable("must hold 1..=64 revocation lists"));
    }
    let mut lists = Vec::new();
    for der in ders {
        let (_, list) =
            CertificateRevocationList::from_der(&der).map_err(|_| Unusable("is no well-formed CRL"))?;
        let next_update = list.next_update().ok_or(Unusable("has a list without nextUpdate"))?.timestamp();
        let this_update = list.last_update().timestamp();
        let number = list.crl_number().cloned();
        let checked = OwnedCertRevocationList::from_der(&CertificateRevocationListDer::from(der.as_slice()))
            .map_err(|_| Unusable("is no CRL of version 2 that can be used here (RFC 5280 §5)"))?;
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
        (Some(Ok(_)), Some(_)) => return Err(fail(Unusable("holds more than one private key"))),
        _ => return Err(fail(Unusable("holds no PKCS#8 private key (`BEGIN PRIVATE KEY`)"))),
    };
    any_eddsa_type(&key)
        .or_else(|_| any_ecdsa_type(&PrivateKeyDer::Pkcs8(key)))
        .map_err(|_| fail(Unusable("is neither a P-256, a P-384 nor an Ed25519 key")))
}

fn load_bundle(path: &Path) -> Result<(Vec<Root>, [u8; 32]), Problem> {
    let bytes = read(path, PEM_FILE_MAX)?;
    let fail = |why| Problem::Pem { path: path.into(), why };
    let certificates = parse_certificates(&bytes).map_err(fail)?;
    if certificates.len() > ROOTS_MAX {
        return Err(Problem::TooMany { path: path.into(), max: ROOTS_MAX });
    }
    let roots = roots_of(&certificates).map_err(|bad| match bad {
        BadRoot::Broken => fail(BROKEN),
        BadRoot::NotCa(subject) => Problem::NotCa { path: path.into(), subject },
    })?;
    Ok((roots, Sha256::digest(&bytes).into()))
}

/// The roots that these certificates are.
pub(crate) fn roots_of(certificates: &[CertificateDer<'_>]) -> Result<Vec<Root>, BadRoot> {
    let mut roots = Vec::new();
    for certificate in certificates {
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| BadRoot::Broken)?;
        if !rest.is_empty() {
            return Err(BadRoot::Broken);
        }
        if !parsed.is_ca() {
            return Err(BadRoot::NotCa(parsed.subject().to_string()));
        }
        let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| BadRoot::Broken)?;
        roots.push(Root {
            anchor: anchor.to_owned(),
            not_before: Timestamp::from_secs(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_secs(parsed.validity().not_after.timestamp()),
        });
    }
    Ok(roots)
}

/// Why a certificate of a bundle is no root.
#[derive(Debug)]
pub(crate) enum BadRoot {
    Broken,
    /// Its subject.
    NotCa(String),
}

/// Whether two bundles have a root in common: the same name and key.
pub(crate) fn shares_a_root(a: &[Root], b: &[Root]) -> bool {
    let same = |x: &Root, y: &Root| {
        x.anchor.subject == y.anchor.subject
            && x.anchor.subject_public_key_info == y.anchor.subject_public_key_info
    };
    a.iter().any(|x| b.iter().any(|y| same(x, y)))
}

/// Parses PEM that holds certificates and nothing else, at least one.
///
/// # Errors
/// [`Unusable`] when it holds none, or anything else.
pub fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let mut certificates = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        match section {
            Ok((SectionKind::Certificate, der)) => certificates.push(CertificateDer::from(der)),
            Ok(_) => return Err(Unusable("has PEM sections other than `CERTIFICATE`")),
            Err(_) => return Err(Unusable("is no well-formed PEM")),
        }
    }
    if certificates.is_empty() {
        return Err(Unusable("holds no certificate"));
    }
    Ok(certificates)
}

/// The earliest nextUpdate of the revocation lists in `bytes`, PEM or DER. No signature is checked.
///
/// # Errors
/// [`Unusable`] when a list is broken or lacks a nextUpdate (RFC 5280 §5.1.2.5).
pub fn crl_next_update(bytes: &[u8]) -> Result<Timestamp, Unusable> {
    parse_lists(bytes).map(|l| l.next_update)
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

const BROKEN: Unusable = Unusable("holds a certificate that is not well-formed");
const PEM_BEGIN: &[u8] = b"-----BEGIN ";
