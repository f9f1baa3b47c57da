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
    let cas = folder.issuing_cas(now)?;
    let mut lists = CrlFile::read(&folder, &cas)?;
    let (mut added, mut already) = (Vec::new(), Vec::new());
    for serial in serials {
        let hex = data_encoding::HEXLOWER.encode(&serial);
        // On every list: serial numbers are random, so it does not matter which CA of ours gave it.
        let mut fresh = false;
        for list in &mut lists.issuing {
            if !list.revoked.iter().any(|r| r.serial == serial) {
                list.revoked.push(RevokedSerial { serial: serial.clone(), at: now });
                fresh = true;
            }
        }
        if fresh { added.push(hex) } else { already.push(hex) }
    }
    let next_update = now.plus(CRL_TTL_DEFAULT);
    let crl_number = lists.write(&folder, &cas, now, next_update)?;
    Ok(Revoked { added, already, in_ledger, crl_number, next_update })
}

/// Signs the issuing CAs' lists anew, valid for `ttl`; the root's too when `root.key` is at hand.
///
/// # Errors
/// [`AuthorityError::Ttl`] when `ttl` is zero or above [`CRL_TTL_MAX`].
pub fn refresh_crl(dir: &Path, ttl: Duration, now: Timestamp) -> Result<Timestamp, AuthorityError> {
    if ttl.as_secs() == 0 || ttl > CRL_TTL_MAX {
        return Err(AuthorityError::Ttl { ttl, max: CRL_TTL_MAX });
    }
    let folder = Folder::open(dir)?;
    let cas = folder.issuing_cas(now)?;
    let mut lists = CrlFile::read(&folder, &cas)?;
    if folder.file(ROOT_KEY).exists()
        && let Some(newest) = cas.first()
    {
        let root = folder.ca(ROOT_PEM, ROOT_KEY, now)?;
        lists.renew_root(&root, now, newest.facts.not_after)?;
    }
    let next_update = now.plus(ttl);
    lists.write(&folder, &cas, now, next_update)?;
    Ok(next_update)
}

/// `crl.pem`: the issuing CAs' lists, and those of other CAs as they are.
pub(super) struct CrlFile {
    /// One for each issuing CA, in their order.
    pub(super) issuing: Vec<CrlState>,
    pub(super) others: Vec<Vec<u8>>,
}

impl CrlFile {
    /// A missing or damaged file is an error: a list made anew would forget who was revoked.
    pub(super) fn read(folder: &Folder, cas: &[Ca]) -> Result<Self, AuthorityError> {
        let path = folder.file(CRL_PEM);
        let broken = || AuthorityError::Broken { path: path.clone() };
        let bytes = read(&path, CRL_FILE_MAX)?;
        let (mut issuing, mut others) = (vec![None; cas.len()], Vec::new());
        for der in CertificateRevocationListDer::pem_slice_iter(&bytes) {
            let der = der.map_err(|_| broken())?;
            let found =
                cas.iter().zip(&mut issuing).find_map(|(ca, slot)| Some((CrlState::read(&der, ca)?, slot)));
            match found {
                Some((state, slot @ None)) => *slot = Some(state),
                Some((_, Some(_))) => return Err(broken()),
                None => others.push(der.to_vec()),
            }
        }
        let issuing = issuing.into_iter().collect::<Option<Vec<_>>>().ok_or_else(broken)?;
        Ok(Self { issuing, others })
    }

    /// Whether any list of the folder has this serial number.
    pub(super) fn lists(folder: &Folder, serial: &[u8]) -> Result<bool, AuthorityError> {
        let path = folder.file(CRL_PEM);
        let broken = || AuthorityError::Broken { path: path.clone() };
        let bytes = read(&path, CRL_FILE_MAX)?;
        for der in CertificateRevocationListDer::pem_slice_iter(&bytes) {
            let der = der.map_err(|_| broken())?;
            let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| broken())?;
            if list.iter_revoked_certificates().any(|r| unsigned(r.raw_serial()) == serial) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Signs the root's own list anew.
    pub(super) fn renew_root(
        &mut self,
        root: &Ca,
        now: Timestamp,
        next_update: Timestamp,
    ) -> Result<(), AuthorityError> {
        let state = self.others.iter().find_map(|der| CrlState::read(der, root));
        self.others.retain(|der| CrlState::read(der, root).is_none());
        let list = state.unwrap_or_default().sign(&root.issuer, now, next_update)?;
        self.others.push(list);
        Ok(())
    }

    /// Signs every issuing CA's list anew; gives the file's text and the first list's number.
    pub(super) fn sign(
        mut self,
        cas: &[Ca],
        now: Timestamp,
        next_update: Timestamp,
    ) -> Result<(String, u64), AuthorityError> {
        let mut lists = Vec::new();
        for (ca, list) in cas.iter().zip(&mut self.issuing) {
            lists.push(list.sign(&ca.issuer, now, next_update)?);
        }
        lists.append(&mut self.others);
        Ok((lists_pem(&lists), self.issuing.first().map_or(0, |l| l.number)))
    }

    fn write(
        self,
        folder: &Folder,
        cas: &[Ca],
        now: Timestamp,
        next_update: Timestamp,
    ) -> Result<u64, AuthorityError> {
        let (text, number) = self.sign(cas, now, next_update)?;
        write(&folder.file(CRL_PEM), text.as_bytes(), Access::Everybody)?;
        Ok(number)
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
    pub(super) fn read(der: &[u8], ca: &Ca) -> Option<Self> {
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

/// `crl.pem` from DER lists.
pub(super) fn lists_pem(lists: &[Vec<u8>]) -> String {
    lists.iter().map(|list| pem("X509 CRL", list)).collect()
}

/// One PEM section (RFC 7468 §3).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in data_encoding::BASE64.encode(der).as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap_or_default());
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
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
