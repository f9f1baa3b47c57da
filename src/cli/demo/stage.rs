//! The demo's set-up: a CA, devices, two sidecars as processes of their own, and a service behind one of them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::intruder::Credentials;
use super::service::Service;
use crate::console;
use crate::identity::{self, authority};
use crate::model::{DeviceName, SpiffeId, Timestamp, TrustDomain};

/// Everything the scenes play on.
pub(super) struct Stage {
    pub dir: PathBuf,
    pub orders: Service,
    pub canary: Service,
    pub server: Sidecar,
    pub web: Sidecar,
    /// The server's peers' door.
    pub door: SocketAddr,
    /// Where the app beside `web` finds `orders`.
    pub app: SocketAddr,
}

/// One `countersign run` process.
pub(super) struct Sidecar {
    pub dir: PathBuf,
    child: Child,
}

impl Stage {
    /// Writes every file below `dir` and starts both sidecars.
    pub async fn set(dir: &Path) -> Result<Self, String> {
        let (orders, canary) = services().await.map_err(|e| format!("the demo's services: {e}"))?;
        let (door, app, admin_a, admin_b) =
            free_ports().map_err(|e| format!("no free loopback ports: {e}"))?;
        let (server, web) = (dir.join("server"), dir.join("web"));
        certificates(dir)?;
        let inbound = |name: &str, target: SocketAddr| {
            format!("[[inbound]]\nname = \"{name}\"\ntarget = \"{target}\"\nprotocol = \"tcp\"\n\n")
        };
        let served = format!(
            "{HEAD}[peers]\nlisten = \"{door}\"\n\n{}{}[limits]\nknocks_per_second = 20\nknocks_burst = 60\n\n\
             [admin]\nlisten = \"{admin_a}\"\n",
            inbound("orders", orders.addr),
            inbound("ledger", orders.addr),
        );
        let asked = format!(
            "{HEAD}[[outbound]]\nname = \"orders\"\nlisten = \"{app}\"\nprotocol = \"tcp\"\n\
             peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{door}\"]\n\n\
             [admin]\nlisten = \"{admin_b}\"\n"
        );
        write(&server.join("countersign.toml"), &served)?;
        write(&web.join("countersign.toml"), &asked)?;
        for place in [&server, &web] {
            write(&place.join("policies/10-orders.cedar"), POLICY)?;
            write(&place.join("policies/groups.toml"), GROUPS)?;
        }
        let server = Sidecar::start(&server).await?;
        let web = Sidecar::start(&web).await?;
        Ok(Self { dir: dir.to_owned(), orders, canary, server, web, door, app })
    }

    /// The certificate and key of one of the demo's devices.
    pub fn credentials(&self, device: &str) -> Credentials {
        credentials(&self.dir, device)
    }
}

impl Sidecar {
    /// Starts `countersign run` in `dir` and waits until it is ready.
    pub async fn start(dir: &Path) -> Result<Self, String> {
        let log = fs::File::create(dir.join("sidecar.log")).map_err(|e| format!("{}: {e}", dir.display()))?;
        let child = command(dir)?
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("a sidecar did not start: {e}"))?;
        let mut sidecar = Self { dir: dir.to_owned(), child };
        sidecar.until_ready().await?;
        Ok(sidecar)
    }

    async fn until_ready(&mut self) -> Result<(), String> {
        let (socket, since) = (self.dir.join("countersign.sock"), Instant::now());
        loop {
            if let Ok((200, _)) = console::client::ask(&socket, hyper::Method::GET, "/readyz").await {
                return Ok(());
            }
            let ended = self.child.try_wait().map_err(|e| e.to_string())?;
            if ended.is_some() || since.elapsed() > READY_TIMEOUT {
                let log = fs::read_to_string(self.dir.join("sidecar.log")).unwrap_or_default();
                return Err(format!("the sidecar in {} is not ready:\n{log}", self.dir.display()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its audit folder.
    pub fn audit(&self) -> PathBuf {
        self.dir.join("audit")
    }

    /// Asks it to stop and waits for its end.
    pub async fn stop(&mut self) -> Result<(), String> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|e| e.to_string())?;
        }
        match tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => self.child.kill().await.map_err(|e| e.to_string()),
        }
    }
}

/// `countersign run --config` in `dir`, by this very binary.
pub(super) fn command(dir: &Path) -> Result<Command, String> {
    let mut command = own_binary()?;
    command
        .arg("run")
        .arg("--config")
        .arg(dir.join("countersign.toml"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

/// This very binary.
pub(super) fn own_binary() -> Result<Command, String> {
    let binary = std::env::current_exe().map_err(|e| format!("this binary cannot be found: {e}"))?;
    Ok(Command::new(binary))
}

/// Where a device's certificate and key lie.
pub(super) fn credentials(dir: &Path, device: &str) -> Credentials {
    let certs = match device {
        "server-1" => dir.join("server/certs"),
        "web-1" => dir.join("web/certs"),
        other => dir.join("intruders").join(other),
    };
    Credentials { chain: certs.join("leaf.pem"), key: certs.join("leaf.key") }
}

/// Makes the CA, the honest devices, and what the intruders bring along.
fn certificates(dir: &Path) -> Result<(), String> {
    let now = Timestamp::now();
    let (ca, rogue) = (dir.join("ca"), dir.join("intruders/rogue-ca"));
    let domain: TrustDomain = "example.org".parse().map_err(|e| format!("{e}"))?;
    authority::init(&ca, &domain, now).map_err(|e| e.to_string())?;
    authority::init(&rogue, &domain, now).map_err(|e| e.to_string())?;
    let day = Duration::from_secs(24 * 3600);
    let hour_ago = Timestamp::from_millis(now.as_millis().saturating_sub(3_600_000));
    let issue = |ca: &Path, device: &str, out: &str, until: Timestamp, second_id: Option<&str>| {
        let name: DeviceName = device.parse().map_err(|e| format!("{e}"))?;
        let id = SpiffeId::device(&domain, &name);
        let from = if until < now { hour_ago } else { now };
        let mut params = authority::device_params(&domain, &name, from, until).map_err(|e| e.to_string())?;
        if let Some(second) = second_id {
            let uri = second.try_into().map_err(|e| format!("{e}"))?;
            params.subject_alt_names.push(rcgen::SanType::URI(uri));
        }
        let issued = authority::issue_raw(ca, params, id, now).map_err(|e| e.to_string())?;
        identity::install(&dir.join(out), &issued).map_err(|e| e.to_string())
    };
    issue(&ca, "server-1", "server/certs", now.plus(day), None)?;
    issue(&ca, "web-1", "web/certs", now.plus(day), None)?;
    issue(&ca, "kiosk-1", "intruders/kiosk-1", now.plus(day), None)?;
    issue(&rogue, "web-1", "intruders/rogue", now.plus(day), None)?;
    // Both under a name that policy allows: only what is wrong with the certificate keeps them out.
    issue(&ca, "web-1", "intruders/expired", hour_ago.plus(Duration::from_secs(60)), None)?;
    issue(&ca, "web-1", "intruders/two-sans", now.plus(day), Some("spiffe://example.org/device/admin-1"))
}

async fn services() -> io::Result<(Service, Service)> {
    Ok((Service::start("orders").await?, Service::start("a place that no peer may reach").await?))
}

/// Four loopback addresses that nobody listens on.
fn free_ports() -> io::Result<(SocketAddr, SocketAddr, SocketAddr, SocketAddr)> {
    // All are held until all are known, so that none is given twice.
    let bind = || TcpListener::bind("127.0.0.1:0");
    let (a, b, c, d) = (bind()?, bind()?, bind()?, bind()?);
    Ok((a.local_addr()?, b.local_addr()?, c.local_addr()?, d.local_addr()?))
}

/// Writes a file of the set-up, with the folders above it.
pub(super) fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .map_err(|e| format!("{}: {e}", path.display()))
}

const HEAD: &str = "version = 1\n\n[identity]\ntrust_domain = \"example.org\"\ncrl = \"certs/crl.pem\"\n\n";

const POLICY: &str = r#"// Who may reach the orders service. Nothing else is allowed: there is no rule for `ledger`.
@id("orders-web")
@reason("web devices may place orders")
permit(principal in Group::"web", action == Action::"connect", resource == Service::"orders");
"#;

const GROUPS: &str = r#"# Devices by what they are for.
[groups]
web = ["spiffe://example.org/device/web-1", "spiffe://example.org/device/kiosk-1"]
"#;

/// Longest wait for a sidecar to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a sidecar to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
