//! Any bytes as a signed checkpoint: nobody without the key gets another one believed.
#![no_main]

use countersign::audit::{Checkpoint, Verifier};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|note: &[u8]| {
    if let Ok(text) = std::str::from_utf8(note) {
        let _ = text.parse::<Checkpoint>();
        if let Ok(key) = text.parse::<Verifier>() {
            assert_eq!(key.to_string().parse().as_ref(), Ok(&key));
        }
    }
    let key: Verifier = KEY.parse().expect("a key");
    if let Ok(checkpoint) = key.open(note) {
        // Signatures may be added to a note; what was signed is one text and stays it.
        assert!(note.starts_with(SIGNED.as_bytes()));
        assert_eq!((&*checkpoint.origin, checkpoint.size), (key.name(), 3));
    }
});

/// A key whose private half is nowhere any more; it signed `seeds/audit_checkpoint/signed` and nothing else.
const KEY: &str =
    "spiffe://example.org/device/server-1+e38af7c9+AQZ+py7UYKGvIz79rQVJHSgiw9RSqdxmXX0HwHfIoGfC";
const SIGNED: &str =
    "spiffe://example.org/device/server-1\n3\nGbJYVuHBUMqDTP/ItZsjrb0OwDieWOsis7ZHaAmNACs=\n\n";
