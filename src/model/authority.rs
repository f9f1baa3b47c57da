//! Where: the `host:port` of a CONNECT request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The target of a CONNECT request: `host:port`, at most 261 bytes (RFC 9110 §9.3.6, RFC 3986 §3.2).
///
/// The host is a literal address or a name of 1..=253 bytes of `a-z A-Z 0-9 . - _`; names are kept lower case.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Authority {
    /// Name or literal address.
    pub host: Host,
    /// Port, never 0.
    pub port: u16,
}

/// The host of an [`Authority`].
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Host {
    /// A literal address.
    Ip(IpAddr),
    /// A name, lower case.
    Name(Box<str>),
}

impl Authority {
    /// Longest authority in bytes: a 253-byte name or bracketed address, a colon and five digits.
    pub const LEN_MAX: usize = 261;
    const NAME_LEN_MAX: usize = 253;

    /// The socket address when the host is a literal one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::Ip(ip) => Some(SocketAddr::new(*ip, self.port)),
            Host::Name(_) => None,
        }
    }

    /// From a host given as text (a SOCKS5 domain name, say) and a port.
    ///
    /// # Errors
    /// [`AuthorityError`] when either is none.
    pub fn new(host: &str, port: u16) -> Result<Self, AuthorityError> {
        if port == 0 {
            return Err(AuthorityError::Port);
        }
        let host = match host.parse::<IpAddr>() {
            Ok(ip) => Host::Ip(ip),
            Err(_) => Host::Name(Self::name(host)?),
        };
        Ok(Self { host, port })
    }

    fn name(text: &str) -> Result<Box<str>, AuthorityError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let len_ok = (1..=Self::NAME_LEN_MAX).contains(&text.len());
        if len_ok && text.bytes().all(allowed) {
            Ok(text.to_ascii_lowercase().into())
        } else {
            Err(AuthorityError::Host)
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        if text.len() > Self::LEN_MAX {
            return Err(AuthorityError::Length { len: text.len() });
        }
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::Port)?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AuthorityError::Port);
        }
        let port = port.parse().map_err(|_| AuthorityError::Port)?;
        match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(AuthorityError::Host)?;
                let ip = inner.parse::<std::net::Ipv6Addr>().map_err(|_| AuthorityError::Host)?;
                Self::new(&ip.to_string(), port)
            }
            None if host.contains(':') => Err(AuthorityError::Host),
            None => Self::new(host, port),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => write!(f, "{}", SocketAddr::new(*ip, self.port)),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Why a text is no CONNECT target.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The host is no name and no address.
    #[error("host must be an address or a name of 1..=253 bytes of `a-z A-Z 0-9 . - _`")]
    Host,
    /// Longer than [`Authority::LEN_MAX`].
    #[error("authority is {len} bytes, expected at most {}", Authority::LEN_MAX)]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// The port is missing, 0 or no number.
    #[error("authority needs a port of 1..=65535 after the last colon")]
    Port,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_read_and_written_back() {
        for (text, shown) in [
            ("orders:443", "orders:443"),
            ("Orders.Example:1", "orders.example:1"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(text.parse::<Authority>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for text in [
            "",
            ":",
            "orders",
            "orders:",
            "orders:0",
            "orders:65536",
            "orders:+1",
            ":80",
            "a b:80",
            "::1:80",
            "[::1:80",
            "[orders]:80",
            "user@orders:80",
            "orders:80/x",
            "orders:443:80",
        ] {
            assert!(text.parse::<Authority>().is_err(), "{text}");
        }
        let long = format!("{}:80", "a".repeat(Authority::LEN_MAX));
        assert!(matches!(long.parse::<Authority>(), Err(AuthorityError::Length { .. })));
    }
}
