//! What the analyser finds strange is told, and done away with where the files say so.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Client, Credentials, H2Client, Service, Sidecar, Yard, binary, echo, echoes, free_addr, until, within,
};

/// Nothing has to be learnt first: every device is judged by the floors.
const ENFORCE: &str = "\n[behaviour]\nmode = \"enforce\"\nenforce_from = \"2020-01-01T00:00:00Z\"\n";

/// `server-1` with the service `orders`, furnished but not started.
fn furnished(
    yard: &Yard,
    target: SocketAddr,
    behaviour: &str,
    actions: Option<&str>,
) -> (PathBuf, SocketAddr) {
    let door = free_addr();
    let inbound = format!("[[inbound]]\nname = \"orders\"\ntarget = \"{target}\"\nprotocol = \"tcp\"\n");
    let dir = yard.furnish("server-1", &format!("[peers]\nlisten = \"{door}\"\n{inbound}{behaviour}"));
    if let Some(actions) = actions {
        std::fs::write(dir.join("policies/behaviour.toml"), actions).unwrap();
    }
    (dir, door)
}

/// Opens so many flows one after the other as fast as they come; the statuses.
async fn flood(door: SocketAddr, by: &Credentials, flows: usize) -> Vec<(u16, String)> {
    // One session: the more handshakes, the more the machine's speed would matter.
    let mut client = H2Client::connect(door, by).await;
    let mut said = Vec::new();
    while said.len() < flows {
        match client.ask("orders:80").await {
            Ok((status, reason, ..)) => said.push((status, reason)),
            // It was to prove its device anew.
            Err(_) => client = H2Client::connect(door, by).await,
        }
    }
    said
}

/// Asks, and waits for the first bytes of an answer; whether some came.
async fn turn(flow: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), ask: &[u8]) -> bool {
    let mut heard = [0; 1024];
    flow.write_all(ask).await.is_ok()
        && within("an answer or the end", flow.read(&mut heard)).await.is_ok_and(|n| n > 0)
}

/// The entries of this kind with this reason.
fn written(server: &Sidecar, kind: &str, reason: &str) -> Vec<Value> {
    server.entries().into_iter().filter(|e| e["kind"] == kind && e["reason"] == reason).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_blocked_and_explained_and_another_device_does_not_suffer() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let actions = "[[behaviour]]\nrules = [\"flood\"]\naction = \"block\"\n";
    let (dir, door) = furnished(&yard, orders.addr, ENFORCE, Some(actions));
    let server = Sidecar::start(&dir).await;
    let (web, other) = (yard.issue("web-1"), yard.issue("brief-1"));
    let mut living = Client::connect(door, &other).await.ask("orders:80").await.flow();
    echo(&mut living).await;

    let said = flood(door, &web, 150).await;
    assert!(said.iter().take(10).all(|(status, _)| *status == 200), "the floor leaves room: {said:?}");
    assert!(said.contains(&(403, "behaviour_blocked".to_owned())), "{said:?}");
    // Each refusal stands in the audit, with the rule and its figures.
    let refused = said.iter().filter(|(status, _)| *status == 403).count();
    let denied = until("an entry for each refusal", async || {
        let denied = written(&server, "deny", "behaviour_blocked");
        let all: u64 = denied.iter().map(|e| e["count"].as_u64().unwrap_or(1)).sum();
        (all == refused as u64).then_some(denied)
    })
    .await;
    // Those that came too fast are summed in one.
    for entry in denied.iter().filter(|e| e["count"].is_null()) {
        let why = entry["detail"].as_str().unwrap();
        assert!(why.starts_with("rule=flood flows_1") && why.contains(" limit="), "{why}");
        assert_eq!((&entry["rule"], &entry["target"]), (&"flood".into(), &"orders:80".into()));
        assert_eq!(entry["device"], "spiffe://example.org/device/web-1");
    }

    assert!(echoes(&mut living).await);
    assert_eq!(Client::connect(door, &other).await.ask("orders:80").await.said(), (200, ""));
    let status = server.status().await;
    assert_eq!(status["behaviour"]["mode"], "enforce");
    assert_eq!(status["behaviour"]["devices"], 2);
    assert!(status["behaviour"]["would_act"].as_u64().unwrap() >= refused as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_file_names_another_service_or_rule_or_allows_it_nothing_is_done() {
    for actions in [
        "[[behaviour]]\nservices = [\"ledger\"]\naction = \"quarantine\"\n",
        "[[behaviour]]\nrules = [\"scan\"]\naction = \"quarantine\"\n",
        "[[behaviour]]\nservices = [\"orders\"]\nrules = [\"flood\"]\nband = \"low\"\naction = \"allow\"\n\
         [[behaviour]]\naction = \"quarantine\"\n",
    ] {
        let (yard, orders) = (Yard::new(), Service::echo().await);
        let (dir, door) = furnished(&yard, orders.addr, ENFORCE, Some(actions));
        let server = Sidecar::start(&dir).await;
        let said = flood(door, &yard.issue("web-1"), 80).await;
        assert!(said.iter().all(|(status, _)| *status == 200), "{actions}: {said:?}");
        assert!(written(&server, "deny", "behaviour_blocked").is_empty());
        assert!(server.status().await["behaviour"]["would_act"].as_u64().unwrap() > 0, "{actions}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_goes_on_is_quarantined_and_its_living_flows_end() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let actions = "[[behaviour]]\nrules = [\"flood\"]\naction = \"quarantine\"\n";
    let (dir, door) = furnished(&yard, orders.addr, ENFORCE, Some(actions));
    let server = Sidecar::start(&dir).await;
    let web = yard.issue("web-1");
    let mut living = Client::connect(door, &web).await.ask("orders:80").await.flow();
    echo(&mut living).await;
    let said = flood(door, &web, 150).await;
    assert!(said.contains(&(403, "behaviour_quarantined".to_owned())), "{said:?}");
    assert_eq!(said.last().unwrap().1, "behaviour_quarantined", "it lasts");
    server.wrote("close", "behaviour_quarantined").await;
    let block = server.wrote("block", "behaviour_quarantined").await;
    let told = block["detail"].as_str().unwrap();
    assert!(told.starts_with("quarantine: rule=flood") && told.ends_with("; 1 more flows end"), "{told}");
    assert_eq!(written(&server, "block", "behaviour_quarantined").len(), 1, "said once");
    assert!(!echoes(&mut living).await, "the flow it had ends as well");
    let other = yard.issue("brief-1");
    assert_eq!(Client::connect(door, &other).await.ask("orders:80").await.said(), (200, ""));
    assert_eq!(server.status().await["behaviour"]["quarantined"], 1);

    // A person has looked.
    let said = binary().arg("release").arg("--socket").arg(dir.join("countersign.sock")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "devices out of quarantine: 1", "{said:?}");
    assert_eq!(server.status().await["behaviour"]["quarantined"], 0);
    let again = flood(door, &web, 1).await.remove(0);
    assert_ne!(again.1, "behaviour_quarantined");
    let asked = until("the ask in the audit", async || {
        server
            .entries()
            .into_iter()
            .find(|e| e["kind"] == "admin" && e["target"].to_string().contains("/release"))
    });
    asked.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unless_it_is_enforced_strange_behaviour_is_only_counted() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let observe = ENFORCE.replace("\"enforce\"", "\"observe\"");
    let actions = "[[behaviour]]\naction = \"quarantine\"\n";
    let (dir, door) = furnished(&yard, orders.addr, &observe, Some(actions));
    let server = Sidecar::start(&dir).await;
    let said = flood(door, &yard.issue("web-1"), 80).await;
    assert!(said.iter().all(|(status, _)| *status == 200), "{said:?}");
    let behaviour = server.status().await["behaviour"].clone();
    assert_eq!((&behaviour["mode"], &behaviour["quarantined"]), (&"observe".into(), &0.into()));
    assert!(behaviour["would_act"].as_u64().unwrap() > 0, "{behaviour}");
}

#[test]
fn enforcing_without_a_file_of_actions_does_not_start_and_says_which_is_missing() {
    let yard = Yard::new();
    let (dir, _) = furnished(&yard, "127.0.0.1:1".parse().unwrap(), ENFORCE, None);
    // Were it to start after all, it would run until somebody stopped it.
    let mut run = std::process::Command::new("timeout");
    run.arg("10").arg(binary().get_program()).arg("run").arg("--config").arg(dir.join("countersign.toml"));
    let run = run.output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        said.contains("policies/behaviour.toml: is missing, and `[behaviour] mode` is `enforce`"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_is_stopped_before_its_first_byte_arrives() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let speaks = format!("speaks = \"http\"\n{ENFORCE}");
    let actions = "[[behaviour]]\nrules = [\"mismatch\"]\naction = \"block\"\n";
    let (dir, door) = furnished(&yard, orders.addr, &speaks, Some(actions));
    let server = Sidecar::start(&dir).await;
    let web = yard.issue("web-1");
    let mut honest = Client::connect(door, &web).await.ask("orders:80").await.flow();
    assert!(turn(&mut honest, b"GET / HTTP/1.1\r\n\r\n").await);
    let mut tunnel = Client::connect(door, &web).await.ask("orders:80").await.flow();
    assert!(!turn(&mut tunnel, b"SSH-2.0-OpenSSH_9.2p1\r\n").await, "nothing comes back");
    let closed = server.wrote("close", "behaviour_blocked").await;
    let why = closed["detail"].as_str().unwrap();
    assert!(why.starts_with("rule=mismatch"), "{why}");
    assert_eq!((&closed["bytes_in"], &closed["bytes_out"]), (&0.into(), &0.into()), "{closed}");
    assert!(turn(&mut honest, b"GET /b HTTP/1.1\r\n\r\n").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_tried_one_after_the_other_are_stopped() {
    let yard = Yard::new();
    let login = Service::start(async |mut stream: TcpStream| {
        let mut asked = [0; 1024];
        while stream.read(&mut asked).await.is_ok_and(|n| n > 0) {
            let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let actions = "[[behaviour]]\nrules = [\"logins\"]\naction = \"block\"\n";
    let (dir, door) = furnished(&yard, login.addr, ENFORCE, Some(actions));
    let server = Sidecar::start(&dir).await;
    let mut flow = Client::connect(door, &yard.issue("web-1")).await.ask("orders:80").await.flow();
    let mut tries = 0;
    while turn(&mut flow, format!("POST /login?try={tries} HTTP/1.1\r\n\r\n").as_bytes()).await {
        tries += 1;
        assert!(tries < 60, "nobody stops it");
    }
    assert!(tries >= 8, "a few typos are nothing: {tries}");
    let closed = server.wrote("close", "behaviour_blocked").await;
    assert!(closed["detail"].as_str().unwrap().starts_with("rule=logins"), "{closed}");
}

/// Stops it in good order and starts it again.
async fn restarted(mut server: Sidecar, dir: &Path) -> Sidecar {
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
    Sidecar::start(dir).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_no_device_and_lets_none_out_of_quarantine() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let actions = "[[behaviour]]\nrules = [\"flood\"]\naction = \"quarantine\"\n";
    let often = format!("{ENFORCE}remember_every = \"1s\"\n");
    let (dir, door) = furnished(&yard, orders.addr, &often, Some(actions));
    let server = Sidecar::start(&dir).await;
    let begun = server.status().await["behaviour"].clone();
    assert!(begun["memory"].as_str().unwrap().starts_with("learning since "), "{begun}");
    let (web, other) = (yard.issue("web-1"), yard.issue("brief-1"));
    assert_eq!(Client::connect(door, &other).await.ask("orders:80").await.said(), (200, ""));
    let said = flood(door, &web, 150).await;
    assert_eq!(said.last().unwrap().1, "behaviour_quarantined", "{said:?}");

    let server = restarted(server, &dir).await;
    let known = server.status().await["behaviour"].clone();
    assert!(known["memory"].as_str().unwrap().starts_with("2 devices known from before, as of 2"), "{known}");
    assert_eq!((&known["devices"], &known["quarantined"]), (&2.into(), &1.into()));
    assert_eq!(flood(door, &web, 1).await.remove(0), (403, "behaviour_quarantined".to_owned()));
    assert_eq!(Client::connect(door, &other).await.ask("orders:80").await.said(), (200, ""));

    // No power at all is no way out either: it is written every while.
    let kept = server.status().await["behaviour"]["kept_at"].clone();
    until("it is written again", async || {
        let behaviour = server.status().await["behaviour"].clone();
        (!behaviour["kept_at"].is_null() && behaviour["kept_at"] != kept).then_some(())
    })
    .await;
    drop(server);
    let server = Sidecar::start(&dir).await;
    assert_eq!(server.status().await["behaviour"]["devices"], 2);
    assert!(!server.log().contains("is refused"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_that_was_tampered_with_is_told_kept_aside_and_in_nobodys_way() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let actions = "[[behaviour]]\naction = \"block\"\n";
    let config = format!("{ENFORCE}\n[admin]\nlisten = \"{}\"\n", free_addr());
    let (dir, door) = furnished(&yard, orders.addr, &config, Some(actions));
    let (web, file) = (yard.issue("web-1"), dir.join("behaviour.state"));
    let mut server = Sidecar::start(&dir).await;
    for (spoil, reason) in [(true, "bad tag"), (false, "exposed")] {
        assert_eq!(Client::connect(door, &web).await.ask("orders:80").await.said(), (200, ""));
        server.signal(Signal::TERM);
        assert!(server.ended().await.success());
        let mut bytes = std::fs::read(&file).unwrap();
        if spoil {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
        } else {
            std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        }
        server = Sidecar::start(&dir).await;
        let behaviour = server.status().await["behaviour"].clone();
        let memory = behaviour["memory"].as_str().unwrap();
        assert!(memory.starts_with("learning anew since "), "{memory}");
        assert!(memory.ends_with(&format!(", the snapshot was refused: {reason}")), "{memory}");
        assert_eq!(behaviour["devices"], 0);
        assert_eq!(std::fs::read(dir.join("behaviour.state.bad")).unwrap(), bytes);
        let log = server.log();
        let told: Vec<_> = log.lines().filter(|l| l.contains(&format!("\"reason\":\"{reason}\""))).collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(told[0].contains("WARN") && told[0].contains("learning starts anew, the file is kept as `"));
        let (_, meters) = server.ask(Method::GET, "/metrics").await.unwrap();
        assert!(meters.contains("countersign_behaviour_snapshots_total{result=\"refused\"} 1"), "{meters}");
    }
    // The floors hold without any memory.
    assert!(flood(door, &web, 80).await.contains(&(403, "behaviour_blocked".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_to_be_remembered_nothing_is_written() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    for (behaviour, memory) in [
        ("\n[behaviour]\nremember = \"\"\n", "off, a stop forgets what was learnt"),
        ("\n[behaviour]\nmode = \"off\"\n", "off"),
    ] {
        let (dir, _) = furnished(&yard, orders.addr, behaviour, None);
        let server = Sidecar::start(&dir).await;
        assert_eq!(server.status().await["behaviour"]["memory"], memory);
        drop(restarted(server, &dir).await);
        assert!(!dir.join("behaviour.state").exists());
    }
}
