//! Any bytes as evidence, as its claims and as what is around it: nothing passes unsigned, and what is read has its bounds.
#![no_main]

use countersign::device::{
    Answer, EVIDENCE_LEN_MAX, Message, RECORD_LEN_MAX, Role, VALUES_MAX, binder, open, parse_claims,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let here = binder(Role::Client, &[1; 32], &[2; 32], &[3; 32]);
    // The prefix of a P-256 key, and a point that nobody has the key of.
    let mut spki = [0; 91];
    spki[..26].copy_from_slice(SPKI_PREFIX);
    assert!(open(bytes, &here, &spki).is_err());
    if let Ok((claims, _)) = parse_claims(bytes) {
        for values in claims.components.values() {
            assert!((1..=VALUES_MAX).contains(&values.len()));
            assert!(values.windows(2).all(|pair| pair[0] < pair[1]));
        }
        let text = format!("{}{}", claims.program, claims.version);
        assert!(!text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b)));
    }
    if let Ok(message) = Message::read(bytes) {
        bounded(&message);
        assert_eq!(Message::read(&message.to_bytes().unwrap()), Ok(message));
    }
    if let Ok(answer) = Answer::read(bytes) {
        bounded(&answer.message);
        assert_eq!(Answer::read(&answer.to_bytes().unwrap()), Ok(answer));
    }
});

fn bounded(message: &Message) {
    assert!(message.evidence.len() <= EVIDENCE_LEN_MAX);
    assert!(message.record.as_ref().is_none_or(|text| text.len() <= RECORD_LEN_MAX));
}

const SPKI_PREFIX: &[u8; 26] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
