//! `countersign device invite | pending | approve | deny | revoke | quarantine | list`: who may join, and who may no longer.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::agent::{Changed, RecordsError, all_records, set_status};
use crate::device::{Record, Status};
use crate::identity::authority::{
    self, Asked, AuthorityError, INVITE_TTL_MAX, Invite, InviteRequest, InviteState,
};
use crate::model::{Authority, DeviceName, SpiffeId, Tier, Timestamp, units};

/// Whom the authority lets join.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Make a one-time token for a new device and print it
    Invite(InviteArgs),
    /// List the invites, first those that wait for a decision
    Pending {
        /// Folder of the CA
        #[arg(long, default_value = "ca")]
        ca: PathBuf,
        /// Also list what is issued, spent or denied
        #[arg(long)]
        all: bool,
    },
    /// Let a device join that waits in the queue, or out of quarantine
    Approve(ApproveArgs),
    /// Refuse a device that waits, or withdraw its invite
    Deny(DecideArgs),
    /// Revoke a device: its certificates, and its record
    Revoke(RevokeArgs),
    /// Put a device into quarantine: it reaches nothing until it is approved
    Quarantine(RevokeArgs),
    /// Two machines use one identity: take it from both, so that each joins anew
    ResetClone(RevokeArgs),
    /// List the devices that have a record, and how they stand
    List(ListArgs),
}

/// What to decide about, and where its record is.
#[derive(Args, Debug)]
pub struct ApproveArgs {
    /// Name of the device, or id of the token
    #[arg(value_name = "NAME|TOKEN-ID")]
    pub what: String,
    /// Folder of the CA
    #[arg(long, default_value = "ca")]
    pub ca: PathBuf,
    /// Folder of the device records
    #[arg(long, default_value = "devices")]
    pub records: PathBuf,
}

/// Where the devices are.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Folder of the CA
    #[arg(long, default_value = "ca")]
    pub ca: PathBuf,
    /// Folder of the device records
    #[arg(long, default_value = "devices")]
    pub records: PathBuf,
}

/// Whom to invite.
#[derive(Args, Debug)]
pub struct InviteArgs {
    /// Name the device gets; its ID becomes `spiffe://TRUST-DOMAIN/device/NAME`
    #[arg(long)]
    pub name: DeviceName,
    /// SPIFFE ID of the sidecar with `[authority]`
    #[arg(long, value_name = "ID")]
    pub authority_id: SpiffeId,
    /// Where its peers' door is, `host:port`; may be repeated
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub authority_addr: Vec<Authority>,
    /// How long the token may be used first, at most 7d
    #[arg(long, default_value = "1h", value_parser = units::duration)]
    pub ttl: Duration,
    /// The highest tier the device can reach, 0 to 3
    #[arg(long, default_value = "1", value_parser = tier)]
    pub max_tier: Tier,
    /// Folder of the CA
    #[arg(long, default_value = "ca")]
    pub ca: PathBuf,
}

/// What to decide about.
#[derive(Args, Debug)]
pub struct DecideArgs {
    /// Name of the device, or id of the token
    #[arg(value_name = "NAME|TOKEN-ID")]
    pub what: String,
    /// Folder of the CA
    #[arg(long, default_value = "ca")]
    pub ca: PathBuf,
}

/// Whom to revoke.
#[derive(Args, Debug)]
pub struct RevokeArgs {
    /// Name of the device
    pub name: DeviceName,
    /// Folder of the CA
    #[arg(long, default_value = "ca")]
    pub ca: PathBuf,
    /// Folder of the device records
    #[arg(long, default_value = "devices")]
    pub records: PathBuf,
}

/// Runs the command and writes what it did, and what comes next, to `out`.
///
/// # Errors
/// [`QueueError`] when the CA said no or `out` could not be written.
pub fn run(command: &QueueCommand, now: Timestamp, out: &mut dyn Write) -> Result<(), QueueError> {
    match command {
        QueueCommand::Invite(args) => invite(args, now, out),
        QueueCommand::Pending { ca, all } => pending(&authority::invites(ca)?, *all, now, out),
        QueueCommand::Approve(args) => approve(args, now, out),
        QueueCommand::Deny(args) => {
            let invite = authority::deny(&args.ca, &args.what, now)?;
            writeln!(out, "denied `{}`, token {}", invite.name, invite.id)?;
            Ok(())
        }
        QueueCommand::Revoke(args) => revoke(args, now, out),
        QueueCommand::Quarantine(args) => {
            let changed = change(&args.ca, &args.records, &args.name, Status::Quarantined, now)?;
            told_change(&args.name, &changed, "quarantined", out)?;
            writeln!(out, "next: look at the device, then countersign device approve {}", args.name)?;
            Ok(())
        }
        QueueCommand::ResetClone(args) => reset_clone(args, now, out),
        QueueCommand::List(args) => list(args, now, out),
    }
}

/// First the queue; a device that is in quarantine is approved by its name.
fn approve(args: &ApproveArgs, now: Timestamp, out: &mut dyn Write) -> Result<(), QueueError> {
    let pending = match authority::approve(&args.ca, &args.what) {
        Ok(invite) => {
            writeln!(out, "approved `{}`, token {}", invite.name, invite.id)?;
            writeln!(
                out,
                "next: nothing; the device asks again by itself, or with the same `countersign join`"
            )?;
            return Ok(());
        }
        Err(error @ AuthorityError::NotPending { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    let Ok(name) = args.what.parse::<DeviceName>() else { return Err(pending.into()) };
    let all = all_records(&args.ca, &args.records, now)?;
    let waits = |r: &Record| r.id.device_name() == Some(name.as_str()) && r.status == Status::Quarantined;
    if !all.iter().any(waits) {
        return Err(pending.into());
    }
    let changed = change(&args.ca, &args.records, &name, Status::Active, now)?;
    told_change(&name, &changed, "active", out)?;
    writeln!(out, "next: nothing; the device comes back by itself")?;
    Ok(())
}

fn change(
    ca: &Path,
    records: &Path,
    name: &DeviceName,
    status: Status,
    now: Timestamp,
) -> Result<Changed, QueueError> {
    let changed = set_status(ca, records, name, status, now)?;
    changed.ok_or_else(|| QueueError::NoRecord { name: name.clone(), records: records.into() })
}

fn told_change(
    name: &DeviceName,
    changed: &Changed,
    is: &str,
    out: &mut dyn Write,
) -> Result<(), QueueError> {
    writeln!(out, "`{name}` was {}, is {is}: record version {}", changed.was.name(), changed.version)?;
    Ok(())
}

/// Whoever holds the key holds the identity: it is taken from the original and the copy alike.
fn reset_clone(args: &RevokeArgs, now: Timestamp, out: &mut dyn Write) -> Result<(), QueueError> {
    let revoked = authority::revoke(&args.ca, args.name.as_str(), now)?;
    let changed = change(&args.ca, &args.records, &args.name, Status::Quarantined, now)?;
    told_change(&args.name, &changed, "quarantined", out)?;
    for serial in &revoked.added {
        writeln!(out, "revoked {serial}")?;
    }
    writeln!(out, "next: countersign device invite --name {} for the original,", args.name)?;
    writeln!(out, "      countersign device invite --name ANOTHER for the copy, if it may stay")?;
    Ok(())
}

fn list(args: &ListArgs, now: Timestamp, out: &mut dyn Write) -> Result<(), QueueError> {
    let all = all_records(&args.ca, &args.records, now)?;
    for record in &all {
        let name = record.id.device_name().unwrap_or(record.id.as_str());
        let (status, profile) = (record.status.name(), record.profile.name());
        let late = if now >= record.expires_at { " EXPIRED" } else { "" };
        writeln!(
            out,
            "{status:11}  {name}  tier at most {}, profile {profile}, record {} until {}{late}",
            record.tier_max.level(),
            record.version,
            record.expires_at
        )?;
    }
    if all.is_empty() {
        writeln!(out, "no device has a record in `{}`", args.records.display())?;
    }
    Ok(())
}

// Standard output has the token and nothing else: it is made for `> token.txt`.
fn invite(args: &InviteArgs, now: Timestamp, out: &mut dyn Write) -> Result<(), QueueError> {
    let request = InviteRequest {
        name: args.name.clone(),
        ttl: args.ttl,
        tier_max: args.max_tier,
        authority: args.authority_id.clone(),
        addresses: args.authority_addr.clone(),
    };
    let (token, invite) = authority::invite(&args.ca, &request, now)?;
    writeln!(out, "{token}")?;
    eprintln!("token {} for `{}`, to be used before {}", invite.id, invite.name, invite.expires_at);
    eprintln!("next: bring it to the device as a file and run there: countersign join FILE");
    Ok(())
}

fn pending(invites: &[Invite], all: bool, now: Timestamp, out: &mut dyn Write) -> Result<(), QueueError> {
    let rank = |i: &Invite| u8::from(!matches!(i.state, InviteState::Pending(_)));
    let mut listed: Vec<_> = invites.iter().filter(|i| all || is_open(i, now)).collect();
    listed.sort_by_key(|i| rank(i));
    for invite in &listed {
        let name = invite.state.name();
        writeln!(
            out,
            "{name:8} {} token {}, tier at most {}",
            invite.name,
            invite.id,
            invite.tier_max.level()
        )?;
        match &invite.state {
            InviteState::Pending(asked) | InviteState::Approved(asked) => told(asked, out)?,
            InviteState::Issued(given) | InviteState::Spent(given) => {
                writeln!(out, "         serial {} until {}", given.serial, given.not_after)?;
            }
            InviteState::Open => writeln!(out, "         to be used before {}", invite.expires_at)?,
            InviteState::Denied(at) => writeln!(out, "         at {at}")?,
        }
    }
    if listed.is_empty() {
        writeln!(out, "no invite waits")?;
    }
    if listed.iter().any(|i| rank(i) == 0) {
        writeln!(out, "next: compare the key with what `countersign join` shows on the device, then")?;
        writeln!(out, "      countersign device approve NAME, or deny NAME")?;
    }
    Ok(())
}

fn is_open(invite: &Invite, now: Timestamp) -> bool {
    match &invite.state {
        InviteState::Pending(_) | InviteState::Approved(_) | InviteState::Issued(_) => true,
        InviteState::Open => now < invite.expires_at,
        InviteState::Spent(_) | InviteState::Denied(_) => false,
    }
}

fn told(asked: &Asked, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "         key {}", data_encoding::HEXLOWER.encode(&asked.spki_sha256))?;
    writeln!(out, "         asked at {} from {}, says: {}", asked.at, asked.source, asked.summary)
}

fn revoke(args: &RevokeArgs, now: Timestamp, out: &mut dyn Write) -> Result<(), QueueError> {
    let revoked = authority::revoke(&args.ca, args.name.as_str(), now)?;
    for serial in revoked.added.iter().chain(&revoked.already) {
        writeln!(out, "revoked {serial}")?;
    }
    match set_status(&args.ca, &args.records, &args.name, Status::Revoked, now)? {
        Some(changed) => writeln!(out, "record `{}` says so", changed.path.display())?,
        None => writeln!(out, "note: no record of it in `{}`", args.records.display())?,
    }
    writeln!(out, "crl {} is good until {}", revoked.crl_number, revoked.next_update)?;
    writeln!(
        out,
        "next: nothing; every sidecar that hears the authority has it within seconds. Others need a copy of"
    )?;
    writeln!(out, "      `{}` as their `[identity] crl`", args.ca.join("crl.pem").display())?;
    Ok(())
}

fn tier(text: &str) -> Result<Tier, String> {
    let all = [Tier::None, Tier::Software, Tier::Bound, Tier::Attested];
    all.into_iter().find(|t| t.level().to_string() == text).ok_or_else(|| "expected 0, 1, 2 or 3".to_owned())
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The CA said no.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No record of the device.
    #[error("there is no record of `{name}` in `{}`", records.display())]
    NoRecord {
        /// Whose.
        name: DeviceName,
        /// The folder.
        records: PathBuf,
    },
    /// The device's record.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The text could not be written.
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
}

const _: () = assert!(INVITE_TTL_MAX.as_secs() == 7 * 24 * 60 * 60, "the help says 7d");
