//! Files of bounded size: read whole, written whole or not at all.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Reads a regular file of at most `len_max` bytes.
///
/// # Errors
/// [`FileError`] with its path.
pub(crate) fn read(path: &Path, len_max: u64) -> Result<Vec<u8>, FileError> {
    read_open(path, len_max).map(|(bytes, _)| bytes)
}

/// [`read`], and refuses a file that group or others may use.
///
/// # Errors
/// [`FileError`] with its path.
pub(crate) fn read_secret(path: &Path, len_max: u64) -> Result<Vec<u8>, FileError> {
    let (bytes, mode) = read_open(path, len_max)?;
    if mode & OTHERS != 0 {
        return Err(FileError::Exposed { path: path.into(), mode: mode & 0o777 });
    }
    Ok(bytes)
}

fn read_open(path: &Path, len_max: u64) -> Result<(Vec<u8>, u32), FileError> {
    let at = |source| FileError::Io { path: path.into(), source };
    // Not blocking: a FIFO in this place must not hang us before we see that it is none.
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path).map_err(at)?;
    let meta = file.metadata().map_err(at)?;
    if !meta.is_file() {
        return Err(FileError::NotRegular { path: path.into() });
    }
    let mut bytes = Vec::new();
    let read = file.take(len_max.saturating_add(1)).read_to_end(&mut bytes).map_err(at)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > len_max {
        return Err(FileError::TooLarge { path: path.into(), len_max });
    }
    Ok((bytes, meta.mode()))
}

/// Writes a file at once: to a neighbour, to the disk, then over the old one.
///
/// # Errors
/// [`FileError`] with its path; the old file is then untouched.
pub(crate) fn write(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let at = |source| FileError::Io { path: path.into(), source };
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| FileError::NotRegular { path: path.into() })?;
    let mut neighbour = std::ffi::OsString::from(".");
    neighbour.push(name);
    neighbour.push(format!(".{}.tmp", std::process::id()));
    let neighbour = dir.join(neighbour);
    // What an earlier, interrupted run with this process id left behind.
    match std::fs::remove_file(&neighbour) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
        _ => {}
    }
    let mode = match access {
        Access::Owner => 0o600,
        Access::Everybody => 0o644,
    };
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&neighbour)?;
        // The umask may have taken bits away; it never gives a secret any.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&neighbour, path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&neighbour);
    }
    written.map_err(at)
}

/// Makes a folder for its owner alone, with its parents; one that is there is left as it is.
///
/// # Errors
/// [`FileError`] with its path.
pub(crate) fn make_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FileError::Io { path: path.into(), source })
}

/// Writes several files that belong together: all of them, or, after a crash, all of them once [`redo`] has run.
///
/// They stand whole in `journal` before the first is touched.
///
/// # Errors
/// [`FileError`] with the path of what could not be written; `redo` may still finish it.
pub(crate) fn write_together(journal: &Path, files: &[Planned]) -> Result<(), FileError> {
    let text = serde_json::to_vec(files).map_err(|_| FileError::Journal { path: journal.into() })?;
    write(journal, &text, Access::Owner)?;
    redo(journal).map(drop)
}

/// Writes what `journal` holds, if it is there. Says whether it was.
///
/// # Errors
/// [`FileError`] when the journal is damaged or a file of it cannot be written.
pub(crate) fn redo(journal: &Path) -> Result<bool, FileError> {
    let at = |source| FileError::Io { path: journal.into(), source };
    let text = match read_secret(journal, JOURNAL_LEN_MAX) {
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
        read => read?,
    };
    let files: Vec<Planned> =
        serde_json::from_slice(&text).map_err(|_| FileError::Journal { path: journal.into() })?;
    for file in &files {
        match &file.text {
            Some(text) => {
                let access = if file.secret { Access::Owner } else { Access::Everybody };
                write(&file.path, text.as_bytes(), access)?;
            }
            None => match std::fs::remove_file(&file.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(FileError::Io { path: file.path.clone(), source: error });
                }
                _ => {}
            },
        }
    }
    std::fs::remove_file(journal).map_err(at)?;
    Ok(true)
}

/// One of several files that are written together.
#[derive(serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Planned {
    pub(crate) path: PathBuf,
    /// `None`: it is to go.
    pub(crate) text: Option<String>,
    pub(crate) secret: bool,
}

impl Planned {
    pub(crate) fn file(path: PathBuf, text: impl Into<String>, access: Access) -> Self {
        Self { path, text: Some(text.into()), secret: access == Access::Owner }
    }

    pub(crate) fn gone(path: PathBuf) -> Self {
        Self { path, text: None, secret: false }
    }
}

/// Longest journal in bytes: a revocation list at its longest, and everything beside it.
const JOURNAL_LEN_MAX: u64 = 24 * 1024 * 1024;

/// Who may read a file that is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Its owner: mode 0600.
    Owner,
    /// Everybody: mode 0644.
    Everybody,
}

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A secret that others may use.
    #[error("`{}` has mode {mode:04o}, expected 0600 (`chmod 600` it)", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system said no.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A journal of files that are written together.
    #[error("`{}` is damaged: remove it, then see which of its files are old", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
    },
    /// A folder, a FIFO or a device.
    #[error("`{}` is no regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Longer than its kind may be.
    #[error("`{}` is larger than {len_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound in bytes.
        len_max: u64,
    },
}

const OTHERS: u32 = 0o077;
#[allow(clippy::cast_possible_wrap, reason = "O_NONBLOCK is a small positive number")]
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_longest_length_is_read_and_one_byte_more_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), [7; 10]);
        assert!(matches!(read(&path, 9), Err(FileError::TooLarge { len_max: 9, .. })));
    }

    #[test]
    fn files_that_belong_together_are_all_written_by_whoever_comes_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        let journal = dir.path().join("journal");
        std::fs::write(&c, "to go").unwrap();
        let files = [
            Planned::file(a.clone(), "1", Access::Owner),
            Planned::file(b.clone(), "2", Access::Everybody),
            Planned::gone(c.clone()),
        ];
        // The crash: the journal stands, the first file is written, the others are not.
        write(&journal, &serde_json::to_vec(&files).unwrap(), Access::Owner).unwrap();
        write(&a, b"1", Access::Owner).unwrap();
        assert!(redo(&journal).unwrap());
        assert_eq!((std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap()), (b"1".to_vec(), b"2".to_vec()));
        assert_eq!(std::fs::metadata(&a).unwrap().mode() & 0o777, 0o600);
        assert!(!c.exists() && !journal.exists());
        assert!(!redo(&journal).unwrap());
        write(&journal, b"[{", Access::Owner).unwrap();
        assert!(matches!(redo(&journal), Err(FileError::Journal { .. })));
    }

    #[test]
    fn a_secret_that_others_may_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write(&path, b"secret", Access::Owner).unwrap();
        assert_eq!(read_secret(&path, 100).unwrap(), b"secret");
        for mode in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_secret(&path, 100), Err(FileError::Exposed { .. })), "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path(), 100), Err(FileError::NotRegular { .. })));
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert!(matches!(read(&fifo, 100), Err(FileError::NotRegular { .. })));
        assert!(matches!(read(&dir.path().join("none"), 100), Err(FileError::Io { .. })));
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_no_neighbour() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"a longer text", Access::Everybody).unwrap();
        write(&path, b"short", Access::Owner).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
