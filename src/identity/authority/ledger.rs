//! `issued.jsonl`: one line per certificate that was ever issued.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};

use super::super::file::{FileError, read};
use super::{AuthorityError, Folder, LEDGER};

/// A line of the ledger, as it stands in the file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// The device's name.
    pub name: String,
    /// The serial number in lower-case hex.
    pub serial: String,
    /// notAfter in seconds since the epoch.
    pub not_after: u64,
}

/// Adds a line and waits until it is on the disk.
pub(super) fn append(folder: &Folder, entry: &Entry) -> Result<(), AuthorityError> {
    let path = folder.file(LEDGER);
    let at = |source| FileError::Io { path: path.clone(), source };
    let mut line = serde_json::to_vec(entry).map_err(|_| AuthorityError::Broken { path: path.clone() })?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(at)?;
    file.write_all(&line).and_then(|()| file.sync_all()).map_err(at)?;
    Ok(())
}

/// Every line, oldest first.
pub(super) fn entries(folder: &Folder) -> Result<Vec<Entry>, AuthorityError> {
    let path = folder.file(LEDGER);
    let bytes = read(&path, LEDGER_MAX)?;
    let lines = bytes.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(at, line)| {
            serde_json::from_slice(line)
                .map_err(|_| AuthorityError::Ledger { path: path.clone(), line: at.saturating_add(1) })
        })
        .collect()
}

/// Longest ledger that is read, in bytes: about half a million certificates.
const LEDGER_MAX: u64 = 64 * 1024 * 1024;
