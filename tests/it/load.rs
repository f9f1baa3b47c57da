//! Many flows at once through one pair: `just test-load`. Its figures are printed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Sidecar, Yard, echo, echo_apart, echoes};

/// Opens so many flows that each carried a word there and back, some at a time.
async fn talkers(app: SocketAddr, count: usize) -> Vec<TcpStream> {
    let (mut flows, mut opening) = (Vec::new(), JoinSet::new());
    for _ in 0..count {
        if opening.len() == AT_ONCE {
            flows.push(opening.join_next().await.unwrap().unwrap());
        }
        opening.spawn(async move {
            let mut flow = TcpStream::connect(app).await.unwrap();
            echo(&mut flow).await;
            flow
        });
    }
    while let Some(flow) = opening.join_next().await {
        flows.push(flow.unwrap());
    }
    flows
}

fn resident(pair: [&Sidecar; 2]) -> u64 {
    pair.iter().map(|sidecar| sidecar.resident_kib()).sum()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python, 11000 descriptors and a minute: run `just test-load`"]
async fn ten_thousand_idle_flows_of_one_pair_stay_within_150_mb_for_both_sides() {
    let orders = echo_apart();
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (web, app) = yard.web(door, "").await;
    drop(talkers(app, 1).await);
    let (before, since) = (resident([&server, &web]), Instant::now());
    let mut flows = talkers(app, FLOWS).await;
    let opened = since.elapsed();
    // What was needed to open them is given back within this.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = resident([&server, &web]);
    println!(
        "{FLOWS} idle flows, opened in {:.1} s: {after} KiB for both sides, {before} without; {:.2} KiB a flow",
        opened.as_secs_f32(),
        (after - before) as f64 / FLOWS as f64
    );
    assert_eq!(web.status().await["flows"], FLOWS);
    assert!(after * 1024 <= 150_000_000, "{after} KiB");
    for flow in flows.iter_mut().step_by(97) {
        assert!(echoes(flow).await, "an idle flow is dead");
    }
    for flow in &mut flows {
        flow.shutdown().await.unwrap();
    }
}

const FLOWS: usize = 10_000;
/// Flows being opened at the same time.
const AT_ONCE: usize = 64;
