//! Device records at the authority: made when a device joins, made anew when it is revoked.
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
use crate::identity::authority::{self, AuthorityError, JoinRefused, Recordable, Recorded};
use crate::identity::{FileError, read_file, write_file};
use crate::model::{DeviceName, Reason, Sign, Timestamp};

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
    let last = last(&path, signer).map_err(|e| ours(e.to_string()))?;
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

/// Makes the next version of a device's record, which says that it is revoked; `None` when it has none.
///
/// # Errors
/// [`RecordsError`] when the record cannot be read, signed or written.
pub fn revoke_record(
    ca: &Path,
    records: &Path,
    name: &DeviceName,
    now: Timestamp,
) -> Result<Option<PathBuf>, RecordsError> {
    let path = file(records, name.as_str());
    let revoked = authority::with_issuing_key(ca, now, |signer| {
        let Some(last) = last(&path, signer)? else { return Ok(None) };
        let ttl = last.expires_at.since(last.issued_at);
        let record = Record {
            version: next_version(Some(&last), now),
            status: Status::Revoked,
            issued_at: now,
            expires_at: now.plus(ttl),
            ..last
        };
        record.to_signed(signer).map(Some).map_err(|error| RecordsError::Record { path: path.clone(), error })
    })??;
    let Some(signed) = revoked else { return Ok(None) };
    write_file(&path, signed.text.as_bytes())?;
    Ok(Some(path))
}

fn next_version(last: Option<&Record>, now: Timestamp) -> u64 {
    last.map_or(0, |last| last.version.saturating_add(1)).max(now.as_secs())
}

/// The record in force, by this signer; one of an earlier CA counts as none.
fn last(path: &Path, signer: &dyn Sign) -> Result<Option<Record>, RecordsError> {
    let len_max = u64::try_from(RECORD_LEN_MAX).unwrap_or(u64::MAX);
    let bytes = match read_file(path, len_max) {
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        read => read?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let ours = |message: &[u8], signature: &[u8]| verify_p256(signer.public_key_spki(), message, signature);
    match SignedRecord::open(&text, &ours) {
        Ok(record) => Ok(Some(record)),
        Err(RecordError::Signature) => Ok(None),
        Err(error) => Err(RecordsError::Record { path: path.into(), error }),
    }
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
    /// It is none, or could not be signed.
    #[error("`{}`: {error}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: RecordError,
    },
}
