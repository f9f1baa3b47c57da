//! `countersign device`: certificates of devices, and what a machine is.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::device_queue::{self, QueueCommand, QueueError};
use super::device_show::{ShowArgs, ShowError, show};
use crate::identity::authority::{self, AuthorityError, IssueRequest, TTL_MAX};
use crate::identity::{FileError, Installed, install, installed_id};
use crate::model::{DeviceName, SpiffeId, Timestamp, units};

/// Give devices their identities, and show what they are
#[derive(Args, Debug)]
pub struct DeviceArgs {
    /// What to do
    #[command(subcommand)]
    pub command: DeviceCommand,
}

/// What can be done for a device.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Issue a certificate and a key; the same name again renews them
    Issue(IssueArgs),
    /// Who may join, and who may no longer
    #[command(flatten)]
    Queue(QueueCommand),
    /// Show what this machine is recognised by, in digests only
    Show(ShowArgs),
}

/// Whom to issue for, and where to put it.
#[derive(Args, Debug)]
pub struct IssueArgs {
    /// Name of the device; its ID becomes `spiffe://TRUST-DOMAIN/device/NAME`
    #[arg(long)]
    pub name: DeviceName,
    /// Folder of the CA
    #[arg(long, default_value = "ca")]
    pub ca: PathBuf,
    /// Folder to write `leaf.pem`, `leaf.key`, `bundle.pem` and `crl.pem` into
    #[arg(long, default_value = "certs")]
    pub out: PathBuf,
    /// DNS name to put into the certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    pub dns: Vec<String>,
    /// Address to put into the certificate; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Vec<IpAddr>,
    /// How long it is valid, at most 90d
    #[arg(long, default_value = "24h", value_parser = units::duration)]
    pub ttl: Duration,
    /// Overwrite the files of another identity
    #[arg(long)]
    pub force: bool,
}

/// Runs the command and writes what it did, and what comes next, to `out`.
///
/// # Errors
/// [`DeviceError`] when the CA refused, the folder holds another identity or `out` could not be written.
pub fn run(args: &DeviceArgs, now: Timestamp, out: &mut dyn Write) -> Result<(), DeviceError> {
    match &args.command {
        DeviceCommand::Issue(args) => issue(args, now, out),
        DeviceCommand::Queue(command) => Ok(device_queue::run(command, now, out)?),
        DeviceCommand::Show(args) => Ok(show(args, out)?),
    }
}

fn issue(args: &IssueArgs, now: Timestamp, out: &mut dyn Write) -> Result<(), DeviceError> {
    if !args.force {
        check_folder(&args.out, &args.name)?;
    }
    let request =
        IssueRequest { name: args.name.clone(), dns: args.dns.clone(), ip: args.ip.clone(), ttl: args.ttl };
    let issued = authority::issue(&args.ca, &request, now)?;
    install(&args.out, &issued)?;
    writeln!(out, "`{}` in `{}`", issued.id, args.out.display())?;
    writeln!(out, "  serial {}", issued.serial)?;
    writeln!(out, "  until  {}", issued.not_after)?;
    // A certificate ends on a whole second.
    if issued.not_after.as_secs() < now.plus(args.ttl).as_secs() {
        writeln!(out, "note: it ends with the issuing CA, sooner than asked for")?;
    }
    writeln!(
        out,
        "next: point `[identity]` of the sidecar at `{}`; a running one sees it by itself",
        args.out.display()
    )?;
    Ok(())
}

/// Refuses a folder that holds the files of someone else, or files that cannot be told.
fn check_folder(dir: &Path, name: &DeviceName) -> Result<(), DeviceError> {
    match installed_id(dir)? {
        Installed::Nothing => Ok(()),
        Installed::Id(id) if id.device_name() == Some(name.as_str()) => Ok(()),
        Installed::Id(id) => Err(DeviceError::Foreign { dir: dir.into(), id }),
        Installed::Unknown => Err(DeviceError::Unknown { dir: dir.into() }),
    }
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The CA said no.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
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
    /// The text could not be written.
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
    /// An invite or a decision.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The machine could not be shown.
    #[error(transparent)]
    Show(#[from] ShowError),
    /// The folder holds files whose owner cannot be told.
    #[error("`{}` holds a leaf or key that is not understood: use another `--out`, or `--force` to overwrite it", dir.display())]
    Unknown {
        /// The folder.
        dir: PathBuf,
    },
}

const _: () = assert!(TTL_MAX.as_secs() == 90 * 24 * 60 * 60, "the help says 90d");

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;
    use crate::identity::{Identity, Pq, Settings};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        device: DeviceArgs,
    }

    /// A CA in a folder of its own.
    fn made() -> (tempfile::TempDir, Timestamp) {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_secs(1_800_000_000);
        authority::init(&dir.path().join("ca"), &"example.org".parse().unwrap(), now).unwrap();
        (dir, now)
    }

    /// Runs `issue` with `line`; returns what it printed, or its error.
    fn play(line: &str, dir: &Path, now: Timestamp) -> Result<String, String> {
        let (ca, out) = (dir.join("ca"), dir.join("certs"));
        let places = ["--ca", ca.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let words = ["device", "issue"].into_iter().chain(line.split_whitespace()).chain(places);
        let cli = Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        let mut text = Vec::new();
        run(&cli.device, now, &mut text).map_err(|e| e.to_string())?;
        Ok(String::from_utf8(text).unwrap())
    }

    #[test]
    fn what_is_issued_can_be_loaded() {
        let (dir, now) = made();
        let text =
            play("--name web-1 --dns web.example.org --ip 192.0.2.1 --ip ::1", dir.path(), now).unwrap();
        assert!(text.starts_with("`spiffe://example.org/device/web-1`"), "{text}");
        let certs = dir.path().join("certs");
        let mode = std::fs::metadata(certs.join("leaf.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let settings = Settings {
            trust_domain: "example.org".parse().unwrap(),
            leaf: certs.join("leaf.pem"),
            key: certs.join("leaf.key"),
            bundle: certs.join("bundle.pem"),
            crl: Some(certs.join("crl.pem")),
            pq: Pq::Prefer,
        };
        let identity = Identity::load(&settings, now).unwrap();
        assert_eq!(identity.id().device_name(), Some("web-1"));
        assert_eq!(identity.not_after(), now.plus(Duration::from_secs(86_400)));
    }

    #[test]
    fn only_an_end_that_was_cut_to_the_issuing_cas_is_told() {
        let (dir, made) = made();
        let note =
            |now, ttl| play(&format!("--name web-1 --ttl {ttl}"), dir.path(), now).unwrap().contains("note");
        // In the middle of a second: what X.509 cannot say is no shortening.
        let now = Timestamp::from_millis(made.as_millis() + 744);
        assert!(!note(now, "1h"));
        let late = made.plus(Duration::from_secs(360 * 86_400));
        assert!(note(late, "30d"));
    }

    #[test]
    fn the_same_device_is_renewed_and_another_is_not_overwritten() {
        let (dir, now) = made();
        play("--name web-1", dir.path(), now).unwrap();
        play("--name web-1", dir.path(), now).unwrap();
        assert!(play("--name web-2", dir.path(), now).unwrap_err().contains("identity of `spiffe://"));
        play("--name web-2 --force", dir.path(), now).unwrap();
        std::fs::write(dir.path().join("certs/leaf.pem"), "what is this").unwrap();
        assert!(play("--name web-2", dir.path(), now).unwrap_err().contains("not understood"));
        std::fs::remove_file(dir.path().join("certs/leaf.pem")).unwrap();
        assert!(play("--name web-2", dir.path(), now).unwrap_err().contains("not understood"));
    }

    #[test]
    fn what_cannot_be_issued_is_said() {
        let (dir, now) = made();
        assert!(play("--name Web", dir.path(), now).unwrap_err().contains("must be 1..=63 bytes"));
        assert!(play("--name web --ttl 91d", dir.path(), now).unwrap_err().contains("lifetime"));
        assert!(play("--name web --ttl 0s", dir.path(), now).unwrap_err().contains("lifetime"));
        assert!(play("--name web --dns a..b", dir.path(), now).unwrap_err().contains("no DNS name"));
        assert!(!dir.path().join("certs").exists());
    }
}
