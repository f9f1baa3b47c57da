//! Certificates of a short life are renewed on the living session, and nothing that uses them notices.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use countersign::model::Timestamp;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::{Fleet, Service, Sidecar, echo, until};

async fn certificate(sidecar: &Sidecar) -> (String, String) {
    let status = sidecar.status().await;
    let text = |key: &str| status["certificate"][key].as_str().unwrap().to_owned();
    (text("serial"), text("not_after"))
}

fn renewals(entries: &[Value]) -> BTreeSet<String> {
    let told = entries.iter().filter_map(|e| e["detail"].as_str());
    told.filter(|d| d.starts_with("certificate renewed: ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_half_a_minute_are_renewed_in_time_under_traffic() {
    let (fleet, orders) = (Fleet::new("leaf_ttl = \"30s\"").await, Service::echo().await);
    let (server, door) = fleet.server(orders.addr).await;
    let (web, app) = fleet.web(door).await;
    let first = [certificate(&server).await, certificate(&web).await];
    let since = Instant::now();
    let mut held = TcpStream::connect(app).await.unwrap();
    let mut serials = BTreeSet::new();
    // Longer than two lives of the first certificate.
    while since.elapsed() < Duration::from_secs(65) {
        echo(&mut held).await;
        let mut short = TcpStream::connect(app).await.unwrap();
        echo(&mut short).await;
        for sidecar in [&server, &web] {
            let (serial, not_after) = certificate(sidecar).await;
            // Timestamps of one form compare as texts.
            assert!(not_after > Timestamp::now().to_string(), "it never lapses: {not_after}");
            serials.insert(serial);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (at_server, at_web) = (renewals(&server.entries()), renewals(&web.entries()));
    println!("{} and {} renewals, {} certificates", at_server.len(), at_web.len(), serials.len());
    assert!(at_server.len() >= 3 && at_web.len() >= 3, "{at_server:?} {at_web:?}");
    let now = [certificate(&server).await, certificate(&web).await];
    assert!(first.iter().zip(&now).all(|(a, b)| a.0 != b.0));
    // Written down on both sides, and each record is the next version.
    let issued = fleet.authority.entries();
    let told: Vec<_> = issued.iter().filter_map(|e| e["detail"].as_str()).collect();
    assert!(told.iter().filter(|d| d.starts_with("renewal, issued: serial ")).count() >= 6, "{told:?}");
    for name in ["server-1", "web-1"] {
        assert!(!fleet.yard.path().join(name).join("certs/renew-state/request.pem").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_renewal_is_finished_at_the_next_start() {
    let (fleet, orders) = (Fleet::new("").await, Service::echo().await);
    let (server, _) = fleet.server(orders.addr).await;
    let dir = server.dir.clone();
    let certs = dir.join("certs");
    drop(server);
    // What a crash leaves between two files: the journal stands, the new key is written, the leaf is not.
    let old = |file: &str| std::fs::read_to_string(certs.join(file)).unwrap();
    let (key, leaf) = (old("leaf.key"), old("leaf.pem"));
    let other = fleet.join("server-2", 3, "[peers]\nlisten = \"127.0.0.1:0\"\n[[inbound]]\nname = \"a\"\ntarget = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n");
    std::fs::copy(other.join("certs/leaf.key"), certs.join("leaf.key")).unwrap();
    assert_ne!(old("leaf.key"), key);
    let plan = serde_json::json!([
        { "path": certs.join("leaf.key"), "text": key, "secret": true },
        { "path": certs.join("leaf.pem"), "text": leaf, "secret": false },
    ]);
    std::fs::create_dir_all(certs.join("renew-state")).unwrap();
    let journal = certs.join("renew-state/install.json");
    std::fs::write(&journal, plan.to_string()).unwrap();
    std::fs::set_permissions(&journal, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = Sidecar::start(&dir).await;
    server.logged("a renewal was interrupted").await;
    until("the journal is gone", async || (!journal.exists()).then_some(())).await;
}
