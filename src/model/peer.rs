//! Who: trust domains, SPIFFE IDs, device names and service names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A SPIFFE trust domain: 1..=255 bytes of `a-z 0-9 . - _` (SPIFFE-ID §2.1, §2.3).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Longest trust domain name in bytes (SPIFFE-ID §2.1).
    pub const LEN_MAX: usize = 255;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(text: &str) -> Result<Self, TrustDomainError> {
        if text.is_empty() || text.len() > Self::LEN_MAX {
            return Err(TrustDomainError::Length { len: text.len() });
        }
        let allowed = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if let Some(at) = text.as_bytes().iter().position(|b| !allowed(b)) {
            return Err(TrustDomainError::Byte { at });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no trust domain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustDomainError {
    /// A byte outside the alphabet.
    #[error("trust domain has a forbidden byte at offset {at}; allowed are `a-z 0-9 . - _`")]
    Byte {
        /// Offset of the byte.
        at: usize,
    },
    /// Empty, or longer than [`TrustDomain::LEN_MAX`].
    #[error("trust domain is {len} bytes, expected 1..={}", TrustDomain::LEN_MAX)]
    Length {
        /// Its length in bytes.
        len: usize,
    },
}

/// A SPIFFE ID with a non-root path: `spiffe://<trust-domain>/<path>`, at most 2048 bytes (SPIFFE-ID §2).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Longest SPIFFE ID in bytes (SPIFFE-ID §2.3).
    pub const LEN_MAX: usize = 2048;
    const SCHEME: &str = "spiffe://";
    const DEVICE: &str = "device/";

    /// The ID of a device: `spiffe://<trust-domain>/device/<name>`.
    pub fn device(trust_domain: &TrustDomain, name: &DeviceName) -> Self {
        let text = format!("{}{trust_domain}/{}{name}", Self::SCHEME, Self::DEVICE);
        Self { text: text.into(), trust_domain: trust_domain.clone() }
    }

    /// The whole ID as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain it belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path without its leading slash.
    pub fn path(&self) -> &str {
        let skip = Self::SCHEME.len() + self.trust_domain.as_str().len() + 1;
        self.text.get(skip..).unwrap_or_default()
    }

    /// The device's name when the path is `device/<name>`.
    pub fn device_name(&self) -> Option<&str> {
        self.path().strip_prefix(Self::DEVICE)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > Self::LEN_MAX {
            return Err(SpiffeIdError::Length { len: text.len() });
        }
        let rest = text.strip_prefix(Self::SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(SpiffeIdError::Path)?;
        let trust_domain = domain.parse()?;
        let segment_ok = |s: &str| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !path.split('/').all(segment_ok) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self { text: text.into(), trust_domain })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no SPIFFE ID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// Longer than [`SpiffeId::LEN_MAX`].
    #[error("SPIFFE ID is {len} bytes, expected at most {}", SpiffeId::LEN_MAX)]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// The path is empty or has a forbidden segment (SPIFFE-ID §2.2).
    #[error("SPIFFE ID needs a path of non-empty `a-z A-Z 0-9 . - _` segments")]
    Path,
    /// Does not begin with `spiffe://`.
    #[error("SPIFFE ID must begin with `spiffe://`")]
    Scheme,
    /// Its trust domain is none.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
}

/// A device's name: 1..=63 bytes of `a-z 0-9 -`, neither first nor last a hyphen (as a DNS label, RFC 1123 §2.1).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceName(Arc<str>);

/// A service's name, what a peer asks for in CONNECT: the same alphabet and bounds as [`DeviceName`].
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceName(Arc<str>);

/// Why a text is no device or service name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("name `{name}` must be 1..=63 bytes of `a-z 0-9 -` and begin and end with a letter or digit")]
pub struct NameError {
    /// The text, cut to 80 characters.
    pub name: String,
}

fn check_label(text: &str) -> Result<Arc<str>, NameError> {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'));
    let inner = bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if bytes.len() <= LABEL_LEN_MAX && inner && edge(bytes.first()) && edge(bytes.last()) {
        Ok(text.into())
    } else {
        Err(NameError { name: text.chars().take(80).collect() })
    }
}

macro_rules! label {
    ($type:ident) => {
        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_label(text).map(Self)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label!(DeviceName);
label!(ServiceName);

const LABEL_LEN_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_gives_its_domain_path_and_device() {
        let id: SpiffeId = "spiffe://example.org/device/web-1".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "example.org");
        assert_eq!(id.path(), "device/web-1");
        assert_eq!(id.device_name(), Some("web-1"));
        let name = "web-1".parse().unwrap();
        assert_eq!(SpiffeId::device(&"example.org".parse().unwrap(), &name), id);
    }

    #[test]
    fn what_is_no_spiffe_id_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://example.org",
            "spiffe://example.org/",
            "https://example.org/a",
            "spiffe://Example.org/a",
            "spiffe://example.org/a//b",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/a?x",
            "spiffe://user@example.org/a",
            "spiffe://example.org:1/a",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
        let long = format!("spiffe://example.org/{}", "a".repeat(SpiffeId::LEN_MAX));
        assert!(matches!(long.parse::<SpiffeId>(), Err(SpiffeIdError::Length { .. })));
    }

    #[test]
    fn names_are_dns_labels() {
        assert!("orders".parse::<ServiceName>().is_ok());
        for text in ["", "-a", "a-", "A", "a.b", "a b", &"a".repeat(64)] {
            assert!(text.parse::<ServiceName>().is_err(), "{text}");
        }
    }
}
