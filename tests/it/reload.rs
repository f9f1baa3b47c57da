//! What changes while a sidecar runs: policy on its own, by SIGHUP, by `countersign reload`.

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::support::{Client, Service, Sidecar, Yard, binary, echo, echoes, ending, until};

const CLOSED: &str = "@id(\"orders-closed\") @reason(\"closed for today\")\n\
                      forbid(principal, action, resource == Service::\"orders\");\n";

const BROKEN: &str = "@id(\"broken\") @reason(\"a word is missing\")\n\
                      forbid(principal, action, resource) when { context.nonsense };\n";

/// The bundle in force.
async fn digest(sidecar: &Sidecar) -> String {
    sidecar.status().await["policy"]["digest"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_policy_file_leaves_the_running_bundle_in_force_and_is_told_with_its_place() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let web = yard.issue("web-1");
    let mut living = Client::connect(door, &web).await.ask("orders:80").await.flow();
    echo(&mut living).await;
    let before = digest(&server).await;

    server.set_policy("50-new.cedar", BROKEN);
    server.logged("50-new.cedar:2:").await;
    assert_eq!(digest(&server).await, before);
    assert!(echoes(&mut living).await);
    assert_eq!(Client::connect(door, &web).await.ask("orders:80").await.said(), (200, ""));
    let told = until("the reload's entry", async || {
        server.entries().into_iter().find(|e| e["kind"] == "reload" && e["bundle"] == *before)
    })
    .await;
    assert!(told["detail"].as_str().unwrap().contains("50-new.cedar:2:"), "{told}");

    server.set_policy("50-new.cedar", CLOSED);
    ending(&mut living).await;
    let close = server.wrote("close", "policy_withdrawn").await;
    assert_eq!(close["rule"], "orders-closed");
    assert_ne!(digest(&server).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_and_the_reload_command_read_again_and_say_what_came_of_it() {
    let yard = Yard::new();
    let (server, _) = yard.server("127.0.0.1:1", "").await;
    let socket = server.dir.join("countersign.sock");
    let reload = || binary().arg("reload").arg("--socket").arg(&socket).output().unwrap();

    let said = reload();
    assert_eq!(said.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&said.stdout).contains("unchanged"), "{said:?}");

    server.set_policy("50-new.cedar", BROKEN);
    let said = reload();
    assert_eq!(said.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&said.stderr).contains("50-new.cedar:2:"), "{said:?}");

    let before = digest(&server).await;
    server.set_policy("50-new.cedar", CLOSED);
    server.signal(Signal::HUP);
    until("the new bundle", async || (digest(&server).await != before).then_some(())).await;
    until("the admin's entry", async || {
        server.entries().into_iter().find(|e| e["kind"] == "admin" && e["target"] == "POST /reload")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_the_sidecar_beside_the_app_no_longer_allows_is_cut_there() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (web, app) = yard.web(door, "").await;
    let mut living = TcpStream::connect(app).await.unwrap();
    echo(&mut living).await;
    web.set_policy("50-new.cedar", CLOSED);
    assert_eq!(ending(&mut living).await, Some(std::io::ErrorKind::ConnectionReset));
    web.wrote("close", "policy_withdrawn").await;
}
