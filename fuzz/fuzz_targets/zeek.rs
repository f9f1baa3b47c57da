//! Any bytes as a Zeek log: every line is a flow, passed over, or a mistake with its number, and it ends.
#![no_main]

use countersign::analyser::Keys;
use countersign::feeds::{FlowRecord, Flows, parse_zeek};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let lines = bytes.split(|b| *b == b'\n').count() as u64;
    let (good, bad) = parse_zeek(bytes);
    assert!(good + bad <= lines, "{good} flows and {bad} mistakes in {lines} lines");
    let mut flows = Flows::new(bytes);
    let mut record = FlowRecord::default();
    let (mut read, keys) = (0, Keys::new([0, 0]));
    loop {
        match flows.advance(&mut record) {
            Ok(true) => {
                read += 1;
                assert!(!record.device.is_empty() && record.device.len() <= FlowRecord::NAME_MAX);
                assert!(!record.target.is_empty() && record.target.len() <= FlowRecord::NAME_MAX);
                let [open, close] = record.events(&keys, read);
                assert_eq!(open.at(), close.at());
            }
            Ok(false) => break,
            Err(error) => assert!(!error.to_string().contains('\n')),
        }
    }
    assert_eq!(read, good);
    assert!(flows.offset() <= bytes.len() as u64);
});
