//! Remembers the newest version of each device's record, so that none comes back.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::record::{RECORD_TTL_MAX, Record};
use crate::model::{Reason, SpiffeId, Timestamp};

/// The newest version seen of each device. At its bound those are forgotten of which no older one can still be good.
#[derive(Clone, Debug)]
pub struct Versions {
    seen: HashMap<SpiffeId, Seen>,
    devices_max: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seen {
    version: u64,
    /// Every older record has expired by then, for none lasts longer than [`RECORD_TTL_MAX`].
    forget_at: Timestamp,
}

impl Versions {
    /// Remembers nothing yet, and never more than `devices_max` devices.
    pub fn new(devices_max: usize) -> Self {
        Self { seen: HashMap::new(), devices_max }
    }

    /// Whether a record of this device was ever seen.
    pub fn knows(&self, id: &SpiffeId) -> bool {
        self.seen.contains_key(id)
    }

    /// Takes a record whose signature was verified. Says whether it is newer than what was known.
    ///
    /// # Errors
    /// `RecordRolledBack` when a newer one was seen; `MemoryExhausted` when there is no room to remember this one.
    pub fn admit(&mut self, record: &Record, now: Timestamp) -> Result<bool, Reason> {
        let known = self.seen.get(&record.id).copied();
        if known.is_some_and(|seen| record.version < seen.version) {
            return Err(Reason::RecordRolledBack);
        }
        if known.is_none() && self.seen.len() >= self.devices_max {
            self.seen.retain(|_, seen| now < seen.forget_at);
            if self.seen.len() >= self.devices_max {
                return Err(Reason::MemoryExhausted);
            }
        }
        let newer = known.is_none_or(|seen| record.version > seen.version);
        let forget_at = record.issued_at.plus(RECORD_TTL_MAX);
        let forget_at = known.map_or(forget_at, |seen| forget_at.max(seen.forget_at));
        self.seen.insert(record.id.clone(), Seen { version: record.version, forget_at });
        Ok(newer)
    }

    /// As it is kept on disk: a line for each device.
    pub fn to_text(&self) -> String {
        let mut rows: Vec<_> = self.seen.iter().collect();
        rows.sort_unstable_by_key(|(id, _)| *id);
        let mut text = String::from(HEAD);
        for (id, seen) in rows {
            let _ = writeln!(text, "{} {} {id}", seen.version, seen.forget_at.as_millis());
        }
        text
    }

    /// Reads what [`Versions::to_text`] wrote.
    ///
    /// # Errors
    /// [`VersionsError`]: whoever starts without it would take old records again.
    pub fn read(text: &str, devices_max: usize) -> Result<Self, VersionsError> {
        let rows = text.strip_prefix(HEAD).ok_or(VersionsError { line: 1 })?;
        let mut seen = HashMap::new();
        for (at, line) in rows.lines().enumerate() {
            let row = row(line).filter(|_| at < devices_max);
            let (id, row) = row.ok_or(VersionsError { line: at + 2 })?;
            if seen.insert(id, row).is_some() {
                return Err(VersionsError { line: at + 2 });
            }
        }
        Ok(Self { seen, devices_max })
    }
}

fn row(line: &str) -> Option<(SpiffeId, Seen)> {
    let mut words = line.splitn(3, ' ');
    let version = words.next()?.parse().ok()?;
    let forget_at = Timestamp::from_millis(words.next()?.parse().ok()?);
    Some((words.next()?.parse().ok()?, Seen { version, forget_at }))
}

/// A line of the file is not understood, names a device again, or is one too many.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line} of the record versions is not understood, or one too many")]
pub struct VersionsError {
    /// The line, from 1.
    pub line: usize,
}

const HEAD: &str = "countersign-record-versions/1\n";

#[cfg(test)]
#[path = "versions_tests.rs"]
mod tests;
