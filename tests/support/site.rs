//! An authority on a host of its own, and devices that join it from theirs.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use super::{Host, Hosts, Sidecar, Yard, machine};

/// An authority's sidecar on a host of its own.
///
/// The sidecar goes first, then its files, then its network.
pub struct Site {
    pub authority: Sidecar,
    pub yard: Yard,
    pub hosts: Hosts,
    pub at: Host,
}

impl Site {
    pub async fn new() -> Self {
        let (hosts, yard) = (Hosts::new(), Yard::new());
        let at = hosts.host("authority");
        let config = format!(
            "[peers]\nlisten = \"{}\"\n\n[authority]\nca = \"../ca\"\nrecords = \"../records\"\n",
            at.door()
        );
        let dir = yard.furnish("authority", &config);
        let authority = Sidecar::start_by(at.countersign(), &dir).await;
        Self { hosts, yard, authority, at }
    }

    /// Invites a device; gives the file with its token.
    pub fn invite(&self, name: &str) -> PathBuf {
        let mut invite = self.at.countersign();
        invite.args(["device", "invite", "--name", name, "--ca"]).arg(self.yard.path().join("ca"));
        invite.args(["--authority-id", "spiffe://example.org/device/authority", "--authority-addr"]);
        let token = invite.arg(self.at.door().to_string()).output().unwrap();
        let file = self.yard.path().join(format!("{name}.token"));
        fs::write(&file, done(&token)).unwrap();
        file
    }

    /// A device on a host of its own with an invite, ready to join.
    pub fn device(&self, name: &str, host: &Host, seed: u8) -> Device {
        Device {
            host: host.clone(),
            token: self.invite(name),
            certs: self.yard.path().join(name).join("certs"),
            machine: machine(&self.yard, seed),
        }
    }

    /// What the authority wrote down about a device.
    pub fn told(&self, name: &str) -> Vec<String> {
        let id = format!("spiffe://example.org/device/{name}");
        let of_it = self.authority.entries().into_iter().filter(|e| e["device"] == *id);
        of_it.filter_map(|e| e["detail"].as_str().map(str::to_owned)).collect()
    }

    /// The state of a device's invite, as `countersign device pending --all` says it.
    pub fn state(&self, name: &str) -> String {
        let mut pending = self.at.countersign();
        pending.args(["device", "pending", "--all", "--ca"]).arg(self.yard.path().join("ca"));
        let said = done(&pending.output().unwrap());
        let line = said.lines().find(|line| line.split_whitespace().nth(1) == Some(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    }
}

/// A device that may join.
#[derive(Clone)]
pub struct Device {
    pub host: Host,
    pub token: PathBuf,
    pub certs: PathBuf,
    pub machine: PathBuf,
}

impl Device {
    /// `countersign join` there, into this folder or its own.
    pub fn join(&self, out: Option<PathBuf>) -> Output {
        let mut join = self.host.countersign();
        join.arg("join").arg(&self.token).arg("--sysroot").arg(&self.machine);
        join.arg("--out").arg(out.as_ref().unwrap_or(&self.certs)).output().unwrap()
    }
}

/// What a command that must do printed.
pub fn done(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}
