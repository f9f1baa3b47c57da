//! The rules of a SPIFFE X.509-SVID leaf, checked on its bytes alone.

use sha2::{Digest, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::{SpiffeId, SpiffeIdError, Timestamp};

/// What a leaf that keeps the rules says. It proves nothing until its chain is verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Svid {
    /// The one URI SAN.
    pub id: SpiffeId,
    /// The first common name of its subject, when it is text; a name for people, never who it is.
    pub common_name: Option<Box<str>>,
    /// The serial number, big-endian, without leading zeros.
    pub serial: Box<[u8]>,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// SHA-256 of the DER SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// SHA-256 of the whole certificate.
    pub fingerprint_sha256: [u8; 32],
    /// Whether its issuer says that the device was enrolled ([`FINGERPRINT_OID`]): it must give evidence then. What the
    /// extension holds is for others; here it counts that it is there.
    pub has_fingerprint_extension: bool,
}

impl Svid {
    /// The serial number as lower-case hex.
    pub fn serial_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.serial)
    }
}

/// Reads a leaf certificate and checks the rules of X.509-SVID (SPIFFE X509-SVID §2, §4, §5.2).
///
/// Neither signature, issuer nor clock is looked at. At most [`LEAF_LEN_MAX`] bytes are read.
///
/// # Errors
/// [`SvidError`] names the first rule that is broken.
pub fn svid(leaf_der: &[u8]) -> Result<Svid, SvidError> {
    if leaf_der.len() > LEAF_LEN_MAX {
        return Err(SvidError::TooLarge { len: leaf_der.len() });
    }
    let (rest, certificate) = X509Certificate::from_der(leaf_der).map_err(|_| SvidError::Malformed)?;
    if !rest.is_empty() {
        return Err(SvidError::TrailingBytes { len: rest.len() });
    }
    certificate.extensions_map().map_err(|_| SvidError::DuplicateExtension)?;
    check_extensions(&certificate)?;
    let serial = certificate.raw_serial();
    let zeros = serial.iter().take_while(|b| **b == 0).count();
    let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(Svid {
        id: only_id(&certificate)?,
        common_name: common_name.map(Box::from),
        serial: serial.get(zeros..).unwrap_or_default().into(),
        not_before: Timestamp::from_secs(certificate.validity().not_before.timestamp()),
        not_after: Timestamp::from_secs(certificate.validity().not_after.timestamp()),
        spki_sha256: Sha256::digest(certificate.public_key().raw).into(),
        fingerprint_sha256: Sha256::digest(leaf_der).into(),
        has_fingerprint_extension: certificate
            .extensions()
            .iter()
            .any(|e| e.oid.iter().is_some_and(|arcs| arcs.eq(FINGERPRINT_OID.iter().copied()))),
    })
}

/// Why a certificate is no X.509-SVID leaf.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// It is a CA: signing certificates never authenticate (§4.1).
    #[error("certificate is a CA (basicConstraints cA is true)")]
    Ca,
    /// One extension stands in it twice (RFC 5280 §4.2).
    #[error("certificate has the same extension twice")]
    DuplicateExtension,
    /// extendedKeyUsage is there without both purposes (§4.4).
    #[error("extendedKeyUsage must have both serverAuth and clientAuth")]
    ExtendedKeyUsage,
    /// Its URI is no SPIFFE ID.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// keyUsage is missing (§4.3).
    #[error("keyUsage is missing")]
    KeyUsageMissing,
    /// keyUsage is not marked critical (§4.3).
    #[error("keyUsage is not critical")]
    KeyUsageNotCritical,
    /// Not DER, or an extension of it is not.
    #[error("certificate is not well-formed DER")]
    Malformed,
    /// keyUsage lacks digitalSignature (§4.3).
    #[error("keyUsage lacks digitalSignature")]
    NoDigitalSignature,
    /// keyUsage lets it sign certificates or CRLs (§4.3).
    #[error("keyUsage has keyCertSign or cRLSign")]
    Signs,
    /// Longer than [`LEAF_LEN_MAX`].
    #[error("certificate is {len} bytes, expected at most {LEAF_LEN_MAX}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// Bytes follow the certificate.
    #[error("{len} bytes follow the certificate")]
    TrailingBytes {
        /// How many.
        len: usize,
    },
    /// Not exactly one URI SAN (§2).
    #[error("certificate has {count} URI names, expected exactly one")]
    UriCount {
        /// How many.
        count: usize,
    },
}

fn check_extensions(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let mut key_usage = None;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return Err(SvidError::Malformed),
            ParsedExtension::BasicConstraints(basic) if basic.ca => return Err(SvidError::Ca),
            ParsedExtension::KeyUsage(usage) => key_usage = Some((extension.critical, usage)),
            ParsedExtension::ExtendedKeyUsage(usage) if !(usage.server_auth && usage.client_auth) => {
                return Err(SvidError::ExtendedKeyUsage);
            }
            _ => {}
        }
    }
    let (critical, usage) = key_usage.ok_or(SvidError::KeyUsageMissing)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(SvidError::Signs);
    }
    if !usage.digital_signature() {
        return Err(SvidError::NoDigitalSignature);
    }
    if !critical {
        return Err(SvidError::KeyUsageNotCritical);
    }
    Ok(())
}

fn only_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let names = certificate.subject_alternative_name().map_err(|_| SvidError::Malformed)?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|n| &n.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It could be a second URI in bytes that are no text.
            GeneralName::Invalid(..) => return Err(SvidError::Malformed),
            _ => {}
        }
    }
    match uris.as_slice() {
        [uri] => Ok(uri.parse()?),
        _ => Err(SvidError::UriCount { count: uris.len() }),
    }
}

/// Longest leaf certificate that is read, in bytes.
pub const LEAF_LEN_MAX: usize = 16 * 1024;
/// The fingerprint extension of a leaf, never critical: `SEQUENCE { tier INTEGER, recordVersion INTEGER, baseline OCTET
/// STRING }`, the last being SHA-256 of the baseline in the device's record.
///
/// Below IANA's enterprise number for examples (RFC 5612): this project has none of its own yet.
pub const FINGERPRINT_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 32473, 15443, 1];
