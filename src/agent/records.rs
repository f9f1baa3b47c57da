//! Device records at the authority: made when a device joins, made anew when it is renewed or its standing changes.
//!
//! Each is a file of its own, `NAME.toml`, signed by the issuing CA. A version is the clock's seconds, or one more than
//! the last where that is later: verifiers never go back, so it must grow even when the folder was lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::channel::Facts;
use crate::device::{
    Component, Profile, RECORD_LEN_MAX, Record, RecordError, SignedRecord, Status, verify_p256,
};
use crate::identity::authority::{
    self, AuthorityError, JoinRefused, Recordable, Recorded, Records, Standing,
};
use crate::identity::{FileError, Joined, read_file, svid, write_file};
use crate::model::{DeviceName, Reason, Sign, SpiffeId, Timestamp};

/// Makes, signs and keeps the record of a device that joins.
pub(super) fn make(
    records: &Path,
    whom: &Recordable,
    facts: &Facts,
    ttl: Duration,
    signer: &dyn Sign,
    now: Timestamp,
) -> Result<Recorded, JoinRefused> {
    let foreign = |detail: &str| JoinRefused { reason: Reason::JoinMalformed, detail: detail.into() };
    let ours = |detail: String| JoinRefused { reason: Reason::Internal, detail };
    let profile = profile(&facts.profile).ok_or_else(|| foreign("no such profile"))?;
    let mut baseline = BTreeMap::new();
    for (name, values) in &facts.baseline {
        let component = Component::from_name(name).ok_or_else(|| foreign("no such component"))?;
        baseline.insert(component, values.clone());
    }
    let path = file(records, whom.id.device_name().unwrap_or_default());
    let last = last(&path, &[signer]).map_err(|e| ours(e.to_string()))?.map(|(record, _)| record);
    let record = Record {
        id: whom.id.clone(),
        version: next_version(last.as_ref(), now),
        profile,
        tier_max: whom.tier_max,
        spki_sha256: whom.spki_sha256,
        baseline,
        status: Status::Active,
        issued_at: now,
        expires_at: now.plus(ttl),
    };
    // What cannot be signed came from the device: a baseline that no record may have.
    let signed = record.to_signed(signer).map_err(|e| foreign(&e.to_string()))?;
    write_file(&path, signed.text.as_bytes()).map_err(|e| ours(e.to_string()))?;
    Ok(Recorded { text: signed.text, version: record.version, baseline_sha256: record.baseline_sha256() })
}

/// The desk of records for those who want their next certificate.
pub(super) struct Desk<'a> {
    pub folder: &'a Path,
    pub ttl: Duration,
    pub now: Timestamp,
}

impl Records for Desk<'_> {
    fn standing(&self, id: &SpiffeId, shown: &str, signers: &[&dyn Sign]) -> Result<Standing, JoinRefused> {
        let no = |reason, detail: &str| JoinRefused { reason, detail: detail.into() };
        let path = file(self.folder, id.device_name().unwrap_or_default());
        let ours = last(&path, signers).map_err(|e| no(Reason::Internal, &e.to_string()))?;
        if !shown.is_empty() {
            let read = open(shown, signers).map_err(|e| no(Reason::RecordInvalid, &e.to_string()))?;
            let (shown, _) = read
                .filter(|(r, _)| r.id == *id)
                .ok_or_else(|| no(Reason::RecordInvalid, "the record it shows is of another CA or device"))?;
            // Our folder is older than what we signed: a backup was brought back. Whoever was revoked since is not in it.
            if ours.as_ref().is_none_or(|(r, _)| r.version < shown.version) {
                return Err(no(Reason::RecordMissing, "the record it shows is newer than the one here"));
            }
        }
        let (record, _) = ours.ok_or_else(|| no(Reason::RecordMissing, "there is no record of it"))?;
        let text = read_file(&path, len_max()).map_err(|e| no(Reason::Internal, &e.to_string()))?;
        Ok(Standing {
            spki_sha256: record.spki_sha256,
            tier_max: record.tier_max,
            text: String::from_utf8_lossy(&text).into_owned(),
            barred: match record.status {
                Status::Active => None,
                Status::Quarantined => Some(Reason::DeviceQuarantined),
                Status::Revoked => Some(Reason::DeviceRevoked),
            },
        })
    }

    fn renew(
        &self,
        id: &SpiffeId,
        spki_sha256: [u8; 32],
        signers: &[&dyn Sign],
    ) -> Result<Recorded, JoinRefused> {
        let failed = |detail: String| JoinRefused { reason: Reason::Internal, detail };
        let path = file(self.folder, id.device_name().unwrap_or_default());
        let last = last(&path, signers).map_err(|e| failed(e.to_string()))?;
        let (last, _) = last.ok_or_else(|| failed("the record is gone".into()))?;
        let record = Record {
            version: next_version(Some(&last), self.now),
            spki_sha256,
            issued_at: self.now,
            expires_at: self.now.plus(self.ttl),
            ..last
        };
        // The new leaf is of the CA in force, and so is its record.
        let signer = signers.first().ok_or_else(|| failed("nobody can sign".into()))?;
        let signed = record.to_signed(*signer).map_err(|e| failed(e.to_string()))?;
        write_file(&path, signed.text.as_bytes()).map_err(|e| failed(e.to_string()))?;
        Ok(Recorded { text: signed.text, version: record.version, baseline_sha256: record.baseline_sha256() })
    }
}

/// Makes the next version of a device's record, with another status; `None` when it has none.
///
/// # Errors
/// [`RecordsError`] when the record cannot be read, signed or written; a revoked device only comes back by joining.
pub fn set_status(
    ca: &Path,
    records: &Path,
    name: &DeviceName,
    status: Status,
    now: Timestamp,
) -> Result<Option<Changed>, RecordsError> {
    let path = file(records, name.as_str());
    authority::with_issuing_keys(ca, now, |signers| {
        let Some((last, by)) = last(&path, signers)? else { return Ok(None) };
        if last.status == Status::Revoked && status != Status::Revoked {
            return Err(RecordsError::Revoked { name: name.clone() });
        }
        let (was, ttl) = (last.status, last.expires_at.since(last.issued_at));
        let record = Record {
            version: next_version(Some(&last), now),
            status,
            issued_at: now,
            expires_at: now.plus(ttl),
            ..last
        };
        // By the CA that signed the last one: it is the one that the device's leaf leads to.
        let Some(signer) = signers.get(by) else { return Ok(None) };
        let broken = |error| RecordsError::Record { path: path.clone(), error };
        let signed = record.to_signed(*signer).map_err(broken)?;
        write_file(&path, signed.text.as_bytes())?;
        Ok(Some(Changed { path: path.clone(), was, version: record.version }))
    })?
}

/// A record's change of status.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed {
    /// Its file.
    pub path: PathBuf,
    /// The status before.
    pub was: Status,
    /// The new version.
    pub version: u64,
}

/// Every record of the folder that is ours, by name.
///
/// # Errors
/// [`RecordsError`] when the folder or a record cannot be read, or there are more than [`RECORDS_MAX`].
pub fn all_records(ca: &Path, records: &Path, now: Timestamp) -> Result<Vec<Record>, RecordsError> {
    authority::with_issuing_keys(ca, now, |signers| read_all(records, signers))?
}

pub(super) fn read_all(records: &Path, signers: &[&dyn Sign]) -> Result<Vec<Record>, RecordsError> {
    let at = |source| RecordsError::File(FileError::Io { path: records.into(), source });
    let entries = match std::fs::read_dir(records) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(at)?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(at)?.path();
        let named =
            path.file_stem().and_then(|n| n.to_str()).is_some_and(|n| n.parse::<DeviceName>().is_ok());
        if !named || path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        if all.len() >= RECORDS_MAX {
            return Err(RecordsError::TooMany { path: records.into() });
        }
        all.extend(last(&path, signers)?.map(|(record, _)| record));
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

fn next_version(last: Option<&Record>, now: Timestamp) -> u64 {
    last.map_or(0, |last| last.version.saturating_add(1)).max(now.as_secs())
}

/// The record in force and which of the signers it is by; one of an earlier CA than theirs counts as none.
fn last(path: &Path, signers: &[&dyn Sign]) -> Result<Option<(Record, usize)>, RecordsError> {
    let bytes = match read_file(path, len_max()) {
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        read => read?,
    };
    open(&String::from_utf8_lossy(&bytes), signers)
        .map_err(|error| RecordsError::Record { path: path.into(), error })
}

fn open(text: &str, signers: &[&dyn Sign]) -> Result<Option<(Record, usize)>, RecordError> {
    for (by, signer) in signers.iter().enumerate() {
        let ours =
            |message: &[u8], signature: &[u8]| verify_p256(signer.public_key_spki(), message, signature);
        match SignedRecord::open(text, &ours) {
            Err(RecordError::Signature) => {}
            read => return read.map(|record| Some((record, by))),
        }
    }
    Ok(None)
}

/// The record that lies at `path`, if one of these keys (DER SubjectPublicKeyInfo) signed it.
pub(super) fn open_by_keys(path: &Path, keys: &[Vec<u8>]) -> Result<Option<Record>, RecordsError> {
    let text = String::from_utf8_lossy(&read_file(path, len_max())?).into_owned();
    signed_by(&text, keys).map_err(|error| RecordsError::Record { path: path.into(), error })
}

/// The record in `text`, if one of these keys (DER SubjectPublicKeyInfo) signed it.
pub(super) fn signed_by(text: &str, keys: &[Vec<u8>]) -> Result<Option<Record>, RecordError> {
    for key in keys {
        match SignedRecord::open(text, &|message, signature| verify_p256(key, message, signature)) {
            Err(RecordError::Signature) => {}
            read => return read.map(Some),
        }
    }
    Ok(None)
}

/// Whether the record that came with our certificate is by the CA that issued it, and for this device and key.
pub(super) fn check_own(joined: &Joined, record: &str, now: Timestamp) -> Result<(), String> {
    let keys = [joined.issuing_spki.clone()];
    let read = signed_by(record, &keys).map_err(|e| e.to_string())?.ok_or("the record is not by our CA")?;
    let key = svid(&joined.leaf_der).map_err(|e| e.to_string())?.spki_sha256;
    read.check(&joined.issued.id, &[key], now).map_err(|reason| reason.sentence().to_owned())
}

fn len_max() -> u64 {
    u64::try_from(RECORD_LEN_MAX).unwrap_or(u64::MAX)
}

fn file(records: &Path, name: &str) -> PathBuf {
    records.join(format!("{name}.toml"))
}

fn profile(name: &str) -> Option<Profile> {
    [Profile::Full, Profile::Thin, Profile::Container].into_iter().find(|p| p.name() == name)
}

/// Why a device's record could not be renewed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// The CA cannot sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// It could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A revoked device is not made active again.
    #[error(
        "`{name}` is revoked: it comes back only by joining anew, `countersign device invite --name {name}`"
    )]
    Revoked {
        /// Whose record.
        name: DeviceName,
    },
    /// More records than are read.
    #[error("`{}` holds more than {RECORDS_MAX} records", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
    /// It is none, or could not be signed.
    #[error("`{}`: {error}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: RecordError,
    },
}

/// Most records in one folder.
pub const RECORDS_MAX: usize = 65_536;
