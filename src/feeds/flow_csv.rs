//! Flow records as CSV: `ts dur peer dst dport proto service out_b in_b out_p in_p state`, in order of completion.

use std::io::{self, Read};

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::FlowRecord;
use crate::analyser::Moment;
use crate::analyser::event::{Carrier, End, Tongue};

/// Reads flow records from CSV (RFC 4180) with a header. Columns may come in any order; those it does not know are
/// passed over. `ts` and `dur` are seconds, `proto` is `tcp`, `udp` or anything, `state` is `ok`, `fail` or `rst`.
pub struct FlowCsv<R> {
    reader: Reader<Rationed<R>>,
    line: ByteRecord,
    places: [usize; COLUMNS.len()],
}

/// Why flow records cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlowCsvError {
    /// A column is missing.
    #[error("the header has no column `{column}`")]
    Column {
        /// Its name.
        column: &'static str,
    },
    /// A field is none of its kind.
    #[error("line {line}: `{column}` is `{text}`, expected {expected}")]
    Field {
        /// The line, from 1.
        line: u64,
        /// The column.
        column: &'static str,
        /// What stands there, cut to 40 characters and escaped.
        text: String,
        /// What should.
        expected: &'static str,
    },
    /// Longer than [`RECORD_MAX`]: a quote that is never closed, perhaps.
    #[error("line {line}: the record that begins here is longer than {RECORD_MAX} bytes")]
    TooLong {
        /// The line it begins in, from 1.
        line: u64,
    },
    /// Not CSV, or not to be read.
    #[error("line {line}: {source}")]
    Csv {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        source: csv::Error,
    },
}

impl<R: Read> FlowCsv<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`FlowCsvError`] when a column is missing or it is no CSV.
    pub fn new(input: R) -> Result<Self, FlowCsvError> {
        let mut reader = ReaderBuilder::new().from_reader(Rationed { input, left: RATION, spent: false });
        let header = match reader.byte_headers() {
            Ok(header) => header.clone(),
            Err(source) => return Err(cannot(&reader, 1, source)),
        };
        if reader.position().byte() > RECORD_MAX {
            return Err(FlowCsvError::TooLong { line: 1 });
        }
        let mut places = [0; COLUMNS.len()];
        for (place, column) in places.iter_mut().zip(COLUMNS) {
            let found = header.iter().position(|h| h.trim_ascii() == column.as_bytes());
            *place = found.ok_or(FlowCsvError::Column { column })?;
        }
        Ok(Self { reader, line: ByteRecord::new(), places })
    }

    /// Fills `record` with the next one; false at the end.
    ///
    /// # Errors
    /// [`FlowCsvError`] with line and column.
    pub fn advance(&mut self, record: &mut FlowRecord) -> Result<bool, FlowCsvError> {
        let ration = self.reader.get_mut();
        (ration.left, ration.spent) = (RATION, false);
        let (begin, line) = (self.reader.position().byte(), self.reader.position().line());
        let more = match self.reader.read_byte_record(&mut self.line) {
            Ok(more) => more,
            Err(source) => return Err(cannot(&self.reader, line, source)),
        };
        // What was read ahead is not rationed.
        if self.reader.position().byte().saturating_sub(begin) > RECORD_MAX {
            return Err(FlowCsvError::TooLong { line });
        }
        if !more {
            return Ok(false);
        }
        let [ts, dur, peer, dst, dport, proto, service, out_b, in_b, out_p, in_p, state] = self.places;
        let began = self.number(ts, "ts", "seconds, not negative")?;
        let lasted = self.number(dur, "dur", "seconds, not negative")?;
        record.began = Moment::from_secs(began);
        record.lasted_us = Moment::from_secs(lasted).0;
        self.name(peer, "peer", &mut record.device)?;
        self.name(dst, "dst", &mut record.target)?;
        record.port = self.whole(dport, "dport", "a port")?;
        record.carrier = match self.at(proto) {
            b"tcp" => Carrier::Tcp,
            b"udp" => Carrier::Udp,
            _ => Carrier::Other,
        };
        record.tongue = tongue(self.at(service));
        record.bytes = [self.whole(out_b, "out_b", "a count")?, self.whole(in_b, "in_b", "a count")?];
        record.chunks = [self.whole(out_p, "out_p", "a count")?, self.whole(in_p, "in_p", "a count")?];
        record.end = match self.at(state) {
            b"ok" => End::Fin,
            b"rst" => End::Reset,
            b"fail" => End::Timeout,
            _ => return Err(self.wrong(state, "state", "`ok`, `fail` or `rst`")),
        };
        Ok(true)
    }

    fn at(&self, place: usize) -> &[u8] {
        self.line.get(place).unwrap_or_default().trim_ascii()
    }

    fn text(&self, place: usize) -> &str {
        std::str::from_utf8(self.at(place)).unwrap_or_default()
    }

    fn number(
        &self,
        place: usize,
        column: &'static str,
        expected: &'static str,
    ) -> Result<f64, FlowCsvError> {
        let number = self.text(place).parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
        number.ok_or_else(|| self.wrong(place, column, expected))
    }

    fn whole<N: std::str::FromStr>(
        &self,
        place: usize,
        column: &'static str,
        expected: &'static str,
    ) -> Result<N, FlowCsvError> {
        self.text(place).parse().map_err(|_| self.wrong(place, column, expected))
    }

    fn name(&self, place: usize, column: &'static str, into: &mut String) -> Result<(), FlowCsvError> {
        let text = self.text(place);
        if text.is_empty() || text.len() > FlowRecord::NAME_MAX {
            return Err(self.wrong(place, column, "a name of 1 to 255 bytes of UTF-8"));
        }
        into.clear();
        into.push_str(text);
        Ok(())
    }

    fn wrong(&self, place: usize, column: &'static str, expected: &'static str) -> FlowCsvError {
        // Escaped: nothing of it reaches a terminal.
        let text = String::from_utf8_lossy(self.at(place)).chars().take(40).collect::<String>();
        let text = text.escape_debug().to_string();
        let line = self.line.position().map_or(0, csv::Position::line);
        FlowCsvError::Field { line, column, text, expected }
    }
}

/// Gives no more for one record than a record may be long: the parser would keep whatever it is given.
struct Rationed<R> {
    input: R,
    left: usize,
    spent: bool,
}

impl<R: Read> Read for Rationed<R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.spent = true;
            return Err(io::Error::other("spent"));
        }
        let len = space.len().min(self.left);
        let read = self.input.read(space.get_mut(..len).unwrap_or_default())?;
        self.left = self.left.saturating_sub(read);
        Ok(read)
    }
}

fn cannot<R: Read>(reader: &Reader<Rationed<R>>, line: u64, source: csv::Error) -> FlowCsvError {
    if reader.get_ref().spent {
        return FlowCsvError::TooLong { line };
    }
    FlowCsvError::Csv { line: source.position().map_or(line, csv::Position::line), source }
}

/// What a log's word for a protocol means.
fn tongue(word: &[u8]) -> Tongue {
    match word {
        b"ssl" | b"tls" | b"https" | b"quic" => Tongue::Tls,
        b"http" => Tongue::Http,
        b"http2" | b"h2" | b"grpc" => Tongue::Http2,
        b"mqtt" => Tongue::Mqtt,
        b"ssh" => Tongue::Ssh,
        b"dns" => Tongue::Dns,
        b"postgresql" | b"postgres" => Tongue::Postgres,
        b"mysql" => Tongue::Mysql,
        b"redis" => Tongue::Redis,
        b"kafka" => Tongue::Kafka,
        b"rdp" => Tongue::Rdp,
        _ => Tongue::Unknown,
    }
}

/// Longest record in bytes, its end and the empty lines before it included.
pub const RECORD_MAX: u64 = 64 * 1024;
/// One more: the end of the input is only seen by asking on.
const RATION: usize = RECORD_MAX as usize + 1;
const COLUMNS: [&str; 12] =
    ["ts", "dur", "peer", "dst", "dport", "proto", "service", "out_b", "in_b", "out_p", "in_p", "state"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "ts,dur,peer,dst,dport,proto,service,out_b,in_b,out_p,in_p,state\n";
    const ROW: &str = "1.5,0.25,a,b,80,tcp,http,10,20,1,2,rst\n";

    /// How many records there are, or what is wrong.
    fn play(text: &str) -> Result<usize, String> {
        let mut feed = FlowCsv::new(text.as_bytes()).map_err(|e| e.to_string())?;
        let mut record = FlowRecord::default();
        let mut n = 0;
        while feed.advance(&mut record).map_err(|e| e.to_string())? {
            n += 1;
        }
        Ok(n)
    }

    #[test]
    fn a_row_is_a_record() {
        let mut record = FlowRecord::default();
        let text = format!("{HEAD}{ROW}");
        assert!(FlowCsv::new(text.as_bytes()).unwrap().advance(&mut record).unwrap());
        let expected = FlowRecord {
            began: Moment(1_500_000),
            lasted_us: 250_000,
            device: "a".into(),
            target: "b".into(),
            port: 80,
            carrier: Carrier::Tcp,
            tongue: Tongue::Http,
            bytes: [10, 20],
            chunks: [1, 2],
            end: End::Reset,
            ..FlowRecord::default()
        };
        assert_eq!(record, expected);
    }

    #[test]
    fn columns_may_come_in_any_order_and_more_of_them() {
        let text = "label,state,in_p,out_p,in_b,out_b,service,proto,dport,dst,peer,dur,ts\n1,ok,1,1,1,1,,udp,53,b,a,0,0\n";
        assert_eq!(play(text), Ok(1));
        assert_eq!(play(HEAD), Ok(0));
    }

    #[test]
    fn mistakes_are_told_with_line_and_column() {
        for (from, to, expected) in [
            ("1.5", "-1.5", "line 3: `ts` is `-1.5`, expected seconds, not negative"),
            ("1.5", "NaN", "line 3: `ts` is `NaN`, expected seconds, not negative"),
            ("0.25", "inf", "line 3: `dur` is `inf`, expected seconds, not negative"),
            (",10,", ",-10,", "line 3: `out_b` is `-10`, expected a count"),
            (",20,", ",-20,", "line 3: `in_b` is `-20`, expected a count"),
            (",1,2,", ",-1,2,", "line 3: `out_p` is `-1`, expected a count"),
            (",2,rst", ",-2,rst", "line 3: `in_p` is `-2`, expected a count"),
            (",10,", ",18446744073709551616,", "line 3: `out_b` is `18446744073709551616`, expected a count"),
            ("rst", "\"\u{1b}[31m\n\"", "line 3: `state` is `\\u{1b}[31m`, expected `ok`, `fail` or `rst`"),
            (",80,", ",80000,", "line 3: `dport` is `80000`, expected a port"),
            ("rst", "gone", "line 3: `state` is `gone`, expected `ok`, `fail` or `rst`"),
            (",a,", ",,", "line 3: `peer` is ``, expected a name of 1 to 255 bytes of UTF-8"),
            (
                ",20,1",
                "",
                "line 3: CSV error: record 2 (line: 3, byte: 103): found record with 10 fields, but the previous record has 12 fields",
            ),
        ] {
            let text = format!("{HEAD}{ROW}{}", ROW.replacen(from, to, 1));
            assert_eq!(play(&text), Err(expected.to_owned()));
        }
        let long = "a".repeat(FlowRecord::NAME_MAX);
        assert_eq!(play(&format!("{HEAD}{}", ROW.replacen(",a,", &format!(",{long},"), 1))), Ok(1));
        let longer = play(&format!("{HEAD}{}", ROW.replacen(",a,", &format!(",a{long},"), 1)));
        assert!(longer.unwrap_err().ends_with("expected a name of 1 to 255 bytes of UTF-8"));
        assert_eq!(play("a,b\n"), Err("the header has no column `ts`".to_owned()));
        assert_eq!(play(""), Err("the header has no column `ts`".to_owned()));
    }

    #[test]
    fn a_record_has_a_longest_length_and_nothing_is_kept_of_one_that_never_ends() {
        let max = usize::try_from(RECORD_MAX).unwrap();
        let fill = |row: &str, len: usize| {
            let more = len - row.len();
            row.replacen("http", &format!("http{}", "p".repeat(more)), 1)
        };
        let too_long = |line| format!("line {line}: the record that begins here is longer than 65536 bytes");
        assert_eq!(play(&format!("{HEAD}{}{ROW}", fill(ROW, max))), Ok(2));
        assert_eq!(play(&format!("{HEAD}{}{ROW}", fill(ROW, max + 1))), Err(too_long(2)));
        // At the end of the input, and without its own end.
        assert_eq!(play(&format!("{HEAD}{}", fill(ROW.trim_end(), max))), Ok(1));
        // A header, and a name in quotes that are never closed.
        let wide = |len: usize| format!("{},{}\n", HEAD.trim_end(), "x".repeat(len - HEAD.len() - 1));
        assert_eq!(play(&wide(max)), Ok(0));
        assert_eq!(play(&wide(max + 1)), Err(too_long(1)));
        let endless = HEAD.as_bytes().chain(&b"1,0,\""[..]).chain(io::repeat(b'x'));
        let mut feed = FlowCsv::new(endless).unwrap();
        let said = feed.advance(&mut FlowRecord::default()).map_err(|e| e.to_string());
        assert_eq!(said, Err(too_long(2)));
        let said = FlowCsv::new(io::repeat(b'\n')).err().map(|e| e.to_string());
        assert_eq!(said, Some(too_long(1)));
    }

    #[test]
    fn a_disk_that_fails_is_told_with_its_line() {
        struct Gone;
        impl Read for Gone {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let mut feed = FlowCsv::new(HEAD.as_bytes().chain(ROW.as_bytes()).chain(Gone)).unwrap();
        let mut record = FlowRecord::default();
        assert!(feed.advance(&mut record).unwrap());
        let said = feed.advance(&mut record).map_err(|e| e.to_string());
        assert_eq!(said, Err("line 3: the disk is gone".to_owned()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 1..300), at in 0..200_usize) {
            let mut text = format!("{HEAD}{ROW}{ROW}").into_bytes();
            let len = text.len();
            for (i, byte) in bytes.iter().take(4).enumerate() {
                text[(at + i) % len] = *byte;
            }
            for text in [&bytes, &text] {
                let Ok(mut feed) = FlowCsv::new(&text[..]) else { continue };
                while let Ok(true) = feed.advance(&mut FlowRecord::default()) {}
            }
        }
    }
}
