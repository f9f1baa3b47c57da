//! `countersign doctor`: looks at everything a sidecar stands on, before it gives way.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::MISTAKEN;
use super::config::ConfigFile;
use crate::config::Config;
use crate::console::client;
use crate::device::{RECORD_LEN_MAX, SignedRecord, verify_p256};
use crate::identity::{self, CrlStatus, FileError, Identity, read_file};
use crate::model::{Authority, SpiffeId, Timestamp, units};
use crate::net::{self, SocketOptions};
use crate::resilience::resolve;

/// Check what a sidecar stands on; fails when anything is wrong, or ends before the bound
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Fail when a certificate, list or record ends sooner than this
    #[arg(long, default_value = "0s", value_parser = units::duration)]
    fail_before: Duration,
}

/// Runs it: exit code 0 when all is well, 1 when anything is not, 2 when the configuration has mistakes.
pub fn run(args: &DoctorArgs) -> ExitCode {
    let config = match args.file.load() {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(MISTAKEN);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("countersign: the runtime did not start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let findings = runtime.block_on(examine(&config, args.fail_before, Timestamp::now()));
    print!("{}", findings.text());
    if findings.well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What was found, in order.
#[derive(Default)]
struct Findings(Vec<Finding>);

struct Finding {
    what: String,
    /// What there is to say, or what is wrong and how to mend it.
    said: Result<String, (String, String)>,
}

impl Findings {
    fn pass(&mut self, what: impl Into<String>, said: impl Into<String>) {
        self.0.push(Finding { what: what.into(), said: Ok(said.into()) });
    }

    fn fail(&mut self, what: impl Into<String>, wrong: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { what: what.into(), said: Err((wrong.into(), fix.into())) });
    }

    /// `end` must be later than `now` and the bound.
    fn ends(&mut self, what: &str, end: Timestamp, before: Duration, now: Timestamp, fix: &str) {
        let left = end.since(now).as_secs();
        if now >= end {
            self.fail(what, format!("ended at {end}"), fix);
        } else if now.plus(before) >= end {
            self.fail(what, format!("ends at {end}, in {left} s"), fix);
        } else {
            self.pass(what, format!("good until {end}"));
        }
    }

    fn well(&self) -> bool {
        self.0.iter().all(|f| f.said.is_ok())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Finding { what, said } in &self.0 {
            let _ = match said {
                Ok(said) => writeln!(text, "PASS {what}: {said}"),
                Err((wrong, fix)) => writeln!(text, "FAIL {what}: {wrong}\n     fix: {fix}"),
            };
        }
        text
    }
}

async fn examine(config: &Config, before: Duration, now: Timestamp) -> Findings {
    let mut found = Findings::default();
    let identity = match Identity::load(&config.identity, now) {
        Ok(identity) => Some(identity),
        Err(e) => {
            for line in e.to_string().lines() {
                found.fail("identity", line, "issue or join again; compare the clocks of both hosts");
            }
            None
        }
    };
    if let Some(identity) = &identity {
        dates(&mut found, config, identity, before, now);
    }
    audit_disk(&mut found, config);
    let membership = match config.enrolment.find() {
        Ok(membership) => membership.filter(|_| config.authority.is_none()),
        Err(e) => {
            found.fail("enrolment", e, "join again, or name `[enrolment] authority` and `paths`");
            None
        }
    };
    let peers = config.flow.outbound.iter().map(|o| (format!("peer `{}`", o.name), &o.peer, &o.paths));
    let authority = membership.iter().map(|m| ("authority".to_owned(), &m.authority, &m.paths));
    for (what, id, paths) in peers.chain(authority) {
        for path in paths {
            reach(&mut found, &what, id, path, identity.as_ref(), config).await;
        }
    }
    if membership.is_some() {
        contact(&mut found, config).await;
    }
    found
}

fn dates(found: &mut Findings, config: &Config, identity: &Identity, before: Duration, now: Timestamp) {
    let renew = "let the sidecar run so that it renews, or `countersign device issue`";
    found.ends("certificate", identity.not_after(), before, now, renew);
    match identity.status(now).crl {
        CrlStatus::Off => found.fail(
            "revocation list",
            "none is configured, nobody is ever revoked",
            "name `[identity] crl`, or put `certs/crl.pem` in place before the start",
        ),
        CrlStatus::Good { next_update } | CrlStatus::Expired { next_update } => {
            let fix = "publish a fresh one: `countersign ca crl`, or mend the contact to the authority";
            found.ends("revocation list", next_update, before, now, fix);
        }
        CrlStatus::Unavailable { why } => found.fail("revocation list", why, "`countersign ca crl`"),
    }
    let path = &config.device.record;
    let text = match read_file(path, u64::try_from(RECORD_LEN_MAX).unwrap_or(u64::MAX)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return found.pass("record", "none: this device is not enrolled");
        }
        Err(e) => return found.fail("record", e.to_string(), "mend the file, or enrol the device again"),
    };
    let issuer = identity.issuer_of(identity.signer().chain(), now).unwrap_or_default();
    let ours = |message: &[u8], signature: &[u8]| verify_p256(&issuer, message, signature);
    match SignedRecord::open(&text, &ours) {
        Ok(record) => {
            found.ends("record", record.expires_at, before, now, "mend the contact to the authority")
        }
        Err(e) => found.fail("record", e.to_string(), "enrol the device again: `countersign device invite`"),
    }
}

fn audit_disk(found: &mut Findings, config: &Config) {
    let dir = config.audit.dir.ancestors().find(|dir| dir.exists());
    let free = dir.and_then(|dir| rustix::fs::statvfs(dir).ok());
    let Some(free) = free.map(|s| s.f_bavail.saturating_mul(s.f_frsize)) else {
        return found.fail("audit disk", "cannot be looked at", "look at `[audit] dir`");
    };
    let need = config.audit.disk_reserve.saturating_add(config.audit.segment_bytes_max);
    let said = format!("{} MiB free, {} MiB needed", free >> 20, need >> 20);
    match free > need {
        true => found.pass("audit disk", said),
        false => found.fail("audit disk", said, "free the disk of `[audit] dir`, or lower `disk_reserve`"),
    }
}

/// The name, the way, and whether the very device answers there.
async fn reach(
    found: &mut Findings,
    what: &str,
    id: &SpiffeId,
    path: &Authority,
    identity: Option<&Identity>,
    config: &Config,
) {
    let what = format!("{what} at {path}");
    let addrs = match resolve(path, config.channel.resolve_timeout).await {
        Ok(addrs) => addrs,
        Err(e) => return found.fail(what, e.to_string(), "check the name and the resolver of this host"),
    };
    let (Some(addr), Some(identity)) = (addrs.first(), identity) else {
        return found.fail(what, "cannot be tried without a certificate", "mend the identity first");
    };
    let tcp = match net::connect(*addr, SocketOptions::default(), config.channel.connect_timeout).await {
        Ok(tcp) => tcp,
        Err(e) => return found.fail(what, e.to_string(), "check that it runs, and the network path to it"),
    };
    let connector = TlsConnector::from(identity.client_config(id, &[b"h2"]));
    let shaken = connector.connect(identity::server_name(), tcp);
    match tokio::time::timeout(config.channel.handshake_timeout, shaken).await {
        Ok(Ok(tls)) => {
            let group = tls.get_ref().1.negotiated_key_exchange_group().map(|g| g.name());
            let pq =
                if group == Some(rustls::NamedGroup::X25519MLKEM768) { "post-quantum" } else { "classical" };
            found.pass(what, format!("is `{id}`, key exchange {pq}"));
        }
        Ok(Err(e)) => {
            let reason = identity::reason_of_io(&e);
            let wrong = format!("{} ({})", reason.sentence(), identity::detail_of_io(&e));
            found.fail(what, wrong, reason.next_step());
        }
        Err(_) => found.fail(what, "no answer to the TLS handshake", "check the path between the two hosts"),
    }
}

/// What the running sidecar knows of its authority.
async fn contact(found: &mut Findings, config: &Config) {
    let asked = client::ask(&config.console.socket, hyper::Method::GET, "/status").await;
    let Ok((200, body)) = asked else {
        return found.pass("clock", "not compared: no sidecar runs here");
    };
    let status: Value = serde_json::from_str(&body).unwrap_or_default();
    let Some(authority) = status.get("authority").filter(|a| !a.is_null()) else { return };
    match authority.get("remark").and_then(Value::as_str) {
        Some("") => found.pass("authority contact", "heard"),
        remark => {
            found.fail("authority contact", remark.unwrap_or("unknown"), "mend the path to the authority")
        }
    }
    let skew = authority.get("clock_ahead_ms").and_then(Value::as_i64).unwrap_or(0);
    match skew.unsigned_abs() <= SKEW_MAX_MS {
        true => found.pass("clock", format!("{skew} ms from the authority's")),
        false => {
            found.fail("clock", format!("{skew} ms from the authority's"), "set the clocks by NTP on both")
        }
    }
}

/// Clocks that differ by more are a failure.
const SKEW_MAX_MS: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_before_the_bound_fails_with_its_fix() {
        let now = Timestamp::from_secs(1_800_000_000);
        let hour = Duration::from_secs(3600);
        let play = |end: Timestamp, before| {
            let mut found = Findings::default();
            found.ends("certificate", end, before, now, "renew");
            (found.well(), found.text())
        };
        assert!(play(now.plus(hour), Duration::ZERO).0);
        assert!(!play(now.plus(hour), hour).0);
        assert!(!play(now, Duration::ZERO).0);
        let (_, text) = play(now.plus(hour), 2 * hour);
        insta::assert_snapshot!(text, @r"
        FAIL certificate: ends at 2027-01-15T09:00:00.000Z, in 3600 s
             fix: renew
        ");
    }

    #[tokio::test]
    async fn a_sick_sidecar_is_told_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let text = "version = 1\n[identity]\ntrust_domain = \"example.org\"\n[[outbound]]\nname = \"orders\"\n\
                    listen = \"127.0.0.1:0\"\nprotocol = \"tcp\"\npeer = \"spiffe://example.org/device/s\"\n\
                    paths = [\"127.0.0.1:1\"]\n[enrolment]\nauthority = \"spiffe://example.org/device/a\"\n\
                    paths = [\"127.0.0.1:1\"]\n";
        let file = dir.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let config = crate::config::load(&file).unwrap();
        let found = examine(&config, Duration::ZERO, Timestamp::now()).await;
        let text = found.text();
        assert!(!found.well());
        for line in [
            "FAIL identity: ",
            "PASS audit disk: ",
            "FAIL peer `orders` at 127.0.0.1:1: ",
            "FAIL authority at 127.0.0.1:1: ",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(text.matches("FAIL").count(), text.matches("     fix: ").count());
    }
}
