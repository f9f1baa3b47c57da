//! A fleet: an authority, and devices that joined at it by command, each on a made-up machine of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::sidecar::{Sidecar, Yard, binary, free_addr};
use super::{machine, on_machine};

/// An authority's sidecar and the yard it stands in.
pub struct Fleet {
    pub yard: Yard,
    pub authority: Sidecar,
    /// Where devices join and hear news.
    pub addr: SocketAddr,
}

impl Fleet {
    /// `more` follows `[authority]`.
    pub async fn new(more: &str) -> Self {
        let (yard, addr) = (Yard::new(), free_addr());
        let config = format!(
            "[peers]\nlisten = \"{addr}\"\n\n[authority]\nca = \"../ca\"\nrecords = \"../records\"\n{more}\n"
        );
        let authority = yard.run("authority", &config).await;
        Self { yard, authority, addr }
    }

    /// A device that joins now on the machine `seed`; gives its folder. Nothing runs yet.
    pub fn join(&self, name: &str, seed: u8, config: &str) -> PathBuf {
        let machine = machine(&self.yard, seed);
        let dir = self.yard.furnish(name, &format!("{config}{}", on_machine(&machine, "")));
        fs::remove_dir_all(dir.join("certs")).unwrap();
        self.join_again(&dir, name, &machine);
        dir
    }

    /// Invites and joins into a folder that is furnished already.
    pub fn join_again(&self, dir: &Path, name: &str, machine: &Path) {
        let token = self
            .ca(&["device", "invite", "--name", name])
            .args(["--authority-id", "spiffe://example.org/device/authority", "--authority-addr"])
            .arg(self.addr.to_string())
            .output()
            .unwrap();
        let file = dir.join("token");
        fs::write(&file, done(token)).unwrap();
        let mut join = binary();
        join.arg("join")
            .arg(&file)
            .arg("--force")
            .arg("--out")
            .arg(dir.join("certs"))
            .arg("--sysroot")
            .arg(machine);
        done(join.output().unwrap());
    }

    /// A command at the authority's CA, with what follows to be added.
    pub fn ca(&self, args: &[&str]) -> Command {
        let mut command = binary();
        command.args(args).arg("--ca").arg(self.yard.path().join("ca"));
        command
    }

    /// `countersign device ACTION NAME` at the authority; gives what it printed.
    pub fn device(&self, action: &str, name: &str) -> String {
        let args = ["device", action, name];
        let mut command = self.ca(if name.is_empty() { &args[..2] } else { &args });
        done(command.arg("--records").arg(self.yard.path().join("records")).output().unwrap())
    }

    /// `server-1` with the service `orders`, joined and running; gives its peers' door, too.
    pub async fn server(&self, target: SocketAddr) -> (Sidecar, SocketAddr) {
        let door = free_addr();
        let config = format!(
            "[peers]\nlisten = \"{door}\"\n\n[[inbound]]\nname = \"orders\"\ntarget = \"{target}\"\n\
             protocol = \"tcp\"\n"
        );
        (Sidecar::start(&self.join("server-1", 1, &config)).await, door)
    }

    /// `web-1` with a way to `orders`, joined and running; gives the app's door, too.
    pub async fn web(&self, door: SocketAddr) -> (Sidecar, SocketAddr) {
        let app = free_addr();
        let config = format!(
            "[[outbound]]\nname = \"orders\"\nlisten = \"{app}\"\nprotocol = \"tcp\"\n\
             peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{door}\"]\n"
        );
        (Sidecar::start(&self.join("web-1", 2, &config)).await, app)
    }
}

fn done(output: Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}
