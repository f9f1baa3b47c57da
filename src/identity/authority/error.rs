//! Why the built-in CA could not do something.

use std::path::PathBuf;
use std::time::Duration;

use super::super::file::FileError;
use crate::model::{SpiffeId, Timestamp, TrustDomain};

/// Why the built-in CA could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// No address for a token, or too many.
    #[error("{count} addresses of the authority, expected 1..={}", super::Token::ADDRESSES_MAX)]
    Addresses {
        /// How many.
        count: usize,
    },
    /// Several invites of one name.
    #[error("several invites are meant by `{what}`, name one by its id: {}", ids.join(", "))]
    Ambiguous {
        /// The text, cut to 80 characters.
        what: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// `init` would overwrite a CA.
    #[error("`{}` exists: a CA is never overwritten, use another `--dir`", path.display())]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// A file of the CA is damaged.
    #[error("`{}` is damaged", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// Another command works in the folder.
    #[error("another command is using `{}`", dir.display())]
    Busy {
        /// The CA's folder.
        dir: PathBuf,
    },
    /// A CA certificate is not valid now.
    #[error("`{}` is valid from {not_before} to {not_after}, the clock says {now}", path.display())]
    Expired {
        /// The certificate.
        path: PathBuf,
        /// Its notBefore.
        not_before: Timestamp,
        /// Its notAfter.
        not_after: Timestamp,
        /// The clock.
        now: Timestamp,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An authority of another trust domain than the CA.
    #[error("`{id}` is not of the CA's trust domain `{trust_domain}`")]
    Foreign {
        /// Who was named.
        id: SpiffeId,
        /// What the CA issues for.
        trust_domain: TrustDomain,
    },
    /// As many earlier issuing CAs as may be kept.
    #[error(
        "{count} earlier issuing CAs are kept, expected fewer than {}: `countersign ca retire` first",
        super::rotate::GENERATIONS_MAX
    )]
    Generations {
        /// How many.
        count: usize,
    },
    /// As many invites as may be kept.
    #[error(
        "{count} invites are kept, expected fewer than {}: deny or wait for old ones to be forgotten",
        super::INVITES_MAX
    )]
    Invites {
        /// How many.
        count: usize,
    },
    /// A key is not that of its certificate.
    #[error("`{}` is not the private key of `{}`", path.display(), certificate.display())]
    KeyMismatch {
        /// The key.
        path: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// A line of the ledger is damaged.
    #[error("`{}` line {line} is damaged", path.display())]
    Ledger {
        /// The ledger.
        path: PathBuf,
        /// Counted from one.
        line: usize,
    },
    /// A DNS name that is none.
    #[error("`{name}` is no DNS name")]
    Name {
        /// The text, cut to 80 characters.
        name: String,
    },
    /// More DNS names and addresses than one certificate may have.
    #[error("{count} DNS names and addresses, expected at most {}", super::NAMES_MAX)]
    Names {
        /// How many.
        count: usize,
    },
    /// The folder holds no CA.
    #[error("`{}` holds no CA: make one with `countersign ca init`", dir.display())]
    NoAuthority {
        /// The folder.
        dir: PathBuf,
    },
    /// Neither a name of the ledger nor a serial number.
    #[error("`{what}` was never issued here and is no serial number (hexadecimal, 1..=20 bytes)")]
    NotIssued {
        /// The text, cut to 80 characters.
        what: String,
    },
    /// No invite of this name or id that could be decided.
    #[error("no invite `{what}` waits for a decision; `countersign device pending` lists those that do")]
    NotPending {
        /// The text, cut to 80 characters.
        what: String,
    },
    /// The system gave no randomness.
    #[error("the system gave no random bytes")]
    Random,
    /// rcgen could not make it.
    #[error("the certificate could not be made: {0}")]
    Sign(#[from] rcgen::Error),
    /// A lifetime of zero, or above its bound.
    #[error("a lifetime of {} s is not within 1..={} s", ttl.as_secs(), max.as_secs())]
    Ttl {
        /// The one asked for.
        ttl: Duration,
        /// The longest.
        max: Duration,
    },
}
