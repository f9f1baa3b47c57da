//! Puts an issued identity into a sidecar's folder.

use std::path::Path;

use super::authority::Issued;
use super::file::{Access, FileError, make_dir, read, read_secret, write};
use super::load::{PEM_FILE_MAX, parse_certificates};
use super::svid::svid;
use crate::model::{SpiffeId, Timestamp};

/// Writes `leaf.key`, `leaf.pem`, `bundle.pem` and `crl.pem` into `dir`, each whole; makes `dir` if need be.
///
/// A sidecar that reads between two of the files finds that they do not fit and keeps what it runs with.
///
/// # Errors
/// [`FileError`] with the path that could not be written.
pub fn install(dir: &Path, issued: &Issued) -> Result<(), FileError> {
    make_dir(dir)?;
    write(&dir.join(KEY), issued.key_pem.as_bytes(), Access::Owner)?;
    write(&dir.join(LEAF), issued.leaf_pem.as_bytes(), Access::Everybody)?;
    write(&dir.join("bundle.pem"), issued.bundle_pem.as_bytes(), Access::Everybody)?;
    write(&dir.join("crl.pem"), issued.crl_pem.as_bytes(), Access::Everybody)
}

/// Whose identity lies in a folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Installed {
    /// Neither leaf nor key.
    Nothing,
    /// That of this ID.
    Id(SpiffeId),
    /// There is a leaf or a key, but nobody can tell whose.
    Unknown,
}

/// Looks whose identity lies in `dir`.
///
/// # Errors
/// [`FileError`] when the leaf is there and cannot be read.
pub fn installed_id(dir: &Path) -> Result<Installed, FileError> {
    let leaf = dir.join(LEAF);
    if leaf.symlink_metadata().is_err() {
        let key = dir.join(KEY).symlink_metadata().is_ok();
        return Ok(if key { Installed::Unknown } else { Installed::Nothing });
    }
    let chain = parse_certificates(&read(&leaf, PEM_FILE_MAX)?).unwrap_or_default();
    Ok(chain.first().and_then(|c| svid(c).ok()).map_or(Installed::Unknown, |s| Installed::Id(s.id)))
}

/// When the leaf in `dir` ends; `None` when there is none that can be read.
///
/// # Errors
/// [`FileError`] when the leaf is there and cannot be read.
pub fn leaf_not_after(dir: &Path) -> Result<Option<Timestamp>, FileError> {
    let leaf = dir.join(LEAF);
    if leaf.symlink_metadata().is_err() {
        return Ok(None);
    }
    let chain = parse_certificates(&read(&leaf, PEM_FILE_MAX)?).unwrap_or_default();
    Ok(chain.first().and_then(|c| svid(c).ok()).map(|s| s.not_after))
}

/// Writes a file that is no secret, whole or not at all; makes its folder if need be.
///
/// # Errors
/// [`FileError`] with its path; the old file is then untouched.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        make_dir(dir)?;
    }
    write(path, bytes, Access::Everybody)
}

/// Reads a regular file of at most `len_max` bytes.
///
/// # Errors
/// [`FileError`] with its path.
pub fn read_file(path: &Path, len_max: u64) -> Result<Vec<u8>, FileError> {
    read(path, len_max)
}

/// Writes a secret for its owner alone (mode 0600), whole or not at all; makes its folder if need be.
///
/// # Errors
/// [`FileError`] with its path; the old file is then untouched.
pub fn write_secret_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        make_dir(dir)?;
    }
    write(path, bytes, Access::Owner)
}

/// Reads a regular file of at most `len_max` bytes that is for its owner alone.
///
/// # Errors
/// [`FileError`] with its path.
pub fn read_secret_file(path: &Path, len_max: u64) -> Result<Vec<u8>, FileError> {
    read_secret(path, len_max)
}

const LEAF: &str = "leaf.pem";
const KEY: &str = "leaf.key";
