//! nginx and HAProxy are told who the peer is, with a PROXY protocol v2 header.

use std::net::SocketAddr;

use super::{curl, stdout};
use crate::support::{Foreign, Sidecar, Yard, haproxy_told, nginx_told};

/// A device on 127.0.0.5 asks `foreign` through one sidecar; gives what that saw, and the sidecar.
async fn ask(yard: &Yard, foreign: &Foreign) -> (String, Sidecar) {
    let (server, door) = yard.server(&foreign.addr.to_string(), "pass = \"proxy-v2\"\n").await;
    let web = yard.issue("web-1");
    let answer = curl(&format!(
        "--interface 127.0.0.5 --proxytunnel -x https://{door} --proxy-cacert {} --proxy-cert {} --proxy-key {} \
         http://orders/",
        web.bundle.display(),
        web.leaf.display(),
        web.key.display()
    ));
    assert!(answer.status.success(), "{answer:?}");
    (stdout(&answer).trim_end().to_owned(), server)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx, curl: run `just test-peers`"]
async fn nginx_sees_the_peers_address() {
    let (yard, nginx) = (Yard::new(), nginx_told());
    let (saw, _server) = ask(&yard, &nginx).await;
    let (ip, port) = saw.split_once(' ').unwrap();
    assert_eq!(ip, "127.0.0.5");
    assert!(port.parse::<u16>().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs haproxy, curl: run `just test-peers`"]
async fn haproxy_sees_the_peers_address_the_service_and_the_decision() {
    let (yard, haproxy) = (Yard::new(), haproxy_told());
    let (saw, server) = ask(&yard, &haproxy).await;
    let words: Vec<_> = saw.split(' ').collect();
    let [source, source_port, target, target_port, authority, decision] = words[..] else { panic!("{saw}") };
    assert_eq!(source, "127.0.0.5");
    assert!(source_port.parse::<u16>().unwrap() > 0);
    assert_eq!(format!("{target}:{target_port}").parse::<SocketAddr>().unwrap(), haproxy.addr);
    assert_eq!(authority, "orders");
    assert_eq!(server.wrote("open", "").await["decision"], decision);
}
