//! Who was invited: one file per invite below the CA's folder, replaced whole, under the folder's lock.

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::file::{Access, FileError, make_dir, read_secret, write};
use super::token::{JoinKey, Token, TokenId};
use super::{AuthorityError, BUNDLE_PEM, DAY, Folder, ROOT_PEM};
use crate::model::{Authority, DeviceName, SpiffeId, Tier, Timestamp};

/// Whom to invite.
#[derive(Clone, Debug)]
pub struct InviteRequest {
    /// The name the device gets.
    pub name: DeviceName,
    /// How long the token may be used first, at most [`INVITE_TTL_MAX`].
    pub ttl: Duration,
    /// The highest tier the device can reach.
    pub tier_max: Tier,
    /// The sidecar with `[authority]`.
    pub authority: SpiffeId,
    /// Where its peers' door is.
    pub addresses: Vec<Authority>,
}

/// One invitation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invite {
    /// Names its token.
    pub id: TokenId,
    /// Checks proofs of its token.
    pub(super) key: JoinKey,
    /// The name the device gets.
    pub name: DeviceName,
    /// The highest tier the device can reach.
    pub tier_max: Tier,
    /// The sidecar that the token names.
    pub authority: SpiffeId,
    /// When it was made.
    pub made_at: Timestamp,
    /// The token must have been used first before this.
    pub expires_at: Timestamp,
    /// How far it is.
    pub state: InviteState,
}

/// How far an invite is. Only ever forwards.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InviteState {
    /// Nobody used the token yet.
    Open,
    /// Used by this request, which waits for an administrator.
    Pending(Asked),
    /// An administrator said yes to this request; it has not asked again yet.
    Approved(Asked),
    /// An administrator said no.
    Denied(Timestamp),
    /// The certificate was handed out and not acknowledged: the same request gets the same again.
    Issued(Given),
    /// The device acknowledged its certificate.
    Spent(Given),
}

impl InviteState {
    /// One word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Pending(_) => "pending",
            Self::Approved(_) => "approved",
            Self::Denied(_) => "denied",
            Self::Issued(_) => "issued",
            Self::Spent(_) => "spent",
        }
    }
}

/// A request that waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// SHA-256 of the certificate request.
    pub csr_sha256: [u8; 32],
    /// SHA-256 of its DER SubjectPublicKeyInfo: `countersign join` shows the same.
    pub spki_sha256: [u8; 32],
    /// When it came.
    pub at: Timestamp,
    /// Where it came from.
    pub source: String,
    /// What the device says of itself, in a few words.
    pub summary: String,
}

/// What was handed out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Given {
    /// SHA-256 of the certificate request.
    pub csr_sha256: [u8; 32],
    /// When it was issued.
    pub at: Timestamp,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// Its serial number in lower-case hex.
    pub serial: String,
    /// The leaf and the issuing CA, PEM.
    pub chain_pem: String,
    /// The signed device record.
    pub record: String,
}

/// Makes an invite; the token is returned and kept nowhere.
///
/// # Errors
/// [`AuthorityError`], with nothing changed.
pub fn invite(
    dir: &Path,
    request: &InviteRequest,
    now: Timestamp,
) -> Result<(Token, Invite), AuthorityError> {
    if request.ttl.as_secs() == 0 || request.ttl > INVITE_TTL_MAX {
        return Err(AuthorityError::Ttl { ttl: request.ttl, max: INVITE_TTL_MAX });
    }
    let count = request.addresses.len();
    if count == 0 || count > Token::ADDRESSES_MAX {
        return Err(AuthorityError::Addresses { count });
    }
    let folder = Folder::open(dir)?;
    let own = folder.issuing(now)?.facts.trust_domain;
    if *request.authority.trust_domain() != own {
        return Err(AuthorityError::Foreign { id: request.authority.clone(), trust_domain: own });
    }
    prune(&folder, now)?;
    let count = ids(&folder)?.len();
    if count >= INVITES_MAX {
        return Err(AuthorityError::Invites { count });
    }
    let pin = pin_of(&folder.certificate(ROOT_PEM)?, &folder.file(ROOT_PEM))?;
    let token = Token::make(pin, request.authority.clone(), request.name.clone(), request.addresses.clone())?;
    let invite = Invite {
        id: token.id(),
        key: token.key(),
        name: request.name.clone(),
        tier_max: request.tier_max,
        authority: request.authority.clone(),
        made_at: now,
        expires_at: now.plus(request.ttl),
        state: InviteState::Open,
    };
    save(&folder, &invite)?;
    Ok((token, invite))
}

/// Every invite that is kept, by name.
///
/// # Errors
/// [`AuthorityError`] when one cannot be read.
pub fn invites(dir: &Path) -> Result<Vec<Invite>, AuthorityError> {
    all(&Folder::open(dir)?)
}

/// Says yes to the request that waits under `what`, a device's name or a token's id.
///
/// # Errors
/// [`AuthorityError::NotPending`] when none waits, [`AuthorityError::Ambiguous`] when several do.
pub fn approve(dir: &Path, what: &str) -> Result<Invite, AuthorityError> {
    let folder = Folder::open(dir)?;
    let waits = |state: &InviteState| matches!(state, InviteState::Pending(_));
    let mut invite = only(&folder, what, waits)?;
    if let InviteState::Pending(asked) = invite.state {
        invite.state = InviteState::Approved(asked);
    }
    save(&folder, &invite)?;
    Ok(invite)
}

/// Says no to the invite `what`, a device's name or a token's id, whether somebody asked already or not.
///
/// What was issued is not taken back: revoke it.
///
/// # Errors
/// As [`approve`].
pub fn deny(dir: &Path, what: &str, now: Timestamp) -> Result<Invite, AuthorityError> {
    let folder = Folder::open(dir)?;
    let undecided = |state: &InviteState| {
        matches!(state, InviteState::Open | InviteState::Pending(_) | InviteState::Approved(_))
    };
    let mut invite = only(&folder, what, undecided)?;
    invite.state = InviteState::Denied(now);
    save(&folder, &invite)?;
    Ok(invite)
}

/// SHA-256 of the DER SubjectPublicKeyInfo of each root of the bundle.
pub(super) fn root_pins(folder: &Folder) -> Result<Vec<[u8; 32]>, AuthorityError> {
    let path = folder.file(BUNDLE_PEM);
    folder.roots()?.iter().map(|der| pin_of(der, &path)).collect()
}

fn pin_of(der: &[u8], path: &Path) -> Result<[u8; 32], AuthorityError> {
    let broken = |_| AuthorityError::Broken { path: path.into() };
    let (_, root) = X509Certificate::from_der(der).map_err(broken)?;
    Ok(Sha256::digest(root.public_key().raw).into())
}

/// The invite of this token.
pub(super) fn find(folder: &Folder, id: TokenId) -> Result<Option<Invite>, AuthorityError> {
    let path = place(folder, id);
    let bytes = match read_secret(&path, INVITE_LEN_MAX) {
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        read => read?,
    };
    let row: Row =
        serde_json::from_slice(&bytes).map_err(|_| AuthorityError::Broken { path: path.clone() })?;
    match row.invite() {
        Some(invite) if invite.id == id => Ok(Some(invite)),
        _ => Err(AuthorityError::Broken { path }),
    }
}

/// Writes it over the old one and waits until it is on the disk.
pub(super) fn save(folder: &Folder, invite: &Invite) -> Result<(), AuthorityError> {
    make_dir(&folder.file(INVITES))?;
    let path = place(folder, invite.id);
    let bytes =
        serde_json::to_vec(&Row::of(invite)).map_err(|_| AuthorityError::Broken { path: path.clone() })?;
    Ok(write(&path, &bytes, Access::Owner)?)
}

fn place(folder: &Folder, id: TokenId) -> PathBuf {
    folder.file(INVITES).join(format!("{id}.json"))
}

fn ids(folder: &Folder) -> Result<Vec<TokenId>, AuthorityError> {
    let dir = folder.file(INVITES);
    let at = |source| AuthorityError::File(FileError::Io { path: dir.clone(), source });
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(at)?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(at)?.file_name();
        let id = name.to_str().and_then(|n| n.strip_suffix(".json")).and_then(parse_id);
        ids.extend(id);
    }
    ids.sort_unstable();
    Ok(ids)
}

fn all(folder: &Folder) -> Result<Vec<Invite>, AuthorityError> {
    let mut invites = Vec::new();
    for id in ids(folder)? {
        invites.extend(find(folder, id)?);
    }
    invites.sort_by(|a, b| (&a.name, a.made_at, a.id).cmp(&(&b.name, b.made_at, b.id)));
    Ok(invites)
}

/// The one invite called `what` whose state fits.
fn only(folder: &Folder, what: &str, fits: impl Fn(&InviteState) -> bool) -> Result<Invite, AuthorityError> {
    let named = |i: &Invite| i.name.as_str() == what || i.id.to_string() == what;
    let mut found: Vec<_> = all(folder)?.into_iter().filter(|i| named(i) && fits(&i.state)).collect();
    let what = || what.chars().take(80).collect();
    match (found.pop(), found.is_empty()) {
        (Some(invite), true) => Ok(invite),
        (Some(last), false) => {
            let ids = found.iter().chain([&last]).map(|i| i.id.to_string()).collect();
            Err(AuthorityError::Ambiguous { what: what(), ids })
        }
        (None, _) => Err(AuthorityError::NotPending { what: what() }),
    }
}

/// Removes what nobody can ask for any more, so that the folder does not grow for ever.
fn prune(folder: &Folder, now: Timestamp) -> Result<(), AuthorityError> {
    for invite in all(folder)? {
        let last = match &invite.state {
            InviteState::Issued(given) | InviteState::Spent(given) => given.not_after,
            InviteState::Open
            | InviteState::Pending(_)
            | InviteState::Approved(_)
            | InviteState::Denied(_) => invite.expires_at,
        };
        if now > last.max(invite.expires_at).plus(KEPT) {
            let path = place(folder, invite.id);
            std::fs::remove_file(&path).map_err(|source| FileError::Io { path, source })?;
        }
    }
    Ok(())
}

fn parse_id(text: &str) -> Option<TokenId> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(TokenId)
}

/// An invite as it stands in its file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    key: String,
    name: String,
    tier_max: u8,
    authority: String,
    made_at: u64,
    expires_at: u64,
    state: RowState,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum RowState {
    Open,
    Pending(RowAsked),
    Approved(RowAsked),
    Denied(u64),
    Issued(RowGiven),
    Spent(RowGiven),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RowAsked {
    csr: String,
    spki: String,
    at: u64,
    source: String,
    summary: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RowGiven {
    csr: String,
    at: u64,
    not_after: u64,
    serial: String,
    chain: String,
    record: String,
}

impl Row {
    fn of(invite: &Invite) -> Self {
        let asked = |a: &Asked| RowAsked {
            csr: HEXLOWER.encode(&a.csr_sha256),
            spki: HEXLOWER.encode(&a.spki_sha256),
            at: a.at.as_millis(),
            source: a.source.clone(),
            summary: a.summary.clone(),
        };
        let given = |g: &Given| RowGiven {
            csr: HEXLOWER.encode(&g.csr_sha256),
            at: g.at.as_millis(),
            not_after: g.not_after.as_millis(),
            serial: g.serial.clone(),
            chain: g.chain_pem.clone(),
            record: g.record.clone(),
        };
        Self {
            id: invite.id.to_string(),
            key: HEXLOWER.encode(&invite.key.0),
            name: invite.name.to_string(),
            tier_max: invite.tier_max.level(),
            authority: invite.authority.to_string(),
            made_at: invite.made_at.as_millis(),
            expires_at: invite.expires_at.as_millis(),
            state: match &invite.state {
                InviteState::Open => RowState::Open,
                InviteState::Pending(a) => RowState::Pending(asked(a)),
                InviteState::Approved(a) => RowState::Approved(asked(a)),
                InviteState::Denied(at) => RowState::Denied(at.as_millis()),
                InviteState::Issued(g) => RowState::Issued(given(g)),
                InviteState::Spent(g) => RowState::Spent(given(g)),
            },
        }
    }

    /// `None` when a field does not read.
    fn invite(self) -> Option<Invite> {
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok();
        let time = Timestamp::from_millis;
        let asked = |a: RowAsked| {
            Some(Asked {
                csr_sha256: hex(&a.csr)?,
                spki_sha256: hex(&a.spki)?,
                at: time(a.at),
                source: a.source,
                summary: a.summary,
            })
        };
        let given = |g: RowGiven| {
            Some(Given {
                csr_sha256: hex(&g.csr)?,
                at: time(g.at),
                not_after: time(g.not_after),
                serial: g.serial,
                chain_pem: g.chain,
                record: g.record,
            })
        };
        Some(Invite {
            id: parse_id(&self.id)?,
            key: JoinKey(hex(&self.key)?),
            name: self.name.parse().ok()?,
            tier_max: tier(self.tier_max)?,
            authority: self.authority.parse().ok()?,
            made_at: time(self.made_at),
            expires_at: time(self.expires_at),
            state: match self.state {
                RowState::Open => InviteState::Open,
                RowState::Pending(a) => InviteState::Pending(asked(a)?),
                RowState::Approved(a) => InviteState::Approved(asked(a)?),
                RowState::Denied(at) => InviteState::Denied(time(at)),
                RowState::Issued(g) => InviteState::Issued(given(g)?),
                RowState::Spent(g) => InviteState::Spent(given(g)?),
            },
        })
    }
}

fn tier(level: u8) -> Option<Tier> {
    [Tier::None, Tier::Software, Tier::Bound, Tier::Attested].into_iter().find(|t| t.level() == level)
}

/// How long a token may be used first unless told otherwise.
pub const INVITE_TTL_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// How long at most.
pub const INVITE_TTL_MAX: Duration = DAY.saturating_mul(7);
/// Most invites that are kept at once.
pub const INVITES_MAX: usize = 4096;
/// How long an invite is kept after its end, so that a late or stolen token is told from an unknown one.
const KEPT: Duration = DAY.saturating_mul(30);
/// Longest file of an invite in bytes: a chain and a record, escaped.
const INVITE_LEN_MAX: u64 = 128 * 1024;
const INVITES: &str = "invites";
