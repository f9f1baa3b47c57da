//! `countersign analyse replay`: recorded traffic in, a verdict for each record out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};

use crate::analyser::{Action, Engine, Keys, Moment, Settings, Verdict};
use crate::cli::MISTAKEN;
use crate::feeds::{FlowCsv, FlowCsvError, FlowRecord};

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
/// [`ReplayError`] at the first record that is none.
pub fn replay(
    args: &ReplayArgs,
    learn_until: Option<Moment>,
    input: impl Read,
    mut out: impl Write,
) -> Result<String, ReplayError> {
    let Format::Flows = args.format;
    let mut feed = FlowCsv::new(input)?;
    let mut engine = Engine::new(Settings { learn_until, ..Settings::default() });
    // A fixed seed: two replays of one file say the same.
    let keys = Keys::new([0, 0]);
    let mut names = Names::default();
    let mut hash = Sha256::new();
    let mut record = FlowRecord::default();
    let head = if args.explain { "row,score,verdict,rule,why\n" } else { "row,score,verdict,rule\n" };
    out.write_all(head.as_bytes()).map_err(ReplayError::Write)?;
    let mut row = 0_u64;
    while feed.advance(&mut record)? {
        let [open, close] = record.events(&keys, row);
        let verdict = worse(engine.on(&open), engine.on(&close));
        hash.update(verdict.score.to_bits().to_le_bytes());
        hash.update([verdict.action as u8, verdict.rule as u8]);
        let (score, word, rule) = (verdict.score, word(verdict.action), verdict.rule);
        write!(out, "{row},{score:.3},{word},{rule}").map_err(ReplayError::Write)?;
        if args.explain {
            names.add(&keys, &record);
            names.explain(&verdict, &record, &mut out).map_err(ReplayError::Write)?;
        }
        out.write_all(b"\n").map_err(ReplayError::Write)?;
        row += 1;
    }
    out.flush().map_err(ReplayError::Write)?;
    Ok(data_encoding::HEXLOWER.encode(&hash.finalize()))
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
        write!(out, ",\"{}\"", text.replace('"', "'"))
    }
}

const NAMES_MAX: usize = 100_000;

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
        let hash = replay(&args(explain), until, text.as_bytes(), &mut out).map_err(|e| e.to_string())?;
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
        assert!(acted[0].contains(",block,scan"), "{}", acted[0]);
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
        assert!(
            last.contains("peer=sensor service=svc-9:1039 rule=scan failed_first_contacts_1m="),
            "{last}"
        );
    }

    #[test]
    fn a_wrong_record_is_told_by_its_line() {
        let text = format!("{HEAD}1,0,a,b,80,tcp,,-4,0,1,1,ok\n");
        assert_eq!(play(&text, false), Err("line 2: `out_b` is `-4`, expected a count".to_owned()));
    }
}
