//! What a flow carries besides bytes, and the ways it may go.

use std::io::ErrorKind;
use std::time::Duration;

use rustix::process::Signal;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use crate::support::{Client, Service, Sidecar, Yard, echo, ending, within};

/// Breaks a connection off: closing with linger 0 sends RST.
fn break_off(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_close_of_the_app_reaches_the_service_and_the_answer_comes_back() {
    let orders = Service::start(async |mut s: TcpStream| {
        let mut all = Vec::new();
        s.read_to_end(&mut all).await.unwrap();
        all.reverse();
        s.write_all(&all).await.unwrap();
    })
    .await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (web, app) = yard.web(door, "").await;
    let mut flow = TcpStream::connect(app).await.unwrap();
    flow.write_all(b"desserts").await.unwrap();
    flow.shutdown().await.unwrap();
    let mut answer = String::new();
    within("the answer", flow.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "stressed");
    let close = web.wrote("close", "").await;
    assert_eq!((&close["bytes_in"], &close["bytes_out"]), (&8.into(), &8.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_wants_it_is_told_who_the_peer_is_before_the_peers_own_bytes() {
    let (heard, mut hears) = mpsc::channel(1);
    // The first to speak, and it must know to whom.
    let orders = Service::start(move |mut s: TcpStream| {
        let heard = heard.clone();
        async move {
            let mut header = vec![0; 16];
            s.read_exact(&mut header).await.unwrap();
            let len = u16::from_be_bytes([header[14], header[15]]);
            header.resize(16 + usize::from(len), 0);
            s.read_exact(&mut header[16..]).await.unwrap();
            heard.send(header).await.unwrap();
            s.write_all(b"hello").await.unwrap();
            let mut word = [0; 5];
            s.read_exact(&mut word).await.unwrap();
            s.write_all(&word).await.unwrap();
        }
    })
    .await;
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "pass = \"proxy-v2\"\n").await;
    let mut flow = Client::connect(door, &yard.issue("web-1")).await.ask("orders:80").await.flow();
    let mut hello = [0; 5];
    within("the service's word", flow.read_exact(&mut hello)).await.unwrap();
    echo(&mut flow).await;
    let header = hears.recv().await.unwrap();
    // PROXY, TCP over IPv4, from the client to the service.
    assert_eq!(header[..14], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
    assert_eq!(header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
    assert_eq!(header[24..26], flow.get_ref().0.local_addr().unwrap().port().to_be_bytes());
    assert_eq!(header[26..28], orders.addr.port().to_be_bytes());
    let told = String::from_utf8_lossy(&header[28..]).into_owned();
    let decision = server.wrote("open", "").await["decision"].as_str().unwrap().to_owned();
    for part in ["orders", "spiffe://example.org/device/web-1", "web-1", "TLSv1.3", "AES", &decision] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_close_of_the_service_reaches_the_app_which_may_go_on_sending() {
    let (heard, mut hears) = mpsc::channel(1);
    let orders = Service::start(move |mut s: TcpStream| {
        let heard = heard.clone();
        async move {
            s.write_all(b"no more from me").await.unwrap();
            s.shutdown().await.unwrap();
            let mut all = String::new();
            s.read_to_string(&mut all).await.unwrap();
            heard.send(all).await.unwrap();
        }
    })
    .await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (_web, app) = yard.web(door, "").await;
    let mut flow = TcpStream::connect(app).await.unwrap();
    let mut said = String::new();
    within("the service's end", flow.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "no more from me");
    flow.write_all(b"but from me").await.unwrap();
    flow.shutdown().await.unwrap();
    assert_eq!(within("the rest", hears.recv()).await.as_deref(), Some("but from me"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_carried_both_ways() {
    let (heard, mut hears) = mpsc::channel(1);
    let orders = Service::start(move |mut s: TcpStream| {
        let heard = heard.clone();
        async move {
            let mut first = [0; 5];
            s.read_exact(&mut first).await.unwrap();
            s.write_all(&first).await.unwrap();
            if &first == b"break" {
                break_off(s);
            } else {
                heard.send(ending(&mut s).await).await.unwrap();
            }
        }
    })
    .await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (_web, app) = yard.web(door, "").await;

    let mut flow = TcpStream::connect(app).await.unwrap();
    echo(&mut flow).await;
    break_off(flow);
    assert_eq!(within("the app's reset", hears.recv()).await, Some(Some(ErrorKind::ConnectionReset)));

    let mut flow = TcpStream::connect(app).await.unwrap();
    flow.write_all(b"break").await.unwrap();
    assert_eq!(ending(&mut flow).await, Some(ErrorKind::ConnectionReset));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_on_which_nothing_moves_is_cut_with_idle_timeout() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (web, app) = yard.web(door, "idle_timeout = \"1s\"\n").await;
    let mut flow = TcpStream::connect(app).await.unwrap();
    for _ in 0..3 {
        echo(&mut flow).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(ending(&mut flow).await, Some(ErrorKind::ConnectionReset));
    web.wrote("close", "idle_timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_ends_with_the_certificate_that_proved_its_session() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (server, door) = yard.server(&orders.addr.to_string(), "").await;
    let brief = yard.issue_for("brief-1", Duration::from_secs(3));
    let mut flow = Client::connect(door, &brief).await.ask("orders:80").await.flow();
    echo(&mut flow).await;
    ending(&mut flow).await;
    let close = server.wrote("close", "session_expired").await;
    assert_eq!(close["device"], "spiffe://example.org/device/brief-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_paths_are_resolved() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (_server, door) = yard.server(&orders.addr.to_string(), "").await;
    let (_web, app) = yard.web_by(&format!("localhost:{}", door.port()), "").await;
    echo(&mut TcpStream::connect(app).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_do_on_both_sides_and_the_callers_uid_is_a_policy_fact() {
    let yard = Yard::new();
    let socket = yard.path().join("orders.sock");
    let _orders = Service::echo_on(&socket);
    let (_server, door) = yard.server(&format!("unix:{}", socket.display()), "").await;
    let config = format!(
        "[[outbound]]\nname = \"orders\"\nlisten = \"unix:app.sock\"\nprotocol = \"tcp\"\n\
         peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{door}\"]\n"
    );
    let web = yard.run("web-1", &config).await;
    echo(&mut UnixStream::connect(web.dir.join("app.sock")).await.unwrap()).await;

    let uid = rustix::process::getuid().as_raw();
    let only = format!(
        "@id(\"not-this-user\") @reason(\"another user's service\")\n\
         forbid(principal, action, resource) when {{ context has uid && context.uid == {uid} }};\n"
    );
    web.set_policy("50-user.cedar", &only);
    web.logged("flows cut").await;
    let mut flow = UnixStream::connect(web.dir.join("app.sock")).await.unwrap();
    ending(&mut flow).await;
    let deny = web.wrote("deny", "policy_denied").await;
    assert_eq!(deny["rule"], "not-this-user");
    assert_eq!(deny["source"], format!("uid:{uid}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_flow_after_the_other_sidecar_came_back_finds_it() {
    let orders = Service::echo().await;
    let yard = Yard::new();
    let (mut server, door) = yard.server(&orders.addr.to_string(), "").await;
    // A connection that is gone must not count among the most there may be.
    let (_web, app) = yard.web(door, "\n[channel]\nconnections_max = 1\n").await;
    for signal in [Signal::TERM, Signal::KILL] {
        let mut flow = TcpStream::connect(app).await.unwrap();
        echo(&mut flow).await;
        flow.shutdown().await.unwrap();
        assert_eq!(ending(&mut flow).await, None);
        server.signal(signal);
        server.ended().await;
        let dir = server.dir.clone();
        drop(server);
        server = Sidecar::start(&dir).await;
        echo(&mut TcpStream::connect(app).await.unwrap()).await;
    }
}
