//! SOCKS5 as RFC 1928 has it: no authentication, CONNECT only.
//!
//! The door asks who is calling in other ways (loopback, the Unix socket's uid), so `NO AUTHENTICATION` is the only
//! method. [`greeting`] reads the first message, [`request`] the second; both take what has arrived so far.

use super::Parsed;
use crate::model::{Authority, Reason};

/// Longest greeting: version, count and 255 methods (RFC 1928 §3).
pub const GREETING_LEN_MAX: usize = 257;
/// Longest request: four fixed bytes, a length, 255 bytes of name and the port (RFC 1928 §4).
pub const REQUEST_LEN_MAX: usize = 262;
/// The answer to a good greeting: `NO AUTHENTICATION REQUIRED` (RFC 1928 §3).
pub const GREETING_ACCEPTED: [u8; 2] = [VERSION, NO_AUTHENTICATION];
/// The answer to any other greeting: `NO ACCEPTABLE METHODS`.
pub const GREETING_REFUSED: [u8; 2] = [VERSION, 0xFF];

/// Reads the greeting: `05 <count> <methods>`.
///
/// Refused with [`Reason::RequestMalformed`] (answer [`GREETING_REFUSED`]) when it is another version or does not
/// offer to go without authentication.
pub fn greeting(bytes: &[u8]) -> Parsed<()> {
    let mut rest = Reader(bytes);
    match rest.greeting() {
        Ok(()) => Parsed::Complete { request: (), head_len: bytes.len() - rest.0.len() },
        Err(stop) => stop.into(),
    }
}

/// Reads the request: `05 01 00 <type> <address> <port>`.
///
/// Refused with [`Reason::MethodNotAllowed`] for BIND and UDP ASSOCIATE, else with [`Reason::RequestMalformed`];
/// answer [`refusal_reply`].
pub fn request(bytes: &[u8]) -> Parsed<Authority> {
    let mut rest = Reader(bytes);
    match rest.request() {
        Ok(request) => Parsed::Complete { request, head_len: bytes.len() - rest.0.len() },
        Err(stop) => stop.into(),
    }
}

/// The answer that lets the app begin (RFC 1928 §6). Which address is bound is not told: `0.0.0.0:0`.
pub fn accepted_reply() -> [u8; 10] {
    reply(SUCCEEDED)
}

/// The answer that says no, as far as seven codes can say why (RFC 1928 §6); the log and the audit say the rest.
pub fn refusal_reply(reason: Reason) -> [u8; 10] {
    reply(match reason {
        Reason::ConnectRefused => CONNECTION_REFUSED,
        Reason::ConnectFailed | Reason::DnsError => HOST_UNREACHABLE,
        Reason::PeerClosed | Reason::TlsFailed => NETWORK_UNREACHABLE,
        Reason::ConnectTimeout | Reason::DnsTimeout | Reason::TlsTimeout | Reason::RequestTimeout => {
            TTL_EXPIRED
        }
        Reason::MethodNotAllowed => COMMAND_NOT_SUPPORTED,
        Reason::PeerRefused | Reason::PeerUnexpected => NOT_ALLOWED,
        _ if reason.http_status() == 403 => NOT_ALLOWED,
        _ => GENERAL_FAILURE,
    })
}

fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, IPV4, 0, 0, 0, 0, 0, 0]
}

/// Why reading stopped.
enum Stop {
    Partial,
    Refused(Reason),
}

const MALFORMED: Stop = Stop::Refused(Reason::RequestMalformed);

impl<T> From<Stop> for Parsed<T> {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Partial => Self::Partial,
            Stop::Refused(reason) => Self::Refused(reason),
        }
    }
}

/// What has not been read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn greeting(&mut self) -> Result<(), Stop> {
        self.version()?;
        let count = self.byte()?;
        let methods = self.take(count.into())?;
        if methods.contains(&NO_AUTHENTICATION) { Ok(()) } else { Err(MALFORMED) }
    }

    fn request(&mut self) -> Result<Authority, Stop> {
        self.version()?;
        if self.byte()? != CONNECT {
            return Err(Stop::Refused(Reason::MethodNotAllowed));
        }
        if self.byte()? != RESERVED {
            return Err(MALFORMED);
        }
        let host = match self.byte()? {
            IPV4 => std::net::Ipv4Addr::from(self.array::<4>()?).to_string(),
            IPV6 => std::net::Ipv6Addr::from(self.array::<16>()?).to_string(),
            NAME => {
                let len = self.byte()?;
                let name = self.take(len.into())?;
                std::str::from_utf8(name).map_err(|_| MALFORMED)?.to_owned()
            }
            _ => return Err(MALFORMED),
        };
        let port = u16::from_be_bytes(self.array()?);
        Authority::new(&host, port).map_err(|_| MALFORMED)
    }

    fn version(&mut self) -> Result<(), Stop> {
        if self.byte()? == VERSION { Ok(()) } else { Err(MALFORMED) }
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        let (first, rest) = self.0.split_first().ok_or(Stop::Partial)?;
        self.0 = rest;
        Ok(*first)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Stop::Partial)?;
        self.0 = rest;
        Ok(*first)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let (first, rest) = self.0.split_at_checked(len).ok_or(Stop::Partial)?;
        self.0 = rest;
        Ok(first)
    }
}

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const CONNECT: u8 = 1;
const RESERVED: u8 = 0;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const NETWORK_UNREACHABLE: u8 = 3;
const HOST_UNREACHABLE: u8 = 4;
const CONNECTION_REFUSED: u8 = 5;
const TTL_EXPIRED: u8 = 6;
const COMMAND_NOT_SUPPORTED: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The target, the refusal's code, or `...`; and every shorter piece must be partial.
    fn check(bytes: &[u8]) -> String {
        match request(bytes) {
            Parsed::Partial => "...".into(),
            Parsed::Refused(reason) => reason.code().into(),
            Parsed::Complete { request: target, head_len } => {
                for len in 0..head_len {
                    assert_eq!(request(&bytes[..len]), Parsed::Partial, "{len}");
                }
                format!("{target} +{}", bytes.len() - head_len)
            }
        }
    }

    fn named(name: &[u8]) -> Vec<u8> {
        let len = u8::try_from(name.len()).unwrap();
        [&[5, 1, 0, 3, len], name, &[1, 187]].concat()
    }

    #[test]
    fn a_greeting_that_goes_without_authentication_is_accepted() {
        assert_eq!(greeting(&[5, 1, 0, 99]), Parsed::Complete { request: (), head_len: 3 });
        assert_eq!(greeting(&[5, 3, 2, 1, 0]), Parsed::Complete { request: (), head_len: 5 });
        let longest = [&[5, 255][..], &[0; 255]].concat();
        assert_eq!(greeting(&longest), Parsed::Complete { request: (), head_len: GREETING_LEN_MAX });
        for bytes in [&[][..], &[5], &[5, 2], &[5, 2, 0]] {
            assert_eq!(greeting(bytes), Parsed::Partial);
        }
    }

    #[test]
    fn a_greeting_of_another_version_or_without_our_method_is_refused() {
        for bytes in [&[4, 1][..], b"GET / HTTP/1.1", &[5, 0], &[5, 1, 2], &[5, 2, 1, 2]] {
            assert_eq!(greeting(bytes), Parsed::Refused(Reason::RequestMalformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_request_names_an_address_or_a_host() {
        assert_eq!(check(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 80, 9]), "127.0.0.1:80 +1");
        let v6 = [&[5, 1, 0, 4][..], &std::net::Ipv6Addr::LOCALHOST.octets(), &[0, 80]].concat();
        assert_eq!(check(&v6), "[::1]:80 +0");
        assert_eq!(check(&named(b"Orders")), "orders:443 +0");
        assert_eq!(check(&named(b"127.0.0.1")), "127.0.0.1:443 +0");
        assert_eq!(named(&[b'a'; 255]).len(), REQUEST_LEN_MAX);
    }

    #[test]
    fn bind_udp_and_unknown_commands_are_not_allowed() {
        for command in [0, 2, 3, 9] {
            assert_eq!(check(&[5, command, 0, 1, 127, 0, 0, 1, 0, 80]), "method_not_allowed");
        }
        assert_eq!(refusal_reply(Reason::MethodNotAllowed)[1], 7);
    }

    #[test]
    fn a_request_that_breaks_the_rfc_is_malformed() {
        for bytes in [
            &[4, 1][..],
            &[5, 1, 1, 1, 127, 0, 0, 1, 0, 80],
            &[5, 1, 0, 2, 127, 0, 0, 1, 0, 80],
            &[5, 1, 0, 1, 127, 0, 0, 1, 0, 0],
            &named(b""),
            &named(b"a b"),
            &named(b"\xff"),
            &named(&[b'a'; 255]),
        ] {
            assert_eq!(check(bytes), "request_malformed", "{bytes:?}");
        }
    }

    #[test]
    fn every_reason_has_a_reply_of_its_kind() {
        for (reason, code) in [
            (Reason::PolicyDenied, 2),
            (Reason::OutboundUnknown, 2),
            (Reason::PeerRefused, 2),
            (Reason::PeerUnexpected, 2),
            (Reason::PeerClosed, 3),
            (Reason::TlsFailed, 3),
            (Reason::ConnectFailed, 4),
            (Reason::DnsError, 4),
            (Reason::ConnectRefused, 5),
            (Reason::ConnectTimeout, 6),
            (Reason::DnsTimeout, 6),
            (Reason::TlsTimeout, 6),
            (Reason::RequestTimeout, 6),
            (Reason::Internal, 1),
            (Reason::RateLimited, 1),
            (Reason::AuditUnavailable, 1),
        ] {
            assert_eq!(refusal_reply(reason), [5, code, 0, 1, 0, 0, 0, 0, 0, 0], "{reason}");
        }
        assert_eq!(accepted_reply(), [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert!(Reason::ALL.iter().all(|r| (1..=7).contains(&refusal_reply(*r)[1])));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_and_the_longest_message_is_never_partial(
            start in prop_oneof![Just(vec![]), Just(vec![5, 1, 0, 3]), Just(vec![5])],
            bytes in prop::collection::vec(any::<u8>(), 0..300)
        ) {
            let bytes = [start, bytes].concat();
            prop_assert!(greeting(&bytes) != Parsed::Partial || bytes.len() < GREETING_LEN_MAX);
            prop_assert!(request(&bytes) != Parsed::Partial || bytes.len() < REQUEST_LEN_MAX);
        }
    }
}
