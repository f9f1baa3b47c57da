//! `countersign analyse replay`: recorded traffic in, a verdict for each record out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};

use super::progress::Progress;
use crate::analyser::event::FlowKey;
use crate::analyser::{Action, Engine, Keys, Moment, Settings, Verdict};
use crate::cli::MISTAKEN;
use crate::feeds::{Bounds, Feed, FeedError, FlowCsv, FlowCsvError, FlowRecord};

/// Arguments of `countersign analyse replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// What the input is
    #[arg(long, value_enum, default_value_t = Format::Flows)]
    pub format: Format,
    /// Say in a fifth column why
    #[arg(long)]
    pub explain: bool,
    /// Learn until this moment (seconds since 1970) and enforce from then on [env: JUDGE_LEARN_UNTIL]
    #[arg(long, value_name = "EPOCH")]
    pub learn_until: Option<f64>,
    /// Print a hash of all verdicts to standard error at the end
    #[arg(long)]
    pub hash: bool,
    /// The file; standard input without one
    pub file: Option<PathBuf>,
}

/// What an input is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// Flow records as CSV: `ts dur peer dst dport proto service out_b in_b out_p in_p state`
    Flows,
    /// A packet capture, pcap or pcapng
    Pcap,
    /// Zeek's `conn.log`, tab-separated or JSON
    Zeek,
    /// A segment of a sidecar's audit log
    Audit,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The file does not open.
    #[error("`{}`: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record is none.
    #[error(transparent)]
    Record(#[from] FlowCsvError),
    /// A capture or a log cannot be read on.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The moment at which learning ends is no number.
    #[error("`JUDGE_LEARN_UNTIL` is `{text}`, expected seconds since 1970")]
    Until {
        /// What it is.
        text: String,
    },
    /// Verdicts cannot be written.
    #[error("standard output: {0}")]
    Write(io::Error),
}

/// Runs it on this process's files and streams.
pub fn run(args: &ReplayArgs) -> ExitCode {
    let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match open(args).and_then(|input| replay(args, until(args)?, input, out)) {
        Ok(hash) => {
            if args.hash {
                eprintln!("{hash}");
            }
            ExitCode::SUCCESS
        }
        // Who reads no further has seen enough.
        Err(ReplayError::Write(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("countersign: {e}");
            ExitCode::from(MISTAKEN)
        }
    }
}

fn until(args: &ReplayArgs) -> Result<Option<Moment>, ReplayError> {
    let said = match (args.learn_until, std::env::var("JUDGE_LEARN_UNTIL")) {
        (Some(secs), _) => Some(secs),
        (None, Ok(text)) => {
            Some(text.parse().ok().filter(|s: &f64| s.is_finite()).ok_or(ReplayError::Until { text })?)
        }
        (None, Err(_)) => None,
    };
    Ok(said.map(Moment::from_secs))
}

fn open(args: &ReplayArgs) -> Result<Box<dyn Read>, ReplayError> {
    Ok(match &args.file {
        Some(path) => {
            Box::new(File::open(path).map_err(|source| ReplayError::Open { path: path.clone(), source })?)
        }
        None => Box::new(io::stdin().lock()),
    })
}

/// Plays the records of `input` and writes a line for each; the hash of all verdicts, in hexadecimal.
///
/// # Errors
/// [`ReplayError`] at the first flow record of CSV that is none, or where another form cannot be read on.
pub fn replay(
    args: &ReplayArgs,
    learn_until: Option<Moment>,
    input: impl Read + 'static,
    out: impl Write,
) -> Result<String, ReplayError> {
    let mut engine = Engine::new(Settings { learn_until, ..Settings::default() });
    // A fixed seed: two replays of one file say the same.
    let keys = Keys::new([0, 0]);
    let mut rows = Rows::new(out, args.explain)?;
    let input = Watched { input, read: 0, progress: Progress::new(len(args)) };
    let feed = match args.format {
        Format::Flows => {
            let mut feed = FlowCsv::new(input)?;
            let mut record = FlowRecord::default();
            while feed.advance(&mut record)? {
                let [open, close] = record.events(&keys, rows.count);
                rows.write(&keys, worse(engine.on(&open), engine.on(&close)), &record)?;
            }
            return rows.finish();
        }
        // What a capture's first payloads look like is not told: nothing declares what its services speak.
        Format::Pcap => Feed::pcap(input, Bounds::default(), keys, |_, _| None)?,
        Format::Zeek => Feed::zeek(BufReader::new(input), keys),
        Format::Audit => Feed::audit(BufReader::new(input), keys),
    };
    let ended = follow(feed, &mut engine, &keys, &mut rows);
    let hash = rows.finish()?;
    ended.map(|()| hash)
}

/// Plays a stream to its end. A line of a log that is none is told and passed over; a capture that breaks off is an
/// error, after the flows that were open.
fn follow(
    mut feed: Feed,
    engine: &mut Engine,
    keys: &Keys,
    rows: &mut Rows<impl Write>,
) -> Result<(), ReplayError> {
    // The worst that was said of each open flow; the readers bound how many there are.
    let mut worst: HashMap<FlowKey, Verdict> = HashMap::new();
    let (mut heard, mut told, mut wrong, mut broken) = (Vec::new(), Vec::new(), 0_u64, None);
    loop {
        match feed.advance(&mut heard) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) if error.is_final() => broken = Some(error),
            Err(error) => {
                wrong += 1;
                if told.len() < TOLD_MAX {
                    told.push(error);
                }
            }
        }
        for heard in heard.drain(..) {
            let verdict = engine.on(&heard.event);
            let Some(flow) = heard.event.flow() else { continue };
            match heard.record {
                None => {
                    let known = worst.entry(flow).or_default();
                    *known = worse(verdict, *known);
                }
                Some(record) => {
                    let before = worst.remove(&flow).unwrap_or_default();
                    rows.write(keys, worse(verdict, before), &record)?;
                }
            }
        }
    }
    let left_out = feed.left_out();
    // The progress line goes first.
    drop(feed);
    for error in told {
        eprintln!("countersign: {error}");
    }
    if wrong > 0 {
        eprintln!("countersign: {wrong} lines passed over");
    }
    for (count, what) in left_out {
        eprintln!("countersign: left out: {count} {what}");
    }
    broken.map_or(Ok(()), |error| Err(error.into()))
}

/// How long the input is, where that can be known.
fn len(args: &ReplayArgs) -> Option<u64> {
    args.file.as_ref().and_then(|path| std::fs::metadata(path).ok()).filter(|m| m.is_file()).map(|m| m.len())
}

/// Shows how far the input is read.
struct Watched<R> {
    input: R,
    read: u64,
    progress: Progress,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.input.read(space) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.read += read as u64;
        self.progress.at(self.read);
        Ok(read)
    }
}

/// Writes a line for each record, and hashes the verdicts.
struct Rows<W> {
    out: W,
    explain: bool,
    names: Names,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Rows<W> {
    fn new(mut out: W, explain: bool) -> Result<Self, ReplayError> {
        let head = if explain { "row,score,verdict,rule,why\n" } else { "row,score,verdict,rule\n" };
        out.write_all(head.as_bytes()).map_err(ReplayError::Write)?;
        Ok(Self { out, explain, names: Names::default(), hash: Sha256::new(), count: 0 })
    }

    fn write(&mut self, keys: &Keys, verdict: Verdict, record: &FlowRecord) -> Result<(), ReplayError> {
        self.hash.update(verdict.score.to_bits().to_le_bytes());
        self.hash.update([verdict.action as u8, verdict.rule as u8]);
        let (row, score, word, rule) = (self.count, verdict.score, word(verdict.action), verdict.rule);
        write!(self.out, "{row},{score:.3},{word},{rule}").map_err(ReplayError::Write)?;
        if self.explain {
            self.names.add(keys, record);
            self.names.explain(&verdict, record, &mut self.out).map_err(ReplayError::Write)?;
        }
        self.count += 1;
        self.out.write_all(b"\n").map_err(ReplayError::Write)
    }

    fn finish(mut self) -> Result<String, ReplayError> {
        self.out.flush().map_err(ReplayError::Write)?;
        Ok(data_encoding::HEXLOWER.encode(&self.hash.finalize()))
    }
}

fn worse(a: Verdict, b: Verdict) -> Verdict {
    if (a.action, a.score) > (b.action, b.score) { a } else { b }
}

/// The four words of a replay: what holds or slows is `throttle`, what ends is `block`.
fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Throttle | Action::Tarpit => "throttle",
        Action::Kill | Action::Prove => "block",
        Action::Quarantine => "quarantine",
    }
}

/// The names of services that verdicts speak of; the first [`NAMES_MAX`] of them.
#[derive(Debug, Default)]
struct Names(HashMap<u64, String>);

impl Names {
    fn add(&mut self, keys: &Keys, record: &FlowRecord) {
        if self.0.len() < NAMES_MAX {
            let key = keys.service(&record.target, record.port, record.carrier).0;
            self.0.entry(key).or_insert_with(|| format!("{}:{}", record.target, record.port));
        }
    }

    fn explain(&self, verdict: &Verdict, record: &FlowRecord, out: &mut impl Write) -> io::Result<()> {
        let Some(why) = &verdict.why else { return out.write_all(b",") };
        let service = self.0.get(&why.service.0).map_or("?", String::as_str);
        let text = format!("peer={} service={service} {why}", record.device);
        // A name is a stranger's: nothing of it ends the field, or reaches a terminal.
        let text = text.replace('"', "'").replace(char::is_control, "?");
        write!(out, ",\"{text}\"")
    }
}

const NAMES_MAX: usize = 100_000;
/// How many lines that are none are told one by one.
const TOLD_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "ts,dur,peer,dst,dport,proto,service,out_b,in_b,out_p,in_p,state\n";

    fn args(explain: bool) -> ReplayArgs {
        ReplayArgs { format: Format::Flows, explain, learn_until: None, hash: true, file: None }
    }

    /// A day of one device with three services, then a scan of forty ports that refuse.
    fn day() -> String {
        let mut text = HEAD.to_owned();
        for i in 0..2000 {
            let (at, service) = (i * 40, i % 3);
            text.push_str(&format!(
                "{at},0.1,sensor,svc-{service},443,tcp,ssl,{},4000,9,9,ok\n",
                500 + i % 50
            ));
        }
        for i in 0..40 {
            text.push_str(&format!("{}.5,0.0,sensor,svc-9,{},tcp,,0,0,1,1,fail\n", 80_000 + i, 1000 + i));
        }
        text
    }

    fn play(text: &str, explain: bool) -> Result<(String, String), String> {
        let mut out = Vec::new();
        let until = Some(Moment::from_secs(40_000.0));
        let hash = replay(&args(explain), until, std::io::Cursor::new(text.to_owned()), &mut out)
            .map_err(|e| e.to_string())?;
        Ok((String::from_utf8(out).unwrap(), hash))
    }

    #[test]
    fn a_scan_is_blocked_and_the_day_before_it_is_not() {
        let (out, _) = play(&day(), false).unwrap();
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), 2041);
        assert_eq!(lines[0], "row,score,verdict,rule");
        let acted: Vec<_> =
            lines.iter().filter(|l| !l.contains(",allow,") && !l.starts_with("row")).collect();
        assert!(
            acted.iter().all(|l| l.split(',').next().unwrap().parse::<u32>().unwrap() >= 2000),
            "{acted:?}"
        );
        assert!(acted.len() >= 25, "{}", acted.len());
        assert!(acted.iter().any(|l| l.ends_with(",scan")), "{acted:?}");
    }

    #[test]
    fn two_replays_say_the_same_and_another_file_another() {
        let hash = |text: &str| play(text, false).unwrap().1;
        assert_eq!(hash(&day()), hash(&day()));
        assert_ne!(hash(&day()), hash(&day().replacen("500,4000", "600,4000", 1)));
    }

    #[test]
    fn an_explanation_names_the_service_and_the_figures() {
        let (out, _) = play(&day(), true).unwrap();
        let last = out.lines().last().unwrap();
        assert!(last.contains("peer=sensor service=svc-9:1039 rule=scan failed_first_contacts_"), "{last}");
    }

    #[test]
    fn every_format_gives_a_row_per_flow() {
        let args = |format| ReplayArgs { format, ..args(false) };
        let rows = |format, text: String| {
            let mut out = Vec::new();
            let done = replay(&args(format), None, std::io::Cursor::new(text), &mut out);
            (String::from_utf8(out).unwrap().lines().count() - 1, done.map_err(|e| e.to_string()))
        };
        let flow = "1\tC\t10.0.0.1\t9\t10.0.0.2\t80\ttcp\t-\t1\t2\t3\tSF\tT\tF\t0\tS\t1\t1\t1\t1\n";
        let (count, done) = rows(Format::Zeek, format!("{flow}nonsense\n{flow}"));
        assert!(count == 2 && done.is_ok());
        let entry = "{\"seq\":0,\"time\":\"2023-11-14T22:13:20.000Z\",\"kind\":\"deny\",\"device\":\"d\",\"service\":\"s\"}\n";
        let (count, done) = rows(Format::Audit, entry.repeat(3));
        assert!(count == 3 && done.is_ok());
        let (count, done) = rows(Format::Pcap, "nonsense".into());
        assert_eq!(
            (count, done),
            (0, Err("no pcap and no pcapng file: it begins with `6e6f6e73`".to_owned()))
        );
    }

    #[test]
    fn a_capture_gives_a_row_for_each_flow_and_one_that_is_cut_tells_what_it_held() {
        use crate::feeds::support::{Frame, capture, tcp};
        let frame =
            |n: u16, flags| Frame::at(u64::from(n), tcp(&format!("10.0.0.1:{n}"), "10.0.0.2:80", flags, b""));
        let frames: Vec<_> = (1..=20).map(|n| frame(n, "S")).collect();
        let whole = capture(1, false, false, &frames);
        let args = ReplayArgs { format: Format::Pcap, ..args(true) };
        let play = |bytes: &[u8]| {
            let mut out = Vec::new();
            let done = replay(&args, None, std::io::Cursor::new(bytes.to_vec()), &mut out);
            (String::from_utf8(out).unwrap().lines().count() - 1, done.map_err(|e| e.to_string()))
        };
        assert!(matches!(play(&whole), (20, Ok(_))));
        let (count, done) = play(&whole[..whole.len() - 1]);
        assert_eq!(count, 19);
        assert!(done.unwrap_err().contains("it ends in the middle of a block"));
    }

    #[test]
    fn nothing_of_a_name_reaches_a_terminal_or_breaks_a_row() {
        let text = day().replace(",sensor,", ",\"sen\u{1b}[31m\"\"\nsor\",");
        let (out, _) = play(&text, true).unwrap();
        assert_eq!(out.lines().count(), 2041);
        assert!(out.contains(",\"peer=sen?[31m'?sor service=") && !out.contains('\u{1b}'), "{out}");
    }

    #[test]
    fn a_wrong_record_is_told_by_its_line() {
        let text = format!("{HEAD}1,0,a,b,80,tcp,,-4,0,1,1,ok\n");
        assert_eq!(play(&text, false), Err("line 2: `out_b` is `-4`, expected a count".to_owned()));
    }
}
