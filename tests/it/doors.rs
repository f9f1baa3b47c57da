//! The local doors and the peers' door: who is let in, and what those who are not get to hear.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Client, H2Client, Service, Sidecar, Yard, connect_tls, echo, free_addr, until, within};

/// Asks a SOCKS5 door for `host`; gives the reply code and the flow.
async fn socks5(door: SocketAddr, host: &str) -> (u8, TcpStream) {
    let mut flow = TcpStream::connect(door).await.unwrap();
    flow.write_all(&[5, 1, 0]).await.unwrap();
    let mut method = [0; 2];
    within("the method", flow.read_exact(&mut method)).await.unwrap();
    assert_eq!(method, [5, 0]);
    let mut request = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
    request.extend(host.bytes().chain([0, 80]));
    flow.write_all(&request).await.unwrap();
    let mut reply = [0; 10];
    within("the reply", flow.read_exact(&mut reply)).await.unwrap();
    (reply[1], flow)
}

#[tokio::test(flavor = "multi_thread")]
async fn socks5_reaches_an_outbound_by_its_name_and_no_other_host() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let socks = free_addr();
    let more = format!("\n[[capture]]\nmode = \"socks5\"\nlisten = \"{socks}\"\n");
    let (web, _) = yard.web(door, &more).await;
    let (reply, mut flow) = socks5(socks, "orders").await;
    assert_eq!(reply, 0);
    echo(&mut flow).await;
    for host in ["elsewhere", "127.0.0.1", "169.254.169.254"] {
        assert_eq!(socks5(socks, host).await.0, 2, "{host}: not allowed by ruleset (RFC 1928 §6)");
    }
    web.wrote("deny", "outbound_unknown").await;
    assert_eq!(orders.visitors(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_languages_of_the_peers_door_reach_a_service_and_hear_the_same_refusals() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (web, kiosk) = (yard.issue("web-1"), yard.issue("kiosk-1"));
    let own = format!("{}", orders.addr);
    for (who, target, said) in [
        (&web, "orders:1", (200, "")),
        (&web, &own, (200, "")),
        (&web, "127.0.0.1:1", (403, "service_unknown")),
        (&web, "localhost:80", (403, "service_unknown")),
        (&kiosk, "orders:80", (403, "policy_denied")),
    ] {
        let h1 = Client::connect(door, who).await.ask(target).await;
        assert_eq!(h1.said(), said, "{target}");
        let (status, reason, _up, _down) = H2Client::connect(door, who).await.ask(target).await.unwrap();
        assert_eq!((status, &*reason), said, "{target}");
    }
    server.wrote("deny", "policy_denied").await;
    assert_eq!(orders.visitors(), 4);
}

/// A sidecar whose peers' door speaks HBONE; `more` follows its table.
async fn hbone(yard: &Yard, target: &str, more: &str) -> (Sidecar, SocketAddr) {
    let door = free_addr();
    let config = format!(
        "[peers]\nlisten = \"{door}\"\nprofile = \"hbone\"\n{more}\n[[inbound]]\nname = \"orders\"\n\
         target = \"{target}\"\nprotocol = \"tcp\"\n"
    );
    (yard.run("server-1", &config).await, door)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hbone_door_speaks_h2_alone_and_refuses_with_its_three_statuses() {
    let yard = Yard::new();
    let dead = free_addr();
    let (_server, door) = hbone(&yard, &dead.to_string(), "").await;
    let (web, kiosk) = (yard.issue("web-1"), yard.issue("kiosk-1"));
    assert!(connect_tls(door, &web, b"http/1.1").await.is_err());
    let ask = async |who, target: &str| {
        let (status, reason, ..) = H2Client::connect(door, who).await.ask(target).await.unwrap();
        (status, reason)
    };
    assert_eq!(ask(&kiosk, &dead.to_string()).await, (401, "policy_denied".into()));
    assert_eq!(ask(&web, "192.0.2.1:80").await, (401, "service_unknown".into()));
    assert_eq!(ask(&web, &dead.to_string()).await, (503, "connect_refused".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_counts_from_a_listed_waypoint_only() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let trusted = "trusted_waypoints = [\"spiffe://example.org/device/brief-1\"]\n";
    let (server, door) = hbone(&yard, &orders.addr.to_string(), trusted).await;
    for (device, source) in [("web-1", "127.0.0.1"), ("brief-1", "192.0.2.99")] {
        let said = [("forwarded", "for=\"192.0.2.99:4711\";host=x"), ("baggage", "service.name=admin")];
        let session = H2Client::connect(door, &yard.issue(device)).await;
        let (status, ..) = session.ask_with(&orders.addr.to_string(), &said).await.unwrap();
        assert_eq!(status, 200);
        let id = format!("spiffe://example.org/device/{device}");
        let open = until("its entry", async || {
            server.entries().into_iter().find(|e| e["kind"] == "open" && e["device"] == *id)
        })
        .await;
        assert_eq!(open["source"], source, "{open}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ended_just_now_is_refused_with_a_word_on_the_clocks() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let late = yard.issue_for("web-2", Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // TLS 1.3 lets a client finish first: the refusal may come with its first byte.
    if let Ok(mut tls) = connect_tls(door, &late, b"http/1.1").await {
        assert!(within("the refusal", tls.read_u8()).await.is_err());
    }
    let entry = server.wrote("deny", "certificate_expired").await;
    let detail = entry["detail"].as_str().unwrap();
    assert!(detail.starts_with("the clocks may differ by "), "{detail}");
    assert!(
        detail.contains(" s: the certificate ended at ") && detail.contains("Z, here it is "),
        "{detail}"
    );
    server.logged("the clocks may differ by ").await;
    assert_eq!(orders.visitors(), 0);
}
