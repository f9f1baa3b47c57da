//! What a joining device keeps and checks: its key and request until it is done, and all that the authority gives.

use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, KeyPair,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SigningKey,
};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{CSR_LEN_MAX, Issued, Token, ack_message};
use super::file::{Access, FileError, make_dir, read_secret, write};
use super::joining::Pinned;
use super::load::{PEM_FILE_MAX, parse_certificates, parse_lists, roots_of, shares_a_root};
use super::own::LeafSigner;
use super::svid::svid;
use super::trust::{Revocation, Root, Stage, TrustError, check_chain};
use super::verify::{PeerError, check_leaf};
use crate::model::{SpiffeId, Timestamp};

/// A key and the request for its certificate. They stay the same until the device has joined, whatever breaks meanwhile.
pub struct Enrolment {
    key: KeyPair,
    csr: Vec<u8>,
    id: SpiffeId,
    trust: Trust,
}

/// What a given bundle is held against.
enum Trust {
    /// The key of the root that a token pins: SHA-256 of its DER SubjectPublicKeyInfo.
    Pin([u8; 32]),
    /// The roots that this device trusts already.
    Roots(Vec<Root>),
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Enrolment {
    /// Takes up what was begun in `dir` for this device, or begins anew: one file, for its owner alone.
    ///
    /// # Errors
    /// [`EnrolError`] when what is there cannot be used.
    pub fn begin(dir: &Path, token: &Token) -> Result<Self, EnrolError> {
        let id = SpiffeId::device(token.authority.trust_domain(), &token.name);
        Self::take_up(dir, id, token.name.as_str(), Trust::Pin(token.root_spki_sha256))
    }

    /// The same for the next certificate of a device that has one.
    ///
    /// # Errors
    /// [`EnrolError`] when what is there cannot be used.
    pub fn renew(dir: &Path, leaf: &LeafSigner) -> Result<Self, EnrolError> {
        let id = leaf.own.svid.id.clone();
        let name = id.device_name().unwrap_or_default().to_owned();
        Self::take_up(dir, id, &name, Trust::Roots(leaf.own.roots.clone()))
    }

    fn take_up(dir: &Path, id: SpiffeId, name: &str, trust: Trust) -> Result<Self, EnrolError> {
        let path = dir.join(REQUEST);
        match read_secret(&path, REQUEST_LEN_MAX) {
            Ok(pem) => {
                let broken = || EnrolError::Broken { path: path.clone() };
                let (key, csr, named) = parse(&pem).ok_or_else(broken)?;
                if named == id.as_str() {
                    return Ok(Self { key, csr, id, trust });
                }
                // Begun for another name: that key must never carry this one.
            }
            Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
        let request = params.serialize_request(&key)?;
        make_dir(dir)?;
        let pem = key.serialize_pem() + &request.pem()?;
        write(&path, pem.as_bytes(), Access::Owner)?;
        Ok(Self { key, csr: request.der().to_vec(), id, trust })
    }

    /// Forgets what was begun in `dir`: the device has its certificate.
    ///
    /// # Errors
    /// [`EnrolError`] when the file cannot be removed.
    pub fn finish(dir: &Path) -> Result<(), EnrolError> {
        let path = dir.join(REQUEST);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(FileError::Io { path, source }.into())
            }
            _ => {
                let _ = std::fs::remove_dir(dir);
                Ok(())
            }
        }
    }

    /// Who this device becomes.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificate request, DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// SHA-256 of the key's DER SubjectPublicKeyInfo; the administrator sees the same in `device pending`.
    pub fn spki_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.key.subject_public_key_info()).into()
    }

    /// Signs that the certificate `leaf_der` has come, on the connection with this exporter.
    ///
    /// # Errors
    /// [`EnrolError::Key`] when the key cannot sign.
    pub fn acknowledge(&self, exporter: &[u8; 32], leaf_der: &[u8]) -> Result<Vec<u8>, EnrolError> {
        Ok(self.key.sign(&ack_message(exporter, leaf_der))?)
    }

    /// Checks everything the authority gave, before a byte of it is written: the chain leads to the pinned root and is
    /// for this name and this key, the bundle holds that root, the lists read.
    ///
    /// # Errors
    /// [`EnrolError`] with the first thing that is wrong.
    pub fn check(&self, given: &Gift, now: Timestamp) -> Result<Joined, EnrolError> {
        let pem = |what, text: &str| {
            parse_certificates(text.as_bytes()).map_err(|_| EnrolError::Given { what, why: "does not read" })
        };
        let bundle = pem("bundle", &given.bundle_pem)?;
        let chain = pem("chain", &given.chain_pem)?;
        self.trusted(&bundle, &chain, now)?;
        let broken = EnrolError::Given { what: "chain", why: "does not read" };
        let (Some(leaf), Some(issuing)) = (chain.first(), chain.get(1)) else { return Err(broken) };
        let leaf_facts = svid(leaf).map_err(|e| EnrolError::Chain(e.into()))?;
        if leaf_facts.spki_sha256 != self.spki_sha256() {
            return Err(EnrolError::Given { what: "chain", why: "is for another key" });
        }
        // A device that is renewed has its lists from elsewhere, or none.
        if !given.crl_pem.is_empty() || matches!(self.trust, Trust::Pin(_)) {
            let lists = parse_lists(given.crl_pem.as_bytes())
                .map_err(|_| EnrolError::Given { what: "revocation list", why: "does not read" })?;
            if now >= lists.next_update {
                let why = "has expired at the authority";
                return Err(EnrolError::Given { what: "revocation list", why });
            }
        }
        let (_, issuing) = X509Certificate::from_der(issuing)
            .map_err(|_| EnrolError::Given { what: "chain", why: "does not read" })?;
        Ok(Joined {
            leaf_der: leaf.clone(),
            issuing_spki: issuing.public_key().raw.to_vec(),
            issued: Issued {
                leaf_pem: given.chain_pem.clone(),
                key_pem: self.key.serialize_pem(),
                bundle_pem: given.bundle_pem.clone(),
                crl_pem: given.crl_pem.clone(),
                serial: leaf_facts.serial_hex(),
                not_after: leaf_facts.not_after,
                id: leaf_facts.id,
            },
        })
    }
}

impl Enrolment {
    /// Whether the chain leads to a root that this device has reason to trust.
    fn trusted(
        &self,
        bundle: &[CertificateDer<'static>],
        chain: &[CertificateDer<'static>],
        now: Timestamp,
    ) -> Result<(), EnrolError> {
        match &self.trust {
            Trust::Pin(pin) => {
                let pinned = Pinned { root_spki_sha256: *pin, authority: Some(self.id.clone()) };
                let root = bundle.iter().find(|der| pinned.root(der).is_some());
                let root =
                    root.ok_or(EnrolError::Given { what: "bundle", why: "lacks the root of the token" })?;
                let mut whole = chain.to_vec();
                whole.push(root.clone());
                pinned.judge(&whole, now).map_err(EnrolError::Chain)
            }
            Trust::Roots(known) => {
                let roots = roots_of(bundle)
                    .map_err(|_| EnrolError::Given { what: "bundle", why: "does not read" })?;
                if !shares_a_root(&roots, known) {
                    return Err(EnrolError::Given { what: "bundle", why: "shares no root with ours" });
                }
                check_chain(&roots, &Revocation::Off, chain, now, Stage::Handshake)
                    .map_err(|e| EnrolError::Chain(e.into()))?;
                let leaf = chain.first().ok_or(EnrolError::Chain(TrustError::NoCertificate.into()))?;
                check_leaf(leaf, self.id.trust_domain(), Some(&self.id)).map_err(EnrolError::Chain)
            }
        }
    }
}

/// What the authority gave; nothing of it is believed yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gift {
    /// The leaf and the issuing CA, PEM.
    pub chain_pem: String,
    /// The roots, PEM.
    pub bundle_pem: String,
    /// The revocation lists, PEM.
    pub crl_pem: String,
    /// The signed device record.
    pub record: String,
}

/// A checked certificate with all that belongs to it.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The leaf, DER.
    pub leaf_der: CertificateDer<'static>,
    /// The issuing CA's DER SubjectPublicKeyInfo: device records are signed with its key.
    pub issuing_spki: Vec<u8>,
    /// For `install`.
    pub issued: Issued,
}

/// Key, request and the one URI it names.
fn parse(pem: &[u8]) -> Option<(KeyPair, Vec<u8>, String)> {
    let (mut key, mut csr) = (None, None);
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        match section.ok()? {
            (SectionKind::PrivateKey, der) if key.is_none() => key = Some(KeyPair::try_from(der).ok()?),
            (SectionKind::Csr, der) if csr.is_none() && der.len() <= CSR_LEN_MAX => csr = Some(der),
            _ => return None,
        }
    }
    let (key, csr) = (key?, csr?);
    let request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr.as_slice()))
            .ok()?;
    if request.public_key.der_bytes() != key.der_bytes() {
        return None;
    }
    match request.params.subject_alt_names.as_slice() {
        [SanType::URI(uri)] => Some((key, csr, uri.to_string())),
        _ => None,
    }
}

/// Why joining stopped on this side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// What was begun is damaged.
    #[error("`{}` is damaged: remove it and join with a new token", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// The certificate that was given does not verify.
    #[error("the authority gave a certificate that does not verify: {0}")]
    Chain(PeerError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something else that was given is wrong.
    #[error("the {what} that the authority gave {why}")]
    Given {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The key could not be made or used.
    #[error("the key could not be used: {0}")]
    Key(#[from] rcgen::Error),
}

const REQUEST: &str = "request.pem";
const REQUEST_LEN_MAX: u64 = PEM_FILE_MAX;
