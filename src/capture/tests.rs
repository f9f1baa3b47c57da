//! The doors as a local app meets them: real sockets on loopback and on a Unix path.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::model::{DecisionId, Reason, Refusal, Timestamp};
use crate::net::{BoxStream, Chunks, UnixMode};

/// A door that is served, and what arrived at it.
struct House {
    addr: Option<SocketAddr>,
    turned_away: TurnedAway,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl House {
    fn open(mode: Mode) -> Self {
        let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        Self::build(
            Door { mode, listen, request_timeout: Duration::from_secs(10) },
            REQUESTS_MAX,
            Arc::new(|_| Ok(())),
        )
    }

    fn build(door: Door, requests_max: usize, knock: Knock) -> Self {
        let open = open(&door).unwrap().requests_max(requests_max);
        let (addr, turned_away) = (open.local_addr(), open.turned_away());
        let (send, arrivals) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let take = Arc::new(move |arrival| send.send(arrival).unwrap_or_default());
        let shutdown = async { stopped.await.unwrap_or_default() };
        let served = tokio::spawn(serve(open, take, knock, shutdown));
        Self { addr, turned_away, arrivals, stop, served }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr.unwrap()).await.unwrap()
    }

    async fn arrival(&mut self) -> Arrival {
        within(self.arrivals.recv()).await.unwrap()
    }

    /// Refuses the next arrival with the reason it came with, or with `otherwise`.
    async fn refuse(&mut self, otherwise: Reason) -> Wanted {
        let arrival = self.arrival().await;
        let reason = if let Wanted::Nothing(reason) = &arrival.wanted { *reason } else { otherwise };
        let id = DecisionId::new(Timestamp::from_millis(1_700_000_000_000), [7; 10]);
        tokio::spawn(arrival.answer.refuse(Refusal::new(id, reason)));
        arrival.wanted
    }
}

/// No test hangs.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap()
}

async fn read_all(io: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    within(io.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

async fn read_exact(io: &mut (impl AsyncRead + Unpin), len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    within(io.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// Reads the flow's end of an accepted stream until the app closes its half.
async fn drain(stream: &mut BoxStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(chunk) = within(poll_fn(|cx| stream.read.poll_chunk(cx))).await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

async fn send_and_finish(stream: &mut BoxStream, bytes: &'static [u8]) {
    let mut chunks = Chunks::default();
    chunks.push(Bytes::from_static(bytes));
    while !chunks.is_empty() {
        within(poll_fn(|cx| stream.write.poll_send(cx, &mut chunks))).await.unwrap();
    }
    within(poll_fn(|cx| stream.write.poll_finish(cx))).await.unwrap();
}

/// The app sends and closes its half; the flow reads that, answers and closes too; the app reads the answer.
async fn talk(app: &mut (impl AsyncRead + AsyncWrite + Unpin), mut flow: BoxStream, early: &[u8]) {
    app.write_all(b"question").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(drain(&mut flow).await, [early, b"question"].concat());
    send_and_finish(&mut flow, b"answer").await;
    assert_eq!(read_all(app).await, b"answer");
}

const ORDERS: &[u8] = b"\x05\x01\x00\x03\x06orders\x01\xbb";

fn orders() -> Wanted {
    Wanted::Host("orders:443".parse().unwrap())
}

#[tokio::test]
async fn a_forward_door_hands_on_the_raw_stream() {
    let mut house = House::open(Mode::Forward("orders".parse().unwrap()));
    let mut app = house.connect().await;
    let arrival = house.arrival().await;
    assert_eq!(arrival.wanted, Wanted::Outbound("orders".parse().unwrap()));
    assert_eq!((arrival.door, arrival.uid), ("forward", None));
    assert_eq!(arrival.source, app.local_addr().unwrap().to_string());
    let flow = arrival.answer.accept().await.unwrap();
    talk(&mut app, flow, b"").await;
}

#[tokio::test]
async fn a_refused_forward_is_reset() {
    let mut house = House::open(Mode::Forward("orders".parse().unwrap()));
    let mut app = house.connect().await;
    house.refuse(Reason::PolicyDenied).await;
    let error = within(app.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_unix_door_knows_its_caller_and_has_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.sock");
    for mode in [Mode::Forward("orders".parse().unwrap()), Mode::Socks5] {
        let listen = Listen::Unix { path: path.clone(), mode: UnixMode(0o620) };
        let door = Door { mode: mode.clone(), listen, request_timeout: Duration::from_secs(10) };
        let knock = |ip: Option<IpAddr>| ip.map_or(Ok(()), |_| Err(Reason::KnockLimited));
        let mut house = House::build(door, REQUESTS_MAX, Arc::new(knock));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        let mut app = UnixStream::connect(&path).await.unwrap();
        if mode == Mode::Socks5 {
            app.write_all(&[b"\x05\x01\x00", ORDERS].concat()).await.unwrap();
        }
        let arrival = house.arrival().await;
        let uid = rustix::process::getuid().as_raw();
        assert_eq!((arrival.uid, arrival.source), (Some(uid), format!("unix:{uid}")));
        let flow = arrival.answer.accept().await.unwrap();
        if mode == Mode::Socks5 {
            read_exact(&mut app, 12).await;
        }
        talk(&mut app, flow, b"").await;
        house.stop.send(()).unwrap();
        within(house.served).await.unwrap();
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn socks5_byte_by_byte_reaches_its_host() {
    let mut house = House::open(Mode::Socks5);
    let mut app = house.connect().await;
    app.set_nodelay(true).unwrap();
    for byte in [5, 2, 2, 0] {
        app.write_u8(byte).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(read_exact(&mut app, 2).await, [5, 0]);
    for byte in ORDERS {
        app.write_u8(*byte).await.unwrap();
        tokio::task::yield_now().await;
    }
    let arrival = house.arrival().await;
    assert_eq!((&arrival.wanted, arrival.door), (&orders(), "socks5"));
    let flow = arrival.answer.accept().await.unwrap();
    assert_eq!(read_exact(&mut app, 10).await, [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    talk(&mut app, flow, b"").await;
}

#[tokio::test]
async fn what_a_socks5_app_sends_without_waiting_comes_first() {
    let mut house = House::open(Mode::Socks5);
    let mut app = house.connect().await;
    app.write_all(&[b"\x05\x01\x00", ORDERS, b"early "].concat()).await.unwrap();
    let flow = house.arrival().await.answer.accept().await.unwrap();
    read_exact(&mut app, 12).await;
    talk(&mut app, flow, b"early ").await;
}

#[tokio::test]
async fn a_socks5_app_reads_why_it_was_refused() {
    for (sent, otherwise, answer) in [
        (ORDERS, Reason::PolicyDenied, &[5, 0, 5, 2][..]),
        (ORDERS, Reason::ConnectRefused, &[5, 0, 5, 5]),
        (b"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", Reason::Internal, &[5, 0, 5, 7]),
        (b"\x05\x01\x00\x09", Reason::Internal, &[5, 0, 5, 1]),
    ] {
        let mut house = House::open(Mode::Socks5);
        let mut app = house.connect().await;
        app.write_all(&[b"\x05\x01\x00", sent, &[b'x'; 5000]].concat()).await.unwrap();
        house.refuse(otherwise).await;
        assert_eq!(read_all(&mut app).await[..4], *answer);
    }
}

#[tokio::test]
async fn a_socks5_app_that_wants_to_log_in_is_told_that_no_method_fits() {
    let mut house = House::open(Mode::Socks5);
    let mut app = house.connect().await;
    app.write_all(&[5, 1, 2]).await.unwrap();
    assert_eq!(house.refuse(Reason::Internal).await, Wanted::Nothing(Reason::RequestMalformed));
    assert_eq!(read_all(&mut app).await, [5, 0xFF]);
}

#[tokio::test]
async fn a_connect_opens_a_tunnel_with_early_bytes_first() {
    let mut house = House::open(Mode::Connect);
    let mut app = house.connect().await;
    app.write_all(b"CONNECT orders:443 HTTP/1.1\r\nHost: x\r\n\r\nearly ").await.unwrap();
    let arrival = house.arrival().await;
    assert_eq!((&arrival.wanted, arrival.door), (&orders(), "connect"));
    let flow = arrival.answer.accept().await.unwrap();
    assert_eq!(read_exact(&mut app, 19).await, b"HTTP/1.1 200 OK\r\n\r\n");
    talk(&mut app, flow, b"early ").await;
}

#[tokio::test]
async fn a_connect_app_reads_why_it_was_refused_even_when_it_sent_more() {
    let large = format!("CONNECT a:1 HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    for (head, code, status) in [
        ("CONNECT orders:443 HTTP/1.1\r\n\r\n", "policy_denied", "HTTP/1.1 403 "),
        ("GET http://orders/ HTTP/1.1\r\n\r\n", "method_not_allowed", "HTTP/1.1 405 "),
        ("CONNECT / HTTP/1.1\r\n\r\n", "request_malformed", "HTTP/1.1 400 "),
        (&large, "request_too_large", "HTTP/1.1 431 "),
    ] {
        let mut house = House::open(Mode::Connect);
        let mut app = house.connect().await;
        app.write_all(&[head.as_bytes(), &[b'x'; 50_000]].concat()).await.unwrap();
        house.refuse(Reason::PolicyDenied).await;
        let answer = String::from_utf8(read_all(&mut app).await).unwrap();
        assert!(answer.starts_with(status) && answer.contains(&format!("reason={code};")), "{answer}");
        assert!(answer.ends_with('}'));
    }
}

#[tokio::test]
async fn an_app_that_does_not_finish_its_request_in_time_is_told_so() {
    for (mode, sent, answer) in [
        (Mode::Connect, &b"CONNECT orders"[..], &b"HTTP/1.1 408 "[..]),
        (Mode::Socks5, b"\x05", &[5, 0xFF]),
        (Mode::Socks5, b"\x05\x01\x00\x05", &[5, 0, 5, 6]),
    ] {
        let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        let door = Door { mode, listen, request_timeout: Duration::from_millis(30) };
        let mut house = House::build(door, REQUESTS_MAX, Arc::new(|_| Ok(())));
        let mut app = house.connect().await;
        app.write_all(sent).await.unwrap();
        assert_eq!(house.refuse(Reason::Internal).await, Wanted::Nothing(Reason::RequestTimeout));
        assert!(read_all(&mut app).await.starts_with(answer));
    }
}

#[tokio::test]
async fn a_request_that_can_only_be_refused_is_never_accepted() {
    let mut house = House::open(Mode::Connect);
    let mut app = house.connect().await;
    app.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(house.arrival().await.answer.accept().await.is_err());
    assert_eq!(read_all(&mut app).await, b"");
}

#[tokio::test]
async fn an_app_that_leaves_before_it_asked_is_no_arrival() {
    let mut house = House::open(Mode::Connect);
    let mut left = house.connect().await;
    left.write_all(b"CONNECT").await.unwrap();
    left.shutdown().await.unwrap();
    assert_eq!(read_all(&mut left).await, b"");
    let mut app = house.connect().await;
    app.write_all(b"CONNECT orders:443 HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(house.arrival().await.wanted, orders());
}

#[tokio::test]
async fn a_knock_refused_is_closed_unheard_and_counted() {
    let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let door = Door { mode: Mode::Socks5, listen, request_timeout: Duration::from_secs(10) };
    let knock = |ip: Option<IpAddr>| ip.map_or(Ok(()), |_| Err(Reason::KnockLimited));
    let mut house = House::build(door, REQUESTS_MAX, Arc::new(knock));
    let mut app = house.connect().await;
    assert_eq!(read_all(&mut app).await, b"");
    assert_eq!(house.turned_away.count(), 1);
    assert!(house.arrivals.try_recv().is_err());
}

#[tokio::test]
async fn past_the_bound_of_unfinished_requests_newcomers_are_turned_away_until_one_is_done() {
    let listen = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let door = Door { mode: Mode::Connect, listen, request_timeout: Duration::from_secs(10) };
    let mut house = House::build(door, 1, Arc::new(|_| Ok(())));
    let mut silent = house.connect().await;
    assert_eq!(read_all(&mut house.connect().await).await, b"");
    assert_eq!(house.turned_away.count(), 1);
    // One that can only be refused still counts until it has been told.
    silent.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let refusable = house.arrival().await;
    assert_eq!(read_all(&mut house.connect().await).await, b"");
    assert_eq!(house.turned_away.count(), 2);
    drop(refusable);
    let mut app = house.connect().await;
    app.write_all(b"CONNECT orders:443 HTTP/1.1\r\n\r\n").await.unwrap();
    let living = house.arrival().await;
    // One that waits for its answer does not.
    let mut another = house.connect().await;
    another.write_all(b"CONNECT orders:443 HTTP/1.1\r\n\r\n").await.unwrap();
    house.arrival().await;
    drop(living);
}

#[tokio::test]
async fn a_closing_door_lets_go_of_those_who_have_not_asked_and_keeps_the_flows() {
    let mut house = House::open(Mode::Forward("orders".parse().unwrap()));
    let mut app = house.connect().await;
    let flow = house.arrival().await.answer.accept().await.unwrap();
    house.stop.send(()).unwrap();
    within(house.served).await.unwrap();
    assert!(TcpStream::connect(house.addr.unwrap()).await.is_err());
    talk(&mut app, flow, b"").await;

    let house = House::open(Mode::Socks5);
    let mut silent = house.connect().await;
    silent.write_all(&[5, 1, 0]).await.unwrap();
    assert_eq!(read_exact(&mut silent, 2).await, [5, 0]);
    house.stop.send(()).unwrap();
    within(house.served).await.unwrap();
    assert_eq!(read_all(&mut silent).await, b"");
}

#[tokio::test]
async fn a_door_that_cannot_be_bound_says_where() {
    let first = House::open(Mode::Socks5);
    let listen = Listen::Tcp(first.addr.unwrap());
    let door = Door { mode: Mode::Connect, listen, request_timeout: Duration::from_secs(10) };
    let error = open(&door).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on `{}`: ", first.addr.unwrap())));
    assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
}
