//! What an authority distributes, judged before a byte of it is written: roots, issuing CAs, revocation lists; and the
//! files of a renewed identity, put in place together.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use sha2::{Digest, Sha256};
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::authority::Issued;
use super::file::{Access, FileError, Planned, read, redo, write, write_together};
use super::load::{
    CRL_FILE_MAX, PEM_FILE_MAX, load_own, parse_certificates, parse_lists, roots_of, shares_a_root,
};
use super::own::LeafSigner;
use super::trust::{Lists, Revocation, Stage, check_chain};
use super::{Identity, Settings};
use crate::model::Timestamp;

/// Where a sidecar's identity and what belongs to it lie.
#[derive(Clone, Debug)]
pub struct Places {
    settings: Settings,
    /// The device's own record.
    pub record: PathBuf,
    /// What is begun and not finished: the next key and its request, and files that are being written together.
    pub state: PathBuf,
    /// Who is in quarantine or revoked, as heard last.
    pub standings: PathBuf,
}

impl Places {
    /// The files that `settings` names, the record, and the others in the leaf's folder.
    pub fn new(settings: &Settings, record: &Path) -> Self {
        let folder = settings.leaf.parent().unwrap_or(Path::new("")).to_owned();
        Self {
            settings: settings.clone(),
            record: record.to_owned(),
            state: folder.join("renew-state"),
            standings: folder.join("standings"),
        }
    }

    /// Puts a renewed leaf, its key, its record and what is newer beside them in place: all of it, or, after a crash,
    /// all of it once [`Places::finish`] has run.
    ///
    /// # Errors
    /// [`FileError`] with the path that could not be written.
    pub fn install(&self, issued: &Issued, record: &str) -> Result<(), FileError> {
        let Settings { leaf, key, bundle, crl, .. } = &self.settings;
        let mut files = vec![
            Planned::file(bundle.clone(), &*issued.bundle_pem, Access::Everybody),
            Planned::file(key.clone(), &*issued.key_pem, Access::Owner),
            Planned::file(leaf.clone(), &*issued.leaf_pem, Access::Everybody),
            Planned::file(self.record.clone(), record, Access::Everybody),
        ];
        if let (Some(crl), false) = (crl, issued.crl_pem.is_empty()) {
            files.insert(0, Planned::file(crl.clone(), &*issued.crl_pem, Access::Everybody));
        }
        super::file::make_dir(&self.state)?;
        write_together(&self.journal(), &files)
    }

    /// Finishes an [`Places::install`] that a crash interrupted. Says whether there was one.
    ///
    /// # Errors
    /// [`FileError`] when it cannot be finished.
    pub fn finish(&self) -> Result<bool, FileError> {
        redo(&self.journal())
    }

    /// Writes new roots.
    ///
    /// # Errors
    /// [`FileError`] with the path that could not be written.
    pub fn write_bundle(&self, pem: &[u8]) -> Result<(), FileError> {
        write(&self.settings.bundle, pem, Access::Everybody)
    }

    /// Writes new revocation lists; does nothing where none are configured.
    ///
    /// # Errors
    /// [`FileError`] with the path that could not be written.
    pub fn write_crl(&self, pem: &[u8]) -> Result<(), FileError> {
        self.settings.crl.as_ref().map_or(Ok(()), |path| write(path, pem, Access::Everybody))
    }

    /// Whether revocation lists are configured.
    pub fn has_crl(&self) -> bool {
        self.settings.crl.is_some()
    }

    /// SHA-256 of the revocation lists and of the roots as they lie there; zeros for what is not there.
    pub fn digests(&self) -> ([u8; 32], [u8; 32]) {
        let digest = |path: &Path, max| read(path, max).map(|b| Sha256::digest(b).into()).unwrap_or_default();
        let crl = self.settings.crl.as_ref().map(|path| digest(path, CRL_FILE_MAX)).unwrap_or_default();
        (crl, digest(&self.settings.bundle, PEM_FILE_MAX))
    }

    fn journal(&self) -> PathBuf {
        self.state.join("install.json")
    }

    /// The leaf that lies there, when all that is wrong with it is that it has expired at `now`.
    pub fn lapsed(&self, now: Timestamp) -> Option<LeafSigner> {
        let chain = parse_certificates(&read(&self.settings.leaf, PEM_FILE_MAX).ok()?).ok()?;
        let end = super::svid(chain.first()?).ok()?.not_after;
        if now <= end {
            return None;
        }
        load_own(&self.settings, end).ok().map(|own| LeafSigner { own: std::sync::Arc::new(own) })
    }

    /// The roots as they lie there, PEM.
    ///
    /// # Errors
    /// [`FileError`] when they cannot be read.
    pub fn read_bundle(&self) -> Result<String, FileError> {
        Ok(String::from_utf8_lossy(&read(&self.settings.bundle, PEM_FILE_MAX)?).into_owned())
    }

    /// The revocation lists as they lie there; empty when there are none.
    pub fn read_crl(&self) -> Vec<u8> {
        self.settings.crl.as_ref().and_then(|path| read(path, CRL_FILE_MAX).ok()).unwrap_or_default()
    }
}

impl Identity {
    /// Whether new roots may take the place of ours: they read, share a root with ours, and our leaf leads to one.
    ///
    /// # Errors
    /// [`NewsError`] with the first thing that is wrong.
    pub fn judge_bundle(&self, pem: &str, now: Timestamp) -> Result<(), NewsError> {
        let own = &self.shared().material.load().own;
        let bad = |why| NewsError { what: "bundle", why };
        let certificates = parse_certificates(pem.as_bytes()).map_err(|_| bad("does not read"))?;
        if certificates.len() > super::ROOTS_MAX {
            return Err(bad("holds too many roots"));
        }
        let roots = roots_of(&certificates).map_err(|_| bad("holds something that is no root"))?;
        if !shares_a_root(&roots, &own.roots) {
            return Err(bad("shares no root with ours"));
        }
        // An expired leaf is judged by its last day: it wants to be renewed, not to be locked out.
        let at = now.min(own.svid.not_after);
        check_chain(&roots, &Revocation::Off, &own.certified.cert, at, Stage::Handshake)
            .map_err(|_| bad("does not lead to our own certificate"))?;
        Ok(())
    }

    /// Whether new revocation lists may take the place of `ours`: each is signed by a CA below the roots of `bundle_pem`,
    /// good now, and not older than the one of the same CA here. `issuers_pem` are the issuing CAs.
    ///
    /// # Errors
    /// [`NewsError`] with the first thing that is wrong.
    pub fn judge_lists(
        &self,
        bundle_pem: &str,
        issuers_pem: &str,
        pem: &[u8],
        ours: &[u8],
        now: Timestamp,
    ) -> Result<(), NewsError> {
        let bad = |why| NewsError { what: "revocation list", why };
        let lists: Lists = parse_lists(pem).map_err(|_| bad("does not read"))?;
        if now >= lists.next_update {
            return Err(bad("has expired"));
        }
        let cas =
            authorities(bundle_pem, issuers_pem, now).map_err(|why| NewsError { what: "issuing CA", why })?;
        let new = heads(pem).ok_or_else(|| bad("does not read"))?;
        for (der, head) in &new {
            let signed = |ca: &CertificateDer<'_>| signed_by(der, ca);
            if !cas.iter().any(signed) {
                return Err(bad("is not signed by a CA that we trust"));
            }
            if heads(ours)
                .unwrap_or_default()
                .iter()
                .any(|(_, old)| old.issuer == head.issuer && old.is_newer(head))
            {
                return Err(bad("is older than ours"));
            }
        }
        let own = &self.shared().material.load().own;
        let covered = own.certified.cert.get(1).and_then(|ca| X509Certificate::from_der(ca).ok());
        if let Some((_, ca)) = covered
            && !new.iter().any(|(_, head)| head.issuer == ca.subject().as_raw())
        {
            return Err(bad("says nothing of the CA that issued our certificate"));
        }
        Ok(())
    }
}

/// What tells a list from another.
struct Head {
    issuer: Vec<u8>,
    number: BigUint,
    this_update: i64,
}

impl Head {
    /// Whether this one came after `other`.
    fn is_newer(&self, other: &Self) -> bool {
        (&self.number, self.this_update) > (&other.number, other.this_update)
    }
}

fn heads(pem: &[u8]) -> Option<Vec<(Vec<u8>, Head)>> {
    let mut heads = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (SectionKind::Crl, der) = section.ok()? else { return None };
        let (rest, list) = CertificateRevocationList::from_der(&der).ok()?;
        let head = Head {
            issuer: list.issuer().as_raw().to_vec(),
            number: list.crl_number().cloned().unwrap_or_default(),
            this_update: list.last_update().timestamp(),
        };
        if !rest.is_empty() {
            return None;
        }
        heads.push((der, head));
    }
    Some(heads)
}

fn signed_by(list: &[u8], ca: &CertificateDer<'_>) -> bool {
    let (Ok((_, list)), Ok((_, ca))) =
        (CertificateRevocationList::from_der(list), X509Certificate::from_der(ca))
    else {
        return false;
    };
    list.issuer().as_raw() == ca.subject().as_raw() && list.verify_signature(ca.public_key()).is_ok()
}

/// The roots, and the issuing CAs that a root signed; all good at `now`.
fn authorities(
    bundle_pem: &str,
    issuers_pem: &str,
    now: Timestamp,
) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let roots = parse_certificates(bundle_pem.as_bytes()).map_err(|_| "the bundle does not read")?;
    let mut all = roots.clone();
    for der in parse_certificates(issuers_pem.as_bytes()).map_err(|_| "does not read")? {
        let (_, ca) = X509Certificate::from_der(&der).map_err(|_| "does not read")?;
        let at =
            x509_parser::time::ASN1Time::from_timestamp(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let good = at.is_ok_and(|at| ca.validity().is_valid_at(at));
        let below = |root: &CertificateDer<'_>| {
            X509Certificate::from_der(root).is_ok_and(|(_, root)| {
                root.subject().as_raw() == ca.issuer().as_raw()
                    && ca.verify_signature(Some(root.public_key())).is_ok()
            })
        };
        if !ca.is_ca() || !good || !roots.iter().any(below) {
            return Err("is below none of the roots");
        }
        all.push(der);
    }
    Ok(all)
}

/// DER SubjectPublicKeyInfo of each issuing CA below the roots: device records are signed with their keys.
///
/// # Errors
/// [`NewsError`] when one does not read or is below no root.
pub fn issuer_keys(bundle_pem: &str, issuers_pem: &str, now: Timestamp) -> Result<Vec<Vec<u8>>, NewsError> {
    let all =
        authorities(bundle_pem, issuers_pem, now).map_err(|why| NewsError { what: "issuing CA", why })?;
    let key = |der: &CertificateDer<'_>| {
        X509Certificate::from_der(der).map(|(_, c)| c.public_key().raw.to_vec()).unwrap_or_default()
    };
    Ok(all.iter().map(key).collect())
}

/// Why something that was distributed is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the {what} that the authority distributes {why}")]
pub struct NewsError {
    /// Which part.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}
