//! Any bytes as SOCKS5: a message is complete at one length only, within its bound, and its host reads back.
#![no_main]

use countersign::model::Authority;
use countersign::protocols::Parsed;
use countersign::protocols::socks5::{GREETING_LEN_MAX, REQUEST_LEN_MAX, greeting, request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    consistent(bytes, GREETING_LEN_MAX, greeting);
    if let Some(authority) = consistent(bytes, REQUEST_LEN_MAX, request) {
        assert_eq!(authority.to_string().parse::<Authority>().as_ref(), Ok(&authority));
    }
});

/// However the bytes arrive, the answer is the same: "more" up to the last byte of the message, and then it.
fn consistent<T>(bytes: &[u8], len_max: usize, parse: fn(&[u8]) -> Parsed<T>) -> Option<T>
where
    T: std::fmt::Debug + PartialEq,
{
    match parse(bytes) {
        Parsed::Partial => {
            assert!(bytes.len() < len_max);
            None
        }
        Parsed::Refused(_) => None,
        Parsed::Complete { request, head_len } => {
            assert!(head_len <= bytes.len().min(len_max));
            for len in 0..head_len {
                assert_eq!(parse(&bytes[..len]), Parsed::Partial);
            }
            let again = parse(&bytes[..head_len]);
            assert!(
                matches!(&again, Parsed::Complete { request: r, head_len: n } if *r == request && *n == head_len)
            );
            Some(request)
        }
    }
}
