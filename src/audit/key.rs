//! The key that signs checkpoints: made once, kept as PKCS#8 PEM (RFC 5958, RFC 7468 §10) that only its owner reads.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

use super::note::{NoteError, Signer};

/// Where the public half is written: the key's path with the ending `pub`.
pub fn public_path(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// Makes a new key and writes it; never over an existing one.
pub(super) fn make(path: &Path, origin: &str) -> Result<Signer, KeyError> {
    let io_error = |error| KeyError::Io { path: path.into(), error };
    let broken = || KeyError::Broken { path: path.into() };
    let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
    let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).map_err(|_| broken())?;
    // The name is checked before anything is written.
    let signer = Signer::new(pair, origin).map_err(KeyError::Name)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io_error)?;
    let pem = format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", wrap(&BASE64.encode(der.as_ref())));
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error)?;
    file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error)?;
    // A log whose key is lost with the power cannot be opened again.
    fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(io_error)?;
    Ok(signer)
}

/// Reads the key.
pub(super) fn load(path: &Path, origin: &str) -> Result<Signer, KeyError> {
    let io_error = |error| KeyError::Io { path: path.into(), error };
    let file = fs::File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KeyError::Missing { path: path.into() },
        _ => io_error(error),
    })?;
    let mode = file.metadata().map_err(io_error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.into(), mode });
    }
    let mut pem = Vec::new();
    file.take(PEM_LEN_MAX).read_to_end(&mut pem).map_err(io_error)?;
    let broken = || KeyError::Broken { path: path.into() };
    let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| broken())?;
    // `maybe_unchecked` also takes the form without the public key, which OpenSSL writes.
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|_| broken())?;
    Signer::new(pair, origin).map_err(KeyError::Name)
}

/// Writes the public half where it is missing; refuses one that is not of this key.
pub(super) fn publish(signer: &Signer, key: &Path) -> Result<(), KeyError> {
    let path = public_path(key);
    let ours = signer.verifier().to_string();
    match fs::read_to_string(&path) {
        Ok(text) if text.trim_end() == ours => Ok(()),
        Ok(_) => Err(KeyError::PublicDiffers { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::write(&path, format!("{ours}\n")).map_err(|error| KeyError::Io { path, error })
        }
        Err(error) => Err(KeyError::Io { path, error }),
    }
}

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No Ed25519 key inside.
    #[error("`{path}` holds no Ed25519 key in PKCS#8 PEM")]
    Broken {
        /// The key's file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("`{path}`: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A log was signed with it, and it is gone.
    #[error(
        "the signing key `{path}` is missing; restore it, or move the log's folder away to begin a new log"
    )]
    Missing {
        /// The key's file.
        path: PathBuf,
    },
    /// The log's name cannot name a key.
    #[error(transparent)]
    Name(NoteError),
    /// Others may read or write it.
    #[error("the signing key `{path}` has mode {mode:03o}, so others may use it; run `chmod 600` on it")]
    Open {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The published half belongs to another key or another name.
    #[error(
        "`{path}` is not the public half of the signing key under this log's name; move the wrong one away"
    )]
    PublicDiffers {
        /// The public half's file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Lines of 64 characters (RFC 7468 §2).
fn wrap(base64: &str) -> String {
    let chars: Vec<char> = base64.chars().collect();
    let lines: Vec<String> = chars.chunks(64).map(|line| line.iter().collect()).collect();
    lines.join("\n")
}

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
const PEM_LEN_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_for_its_owner_only_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        let made = make(&path, "log").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&path, "log").unwrap().verifier(), made.verifier());
        assert!(matches!(make(&path, "log"), Err(KeyError::Io { .. })), "never over an existing key");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        make(&path, "log").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(load(&path, "log"), Err(KeyError::Open { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_missing_or_broken_key_or_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        assert!(matches!(load(&path, "log"), Err(KeyError::Missing { .. })));
        assert!(matches!(make(&path, "a b"), Err(KeyError::Name(_))));
        assert!(!path.exists(), "nothing is written under a bad name");
        make(&path, "log").unwrap();
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        assert!(matches!(load(&path, "log"), Err(KeyError::Broken { .. })));
    }

    #[test]
    fn a_public_half_of_another_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        let signer = make(&path, "log").unwrap();
        publish(&signer, &path).unwrap();
        publish(&signer, &path).unwrap();
        let other = make(&dir.path().join("other.key"), "log").unwrap();
        assert!(matches!(publish(&other, &path), Err(KeyError::PublicDiffers { .. })));
    }
}
