//! Everything that can be wrong with the identity's files.

use std::fmt;
use std::path::PathBuf;

use super::file::FileError;
use super::svid::SvidError;
use super::trust::TrustError;
use crate::model::{SpiffeId, Timestamp, TrustDomain};

/// What is wrong with a file's content, to be read after the file's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub(crate) &'static str);

/// Every problem of the identity's files.
#[derive(Debug)]
pub struct LoadError {
    /// At least one, in the order leaf, key, bundle, how they fit, CRL.
    pub problems: Vec<Problem>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// One thing that is wrong with one file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Every root is past its notAfter.
    #[error("`{}` has no root that is still valid at {now}", path.display())]
    BundleExpired {
        /// The bundle.
        path: PathBuf,
        /// The clock.
        now: Timestamp,
    },
    /// The leaf does not chain to the bundle.
    #[error("`{}` does not chain to `{}`: {error}", path.display(), bundle.display())]
    Chain {
        /// The leaf.
        path: PathBuf,
        /// The bundle.
        bundle: PathBuf,
        /// Why.
        error: TrustError,
    },
    /// The CRL file is broken.
    #[error("`{}` {why}", path.display())]
    Crl {
        /// The file.
        path: PathBuf,
        /// What is wrong, to be read after the file's name.
        why: Unusable,
    },
    /// A list is past its nextUpdate.
    #[error("`{}` expired at {next_update}, the clock says {now}: publish a fresh one with `countersign ca crl`", path.display())]
    CrlExpired {
        /// The file.
        path: PathBuf,
        /// The earliest nextUpdate.
        next_update: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// The leaf is past its notAfter.
    #[error("`{}` expired at {not_after}, the clock says {now}: issue a new one with `countersign device issue`", path.display())]
    Expired {
        /// The leaf.
        path: PathBuf,
        /// Its notAfter.
        not_after: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// Could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The leaf is of another trust domain.
    #[error("`{}` is `{id}`, expected trust domain `{expected}`", path.display())]
    Foreign {
        /// The leaf.
        path: PathBuf,
        /// Who it is.
        id: SpiffeId,
        /// The trust domain of the settings.
        expected: TrustDomain,
    },
    /// The leaf on disk is of another device than the one that runs.
    #[error("`{}` is `{id}`, but this sidecar runs as `{running}`: restart it to change its identity", path.display())]
    IdChanged {
        /// The leaf.
        path: PathBuf,
        /// Who it is.
        id: SpiffeId,
        /// Who runs.
        running: SpiffeId,
    },
    /// The key file holds no usable key.
    #[error("`{}` {why}", path.display())]
    Key {
        /// The key.
        path: PathBuf,
        /// What is wrong, to be read after the file's name.
        why: Unusable,
    },
    /// The key is not the leaf's.
    #[error("`{}` is not the private key of `{}`", path.display(), leaf.display())]
    KeyMismatch {
        /// The key.
        path: PathBuf,
        /// The leaf.
        leaf: PathBuf,
    },
    /// A certificate of the bundle is no CA.
    #[error("`{}` holds `{subject}`, which is no CA", path.display())]
    NotCa {
        /// The bundle.
        path: PathBuf,
        /// Its subject.
        subject: String,
    },
    /// The leaf is before its notBefore.
    #[error("`{}` is valid from {not_before}, the clock says {now}", path.display())]
    NotYetValid {
        /// The leaf.
        path: PathBuf,
        /// Its notBefore.
        not_before: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// The CRL file revokes this device, or says nothing of its issuer.
    #[error("`{}` is refused by `{}`: {error}", path.display(), crl.display())]
    OwnRefused {
        /// The leaf.
        path: PathBuf,
        /// The CRL file.
        crl: PathBuf,
        /// Why.
        error: TrustError,
    },
    /// Not the PEM that was expected.
    #[error("`{}` {why}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong, to be read after the file's name.
        why: Unusable,
    },
    /// The leaf is no X.509-SVID.
    #[error("`{}` is no SPIFFE X.509-SVID: {error}", path.display())]
    Svid {
        /// The leaf.
        path: PathBuf,
        /// The broken rule.
        error: SvidError,
    },
    /// No TLS configuration can be made.
    #[error("no TLS 1.3 configuration can be made: {0}")]
    Tls(rustls::Error),
    /// More certificates than a file may hold.
    #[error("`{}` holds more than {max} certificates", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// The bound.
        max: usize,
    },
}
