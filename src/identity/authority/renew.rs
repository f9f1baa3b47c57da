//! Gives a device its next certificate: on a session that proves the last one, or, for a while after that one has
//! expired, at the narrow door.

use std::path::PathBuf;

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::file::{Access, FileError, make_dir, read_secret, write};
use super::super::load::{PEM_FILE_MAX, parse_certificates, roots_of};
use super::super::svid::{Svid, svid};
use super::super::trust::{Revocation, Stage, check_chain};
use super::crl::CrlFile;
use super::join::{
    Csr, Granted, JoinRefused, Settings, check_csr, fingerprint_extension, read_text, sign_leaf,
};
use super::{AuthorityError, BUNDLE_PEM, CRL_PEM, Folder, ledger};
use crate::identity::load::CRL_FILE_MAX;
use crate::model::{DeviceName, Reason, Sign, SpiffeId, Tier, Timestamp};

/// A device that asks for its next certificate.
#[derive(Clone, Debug)]
pub struct RenewAsk {
    /// Who it is: proven by the session, or by the expired certificate.
    pub id: SpiffeId,
    /// SHA-256 of the DER SubjectPublicKeyInfo that was proven.
    pub spki_sha256: [u8; 32],
    /// The certificate request, DER.
    pub csr: Vec<u8>,
}

/// What a recovering device shows. Everything in it is foreign.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecoverAsk {
    /// Its expired leaf and what is above it, DER: 1..=[`RECOVER_CHAIN_MAX`].
    pub chain: Vec<Vec<u8>>,
    /// The certificate request, DER.
    pub csr: Vec<u8>,
    /// The expired leaf's key over [`recover_message`].
    pub signature: Vec<u8>,
    /// The signed record it holds; empty when it has none.
    pub record: String,
}

/// What the authority's record says of a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// SHA-256 of the key that the record is for.
    pub spki_sha256: [u8; 32],
    /// The most it may be taken for.
    pub tier_max: Tier,
    /// The record, signed.
    pub text: String,
    /// Why it gets nothing: it is in quarantine, or revoked.
    pub barred: Option<Reason>,
}

/// The desk of device records: `agent` introduces `device` to us.
pub trait Records {
    /// The record in force; `shown` is the one that the device holds, where it showed one.
    ///
    /// # Errors
    /// [`Reason::RecordMissing`] when there is none, [`Reason::RecordInvalid`] when the one shown is not ours.
    fn standing(&self, id: &SpiffeId, shown: &str, signers: &[&dyn Sign]) -> Result<Standing, JoinRefused>;

    /// Makes and keeps the next version, for another key.
    ///
    /// # Errors
    /// [`JoinRefused`] when it cannot be made.
    fn renew(
        &self,
        id: &SpiffeId,
        spki_sha256: [u8; 32],
        signers: &[&dyn Sign],
    ) -> Result<super::Recorded, JoinRefused>;
}

/// What follows from an ask.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RenewStep {
    /// Issue for this key.
    Issue(Box<Csr>),
    /// Hand out the same once more.
    Again(Box<Renewal>),
}

/// The last certificate a device was given in place of another.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// SHA-256 of the request, hex.
    csr: String,
    /// SHA-256 of the key that asked, hex.
    from: String,
    /// notAfter in milliseconds since the epoch.
    not_after: u64,
    /// The serial number in lower-case hex.
    serial: String,
    /// The leaf and the issuing CA, PEM.
    chain: String,
}

/// Judges who asks for a next certificate. Pure.
///
/// The key of the record is the key that asks; the one before it may only ask again for what was made for it already,
/// because the answer may have been lost on the way. Whoever holds an older key than that gets nothing.
///
/// # Errors
/// [`JoinRefused`] with the first thing that is wrong.
pub fn decide_renewal(
    ask: &RenewAsk,
    standing: &Standing,
    last: Option<&Renewal>,
    now: Timestamp,
) -> Result<RenewStep, JoinRefused> {
    let no = |reason, detail: &str| Err(JoinRefused { reason, detail: detail.into() });
    if let Some(reason) = standing.barred {
        return no(reason, "so its record says");
    }
    let csr = check_csr(&ask.csr, &ask.id)?;
    let same = last.filter(|l| l.csr == hex(&csr.sha256()) && l.from == hex(&ask.spki_sha256));
    match same.filter(|_| csr.spki_sha256() == standing.spki_sha256) {
        Some(renewal) if now.as_millis() < renewal.not_after => {
            Ok(RenewStep::Again(Box::new(renewal.clone())))
        }
        // It never arrived, and has ended since: the same key gets another.
        Some(_) => Ok(RenewStep::Issue(Box::new(csr))),
        None if ask.spki_sha256 == standing.spki_sha256 => Ok(RenewStep::Issue(Box::new(csr))),
        None => no(Reason::RenewSuperseded, "its record is for another key than the one that asks"),
    }
}

/// Gives the next certificate to a device that proved the last one on its session.
///
/// # Errors
/// [`JoinRefused`]; nothing was issued then.
pub fn renew(
    settings: &Settings,
    own: &SpiffeId,
    ask: &RenewAsk,
    records: &dyn Records,
    now: Timestamp,
) -> Result<Granted, JoinRefused> {
    let folder = Folder::open_patiently(&settings.ca)?;
    give(&folder, settings, own, ask, "", records, now)
}

/// Gives the next certificate to a device whose last one has expired, within the grace.
///
/// # Errors
/// [`JoinRefused`]; nothing was issued then.
pub fn recover(
    settings: &Settings,
    own: &SpiffeId,
    ask: &RecoverAsk,
    exporter: &[u8; 32],
    records: &dyn Records,
    now: Timestamp,
) -> Result<Granted, JoinRefused> {
    if settings.recover_grace.is_zero() {
        return Err(JoinRefused { reason: Reason::RecoverOff, detail: "recover_grace is 0".into() });
    }
    let folder = Folder::open_patiently(&settings.ca)?;
    let leaf = proven(&folder, own, ask, exporter)?;
    let late = |detail: &str| JoinRefused { reason: Reason::RecoverLate, detail: detail.into() };
    if now >= leaf.not_after.plus(settings.recover_grace) {
        return Err(late(&format!("expired at {}", leaf.not_after)));
    }
    let renewal = RenewAsk { id: leaf.id, spki_sha256: leaf.spki_sha256, csr: ask.csr.clone() };
    give(&folder, settings, own, &renewal, &ask.record, records, now)
}

/// Who proves to hold which of our certificates, as it stood on its last day.
fn proven(
    folder: &Folder,
    own: &SpiffeId,
    ask: &RecoverAsk,
    exporter: &[u8; 32],
) -> Result<Svid, JoinRefused> {
    let no = |detail: &str| JoinRefused { reason: Reason::RecoverRefused, detail: detail.into() };
    let chain: Vec<_> = ask.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let first = chain.first().ok_or_else(|| no("no certificate"))?;
    if chain.len() > RECOVER_CHAIN_MAX {
        return Err(no("too many certificates"));
    }
    let leaf = svid(first).map_err(|e| no(&e.to_string()))?;
    let bundle = parse_certificates(read_text(folder, BUNDLE_PEM, PEM_FILE_MAX)?.as_bytes())
        .ok()
        .and_then(|c| roots_of(&c).ok())
        .ok_or_else(|| AuthorityError::Broken { path: folder.file(BUNDLE_PEM) })?;
    check_chain(&bundle, &Revocation::Off, &chain, leaf.not_after, Stage::Handshake)
        .map_err(|e| no(&e.to_string()))?;
    if leaf.id.trust_domain() != own.trust_domain() {
        return Err(no("of another trust domain"));
    }
    let (_, parsed) = X509Certificate::from_der(first).map_err(|_| no("does not read"))?;
    let key = &parsed.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(&recover_message(exporter, &ask.csr), &ask.signature)
        .map_err(|_| no("its signature is not by the key of the certificate"))?;
    let serial = leaf.serial_hex();
    let name = leaf.id.device_name().unwrap_or_default();
    if !ledger::entries(folder)?.iter().any(|e| e.serial == serial && e.name == name) {
        return Err(no("not in the ledger"));
    }
    if CrlFile::lists(folder, &leaf.serial)? {
        return Err(JoinRefused { reason: Reason::CertificateRevoked, detail: format!("serial {serial}") });
    }
    Ok(leaf)
}

fn give(
    folder: &Folder,
    settings: &Settings,
    own: &SpiffeId,
    ask: &RenewAsk,
    shown: &str,
    records: &dyn Records,
    now: Timestamp,
) -> Result<Granted, JoinRefused> {
    let foreign = || JoinRefused { reason: Reason::TrustDomainForeign, detail: "not of this CA".into() };
    if ask.id.trust_domain() != own.trust_domain() {
        return Err(foreign());
    }
    let name: DeviceName = ask.id.device_name().and_then(|n| n.parse().ok()).ok_or_else(foreign)?;
    let ca = folder.issuing(now)?;
    let earlier = folder.earlier(now)?;
    let signers: Vec<_> = std::iter::once(&ca).chain(&earlier).map(super::Ca::signer).collect();
    let signers: Vec<_> = signers.iter().map(|s| s as &dyn Sign).collect();
    let standing = records.standing(&ask.id, shown, &signers)?;
    let last = load(folder, &name)?;
    let (renewal, record, again) = match decide_renewal(ask, &standing, last.as_ref(), now)? {
        RenewStep::Again(renewal) => (*renewal, standing.text, true),
        RenewStep::Issue(csr) => {
            let record = records.renew(&ask.id, csr.spki_sha256(), &signers)?;
            let extension = fingerprint_extension(standing.tier_max, &record);
            let sha256 = csr.sha256();
            let leaf = sign_leaf(folder, &ca, settings.leaf_ttl, own, &name, *csr, extension, now)?;
            let renewal = Renewal {
                csr: hex(&sha256),
                from: hex(&ask.spki_sha256),
                not_after: leaf.not_after.as_millis(),
                serial: leaf.serial,
                chain: leaf.chain_pem,
            };
            // Before it is handed out: whoever asks again must get the very same.
            save(folder, &name, &renewal)?;
            (renewal, record.text, false)
        }
    };
    Ok(Granted {
        token: None,
        id: ask.id.clone(),
        chain_pem: renewal.chain,
        bundle_pem: read_text(folder, BUNDLE_PEM, PEM_FILE_MAX)?,
        crl_pem: read_text(folder, CRL_PEM, CRL_FILE_MAX)?,
        record,
        serial: renewal.serial,
        not_after: Timestamp::from_millis(renewal.not_after),
        again,
    })
}

/// What the key of an expired leaf signs to get the next one, on one connection and for one request.
pub fn recover_message(exporter: &[u8; 32], csr: &[u8]) -> Vec<u8> {
    [RECOVER_LABEL, exporter.as_slice(), Sha256::digest(csr).as_slice()].concat()
}

/// One file per device, for its last renewal only.
fn place(folder: &Folder, name: &DeviceName) -> PathBuf {
    folder.file(RENEWALS).join(format!("{name}.json"))
}

fn load(folder: &Folder, name: &DeviceName) -> Result<Option<Renewal>, AuthorityError> {
    let path = place(folder, name);
    match read_secret(&path, RENEWAL_LEN_MAX) {
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => serde_json::from_slice(&read?).map(Some).map_err(|_| AuthorityError::Broken { path }),
    }
}

fn save(folder: &Folder, name: &DeviceName, renewal: &Renewal) -> Result<(), AuthorityError> {
    make_dir(&folder.file(RENEWALS))?;
    let path = place(folder, name);
    let bytes = serde_json::to_vec(renewal).map_err(|_| AuthorityError::Broken { path: path.clone() })?;
    Ok(write(&path, &bytes, Access::Owner)?)
}

fn hex(bytes: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Most certificates that a recovering device shows.
pub const RECOVER_CHAIN_MAX: usize = 4;
const RECOVER_LABEL: &[u8] = b"countersign/recover/1";
const RENEWALS: &str = "renewals";
/// Longest file of a renewal in bytes: a chain, escaped.
const RENEWAL_LEN_MAX: u64 = 64 * 1024;
