//! Bounded looks below one root folder: symlinks in it are followed as if it were `/`, and never out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::Errno;

use super::Missing;

/// The most of a file that is read.
pub const FILE_LEN_MAX: u64 = 64 * 1024;
/// The most entries of a folder that are read.
pub const ENTRIES_MAX: usize = 4096;

/// A root folder.
pub(super) struct Sysroot {
    dir: OwnedFd,
    /// Whether it is this process's own `/`, where the kernel needs no help to stay inside.
    pub(super) own: bool,
}

impl Sysroot {
    pub(super) fn open(path: &Path) -> Result<Self, SysrootError> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty())
            .map_err(|e| SysrootError { path: path.into(), source: e.into() })?;
        Ok(Self { dir, own: path == Path::new("/") })
    }

    /// The text of a file, cut at [`FILE_LEN_MAX`].
    pub(super) fn text(&self, path: &str) -> Result<String, Missing> {
        // Not blocking: a FIFO in this place must not hang us.
        let file = File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if !file.metadata().map_err(|_| Missing::Absent)?.is_file() {
            return Err(Missing::Absent);
        }
        let mut bytes = Vec::new();
        // Some files of `sys` open for everybody and refuse the reading.
        file.take(FILE_LEN_MAX).read_to_end(&mut bytes).map_err(|e| missing(e.kind()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The names in a folder, sorted; none when it has more than [`ENTRIES_MAX`].
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, Missing> {
        let dir = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir).map_err(|_| Missing::Absent)? {
            let entry = entry.map_err(|_| Missing::Absent)?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => continue,
                Ok(name) => names.push(name.to_owned()),
            }
            if names.len() > ENTRIES_MAX {
                return Err(Missing::Absent);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The last two names of a symlink's target, itself not followed; the first is empty when there is only one.
    pub(super) fn link(&self, path: &str) -> Option<(String, String)> {
        let link = self.at(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        let target = readlinkat(&link, "", Vec::new()).ok()?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        let name = |path: &Path| path.file_name().and_then(OsStr::to_str).map(str::to_owned);
        Some((target.parent().and_then(name).unwrap_or_default(), name(target)?))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.at(path, OFlags::PATH).is_ok()
    }

    fn at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Missing> {
        let flags = flags | OFlags::CLOEXEC;
        let opened = if self.own {
            openat(&self.dir, path, flags, Mode::empty())
        } else {
            let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            openat2(&self.dir, path, flags, Mode::empty(), inside)
        };
        opened.map_err(|e: Errno| missing(e.kind()))
    }
}

/// The root folder cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be looked into: {source}", path.display())]
pub struct SysrootError {
    /// The folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

fn missing(kind: io::ErrorKind) -> Missing {
    if kind == io::ErrorKind::PermissionDenied { Missing::NeedsRoot } else { Missing::Absent }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn symlinks_stay_below_the_root() {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("secret"), "outside").unwrap();
        let root = outer.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("real"), "inside").unwrap();
        symlink("/real", root.join("etc/absolute")).unwrap();
        symlink("../../secret", root.join("etc/up")).unwrap();
        symlink(outer.path().join("secret"), root.join("etc/out")).unwrap();
        let root = Sysroot::open(&root).unwrap();
        assert_eq!(root.text("etc/absolute"), Ok("inside".into()));
        assert_eq!(root.text("etc/up"), Err(Missing::Absent));
        assert_eq!(root.text("etc/out"), Err(Missing::Absent));
        assert_eq!(root.text("../secret"), Err(Missing::Absent));
        assert_eq!(root.link("etc/up"), Some((String::new(), "secret".to_owned())));
    }

    #[test]
    fn a_file_is_cut_and_a_full_folder_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let len = usize::try_from(FILE_LEN_MAX).unwrap();
        fs::write(dir.path().join("long"), vec![b'x'; len + 1]).unwrap();
        let many = dir.path().join("many");
        fs::create_dir(&many).unwrap();
        for i in 0..ENTRIES_MAX {
            fs::write(many.join(i.to_string()), "").unwrap();
        }
        let root = Sysroot::open(dir.path()).unwrap();
        assert_eq!(root.text("long").unwrap().len(), len);
        assert_eq!(root.names("many").unwrap().len(), ENTRIES_MAX);
        fs::write(many.join("more"), "").unwrap();
        assert_eq!(root.names("many"), Err(Missing::Absent));
    }

    #[test]
    fn what_is_no_file_is_absent_and_nothing_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap().success()
        );
        let root = Sysroot::open(dir.path()).unwrap();
        for path in ["fifo", ".", "none"] {
            assert_eq!(root.text(path), Err(Missing::Absent), "{path}");
        }
        assert!(Sysroot::open(&dir.path().join("none")).is_err());
    }
}
