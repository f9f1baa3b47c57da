//! Any text as a peer's `Proxy-Status`: what is taken from it is short and plain enough for a log line.
#![no_main]

use countersign::protocols::parse_proxy_status;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &str| {
    let Some(said) = parse_proxy_status(value) else { return };
    assert!((1..=64).contains(&said.reason_code.len()));
    assert!(said.reason_code.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')));
    assert!(said.rule.len() <= 128 && said.rule.bytes().all(|b| matches!(b, b' '..=b'~')));
});
