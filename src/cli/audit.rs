//! `countersign audit`: read the log, check it, ask it why.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::MISTAKEN;
use crate::audit::{FOUND_MAX, Line, QueryError, Row, Verifier, VerifyError, Wanted};
use crate::audit::{check, public_path, read_checkpoint, tail, why};
use crate::config::{self, Mistakes};
use crate::model::{DecisionId, FlowId, Reason, SpiffeId};

/// Read the audit log, check it, ask it why.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the newest entries, one line each
    Tail(TailArgs),
    /// Check every entry against the signed checkpoint; exit 1 when anything is wrong
    Verify(VerifyArgs),
    /// Show everything about one decision, or one flow of the present run; exit 1 when there is nothing
    Why(WhyArgs),
}

/// `countersign audit tail`.
#[derive(Args, Debug)]
pub struct TailArgs {
    #[command(flatten)]
    log: LogArgs,
    /// How many entries
    #[arg(short, value_name = "COUNT", default_value_t = 20)]
    n: usize,
    /// Go on and show new entries as they come
    #[arg(short, long)]
    follow: bool,
    /// Only denials, blocks and revoked flows
    #[arg(long)]
    denied: bool,
    /// Lines of JSON
    #[arg(long)]
    json: bool,
}

/// `countersign audit verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    log: LogArgs,
    /// The public half of the signing key, best a copy kept elsewhere [default: where the configuration has it, else
    /// `audit.pub`]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A signed checkpoint seen earlier and kept elsewhere: shows a log that was rolled back or rewritten
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

/// `countersign audit why`.
#[derive(Args, Debug)]
pub struct WhyArgs {
    /// A decision id as the refusal showed it, or a flow such as `f12`
    id: String,
    #[command(flatten)]
    log: LogArgs,
}

/// Which log.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// The folder of the log [default: `audit`]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The configuration of the sidecar whose log it is, instead of the folder
    #[arg(long, short, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
}

impl LogArgs {
    /// Its folder, and the public half of its key.
    fn places(&self) -> Result<(PathBuf, PathBuf), AuditError> {
        match &self.config {
            Some(file) => {
                let audit = config::load(file)?.audit;
                Ok((audit.dir, public_path(&audit.key)))
            }
            None => Ok((self.dir.clone().unwrap_or_else(|| "audit".into()), "audit.pub".into())),
        }
    }
}

/// Runs the command on stdout.
pub fn run(command: &Command) -> ExitCode {
    let mut out = io::stdout().lock();
    match execute(command, &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // `| head` has seen enough.
        Err(AuditError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(AuditError::Config(mistakes)) => {
            eprintln!("{mistakes}");
            ExitCode::from(MISTAKEN)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command; whether the answer is a good one.
///
/// # Errors
/// [`AuditError`] when the question cannot be answered.
pub fn execute(command: &Command, out: &mut impl Write) -> Result<bool, AuditError> {
    match command {
        Command::Tail(args) => run_tail(args, out),
        Command::Verify(args) => run_verify(args, out),
        Command::Why(args) => run_why(args, out),
    }
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The configuration that would name the log has mistakes.
    #[error(transparent)]
    Config(#[from] Mistakes),
    /// Neither a decision id nor a flow.
    #[error("`{0}` is no decision id (26 characters) and no flow (`f` and a number)")]
    Id(String),
    /// The verifier key cannot be read.
    #[error("`{}`: {what}; the sidecar writes it beside the signing key, give its path with `--key`", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The saved checkpoint cannot be used.
    #[error("saved checkpoint: {0}")]
    Saved(VerifyError),
    /// The output is gone.
    #[error("the answer cannot be written: {0}")]
    Write(#[from] io::Error),
}

fn run_tail(args: &TailArgs, out: &mut impl Write) -> Result<bool, AuditError> {
    let wanted = |line: &Line<'_>| !args.denied || matches!(&*line.kind, "deny" | "block" | "revoke");
    let (rows, mut place) = tail(&args.log.places()?.0, args.n, wanted)?;
    for row in &rows {
        show_row(row, args.json, out)?;
    }
    out.flush()?;
    if !args.follow {
        return Ok(true);
    }
    loop {
        std::thread::sleep(FOLLOW_PAUSE);
        let mut shown = Ok(());
        place.advance(|row| {
            if shown.is_ok() && row.as_ref().map_or(true, &wanted) {
                shown = show_row(&row, args.json, out);
            }
        })?;
        shown?;
        out.flush()?;
    }
}

fn run_verify(args: &VerifyArgs, out: &mut impl Write) -> Result<bool, AuditError> {
    let (dir, key) = args.log.places()?;
    let key = read_key(args.key.as_ref().unwrap_or(&key))?;
    // Before the log's own checkpoint, so that a log being written cannot look older than the saved one.
    let saved = args.checkpoint.as_ref().map(|path| read_checkpoint(path, &key)).transpose();
    let saved = saved.map_err(AuditError::Saved)?;
    let found = match check(&dir, &key, saved.as_ref()) {
        Ok(found) => found,
        Err(error) => {
            writeln!(out, "INTEGRITY    broken: {error}")?;
            writeln!(out, "COMPLETENESS unknown: the log cannot be checked")?;
            return Ok(false);
        }
    };
    let size = found.checkpoint.size;
    match &found.integrity {
        Ok(()) if found.completeness.is_ok() => {
            writeln!(out, "INTEGRITY    ok: {size} entries give the signed root")?;
        }
        Ok(()) => writeln!(out, "INTEGRITY    ok: the entries that are there are unchanged")?,
        Err(what) => writeln!(out, "INTEGRITY    broken: {what}")?,
    }
    match &found.completeness {
        Ok(()) => writeln!(out, "COMPLETENESS ok: gaps: none")?,
        Err(what) => writeln!(out, "COMPLETENESS broken: {what}")?,
    }
    if found.newer > 0 {
        writeln!(out, "note: {} newer entries are not yet under a checkpoint", found.newer)?;
    }
    if let Some(cut) = &found.cut {
        let (bytes, line) = (cut.bytes, cut.line);
        writeln!(
            out,
            "note: the last {bytes} bytes of `{}`, line {line}, are no entry yet",
            cut.file.display()
        )?;
    }
    if saved.is_none() {
        writeln!(out, "note: only a checkpoint kept elsewhere shows a roll back: `--checkpoint FILE`")?;
    }
    Ok(found.integrity.is_ok() && found.completeness.is_ok())
}

fn run_why(args: &WhyArgs, out: &mut impl Write) -> Result<bool, AuditError> {
    let wanted = parse_wanted(&args.id)?;
    let found = why(&args.log.places()?.0, wanted)?;
    if found.is_empty() {
        writeln!(out, "nothing in the log about {}", printable(&args.id))?;
        match wanted {
            Wanted::Decision(_) => writeln!(
                out,
                "next: a denial above the rate has no entry of its own, only a count: `countersign audit tail --denied`"
            )?,
            Wanted::Flow(_) => {
                writeln!(out, "next: flows are numbered anew at each start; ask for the decision id")?
            }
        }
        return Ok(false);
    }
    for line in &found {
        show_line(line, out)?;
        show_facts(line, out)?;
    }
    if found.len() >= FOUND_MAX {
        writeln!(out, "only the first {FOUND_MAX} entries are shown")?;
    }
    Ok(true)
}

fn parse_wanted(id: &str) -> Result<Wanted, AuditError> {
    let flow = id.strip_prefix('f').filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match (id.parse::<DecisionId>(), flow.and_then(|n| n.parse().ok())) {
        (Ok(id), _) => Ok(Wanted::Decision(id)),
        (Err(_), Some(number)) => Ok(Wanted::Flow(FlowId(number))),
        (Err(_), None) => Err(AuditError::Id(printable(id).chars().take(80).collect())),
    }
}

fn read_key(path: &Path) -> Result<Verifier, AuditError> {
    let fail = |what: String| AuditError::Key { path: path.into(), what };
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    text.trim_end().parse().map_err(|error: crate::audit::NoteError| fail(error.to_string()))
}

fn show_row(row: &Row, json: bool, out: &mut impl Write) -> io::Result<()> {
    match row {
        Ok(line) if json => {
            serde_json::to_writer(&mut *out, line)?;
            writeln!(out)
        }
        Ok(line) => show_line(line, out),
        // Not hidden, but nothing of it reaches a terminal; in JSON it would be no JSON.
        Err(_) if json => Ok(()),
        Err(bytes) => writeln!(out, "(a line of {} bytes that is no entry)", bytes.len()),
    }
}

/// `time who → what VERDICT rule=… reason (detail) [decision]`.
fn show_line(line: &Line<'_>, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{} ", printable(&line.time))?;
    let what = line.service.as_deref().or(line.target.as_deref());
    if line.device.is_some() || line.source.is_some() || what.is_some() {
        write!(out, "{} → {} ", printable(who(line)), printable(what.unwrap_or("-")))?;
    }
    write!(out, "{}", printable(&line.kind).to_uppercase())?;
    if let Some(count) = line.count {
        write!(out, " ×{count}")?;
    }
    if let Some(rule) = line.rule.as_deref().filter(|r| *r != "-") {
        write!(out, " rule={}", printable(rule))?;
    }
    if let Some(reason) = &line.reason {
        write!(out, " {}", printable(reason))?;
    }
    if let Some(detail) = &line.detail {
        write!(out, " ({})", printable(detail))?;
    }
    if let Some(flow) = &line.flow {
        write!(out, " {}", printable(flow))?;
    }
    if let Some(decision) = &line.decision {
        write!(out, " [{}]", printable(decision))?;
    }
    writeln!(out)
}

/// The device's name where it has one, else the whole id, else where it came from.
fn who<'a>(line: &'a Line<'_>) -> &'a str {
    match line.device.as_deref() {
        Some(text) => match text.parse::<SpiffeId>() {
            Ok(id) if id.device_name().is_some() => text.rsplit('/').next().unwrap_or(text),
            _ => text,
        },
        None => line.source.as_deref().unwrap_or("-"),
    }
}

/// What `tail` leaves out, a line each, and what the reason means.
fn show_facts(line: &Line<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut fact = |name: &str, value: Option<&str>| match value {
        Some(value) => writeln!(out, "    {name:<10} {}", printable(value)),
        None => Ok(()),
    };
    fact("entry", Some(&line.seq.to_string()))?;
    fact("device", line.device.as_deref())?;
    fact("peer", line.peer.as_deref())?;
    fact("source", line.source.as_deref())?;
    fact("service", line.service.as_deref())?;
    fact("target", line.target.as_deref())?;
    fact("direction", line.direction.as_deref())?;
    fact("rule", line.rule.as_deref())?;
    fact("bundle", line.bundle.as_deref())?;
    fact("transport", line.transport.as_deref())?;
    fact("group", line.group.as_deref())?;
    fact("cipher", line.cipher.as_deref())?;
    fact("session", line.session.as_deref())?;
    fact("bytes in", line.bytes_in.map(|n| n.to_string()).as_deref())?;
    fact("key age, s", line.key_age_s.map(|n| n.to_string()).as_deref())?;
    fact("bytes out", line.bytes_out.map(|n| n.to_string()).as_deref())?;
    fact("took", line.ms.map(|n| format!("{n} ms")).as_deref())?;
    if let Some(reason) = line.reason.as_deref().and_then(Reason::from_code) {
        fact("because", Some(reason.sentence()))?;
        fact("next", Some(reason.next_step()))?;
    }
    Ok(())
}

/// Text for a terminal: nothing in the log may move the cursor, change colours or turn the direction of writing.
fn printable(text: &str) -> Cow<'_, str> {
    let unsafe_char = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(unsafe_char) { text.replace(unsafe_char, "\u{fffd}").into() } else { text.into() }
}

const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
