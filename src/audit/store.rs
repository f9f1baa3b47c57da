//! Where the log's bytes go: the folder on disk, its names, and the lock that keeps a second writer out.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// What the writer asks of a disk. Tests put a failing double here.
pub(super) trait Store: Send {
    /// Writes `bytes` at `offset` of the segment that begins with entry `first`, and syncs them.
    fn append(&mut self, first: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts that segment to `len` bytes, if it exists.
    fn truncate(&mut self, first: u64, len: u64) -> io::Result<()>;
    /// Writes a tile and syncs it.
    fn tile(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Removes a tile that no checkpoint needs any more; failing is no harm.
    fn forget(&mut self, path: &str);
    /// Replaces the checkpoint in one step and syncs it.
    fn checkpoint(&mut self, text: &str) -> io::Result<()>;
    /// Free bytes on the disk.
    fn free(&mut self) -> io::Result<u64>;
}

/// The folder, locked for this process.
pub(super) struct Disk {
    dir: PathBuf,
    segment: Option<(u64, File)>,
    folders: HashSet<PathBuf>,
    _lock: File,
}

impl Disk {
    /// Makes the folder where it is missing, and locks it. `Ok(None)`: another process holds the lock.
    pub(super) fn lock(dir: &Path) -> io::Result<Option<Self>> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        let lock = options().truncate(false).open(dir.join(LOCK))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        Ok(Some(Self { dir: dir.into(), segment: None, folders: HashSet::new(), _lock: lock }))
    }

    fn segment(&mut self, first: u64) -> io::Result<&File> {
        if self.segment.as_ref().is_none_or(|(open, _)| *open != first) {
            let path = segment_path(&self.dir, first);
            let is_new = !path.exists();
            let file = options().truncate(false).open(path)?;
            if is_new {
                sync_folder(&self.dir)?;
            }
            self.segment = Some((first, file));
        }
        match &self.segment {
            Some((_, file)) => Ok(file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Makes the folder of a tile, and syncs every folder that gained one.
    fn folder(&mut self, path: &Path) -> io::Result<()> {
        if self.folders.contains(path) || path == self.dir {
            return Ok(());
        }
        let Some(parent) = path.parent() else { return Ok(()) };
        self.folder(parent)?;
        match fs::DirBuilder::new().mode(0o750).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync_folder(parent)?,
        }
        if self.folders.len() >= FOLDERS_MAX {
            self.folders.clear();
        }
        self.folders.insert(path.into());
        Ok(())
    }
}

impl Store for Disk {
    fn append(&mut self, first: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.segment(first)?;
        file.write_all_at(bytes, offset)?;
        file.sync_data()
    }

    fn truncate(&mut self, first: u64, len: u64) -> io::Result<()> {
        if !segment_path(&self.dir, first).exists() {
            return Ok(());
        }
        let file = self.segment(first)?;
        file.set_len(len)?;
        file.sync_data()
    }

    fn tile(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(path);
        let parent = path.parent().unwrap_or(&self.dir).to_owned();
        self.folder(&parent)?;
        let file = options().truncate(true).open(&path)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        sync_folder(&parent)
    }

    fn forget(&mut self, path: &str) {
        let path = self.dir.join(path);
        let _ = fs::remove_file(&path);
        if let Some(parent) = path.parent().filter(|p| p.extension().is_some_and(|e| e == "p")) {
            // Goes only when it is empty.
            if fs::remove_dir(parent).is_ok() {
                self.folders.remove(parent);
            }
        }
    }

    fn checkpoint(&mut self, text: &str) -> io::Result<()> {
        let draft = self.dir.join(CHECKPOINT_DRAFT);
        let file = options().truncate(true).open(&draft)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_data()?;
        fs::rename(&draft, self.dir.join(CHECKPOINT))?;
        sync_folder(&self.dir)
    }

    fn free(&mut self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The segments of a folder by the number of their first entry, in order. Other files are passed over.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        let digits = name.and_then(|n| n.strip_prefix(SEGMENT_PREFIX)?.strip_suffix(SEGMENT_SUFFIX));
        let digits = digits.filter(|d| d.len() == SEGMENT_DIGITS && d.bytes().all(|b| b.is_ascii_digit()));
        if let Some(first) = digits.and_then(|d| d.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The file of the segment that begins with entry `first`.
pub(super) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{SEGMENT_PREFIX}{first:0SEGMENT_DIGITS$}{SEGMENT_SUFFIX}"))
}

fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o640);
    options
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The signed checkpoint's file name.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// The folder of the tiles.
pub(super) const TILES: &str = "tile";
const CHECKPOINT_DRAFT: &str = "checkpoint.new";
/// Folders remembered as made, so that they are not made and synced again.
const FOLDERS_MAX: usize = 1024;
const LOCK: &str = "lock";
const SEGMENT_DIGITS: usize = 14;
const SEGMENT_PREFIX: &str = "entries-";
const SEGMENT_SUFFIX: &str = ".jsonl";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_finds_the_folder_locked() {
        let dir = tempfile::tempdir().unwrap();
        let first = Disk::lock(dir.path()).unwrap().unwrap();
        assert!(Disk::lock(dir.path()).unwrap().is_none());
        drop(first);
        assert!(Disk::lock(dir.path()).unwrap().is_some());
    }

    #[test]
    fn only_files_named_as_segments_are_segments() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["entries-00000000000007.jsonl", "entries-7.jsonl", "entries-0000000000000x.jsonl", "x"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(segments(dir.path()).unwrap(), [(7, segment_path(dir.path(), 7))]);
    }

    #[test]
    fn a_tile_gets_its_folders_and_gives_back_the_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::lock(dir.path()).unwrap().unwrap();
        for _ in 0..2 {
            disk.tile("tile/0/x001/000.p/3", b"abc").unwrap();
            assert_eq!(fs::read(dir.path().join("tile/0/x001/000.p/3")).unwrap(), b"abc");
            disk.forget("tile/0/x001/000.p/3");
            assert!(!dir.path().join("tile/0/x001/000.p").exists());
        }
    }
}
