//! Issues device certificates.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

use super::super::file::read;
use super::super::load::{CRL_FILE_MAX, PEM_FILE_MAX};
use super::{
    AuthorityError, BUNDLE_PEM, CRL_PEM, DAY, Entry, Folder, date, earlier, generate_key, issuing_chain,
    ledger, name, random_serial,
};
use crate::model::{DeviceName, SpiffeId, Timestamp, TrustDomain};

/// A device to issue a certificate for.
#[derive(Clone, Debug)]
pub struct IssueRequest {
    /// Its name; the ID becomes `spiffe://<trust-domain>/device/<name>`.
    pub name: DeviceName,
    /// DNS names, for other software; Countersign grants nothing for them.
    pub dns: Vec<String>,
    /// Addresses, likewise.
    pub ip: Vec<IpAddr>,
    /// How long it is valid, at most [`TTL_MAX`]; it is cut to the end of the issuing CA.
    pub ttl: Duration,
}

/// A certificate with everything the device needs beside it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The leaf and the issuing CA, PEM.
    pub leaf_pem: String,
    /// The private key, PKCS#8 PEM. It is nowhere else.
    pub key_pem: String,
    /// The root, PEM.
    pub bundle_pem: String,
    /// The revocation lists, PEM.
    pub crl_pem: String,
    /// The serial number in lower-case hex.
    pub serial: String,
    /// When it ends.
    pub not_after: Timestamp,
    /// Whose it is.
    pub id: SpiffeId,
}

/// Issues a certificate and a fresh key for a device, and writes it into the ledger first.
///
/// Needs `issuing.key`, not `root.key`.
///
/// # Errors
/// [`AuthorityError`], with nothing issued.
pub fn issue(dir: &Path, request: &IssueRequest, now: Timestamp) -> Result<Issued, AuthorityError> {
    if request.ttl.as_secs() == 0 || request.ttl > TTL_MAX {
        return Err(AuthorityError::Ttl { ttl: request.ttl, max: TTL_MAX });
    }
    let count = request.dns.len() + request.ip.len();
    if count > NAMES_MAX {
        return Err(AuthorityError::Names { count });
    }
    let folder = Folder::open(dir)?;
    let not_after = now.plus(request.ttl).min(folder.issuing(now)?.facts.not_after);
    let trust_domain = folder.issuing(now)?.facts.trust_domain;
    let mut params = device_params(&trust_domain, &request.name, now, not_after)?;
    for dns in &request.dns {
        params.subject_alt_names.push(SanType::DnsName(dns_name(dns)?));
    }
    params.subject_alt_names.extend(request.ip.iter().map(|ip| SanType::IpAddress(*ip)));
    let id = SpiffeId::device(&trust_domain, &request.name);
    sign(&folder, params, id, request.name.as_str(), now)
}

/// The parameters of a right device certificate, valid from [`BACKDATE`] before `from` until `until`.
///
/// # Errors
/// [`AuthorityError::Random`] without randomness.
pub fn device_params(
    trust_domain: &TrustDomain,
    device: &DeviceName,
    from: Timestamp,
    until: Timestamp,
) -> Result<CertificateParams, AuthorityError> {
    let id = SpiffeId::device(trust_domain, device);
    let mut params = CertificateParams::default();
    params.distinguished_name = name(device.as_str());
    params.serial_number = Some(random_serial()?);
    params.not_before = date(earlier(from, BACKDATE));
    params.not_after = date(until);
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Signs whatever `params` say: **for the demo and tests**, which need certificates that must be refused.
///
/// It keeps no rule of [`issue`] but the ledger; `id` is only what is written there and returned.
///
/// # Errors
/// [`AuthorityError`], with nothing issued.
pub fn issue_raw(
    dir: &Path,
    params: CertificateParams,
    id: SpiffeId,
    now: Timestamp,
) -> Result<Issued, AuthorityError> {
    let label = id.device_name().unwrap_or("raw").to_owned();
    sign(&Folder::open(dir)?, params, id, &label, now)
}

fn sign(
    folder: &Folder,
    params: CertificateParams,
    id: SpiffeId,
    label: &str,
    now: Timestamp,
) -> Result<Issued, AuthorityError> {
    let ca = folder.issuing(now)?;
    let key = generate_key()?;
    let leaf = params.signed_by(&key, &ca.issuer)?;
    let serial = params.serial_number.as_ref().map(|s| s.to_bytes()).unwrap_or_default();
    let not_after = Timestamp::from_secs(params.not_after.unix_timestamp());
    let serial = data_encoding::HEXLOWER.encode(&serial);
    let text = |file: &str, max| {
        let path = folder.file(file);
        String::from_utf8(read(&path, max)?).map_err(|_| AuthorityError::Broken { path })
    };
    let issued = Issued {
        leaf_pem: leaf.pem() + &issuing_chain(folder)?,
        key_pem: key.serialize_pem(),
        bundle_pem: text(BUNDLE_PEM, PEM_FILE_MAX)?,
        crl_pem: text(CRL_PEM, CRL_FILE_MAX)?,
        serial: serial.clone(),
        not_after,
        id,
    };
    // Before it is handed out: what is not in the ledger could not be revoked by name.
    ledger::append(folder, &Entry { name: label.to_owned(), serial, not_after: not_after.as_secs() })?;
    Ok(issued)
}

fn dns_name(text: &str) -> Result<Ia5String, AuthorityError> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let fail = || AuthorityError::Name { name: text.chars().take(80).collect() };
    if text.len() > DNS_NAME_LEN_MAX || !text.split('.').all(label) {
        return Err(fail());
    }
    Ia5String::try_from(text).map_err(|_| fail())
}

/// How long a device certificate is valid unless told otherwise.
pub const TTL_DEFAULT: Duration = DAY;
/// How long it may be valid at most.
pub const TTL_MAX: Duration = DAY.saturating_mul(90);
/// How far notBefore lies in the past, for clocks that are a little behind.
pub const BACKDATE: Duration = Duration::from_secs(60);
/// Most DNS names and addresses in one certificate.
pub const NAMES_MAX: usize = 16;
const DNS_NAME_LEN_MAX: usize = 253;
