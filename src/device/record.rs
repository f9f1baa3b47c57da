//! What the authority holds of a device: its baseline and standing, signed, versioned and expiring.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

use super::p256::{SIGNATURE_LEN, sign_p256};
use super::{Component, Presented};
use crate::model::{Reason, Sign, SpiffeId, Tier, Timestamp};

/// Most values of one component: network interfaces, in effect.
pub const VALUES_MAX: usize = 16;
/// Longest record in bytes.
pub const RECORD_LEN_MAX: usize = 16 * 1024;
/// Longest a record may be good for: what is older can never come back.
pub const RECORD_TTL_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How far a clock may be ahead of ours.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// What the authority holds of one device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Whose record it is.
    pub id: SpiffeId,
    /// Grows by one with each change. A verifier never goes back.
    pub version: u64,
    /// Fixed when the device was enrolled.
    pub profile: Profile,
    /// The most this device may be taken for.
    pub tier_max: Tier,
    /// SHA-256 of the SubjectPublicKeyInfo of its leaf.
    pub spki_sha256: [u8; 32],
    /// SHA-256 of each value it presented when it was enrolled: a copied record is no kit for forging evidence.
    pub baseline: BTreeMap<Component, Vec<[u8; 32]>>,
    /// How it stands.
    pub status: Status,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Worth nothing from then on; at most [`RECORD_TTL_MAX`] after it was signed.
    pub expires_at: Timestamp,
}

/// How much of a machine could be seen when it was enrolled.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Profile {
    /// Enough.
    Full,
    /// So little that any drift is too much.
    Thin,
    /// A container; as thin.
    Container,
}

/// How a device stands with the authority.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Status {
    /// Welcome.
    Active,
    /// Until someone approves it, it reaches nothing but recovery.
    Quarantined,
    /// Out.
    Revoked,
}

/// A record as it is kept and sent: TOML whose last line signs everything above it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedRecord {
    /// At most [`RECORD_LEN_MAX`] bytes.
    pub text: String,
}

impl Record {
    /// The baseline of what was presented; what is observed only is no part of it.
    pub fn baseline_of(values: &BTreeMap<Component, Presented>) -> BTreeMap<Component, Vec<[u8; 32]>> {
        let weighed = values.iter().filter(|(c, _)| c.class() != super::Class::Observed);
        let digests = |presented: &Presented| presented.iter().map(|v| digest_of(v)).collect();
        weighed.map(|(c, presented)| (*c, digests(presented))).collect()
    }

    /// Whether this record speaks of the device `id`, now. Quarantine is for the appraisal to tell.
    ///
    /// `proven` are the digests of the keys proven on this very session: the handshake's, and a renewed one.
    ///
    /// # Errors
    /// `RecordInvalid`, `RecordExpired` or `DeviceRevoked`.
    pub fn check(&self, id: &SpiffeId, proven: &[[u8; 32]], now: Timestamp) -> Result<(), Reason> {
        if self.id != *id || !proven.contains(&self.spki_sha256) {
            return Err(Reason::RecordInvalid);
        }
        if self.status == Status::Revoked {
            return Err(Reason::DeviceRevoked);
        }
        if now >= self.expires_at {
            return Err(Reason::RecordExpired);
        }
        if self.issued_at > now.plus(CLOCK_SKEW_MAX) {
            return Err(Reason::RecordInvalid);
        }
        Ok(())
    }

    /// Writes and signs it. The signer is the issuing CA's P-256 key.
    ///
    /// # Errors
    /// [`RecordError`] when the key cannot sign, or nobody could read what would be written.
    pub fn to_signed(&self, signer: &dyn Sign) -> Result<SignedRecord, RecordError> {
        let mut text = self.to_text();
        let signature = sign_p256(signer, text.as_bytes()).map_err(|_| RecordError::Sign)?;
        if self != &read(&text)? {
            return Err(RecordError::Value { key: "baseline" });
        }
        let _ = write!(text, "{SIGNATURE_BEGIN}{}{SIGNATURE_END}", HEXLOWER.encode(&signature));
        if text.len() > RECORD_LEN_MAX {
            return Err(RecordError::TooLarge { len: text.len() });
        }
        Ok(SignedRecord { text })
    }

    /// SHA-256 of the lines of its baseline: what was enrolled, in 32 bytes.
    pub fn baseline_sha256(&self) -> [u8; 32] {
        digest_of(self.baseline_text().as_bytes())
    }

    fn to_text(&self) -> String {
        let mut text = String::from(HEAD);
        let _ = write!(
            text,
            "id = \"{}\"\nversion = {}\nprofile = \"{}\"\nstatus = \"{}\"\ntier_max = {}\nspki_sha256 = \"{}\"\nissued_at = \"{}\"\nexpires_at = \"{}\"\n",
            self.id,
            self.version,
            self.profile.name(),
            self.status.name(),
            self.tier_max.level(),
            HEXLOWER.encode(&self.spki_sha256),
            self.issued_at,
            self.expires_at,
        );
        text + &self.baseline_text()
    }

    fn baseline_text(&self) -> String {
        let mut text = String::new();
        for (component, values) in &self.baseline {
            let values: Vec<_> = values.iter().map(|v| format!("\"{}\"", HEXLOWER.encode(v))).collect();
            let _ = writeln!(text, "baseline.\"{component}\" = [{}]", values.join(", "));
        }
        text
    }
}

impl SignedRecord {
    /// Reads a record whose signature `verify` accepts: it is given the message and 64 bytes of `r` and `s`.
    ///
    /// # Errors
    /// [`RecordError`]; nothing is parsed before the signature is verified.
    pub fn open(text: &str, verify: &dyn Fn(&[u8], &[u8]) -> bool) -> Result<Record, RecordError> {
        if text.len() > RECORD_LEN_MAX {
            return Err(RecordError::TooLarge { len: text.len() });
        }
        let (body, signature) = split(text).ok_or(RecordError::Unsigned)?;
        if !verify(body.as_bytes(), &signature) {
            return Err(RecordError::Signature);
        }
        read(body)
    }
}

/// The signed text, and the signature that its last line holds.
fn split(text: &str) -> Option<(&str, [u8; SIGNATURE_LEN])> {
    let rest = text.strip_suffix(SIGNATURE_END)?;
    let at = rest.rfind(SIGNATURE_BEGIN)?;
    let (body, line) = rest.split_at_checked(at)?;
    let hex = line.strip_prefix(SIGNATURE_BEGIN)?;
    let signature = HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()?;
    // Else the line would only be the tail of another one.
    body.ends_with('\n').then_some((body, signature))
}

/// Reads what was signed.
fn read(body: &str) -> Result<Record, RecordError> {
    // The first line keeps a record from being taken for anything else that this key signs.
    if !body.starts_with(HEAD) {
        return Err(RecordError::Kind);
    }
    let raw: raw::Record = toml::from_str(body).map_err(|error| {
        let before = error.span().and_then(|span| body.get(..span.start)).unwrap_or_default();
        RecordError::Syntax { line: before.matches('\n').count() + 1 }
    })?;
    let bad = |key| RecordError::Value { key };
    let mut baseline = BTreeMap::new();
    for (name, values) in &raw.baseline {
        let component = Component::from_name(name).ok_or(RecordError::Component)?;
        let values: Option<Vec<_>> = values.iter().map(|v| hex32(v)).collect();
        let values = values.filter(|v| (1..=VALUES_MAX).contains(&v.len())).ok_or(bad("baseline"))?;
        // A set: one value must not be counted for many.
        if values.iter().collect::<BTreeSet<_>>().len() != values.len() {
            return Err(bad("baseline"));
        }
        baseline.insert(component, values);
    }
    let record = Record {
        id: raw.id.parse().map_err(|_| bad("id"))?,
        version: raw.version,
        profile: Profile::from_name(&raw.profile).ok_or(bad("profile"))?,
        tier_max: tier(raw.tier_max).ok_or(bad("tier_max"))?,
        spki_sha256: hex32(&raw.spki_sha256).ok_or(bad("spki_sha256"))?,
        baseline,
        status: Status::from_name(&raw.status).ok_or(bad("status"))?,
        issued_at: timestamp(&raw.issued_at).ok_or(bad("issued_at"))?,
        expires_at: timestamp(&raw.expires_at).ok_or(bad("expires_at"))?,
    };
    if record.expires_at <= record.issued_at || record.expires_at.since(record.issued_at) > RECORD_TTL_MAX {
        return Err(bad("expires_at"));
    }
    Ok(record)
}

/// The shape of the file.
mod raw {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Record {
        #[serde(rename = "format")]
        pub(super) _format: String,
        pub(super) id: String,
        pub(super) version: u64,
        pub(super) profile: String,
        pub(super) status: String,
        pub(super) tier_max: u8,
        pub(super) spki_sha256: String,
        pub(super) issued_at: String,
        pub(super) expires_at: String,
        #[serde(default)]
        pub(super) baseline: BTreeMap<String, Vec<String>>,
    }
}

/// Why a record cannot be read or written. What it holds is never told: it may be a stranger's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Names a component that we do not know.
    #[error("the record names an unknown component")]
    Component,
    /// Does not begin as a record of this format does.
    #[error("not a device record of a format known here")]
    Kind,
    /// The key did not sign.
    #[error("the authority's key could not sign the record")]
    Sign,
    /// The signature does not fit.
    #[error("the signature of the record does not fit")]
    Signature,
    /// No TOML, or a key is missing, unknown or of the wrong type.
    #[error("line {line} of the record is not understood")]
    Syntax {
        /// The line, from 1.
        line: usize,
    },
    /// Longer than [`RECORD_LEN_MAX`].
    #[error("the record is {len} bytes, expected at most {RECORD_LEN_MAX}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// The last line is no signature.
    #[error("the record does not end with its signature")]
    Unsigned,
    /// A value that the key cannot have.
    #[error("`{key}` of the record has a value that it cannot have")]
    Value {
        /// The key.
        key: &'static str,
    },
}

impl RecordError {
    /// What a stranger is told.
    pub fn reason(&self) -> Reason {
        Reason::RecordInvalid
    }
}

macro_rules! named {
    ($type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name in records and on the screen.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

named!(Profile { Full => "full", Thin => "thin", Container => "container" });
named!(Status { Active => "active", Quarantined => "quarantined", Revoked => "revoked" });

pub(crate) fn digest_of(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn hex32(text: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

pub(crate) fn tier(level: u8) -> Option<Tier> {
    [Tier::None, Tier::Software, Tier::Bound, Tier::Attested].into_iter().find(|t| t.level() == level)
}

/// The very form that [`Timestamp`] is shown in.
fn timestamp(text: &str) -> Option<Timestamp> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    let ms = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()?;
    Some(Timestamp::from_millis(ms)).filter(|t| t.to_string() == text)
}

const HEAD: &str = "format = \"countersign-device-record/1\"\n";
const SIGNATURE_BEGIN: &str = "signature = \"";
const SIGNATURE_END: &str = "\"\n";

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
