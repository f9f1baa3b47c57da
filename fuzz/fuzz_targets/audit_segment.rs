//! Any bytes as a segment of the audit log: every line is seen once, in place, and none is longer than it may be.
#![no_main]

use countersign::audit::{Ending, Lines, READ_LINE_MAX, parse_line, parse_segment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = Lines::new(bytes);
    let mut read = 0;
    while let Some(ending) = lines.advance().expect("memory does not fail") {
        read += 1;
        assert_eq!(lines.number(), read);
        assert!(lines.start() < lines.offset() && lines.line().len() <= READ_LINE_MAX + 1);
        let start = usize::try_from(lines.start()).expect("fits");
        assert!(bytes[start..].starts_with(lines.line()), "a line is what stands at its place");
        assert!(start == 0 || bytes[start - 1] == b'\n', "a line starts after a newline");
        assert!(ending == Ending::Whole || ending == Ending::TooLong || lines.offset() == bytes.len() as u64);
        let _ = parse_line(lines.line());
    }
    assert_eq!(lines.offset(), bytes.len() as u64);
    let torn = bytes.last().is_some_and(|b| *b != b'\n');
    let count = bytes.iter().filter(|b| **b == b'\n').count() + usize::from(torn);
    let (good, bad) = parse_segment(bytes);
    assert_eq!((good + bad, read), (count as u64, count as u64));
});
