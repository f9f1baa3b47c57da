//! Any text as a device record: nothing unsigned is read, and what is accepted keeps its bounds.
#![no_main]

use countersign::device::{RECORD_LEN_MAX, RECORD_TTL_MAX, RecordError, SignedRecord, VALUES_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let refused = SignedRecord::open(text, &|_, _| false);
    assert!(matches!(
        refused,
        Err(RecordError::Signature | RecordError::Unsigned | RecordError::TooLarge { .. })
    ));
    let accepting = |message: &[u8], signature: &[u8]| {
        assert!(text.as_bytes().starts_with(message) && signature.len() == 64);
        true
    };
    match SignedRecord::open(text, &accepting) {
        Ok(record) => {
            assert!(text.len() <= RECORD_LEN_MAX);
            assert!(record.expires_at > record.issued_at);
            assert!(record.expires_at.since(record.issued_at) <= RECORD_TTL_MAX);
            assert!(record.baseline.values().all(|values| (1..=VALUES_MAX).contains(&values.len())));
            assert_eq!(SignedRecord::open(text, &accepting).as_ref(), Ok(&record));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
