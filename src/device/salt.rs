//! The secret under which one machine presents its values: made once, kept beside its private key.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// 32 random bytes that no verifier knows.
#[derive(Clone)]
pub struct Salt([u8; 32]);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

impl Salt {
    /// From bytes that are random.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A secret of this machine for one purpose, which tells nothing of the salt or of those for others.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut secret = [0; 32];
        for (byte, made) in secret.iter_mut().zip(hmac::sign(&key, purpose.as_bytes()).as_ref()) {
            *byte = *made;
        }
        secret
    }

    /// Reads the file, `certs/device.salt` by default, or makes it with mode 0600.
    ///
    /// # Errors
    /// [`SaltError`] when it cannot be read or made, others may read it, or it is not 32 bytes long.
    pub fn load_or_make(path: &Path) -> Result<Self, SaltError> {
        match Self::load(path) {
            Err(SaltError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                make(path).map_err(|source| SaltError::Io { path: path.into(), source })?;
                Self::load(path)
            }
            loaded => loaded,
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`SaltError`] as for [`Salt::load_or_make`], and when there is none.
    pub fn load(path: &Path) -> Result<Self, SaltError> {
        let at = |source| SaltError::Io { path: path.into(), source };
        let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path).map_err(at)?;
        let meta = file.metadata().map_err(at)?;
        if meta.is_file() && meta.mode() & 0o077 != 0 {
            return Err(SaltError::Exposed { path: path.into(), mode: meta.mode() & 0o777 });
        }
        let mut bytes = Vec::new();
        if meta.is_file() {
            file.take(33).read_to_end(&mut bytes).map_err(at)?;
        }
        bytes.try_into().map(Self).map_err(|_| SaltError::Broken { path: path.into() })
    }
}

/// Makes the file whole or not at all; one that another process made meanwhile stays.
fn make(path: &Path) -> io::Result<()> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    let mut neighbour = path.as_os_str().to_owned();
    neighbour.push(format!(".{}.tmp", std::process::id()));
    let neighbour = PathBuf::from(neighbour);
    // What an earlier, interrupted run with this process id left behind.
    match fs::remove_file(&neighbour) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let made = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&neighbour)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        match fs::hard_link(&neighbour, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    })();
    let _ = fs::remove_file(&neighbour);
    made
}

/// Why there is no salt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaltError {
    /// Not 32 bytes, or no file.
    #[error("`{}` is no salt of 32 bytes; without it this device must be enrolled again", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// Others may use it.
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
}

#[allow(clippy::cast_possible_wrap, reason = "O_NONBLOCK is a small positive number")]
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_salt_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.salt");
        let made = Salt::load_or_make(&path).unwrap();
        assert_eq!(Salt::load_or_make(&path).unwrap().bytes(), made.bytes());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let other = Salt::load_or_make(&dir.path().join("other.salt")).unwrap();
        assert_ne!(other.bytes(), made.bytes());
        assert_eq!(format!("{made:?}"), "Salt(..)");
        make(&path).unwrap();
        assert_eq!(Salt::load(&path).unwrap().bytes(), made.bytes(), "one that is there stays");
    }

    #[test]
    fn each_purpose_and_each_machine_has_a_secret_of_its_own() {
        let of = |salt: u8, purpose: &str| Salt::new([salt; 32]).derive(purpose);
        assert_eq!(of(1, "a"), of(1, "a"));
        assert!(of(1, "a") != of(1, "b") && of(1, "a") != of(2, "a") && of(1, "a") != [1; 32]);
    }

    #[test]
    fn a_salt_that_others_may_use_or_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.salt");
        Salt::load_or_make(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Salt::load_or_make(&path), Err(SaltError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for len in [0, 31, 33, 1000] {
            fs::write(&path, vec![7; len]).unwrap();
            assert!(matches!(Salt::load_or_make(&path), Err(SaltError::Broken { .. })), "{len}");
        }
        assert!(matches!(
            Salt::load_or_make(dir.path()),
            Err(SaltError::Broken { .. } | SaltError::Exposed { .. })
        ));
        assert!(matches!(Salt::load_or_make(&dir.path().join("no/where")), Err(SaltError::Io { .. })));
    }
}
