//! Revokes certificates and keeps the revocation lists fresh (RFC 5280 §5).

use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::super::file::{Access, read, write};
use super::super::load::CRL_FILE_MAX;
use super::{AuthorityError, CRL_PEM, Ca, DAY, Folder, ROOT_KEY, ROOT_PEM, date, ledger};
use crate::model::Timestamp;

/// What a revocation did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revoked {
    /// Serial numbers that are new on the list, lower-case hex.
    pub added: Vec<String>,
    /// Those that were on it before.
    pub already: Vec<String>,
    /// Whether the ledger knows them; a certificate made behind its back can be revoked by serial alone.
    pub in_ledger: bool,
    /// The number of the new list.
    pub crl_number: u64,
    /// When it must have been renewed.
    pub next_update: Timestamp,
}

/// Revokes every certificate of the device `what` that has not expired, or the one with the serial `what`.
///
/// A name in the ledger comes before a serial number. The list is signed anew even if nothing was added.
///
/// # Errors
/// [`AuthorityError::NotIssued`] when `what` is neither.
pub fn revoke(dir: &Path, what: &str, now: Timestamp) -> Result<Revoked, AuthorityError> {
    let folder = Folder::open(dir)?;
    let entries = ledger::entries(&folder)?;
    let named: Vec<_> = entries.iter().filter(|e| e.name == what).collect();
    let (serials, in_ledger) = if named.is_empty() {
        let serial = parse_serial(what)?;
        let hex = data_encoding::HEXLOWER.encode(&serial);
        (vec![serial], entries.iter().any(|e| e.serial == hex))
    } else {
        let living = named.iter().filter(|e| e.not_after > now.as_secs());
        (living.map(|e| parse_serial(&e.serial)).collect::<Result<_, _>>()?, true)
    };
    let ca = folder.issuing(now)?;
    let mut lists = CrlFile::read(&folder, &ca)?;
    let (mut added, mut already) = (Vec::new(), Vec::new());
    for serial in serials {
        let hex = data_encoding::HEXLOWER.encode(&serial);
        if lists.issuing.revoked.iter().any(|r| r.serial == serial) {
            already.push(hex);
        } else {
            lists.issuing.revoked.push(RevokedSerial { serial, at: now });
            added.push(hex);
        }
    }
    let next_update = now.plus(CRL_TTL_DEFAULT);
    let crl_number = lists.write(&folder, &ca, now, next_update)?;
    Ok(Revoked { added, already, in_ledger, crl_number, next_update })
}

/// Signs the issuing CA's list anew, valid for `ttl`; the root's too when `root.key` is at hand.
///
/// # Errors
/// [`AuthorityError::Ttl`] when `ttl` is zero or above [`CRL_TTL_MAX`].
pub fn refresh_crl(dir: &Path, ttl: Duration, now: Timestamp) -> Result<Timestamp, AuthorityError> {
    if ttl.as_secs() == 0 || ttl > CRL_TTL_MAX {
        return Err(AuthorityError::Ttl { ttl, max: CRL_TTL_MAX });
    }
    let folder = Folder::open(dir)?;
    let ca = folder.issuing(now)?;
    let mut lists = CrlFile::read(&folder, &ca)?;
    if folder.file(ROOT_KEY).exists() {
        let root = folder.ca(ROOT_PEM, ROOT_KEY, now)?;
        let state = lists.others.iter().find_map(|der| CrlState::read(der, &root));
        lists.others.retain(|der| CrlState::read(der, &root).is_none());
        let mut state = state.unwrap_or_default();
        lists.others.push(state.sign(&root.issuer, now, ca.facts.not_after)?);
    }
    let next_update = now.plus(ttl);
    lists.write(&folder, &ca, now, next_update)?;
    Ok(next_update)
}

/// `crl.pem`: the issuing CA's list, and those of other CAs as they are.
pub(super) struct CrlFile {
    pub(super) issuing: CrlState,
    others: Vec<Vec<u8>>,
}

impl CrlFile {
    /// A missing or damaged file is an error: a list made anew would forget who was revoked.
    pub(super) fn read(folder: &Folder, ca: &Ca) -> Result<Self, AuthorityError> {
        let path = folder.file(CRL_PEM);
        let broken = || AuthorityError::Broken { path: path.clone() };
        let bytes = read(&path, CRL_FILE_MAX)?;
        let (mut issuing, mut others) = (None, Vec::new());
        for der in CertificateRevocationListDer::pem_slice_iter(&bytes) {
            let der = der.map_err(|_| broken())?;
            match CrlState::read(&der, ca) {
                Some(state) if issuing.is_none() => issuing = Some(state),
                Some(_) => return Err(broken()),
                None => others.push(der.to_vec()),
            }
        }
        Ok(Self { issuing: issuing.ok_or_else(broken)?, others })
    }

    fn write(
        mut self,
        folder: &Folder,
        ca: &Ca,
        now: Timestamp,
        next_update: Timestamp,
    ) -> Result<u64, AuthorityError> {
        let mut lists = vec![self.issuing.sign(&ca.issuer, now, next_update)?];
        lists.append(&mut self.others);
        write_lists(folder, &lists)?;
        Ok(self.issuing.number)
    }
}

/// One CA's list: its number, and who is on it.
#[derive(Clone, Debug, Default)]
pub(super) struct CrlState {
    pub(super) number: u64,
    pub(super) revoked: Vec<RevokedSerial>,
    pub(super) next_update: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct RevokedSerial {
    serial: Vec<u8>,
    at: Timestamp,
}

impl CrlState {
    /// The list in `der` when it is in the name of `ca`; it is our own file, so its signature is not checked.
    fn read(der: &[u8], ca: &Ca) -> Option<Self> {
        let (_, list) = CertificateRevocationList::from_der(der).ok()?;
        if list.issuer().to_string() != ca.facts.subject {
            return None;
        }
        let revoked = list.iter_revoked_certificates().map(|r| RevokedSerial {
            serial: unsigned(r.raw_serial()).to_vec(),
            at: Timestamp::from_secs(r.revocation_date.timestamp()),
        });
        Some(Self {
            number: u64::try_from(list.crl_number()?).ok()?,
            revoked: revoked.collect(),
            next_update: Timestamp::from_secs(list.next_update()?.timestamp()),
        })
    }

    /// Signs the next list; returns its DER.
    pub(super) fn sign(
        &mut self,
        issuer: &Issuer<'_, KeyPair>,
        now: Timestamp,
        next_update: Timestamp,
    ) -> Result<Vec<u8>, AuthorityError> {
        self.number = self.number.saturating_add(1);
        self.next_update = next_update;
        let revoked = self.revoked.iter().map(|r| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&r.serial),
            revocation_time: date(r.at),
            // Rather absent than `unspecified` (RFC 5280 §5.3.1).
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date(now),
            next_update: date(next_update),
            crl_number: SerialNumber::from(self.number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(issuer)?.der().to_vec())
    }
}

/// Writes `crl.pem` from DER lists.
pub(super) fn write_lists(folder: &Folder, lists: &[Vec<u8>]) -> Result<(), AuthorityError> {
    let mut text = String::new();
    for list in lists {
        text.push_str("-----BEGIN X509 CRL-----\n");
        let body = data_encoding::BASE64.encode(list);
        for line in body.as_bytes().chunks(64) {
            text.push_str(std::str::from_utf8(line).unwrap_or_default());
            text.push('\n');
        }
        text.push_str("-----END X509 CRL-----\n");
    }
    Ok(write(&folder.file(CRL_PEM), text.as_bytes(), Access::Everybody)?)
}

fn parse_serial(text: &str) -> Result<Vec<u8>, AuthorityError> {
    let fail = || AuthorityError::NotIssued { what: text.chars().take(80).collect() };
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| fail())?;
    let serial = unsigned(&bytes);
    if serial.is_empty() || serial.len() > SERIAL_LEN_MAX {
        return Err(fail());
    }
    Ok(serial.to_vec())
}

/// Without the leading zeros of DER.
fn unsigned(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// How long a list is good unless told otherwise.
pub const CRL_TTL_DEFAULT: Duration = DAY.saturating_mul(7);
/// How long it may be good at most.
pub const CRL_TTL_MAX: Duration = DAY.saturating_mul(90);
const SERIAL_LEN_MAX: usize = 20;
