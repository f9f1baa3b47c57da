//! Puts a new issuing CA, or a new root, in the place of the old one, with a time in which both are trusted.
//!
//! Devices need not be told beforehand. A new root comes into the bundle beside the old ones, and the new issuing CA is
//! signed by both roots: who has the old bundle only, and who has the new, both find a path. The old issuing CA goes on
//! signing revocation lists until nothing that it issued can live.

use std::path::Path;

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::file::{Access, FileError, Planned, make_dir, read, read_secret, write_together};
use super::super::load::PEM_FILE_MAX;
use super::crl::{CRL_TTL_DEFAULT, CrlFile, CrlState, pem};
use super::init::{ISSUING_TTL, ROOT_TTL, ca_params};
use super::{
    AuthorityError, BUNDLE_PEM, CRL_PEM, Ca, CaFacts, Folder, ISSUING_CROSS_PEM, ISSUING_KEY, ISSUING_PEM,
    ROOT_KEY, ROOT_PEM, ROTATION, generate_key, ledger, name, random,
};
use crate::model::Timestamp;

/// What a rotation did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rotated {
    /// When the new root ends; `None` when the root stayed.
    pub root_not_after: Option<Timestamp>,
    /// When the new issuing CA ends.
    pub issuing_not_after: Timestamp,
    /// When the last certificate of the old one ends: [`retire`] has an effect from then on.
    pub overlap_until: Timestamp,
}

/// Makes a new issuing CA below the root, or with `new_root` below a new one. Needs `root.key`.
///
/// Nothing that was issued before becomes untrusted by it.
///
/// # Errors
/// [`AuthorityError`]; nothing is changed then.
pub fn rotate(dir: &Path, new_root: bool, now: Timestamp) -> Result<Rotated, AuthorityError> {
    let folder = Folder::open(dir)?;
    let old_root = folder.ca(ROOT_PEM, ROOT_KEY, now)?;
    let old_cas = folder.issuing_cas(now)?;
    let generations = generations(&folder)?;
    if generations.len() >= GENERATIONS_MAX {
        return Err(AuthorityError::Generations { count: generations.len() });
    }
    let domain = old_root.facts.trust_domain.clone();
    let tag = data_encoding::HEXLOWER.encode(&random::<4>()?);
    let mut files = set_aside(&folder, &generations, now)?;

    let (root, root_not_after) = if new_root {
        let not_after = now.plus(ROOT_TTL);
        let params = ca_params(name(&format!("{domain} root {tag}")), &domain, 1, now, not_after)?;
        let key = generate_key()?;
        let certificate = params.self_signed(&key)?;
        let bundle = certificate.pem() + &text(&folder, BUNDLE_PEM)?;
        files.extend(old_root_aside(&folder, &generations)?);
        files.push(Planned::file(folder.file(ROOT_KEY), key.serialize_pem(), Access::Owner));
        files.push(Planned::file(folder.file(ROOT_PEM), certificate.pem(), Access::Everybody));
        files.push(Planned::file(folder.file(BUNDLE_PEM), bundle, Access::Everybody));
        (Some(ca_of(certificate.der(), key)?), Some(not_after))
    } else {
        (None, None)
    };
    let signer = root.as_ref().unwrap_or(&old_root);
    let issuing_not_after = now.plus(ISSUING_TTL).min(signer.facts.not_after);
    let key = generate_key()?;
    let issuing_name = || name(&format!("{domain} issuing {tag}"));
    let certificate =
        ca_params(issuing_name(), &domain, 0, now, issuing_not_after)?.signed_by(&key, &signer.issuer)?;
    if root.is_some() {
        let until = issuing_not_after.min(old_root.facts.not_after);
        let cross = ca_params(issuing_name(), &domain, 0, now, until)?.signed_by(&key, &old_root.issuer)?;
        files.push(Planned::file(folder.file(ISSUING_CROSS_PEM), cross.pem(), Access::Everybody));
    }
    files.push(Planned::file(folder.file(ISSUING_KEY), key.serialize_pem(), Access::Owner));
    files.push(Planned::file(folder.file(ISSUING_PEM), certificate.pem(), Access::Everybody));

    let mut lists = CrlFile::read(&folder, &old_cas)?;
    lists.renew_root(&old_root, now, issuing_not_after.min(old_root.facts.not_after))?;
    if let Some(root) = &root {
        lists.renew_root(root, now, issuing_not_after)?;
    }
    // Who was revoked stays so, whoever of us is asked.
    let mut first = CrlState::default();
    first.revoked = lists.issuing.first().map(|l| l.revoked.clone()).unwrap_or_default();
    lists.issuing.insert(0, first);
    let mut cas = vec![ca_of(certificate.der(), key)?];
    cas.extend(old_cas);
    let (crl, _) = lists.sign(&cas, now, now.plus(CRL_TTL_DEFAULT))?;
    // First of all: a list too many harms nobody, one too few refuses everybody.
    files.insert(0, Planned::file(folder.file(CRL_PEM), crl, Access::Everybody));
    write_together(&folder.file(ROTATION), &files)?;
    Ok(Rotated { root_not_after, issuing_not_after, overlap_until: last_end(&folder, now)? })
}

/// What retiring did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Retired {
    /// Issuing CAs that are gone.
    pub issuing: usize,
    /// Subjects of the roots that are no longer in the bundle.
    pub roots: Vec<String>,
    /// When the next can go; `None` when none is left.
    pub next_at: Option<Timestamp>,
}

/// Forgets the issuing CAs whose certificates have all ended, and the roots above them that nothing needs any more.
///
/// # Errors
/// [`AuthorityError`]; nothing is changed then.
pub fn retire(dir: &Path, now: Timestamp) -> Result<Retired, AuthorityError> {
    let folder = Folder::open(dir)?;
    let mut retired = Retired::default();
    let (mut files, mut gone, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    let mut stays = false;
    // Oldest first: a root can only go when everything before its successor has.
    for generation in generations(&folder)?.iter().rev() {
        let until = until(&folder, generation)?;
        if now < until || stays {
            stays = true;
            retired.next_at = Some(retired.next_at.map_or(until, |at| at.min(until)));
            continue;
        }
        for file in [ISSUING_KEY, ISSUING_PEM, ISSUING_CROSS_PEM, ROOT_KEY, ROOT_PEM, UNTIL] {
            files.push(Planned::gone(folder.file(&format!("{generation}/{file}"))));
        }
        dropped.push(folder.certificate(&format!("{generation}/{ISSUING_PEM}"))?);
        match folder.certificate(&format!("{generation}/{ROOT_PEM}")) {
            Ok(root) => dropped.push(root),
            Err(AuthorityError::File(FileError::Io { source, .. }))
                if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        gone.push(generation.clone());
    }
    retired.issuing = gone.len();
    if gone.is_empty() {
        return Ok(retired);
    }
    let kept: Vec<_> = folder.roots()?.into_iter().filter(|root| !dropped.contains(root)).collect();
    retired.roots = dropped.iter().filter(|der| is_self_signed(der)).map(|der| subject(der)).collect();
    if !retired.roots.is_empty() {
        let bundle = kept.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>();
        files.push(Planned::file(folder.file(BUNDLE_PEM), bundle, Access::Everybody));
        if kept.len() < 2 {
            files.push(Planned::gone(folder.file(ISSUING_CROSS_PEM)));
        }
    }
    let names: Vec<_> = dropped.iter().map(|der| subject(der)).collect();
    let living: Vec<_> =
        folder.issuing_cas(now)?.into_iter().filter(|ca| !names.contains(&ca.facts.subject)).collect();
    let mut lists = CrlFile::read(&folder, &living)?;
    lists.others.retain(|der| !names.contains(&issuer_of_list(der)));
    let (crl, _) = lists.sign(&living, now, now.plus(CRL_TTL_DEFAULT))?;
    // Last of all, for the same reason as in `rotate`.
    files.push(Planned::file(folder.file(CRL_PEM), crl, Access::Everybody));
    write_together(&folder.file(ROTATION), &files)?;
    for generation in gone {
        // Empty by now; a file of someone else's in it is no reason to fail.
        let _ = std::fs::remove_dir(folder.file(&generation));
    }
    Ok(retired)
}

/// Every issuing CA whose certificates may still live, PEM, the one in force first. Takes no lock: each file is whole.
///
/// # Errors
/// [`AuthorityError`] when one cannot be read.
pub fn issuers(dir: &Path, now: Timestamp) -> Result<String, AuthorityError> {
    let text = |name: &str| -> Result<String, AuthorityError> {
        let path = dir.join(name);
        String::from_utf8(read(&path, PEM_FILE_MAX)?).map_err(|_| AuthorityError::Broken { path })
    };
    let optional = |name: &str| match text(name) {
        Err(AuthorityError::File(FileError::Io { source, .. }))
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(String::new())
        }
        read => read,
    };
    let mut all = text(ISSUING_PEM)? + &optional(ISSUING_CROSS_PEM)?;
    for generation in generations_in(&dir.join(EARLIER))? {
        let earlier = optional(&format!("{generation}/{ISSUING_PEM}"))?;
        let living = super::super::parse_certificates(earlier.as_bytes())
            .ok()
            .and_then(|c| CaFacts::read(c.first()?))
            .is_some_and(|facts| now < facts.not_after);
        if living {
            all.push_str(&earlier);
        }
    }
    Ok(all)
}

/// The folders of what was rotated out, newest first.
pub(super) fn generations(folder: &Folder) -> Result<Vec<String>, AuthorityError> {
    generations_in(&folder.file(EARLIER))
}

fn generations_in(dir: &Path) -> Result<Vec<String>, AuthorityError> {
    let at = |source| AuthorityError::File(FileError::Io { path: dir.into(), source });
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(at)?,
    };
    let mut numbers: Vec<u32> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at)?;
        let number = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok());
        // Without its key it was retired, or a crash came before anything was rotated.
        numbers.extend(number.filter(|_| entry.path().join(ISSUING_KEY).exists()));
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers.into_iter().map(|n| format!("{EARLIER}/{n}")).collect())
}

/// The issuing CA in force, and the root in force, as they go into the next generation.
fn set_aside(
    folder: &Folder,
    generations: &[String],
    now: Timestamp,
) -> Result<Vec<Planned>, AuthorityError> {
    let generation = next(generations);
    make_dir(&folder.file(&generation))?;
    let place = |file: &str| folder.file(&format!("{generation}/{file}"));
    let key = read_secret(&folder.file(ISSUING_KEY), PEM_FILE_MAX)?;
    let key =
        String::from_utf8(key).map_err(|_| AuthorityError::Broken { path: folder.file(ISSUING_KEY) })?;
    Ok(vec![
        Planned::file(place(UNTIL), format!("{}\n", last_end(folder, now)?.as_secs()), Access::Everybody),
        Planned::file(place(ISSUING_PEM), text(folder, ISSUING_PEM)?, Access::Everybody),
        Planned::file(place(ISSUING_KEY), key, Access::Owner),
    ])
}

/// The root in force, as it goes into the next generation.
fn old_root_aside(folder: &Folder, generations: &[String]) -> Result<Vec<Planned>, AuthorityError> {
    let generation = next(generations);
    let key = read_secret(&folder.file(ROOT_KEY), PEM_FILE_MAX)?;
    let key = String::from_utf8(key).map_err(|_| AuthorityError::Broken { path: folder.file(ROOT_KEY) })?;
    let place = |file: &str| folder.file(&format!("{generation}/{file}"));
    Ok(vec![
        Planned::file(place(ROOT_PEM), text(folder, ROOT_PEM)?, Access::Everybody),
        Planned::file(place(ROOT_KEY), key, Access::Owner),
    ])
}

fn next(generations: &[String]) -> String {
    let last = generations.first().and_then(|g| g.rsplit('/').next()?.parse::<u32>().ok()).unwrap_or(0);
    format!("{EARLIER}/{}", last.saturating_add(1))
}

/// When the last certificate of the ledger ends.
fn last_end(folder: &Folder, now: Timestamp) -> Result<Timestamp, AuthorityError> {
    let last = ledger::entries(folder)?.iter().map(|e| e.not_after).max().unwrap_or(0);
    Ok(Timestamp::from_secs(i64::try_from(last).unwrap_or(i64::MAX)).max(now))
}

fn until(folder: &Folder, generation: &str) -> Result<Timestamp, AuthorityError> {
    let path = folder.file(&format!("{generation}/{UNTIL}"));
    let text = read(&path, 64)?;
    let secs = std::str::from_utf8(&text).ok().and_then(|t| t.trim().parse().ok());
    secs.map(Timestamp::from_secs).ok_or(AuthorityError::Broken { path })
}

fn text(folder: &Folder, file: &str) -> Result<String, AuthorityError> {
    super::join::read_text(folder, file, PEM_FILE_MAX)
}

fn ca_of(der: &CertificateDer<'_>, key: KeyPair) -> Result<Ca, AuthorityError> {
    let facts = CaFacts::read(der).ok_or(AuthorityError::Sign(rcgen::Error::CouldNotParseCertificate))?;
    Ok(Ca { issuer: Issuer::from_ca_cert_der(der, key)?, facts })
}

fn subject(der: &[u8]) -> String {
    X509Certificate::from_der(der).map(|(_, c)| c.subject().to_string()).unwrap_or_default()
}

fn is_self_signed(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, c)| c.subject() == c.issuer())
}

fn issuer_of_list(der: &[u8]) -> String {
    use x509_parser::prelude::CertificateRevocationList;
    CertificateRevocationList::from_der(der).map(|(_, l)| l.issuer().to_string()).unwrap_or_default()
}

/// Most earlier issuing CAs that are kept.
pub(super) const GENERATIONS_MAX: usize = 16;
const EARLIER: &str = "earlier";
/// When the last certificate of an earlier CA ends, in seconds since the epoch.
const UNTIL: &str = "until";
