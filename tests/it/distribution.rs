//! What the authority decides reaches every sidecar on its own, and in time.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::support::{Fleet, Service, Sidecar, echo, echoes, ending, until};

/// Published bound from the command at the authority to the cut on another host.
const BOUND: Duration = Duration::from_secs(5);

/// Waits until this sidecar has heard its authority.
async fn heard(sidecar: &Sidecar) {
    until("the authority is heard", async || sidecar.status().await["authority"]["heard"].as_str().map(drop))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_revoked_at_the_authority_loses_its_flows_on_another_host_within_the_bound() {
    let (fleet, orders) = (Fleet::new("").await, Service::echo().await);
    let (server, door) = fleet.server(orders.addr).await;
    let (web, app) = fleet.web(door).await;
    heard(&server).await;
    heard(&web).await;
    let mut flow = TcpStream::connect(app).await.unwrap();
    echo(&mut flow).await;

    let since = Instant::now();
    fleet.device("revoke", "web-1");
    let commanded = since.elapsed();
    server.wrote("close", "certificate_revoked").await;
    let cut = since.elapsed();
    println!(
        "revoked at the authority, cut on the other host after {cut:?} (the command took {commanded:?})"
    );
    assert!(cut < BOUND, "{cut:?}");
    ending(&mut flow).await;
    let mut again = TcpStream::connect(app).await.unwrap();
    ending(&mut again).await;
    assert!(orders.visitors() <= 1);
    until("the news in the audit", async || {
        let told =
            |e: &serde_json::Value| e["detail"].as_str().is_some_and(|d| d.contains("revocation lists"));
        server.entries().iter().any(told).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_in_quarantine_is_cut_everywhere_and_comes_back_by_itself_when_it_is_approved() {
    let (fleet, orders) = (Fleet::new("").await, Service::echo().await);
    let (server, door) = fleet.server(orders.addr).await;
    let (web, app) = fleet.web(door).await;
    heard(&server).await;
    let mut flow = TcpStream::connect(app).await.unwrap();
    echo(&mut flow).await;

    let since = Instant::now();
    assert!(fleet.device("quarantine", "web-1").contains("was active"));
    server.wrote("close", "device_quarantined").await;
    let cut = since.elapsed();
    println!("quarantined at the authority, cut on the other host after {cut:?}");
    assert!(cut < BOUND, "{cut:?}");
    ending(&mut flow).await;
    // While it lasts nothing is let through, whatever is tried.
    let mut again = TcpStream::connect(app).await.unwrap();
    ending(&mut again).await;
    assert!(fleet.device("list", "").contains("quarantined  web-1"));

    assert!(fleet.device("approve", "web-1").contains("was quarantined"));
    let since = Instant::now();
    loop {
        let mut flow = TcpStream::connect(app).await.unwrap();
        if echoes(&mut flow).await {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(40), "it does not come back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("approved at the authority, back after {:?}", since.elapsed());
    web.logged("certificate recovered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_authority_down_what_is_issued_goes_on_and_status_says_so() {
    let (fleet, orders) = (Fleet::new("").await, Service::echo().await);
    let (server, door) = fleet.server(orders.addr).await;
    let (web, app) = fleet.web(door).await;
    heard(&web).await;
    let mut flow = TcpStream::connect(app).await.unwrap();
    echo(&mut flow).await;
    let Fleet { yard: _yard, authority, .. } = fleet;
    drop(authority);

    let remark = until("the remark", async || {
        let remark = web.status().await["authority"]["remark"].as_str().unwrap_or_default().to_owned();
        (!remark.is_empty()).then_some(remark)
    })
    .await;
    assert!(remark.contains("nothing new joins"), "{remark}");
    let (status, body) = web.ask(hyper::Method::GET, "/readyz").await.unwrap();
    assert_eq!(status, 200, "it makes nothing red");
    assert!(body.contains("authority ok: the authority has not been heard"), "{body}");
    let (_, metrics) = web.ask(hyper::Method::GET, "/metrics").await.unwrap();
    let heard = metrics.lines().find_map(|l| l.strip_prefix("countersign_authority_heard_seconds ")).unwrap();
    assert_ne!(heard, "0");
    echo(&mut flow).await;
    let mut new = TcpStream::connect(app).await.unwrap();
    echo(&mut new).await;
    drop(server);
}
