//! Limits that are reached: a refusal at once, and the living go on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Client, H2Client, Service, Sidecar, Yard, echo, echoes, free_addr, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_moves_no_more_bytes_than_its_rate() {
    let orders = Service::start(async |mut s: TcpStream| {
        let mut scrap = vec![0; 64 * 1024];
        let mut left = 768 * 1024;
        while left > 0 {
            left -= s.read(&mut scrap).await.unwrap();
        }
        s.write_all(b"got it").await.unwrap();
    })
    .await;
    let yard = Yard::new();
    let limit = "[limits]\nbytes_per_second = \"256KiB\"\n";
    let (_server, door) = yard.server(&orders.addr.to_string(), limit).await;
    let web = yard.issue("web-1");
    let mut flow = Client::connect(door, &web).await.ask("orders:80").await.flow();
    let since = Instant::now();
    flow.write_all(&[7; 768 * 1024]).await.unwrap();
    let mut answer = [0; 6];
    within("the answer", flow.read_exact(&mut answer)).await.unwrap();
    // One second's worth passes at once, two more take their time; the last chunk is paid for afterwards.
    let took = since.elapsed();
    assert!((1.5..6.0).contains(&took.as_secs_f32()), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_its_most_flows_is_refused_and_the_living_go_on() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let limit = "[limits]\nflows_per_device_max = 2\n";
    let (server, door) = yard.server(&orders.addr.to_string(), limit).await;
    let web = yard.issue("web-1");
    let ask = async || Client::connect(door, &web).await.ask("orders:80").await;
    let (mut one, mut two) = (ask().await.flow(), ask().await.flow());
    assert_eq!(ask().await.said(), (429, "flows_limited"));
    echo(&mut one).await;
    echo(&mut two).await;
    // Another device is not counted with this one.
    let brief = yard.issue("brief-1");
    Client::connect(door, &brief).await.ask("orders:80").await.flow();
    drop(one);
    until("a place is free again", async || matches!(ask().await.said(), (200, _)).then_some(())).await;
    server.wrote("deny", "flows_limited").await;
}

/// A sidecar that opens so many connections of so many streams each, and an HTTP CONNECT door.
async fn narrow(yard: &Yard, door: SocketAddr, connections: u32, streams: u32) -> (Sidecar, SocketAddr) {
    let proxy = free_addr();
    let more = format!(
        "\n[[capture]]\nmode = \"connect\"\nlisten = \"{proxy}\"\n\n\
         [channel]\nconnections_max = {connections}\nstreams_max = {streams}\n"
    );
    let (web, _) = yard.web(door, &more).await;
    (web, proxy)
}

/// Asks an HTTP CONNECT door for `orders`; gives status, answer head and flow.
async fn through(proxy: SocketAddr) -> (u16, String, TcpStream) {
    let mut flow = TcpStream::connect(proxy).await.unwrap();
    flow.write_all(b"CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("an answer", flow.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    (head[9..12].parse().unwrap(), head, flow)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_is_opened_when_the_first_is_full_and_past_the_last_place_it_is_503_at_once() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (web, proxy) = narrow(&yard, door, 2, 2).await;
    let mut living = Vec::new();
    // Each worker begins with a connection of its own, so the second may come before the first is full.
    for at_least in [1, 1, 2, 2] {
        let (status, _, flow) = through(proxy).await;
        assert_eq!(status, 200);
        living.push(flow);
        let sessions = web.status().await["sessions"].as_array().unwrap().len();
        assert!((at_least..=2).contains(&sessions), "{sessions}");
    }
    let since = Instant::now();
    let (status, head, _) = through(proxy).await;
    assert!(since.elapsed() < Duration::from_secs(1), "it waited {:?}", since.elapsed());
    assert_eq!(status, 503);
    assert!(head.contains("reason=streams_exhausted"), "{head}");
    for flow in &mut living {
        echo(flow).await;
    }
    web.wrote("deny", "streams_exhausted").await;
    living.pop();
    until("a place is free again", async || (through(proxy).await.0 == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_flows_at_once_as_there_are_places_all_get_one() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (web, proxy) = narrow(&yard, door, 8, 4).await;
    for _ in 0..10 {
        let mut asking: JoinSet<_> = (0..32).map(|_| through(proxy)).collect();
        let mut living = Vec::new();
        while let Some(answered) = asking.join_next().await {
            let (status, head, flow) = answered.unwrap();
            assert_eq!(status, 200, "{head}");
            living.push(flow);
        }
        drop(living);
        until("all places are free again", async || {
            let flows = web.status().await["flows"].as_u64().unwrap();
            (flows == 0).then_some(())
        })
        .await;
    }
}

/// Has so many apps ask at once, a hundred at a time; gives the flows that opened, and what the others heard.
async fn crowd(proxy: SocketAddr, count: usize) -> (Vec<TcpStream>, Vec<(u16, String)>) {
    let (mut open, mut refused, mut asking) = (Vec::new(), Vec::new(), JoinSet::new());
    let mut left = count;
    while left > 0 || !asking.is_empty() {
        while left > 0 && asking.len() < 100 {
            asking.spawn(through(proxy));
            left -= 1;
        }
        match asking.join_next().await.unwrap().unwrap() {
            (200, _, flow) => open.push(flow),
            (status, head, _) => refused.push((status, head)),
        }
    }
    (open, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_flows_of_one_peer_open_or_are_refused_with_503_and_none_hangs() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    // The shipped limits, and half of what is asked for.
    for (connections, streams, expected) in [(16, 1000, 2000), (2, 500, 1000)] {
        let (web, proxy) = narrow(&yard, door, connections, streams).await;
        let (mut open, refused) = crowd(proxy, 2000).await;
        assert_eq!((open.len(), refused.len()), (expected, 2000 - expected));
        for (status, head) in &refused {
            assert_eq!(*status, 503, "{head}");
            assert!(head.contains("reason=streams_exhausted"), "{head}");
        }
        for flow in open.iter_mut().step_by(17) {
            echo(flow).await;
        }
        drop((open, web));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_lets_nothing_new_start_until_it_can() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let web = yard.issue("web-1");
    let ask = async || Client::connect(door, &web).await.ask("orders:80").await;
    let mut living = ask().await.flow();
    let (audit, aside) = (server.dir.join("audit"), server.dir.join("aside"));
    std::fs::rename(&audit, &aside).unwrap();
    std::fs::write(&audit, "no folder").unwrap();
    // What is asked for meanwhile shows the log that it cannot write.
    let refused = until("a refusal", async || {
        let outcome = ask().await;
        let (status, reason) = outcome.said();
        (status != 200).then(|| (status, reason.to_owned()))
    })
    .await;
    assert_eq!(refused, (503, "audit_unavailable".to_owned()));
    let (status, body) = server.ask(Method::GET, "/readyz").await.unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("audit"), "{body}");
    assert!(echoes(&mut living).await, "a living flow was not kept");
    std::fs::remove_file(&audit).unwrap();
    std::fs::rename(&aside, &audit).unwrap();
    until("the log works again", async || (ask().await.said().0 == 200).then_some(())).await;
    assert_eq!(server.ask(Method::GET, "/readyz").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_of_small_frames_on_one_flow_leave_the_others_of_its_connection_alive() {
    let orders = Service::start(async |mut s: TcpStream| {
        let mut first = [0; 1];
        s.read_exact(&mut first).await.unwrap();
        while first != *b"x" && s.read_exact(&mut first).await.is_ok() {
            s.write_all(&first).await.unwrap();
        }
        // From here on nothing is read.
        std::future::pending().await
    })
    .await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let web = yard.issue("web-1");
    let shared = H2Client::connect(door, &web).await;
    let (_, _, mut other, mut heard) = shared.ask("orders:80").await.unwrap();
    let (_, _, mut small, _down) = shared.ask("orders:80").await.unwrap();
    other.send_data("e".into(), false).unwrap();
    for _ in 0..50 {
        // As an app's many small writes arrive after a pause: all at once.
        for _ in 0..1000 {
            small.send_data("x".into(), false).unwrap();
        }
        other.send_data("y".into(), false).unwrap();
        let word = within("the other flow's answer", heard.data()).await;
        assert_eq!(word.unwrap().expect("the connection was broken off"), "y");
        heard.flow_control().release_capacity(1).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_out_of_descriptors_refuses_new_flows_and_keeps_the_living() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let web = yard.issue("web-1");
    let mut living = Client::connect(door, &web).await.ask("orders:80").await.flow();
    let shared = H2Client::connect(door, &web).await;
    let ask = async || shared.ask("orders:80").await.map(|(status, reason, ..)| (status, reason)).unwrap();
    assert_eq!(ask().await.0, 200);
    let before = server.descriptors_max(50);
    let refused = until("a refusal", async || Some(ask().await).filter(|(status, _)| *status != 200)).await;
    assert_eq!(refused, (503, "descriptors_exhausted".to_owned()));
    assert_eq!(server.ask(Method::GET, "/readyz").await.unwrap().0, 503);
    assert!(echoes(&mut living).await, "a living flow was not kept");
    server.descriptors_max(before);
    until("new flows pass again", async || (ask().await.0 == 200).then_some(())).await;
    server.wrote("deny", "descriptors_exhausted").await;
}

#[test]
fn a_disk_without_its_reserve_lets_no_sidecar_start() {
    let yard = Yard::new();
    let config = format!(
        "[peers]\nlisten = \"{}\"\n\n[[inbound]]\nname = \"orders\"\ntarget = \"127.0.0.1:1\"\n\
         protocol = \"tcp\"\n\n[audit]\ndisk_reserve = \"1024GiB\"\n",
        free_addr()
    );
    let ended = Sidecar::output(&yard.furnish("server-1", &config), &[]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("disk_reserve"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_lets_the_living_finish_refuses_the_new_and_ends_with_0() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (mut server, door) = yard.server(&orders.addr.to_string(), "").await;
    let web = yard.issue("web-1");
    let mut living = Client::connect(door, &web).await.ask("orders:80").await.flow();
    let shared = H2Client::connect(door, &web).await;
    let (status, _, _up, _down) = shared.ask("orders:80").await.unwrap();
    assert_eq!(status, 200);
    // Came in before, asks after.
    let late = Client::connect(door, &web).await;
    server.signal(Signal::TERM);
    until("the doors are closed", async || TcpStream::connect(door).await.err()).await;
    assert_eq!(late.ask("orders:80").await.said(), (503, "draining"));
    // Peers are told to go elsewhere, or refused if they ask before they hear of it.
    match shared.ask("orders:80").await {
        Err(gone) => assert!(gone.is_go_away() || gone.is_io(), "{gone}"),
        Ok((status, reason, ..)) => assert_eq!((status, &*reason), (503, "draining")),
    }
    let (status, body) = server.ask(Method::GET, "/readyz").await.unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(echoes(&mut living).await, "a living flow was not let finish");
    living.shutdown().await.unwrap();
    drop((living, _up, _down, shared));
    assert_eq!(server.ended().await.code(), Some(0));
    let entries = server.entries();
    assert_eq!(entries.last().unwrap()["kind"], "stop");
    assert!(entries.iter().all(|e| e["kind"] != "close" || e["reason"].is_null()), "a living flow was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_the_drain_is_cut() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (mut server, door) = yard.server(&orders.addr.to_string(), "\n[drain]\ntimeout = \"300ms\"\n").await;
    let web = yard.issue("web-1");
    let mut living = Client::connect(door, &web).await.ask("orders:80").await.flow();
    echo(&mut living).await;
    server.signal(Signal::TERM);
    assert_eq!(server.ended().await.code(), Some(0));
    server.wrote("close", "draining").await;
}
