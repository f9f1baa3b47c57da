//! The demo's set-up: a CA and its authority, devices that join there, two sidecars, and a service behind one of them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::intruder::Credentials;
use super::service::Service;
use super::thief::Device;
use crate::console;
use crate::device::demo_machine;
use crate::identity::{self, authority};
use crate::model::{DeviceName, SpiffeId, Timestamp, TrustDomain};

/// Everything the scenes play on.
pub(super) struct Stage {
    pub dir: PathBuf,
    pub orders: Service,
    pub canary: Service,
    pub authority: Sidecar,
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
        let [door, app, admin_a, admin_b, join] =
            free_ports().map_err(|e| format!("no free loopback ports: {e}"))?;
        let (server, web) = (dir.join("server"), dir.join("web"));
        certificates(dir)?;
        for (name, seed) in MACHINES {
            demo_machine(&dir.join("machines").join(name), seed)
                .map_err(|e| format!("machine {name}: {e}"))?;
        }
        let authority = authority(dir, join).await?;
        for (name, folder) in [("server-1", "server"), ("web-1", "web"), ("tablet-1", "tablet")] {
            enrol(dir, name, folder, join).await?;
        }
        let on = |machine: &str, more: &str| {
            format!("[device]\nsysroot = \"{}\"\n{more}\n", dir.join("machines").join(machine).display())
        };
        let inbound = |name: &str, target: SocketAddr| {
            format!("[[inbound]]\nname = \"{name}\"\ntarget = \"{target}\"\nprotocol = \"tcp\"\n\n")
        };
        let served = format!(
            "{HEAD}{}[peers]\nlisten = \"{door}\"\n\n{}{}[limits]\nknocks_per_second = 20\nknocks_burst = 60\n\n\
             [admin]\nlisten = \"{admin_a}\"\n",
            on("server-1", "lease = \"3s\"\nlease_drain = \"1s\"\n"),
            inbound("orders", orders.addr),
            inbound("ledger", orders.addr),
        );
        let asked = format!(
            "{HEAD}{}[[outbound]]\nname = \"orders\"\nlisten = \"{app}\"\nprotocol = \"tcp\"\n\
             peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{door}\"]\n\n\
             [admin]\nlisten = \"{admin_b}\"\n",
            on("web-1", ""),
        );
        write(&server.join("countersign.toml"), &served)?;
        write(&web.join("countersign.toml"), &asked)?;
        for place in [&server, &web] {
            write(&place.join("policies/10-orders.cedar"), POLICY)?;
            write(&place.join("policies/groups.toml"), GROUPS)?;
        }
        let server = Sidecar::start(&server).await?;
        let web = Sidecar::start(&web).await?;
        Ok(Self { dir: dir.to_owned(), orders, canary, authority, server, web, door, app })
    }

    /// Everything of a device that joined: its files, and the machine it is on.
    pub fn device(&self, name: &str) -> Device {
        let folder = match name {
            "server-1" => "server",
            "web-1" => "web",
            _ => "tablet",
        };
        Device { certs: self.dir.join(folder).join("certs"), machine: self.dir.join("machines").join(name) }
    }

    /// What an intruder makes of a certificate of its own.
    pub fn intruder(&self, name: &str) -> Device {
        Device {
            certs: self.dir.join("intruders").join(name),
            machine: self.dir.join("machines").join("elsewhere"),
        }
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
    issue(&ca, "authority", "authority/certs", now.plus(day), None)?;
    // Plain devices: a certificate and no record.
    issue(&ca, "kiosk-1", "intruders/kiosk-1", now.plus(day), None)?;
    issue(&ca, "counter-1", "intruders/counter-1", now.plus(day), None)?;
    issue(&rogue, "counter-1", "intruders/rogue", now.plus(day), None)?;
    // Both under a name that policy allows: only what is wrong with the certificate keeps them out.
    issue(&ca, "counter-1", "intruders/expired", hour_ago.plus(Duration::from_secs(60)), None)?;
    issue(&ca, "counter-1", "intruders/two-sans", now.plus(day), Some("spiffe://example.org/device/admin-1"))
}

async fn services() -> io::Result<(Service, Service)> {
    Ok((Service::start("orders").await?, Service::start("a place that no peer may reach").await?))
}

/// Runs the authority: the sidecar that devices join at.
async fn authority(dir: &Path, door: SocketAddr) -> Result<Sidecar, String> {
    let home = dir.join("authority");
    let config = format!(
        "{HEAD}[peers]\nlisten = \"{door}\"\n\n[authority]\nca = \"../ca\"\nrecords = \"../devices\"\n"
    );
    write(&home.join("countersign.toml"), &config)?;
    write(&home.join("policies/10-none.cedar"), NONE)?;
    Sidecar::start(&home).await
}

/// Invites a device and has it join, as an administrator and the device would.
async fn enrol(dir: &Path, name: &str, folder: &str, door: SocketAddr) -> Result<(), String> {
    let token = invite(dir, name, door).await?;
    let joined = join(dir, name, &token, &dir.join(folder).join("certs")).await?;
    match joined.status.success() {
        true => Ok(()),
        false => Err(format!("{name} could not join: {}", String::from_utf8_lossy(&joined.stderr))),
    }
}

/// `countersign device invite`; gives the file with the token.
async fn invite(dir: &Path, name: &str, door: SocketAddr) -> Result<PathBuf, String> {
    let invited = own_binary()?
        .args(["device", "invite", "--name", name, "--max-tier", "1", "--authority-id"])
        .arg("spiffe://example.org/device/authority")
        .args(["--authority-addr", &door.to_string(), "--ca"])
        .arg(dir.join("ca"))
        .output()
        .await
        .map_err(|e| e.to_string())?;
    if !invited.status.success() {
        return Err(format!("{name} was not invited: {}", String::from_utf8_lossy(&invited.stderr)));
    }
    let file = dir.join("tokens").join(format!("{name}.token"));
    write(&file, &String::from_utf8_lossy(&invited.stdout))?;
    Ok(file)
}

/// `countersign join` on the machine of `name`.
pub(super) async fn join(dir: &Path, name: &str, token: &Path, out: &Path) -> Result<Output, String> {
    let mut command = own_binary()?;
    command.arg("join").arg(token).arg("--out").arg(out).args(["--wait", "0s", "--sysroot"]);
    command.arg(dir.join("machines").join(name)).stdin(Stdio::null());
    let joined = tokio::time::timeout(READY_TIMEOUT, command.output()).await;
    joined.map_err(|_| "joining took too long")?.map_err(|e| e.to_string())
}

/// One loopback address that nobody listens on.
pub(super) fn free_port() -> Result<SocketAddr, String> {
    let [port] = free_ports().map_err(|e| format!("no free loopback port: {e}"))?;
    Ok(port)
}

/// Loopback addresses that nobody listens on.
fn free_ports<const N: usize>() -> io::Result<[SocketAddr; N]> {
    // All are held until all are known, so that none is given twice.
    let mut held = Vec::new();
    let mut ports = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for port in &mut ports {
        let listener = TcpListener::bind(*port)?;
        *port = listener.local_addr()?;
        held.push(listener);
    }
    Ok(ports)
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

const NONE: &str = r#"// Devices join here. There is no service to reach.
@id("no-service")
@reason("the authority has no service of its own")
forbid(principal, action, resource);
"#;

const GROUPS: &str = r#"# Devices by what they are for.
[groups]
web = [
    "spiffe://example.org/device/web-1",
    "spiffe://example.org/device/tablet-1",
    "spiffe://example.org/device/counter-1",
    "spiffe://example.org/device/kiosk-1",
]
"#;

/// The machines there are, made of files: a device, and which machine it is.
const MACHINES: [(&str, u8); 4] = [("server-1", 1), ("web-1", 2), ("tablet-1", 3), ("elsewhere", 9)];

/// Longest wait for a sidecar to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a sidecar to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
