//! Devices that prove themselves on a session, and what ends when they no longer do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use countersign::channel::{ERRAND_LEN_MAX, ERRANDS_PER_SECOND};
use countersign::device::Status;
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::support::{
    Client, H2Client, Service, Sidecar, Yard, echo, echoes, ending, enrol, enrol_as, free_addr, machine,
    on_machine, until,
};

/// `server-1` and `web-1`, each enrolled on a machine of its own.
struct Pair {
    server: Sidecar,
    web: Sidecar,
    door: SocketAddr,
    app: SocketAddr,
    machines: [PathBuf; 2],
}

async fn pair(yard: &Yard, orders: &Service, device: &str) -> Pair {
    let machines = [machine(yard, 1), machine(yard, 2)];
    let (door, app) = (free_addr(), free_addr());
    let server = format!(
        "[peers]\nlisten = \"{door}\"\n\n[[inbound]]\nname = \"orders\"\ntarget = \"{}\"\nprotocol = \"tcp\"\n",
        orders.addr
    );
    let web = format!(
        "[[outbound]]\nname = \"orders\"\nlisten = \"{app}\"\nprotocol = \"tcp\"\n\
         peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{door}\"]\n"
    );
    let mut sidecars = Vec::new();
    for ((name, config), machine) in [("server-1", server), ("web-1", web)].into_iter().zip(&machines) {
        let dir = yard.furnish(name, &format!("{config}{}", on_machine(machine, device)));
        enrol(yard, name, machine, 1);
        sidecars.push(Sidecar::start(&dir).await);
    }
    let (web, server) = (sidecars.pop().unwrap(), sidecars.pop().unwrap());
    Pair { server, web, door, app, machines }
}

const TIER_1: &str = "@id(\"proven-only\") @reason(\"orders are for proven devices\")\n\
                      forbid(principal, action, resource == Service::\"orders\") when { principal.tier < 1 };\n";

#[tokio::test(flavor = "multi_thread")]
async fn two_enrolled_devices_prove_themselves_before_a_byte_passes() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let p = pair(&yard, &orders, "require_tier = 1").await;
    for side in [&p.server, &p.web] {
        side.set_policy("50-proven.cedar", TIER_1);
    }
    let mut flow = TcpStream::connect(p.app).await.unwrap();
    echo(&mut flow).await;
    for (side, peer) in [(&p.server, "web-1"), (&p.web, "server-1")] {
        let attest = side.wrote("attest", "").await;
        assert_eq!(attest["device"], format!("spiffe://example.org/device/{peer}"));
        let detail = attest["detail"].as_str().unwrap();
        assert!(detail.starts_with("tier 1, record 1, lease until "), "{detail}");
        assert!(detail.ends_with("; match, score 100"), "{detail}");
        let status = side.status().await;
        assert_eq!(status["sessions"][0]["standing"]["tier"], 1);
        assert_eq!(status["device"]["tier"], 1);
    }
    p.server.wrote("open", "").await;
    let seq =
        |kind: &str| p.server.entries().iter().find(|e| e["kind"] == kind).unwrap()["seq"].as_u64().unwrap();
    assert!(seq("attest") < seq("open"), "proven before anything is opened");
    // A plain client with the very same certificate cannot prove anything.
    let thief = Client::connect(p.door, &yard.credentials("web-1")).await.ask("orders:80").await;
    assert_eq!(thief.said(), (403, "evidence_missing"));
    p.server.wrote("deny", "evidence_missing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_record_is_refused_where_a_tier_is_required() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let (server, door) = yard.server(&orders.addr.to_string(), "\n[device]\nrequire_tier = 1\n").await;
    let (web, app) = yard.web(door, "").await;
    let mut flow = TcpStream::connect(app).await.unwrap();
    ending(&mut flow).await;
    server.wrote("deny", "record_missing").await;
    let told = web.wrote("deny", "peer_refused").await;
    assert!(told["detail"].as_str().unwrap().contains("reason=record_missing"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_renewed_ends_the_flows_of_the_other_host() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let p = pair(&yard, &orders, "lease = \"3s\"\nlease_drain = \"1s\"").await;
    let mut flow = TcpStream::connect(p.app).await.unwrap();
    echo(&mut flow).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(echoes(&mut flow).await, "it is renewed while both are well");
    assert!(p.server.entries().iter().filter(|e| e["kind"] == "attest").count() > 1);
    // Stopped, it renews nothing; its connection stays.
    p.web.signal(Signal::STOP);
    let since = Instant::now();
    let close = p.server.wrote("close", "lease_expired").await;
    assert!(since.elapsed() < Duration::from_secs(3 + 5), "{close}");
    p.web.signal(Signal::CONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_its_certificate_when_the_new_one_is_proven_on_it() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let p = pair(&yard, &orders, "").await;
    // Both get short certificates before they meet, then longer ones while they are connected.
    let both = |ttl, version| {
        for (name, machine) in ["server-1", "web-1"].into_iter().zip(&p.machines) {
            yard.issue_for(name, Duration::from_secs(ttl));
            enrol(&yard, name, machine, version);
        }
    };
    let serial = async |s: &Sidecar| s.status().await["certificate"]["serial"].as_str().unwrap().to_owned();
    let renewed = async |ttl, version| {
        let before = (serial(&p.server).await, serial(&p.web).await);
        both(ttl, version);
        until("both have new certificates", async || {
            let now = (serial(&p.server).await, serial(&p.web).await);
            (now.0 != before.0 && now.1 != before.1).then_some(())
        })
        .await;
    };
    renewed(8, 2).await;
    let mut flow = TcpStream::connect(p.app).await.unwrap();
    echo(&mut flow).await;
    let session = p.web.status().await["sessions"][0]["session"].clone();
    renewed(600, 3).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(echoes(&mut flow).await, "past the end of the first certificates");
    for side in [&p.server, &p.web] {
        let sessions = &side.status().await["sessions"];
        assert_eq!(sessions[0]["session"], session);
        let proven = |e: &serde_json::Value| {
            e["kind"] == "attest" && e["detail"].as_str().unwrap().contains("renewed certificate")
        };
        assert!(side.entries().iter().any(proven));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_becomes_another_machine_is_cut_at_its_next_evidence() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let p = pair(&yard, &orders, "lease = \"3s\"\nlook_interval = \"1s\"").await;
    let mut flow = TcpStream::connect(p.app).await.unwrap();
    echo(&mut flow).await;
    countersign::device::demo_machine(&p.machines[1], 9).unwrap();
    p.server.wrote("deny", "device_quarantined").await;
    p.server.wrote("close", "device_quarantined").await;
    ending(&mut flow).await;
    let told = p.server.entries().into_iter().find(|e| e["reason"] == "device_quarantined").unwrap();
    assert!(told["detail"].as_str().unwrap().contains("changed: dmi.product_uuid"), "{told}");
    assert_eq!(p.web.status().await["device"]["verdict"], "quarantine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_record_takes_effect_on_living_sessions_and_an_older_one_never_again() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let mut p = pair(&yard, &orders, "").await;
    let mut flow = TcpStream::connect(p.app).await.unwrap();
    echo(&mut flow).await;
    enrol_as(&yard, "web-1", &p.machines[1], 2, |r| r.status = Status::Active);
    until("the newer record is on the server", async || {
        (p.server.status().await["sessions"][0]["standing"]["record"] == 2).then_some(())
    })
    .await;
    assert!(echoes(&mut flow).await);
    // Both start again, the one with what it has seen, the other with a record of before.
    for sidecar in [&mut p.web, &mut p.server] {
        sidecar.signal(Signal::TERM);
        drop(std::mem::replace(&mut flow, TcpStream::connect(orders.addr).await.unwrap()));
        sidecar.ended().await;
    }
    enrol(&yard, "web-1", &p.machines[1], 1);
    let server = Sidecar::start(&p.server.dir).await;
    let _web = Sidecar::start(&p.web.dir).await;
    let mut refused = TcpStream::connect(p.app).await.unwrap();
    ending(&mut refused).await;
    server.wrote("deny", "record_rolled_back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_flows_take_a_session_with_new_keys_and_the_old_one_ends_with_its_last_flow() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let p = pair(&yard, &orders, "").await;
    let Pair { web, app, .. } = p;
    let config = web.dir.join("countersign.toml");
    let text = std::fs::read_to_string(&config).unwrap() + "\n[channel]\nrekey_after = \"1s\"\n";
    drop(web);
    std::fs::write(&config, text).unwrap();
    let web = Sidecar::start(config.parent().unwrap()).await;
    let mut long = TcpStream::connect(app).await.unwrap();
    echo(&mut long).await;
    let sessions = async || {
        let status = web.status().await;
        let mut ids: Vec<_> =
            status["sessions"].as_array().unwrap().iter().map(|s| s["session"].to_string()).collect();
        ids.sort();
        ids
    };
    let before = sessions().await;
    // Registered comes before proven: only when it is said do new flows take it.
    web.logged("new keys: new flows take a new session").await;
    let now = sessions().await;
    assert!(
        now.len() > before.len() && before.iter().all(|id| now.contains(id)),
        "{now:?} beside {before:?}"
    );
    assert!(echoes(&mut long).await, "the long flow stays where it is");
    let mut new = TcpStream::connect(app).await.unwrap();
    echo(&mut new).await;
    drop(long);
    until("the old session is gone", async || (!sessions().await.contains(&before[0])).then_some(())).await;
    until("both flows say how old their keys were", async || {
        let opens = web.entries().into_iter().filter(|e| e["kind"] == "open" && e["key_age_s"].is_u64());
        (opens.count() == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errands_that_come_too_often_are_refused_and_the_session_goes_on() {
    let (yard, orders) = (Yard::new(), Service::echo().await);
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let client = H2Client::connect(door, &yard.issue("web-1")).await;
    let most = usize::try_from(ERRANDS_PER_SECOND.get()).unwrap() * 2;
    let mut said = Vec::new();
    for _ in 0..most + 100 {
        said.push(client.post("nonsense", b"").await);
    }
    assert_eq!(said[0], (404, "errand_unknown".to_owned()));
    assert!(said.contains(&(503, "errands_limited".to_owned())));
    assert!(said.iter().all(|(status, _)| [404, 503].contains(status)));
    server.wrote("deny", "errand_unknown").await;
    server.wrote("deny", "errands_limited").await;
    let large = vec![0; ERRAND_LEN_MAX + 1];
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.post("evidence", &large).await, (431, "request_too_large".to_owned()));
    let (status, ..) = client.ask("orders:80").await.unwrap();
    assert_eq!(status, 200);
}
