//! How fast access ends, seen on the other host: `just test-cuts`. Its figures are printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign::model::Timestamp;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::support::{
    Device, Host, Hosts, Sidecar, Site, Yard, done, echo, echoes, enrol, machine, on_machine, publish,
};

/// When a flow ended, for the service.
type Ended = oneshot::Receiver<(Instant, Timestamp)>;

/// `server-1` and `web-1` on hosts of their own. The sidecars go before their files.
struct Pair {
    server: Sidecar,
    web: Sidecar,
    web_host: Host,
    ends: mpsc::UnboundedReceiver<Ended>,
}

/// A flow, as its app and as its service have it.
struct Flow {
    app: UnixStream,
    service: Ended,
}

impl Pair {
    /// `ready` gives them certificates; `device` is their `[device]` table.
    async fn start(
        hosts: &Hosts,
        yard: &Yard,
        device: &str,
        ready: impl FnOnce([&Host; 2], &[PathBuf]),
    ) -> Self {
        let (server_host, web_host) = (hosts.host("server"), hosts.host("web"));
        let door = server_host.door();
        let server = format!(
            "[peers]\nlisten = \"{door}\"\n\n[[inbound]]\nname = \"orders\"\ntarget = \"unix:service.sock\"\n\
             protocol = \"tcp\"\n"
        );
        let web = format!(
            "[[outbound]]\nname = \"orders\"\nlisten = \"unix:orders.sock\"\nprotocol = \"tcp\"\n\
             peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{door}\"]\n"
        );
        let mut dirs = Vec::new();
        for (name, config, seed) in [("server-1", server, 1), ("web-1", web, 2)] {
            let device = on_machine(&machine(yard, seed), device);
            dirs.push(yard.furnish_without(name, &format!("{config}{device}")));
        }
        ready([&server_host, &web_host], &dirs);
        let ends = service(&dirs[0].join("service.sock"));
        let server = Sidecar::start_by(server_host.countersign(), &dirs[0]).await;
        let web = Sidecar::start_by(web_host.countersign(), &dirs[1]).await;
        Self { server, web, web_host, ends }
    }

    /// A flow that carries; tried until it does.
    async fn flow(&mut self) -> Flow {
        let since = Instant::now();
        loop {
            let mut app = UnixStream::connect(self.web.dir.join("orders.sock")).await.unwrap();
            if echoes(&mut app).await {
                // Those before it were refused late, or ended.
                let mut service = None;
                while let Ok(next) = self.ends.try_recv() {
                    service = Some(next);
                }
                return Flow { app, service: service.unwrap() };
            }
            assert!(since.elapsed() < BACK_WITHIN, "access does not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Says everything back, and for each flow when it ended.
fn service(path: &Path) -> mpsc::UnboundedReceiver<Ended> {
    let listener = UnixListener::bind(path).unwrap();
    let (tell, ends) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (end, ended) = oneshot::channel();
            let _ = tell.send(ended);
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..len]).await.is_err() {
                        break;
                    }
                }
                let _ = end.send((Instant::now(), Timestamp::now()));
            });
        }
    });
    ends
}

/// Waits until the app's end of a flow is over.
async fn ended(mut app: UnixStream) -> Instant {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(BACK_WITHIN, app.read_to_end(&mut rest)).await;
    let _ = end.expect("the flow goes on");
    Instant::now()
}

/// Not always at the same moment between two looks of the sidecar.
async fn some_time(round: u32) {
    tokio::time::sleep(Duration::from_millis(u64::from(round * 37 % 250))).await;
}

fn told(what: &str, mut took: Vec<Duration>, bound: Duration) {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1].as_secs_f64();
    println!(
        "{what}: {} times, p50 {:.2} s, p99 {:.2} s, max {:.2} s (bound {} s)",
        took.len(),
        at(50),
        at(99),
        at(100),
        bound.as_secs()
    );
    assert!(took.iter().all(|t| *t <= bound), "{what}: {took:?}");
}

fn issued(yard: &Yard) -> impl FnOnce([&Host; 2], &[PathBuf]) {
    |_, _| ["server-1", "web-1"].into_iter().for_each(|name| drop(yard.issue(name)))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, network namespaces and minutes: run `just test-cuts`"]
async fn an_edited_policy_ends_flows_of_the_other_host_within_a_second() {
    let (hosts, yard) = (Hosts::new(), Yard::new());
    let mut pair = Pair::start(&hosts, &yard, "", issued(&yard)).await;
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let flow = pair.flow().await;
        some_time(round).await;
        let since = Instant::now();
        pair.server.set_policy("50-new.cedar", CLOSED);
        took.push(ended(flow.app).await - since);
        fs::remove_file(pair.server.dir.join("policies/50-new.cedar")).unwrap();
    }
    told("policy edited, flow ended for the app on the other host", took, Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, network namespaces and minutes: run `just test-cuts`"]
async fn a_revocation_list_ends_flows_of_the_other_host_within_five_seconds() {
    let (hosts, yard) = (Hosts::new(), Yard::new());
    let mut pair = Pair::start(&hosts, &yard, "", issued(&yard)).await;
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let flow = pair.flow().await;
        some_time(round).await;
        let since = Instant::now();
        let mut revoke = pair.web_host.countersign();
        let ca = yard.path().join("ca");
        done(&revoke.args(["ca", "revoke", "web-1", "--dir"]).arg(&ca).output().unwrap());
        let list = fs::read_to_string(ca.join("crl.pem")).unwrap();
        publish(&pair.server.dir.join("certs/crl.pem"), &list);
        took.push(ended(flow.app).await - since);
        yard.issue("web-1");
    }
    told("revoked and list copied, flow ended for the app on the other host", took, Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, network namespaces and minutes: run `just test-cuts`"]
async fn a_device_revoked_at_the_authority_loses_its_flows_on_the_other_host_within_five_seconds() {
    let site = Site::new().await;
    let mut web = None;
    let join = |hosts: [&Host; 2], _: &[PathBuf]| {
        done(&site.device("server-1", hosts[0], 1).join(None));
        let device = site.device("web-1", hosts[1], 2);
        done(&device.join(None));
        web = Some(device);
    };
    let mut pair = Pair::start(&site.hosts, &site.yard, "", join).await;
    let mut web: Device = web.unwrap();
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let flow = pair.flow().await;
        some_time(round).await;
        let since = Instant::now();
        let mut revoke = site.at.countersign();
        revoke.args(["device", "revoke", "web-1", "--ca"]).arg(site.yard.path().join("ca"));
        done(&revoke.arg("--records").arg(site.yard.path().join("records")).output().unwrap());
        let end = tokio::time::timeout(BACK_WITHIN, flow.service).await.expect("the flow goes on");
        took.push(end.unwrap().0 - since);
        web.token = site.invite("web-1");
        done(&web.join(None));
    }
    told(
        "device revoked at the authority, flow ended for the service on the other host",
        took,
        Duration::from_secs(5),
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, network namespaces and minutes: run `just test-cuts`"]
async fn a_lease_that_ran_out_ends_flows_of_the_other_host_within_five_seconds() {
    // A round takes as long as the shortest lease and its drain: several pairs at once.
    let rounds = || leases(ROUNDS / PAIRS);
    let (a, b, c, d, e) = tokio::join!(rounds(), rounds(), rounds(), rounds(), rounds());
    let took = [a, b, c, d, e].concat();
    told("lease over, flow ended for the service on the other host", took, Duration::from_secs(5));
}

/// Half of the times the other sidecar is stopped, half of the times the network between them.
async fn leases(rounds: u32) -> Vec<Duration> {
    let (hosts, yard) = (Hosts::new(), Yard::new());
    let enrolled = |_: [&Host; 2], _: &[PathBuf]| {
        for (name, seed) in [("server-1", 1), ("web-1", 2)] {
            yard.issue(name);
            enrol(&yard, name, &machine(&yard, seed), 1);
        }
    };
    let mut pair = Pair::start(&hosts, &yard, "lease = \"3s\"", enrolled).await;
    let mut took = Vec::new();
    for round in 0..rounds {
        let mut flow = pair.flow().await;
        some_time(round).await;
        echo(&mut flow.app).await;
        if round % 2 == 0 {
            pair.web.signal(Signal::STOP);
        } else {
            pair.web_host.cut();
        }
        let end = tokio::time::timeout(BACK_WITHIN, flow.service).await.expect("the flow goes on");
        let end = end.unwrap().1;
        let lease = pair.server.entries().iter().rev().find_map(|e| {
            let detail = e["detail"].as_str().filter(|_| e["kind"] == "attest")?;
            Some(detail.split("lease until ").nth(1)?.split(';').next()?.to_owned())
        });
        took.push(between(&lease.unwrap(), &end.to_string()));
        let close = pair.server.wrote("close", "lease_expired").await;
        assert_eq!(close["device"], "spiffe://example.org/device/web-1");
        if round % 2 == 0 {
            pair.web.signal(Signal::CONT);
        } else {
            pair.web_host.heal();
        }
    }
    took
}

/// The time from one timestamp to the next.
fn between(from: &str, to: &str) -> Duration {
    let ms_of_day = |text: &str| -> u64 {
        let time: Vec<u64> = text[11..23].split([':', '.']).map(|n| n.parse().unwrap()).collect();
        ((time[0] * 60 + time[1]) * 60 + time[2]) * 1000 + time[3]
    };
    Duration::from_millis((ms_of_day(to) + DAY_MS - ms_of_day(from)) % DAY_MS)
}

const CLOSED: &str = "@id(\"orders-closed\") @reason(\"closed for today\")\n\
                      forbid(principal, action, resource == Service::\"orders\");\n";
const ROUNDS: u32 = 50;
/// Pairs whose leases run out at the same time.
const PAIRS: u32 = 5;
/// Longest wait until access ended, and until it came back.
const BACK_WITHIN: Duration = Duration::from_secs(30);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
