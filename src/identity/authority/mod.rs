//! The built-in certificate authority: a folder with a root, an issuing CA, a ledger and a CRL.
//!
//! | file | what | who needs it |
//! |---|---|---|
//! | `root.key` | signs issuing CAs and their revocation | nobody day by day: keep it offline |
//! | `root.pem`, `bundle.pem` | the root | every sidecar |
//! | `issuing.key`, `issuing.pem` | signs devices and their revocation | this CA |
//! | `issued.jsonl` | one line per issued certificate | this CA |
//! | `crl.pem` | revocation lists of both CAs | every sidecar |
//! | `invites/` | one file per invite, with the key that checks its token | this CA |
//! | `renewals/` | the last renewal of each device, so that it can be asked for again | this CA |
//! | `earlier/` | issuing CAs that were rotated out, until what they signed has ended | this CA |
//! | `issuing-cross.pem` | the issuing CA below the root before the last, while both are trusted | every device |
//!
//! One command at a time holds the folder (`.lock`); files are replaced whole.

mod crl;
mod error;
mod init;
mod invites;
mod issue;
mod join;
#[cfg(test)]
mod join_tests;
mod ledger;
mod renew;
#[cfg(test)]
mod renew_tests;
mod rotate;
#[cfg(test)]
mod rotate_tests;
mod show;
mod token;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crl::{CRL_TTL_DEFAULT, CRL_TTL_MAX, Revoked, refresh_crl, revoke};
pub use error::AuthorityError;
pub use init::{Created, init};
pub use invites::{
    Asked, Given, INVITE_TTL_DEFAULT, INVITE_TTL_MAX, INVITES_MAX, Invite, InviteRequest, InviteState,
    approve, deny, invite, invites,
};
pub use issue::{
    BACKDATE, IssueRequest, Issued, NAMES_MAX, TTL_DEFAULT, TTL_MAX, device_params, issue, issue_raw,
};
pub use join::{
    Admitted, Approval, Ask, CSR_LEN_MAX, Csr, Granted, JoinRefused, Own, PENDING_MAX, RECOVER_GRACE_DEFAULT,
    RECOVER_GRACE_MAX, Recordable, Recorded, Recorder, Settings, Step, ack_message, acknowledge, admit,
    check_csr, decide, roots, with_issuing_key, with_issuing_keys,
};
pub use ledger::Entry;
pub use renew::{
    RECOVER_CHAIN_MAX, Records, RecoverAsk, RenewAsk, RenewStep, Renewal, Standing, decide_renewal, recover,
    recover_message, renew,
};
pub use rotate::{Retired, Rotated, issuers, retire, rotate};
pub use show::{Shown, show};
pub use token::{JoinKey, Token, TokenError, TokenId};

use rcgen::{DistinguishedName, DnType, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SerialNumber};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::file::{FileError, read, read_secret, redo};
use super::load::{PEM_FILE_MAX, parse_certificates};
use crate::model::{Timestamp, TrustDomain};

/// The CA's folder, held by this process until it is dropped.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    fn open(path: &Path) -> Result<Self, AuthorityError> {
        let lock = path.join(LOCK);
        let at = |source| AuthorityError::File(FileError::Io { path: lock.clone(), source });
        if !path.is_dir() {
            return Err(AuthorityError::NoAuthority { dir: path.into() });
        }
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(at)?;
        match file.try_lock() {
            Ok(()) => {
                // A rotation that a crash interrupted.
                redo(&path.join(ROTATION))?;
                Ok(Self { path: path.into(), _lock: file })
            }
            Err(TryLockError::WouldBlock) => Err(AuthorityError::Busy { dir: path.into() }),
            Err(TryLockError::Error(source)) => Err(at(source)),
        }
    }

    /// [`Folder::open`], but waits a moment for a command that holds it. Blocks: call it off the runtime.
    fn open_patiently(path: &Path) -> Result<Self, AuthorityError> {
        for _ in 0..BUSY_TRIES {
            match Self::open(path) {
                Err(AuthorityError::Busy { .. }) => std::thread::sleep(BUSY_PAUSE),
                opened => return opened,
            }
        }
        Self::open(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn certificate(&self, name: &str) -> Result<CertificateDer<'static>, AuthorityError> {
        let path = self.file(name);
        let broken = || AuthorityError::Broken { path: path.clone() };
        let mut certificates = parse_certificates(&read(&path, PEM_FILE_MAX)?).map_err(|_| broken())?;
        if certificates.len() > 1 {
            return Err(broken());
        }
        certificates.pop().ok_or_else(broken)
    }

    /// The CA whose certificate and key are `name.pem` and `name.key`, valid at `now`.
    fn ca(&self, certificate: &str, key: &str, now: Timestamp) -> Result<Ca, AuthorityError> {
        let der = self.certificate(certificate)?;
        let facts =
            CaFacts::read(&der).ok_or_else(|| AuthorityError::Broken { path: self.file(certificate) })?;
        if now < facts.not_before || now >= facts.not_after {
            return Err(AuthorityError::Expired {
                path: self.file(certificate),
                not_before: facts.not_before,
                not_after: facts.not_after,
                now,
            });
        }
        let path = self.file(key);
        let pem = String::from_utf8(read_secret(&path, PEM_FILE_MAX)?)
            .map_err(|_| AuthorityError::Broken { path: path.clone() })?;
        let key = KeyPair::from_pem(&pem).map_err(|_| AuthorityError::Broken { path: path.clone() })?;
        if key.public_key_raw() != facts.public_key.as_ref() {
            return Err(AuthorityError::KeyMismatch { path, certificate: self.file(certificate) });
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Ca { issuer, facts })
    }

    fn issuing(&self, now: Timestamp) -> Result<Ca, AuthorityError> {
        self.ca(ISSUING_PEM, ISSUING_KEY, now)
    }

    /// Every issuing CA that can sign now, the one in force first.
    fn issuing_cas(&self, now: Timestamp) -> Result<Vec<Ca>, AuthorityError> {
        let mut cas = vec![self.issuing(now)?];
        cas.extend(self.earlier(now)?);
        Ok(cas)
    }

    /// The issuing CAs before the one in force, newest first, as far as they can still sign.
    fn earlier(&self, now: Timestamp) -> Result<Vec<Ca>, AuthorityError> {
        let mut earlier = Vec::new();
        for generation in rotate::generations(self)? {
            let (pem, key) = (format!("{generation}/{ISSUING_PEM}"), format!("{generation}/{ISSUING_KEY}"));
            match self.ca(&pem, &key, now) {
                // What it signed has ended with it.
                Err(AuthorityError::Expired { .. }) => {}
                ca => earlier.push(ca?),
            }
        }
        Ok(earlier)
    }

    /// Every root of the bundle, the newest first.
    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let path = self.file(BUNDLE_PEM);
        parse_certificates(&read(&path, PEM_FILE_MAX)?).map_err(|_| AuthorityError::Broken { path })
    }
}

/// A CA that can sign now.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    facts: CaFacts,
}

/// What a CA certificate says.
#[derive(Clone, Debug)]
struct CaFacts {
    trust_domain: TrustDomain,
    subject: String,
    not_before: Timestamp,
    not_after: Timestamp,
    public_key: Box<[u8]>,
}

impl CaFacts {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let mut domains = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://")?.parse().ok(),
            _ => None,
        });
        Some(Self {
            trust_domain: domains.next()?,
            subject: certificate.subject().to_string(),
            not_before: Timestamp::from_secs(certificate.validity().not_before.timestamp()),
            not_after: Timestamp::from_secs(certificate.validity().not_after.timestamp()),
            public_key: certificate.public_key().subject_public_key.data.as_ref().into(),
        })
    }
}

/// What follows a leaf: the issuing CA, and the same below the root before the last, as long as there are two.
fn issuing_chain(folder: &Folder) -> Result<String, AuthorityError> {
    let text = |name: &str| {
        let path = folder.file(name);
        String::from_utf8(read(&path, PEM_FILE_MAX)?).map_err(|_| AuthorityError::Broken { path })
    };
    let issuing = text(ISSUING_PEM)?;
    match text(ISSUING_CROSS_PEM) {
        Err(AuthorityError::File(FileError::Io { source, .. }))
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(issuing)
        }
        cross => Ok(issuing + &cross?),
    }
}

fn generate_key() -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// A random serial number: 16 bytes, positive and never shorter (RFC 5280 §4.1.2.2).
fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = random::<16>()?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    Ok(bytes)
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// As X.509 has it: whole seconds.
fn date(at: Timestamp) -> OffsetDateTime {
    let secs = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(secs).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_millis(at.as_millis().saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

const ROOT_PEM: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
const ISSUING_PEM: &str = "issuing.pem";
const ISSUING_KEY: &str = "issuing.key";
/// The issuing CA in force once more, signed by the root before the last.
const ISSUING_CROSS_PEM: &str = "issuing-cross.pem";
const BUNDLE_PEM: &str = "bundle.pem";
const CRL_PEM: &str = "crl.pem";
const LEDGER: &str = "issued.jsonl";
const LOCK: &str = ".lock";
/// What a rotation is about to write, until it is written.
const ROTATION: &str = "rotation.json";
/// A sidecar waits for the folder this often and long, two seconds in all, before it says that it is busy.
const BUSY_TRIES: u32 = 80;
const BUSY_PAUSE: Duration = Duration::from_millis(25);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests;
