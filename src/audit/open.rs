//! Opening a log: lock it, verify all of it, mend what a crash left, and only then write.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Settings;
use super::chain::{Tree, leaf_hash, partial_paths};
use super::entry::{Entry, Kind};
use super::key::{self, KeyError};
use super::log::Log;
use super::note::Signer;
use super::segment::Lines;
use super::store::{CHECKPOINT, Disk, Store, TILES, segments};
use super::verify::{Findings, Gap, Tampering, VerifyError, check};
use super::writer::Writer;
use crate::model::Timestamp;

/// What opening a log found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Opened {
    /// Whether the log was begun just now.
    pub fresh: bool,
    /// Entries under the checkpoint.
    pub size: u64,
    /// The signed checkpoint, to be kept elsewhere.
    pub checkpoint: String,
    /// What a crash had left and how it was mended; the log has an entry that says the same.
    pub repaired: Option<String>,
}

impl Log {
    /// Opens the log in `settings.dir` under the name `origin`, or begins one where there is none.
    ///
    /// Every entry is hashed and held against the signed checkpoint. An incomplete last line is cut, whole lines
    /// after the checkpoint are kept (they were synced before a crash), missing tiles are rebuilt, and an entry
    /// says so. Anything missing or changed below the checkpoint refuses the start. Blocks the calling thread.
    ///
    /// # Errors
    /// [`OpenError`]: the log must not be written, so nothing may run.
    pub fn open(settings: &Settings, origin: &str, now: Timestamp) -> Result<(Self, Opened), OpenError> {
        let disk = lock(&settings.dir)?;
        Self::open_on(settings, origin, now, Box::new(disk), RETRY)
    }

    pub(super) fn open_on(
        settings: &Settings,
        origin: &str,
        now: Timestamp,
        mut store: Box<dyn Store>,
        retry: Duration,
    ) -> Result<(Self, Opened), OpenError> {
        let dir = &settings.dir;
        let fresh = is_empty(dir).map_err(OpenError::io(dir))?;
        let (signer, found) = if fresh {
            (begin(settings, origin, store.as_mut())?, None)
        } else {
            let signer = key::load(&settings.key, origin)?;
            let found = check(dir, signer.verifier(), None)?;
            (signer, Some(found))
        };
        key::publish(&signer, &settings.key)?;
        let repaired = match &found {
            Some(found) => mend(dir, found, store.as_mut())?,
            None => None,
        };
        let mut writer = resume(settings, signer, store, found);
        let failed = |why| OpenError::Write { dir: dir.clone(), why };
        if let Some(repaired) = &repaired {
            let entry = Entry { detail: Some(repaired.as_str().into()), ..Entry::new(now, Kind::Repair) };
            writer.format(&[entry.cut()]);
        }
        // Also without repairs: a log that cannot be written now must not let the sidecar start.
        let sealed = writer.commit().map_err(failed)?;
        let (size, checkpoint) = (sealed.size, &sealed.checkpoint);
        tracing::info!(size, %checkpoint, repaired = repaired.as_deref(), "audit log opened");
        let opened = Opened { fresh, size, checkpoint: checkpoint.clone(), repaired };
        let log = Self::start(writer, settings, sealed, now, retry).map_err(OpenError::io(dir))?;
        Ok((log, opened))
    }
}

/// Locks the folder.
pub(super) fn lock(dir: &Path) -> Result<Disk, OpenError> {
    Disk::lock(dir).map_err(OpenError::io(dir))?.ok_or_else(|| OpenError::Locked { dir: dir.into() })
}

/// Whether there is no log yet.
fn is_empty(dir: &Path) -> io::Result<bool> {
    Ok(segments(dir)?.is_empty() && !dir.join(CHECKPOINT).try_exists()? && !dir.join(TILES).try_exists()?)
}

/// Makes key and first checkpoint of a new log.
fn begin(settings: &Settings, origin: &str, store: &mut dyn Store) -> Result<Signer, OpenError> {
    // With the key still there, an empty folder means that a log was taken away, not that there was none.
    if settings.key.try_exists().map_err(OpenError::io(&settings.key))? {
        return Err(OpenError::Gone { dir: settings.dir.clone(), key: settings.key.clone() });
    }
    let signer = key::make(&settings.key, origin)?;
    let checkpoint = signer.sign(0, Tree::default().root());
    if let Err(error) = store.checkpoint(&checkpoint) {
        // Else the next start would take the new key for that of a log taken away.
        let _ = fs::remove_file(&settings.key);
        return Err(OpenError::Io { path: settings.dir.join(CHECKPOINT), error });
    }
    Ok(signer)
}

/// Refuses what was tampered with; cuts and rebuilds what a crash explains. Gives the words for the entry.
fn mend(dir: &Path, found: &Findings, store: &mut dyn Store) -> Result<Option<String>, OpenError> {
    if let Err(what) = &found.integrity {
        return Err(OpenError::Tampered { dir: dir.into(), what: what.clone() });
    }
    if let Err(what) = &found.completeness {
        return Err(OpenError::Incomplete { dir: dir.into(), what: what.clone() });
    }
    let mut done = Vec::new();
    if found.newer > 0 {
        done.push(format!("kept {} whole entries after the last checkpoint", found.newer));
    }
    if let (Some(cut), Some((first, len))) = (&found.cut, found.last) {
        store.truncate(first, len).map_err(OpenError::io(&cut.file))?;
        let name = cut.file.file_name().unwrap_or_default().display();
        done.push(format!("cut {} bytes that were no entry from `{name}` line {} on", cut.bytes, cut.line));
    }
    if found.tiles_missing > 0 {
        rebuild(dir, found.checkpoint.size, store)?;
        done.push(format!("rebuilt {} missing tiles", found.tiles_missing));
    }
    Ok((!done.is_empty()).then(|| done.join("; ")))
}

/// Writes the tiles that are missing. The entries under them have just been found to give the signed root.
fn rebuild(dir: &Path, size: u64, store: &mut dyn Store) -> Result<(), OpenError> {
    let mut tree = Tree::default();
    let mut write = |tile: super::chain::Tile| {
        let path = dir.join(tile.path());
        if path.try_exists().map_err(OpenError::io(&path))? {
            return Ok(());
        }
        store.tile(&tile.path(), &tile.bytes()).map_err(OpenError::io(&path))
    };
    for (_, path) in segments(dir).map_err(OpenError::io(dir))? {
        let file = File::open(&path).map_err(OpenError::io(&path))?;
        let mut lines = Lines::new(BufReader::new(file));
        while tree.size() < size && lines.advance().map_err(OpenError::io(&path))?.is_some() {
            tree.push(leaf_hash(lines.line())).into_iter().try_for_each(&mut write)?;
        }
    }
    tree.partials().into_iter().try_for_each(&mut write)
}

fn resume(settings: &Settings, signer: Signer, store: Box<dyn Store>, found: Option<Findings>) -> Writer {
    // The partial tiles of the checkpoint, not those of the entries kept after it, are on disk.
    let partials = found.as_ref().map(|f| partial_paths(f.checkpoint.size)).unwrap_or_default();
    let (tree, tiles, last) = found.map(|f| (f.tree, f.tiles, f.last)).unwrap_or_default();
    Writer {
        store,
        signer,
        segment: last.unwrap_or((tree.size(), 0)),
        tree,
        tiles,
        segment_bytes_max: settings.segment_bytes_max,
        disk_reserve: settings.disk_reserve,
        partials,
        lines: Vec::new(),
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The key is there, the log is not.
    #[error(
        "`{}` holds no log, but its signing key `{}` exists: the log was taken away; \
         restore it, or move the key away to begin a new log", dir.display(), key.display()
    )]
    Gone {
        /// The log's folder.
        dir: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// Entries that the checkpoint covers are missing.
    #[error("the audit log in `{}` is not complete: {what}; {NEXT_STEP}", dir.display())]
    Incomplete {
        /// The log's folder.
        dir: PathBuf,
        /// What is missing.
        what: Gap,
    },
    /// A file cannot be read or written.
    #[error("`{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another process writes this log.
    #[error("the audit log in `{}` is being written by another process; stop it, or give this one its own `dir`", dir.display())]
    Locked {
        /// The log's folder.
        dir: PathBuf,
    },
    /// What the checkpoint covers was changed.
    #[error("the audit log in `{}` was tampered with: {what}; {NEXT_STEP}", dir.display())]
    Tampered {
        /// The log's folder.
        dir: PathBuf,
        /// What was changed.
        what: Tampering,
    },
    /// It cannot be verified.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// It cannot be written.
    #[error("the audit log in `{}` cannot be written: {why}", dir.display())]
    Write {
        /// The log's folder.
        dir: PathBuf,
        /// Why.
        why: String,
    },
}

impl OpenError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}

const NEXT_STEP: &str = "keep a copy for the investigation, then restore the log, \
     or move it and its signing key away to begin a new one";
/// How long a failing disk is left alone.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
