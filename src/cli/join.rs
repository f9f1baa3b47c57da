//! `countersign join`: turns a one-time token into this device's identity.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use data_encoding::HEXLOWER;

use crate::channel::{self, Facts, JoinError, JoinOutcome};
use crate::config::Membership;
use crate::device::{
    self, Fingerprint, RECORD_LEN_MAX, Record, Salt, SaltError, SignedRecord, SysrootError, verify_p256,
};
use crate::identity::authority::{Token, TokenError};
use crate::identity::{
    EnrolError, Enrolment, FileError, Installed, Joined, install, installed_id, leaf_not_after, read_file,
    svid, write_file,
};
use crate::model::{SpiffeId, Timestamp, units};
use crate::resilience::resolve;

/// Join with a one-time token: the key is made here and never leaves
#[derive(Args, Debug)]
pub struct JoinArgs {
    /// File with the token; `-` or nothing reads standard input. The token itself is never an argument
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    /// Folder to write `leaf.pem`, `leaf.key`, `bundle.pem`, `crl.pem`, `device.record` and `authority.toml` into
    #[arg(long, default_value = "certs")]
    pub out: PathBuf,
    /// The root below which this machine's facts are read
    #[arg(long, default_value = "/")]
    pub sysroot: PathBuf,
    /// How long to wait for an administrator's approval
    #[arg(long, default_value = "10m", value_parser = units::duration)]
    pub wait: Duration,
    /// Overwrite the files of another identity
    #[arg(long)]
    pub force: bool,
}

/// Runs the command and writes what it did, and what comes next, to `out`.
///
/// # Errors
/// [`JoinCommandError`]; the same command again goes on where it stopped.
pub fn run(args: &JoinArgs, now: Timestamp, out: &mut dyn Write) -> Result<(), JoinCommandError> {
    let token: Token = read_token(&args.file, &mut io::stdin().lock())?.parse()?;
    let id = SpiffeId::device(token.authority.trust_domain(), &token.name);
    if joined_before(&args.out, &token, &id, now)? {
        writeln!(
            out,
            "`{id}` has joined with this token already; its files are in `{}`",
            args.out.display()
        )?;
        return Ok(());
    }
    if !args.force {
        check_folder(&args.out, &id)?;
    }
    let state = args.out.join(STATE);
    let enrolment = Enrolment::begin(&state, &token)?;
    let fingerprint = fingerprint(&args.sysroot, &args.out)?;
    let facts = facts(&fingerprint);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(JoinCommandError::Runtime)?;
    let whom = Membership { authority: token.authority.clone(), paths: token.addresses.clone() };
    let mut save = |joined: &Joined, record: &str| save(&args.out, joined, record, &whom);
    let joined = runtime.block_on(ask_until(&token, &enrolment, &facts, args.wait, &mut save, out))?;
    remember(&args.out, &token)?;
    Enrolment::finish(&state)?;
    told(&joined, &enrolment, &fingerprint, &args.out, out)
}

/// This machine as others may see it, under a salt that is made now if there is none.
fn fingerprint(sysroot: &Path, dir: &Path) -> Result<Fingerprint, JoinCommandError> {
    let salt = Salt::load_or_make(&dir.join(SALT))?;
    Ok(device::fingerprint(&device::collect(sysroot)?, &salt))
}

/// What the device's record is made from.
fn facts(fingerprint: &Fingerprint) -> Facts {
    let baseline = Record::baseline_of(&fingerprint.values);
    Facts {
        profile: fingerprint.profile.name().into(),
        baseline: baseline.into_iter().map(|(component, values)| (component.name().into(), values)).collect(),
    }
}

/// Asks at every address in turn, again while an administrator has not decided, at most for `wait`.
async fn ask_until(
    token: &Token,
    enrolment: &Enrolment,
    facts: &Facts,
    wait: Duration,
    save: &mut (dyn FnMut(&Joined, &str) -> Result<(), String> + Send),
    out: &mut dyn Write,
) -> Result<Box<Joined>, JoinCommandError> {
    let deadline = tokio::time::Instant::now() + wait;
    let mut waiting = false;
    loop {
        let after = match ask(token, enrolment, facts, save).await? {
            JoinOutcome::Joined(joined) => return Ok(joined),
            JoinOutcome::Pending(after) => after.max(PAUSE_MIN),
        };
        if !waiting {
            writeln!(out, "waiting for approval of `{}`", enrolment.id())?;
            writeln!(out, "  key  {}", HEXLOWER.encode(&enrolment.spki_sha256()))?;
            writeln!(out, "  next: countersign device approve {}   (at the authority)", token.name)?;
            out.flush()?;
            waiting = true;
        }
        if tokio::time::Instant::now() + after > deadline {
            return Err(JoinCommandError::Waited);
        }
        tokio::time::sleep(after).await;
    }
}

async fn ask(
    token: &Token,
    enrolment: &Enrolment,
    facts: &Facts,
    save: &mut (dyn FnMut(&Joined, &str) -> Result<(), String> + Send),
) -> Result<JoinOutcome, JoinCommandError> {
    let mut last = None;
    for address in &token.addresses {
        let addresses = match resolve(address, RESOLVE_TIMEOUT).await {
            Ok(addresses) => addresses,
            Err(e) => {
                last = Some(JoinCommandError::Resolve(e.to_string()));
                continue;
            }
        };
        for addr in addresses {
            match channel::join(addr, token, enrolment, facts, save).await {
                // Elsewhere it may go better, and begin anew does no harm. Anything else is an answer.
                Err(e @ (JoinError::Dial { .. } | JoinError::Broken(_))) => last = Some(e.into()),
                other => return Ok(other?),
            }
        }
    }
    Err(last.unwrap_or_else(|| JoinCommandError::Resolve("the token names no address".into())))
}

/// Everything on the disk, whole, before the certificate is acknowledged; and nothing of it before it is checked.
fn save(dir: &Path, joined: &Joined, record: &str, whom: &Membership) -> Result<(), String> {
    read_record(joined, record)?;
    install(dir, &joined.issued).map_err(|e| e.to_string())?;
    write_file(&dir.join(AUTHORITY), whom.to_toml().as_bytes()).map_err(|e| e.to_string())?;
    write_file(&dir.join(RECORD), record.as_bytes()).map_err(|e| e.to_string())
}

/// The record, if the CA that issued our certificate signed it for this device and key.
fn read_record(joined: &Joined, record: &str) -> Result<Record, String> {
    let ours = |message: &[u8], signature: &[u8]| verify_p256(&joined.issuing_spki, message, signature);
    let read = SignedRecord::open(record, &ours).map_err(|e| e.to_string())?;
    let key = svid(&joined.leaf_der).map_err(|e| e.to_string())?.spki_sha256;
    read.check(&joined.issued.id, &[key], Timestamp::now()).map_err(|reason| reason.sentence().to_owned())?;
    Ok(read)
}

fn read_text(path: &Path) -> Result<String, JoinCommandError> {
    let len_max = u64::try_from(RECORD_LEN_MAX).unwrap_or(u64::MAX);
    Ok(String::from_utf8_lossy(&read_file(path, len_max)?).into_owned())
}

fn told(
    joined: &Joined,
    enrolment: &Enrolment,
    fingerprint: &Fingerprint,
    dir: &Path,
    out: &mut dyn Write,
) -> Result<(), JoinCommandError> {
    let tier = read_record(joined, &read_text(&dir.join(RECORD))?).map_err(JoinError::Save)?.tier_max;
    writeln!(out, "joined as `{}`, files in `{}`", joined.issued.id, dir.display())?;
    writeln!(out, "  serial {}", joined.issued.serial)?;
    writeln!(out, "  until  {}", joined.issued.not_after)?;
    writeln!(out, "  key    {}", HEXLOWER.encode(&enrolment.spki_sha256()))?;
    writeln!(out, "  tier   at most {}, profile {}", tier.level(), fingerprint.profile.name())?;
    writeln!(out, "  fingerprint {}, {} components", fingerprint.digest(), fingerprint.values.len())?;
    writeln!(out, "next: point `[identity]` of the sidecar at `{}`, then `countersign run`", dir.display())?;
    writeln!(out, "next: destroy the token; it is spent")?;
    Ok(())
}

/// The token's text from a file, or from standard input.
fn read_token(file: &Path, stdin: &mut dyn Read) -> Result<String, JoinCommandError> {
    if file.to_string_lossy().starts_with(Token::PREFIX) {
        return Err(JoinCommandError::Argument);
    }
    let at = |source| JoinCommandError::Read { file: file.into(), source };
    let mut opened;
    let source: &mut dyn Read = if file == Path::new("-") {
        stdin
    } else {
        opened = File::open(file).map_err(at)?;
        &mut opened
    };
    let mut text = String::new();
    let limit = u64::try_from(Token::TEXT_LEN_MAX).unwrap_or(u64::MAX).saturating_add(64);
    source.take(limit).read_to_string(&mut text).map_err(at)?;
    Ok(text)
}

/// Whether this very token led to the certificate that lies in `dir` and is still good.
fn joined_before(dir: &Path, token: &Token, id: &SpiffeId, now: Timestamp) -> Result<bool, JoinCommandError> {
    let remembered = std::fs::read_to_string(dir.join(DONE)).unwrap_or_default();
    Ok(remembered.trim() == token.id().to_string()
        && installed_id(dir)? == Installed::Id(id.clone())
        && leaf_not_after(dir)?.is_some_and(|end| now < end))
}

fn remember(dir: &Path, token: &Token) -> Result<(), JoinCommandError> {
    let file = dir.join(DONE);
    std::fs::write(&file, format!("{}\n", token.id()))
        .map_err(|source| JoinCommandError::Read { file, source })
}

fn check_folder(dir: &Path, id: &SpiffeId) -> Result<(), JoinCommandError> {
    match installed_id(dir)? {
        Installed::Nothing => Ok(()),
        Installed::Id(found) if found == *id => Ok(()),
        Installed::Id(found) => Err(JoinCommandError::Foreign { dir: dir.into(), id: found }),
        Installed::Unknown => Err(JoinCommandError::Unknown { dir: dir.into() }),
    }
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinCommandError {
    /// The token stood on the command line.
    #[error(
        "the token itself is never an argument, every user of this host could read it: write it into a file, or pipe it in"
    )]
    Argument,
    /// The key, the request or a file.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder holds the identity of another device.
    #[error("`{}` holds the identity of `{id}`: use another `--out`, or `--force` to overwrite it", dir.display())]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        id: SpiffeId,
    },
    /// The authority said no, or could not be reached.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The fingerprint's salt.
    #[error(transparent)]
    Salt(#[from] SaltError),
    /// The root below which this machine is looked at.
    #[error(transparent)]
    Sysroot(#[from] SysrootError),
    /// The text could not be written.
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
    /// The token could not be read, or its mark not be written.
    #[error("`{}`: {source}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No address of the authority.
    #[error("{0}")]
    Resolve(String),
    /// No runtime.
    #[error("the runtime did not start: {0}")]
    Runtime(io::Error),
    /// What was read is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The folder holds files whose owner cannot be told.
    #[error("`{}` holds a leaf or key that is not understood: use another `--out`, or `--force` to overwrite it", dir.display())]
    Unknown {
        /// The folder.
        dir: PathBuf,
    },
    /// Nobody approved in time.
    #[error("nobody approved it yet: run the same again later, the place in the queue is kept")]
    Waited,
}

/// What was begun, below `--out`.
const STATE: &str = "join-state";
/// The signed device record, below `--out`; beside the salt that its fingerprint was made with.
const RECORD: &str = "device.record";
const SALT: &str = "device.salt";
/// Whom this device hears from, below `--out`.
const AUTHORITY: &str = "authority.toml";
/// The id of the token that led here, below `--out`.
const DONE: &str = "joined";
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest pause between two questions, whatever the authority says.
const PAUSE_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
