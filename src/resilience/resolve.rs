//! Names to addresses, as this host resolves them (`getaddrinfo`, so `/etc/hosts` and nsswitch count).

use std::net::SocketAddr;
use std::time::Duration;

use crate::model::{Authority, Host, Reason};

/// Why a name gave no address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The resolver said no.
    #[error("`{name}` could not be resolved: {detail}")]
    Failed {
        /// What was asked.
        name: String,
        /// The resolver's words.
        detail: String,
    },
    /// The resolver did not answer.
    #[error("`{name}` was not resolved in time")]
    Timeout {
        /// What was asked.
        name: String,
    },
}

impl ResolveError {
    /// The reason a stranger may see.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Failed { .. } => Reason::DnsError,
            Self::Timeout { .. } => Reason::DnsTimeout,
        }
    }
}

/// The addresses of `authority`, at least one and at most `ADDRESSES_MAX`, in the resolver's order.
///
/// # Errors
/// [`ResolveError`] when there is none within `timeout`.
pub async fn resolve(authority: &Authority, timeout: Duration) -> Result<Vec<SocketAddr>, ResolveError> {
    let name = match &authority.host {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, authority.port)]),
        Host::Name(name) => name,
    };
    let failed = |detail: String| ResolveError::Failed { name: name.to_string(), detail };
    let asked = tokio::net::lookup_host((&**name, authority.port));
    let found = tokio::time::timeout(timeout, asked)
        .await
        .map_err(|_| ResolveError::Timeout { name: name.to_string() })?
        .map_err(|e| failed(e.to_string()))?;
    let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
    if found.is_empty() { Err(failed("no address".into())) } else { Ok(found) }
}

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
