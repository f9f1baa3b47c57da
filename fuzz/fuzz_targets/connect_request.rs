//! Any bytes as an HTTP/1.1 CONNECT: complete at one length only, within its bound, and its target reads back.
#![no_main]

use countersign::model::Authority;
use countersign::protocols::{HEAD_LEN_MAX, Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| match parse(bytes) {
    Parsed::Partial => assert!(bytes.len() < HEAD_LEN_MAX),
    // What is refused stays refused, whatever follows.
    Parsed::Refused(reason) => {
        let longer = [bytes, b"\r\n\r\n"].concat();
        assert!(bytes.len() >= HEAD_LEN_MAX || parse(&longer) == Parsed::Refused(reason));
    }
    Parsed::Complete { request, head_len } => {
        assert!(head_len <= bytes.len().min(HEAD_LEN_MAX));
        let head = &bytes[..head_len];
        assert!(head.ends_with(b"\n"), "a head ends with an empty line");
        assert_eq!(request.authority.to_string().parse::<Authority>().as_ref(), Ok(&request.authority));
        for len in [head_len / 2, head_len - 1] {
            assert_eq!(parse(&bytes[..len]), Parsed::Partial, "one request, one length");
        }
        assert_eq!(parse(head), Parsed::Complete { request, head_len });
    }
});
