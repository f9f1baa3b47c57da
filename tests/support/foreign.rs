//! Servers that nobody here wrote: nginx and PostgreSQL, each in a folder of its own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{PATIENCE, free_addr};

/// A server process; it is asked to end when dropped.
pub struct Foreign {
    pub addr: SocketAddr,
    pub dir: TempDir,
    child: Child,
}

/// nginx with the files of its folder's `www`, and `hello` at `/`.
pub fn nginx() -> Foreign {
    nginx_with(|addr| {
        format!(
            "        listen {addr};\n        location = / {{ return 200 \"nginx says hello\\n\"; }}\n        \
             location / {{ root www; }}\n"
        )
    })
}

/// nginx with these lines as its one server.
fn nginx_with(server: impl Fn(SocketAddr) -> String) -> Foreign {
    let (dir, addr) = (tempfile::tempdir().unwrap(), free_addr());
    fs::create_dir(dir.path().join("www")).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("    {what}_temp_path tmp;\n"))
        .concat();
    // A worker of another user could not look into the temporary folder.
    let user = if rustix::process::getuid().is_root() { "user root;\n" } else { "" };
    let config = format!(
        "{user}daemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log nginx.log;\nevents {{}}\n\
         http {{\n    access_log off;\n    sendfile on;\n{temporary}    server {{\n{}    }}\n}}\n",
        server(addr)
    );
    fs::write(dir.path().join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir.path()).args(["-c", "nginx.conf", "-e", "nginx.log"]);
    Foreign::start(command, addr, dir)
}

/// nginx that wants a PROXY header and says whom it sees.
pub fn nginx_told() -> Foreign {
    nginx_with(|addr| {
        format!(
            "        listen {addr} proxy_protocol;\n        \
             location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port\\n\"; }}\n"
        )
    })
}

/// HAProxy that wants a PROXY header and says what it was told.
pub fn haproxy_told() -> Foreign {
    let (dir, addr) = (tempfile::tempdir().unwrap(), free_addr());
    let config = format!(
        "global\n    maxconn 100\ndefaults\n    mode http\n    timeout client 10s\n    timeout server 10s\n    \
         timeout connect 10s\nfrontend told\n    bind {addr} accept-proxy\n    http-request return status 200 \
         content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_authority] \
         %[fc_pp_unique_id]\\n\"\n"
    );
    fs::write(dir.path().join("haproxy.cfg"), config).unwrap();
    let mut command = Command::new("haproxy");
    command.current_dir(dir.path()).args(["-db", "-f", "haproxy.cfg"]);
    Foreign::start(command, addr, dir)
}

/// An echo service in a process of its own: it has its own descriptors.
pub fn echo_apart() -> Foreign {
    let (dir, addr) = (tempfile::tempdir().unwrap(), free_addr());
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/python"));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/echo.py"));
    command.arg(addr.ip().to_string()).arg(addr.port().to_string());
    Foreign::start(command, addr, dir)
}

/// Envoy with this configuration, one of whose listeners is at `addr`; from PyPI, where `.ci/peers` put it.
pub fn envoy(config: &str, addr: SocketAddr) -> Foreign {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("envoy.yaml"), config).unwrap();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/envoy"));
    command.current_dir(dir.path()).args(["-c", "envoy.yaml", "-l", "error", "--concurrency", "1"]);
    command.arg("--disable-hot-restart");
    Foreign::start(command, addr, dir)
}

/// PostgreSQL with a fresh cluster; user `postgres`, no password.
pub fn postgres() -> Foreign {
    let (dir, addr) = (tempfile::tempdir().unwrap(), free_addr());
    let data = dir.path().join("data");
    // It does not run as root.
    let user = rustix::process::getuid().is_root().then(|| (id("-u"), id("-g")));
    if let Some((uid, gid)) = user {
        chown(dir.path(), Some(uid), Some(gid)).unwrap();
    }
    let command = |program: &str| {
        let mut command = Command::new(postgres_bin().join(program));
        command.current_dir(dir.path()).arg("-D").arg(&data).stdout(Stdio::null());
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        command
    };
    let made = command("initdb").args(["-U", "postgres", "-A", "trust", "--no-sync"]).status().unwrap();
    assert!(made.success(), "initdb: {made}");
    let mut server = command("postgres");
    server.arg("-p").arg(addr.port().to_string()).arg("-k").arg(dir.path());
    server.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "log_min_messages=fatal"]);
    Foreign::start(server, addr, dir)
}

impl Foreign {
    fn start(mut command: Command, addr: SocketAddr, dir: TempDir) -> Self {
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let mut server = Self { addr, dir, child };
        let since = Instant::now();
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("{command:?} ended with {status}");
            }
            assert!(since.elapsed() < PATIENCE, "{command:?} does not listen on {addr}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        server
    }

    /// The folder of the files it serves.
    pub fn www(&self) -> PathBuf {
        self.dir.path().join("www")
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // Its children go with it when it is asked, not when it is killed.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.child.wait();
    }
}

/// Where Debian puts the newest PostgreSQL.
fn postgres_bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("postgresql is not installed");
    let newest = versions.map(|v| v.unwrap().path()).max().expect("postgresql is not installed");
    Path::new(&newest).join("bin")
}

fn id(which: &str) -> u32 {
    let said = Command::new("id").args([which, "postgres"]).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().parse().expect("there is no user `postgres`")
}
