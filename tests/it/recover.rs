//! A device whose certificate has expired comes back by itself, as long as the authority forgives it.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::support::{Fleet, Service, Sidecar, echo, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_slept_through_the_end_of_its_certificate_recovers_and_an_unforgiven_one_does_not() {
    let (fleet, orders) =
        (Fleet::new("leaf_ttl = \"30s\"\nrecover_grace = \"20s\"").await, Service::echo().await);
    let (server, door) = fleet.server(orders.addr).await;
    let (web, app) = fleet.web(door).await;
    // A third that will sleep for too long, and a fourth that is revoked while it sleeps.
    let config = "[[outbound]]\nname = \"orders\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
                  peer = \"spiffe://example.org/device/server-1\"\npaths = [\"127.0.0.1:1\"]\n";
    let late = fleet.join("late-1", 3, config);
    let asleep = Instant::now();
    let dir = web.dir.clone();
    drop(web);
    let revoked = fleet.join("out-1", 4, config);
    tokio::time::sleep(Duration::from_secs(32)).await;
    fleet.device("revoke", "out-1");

    let web = Sidecar::start(&dir).await;
    web.logged("certificate recovered: serial ").await;
    assert_eq!(web.status().await["certificate"]["serial"].as_str().unwrap().len(), 32);
    let mut flow = TcpStream::connect(app).await.unwrap();
    echo(&mut flow).await;
    let told = |text: &str| {
        let entries = fleet.authority.entries();
        entries.iter().any(|e| e["detail"].as_str().is_some_and(|d| d.starts_with(text))).then_some(())
    };
    until("the recovery in the authority's audit", async || told("recovery, issued: serial ")).await;
    until("its acknowledgement", async || told("acknowledged: serial ")).await;

    let out = Sidecar::spawn(&revoked, &[]);
    let refused = async |reason: &str| {
        fleet.authority.wrote("deny", reason).await;
    };
    refused("device_revoked").await;
    out.logged("(device_revoked, decision ").await;
    assert!(out.ask(hyper::Method::GET, "/readyz").await.is_none(), "it opens no door");

    while asleep.elapsed() < Duration::from_secs(52) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let late = Sidecar::spawn(&late, &[]);
    refused("recover_late").await;
    late.logged("(recover_late, decision ").await;
    drop(server);
}
