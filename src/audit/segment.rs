//! Reads the lines of a segment, whatever bytes are in it, in bounded memory.

use std::io::{self, BufRead, Read};

/// Longest line a reader takes, in bytes (C2SP tlog-tiles: an entry fits 16 bits of length).
pub const READ_LINE_MAX: usize = 64 * 1024;

/// How a line ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// With its newline.
    Whole,
    /// With the end of the file.
    Torn,
    /// Longer than [`READ_LINE_MAX`]; the rest of it has been passed over.
    TooLong,
}

/// Reads line after line.
pub struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    offset: u64,
    start: u64,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// From the start of a segment.
    pub fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), offset: 0, start: 0, number: 0 }
    }

    /// Goes to the next line and says how it ended; `None` at the end.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn advance(&mut self) -> io::Result<Option<Ending>> {
        self.line.clear();
        self.start = self.offset;
        let limit = READ_LINE_MAX as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.offset += read as u64;
        self.number += 1;
        let ending = if self.line.last() == Some(&b'\n') {
            self.line.pop();
            Ending::Whole
        } else if self.line.len() > READ_LINE_MAX {
            self.skip_line()?;
            Ending::TooLong
        } else {
            Ending::Torn
        };
        Ok(Some(ending))
    }

    /// The line last given, without its newline; at most one byte longer than [`READ_LINE_MAX`].
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// Number of the line last given, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Offset in bytes where the line last given starts.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset in bytes after the line last given.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let chunk = self.reader.fill_buf()?;
            let (used, done) = match chunk.iter().position(|b| *b == b'\n') {
                Some(at) => (at + 1, true),
                None => (chunk.len(), chunk.is_empty()),
            };
            self.reader.consume(used);
            self.offset += used as u64;
            if done {
                return Ok(());
            }
        }
    }
}

/// Counts the readable and the unreadable lines of a segment. Fuzzed as `audit_segment`.
pub fn parse_segment(bytes: &[u8]) -> (u64, u64) {
    let mut lines = Lines::new(bytes);
    let (mut good, mut bad) = (0, 0);
    // Reading from memory does not fail.
    while let Ok(Some(ending)) = lines.advance() {
        let seq = super::entry::seq_of(lines.line());
        match super::entry::parse_line(lines.line()) {
            Ok(read) if ending == Ending::Whole && seq == Some(read.seq) => good += 1,
            _ => bad += 1,
        }
    }
    (good, bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Number, start and ending of each line.
    fn play(bytes: &[u8]) -> Vec<(u64, u64, usize, Ending)> {
        let mut lines = Lines::new(bytes);
        let mut seen = Vec::new();
        while let Some(ending) = lines.advance().unwrap() {
            seen.push((lines.number(), lines.start(), lines.line().len(), ending));
        }
        assert_eq!(lines.offset(), bytes.len() as u64);
        seen
    }

    #[test]
    fn lines_come_with_their_place_and_a_torn_one_is_told() {
        use Ending::{Torn, Whole};
        assert_eq!(play(b""), []);
        assert_eq!(play(b"a\n\nbc"), [(1, 0, 1, Whole), (2, 2, 0, Whole), (3, 3, 2, Torn)]);
    }

    #[test]
    fn a_line_beyond_the_bound_is_passed_over_in_bounded_memory() {
        let mut bytes = vec![b'x'; READ_LINE_MAX];
        bytes.push(b'\n');
        assert_eq!(play(&bytes)[0].3, Ending::Whole);
        let mut bytes = vec![b'x'; 3 * READ_LINE_MAX];
        bytes.extend_from_slice(b"\nb\n");
        let seen = play(&bytes);
        assert_eq!((seen[0].2, seen[0].3), (READ_LINE_MAX + 1, Ending::TooLong));
        assert_eq!((seen[1].0, seen[1].2, seen[1].3), (2, 1, Ending::Whole));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            parse_segment(&bytes);
        }
    }
}
