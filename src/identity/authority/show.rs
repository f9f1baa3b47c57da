//! What a CA folder holds, for people.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::crl::CrlFile;
use super::{AuthorityError, CaFacts, Entry, Folder, ISSUING_PEM, ROOT_KEY, ROOT_PEM, ledger};
use crate::model::{Timestamp, TrustDomain};

/// What a CA folder holds.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The trust domain it issues for.
    pub trust_domain: TrustDomain,
    /// SHA-256 of the root certificate in lower-case hex.
    pub root_fingerprint: String,
    /// When the root ends.
    pub root_not_after: Timestamp,
    /// When the issuing CA ends.
    pub issuing_not_after: Timestamp,
    /// Whether `root.key` lies in the folder.
    pub root_key_here: bool,
    /// The number of the issuing CA's list.
    pub crl_number: u64,
    /// When it must have been renewed.
    pub crl_next_update: Timestamp,
    /// Serial numbers on it.
    pub revoked: usize,
    /// Issuing CAs that were rotated out and can still sign.
    pub earlier: usize,
    /// Roots in the bundle.
    pub roots: usize,
    /// The ledger, oldest first.
    pub issued: Vec<Entry>,
}

/// Reads a CA folder.
///
/// # Errors
/// [`AuthorityError`] when a file of it is missing or damaged.
pub fn show(dir: &Path, now: Timestamp) -> Result<Shown, AuthorityError> {
    let folder = Folder::open(dir)?;
    let facts = |file: &str| {
        let der = folder.certificate(file)?;
        let facts = CaFacts::read(&der).ok_or_else(|| AuthorityError::Broken { path: folder.file(file) })?;
        Ok::<_, AuthorityError>((der, facts))
    };
    let (root_der, root) = facts(ROOT_PEM)?;
    let (_, issuing) = facts(ISSUING_PEM)?;
    let lists = CrlFile::read(&folder, &folder.issuing_cas(now)?)?.issuing;
    let list = lists.first().cloned().unwrap_or_default();
    Ok(Shown {
        trust_domain: issuing.trust_domain,
        root_fingerprint: data_encoding::HEXLOWER.encode(&Sha256::digest(&root_der)),
        root_not_after: root.not_after,
        issuing_not_after: issuing.not_after,
        root_key_here: folder.file(ROOT_KEY).exists(),
        crl_number: list.number,
        crl_next_update: list.next_update,
        revoked: list.revoked.len(),
        earlier: lists.len().saturating_sub(1),
        roots: folder.roots()?.len(),
        issued: ledger::entries(&folder)?,
    })
}
