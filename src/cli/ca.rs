//! `countersign ca`: the built-in certificate authority.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::identity::authority::{self, AuthorityError, CRL_TTL_MAX};
use crate::model::{Timestamp, TrustDomain, units};

/// Make and keep a certificate authority
#[derive(Args, Debug)]
pub struct CaArgs {
    /// What to do
    #[command(subcommand)]
    pub command: CaCommand,
}

/// What can be done with a CA.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a new CA: a root, an issuing CA and an empty revocation list
    Init {
        /// Trust domain, for example `example.org`
        #[arg(long)]
        trust_domain: TrustDomain,
        /// Folder of the CA
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
    },
    /// Sign the revocation list anew, before it expires
    Crl {
        /// Folder of the CA
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
        /// How long the list is good, at most 90d
        #[arg(long, default_value = "7d", value_parser = units::duration)]
        ttl: Duration,
    },
    /// Revoke a device, or one certificate
    Revoke {
        /// Name of the device, or serial number of the certificate
        #[arg(value_name = "NAME|SERIAL")]
        what: String,
        /// Folder of the CA
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
    },
    /// Put a new issuing CA in the place of the old one; needs `root.key`. Nothing issued before loses trust
    Rotate {
        /// Folder of the CA
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
        /// A new root as well, trusted beside the old one
        #[arg(long)]
        root: bool,
    },
    /// Forget what was rotated out, once all that it issued has ended
    Retire {
        /// Folder of the CA
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
    },
    /// Show the CA and what it issued
    Show {
        /// Folder of the CA
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
    },
}

/// Runs the command and writes what it did, and what comes next, to `out`.
///
/// # Errors
/// [`CaError`] when the CA refused or `out` could not be written.
pub fn run(args: &CaArgs, now: Timestamp, out: &mut dyn Write) -> Result<(), CaError> {
    match &args.command {
        CaCommand::Init { trust_domain, dir } => {
            let made = authority::init(dir, trust_domain, now)?;
            writeln!(out, "CA of `{trust_domain}` in `{}`", dir.display())?;
            writeln!(out, "  root until       {}", made.root_not_after)?;
            writeln!(out, "  issuing CA until {}", made.issuing_not_after)?;
            writeln!(out, "  crl until        {}", made.crl_next_update)?;
            writeln!(out, "next: move `{}` to a place that is offline", dir.join("root.key").display())?;
            writeln!(out, "next: countersign device issue --name web-1 --ca {}", dir.display())?;
        }
        CaCommand::Crl { dir, ttl } => {
            let next_update = authority::refresh_crl(dir, *ttl, now)?;
            writeln!(out, "`{}` is good until {next_update}", dir.join("crl.pem").display())?;
            writeln!(out, "next: copy it to the `[identity] crl` of every sidecar")?;
        }
        CaCommand::Revoke { what, dir } => revoke(what, dir, now, out)?,
        CaCommand::Rotate { dir, root } => rotate(dir, *root, now, out)?,
        CaCommand::Retire { dir } => retire(dir, now, out)?,
        CaCommand::Show { dir } => show(dir, now, out)?,
    }
    Ok(())
}

fn revoke(what: &str, dir: &std::path::Path, now: Timestamp, out: &mut dyn Write) -> Result<(), CaError> {
    let revoked = authority::revoke(dir, what, now)?;
    for serial in &revoked.added {
        writeln!(out, "revoked {serial}")?;
    }
    for serial in &revoked.already {
        writeln!(out, "revoked before: {serial}")?;
    }
    if revoked.added.is_empty() && revoked.already.is_empty() {
        writeln!(out, "every certificate of `{what}` has expired already, nothing was revoked")?;
    }
    if !revoked.in_ledger {
        writeln!(out, "note: this serial number is not in `issued.jsonl`; compare it with the certificate")?;
    }
    writeln!(out, "crl {} is good until {}", revoked.crl_number, revoked.next_update)?;
    writeln!(out, "next: copy `{}` to the `[identity] crl` of every sidecar", dir.join("crl.pem").display())?;
    Ok(())
}

fn rotate(dir: &std::path::Path, root: bool, now: Timestamp, out: &mut dyn Write) -> Result<(), CaError> {
    let rotated = authority::rotate(dir, root, now)?;
    writeln!(out, "new issuing CA until {}", rotated.issuing_not_after)?;
    if let Some(until) = rotated.root_not_after {
        writeln!(out, "new root until       {until}; the old one stays in `bundle.pem`")?;
        writeln!(out, "next: move `root.key` and `earlier/*/root.key` to a place that is offline")?;
    }
    writeln!(
        out,
        "next: nothing for sidecars that hear the authority; others need `bundle.pem` and `crl.pem`"
    )?;
    writeln!(out, "next: countersign ca retire, from {} on", rotated.overlap_until)?;
    Ok(())
}

fn retire(dir: &std::path::Path, now: Timestamp, out: &mut dyn Write) -> Result<(), CaError> {
    let retired = authority::retire(dir, now)?;
    writeln!(out, "{} earlier issuing CAs are gone", retired.issuing)?;
    for root in &retired.roots {
        writeln!(out, "root `{root}` is no longer in `bundle.pem`")?;
    }
    if let Some(at) = retired.next_at {
        writeln!(out, "the next can go at {at}")?;
    }
    Ok(())
}

fn show(dir: &std::path::Path, now: Timestamp, out: &mut dyn Write) -> Result<(), CaError> {
    let ca = authority::show(dir, now)?;
    writeln!(out, "CA of `{}` in `{}`", ca.trust_domain, dir.display())?;
    writeln!(out, "  root sha-256     {}", ca.root_fingerprint)?;
    writeln!(out, "  root until       {}", ca.root_not_after)?;
    writeln!(out, "  issuing CA until {}", ca.issuing_not_after)?;
    let late = if now >= ca.crl_next_update { " EXPIRED: run `countersign ca crl`" } else { "" };
    writeln!(out, "  crl {} until      {}{late}", ca.crl_number, ca.crl_next_update)?;
    if ca.earlier > 0 || ca.roots > 1 {
        writeln!(out, "  overlap          {} earlier issuing CAs, {} roots", ca.earlier, ca.roots)?;
    }
    let living = ca.issued.iter().filter(|e| e.not_after > now.as_secs());
    writeln!(
        out,
        "  issued           {}, living {}, revoked {}",
        ca.issued.len(),
        living.clone().count(),
        ca.revoked
    )?;
    for entry in living {
        let until = Timestamp::from_millis(entry.not_after.saturating_mul(1000));
        writeln!(out, "    {} {} until {until}", entry.serial, entry.name)?;
    }
    if ca.root_key_here {
        writeln!(out, "next: move `{}` to a place that is offline", dir.join("root.key").display())?;
    }
    Ok(())
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The CA said no.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The text could not be written.
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
}

const _: () = assert!(CRL_TTL_MAX.as_secs() == 90 * 24 * 60 * 60, "the help says 90d");

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        ca: CaArgs,
    }

    /// Runs `line` at `now`; returns what it printed, or its error.
    fn play(line: &str, dir: &std::path::Path, now: Timestamp) -> Result<String, String> {
        let words = ["ca"].into_iter().chain(line.split_whitespace());
        let words = words.chain(["--dir", dir.to_str().unwrap()]);
        let cli = Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        let mut out = Vec::new();
        run(&cli.ca, now, &mut out).map_err(|e| e.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_ca_is_made_shown_renewed_and_revokes() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        let now = Timestamp::from_secs(1_800_000_000);
        let text = play("init --trust-domain example.org", &ca, now).unwrap();
        assert!(text.contains("next: countersign device issue"), "{text}");
        assert!(play("show", &ca, now).unwrap().contains("issued           0, living 0, revoked 0"));
        let serial = "00aa".repeat(4);
        let text = play(&format!("revoke {serial}"), &ca, now).unwrap();
        assert!(text.contains("is not in `issued.jsonl`"), "{text}");
        assert!(play("crl --ttl 1d", &ca, now).unwrap().contains("2027-01-16T08:00:00.000Z"));
        let text = play("show", &ca, now.plus(Duration::from_secs(2 * 86_400))).unwrap();
        assert!(text.contains("revoked 1") && text.contains("EXPIRED"), "{text}");
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_secs(1_800_000_000);
        let none = dir.path().join("none");
        assert!(play("show", &none, now).unwrap_err().contains("holds no CA"));
        assert!(play("init --trust-domain EXAMPLE", &none, now).unwrap_err().contains("forbidden byte"));
        let ca = dir.path().join("ca");
        play("init --trust-domain example.org", &ca, now).unwrap();
        assert!(play("init --trust-domain example.org", &ca, now).unwrap_err().contains("never overwritten"));
        assert!(play("revoke web-1", &ca, now).unwrap_err().contains("never issued here"));
        assert!(play("crl --ttl 91d", &ca, now).unwrap_err().contains("lifetime"));
        assert!(play("crl --ttl soon", &ca, now).unwrap_err().contains("whole number"));
    }
}
