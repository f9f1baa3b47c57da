//! HTTP/2 clients that nobody here wrote: libcurl, which is nice, and python `h2`, which is not.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::python;
use crate::support::{Client, Credentials, H2Client, Service, Sidecar, Yard, echoes, nginx, within};

fn credentials(of: &Credentials) -> [String; 3] {
    [&of.bundle, &of.leaf, &of.key].map(|path| path.to_string_lossy().into_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx, pycurl: run `just test-peers`"]
async fn libcurl_tunnels_over_h2_with_a_post_quantum_group_and_hears_why_not() {
    let nginx = nginx();
    let yard = Yard::new();
    // As strict as it gets: libcurl's OpenSSL knows the hybrid group.
    let (server, door) = yard.server(&nginx.addr.to_string(), "\n[channel]\npq = \"require\"\n").await;
    let ask = |device: &str, url: &str| {
        let [bundle, leaf, key] = credentials(&yard.issue(device));
        python("libcurl_h2.py", &[&door.to_string(), &bundle, &leaf, &key, url])
    };
    let said = ask("web-1", "http://orders/");
    assert_eq!((&said["status"], &said["body"]), (&200.into(), &"nginx says hello\n".into()), "{said}");
    assert!(said["log"].as_str().unwrap().contains("CONNECT: 'h2' negotiated"), "{said}");
    let open = server.wrote("open", "").await;
    assert_eq!((&open["group"], &open["transport"]), (&"X25519MLKEM768".into(), &"h2".into()), "{open}");
    println!("libcurl: {}, {}", said["with"].as_str().unwrap(), open["group"]);

    for (device, url, error, reason) in [
        ("kiosk-1", "http://orders/", "http_request_denied", "policy_denied"),
        ("web-1", "http://elsewhere/", "destination_ip_prohibited", "service_unknown"),
    ] {
        let said = ask(device, url);
        let log = said["log"].as_str().unwrap();
        assert!(log.contains("CONNECT Response Status 403"), "{said}");
        assert!(
            log.contains(&format!("proxy-status: countersign; error={error}; details=\"reason={reason};")),
            "{said}"
        );
    }
}

/// Says everything back, unless the first byte is `x`: then nothing is read any more.
async fn back_or_stall(mut stream: TcpStream) {
    let mut buffer = vec![0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        if buffer[0] == b'x' {
            return std::future::pending().await;
        }
        if stream.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

/// Has one device abuse the door while another device, and another session of its own, go on; gives what became of
/// the abuse.
async fn abuse(kind: &'static str) -> (Value, Sidecar) {
    let orders = Service::start(back_or_stall).await;
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (web, brief) = (yard.issue("web-1"), yard.issue("brief-1"));
    let mut other = Client::connect(door, &brief).await.ask("orders:80").await.flow();
    let (_, _, mut up, mut down) = H2Client::connect(door, &web).await.ask("orders:80").await.unwrap();
    let [bundle, leaf, key] = credentials(&web);
    let abused = tokio::task::spawn_blocking(move || {
        python("h2_abuse.py", &[kind, &door.to_string(), &bundle, &leaf, &key, "orders:80"])
    });
    let mut rounds = 0;
    while !abused.is_finished() || rounds < 3 {
        assert!(echoes(&mut other).await, "{kind}: the other device's flow broke");
        up.send_data("alive".into(), false).unwrap();
        let word = within("the other session's answer", down.data()).await;
        let word = word.unwrap_or_else(|| panic!("{kind}: the other session ended")).unwrap();
        down.flow_control().release_capacity(word.len()).unwrap();
        rounds += 1;
    }
    let abused = abused.await.unwrap();
    println!("{kind}: {abused}, {rounds} rounds of two others meanwhile, {} KiB", server.resident_kib());
    // New ones are served, too.
    Client::connect(door, &web).await.ask("orders:80").await.flow();
    (abused, server)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python h2: run `just test-peers`"]
async fn a_rapid_reset_ends_its_own_connection_and_no_other() {
    let (abused, _server) = abuse("rapid-reset").await;
    assert_eq!(abused["ended"], "ENHANCE_YOUR_CALM");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python h2: run `just test-peers`"]
async fn a_flood_of_continuations_ends_its_own_connection_and_no_other() {
    let (abused, _server) = abuse("continuation-flood").await;
    assert!(!abused["ended"].is_null(), "{abused}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python h2: run `just test-peers`"]
async fn a_stream_of_one_byte_frames_costs_what_its_bytes_cost_and_harms_no_other() {
    let (abused, server) = abuse("tiny-data").await;
    assert!(abused["sent"].as_u64().unwrap() > 10_000, "{abused}");
    assert!(server.resident_kib() < 64 * 1024, "{} KiB", server.resident_kib());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python h2: run `just test-peers`"]
async fn a_stream_of_empty_frames_ends_its_own_connection_and_no_other() {
    let (abused, _server) = abuse("empty-data").await;
    assert_eq!(abused["ended"], "ENHANCE_YOUR_CALM");
}
