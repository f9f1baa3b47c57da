//! A yard with a CA, and `countersign run` processes in it.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use countersign::console::client;
use countersign::identity::authority::AuthorityError;
use countersign::identity::{self, authority};
use countersign::model::Timestamp;
use hyper::Method;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use super::client::Credentials;
use super::{PATIENCE, until};

/// A temporary folder with a CA of its own; a folder per sidecar in it.
pub struct Yard {
    dir: TempDir,
}

impl Yard {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        authority::init(&dir.path().join("ca"), &"example.org".parse().unwrap(), Timestamp::now()).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Issues a certificate for a device, valid for `ttl`, into `<name>/certs`.
    pub fn issue_for(&self, name: &str, ttl: Duration) -> Credentials {
        let certs = self.path().join(name).join("certs");
        let request = authority::IssueRequest {
            name: name.parse().unwrap(),
            dns: vec![],
            ip: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            ttl,
        };
        let since = Instant::now();
        let issued = loop {
            match authority::issue(&self.path().join("ca"), &request, Timestamp::now()) {
                // A process that another test starts holds every lock of ours from its fork to its exec.
                Err(AuthorityError::Busy { .. }) if since.elapsed() < PATIENCE => std::thread::yield_now(),
                issued => break issued.unwrap(),
            }
        };
        identity::install(&certs, &issued).unwrap();
        self.credentials(name)
    }

    /// Where the files of a device lie that has them already.
    pub fn credentials(&self, name: &str) -> Credentials {
        let certs = self.path().join(name).join("certs");
        Credentials {
            leaf: certs.join("leaf.pem"),
            key: certs.join("leaf.key"),
            bundle: certs.join("bundle.pem"),
        }
    }

    /// The same for a day.
    pub fn issue(&self, name: &str) -> Credentials {
        self.issue_for(name, Duration::from_secs(24 * 3600))
    }

    /// Writes certificate, policy and configuration of a sidecar; nothing runs yet. Gives its folder.
    pub fn furnish(&self, name: &str, config: &str) -> PathBuf {
        let dir = self.path().join(name);
        self.issue(name);
        fs::create_dir_all(dir.join("policies")).unwrap();
        fs::write(dir.join("policies/10-orders.cedar"), POLICY).unwrap();
        fs::write(dir.join("policies/groups.toml"), GROUPS).unwrap();
        fs::write(dir.join("countersign.toml"), format!("{HEAD}{config}")).unwrap();
        dir
    }

    /// Furnishes a sidecar and runs it.
    pub async fn run(&self, name: &str, config: &str) -> Sidecar {
        Sidecar::start(&self.furnish(name, config)).await
    }

    /// `server-1` with the service `orders` at `target`; gives its peers' door, too. `more` follows `[[inbound]]`.
    pub async fn server(&self, target: &str, more: &str) -> (Sidecar, SocketAddr) {
        let door = free_addr();
        let config = format!(
            "[peers]\nlisten = \"{door}\"\n\n[[inbound]]\nname = \"orders\"\ntarget = \"{target}\"\n\
             protocol = \"tcp\"\n{more}"
        );
        (self.run("server-1", &config).await, door)
    }

    /// `web-1` with a way to `orders`; gives the app's door, too. `more` follows `[[outbound]]`.
    pub async fn web(&self, door: SocketAddr, more: &str) -> (Sidecar, SocketAddr) {
        self.web_by(&door.to_string(), more).await
    }

    /// The same with a path of choice.
    pub async fn web_by(&self, path: &str, more: &str) -> (Sidecar, SocketAddr) {
        let app = free_addr();
        let config = format!(
            "[[outbound]]\nname = \"orders\"\nlisten = \"{app}\"\nprotocol = \"tcp\"\n\
             peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{path}\"]\n{more}"
        );
        (self.run("web-1", &config).await, app)
    }
}

/// One `countersign run` process; it ends when dropped.
pub struct Sidecar {
    pub dir: PathBuf,
    child: Child,
}

impl Sidecar {
    /// Starts it and waits until it is ready.
    pub async fn start(dir: &Path) -> Self {
        let mut sidecar = Self::spawn(dir, &[]);
        until("the sidecar is ready", async || {
            if let Ok(Some(status)) = sidecar.child.try_wait() {
                panic!("the sidecar ended with {status}:\n{}", sidecar.log());
            }
            matches!(sidecar.ask(Method::GET, "/readyz").await, Some((200, _))).then_some(())
        })
        .await;
        sidecar
    }

    /// Starts it with more arguments and waits for nothing.
    pub fn spawn(dir: &Path, args: &[&str]) -> Self {
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let child = run_command(dir).args(args).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { dir: dir.to_owned(), child }
    }

    /// Runs it to its end: for starts that must fail.
    pub fn output(dir: &Path, args: &[&str]) -> Output {
        let mut child =
            run_command(dir).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let since = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if since.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("the sidecar started");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.wait_with_output().unwrap()
    }

    /// Asks its admin socket; `None` while nobody answers.
    pub async fn ask(&self, method: Method, path: &str) -> Option<(u16, String)> {
        client::ask(&self.dir.join("countersign.sock"), method, path).await.ok()
    }

    /// `/status` as JSON.
    pub async fn status(&self) -> Value {
        let (_, body) = self.ask(Method::GET, "/status").await.unwrap();
        serde_json::from_str(&body).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Sets its limit on descriptors; gives the one before.
    pub fn descriptors_max(&self, most: u64) -> u64 {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let ours = getrlimit(Resource::Nofile);
        let new = Rlimit { current: Some(most), maximum: ours.maximum };
        prlimit(pid, Resource::Nofile, new).unwrap().current.unwrap_or(u64::MAX)
    }

    /// Its resident memory.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the sidecar's end", async || child.try_wait().unwrap()).await
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Waits until its log says something.
    pub async fn logged(&self, text: &str) {
        until(&format!("`{text}` in the log"), async || self.log().contains(text).then_some(())).await;
    }

    /// Every audit entry so far.
    pub fn entries(&self) -> Vec<Value> {
        let mut segments: Vec<_> = fs::read_dir(self.dir.join("audit"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
            .collect();
        segments.sort();
        let text: String = segments.iter().map(|s| fs::read_to_string(s).unwrap()).collect();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an audit entry of this kind with this reason.
    pub async fn wrote(&self, kind: &str, reason: &str) -> Value {
        until(&format!("an entry `{kind}` with `{reason}`"), async || {
            self.entries()
                .into_iter()
                .find(|e| e["kind"] == kind && e["reason"].as_str().unwrap_or_default() == reason)
        })
        .await
    }

    /// Puts a policy file in place, as a careful operator does.
    pub fn set_policy(&self, file: &str, text: &str) {
        publish(&self.dir.join("policies").join(file), text);
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.dir.display(), self.log());
        }
    }
}

fn run_command(dir: &Path) -> Command {
    let mut command = binary();
    command.arg("run").arg("--config").arg(dir.join("countersign.toml")).stdin(Stdio::null());
    command
}

/// The binary under test; `COUNTERSIGN_BIN` names another one, such as a release build.
pub fn binary() -> Command {
    let other = std::env::var_os("COUNTERSIGN_BIN").filter(|path| !path.is_empty());
    Command::new(other.unwrap_or_else(|| env!("CARGO_BIN_EXE_countersign").into()))
}

/// Writes a file beside its place and renames it over.
pub fn publish(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

/// A loopback address that nobody listens on.
///
/// Below the ports that the kernel gives to connections, so that none of those takes it before its sidecar does.
pub fn free_addr() -> SocketAddr {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap();
    let start = u16::try_from(std::process::id() % 800).unwrap() * 15;
    let mut port = next.unwrap_or(PORTS.0 + start);
    loop {
        port = if port + 1 >= PORTS.1 { PORTS.0 } else { port + 1 };
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(addr).is_ok() {
            *next = Some(port);
            return addr;
        }
    }
}

/// Below 32768, where Linux begins to give out ports by itself.
const PORTS: (u16, u16) = (20_000, 32_000);

const HEAD: &str = "version = 1\n\n[identity]\ntrust_domain = \"example.org\"\ncrl = \"certs/crl.pem\"\n\n";

const POLICY: &str = r#"@id("orders-web")
@reason("web devices may place orders")
permit(principal in Group::"web", action == Action::"connect", resource == Service::"orders");
"#;

const GROUPS: &str = r#"[groups]
web = ["spiffe://example.org/device/web-1", "spiffe://example.org/device/brief-1"]
"#;
