//! Judges who may join, and gives the certificate; the token is spent on the device's own acknowledgement only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    CertificateSigningRequestParams, CustomExtension, IsCa, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SigningKey,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateSigningRequestDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use super::super::file::read;
use super::super::load::{CRL_FILE_MAX, PEM_FILE_MAX, parse_certificates};
use super::super::svid::FINGERPRINT_OID;
use super::invites::{self, Asked, Given, Invite, InviteState};
use super::token::TokenId;
use super::{
    AuthorityError, BUNDLE_PEM, CRL_PEM, Ca, DAY, Entry, Folder, device_params, issuing_chain, ledger,
};
use crate::model::{DeviceName, Reason, Sign, SignError, SpiffeId, Tier, Timestamp};

/// `[authority]`: what the sidecar that others join at can be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Folder of the CA; its issuing key must be there. Default `ca`.
    pub ca: PathBuf,
    /// Folder the signed device records are written into. Default `devices`.
    pub records: PathBuf,
    /// Who says yes. Default `auto`.
    pub approval: Approval,
    /// How long the certificates of joined devices are valid. Default 24 h.
    pub leaf_ttl: Duration,
    /// How long a revocation list is good when it is signed anew. Default 7 d.
    pub crl_ttl: Duration,
    /// How long a device record is good. Default 30 d.
    pub record_ttl: Duration,
    /// How long after its certificate has expired a device may still recover by itself; zero: never. Default 7 d.
    pub recover_grace: Duration,
}

/// Who says yes to a device that has a good token.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Approval {
    /// The token alone.
    #[default]
    Auto,
    /// The token and an administrator: `countersign device approve`.
    Queue,
}

/// What a device asks, on one connection. Everything in it is foreign.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The token it says it holds.
    pub token: TokenId,
    /// The authority its token names.
    pub authority: SpiffeId,
    /// The root its token names.
    pub root_spki_sha256: [u8; 32],
    /// The name it wants.
    pub name: DeviceName,
    /// Its certificate request (PKCS#10, RFC 2986), DER, at most [`CSR_LEN_MAX`] bytes.
    pub csr: Vec<u8>,
    /// Shows that it knows the token's secret.
    pub proof: [u8; 32],
    /// The exporter of this connection, which the proof covers.
    pub exporter: [u8; 32],
    /// Where it comes from, for the administrator.
    pub source: String,
    /// What it says of itself in a few words, for the administrator.
    pub summary: String,
}

/// The authority itself: the facts an [`Ask`] is held against.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Own {
    /// Our SPIFFE ID.
    pub id: SpiffeId,
    /// SHA-256 of the DER SubjectPublicKeyInfo of each of our roots.
    pub root_pins: Vec<[u8; 32]>,
    /// Who says yes.
    pub approval: Approval,
}

/// What follows from an ask.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Put it before the administrator.
    Queue(Asked),
    /// It waits there already.
    Wait,
    /// Issue for this key.
    Issue(Box<Csr>),
    /// Hand out the same once more.
    Again(Given),
}

/// A certificate request that keeps the rules; of its wishes only the key counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Csr {
    params: CertificateSigningRequestParams,
    sha256: [u8; 32],
    spki_sha256: [u8; 32],
}

/// Why a join was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}: {detail}", reason.code())]
pub struct JoinRefused {
    /// What the device may know.
    pub reason: Reason,
    /// More, for the audit.
    pub detail: String,
}

/// Judges `ask` for the invite its token names (`None` when there is none). Pure.
///
/// The secret is proven before anything else is looked at: a stranger learns nothing but that. The end of the token
/// bounds its *first* use; whoever used it first may come back with the very same request until the certificate ends.
///
/// # Errors
/// [`JoinRefused`] with the first thing that is wrong.
pub fn decide(own: &Own, invite: Option<&Invite>, ask: &Ask, now: Timestamp) -> Result<Step, JoinRefused> {
    let no = |reason, detail: &str| Err(JoinRefused { reason, detail: detail.into() });
    if ask.authority != own.id || !own.root_pins.contains(&ask.root_spki_sha256) {
        return no(Reason::JoinTokenForeign, "the token names another authority or root");
    }
    let Some(invite) = invite else { return no(Reason::JoinTokenUnknown, "no such token") };
    if !invite.key.proves(&ask.exporter, &ask.csr, &ask.proof) {
        return no(Reason::JoinTokenUnknown, "the secret of the token is not proven");
    }
    if invite.authority != own.id {
        return no(Reason::JoinTokenForeign, "the invite was made for another authority");
    }
    if ask.name != invite.name {
        return no(Reason::JoinNameMismatch, "it asks for another name than the token's");
    }
    let expected = SpiffeId::device(own.id.trust_domain(), &invite.name);
    let csr = check_csr(&ask.csr, &expected)?;
    let first_in_time = || match now < invite.expires_at {
        true => Ok(()),
        false => no(Reason::JoinTokenExpired, "it was not used before its end").map(drop),
    };
    let changed = || no(Reason::JoinCsrChanged, "the token is bound to another request");
    match &invite.state {
        InviteState::Denied(_) => no(Reason::JoinDenied, "denied before"),
        InviteState::Open => {
            first_in_time()?;
            match own.approval {
                Approval::Auto => Ok(Step::Issue(Box::new(csr))),
                Approval::Queue => Ok(Step::Queue(csr.asked(ask, now))),
            }
        }
        InviteState::Pending(asked) | InviteState::Approved(asked) if asked.csr_sha256 != csr.sha256 => {
            changed()
        }
        InviteState::Pending(asked) | InviteState::Approved(asked)
            if now > asked.at.plus(PENDING_MAX).max(invite.expires_at) =>
        {
            no(Reason::JoinTokenExpired, "it waited too long for an administrator")
        }
        InviteState::Pending(_) => Ok(Step::Wait),
        InviteState::Approved(_) => Ok(Step::Issue(Box::new(csr))),
        InviteState::Spent(given) if given.csr_sha256 != csr.sha256 => {
            no(Reason::JoinTokenSpent, "spent, and now shown with another request")
        }
        InviteState::Issued(given) if given.csr_sha256 != csr.sha256 => changed(),
        InviteState::Issued(given) | InviteState::Spent(given) if now >= given.not_after => {
            no(Reason::JoinTokenSpent, "the certificate it gave has ended")
        }
        InviteState::Issued(given) | InviteState::Spent(given) => Ok(Step::Again(given.clone())),
    }
}

/// Reads a certificate request and checks its signature, its key and its wishes.
///
/// It may name `expected` as common name or URI, and nobody else; DNS names and addresses are dropped without a word.
///
/// # Errors
/// [`Reason::JoinCsrInvalid`] when it is broken, [`Reason::JoinNameMismatch`] when it asks for another name.
pub fn check_csr(der: &[u8], expected: &SpiffeId) -> Result<Csr, JoinRefused> {
    let no = |reason, detail: &str| Err(JoinRefused { reason, detail: detail.into() });
    let broken = |detail: &str| no(Reason::JoinCsrInvalid, detail);
    if der.len() > CSR_LEN_MAX {
        return broken("it is too long");
    }
    let Ok((rest, parsed)) = X509CertificationRequest::from_der(der) else {
        return broken("it is no PKCS#10 request");
    };
    if !rest.is_empty() {
        return broken("bytes follow it");
    }
    let info = &parsed.certification_request_info;
    let spki_sha256 = Sha256::digest(info.subject_pki.raw).into();
    let mut names = info.subject.iter_common_name();
    let common_name = names.next().map(|name| name.as_str().map(str::to_owned));
    let several = names.next().is_some();
    // This verifies the signature, and knows no extensions but those of certificates.
    let params = match CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der)) {
        Ok(params) => params,
        Err(e) => return broken(&e.to_string()),
    };
    // Evidence is signed with ES256 (RFC 9053 §2.1), so there is one kind of key.
    if params.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return broken("its key is no P-256 key");
    }
    if matches!(params.params.is_ca, IsCa::Ca(_)) {
        return broken("it asks to be a CA");
    }
    let called = expected.device_name();
    match common_name {
        Some(Ok(name)) if !several && Some(name.as_str()) == called => {}
        None => {}
        Some(_) => return no(Reason::JoinNameMismatch, "its common name is another name"),
    }
    let other = |name: &SanType| matches!(name, SanType::URI(uri) if uri.as_str() != expected.as_str());
    if params.params.subject_alt_names.iter().any(other) {
        return no(Reason::JoinNameMismatch, "its URI is another name");
    }
    Ok(Csr { params, sha256: Sha256::digest(der).into(), spki_sha256 })
}

impl Csr {
    /// SHA-256 of the request.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// SHA-256 of its key's DER SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> [u8; 32] {
        self.spki_sha256
    }

    fn asked(&self, ask: &Ask, now: Timestamp) -> Asked {
        let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(SUMMARY_LEN_MAX).collect();
        Asked {
            csr_sha256: self.sha256,
            spki_sha256: self.spki_sha256,
            at: now,
            source: cut(&ask.source),
            summary: cut(&ask.summary),
        }
    }
}

/// For whom a record is to be made.
#[derive(Clone, Debug)]
pub struct Recordable {
    /// Whose it is.
    pub id: SpiffeId,
    /// SHA-256 of its key's DER SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// The highest tier it can reach.
    pub tier_max: Tier,
}

/// A signed device record, and what of it stands in the certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recorded {
    /// The record as it is handed out.
    pub text: String,
    /// Its version.
    pub version: u64,
    /// SHA-256 of its baseline.
    pub baseline_sha256: [u8; 32],
}

/// Makes and keeps the signed device record: `agent` introduces `device` to us. The signer is the issuing CA.
pub type Recorder<'a> = &'a dyn Fn(&Recordable, &dyn Sign) -> Result<Recorded, JoinRefused>;

/// What came of an ask.
#[derive(Clone, Debug)]
pub enum Admitted {
    /// An administrator has to say yes; `first` when it was not waiting before.
    Pending {
        /// Whether it was put into the queue just now.
        first: bool,
    },
    /// Here is the certificate.
    Granted(Box<Granted>),
}

/// A certificate that is handed out; only its acknowledgement spends the token.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The token it spends; a renewed certificate spends none.
    pub(super) token: Option<TokenId>,
    /// Whose it is.
    pub id: SpiffeId,
    /// The leaf and the issuing CA, PEM.
    pub chain_pem: String,
    /// The roots, PEM.
    pub bundle_pem: String,
    /// The revocation lists of now, PEM.
    pub crl_pem: String,
    /// The signed device record.
    pub record: String,
    /// The serial number in lower-case hex.
    pub serial: String,
    /// When it ends.
    pub not_after: Timestamp,
    /// Whether it was handed out before.
    pub again: bool,
}

impl Granted {
    /// Whether its acknowledgement spends a token; that of a renewed certificate does not.
    pub fn spends_a_token(&self) -> bool {
        self.token.is_some()
    }
}

/// Judges an ask and carries out what follows: [`decide`], then the CA's files.
///
/// What is issued stands in the ledger and in the invite before this returns.
///
/// # Errors
/// [`JoinRefused`]; nothing was issued then.
pub fn admit(
    settings: &Settings,
    own: &SpiffeId,
    ask: &Ask,
    recorder: Recorder<'_>,
    now: Timestamp,
) -> Result<Admitted, JoinRefused> {
    let folder = Folder::open_patiently(&settings.ca)?;
    let facts = Own { id: own.clone(), root_pins: invites::root_pins(&folder)?, approval: settings.approval };
    let invite = invites::find(&folder, ask.token)?;
    let step = decide(&facts, invite.as_ref(), ask, now)?;
    let Some(mut invite) = invite else {
        return Err(JoinRefused { reason: Reason::Internal, detail: "no invite to a decision".into() });
    };
    let (given, again) = match step {
        Step::Wait => return Ok(Admitted::Pending { first: false }),
        Step::Queue(asked) => {
            invite.state = InviteState::Pending(asked);
            invites::save(&folder, &invite)?;
            return Ok(Admitted::Pending { first: true });
        }
        Step::Again(given) => (given, true),
        Step::Issue(csr) => {
            let given = issue(&folder, settings, &invite, *csr, own, recorder, now)?;
            // Before it is handed out: whoever comes back must get the very same.
            invite.state = InviteState::Issued(given.clone());
            invites::save(&folder, &invite)?;
            (given, false)
        }
    };
    Ok(Admitted::Granted(Box::new(Granted {
        token: Some(invite.id),
        id: SpiffeId::device(own.trust_domain(), &invite.name),
        chain_pem: given.chain_pem,
        bundle_pem: read_text(&folder, BUNDLE_PEM, PEM_FILE_MAX)?,
        crl_pem: read_text(&folder, CRL_PEM, CRL_FILE_MAX)?,
        record: given.record,
        serial: given.serial,
        not_after: given.not_after,
        again,
    })))
}

/// Spends the token of `granted`, because the device signed that it has its certificate; once more changes nothing.
/// Where no token was used, only the signature is checked.
///
/// # Errors
/// [`Reason::JoinAckInvalid`] when the signature is not by the new key over this connection and certificate.
pub fn acknowledge(
    settings: &Settings,
    granted: &Granted,
    exporter: &[u8; 32],
    signature: &[u8],
) -> Result<(), JoinRefused> {
    let chain = parse_certificates(granted.chain_pem.as_bytes()).unwrap_or_default();
    let broken = || JoinRefused { reason: Reason::Internal, detail: "the issued chain does not read".into() };
    let leaf = chain.first().ok_or_else(broken)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| broken())?;
    let key = &certificate.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(&ack_message(exporter, leaf), signature)
        .map_err(|_| JoinRefused {
            reason: Reason::JoinAckInvalid,
            detail: "its signature is not by the new key".into(),
        })?;
    let Some(token) = granted.token else { return Ok(()) };
    let folder = Folder::open_patiently(&settings.ca)?;
    let Some(mut invite) = invites::find(&folder, token)? else {
        return Err(JoinRefused { reason: Reason::JoinTokenUnknown, detail: "the invite is gone".into() });
    };
    match invite.state {
        InviteState::Issued(given) if given.serial == granted.serial => {
            invite.state = InviteState::Spent(given);
            Ok(invites::save(&folder, &invite)?)
        }
        InviteState::Spent(given) if given.serial == granted.serial => Ok(()),
        _ => Err(JoinRefused { reason: Reason::JoinDenied, detail: "the invite changed meanwhile".into() }),
    }
}

/// What a device signs to acknowledge its certificate on one connection.
pub fn ack_message(exporter: &[u8; 32], leaf_der: &[u8]) -> Vec<u8> {
    [ACK_LABEL, exporter.as_slice(), Sha256::digest(leaf_der).as_slice()].concat()
}

/// The roots that joining devices must be shown, DER: their token pins the key of one.
///
/// # Errors
/// [`AuthorityError`] when the folder holds no CA that can sign now.
pub fn roots(
    dir: &Path,
    now: Timestamp,
) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, AuthorityError> {
    let folder = Folder::open_patiently(dir)?;
    folder.issuing(now)?;
    folder.roots()
}

/// [`with_issuing_keys`] with the one in force alone.
///
/// # Errors
/// [`AuthorityError`] when the CA cannot sign now; otherwise what `work` returns.
pub fn with_issuing_key<T>(
    dir: &Path,
    now: Timestamp,
    work: impl FnOnce(&dyn Sign) -> T,
) -> Result<T, AuthorityError> {
    let folder = Folder::open_patiently(dir)?;
    let ca = folder.issuing(now)?;
    Ok(work(&ca.signer()))
}

/// Does something with the keys of the issuing CAs, the one in force first: device records are signed with them.
///
/// # Errors
/// [`AuthorityError`] when the CA cannot sign now; otherwise what `work` returns.
pub fn with_issuing_keys<T>(
    dir: &Path,
    now: Timestamp,
    work: impl FnOnce(&[&dyn Sign]) -> T,
) -> Result<T, AuthorityError> {
    let folder = Folder::open_patiently(dir)?;
    let ca = folder.issuing(now)?;
    let earlier = folder.earlier(now)?;
    let signers: Vec<_> = std::iter::once(&ca).chain(&earlier).map(Ca::signer).collect();
    let signers: Vec<_> = signers.iter().map(|s| s as &dyn Sign).collect();
    Ok(work(&signers))
}

fn issue(
    folder: &Folder,
    settings: &Settings,
    invite: &Invite,
    csr: Csr,
    own: &SpiffeId,
    recorder: Recorder<'_>,
    now: Timestamp,
) -> Result<Given, JoinRefused> {
    let ca = folder.issuing(now)?;
    let id = SpiffeId::device(own.trust_domain(), &invite.name);
    let recordable = Recordable { id, spki_sha256: csr.spki_sha256, tier_max: invite.tier_max };
    let record = recorder(&recordable, &ca.signer())?;
    let csr_sha256 = csr.sha256;
    let extension = fingerprint_extension(invite.tier_max, &record);
    let Leaf { chain_pem, serial, not_after } =
        sign_leaf(folder, &ca, settings.leaf_ttl, own, &invite.name, csr, extension, now)?;
    Ok(Given { csr_sha256, at: now, not_after, serial, chain_pem, record: record.text })
}

/// A leaf that was just signed and stands in the ledger.
pub(super) struct Leaf {
    pub chain_pem: String,
    pub serial: String,
    pub not_after: Timestamp,
}

/// Signs a leaf for the key of `csr` and writes it into the ledger.
#[expect(clippy::too_many_arguments, reason = "each is one fact of the certificate")]
pub(super) fn sign_leaf(
    folder: &Folder,
    ca: &Ca,
    ttl: Duration,
    own: &SpiffeId,
    name: &DeviceName,
    mut csr: Csr,
    extension: CustomExtension,
    now: Timestamp,
) -> Result<Leaf, JoinRefused> {
    if ca.facts.trust_domain != *own.trust_domain() {
        let trust_domain = ca.facts.trust_domain.clone();
        return Err(AuthorityError::Foreign { id: own.clone(), trust_domain }.into());
    }
    let not_after = now.plus(ttl).min(ca.facts.not_after);
    // The request's own wishes go: the CA says what stands in the certificate.
    csr.params.params = device_params(own.trust_domain(), name, now, not_after)?;
    csr.params.params.custom_extensions = vec![extension];
    let serial = csr.params.params.serial_number.as_ref().map(|s| s.to_bytes()).unwrap_or_default();
    let serial = data_encoding::HEXLOWER.encode(&serial);
    let leaf = csr.params.signed_by(&ca.issuer).map_err(AuthorityError::from)?;
    let chain_pem = leaf.pem() + &issuing_chain(folder)?;
    let entry = Entry { name: name.to_string(), serial: serial.clone(), not_after: not_after.as_secs() };
    ledger::append(folder, &entry)?;
    // What X.509 cannot say is no lifetime: it ends on a whole second.
    Ok(Leaf { chain_pem, serial, not_after: Timestamp::from_millis(not_after.as_secs() * 1000) })
}

/// Says in the certificate that the device has a record ([`FINGERPRINT_OID`]).
pub(super) fn fingerprint_extension(tier: Tier, record: &Recorded) -> CustomExtension {
    let version = record.version.to_be_bytes();
    let zeros = version.iter().take_while(|b| **b == 0).count().min(version.len() - 1);
    let version = version.get(zeros..).unwrap_or_default();
    // A leading zero keeps an INTEGER positive (X.690 §8.3).
    let version =
        if version.first().is_some_and(|b| *b >= 0x80) { [&[0], version].concat() } else { version.into() };
    let fields =
        [der(0x02, &[tier.level()]), der(0x02, &version), der(0x04, &record.baseline_sha256)].concat();
    // Not critical: to other software this stays a plain SPIFFE X.509-SVID.
    CustomExtension::from_oid_content(FINGERPRINT_OID, der(0x30, &fields))
}

/// One DER value of fewer than 128 bytes (X.690 §8.1.3.4).
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap_or(0x7f);
    [&[tag, len], value].concat()
}

pub(super) fn read_text(folder: &Folder, file: &str, max: u64) -> Result<String, AuthorityError> {
    let path = folder.file(file);
    String::from_utf8(read(&path, max)?).map_err(|_| AuthorityError::Broken { path })
}

/// The issuing CA's key as a signer: ECDSA P-256 with SHA-256, ASN.1.
pub(super) struct CaSigner<'a> {
    ca: &'a Ca,
    spki: Vec<u8>,
}

impl Ca {
    pub(super) fn signer(&self) -> CaSigner<'_> {
        CaSigner { ca: self, spki: self.issuer.key().subject_public_key_info() }
    }
}

impl Sign for CaSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.ca.issuer.key().sign(message).map_err(|_| SignError)
    }

    fn public_key_spki(&self) -> &[u8] {
        &self.spki
    }
}

// A stranger may know that the folder is busy; what is broken in it stands in the audit.
impl From<AuthorityError> for JoinRefused {
    fn from(error: AuthorityError) -> Self {
        let reason = match &error {
            AuthorityError::Busy { .. } => Reason::JoinLimited,
            _ => Reason::Internal,
        };
        Self { reason, detail: error.to_string() }
    }
}

/// How long an expired device may recover unless told otherwise.
pub const RECOVER_GRACE_DEFAULT: Duration = DAY.saturating_mul(7);
/// How long at most.
pub const RECOVER_GRACE_MAX: Duration = DAY.saturating_mul(90);
/// Longest certificate request in bytes.
pub const CSR_LEN_MAX: usize = 4 * 1024;
/// How long a request waits for an administrator at most.
pub const PENDING_MAX: Duration = DAY.saturating_mul(7);
/// Longest text about a device that is kept for the administrator, in characters.
const SUMMARY_LEN_MAX: usize = 200;
const ACK_LABEL: &[u8] = b"countersign/join-ack/1";
