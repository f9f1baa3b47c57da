//! Reads the head of an HTTP/1.1 CONNECT request (RFC 9110 §9.3.6, RFC 9112 §3.2.3).

use super::Parsed;
use crate::model::{Authority, Reason};

/// A CONNECT request: where to. Its other headers mean nothing here; `Host` gives way to the request target
/// (RFC 9112 §3.2.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectRequest {
    /// The request target.
    pub authority: Authority,
}

/// Longest request head in bytes, its last empty line included.
pub const HEAD_LEN_MAX: usize = 16 * 1024;

/// Reads the request head at the front of `bytes`, which may be a part of it or hold more.
///
/// Refused are: [`Reason::RequestTooLarge`] past [`HEAD_LEN_MAX`] bytes or 64 headers; [`Reason::MethodNotAllowed`]
/// for any method but CONNECT; [`Reason::RequestMalformed`] for everything else that is no plain CONNECT of HTTP/1.1,
/// also when it announces content: a CONNECT has none, and what follows its head is the tunnel.
pub fn parse(bytes: &[u8]) -> Parsed<ConnectRequest> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head = bytes.get(..HEAD_LEN_MAX).unwrap_or(bytes);
    match request.parse(head) {
        Ok(httparse::Status::Complete(head_len)) => match judge(&request) {
            Ok(request) => Parsed::Complete { request, head_len },
            Err(reason) => Parsed::Refused(reason),
        },
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_LEN_MAX => Parsed::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            Parsed::Refused(Reason::RequestTooLarge)
        }
        Err(_) => Parsed::Refused(Reason::RequestMalformed),
    }
}

fn judge(request: &httparse::Request<'_, '_>) -> Result<ConnectRequest, Reason> {
    if request.method != Some("CONNECT") {
        return Err(Reason::MethodNotAllowed);
    }
    // HTTP/1.0 too: Python's http.client and others still say so in a CONNECT, and a tunnel needs nothing newer.
    if !matches!(request.version, Some(0 | 1)) {
        return Err(Reason::RequestMalformed);
    }
    let named = |name: &str| request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).count();
    // Whoever announces content and whoever reads a tunnel disagree about where the request ends (RFC 9112 §11.2).
    if named("content-length") + named("transfer-encoding") > 0 {
        return Err(Reason::RequestMalformed);
    }
    // Two of them are a server's duty to refuse (RFC 9112 §3.2).
    if named("host") > 1 {
        return Err(Reason::RequestMalformed);
    }
    let target = request.path.unwrap_or_default();
    let authority = target.parse().map_err(|_| Reason::RequestMalformed)?;
    Ok(ConnectRequest { authority })
}

const HEADERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The code of the refusal, the authority, or `...` while more is needed.
    fn check(head: impl AsRef<[u8]>) -> String {
        match parse(head.as_ref()) {
            Parsed::Partial => "...".into(),
            Parsed::Complete { request, .. } => request.authority.to_string(),
            Parsed::Refused(reason) => reason.code().into(),
        }
    }

    #[test]
    fn a_plain_connect_gives_its_target() {
        for (head, wanted) in [
            ("CONNECT orders:443 HTTP/1.1\r\n\r\n", "orders:443"),
            (
                "CONNECT Orders.Example:1 HTTP/1.1\r\nHost: other:2\r\nUser-Agent: x\r\n\r\n",
                "orders.example:1",
            ),
            ("CONNECT [::1]:80 HTTP/1.1\r\nProxy-Connection: Keep-Alive\r\n\r\n", "[::1]:80"),
        ] {
            assert_eq!(check(head), wanted);
        }
    }

    #[test]
    fn a_request_is_complete_at_its_last_byte_and_leaves_the_rest_alone() {
        let head = "CONNECT orders:443 HTTP/1.1\r\nHost: orders:443\r\n\r\n";
        for len in 0..head.len() {
            assert_eq!(check(&head.as_bytes()[..len]), "...", "{len}");
        }
        let more = format!("{head}early");
        let Parsed::Complete { head_len, .. } = parse(more.as_bytes()) else { panic!() };
        assert_eq!(&more.as_bytes()[head_len..], b"early");
    }

    #[test]
    fn a_method_other_than_connect_is_not_allowed() {
        for method in ["GET", "POST", "connect", "OPTIONS"] {
            assert_eq!(check(format!("{method} orders:443 HTTP/1.1\r\n\r\n")), "method_not_allowed");
        }
        assert_eq!(check("GET / HTTP/1.0\r\n\r\n"), "method_not_allowed");
    }

    #[test]
    fn a_target_that_is_no_authority_is_malformed() {
        for target in ["/", "orders", "http://orders:80/", "orders:0", "u@orders:80", "*"] {
            assert_eq!(check(format!("CONNECT {target} HTTP/1.1\r\n\r\n")), "request_malformed", "{target}");
        }
        let long = format!("CONNECT {}:80 HTTP/1.1\r\n\r\n", "a".repeat(Authority::LEN_MAX));
        assert_eq!(check(&long), "request_malformed");
    }

    #[test]
    fn http_1_0_will_do_and_a_version_unknown_will_not() {
        assert_eq!(
            check("CONNECT orders:443 HTTP/1.0\r\n\r\n"),
            check("CONNECT orders:443 HTTP/1.1\r\n\r\n")
        );
        assert_eq!(check("CONNECT orders:443 HTTP/1.2\r\n\r\n"), "request_malformed");
    }

    #[test]
    fn a_connect_that_announces_content_is_malformed() {
        for header in ["Content-Length: 0", "content-length: 5", "Transfer-Encoding: chunked"] {
            assert_eq!(check(format!("CONNECT a:1 HTTP/1.1\r\n{header}\r\n\r\n")), "request_malformed");
        }
    }

    #[test]
    fn two_hosts_are_malformed() {
        assert_eq!(check("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nhost: b:1\r\n\r\n"), "request_malformed");
    }

    #[test]
    fn bytes_that_are_no_http_are_malformed_at_once() {
        for bytes in [&b"\x16\x03\x01\x02\x00"[..], b"\x05\x01\x00", b"CONNECT a:1 HTTP/2.0\r\n"] {
            assert_eq!(parse(bytes), Parsed::Refused(Reason::RequestMalformed));
        }
    }

    #[test]
    fn a_head_of_16_kib_passes_and_one_byte_more_is_too_large() {
        let head = |len: usize| {
            let frame = "CONNECT a:1 HTTP/1.1\r\nX: \r\n\r\n".len();
            format!("CONNECT a:1 HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(len - frame))
        };
        assert_eq!(check(head(HEAD_LEN_MAX)), "a:1");
        assert_eq!(check(head(HEAD_LEN_MAX + 1)), "request_too_large");
        assert_eq!(check(&head(HEAD_LEN_MAX + 1).as_bytes()[..HEAD_LEN_MAX - 1]), "...");
        assert_eq!(check(&head(HEAD_LEN_MAX + 1).as_bytes()[..HEAD_LEN_MAX]), "request_too_large");
    }

    #[test]
    fn sixty_four_headers_pass_and_one_more_is_too_large() {
        let head = |count: usize| format!("CONNECT a:1 HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert_eq!(check(head(HEADERS_MAX)), "a:1");
        assert_eq!(check(head(HEADERS_MAX + 1)), "request_too_large");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_and_never_take_more_than_there_are(
            start in prop_oneof![Just(""), Just("CONNECT "), Just("CONNECT a:1 HTTP/1.1\r\n")],
            bytes in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let bytes = [start.as_bytes(), &bytes].concat();
            if let Parsed::Complete { head_len, .. } = parse(&bytes) {
                prop_assert!(head_len <= bytes.len());
            }
        }
    }
}
