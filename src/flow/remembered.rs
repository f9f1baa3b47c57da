//! What the analyser learnt, kept in one file over restarts: sealed under a secret of this device, written whole or not
//! at all.
//!
//! The file is [`MAGIC`], the version in two bytes, then in `postcard`: the seed of the keys, milliseconds since 1970,
//! how many engines; of each the devices in quarantine, a length and [`analyser::Engine::snapshot`]; last 32 bytes of
//! HMAC-SHA256 over all before them. No byte is believed before that is right. Whoever may read the secret can write
//! such a file, and whoever may write the folder can put back an older one.

use std::io;
use std::path::{Path, PathBuf};

use ring::hmac;

use super::behaviour::{Behaviour, ENGINES, Settings};
use crate::analyser::{Restored, SNAPSHOT_BYTES_MAX, SnapshotError};
use crate::identity::{FileError, read_secret_file, write_secret_file};
use crate::model::Timestamp;

/// Where what was learnt lies, and the key that seals it.
pub struct Memory {
    path: PathBuf,
    key: hmac::Key,
}

/// Behaviour as it was known when the file was written.
pub struct Recalled {
    /// Goes on from there.
    pub behaviour: Behaviour,
    /// Devices known again, and those for which there is no room any more.
    pub restored: Restored,
    /// When the file was written.
    pub as_of: Timestamp,
}

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Its tag is right, but it does not read: a mistake of ours.
    #[error("it is damaged")]
    Broken,
    /// One of its engines says no.
    #[error(transparent)]
    Engine(#[from] SnapshotError),
    /// It cannot be read, is for more than its owner, or too large.
    #[error(transparent)]
    File(FileError),
    /// Cut off, changed, or sealed by another device.
    #[error("its tag is wrong: it was cut off or changed, or is of another device")]
    Forged,
    /// Written by a later program.
    #[error("it is of version {version}, expected {VERSION}")]
    Newer {
        /// Its version.
        version: u16,
    },
    /// Shorter than any.
    #[error("it is {len} bytes, too short for any")]
    Short {
        /// Its length in bytes.
        len: usize,
    },
}

impl MemoryError {
    /// In a word or two that stay the same.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Broken | Self::Engine(SnapshotError::Broken) => "damaged",
            Self::Engine(SnapshotError::TooLarge { .. }) | Self::File(FileError::TooLarge { .. }) => {
                "too large"
            }
            Self::Engine(SnapshotError::Unsound) => "impossible figure",
            Self::Engine(_) => "another version of the analyser",
            Self::File(FileError::Exposed { .. }) => "exposed",
            Self::File(_) => "unreadable",
            Self::Forged => "bad tag",
            Self::Newer { .. } => "newer version",
            Self::Short { .. } => "truncated",
        }
    }
}

impl Memory {
    /// The file at `path`, sealed under a secret of this device.
    pub fn new(path: PathBuf, secret: &[u8; 32]) -> Self {
        Self { path, key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Recalls what was learnt; `None` when there is no file yet.
    ///
    /// # Errors
    /// [`MemoryError`] when the file is not to be believed.
    pub fn recall(&self, settings: &Settings) -> Result<Option<Recalled>, MemoryError> {
        match read_secret_file(&self.path, FILE_BYTES_MAX) {
            Ok(bytes) => self.open(&bytes, settings).map(Some),
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(MemoryError::File(e)),
        }
    }

    /// Writes what was learnt so far; gives the bytes it took. Blocks: call it off the runtime. An engine is locked only
    /// while what it knows is taken down.
    ///
    /// # Errors
    /// [`FileError`]; the file is then as it was.
    pub fn keep(&self, behaviour: &Behaviour, now: Timestamp) -> Result<usize, FileError> {
        let sealed = self.seal(behaviour, now);
        write_secret_file(&self.path, &sealed).map(|()| sealed.len())
    }

    /// Moves a file that is not believed out of the way; gives its new place.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_aside(&self) -> io::Result<PathBuf> {
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(".bad");
        std::fs::rename(&self.path, &aside)?;
        Ok(aside.into())
    }

    fn seal(&self, behaviour: &Behaviour, now: Timestamp) -> Vec<u8> {
        let mut bytes = [MAGIC, &VERSION.to_le_bytes()].concat();
        put(&mut bytes, &(behaviour.seed(), now.as_millis(), ENGINES));
        for (quarantined, engine) in behaviour.learnt() {
            put(&mut bytes, &(quarantined, engine.len()));
            bytes.extend_from_slice(&engine);
        }
        let tag = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        bytes
    }

    fn open(&self, bytes: &[u8], settings: &Settings) -> Result<Recalled, MemoryError> {
        let short = MemoryError::Short { len: bytes.len() };
        let (sealed, tag) = bytes.split_last_chunk::<TAG_LEN>().ok_or(short)?;
        hmac::verify(&self.key, sealed, tag).map_err(|_| MemoryError::Forged)?;
        let rest = sealed.strip_prefix(MAGIC).ok_or(MemoryError::Broken)?;
        let (version, mut rest) = rest.split_first_chunk().ok_or(MemoryError::Broken)?;
        match u16::from_le_bytes(*version) {
            VERSION => {}
            version => return Err(MemoryError::Newer { version }),
        }
        let (seed, as_of, engines): ([u64; 2], u64, usize) = take(&mut rest)?;
        let behaviour = Behaviour::new(settings, seed);
        if engines != behaviour.engines() {
            return Err(MemoryError::Engine(SnapshotError::Foreign));
        }
        let mut restored = Restored::default();
        for at in 0..engines {
            let (quarantined, len): (Vec<u64>, usize) = take(&mut rest)?;
            let (engine, after) = rest.split_at_checked(len).ok_or(MemoryError::Broken)?;
            let one = behaviour.learn_again(at, engine, quarantined)?;
            restored.devices += one.devices;
            restored.dropped += one.dropped;
            rest = after;
        }
        if !rest.is_empty() {
            return Err(MemoryError::Broken);
        }
        Ok(Recalled { behaviour, restored, as_of: Timestamp::from_millis(as_of) })
    }
}

fn put(bytes: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Numbers can always be written; if not, the file would not be read back.
    if let Ok(more) = postcard::to_allocvec(value) {
        bytes.extend_from_slice(&more);
    }
}

fn take<'a, T: serde::Deserialize<'a>>(rest: &mut &'a [u8]) -> Result<T, MemoryError> {
    let (value, after) = postcard::take_from_bytes(rest).map_err(|_| MemoryError::Broken)?;
    *rest = after;
    Ok(value)
}

const MAGIC: &[u8] = b"countersign behaviour\n";
/// There is no earlier one.
const VERSION: u16 = 1;
const TAG_LEN: usize = 32;
/// The longest file: every engine at its longest, and lists of devices in quarantine.
const FILE_BYTES_MAX: u64 = ((ENGINES + 1) * SNAPSHOT_BYTES_MAX) as u64;

#[cfg(test)]
mod tests;
