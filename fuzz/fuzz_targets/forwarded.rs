//! Any text as a proxy's `Forwarded`: what is found in it reads back, and stands in it.
#![no_main]

use countersign::protocols::{FORWARDED_LEN_MAX, forwarded_for};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &str| {
    let Some(addr) = forwarded_for(value) else { return };
    assert!(value.len() <= FORWARDED_LEN_MAX);
    assert!(value.to_ascii_lowercase().contains("for="));
    assert_eq!(forwarded_for(&format!("for=\"{addr}\"")), Some(addr));
    // What follows in another element changes nothing.
    assert_eq!(forwarded_for(&format!("for=\"{addr}\", {value}")).or(Some(addr)), Some(addr));
});
