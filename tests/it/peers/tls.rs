//! What OpenSSL and SSLyze find at the peers' door: TLS 1.3, a certificate, no ticket; and `pq` keeps its word.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::json;

use super::python;
use crate::support::{Credentials, Service, Yard};

/// Has `openssl s_client` ask for `orders` and say `alive`; gives everything it printed.
fn s_client(door: SocketAddr, words: &str) -> String {
    let mut child = Command::new("sh")
        .args(["-c", "exec timeout 10 openssl s_client \"$@\" 2>&1", "sh", "-connect", &door.to_string()])
        .args(words.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Fails where the handshake does; what it printed tells.
    let _ = stdin.write_all(b"CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\nalive\n");
    let (mut said, mut some) = (Vec::new(), [0; 4096]);
    let mut stdout = child.stdout.take().unwrap();
    while let Ok(len @ 1..) = stdout.read(&mut some) {
        said.extend_from_slice(&some[..len]);
        if said.windows(6).any(|w| w == b"alive\n") {
            break;
        }
    }
    drop(stdin);
    let _ = stdout.read_to_end(&mut said);
    child.wait().unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

fn certificate(of: &Credentials) -> String {
    let (leaf, key, bundle) = (of.leaf.display(), of.key.display(), of.bundle.display());
    format!("-CAfile {bundle} -cert {leaf} -cert_chain {leaf} -key {key}")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs openssl: run `just test-peers`"]
async fn openssl_gets_tls_1_3_with_a_certificate_and_never_a_ticket() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let certificate = certificate(&yard.issue("web-1"));
    let said = s_client(door, &format!("-tls1_3 {certificate}"));
    assert!(said.contains("New, TLSv1.3") && said.contains("Verify return code: 0"), "{said}");
    assert!(said.contains("HTTP/1.1 200") && said.contains("\nalive\n"), "{said}");
    assert!(!said.contains("Session Ticket"), "{said}");
    let old = s_client(door, &format!("-tls1_2 {certificate}"));
    assert!(old.contains("alert protocol version"), "{old}");
    let bare = s_client(door, "-tls1_3");
    assert!(bare.contains("alert certificate required") && !bare.contains("HTTP/1.1 200"), "{bare}");
    server.wrote("deny", "certificate_missing").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs sslyze: run `just test-peers`"]
async fn sslyze_finds_tls_1_3_alone_without_resumption_or_early_data() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    // It knocks hundreds of times.
    let more = "\n[limits]\nknocks_per_second = 10000\nknocks_burst = 10000\n";
    let (_server, door) = yard.server(&orders.addr.to_string(), more).await;
    let web = yard.issue("web-1");
    let mut said = python(
        "tls_profile.py",
        &[&door.to_string(), &web.leaf.to_string_lossy(), &web.key.to_string_lossy()],
    );
    let mut suites: Vec<String> = serde_json::from_value(said["tls_1_3"].take()).unwrap();
    suites.sort();
    assert_eq!(suites, ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]);
    for old in ["ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2"] {
        assert_eq!(said[old], json!([]), "{old}");
    }
    assert_eq!(said["resumed"], json!({"id": "SERVER_IS_TLS_1_3_ONLY", "ticket": "SERVER_IS_TLS_1_3_ONLY"}));
    assert_eq!(said["early_data"], json!(false));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs openssl: run `just test-peers`"]
async fn a_peer_without_post_quantum_is_refused_by_require_and_told_as_classical_by_prefer() {
    let orders = Service::echo().await;
    for (pq, carried) in [("require", false), ("prefer", true)] {
        let yard = Yard::new();
        let more = format!("\n[channel]\npq = \"{pq}\"\n");
        let (server, door) = yard.server(&orders.addr.to_string(), &more).await;
        let said = s_client(door, &format!("-groups X25519 {}", certificate(&yard.issue("web-1"))));
        assert_eq!(said.contains("HTTP/1.1 200"), carried, "{pq}: {said}");
        if carried {
            let open = server.wrote("open", "").await;
            assert_eq!(open["group"], "x25519", "{open}");
        } else {
            assert!(said.contains("alert handshake failure"), "{said}");
            server.wrote("deny", "key_exchange_refused").await;
            server.logged("key_exchange_refused").await;
        }
    }
}
