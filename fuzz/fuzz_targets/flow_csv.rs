//! Any bytes as flow records of CSV: every record is within its bounds, and what is wrong is told in one line.
#![no_main]

use std::io::Read;

use countersign::analyser::Keys;
use countersign::feeds::{FlowCsv, FlowRecord};
use libfuzzer_sys::fuzz_target;

/// The columns that a reader asks for.
const HEAD: &[u8] = b"ts,dur,peer,dst,dport,proto,service,out_b,in_b,out_p,in_p,state\n";

fuzz_target!(|bytes: &[u8]| {
    // As they are, where they bring a header, and as rows below one.
    play(bytes, bytes.len());
    play(HEAD.chain(bytes), HEAD.len() + bytes.len());
});

fn play(input: impl Read, len: usize) {
    let mut feed = match FlowCsv::new(input) {
        Ok(feed) => feed,
        Err(error) => return told(&error.to_string()),
    };
    let (mut record, mut read, keys) = (FlowRecord::default(), 0, Keys::new([0, 0]));
    loop {
        match feed.advance(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return told(&error.to_string()),
        }
        read += 1;
        for name in [&record.device, &record.target] {
            assert!(!name.is_empty() && name.len() <= FlowRecord::NAME_MAX);
        }
        let [open, close] = record.events(&keys, read);
        assert_eq!((open.at(), close.at()), (record.ended(), record.ended()));
        assert!(record.ended() >= record.began);
    }
    // Twelve fields have eleven commas between them, and ten of them are not empty.
    assert!(read <= len as u64 / 21, "{read} records in {len} bytes");
}

fn told(error: &str) {
    assert!(!error.chars().any(char::is_control), "{error:?}");
}
