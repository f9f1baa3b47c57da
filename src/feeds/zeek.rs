//! Reads Zeek's `conn.log`, as tab-separated text or as lines of JSON, line after line in bounded memory.
//!
//! A log may be cut, joined or without its head (rotated logs are); the columns are those of the last `#fields` line,
//! or Zeek's usual ones. Flows of other transports than TCP and UDP are passed over and counted.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead};

use serde::Deserialize;

use super::FlowRecord;
use super::record::reach;
use crate::analyser::Moment;
use crate::analyser::event::{Carrier, End, Habit, Reach, Standing, Tongue};
use crate::audit::{Ending, Lines, READ_LINE_MAX};

/// How many columns a log may have; Zeek's own has 21, packages add a few.
pub const COLUMNS_MAX: usize = 256;

/// Why a log cannot be read on (the first two), or why one line of it is no flow (the others). Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZeekError {
    /// The file cannot be read.
    #[error("zeek log, line {line}: {error}")]
    Read {
        /// The line it was in.
        line: u64,
        /// Why it ends there.
        error: io::Error,
    },
    /// A `#fields`, `#path` or `#separator` line that cannot be used.
    #[error("zeek log, line {line}: {what}")]
    Head {
        /// Its number.
        line: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Longer than [`READ_LINE_MAX`].
    #[error("zeek log, line {line}: it is longer than {READ_LINE_MAX} bytes")]
    TooLong {
        /// Its number.
        line: u64,
    },
    /// Neither text nor JSON.
    #[error("zeek log, line {line}: {what}")]
    Line {
        /// Its number.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A field that says something impossible, or nothing where something must be said.
    #[error("zeek log, line {line}: `{field}` is {found}, expected {expected}")]
    Field {
        /// The line's number.
        line: u64,
        /// The field's name.
        field: &'static str,
        /// What it says, cut short.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl ZeekError {
    /// Whether nothing more can be read after it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Head { .. })
    }
}

/// Reads the flows of a log.
pub struct Flows<R> {
    lines: Lines<R>,
    columns: Vec<Option<Column>>,
    columns_min: usize,
    separator: u8,
    unset: Vec<u8>,
    passed: u64,
    done: bool,
}

impl<R: BufRead> Flows<R> {
    /// From the start of a log.
    pub fn new(input: R) -> Self {
        Self {
            lines: Lines::new(input),
            columns: USUAL.iter().map(|name| Column::named(name)).collect(),
            columns_min: USUAL.len() - 1,
            separator: b'\t',
            unset: b"-".to_vec(),
            passed: 0,
            done: false,
        }
    }

    /// Reads the next flow into `record`; false at the end. After an error that is not final the next line can be read.
    ///
    /// # Errors
    /// [`ZeekError`] with the number of the line.
    pub fn advance(&mut self, record: &mut FlowRecord) -> Result<bool, ZeekError> {
        while !self.done {
            let found = self.step(record);
            match &found {
                Ok(Step::Passed) => {}
                Ok(Step::Flow) => return Ok(true),
                Ok(Step::End) => self.done = true,
                Err(error) => {
                    self.done = error.is_final();
                    return found.map(|_| false);
                }
            }
        }
        Ok(false)
    }

    /// How many bytes were read so far.
    pub fn offset(&self) -> u64 {
        self.lines.offset()
    }

    /// How many flows were passed over: neither TCP nor UDP.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    fn step(&mut self, record: &mut FlowRecord) -> Result<Step, ZeekError> {
        let ending = self.lines.advance();
        let line = self.lines.number();
        let ending = ending.map_err(|error| ZeekError::Read { line: line + 1, error })?;
        match ending {
            None => return Ok(Step::End),
            Some(Ending::TooLong) => return Err(ZeekError::TooLong { line }),
            Some(Ending::Whole | Ending::Torn) => {}
        }
        let bytes = self.lines.line();
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let told = if let Some(head) = bytes.strip_prefix(b"#") {
            let head = head.to_vec();
            self.head(&head).map_err(|what| ZeekError::Head { line, what })?;
            return Ok(Step::Passed);
        } else if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Step::Passed);
        } else if bytes.starts_with(b"{") {
            let what =
                |e: serde_json::Error| ZeekError::Line { line, what: format!("no JSON of a flow: {e}") };
            let row: Row<'_> = serde_json::from_slice(bytes).map_err(what)?;
            if row.path.as_deref().is_some_and(|path| path != "conn") {
                return Ok(Step::Passed);
            }
            row.fill(record)
        } else {
            let row = self.row(bytes).map_err(|what| ZeekError::Line { line, what: what.into() })?;
            row.fill(record)
        };
        match told {
            Ok(true) => Ok(Step::Flow),
            Ok(false) => {
                self.passed += 1;
                Ok(Step::Passed)
            }
            Err(Wrong { field, found, expected }) => Err(ZeekError::Field { line, field, found, expected }),
        }
    }

    /// Takes a line that began with `#`.
    fn head(&mut self, line: &[u8]) -> Result<(), &'static str> {
        if let Some(said) = line.strip_prefix(b"separator ") {
            self.separator = separator(said).ok_or("`#separator` is not one byte")?;
        }
        let mut words = line.split(|b| *b == self.separator);
        match words.next() {
            Some(b"path") if words.next() != Some(b"conn") => {
                return Err("`#path` names another log than `conn`");
            }
            Some(b"unset_field") => self.unset = words.next().unwrap_or(b"-").to_vec(),
            Some(b"fields") => {
                let columns: Vec<_> = words.take(COLUMNS_MAX + 1).map(column).collect();
                if columns.len() > COLUMNS_MAX {
                    return Err("`#fields` names too many columns");
                }
                if !columns.contains(&Some(Column::OrigHost)) {
                    return Err("`#fields` names no `id.orig_h`: it is no conn.log");
                }
                self.columns_min = columns.len();
                self.columns = columns;
            }
            _ => {}
        }
        Ok(())
    }

    fn row<'a>(&self, line: &'a [u8]) -> Result<Row<'a>, &'static str> {
        let line = std::str::from_utf8(line).map_err(|_| "it is no UTF-8")?;
        let mut row = Row::default();
        let mut count = 0;
        for (text, column) in line.split(char::from(self.separator)).zip(&self.columns) {
            count += 1;
            let Some(column) = column else { continue };
            if text.as_bytes() != self.unset && text != EMPTY {
                row.set(*column, text);
            }
        }
        // A line cut short would otherwise pass for a flow without bytes.
        if count < self.columns_min { Err("it has too few columns") } else { Ok(row) }
    }
}

/// Reads every line of `bytes`: how many flows, how many lines that are none. Fuzzed as `zeek`.
pub fn parse_zeek(bytes: &[u8]) -> (u64, u64) {
    let mut flows = Flows::new(bytes);
    let mut record = FlowRecord::default();
    let (mut good, mut bad) = (0, 0);
    loop {
        match flows.advance(&mut record) {
            Ok(true) => good += 1,
            Ok(false) => return (good, bad),
            Err(_) => bad += 1,
        }
    }
}

enum Step {
    Flow,
    Passed,
    End,
}

/// The fields of a flow that are used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Column {
    Time,
    OrigHost,
    RespHost,
    RespPort,
    Transport,
    Service,
    Duration,
    OrigBytes,
    RespBytes,
    State,
    OrigPackets,
    RespPackets,
}

impl Column {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ts" => Self::Time,
            "id.orig_h" => Self::OrigHost,
            "id.resp_h" => Self::RespHost,
            "id.resp_p" => Self::RespPort,
            "proto" => Self::Transport,
            "service" => Self::Service,
            "duration" => Self::Duration,
            "orig_bytes" => Self::OrigBytes,
            "resp_bytes" => Self::RespBytes,
            "conn_state" => Self::State,
            "orig_pkts" => Self::OrigPackets,
            "resp_pkts" => Self::RespPackets,
            _ => return None,
        })
    }
}

fn column(name: &[u8]) -> Option<Column> {
    Column::named(std::str::from_utf8(name).ok()?)
}

/// `\x09`, or the byte itself.
fn separator(said: &[u8]) -> Option<u8> {
    match said {
        [byte] if byte.is_ascii() => Some(*byte),
        [b'\\', b'x', hex @ ..] if hex.len() == 2 => {
            u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok().filter(u8::is_ascii)
        }
        _ => None,
    }
}

/// A value as either form has it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Cell<'a> {
    Number(serde_json::Number),
    Text(#[serde(borrow)] Cow<'a, str>),
}

/// One line, not yet believed.
#[derive(Debug, Default, Deserialize)]
struct Row<'a> {
    #[serde(borrow, rename = "_path")]
    path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ts: Option<Cell<'a>>,
    #[serde(borrow, rename = "id.orig_h")]
    orig_host: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "id.resp_h")]
    resp_host: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "id.resp_p")]
    resp_port: Option<Cell<'a>>,
    #[serde(borrow)]
    proto: Option<Cow<'a, str>>,
    #[serde(borrow)]
    service: Option<Cow<'a, str>>,
    #[serde(borrow)]
    duration: Option<Cell<'a>>,
    #[serde(borrow)]
    orig_bytes: Option<Cell<'a>>,
    #[serde(borrow)]
    resp_bytes: Option<Cell<'a>>,
    #[serde(borrow)]
    conn_state: Option<Cow<'a, str>>,
    #[serde(borrow)]
    orig_pkts: Option<Cell<'a>>,
    #[serde(borrow)]
    resp_pkts: Option<Cell<'a>>,
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A field that cannot be believed.
struct Wrong {
    field: &'static str,
    found: String,
    expected: &'static str,
}

impl<'a> Row<'a> {
    fn set(&mut self, column: Column, text: &'a str) {
        let text = Cow::Borrowed(text);
        match column {
            Column::Time => self.ts = Some(Cell::Text(text)),
            Column::OrigHost => self.orig_host = Some(text),
            Column::RespHost => self.resp_host = Some(text),
            Column::RespPort => self.resp_port = Some(Cell::Text(text)),
            Column::Transport => self.proto = Some(text),
            Column::Service => self.service = Some(text),
            Column::Duration => self.duration = Some(Cell::Text(text)),
            Column::OrigBytes => self.orig_bytes = Some(Cell::Text(text)),
            Column::RespBytes => self.resp_bytes = Some(Cell::Text(text)),
            Column::State => self.conn_state = Some(text),
            Column::OrigPackets => self.orig_pkts = Some(Cell::Text(text)),
            Column::RespPackets => self.resp_pkts = Some(Cell::Text(text)),
        }
    }

    /// Whether it is a flow of TCP or UDP.
    fn fill(&self, record: &mut FlowRecord) -> Result<bool, Wrong> {
        record.carrier = match self.proto.as_deref() {
            Some("tcp") => Carrier::Tcp,
            Some("udp") => Carrier::Udp,
            Some(_) => return Ok(false),
            None => return Err(wrong("proto", None, "a transport")),
        };
        record.began = time(self.ts.as_ref())?;
        record.lasted_us = Moment::from_secs(decimal("duration", self.duration.as_ref())?).0;
        name("id.orig_h", self.orig_host.as_deref(), &mut record.device)?;
        name("id.resp_h", self.resp_host.as_deref(), &mut record.target)?;
        if self.resp_port.is_none() {
            return Err(wrong("id.resp_p", None, "a port"));
        }
        let port = count("id.resp_p", self.resp_port.as_ref())?;
        record.port = u16::try_from(port).map_err(|_| wrong("id.resp_p", Some(&port), "a port"))?;
        record.tongue = tongue(self.service.as_deref().unwrap_or_default());
        record.bytes =
            [count("orig_bytes", self.orig_bytes.as_ref())?, count("resp_bytes", self.resp_bytes.as_ref())?];
        let packets = |field, cell| Ok(u32::try_from(count(field, cell)?).unwrap_or(u32::MAX));
        record.chunks =
            [packets("orig_pkts", self.orig_pkts.as_ref())?, packets("resp_pkts", self.resp_pkts.as_ref())?];
        record.standing = Standing::Unknown;
        record.habit = Habit { certificate_age_h: u16::MAX, ..Habit::default() };
        record.end = end(self.conn_state.as_deref().unwrap_or_default());
        if record.end == End::Timeout && reach(&record.target) == Reach::Many {
            // Nobody answers a group.
            record.end = End::Fin;
        }
        Ok(true)
    }
}

/// Zeek's documented connection states (base/protocols/conn/main.zeek).
fn end(state: &str) -> End {
    match state {
        "S0" | "SH" => End::Timeout,
        "REJ" | "RSTOS0" | "RSTRH" | "SHR" => End::Refused,
        "RSTO" | "RSTR" => End::Reset,
        // S1, S2, S3, SF, OTH: there was a conversation, or nothing bad is known of it.
        _ => End::Fin,
    }
}

/// Zeek's names of what is spoken. It joins several with commas; the first known one counts.
fn tongue(service: &str) -> Tongue {
    let known = |word: &str| {
        Some(match word {
            "ssl" | "quic" => Tongue::Tls,
            "http" => Tongue::Http,
            "http2" | "grpc" => Tongue::Http2,
            "mqtt" => Tongue::Mqtt,
            "ssh" => Tongue::Ssh,
            "dns" => Tongue::Dns,
            "postgresql" => Tongue::Postgres,
            "mysql" => Tongue::Mysql,
            "redis" => Tongue::Redis,
            "kafka" => Tongue::Kafka,
            "rdp" => Tongue::Rdp,
            _ => return None,
        })
    };
    service.split(',').find_map(known).unwrap_or_default()
}

fn name(field: &'static str, said: Option<&str>, into: &mut String) -> Result<(), Wrong> {
    match said {
        Some(text) if !text.is_empty() && text.len() <= FlowRecord::NAME_MAX => {
            into.clear();
            into.push_str(text);
            Ok(())
        }
        _ => Err(wrong(field, said.as_ref().map(|s| s as &dyn fmt::Display), "an address")),
    }
}

/// Seconds since the epoch; milliseconds when it is that large; or a time of ISO 8601.
fn time(cell: Option<&Cell<'_>>) -> Result<Moment, Wrong> {
    if let Some(Cell::Text(text)) = cell
        && let Some(moment) = super::iso::moment(text)
    {
        return Ok(moment);
    }
    if cell.is_none() {
        return Err(wrong("ts", None, "a time"));
    }
    let said = decimal("ts", cell)?;
    Ok(Moment::from_secs(if said >= MILLISECONDS_FROM { said / 1000.0 } else { said }))
}

/// A decimal that is not negative; nothing said is 0.
fn decimal(field: &'static str, cell: Option<&Cell<'_>>) -> Result<f64, Wrong> {
    let value = match cell {
        None => Some(0.0),
        Some(Cell::Number(number)) => number.as_f64(),
        Some(Cell::Text(text)) => text.parse().ok(),
    };
    value
        .filter(|v| v.is_finite() && *v >= 0.0)
        .ok_or_else(|| wrong(field, cell.map(|c| c as &dyn fmt::Display), "a decimal number, 0 or more"))
}

/// A whole number that is not negative; nothing said is 0.
fn count(field: &'static str, cell: Option<&Cell<'_>>) -> Result<u64, Wrong> {
    let value = match cell {
        None => Some(0),
        Some(Cell::Number(number)) => number.as_u64(),
        Some(Cell::Text(text)) => text.parse().ok(),
    };
    value.ok_or_else(|| wrong(field, cell.map(|c| c as &dyn fmt::Display), "a whole number, 0 or more"))
}

fn wrong(field: &'static str, found: Option<&dyn fmt::Display>, expected: &'static str) -> Wrong {
    let found = found.map_or_else(
        || "not there".to_owned(),
        |found| format!("`{}`", found.to_string().chars().take(FOUND_MAX).collect::<String>().escape_debug()),
    );
    Wrong { field, found, expected }
}

/// Zeek's columns, for logs without a head.
const USUAL: [&str; 21] = [
    "ts",
    "uid",
    "id.orig_h",
    "id.orig_p",
    "id.resp_h",
    "id.resp_p",
    "proto",
    "service",
    "duration",
    "orig_bytes",
    "resp_bytes",
    "conn_state",
    "local_orig",
    "local_resp",
    "missed_bytes",
    "history",
    "orig_pkts",
    "orig_ip_bytes",
    "resp_pkts",
    "resp_ip_bytes",
    "tunnel_parents",
];
const EMPTY: &str = "(empty)";
/// Zeek can write milliseconds; as seconds this would be the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;
/// How much of a wrong field is shown, in characters.
const FOUND_MAX: usize = 40;

#[cfg(test)]
#[path = "zeek_tests.rs"]
mod tests;
