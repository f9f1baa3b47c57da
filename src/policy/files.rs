//! Reads the policy folder; the only file of this room that touches a disk.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::bundle::{BEHAVIOUR_FILE, Bundle, GROUPS_FILE, RULES_SUFFIX, Source};
use super::cases::Cases;
use super::problem::{LoadError, Problem, Problems, Text};
use super::settings::Settings;
use crate::model::Timestamp;

/// Longest file in bytes.
pub const FILE_LEN_MAX: u64 = 1024 * 1024;
/// Most files of one folder.
pub const FILES_MAX: usize = 256;

impl Bundle {
    /// Reads `*.cedar`, `groups.toml` and `behaviour.toml` of the folder; names that begin with a dot are an editor's affair and left
    /// alone. A folder that changes while it is read is read again.
    ///
    /// # Errors
    /// [`LoadError`] with every mistake of every file.
    pub fn load(settings: &Settings, now: Timestamp) -> Result<Self, LoadError> {
        let dir = &settings.dir;
        let read = || {
            let sources = read_sources(dir, is_policy);
            sources
                .and_then(|sources| Self::from_sources(&sources, settings.cache_max, now))
                .and_then(|bundle| match settings.behaviour_needed && bundle.behaviour().is_none() {
                    true => Err(LoadError::whole(BEHAVIOUR_FILE, BEHAVIOUR_MISSING)),
                    false => Ok(bundle),
                })
                .map_err(|e| e.within(dir))
        };
        let restless =
            || LoadError::whole(&dir.display().to_string(), "the files keep changing while they are read");
        at_rest(|| fingerprint(dir), read).unwrap_or_else(|| Err(restless()))
    }
}

/// What `read` got between two equal looks, tried [`READS_MAX`] times: half a change could lack a forbid.
fn at_rest<T>(mut look: impl FnMut() -> Stamp, mut read: impl FnMut() -> T) -> Option<T> {
    (0..READS_MAX).find_map(|_| {
        let before = look();
        let got = read();
        (before == look()).then_some(got)
    })
}

/// Reads the `*.toml` case tables of a folder.
///
/// # Errors
/// [`LoadError`] with the first mistake of every file.
pub fn load_cases(dir: &Path) -> Result<Cases, LoadError> {
    let sources = read_sources(dir, |name| name.ends_with(".toml"));
    sources.and_then(|sources| Cases::from_sources(&sources)).map_err(|e| e.within(dir))
}

/// Files of the folder that are not read but whose names look as if they should be, `10-orders.ceder` say.
///
/// # Errors
/// [`LoadError`] when the folder cannot be read.
pub fn misnamed(dir: &Path) -> Result<Vec<Problem>, LoadError> {
    let looks_like = |name: &str| {
        let ending = name.rsplit('.').next().unwrap_or_default();
        let alike = strsim::jaro_winkler(ending, "cedar").max(strsim::jaro_winkler(name, GROUPS_FILE));
        let alike = alike.max(strsim::jaro_winkler(name, BEHAVIOUR_FILE));
        !is_policy(name)
            && (alike > ALIKE_MIN || name.contains(RULES_SUFFIX))
            && !name.ends_with(".cedarschema")
    };
    let found = list(dir, looks_like).map_err(|e| LoadError::whole("", e.to_string()).within(dir))?;
    let told = |(name, _): (String, PathBuf)| {
        Problem::whole(
            &name,
            "is not read: rules are in `*.cedar`, groups in `groups.toml`, actions in `behaviour.toml`",
        )
    };
    Ok(found.into_iter().map(told).collect())
}

/// What a folder looked like, cheap to take and to compare: names, sizes, times and inodes of its policy files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stamp {
    /// By name.
    Files(Vec<FileStamp>),
    /// The folder or a file could not be looked at.
    Unreadable(io::ErrorKind),
}

/// One file of a [`Stamp`].
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FileStamp {
    name: String,
    len: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Looks at the folder without reading a file. Two equal stamps mean, to the resolution of the file system's clock,
/// an unchanged folder.
pub fn fingerprint(dir: &Path) -> Stamp {
    match stamp(dir) {
        Ok(files) => Stamp::Files(files),
        Err(e) => Stamp::Unreadable(e.kind()),
    }
}

fn is_policy(name: &str) -> bool {
    name.ends_with(RULES_SUFFIX) || name == GROUPS_FILE || name == BEHAVIOUR_FILE
}

fn stamp(dir: &Path) -> io::Result<Vec<FileStamp>> {
    let mut files = Vec::new();
    for (name, path) in list(dir, is_policy)? {
        let meta = fs::metadata(path)?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        let changed = (meta.ctime(), meta.ctime_nsec());
        files.push(FileStamp { name, len: meta.len(), inode: meta.ino(), modified, changed });
    }
    Ok(files)
}

/// Names and paths that `wanted` accepts, sorted; one more than [`FILES_MAX`] at most.
fn list(dir: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && wanted(&name) {
            found.push((name, entry.path()));
            if found.len() > FILES_MAX {
                break;
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read_sources(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Source>, LoadError> {
    let found =
        list(dir, wanted).map_err(|e| LoadError::whole("", format!("cannot read the folder: {e}")))?;
    if found.len() > FILES_MAX {
        return Err(LoadError::whole("", format!("more than {FILES_MAX} files")));
    }
    let mut problems = Problems::default();
    let mut sources = Vec::new();
    for (name, path) in found {
        match read_file(&name, &path) {
            Ok(text) => sources.push(Source { name: name.into(), text: text.into() }),
            Err(problem) => problems.push(problem),
        }
    }
    problems.or(sources)
}

fn read_file(name: &str, path: &Path) -> Result<String, Problem> {
    let cannot = |e: io::Error| Problem::whole(name, format!("cannot read it: {e}"));
    // Asked before it is opened: opening a named pipe would wait for a writer.
    if !fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(Problem::whole(name, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)).map_err(cannot)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(Problem::whole(name, format!("is longer than {FILE_LEN_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(e.as_bytes());
        Text::new(name, &text).problem(at, "is not UTF-8 from here on")
    })
}

const BEHAVIOUR_MISSING: &str =
    "is missing, and `[behaviour] mode` is `enforce`: it says what is done, see `docs/analyser.md`";
/// Jaro-Winkler similarity from which on a name is taken for a slip of the pen.
const ALIKE_MIN: f64 = 0.85;
/// How often a folder that changes under our eyes is read before we give up.
const READS_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads while the folder looks like `looks`, one after the other; which reading was taken.
    fn play(looks: &[u64]) -> Option<usize> {
        let stamp = |inode: u64| {
            Stamp::Files(vec![FileStamp {
                name: "a".into(),
                len: 1,
                inode,
                modified: (0, 0),
                changed: (0, 0),
            }])
        };
        let (mut looked, mut reads) = (looks.iter(), 0);
        at_rest(
            || stamp(*looked.next().unwrap()),
            || {
                reads += 1;
                reads
            },
        )
    }

    #[test]
    fn a_folder_that_changes_while_it_is_read_is_read_again_and_at_last_refused() {
        assert_eq!(play(&[1, 1]), Some(1));
        assert_eq!(play(&[1, 2, 2, 2]), Some(2));
        assert_eq!(play(&[1, 2, 3, 4, 5, 5]), Some(3));
        assert_eq!(play(&[1, 2, 3, 4, 5, 6]), None);
    }
}
