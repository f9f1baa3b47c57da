//! Joining from the command line at a whole sidecar: invite, wait, approve, join, revoke, and what the audit says.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use clap::Parser;

use super::super::device::{self, DeviceArgs};
use super::super::status::{self, SidecarArgs};
use super::*;
use crate::agent;
use crate::config;
use crate::device::demo_machine;
use crate::identity::authority::{self, IssueRequest};
use crate::identity::{Identity, Pq, Settings};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Device(DeviceArgs),
    Join(JoinArgs),
    Drain(SidecarArgs),
}

/// A sidecar with `[authority]`, and folders for its CA and for devices.
struct Scene {
    dir: tempfile::TempDir,
    addr: SocketAddr,
    life: Option<std::thread::JoinHandle<bool>>,
}

impl Scene {
    fn new(approval: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let (ca, place) = (dir.path().join("ca"), dir.path().join("authority"));
        authority::init(&ca, &"example.org".parse().unwrap(), now).unwrap();
        let request = IssueRequest {
            name: "authority".parse().unwrap(),
            dns: vec![],
            ip: vec![],
            ttl: Duration::from_secs(3600),
        };
        install(&place.join("certs"), &authority::issue(&ca, &request, now).unwrap()).unwrap();
        std::fs::create_dir(place.join("policies")).unwrap();
        std::fs::write(place.join("policies/10.cedar"), POLICY).unwrap();
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            "version = 1\n[identity]\ntrust_domain = \"example.org\"\n[peers]\nlisten = \"{addr}\"\n\
             [authority]\nca = \"../ca\"\napproval = \"{approval}\"\n"
        );
        std::fs::write(place.join("countersign.toml"), text).unwrap();
        let config = config::load(&place.join("countersign.toml")).unwrap();
        let life = std::thread::spawn(|| {
            tokio::runtime::Runtime::new().unwrap().block_on(agent::run(config, None)).is_ok()
        });
        while TcpStream::connect(addr).is_err() {
            assert!(!life.is_finished(), "the sidecar did not start");
            std::thread::yield_now();
        }
        Self { dir, addr, life: Some(life) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command line; `{ca}`, `{records}`, `{addr}` and `{dir}` stand for the scene's.
    fn play(&self, line: &str) -> Result<String, String> {
        let fill = |word: &str| {
            word.replace("{ca}", self.path("ca").to_str().unwrap())
                .replace("{records}", self.path("authority/devices").to_str().unwrap())
                .replace("{dir}", self.dir.path().to_str().unwrap())
                .replace("{addr}", &self.addr.to_string())
        };
        let words = std::iter::once("countersign".into()).chain(line.split_whitespace().map(fill));
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        let (now, mut out) = (Timestamp::now(), Vec::new());
        match line.command {
            Command::Device(args) => device::run(&args, now, &mut out).map_err(|e| e.to_string())?,
            Command::Join(args) => run(&args, now, &mut out).map_err(|e| e.to_string())?,
            Command::Drain(args) => assert_eq!(status::drain(&args), std::process::ExitCode::SUCCESS),
        }
        Ok(String::from_utf8(out).unwrap())
    }

    /// Writes a token for `name` into a file of that name.
    fn invite(&self, name: &str) {
        let line = format!(
            "device invite --name {name} --ca {{ca}} --authority-addr {{addr}} \
             --authority-id spiffe://example.org/device/authority"
        );
        std::fs::write(self.path(&format!("{name}.token")), self.play(&line).unwrap()).unwrap();
    }

    fn join(&self, name: &str) -> Result<String, String> {
        demo_machine(&self.path("machine"), 7).unwrap();
        self.play(&format!(
            "join {{dir}}/{name}.token --out {{dir}}/{name} --sysroot {{dir}}/machine --wait 0s"
        ))
    }

    /// Ends the sidecar; kind, device, reason and detail of each entry about joining.
    fn entries(&mut self) -> Vec<String> {
        self.play("drain --socket {dir}/authority/countersign.sock").unwrap();
        assert!(self.life.take().unwrap().join().unwrap());
        let mut all = Vec::new();
        for file in std::fs::read_dir(self.path("authority/audit")).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|e| e == "jsonl") {
                all.extend(std::fs::read_to_string(file).unwrap().lines().map(entry));
            }
        }
        all.retain(|e| e.contains("/device/web") && (e.starts_with("join") || e.starts_with("deny")));
        all
    }
}

fn entry(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let text = |key: &str| line.get(key).and_then(|v| v.as_str()).unwrap_or("-").to_owned();
    let detail = text("detail");
    let detail = detail.split(':').next().unwrap_or_default();
    format!("{} {} {} {detail}", text("kind"), text("device"), text("reason"))
}

fn refused(done: Result<String, String>, words: &str) {
    let said = done.unwrap_err();
    assert!(said.contains(words), "{said}");
}

fn record(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_device_joins_once_approved_and_everything_stands_in_the_audit() {
    let mut scene = Scene::new("queue");
    scene.invite("web-1");
    refused(scene.join("web-1"), "nobody approved it yet");
    let waiting = scene.play("device pending --ca {ca}").unwrap();
    let key = waiting.lines().find_map(|l| l.trim().strip_prefix("key ")).unwrap().to_owned();
    assert!(waiting.contains("profile `full`"), "{waiting}");
    scene.play("device approve web-1 --ca {ca}").unwrap();
    let joined = scene.join("web-1").unwrap();
    assert!(joined.contains(&format!("key    {key}")) && joined.contains("tier   at most 1"), "{joined}");

    // What came runs a sidecar.
    let certs = scene.path("web-1");
    let settings = Settings {
        trust_domain: "example.org".parse().unwrap(),
        leaf: certs.join("leaf.pem"),
        key: certs.join("leaf.key"),
        bundle: certs.join("bundle.pem"),
        crl: Some(certs.join("crl.pem")),
        pq: Pq::Prefer,
    };
    Identity::load(&settings, Timestamp::now()).unwrap();
    assert!(!certs.join("join-state").exists());
    let kept = record(&scene.path("authority/devices/web-1.toml"));
    assert_eq!(kept, record(&certs.join("device.record")));
    assert!(kept.contains("status = \"active\"") && kept.contains("dmi.product_uuid"), "{kept}");

    // Again: nothing happens. With another key: the token is spent.
    assert!(scene.join("web-1").unwrap().contains("has joined with this token already"));
    std::fs::remove_dir_all(&certs).unwrap();
    refused(scene.join("web-1"), "join_token_spent");

    let revoked = scene.play("device revoke web-1 --ca {ca} --records {records}").unwrap();
    assert!(revoked.starts_with("revoked ") && revoked.contains("says so"), "{revoked}");
    let after = record(&scene.path("authority/devices/web-1.toml"));
    assert!(after.contains("status = \"revoked\""), "{after}");

    let id = "spiffe://example.org/device/web-1";
    assert_eq!(
        scene.entries(),
        [
            format!("join {id} join_pending waits for approval"),
            format!("join {id} - issued"),
            format!("join {id} - acknowledged, the token is spent"),
            format!("deny {id} join_token_spent spent, and now shown with another request"),
        ]
    );
}

#[test]
fn without_a_queue_a_token_is_enough_and_a_withdrawn_one_is_none() {
    let mut scene = Scene::new("auto");
    scene.invite("web-1");
    scene.invite("web-2");
    scene.play("device deny web-2 --ca {ca}").unwrap();
    refused(scene.join("web-2"), "join_denied");
    assert!(!scene.path("web-2/leaf.pem").exists());
    scene.join("web-1").unwrap();
    // The same folder is not given to another device by mistake.
    scene.invite("web-3");
    let line = "join {dir}/web-3.token --out {dir}/web-1 --sysroot {dir}/machine";
    refused(scene.play(line), "identity of `spiffe://example.org/device/web-1`");
    let id = "spiffe://example.org/device/web";
    assert_eq!(
        scene.entries(),
        [
            format!("deny {id}-2 join_denied denied before"),
            format!("join {id}-1 - issued"),
            format!("join {id}-1 - acknowledged, the token is spent"),
        ]
    );
}

#[test]
fn a_token_is_read_from_a_file_or_a_pipe_and_never_from_the_command_line() {
    let read = |file: &str, stdin: &str| read_token(Path::new(file), &mut stdin.as_bytes());
    assert_eq!(read("-", "csjoin1_x").unwrap(), "csjoin1_x");
    assert!(matches!(read("csjoin1_x", ""), Err(JoinCommandError::Argument)));
    assert!(matches!(read("/nowhere/token", ""), Err(JoinCommandError::Read { .. })));
    let endless = "a".repeat(10 * Token::TEXT_LEN_MAX);
    let long = read("-", &endless).unwrap();
    assert!(long.len() < 2 * Token::TEXT_LEN_MAX);
    assert!(matches!(long.parse::<Token>(), Err(TokenError::Length { .. })));
}

const POLICY: &str = r#"@id("none")
@reason("nobody reaches anything here")
forbid(principal, action == Action::"connect", resource);
"#;
