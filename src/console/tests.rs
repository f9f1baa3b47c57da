//! The console over real sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

use super::serve::{Bounds, Desk, serve_desk};
use super::*;
use crate::model::{FlowId, Reason};
use crate::net::{BoxFuture, Listener, UnixMode};

/// A house that remembers what it was asked.
#[derive(Default)]
struct Doll {
    failing: bool,
    unchecked: bool,
    unrecordable: bool,
    seen: Arc<Mutex<Vec<AdminEvent>>>,
    refused: Mutex<Vec<Reason>>,
    turned_away: Mutex<Vec<(Caller, String, Reason)>>,
    asked: Mutex<Vec<Ask>>,
}

impl House for Doll {
    fn live(&self) -> bool {
        !self.failing
    }
    fn checks(&self) -> Vec<Check> {
        let sentence = if self.failing { "the disk is full".into() } else { String::new() };
        let audit = Check { name: "audit", ok: !self.failing, sentence };
        let certificate = Check { name: "certificate", ok: true, sentence: String::new() };
        if self.unchecked { Vec::new() } else { vec![certificate, audit] }
    }
    fn metrics(&self) -> String {
        "# EOF\n".into()
    }
    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "version": "1" })
    }
    fn flows(&self) -> serde_json::Value {
        serde_json::json!([])
    }
    fn config(&self) -> String {
        "version = 1\n".into()
    }
    fn ask(&self, ask: Ask) -> BoxFuture<Result<String, AskError>> {
        self.asked.lock().unwrap().push(ask);
        Box::pin(async move {
            match ask {
                Ask::CloseFlow(FlowId(1)) => Ok("closed".into()),
                Ask::CloseFlow(id) => Err(AskError::FlowUnknown(id)),
                Ask::Reload => {
                    Err(AskError::Failed { reason: Reason::PolicyError, detail: "a.cedar:1:1".into() })
                }
                Ask::Checkpoint | Ask::Drain | Ask::Release => Ok("done".into()),
            }
        })
    }
    fn saw(&self, event: AdminEvent) -> BoxFuture<Result<(), Reason>> {
        self.seen.lock().unwrap().push(event);
        let end = if self.unrecordable { Err(Reason::AuditUnavailable) } else { Ok(()) };
        Box::pin(async move { end })
    }
    fn refused(&self, reason: Reason) {
        self.refused.lock().unwrap().push(reason);
    }
    fn turned_away(&self, caller: Caller, what: &str, reason: Reason) {
        self.turned_away.lock().unwrap().push((caller, what.to_owned(), reason));
    }
}

/// Longer than any bound a test sets.
const PATIENCE: Duration = Duration::from_secs(3);

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Sends `request` to a console over TCP and reads until it closes.
async fn play_tcp(doll: Arc<Doll>, bounds: Bounds, request: &str) -> String {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let hosts = vec!["metrics.example.org".to_owned()];
    let desk = Desk { house: doll, hosts, listen: Some(address), own_uid: own_uid(), bounds };
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve_desk(listener, Arc::new(desk), async { drop(stopped.await) }));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, client.read_to_end(&mut answer));
    let _ = read.await.unwrap_or_else(|_| panic!("the console keeps the connection open"));
    drop(stop);
    server.await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// The same over a Unix socket, with the sidecar running as `own_uid`.
async fn play_unix(doll: Arc<Doll>, own_uid: u32, request: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let listener = Listener::unix(&path, UnixMode::default()).unwrap();
    let desk = Desk { house: doll, hosts: Vec::new(), listen: None, own_uid, bounds: Bounds::default() };
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve_desk(listener, Arc::new(desk), async { drop(stopped.await) }));
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    drop(stop);
    server.await.unwrap();
    answer
}

async fn tcp(request: &str) -> String {
    play_tcp(Arc::default(), Bounds::default(), request).await
}

async fn unix(request: &str) -> String {
    play_unix(Arc::default(), own_uid(), &format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn health_and_metrics_are_answered_to_this_host() {
    for (path, text) in
        [("/livez", "ok\n"), ("/readyz", "certificate ok\naudit ok\n"), ("/metrics", "# EOF\n")]
    {
        let answer = tcp(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!((status(&answer), body(&answer)), ("200", text), "{path}");
        let head = tcp(&format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!((status(&head), body(&head)), ("200", ""), "{path}");
    }
}

#[tokio::test]
async fn what_is_failing_is_said_with_its_cause() {
    let doll = Arc::new(Doll { failing: true, ..Doll::default() });
    let ready = |accept: &str| format!("GET /readyz HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    let text = play_tcp(doll.clone(), Bounds::default(), &ready("*/*")).await;
    assert_eq!((status(&text), body(&text)), ("503", "certificate ok\naudit failing: the disk is full\n"));
    let json = play_tcp(doll.clone(), Bounds::default(), &ready("application/json")).await;
    assert!(json.contains("content-type: application/json\r\n"), "{json}");
    let json: serde_json::Value = serde_json::from_str(body(&json)).unwrap();
    assert_eq!(json["ready"], false);
    assert_eq!(json["checks"][1]["sentence"], "the disk is full");
    let live = play_tcp(doll, Bounds::default(), "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(status(&live), "503");
}

#[tokio::test]
async fn what_nobody_checked_is_not_ready() {
    let doll = Arc::new(Doll { unchecked: true, ..Doll::default() });
    let answer = play_tcp(doll, Bounds::default(), "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((status(&answer), body(&answer)), ("503", "nothing was checked yet\n"));
}

#[tokio::test]
async fn a_foreign_host_header_is_refused() {
    let doll = Arc::new(Doll::default());
    let request = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let answer = play_tcp(doll.clone(), Bounds::default(), request).await;
    assert_eq!(status(&answer), "421");
    assert!(answer.contains("content-type: application/problem+json\r\n"), "{answer}");
    let problem: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(problem["reason"], "admin_host_foreign");
    let stranger = Caller::At([127, 0, 0, 1].into());
    let told = (stranger, "GET /metrics".to_owned(), Reason::AdminHostForeign);
    assert_eq!(*doll.turned_away.lock().unwrap(), [told]);
    assert_eq!(status(&tcp("GET /metrics HTTP/1.1\r\nHost: metrics.example.org\r\n\r\n").await), "200");
}

#[tokio::test]
async fn a_foreign_request_target_is_refused_whatever_the_host_header_says() {
    let answer = tcp("GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(status(&answer), "421");
    let answer = tcp("GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
}

#[tokio::test]
async fn there_must_be_exactly_one_host_header() {
    for request in [
        "GET /livez HTTP/1.1\r\n\r\n",
        "GET /livez HTTP/1.0\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    ] {
        assert_eq!(status(&tcp(request).await), "400", "{request}");
    }
}

#[tokio::test]
async fn the_tcp_address_knows_no_other_path_and_no_other_method() {
    for request in ["GET /status", "POST /drain", "GET /", "POST /flows/f1/close"] {
        let answer = tcp(&format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(status(&answer), "404", "{request}");
    }
    let answer = tcp("POST /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(status(&answer), "405");
    assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
}

#[tokio::test]
async fn no_request_has_a_body() {
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let answer = tcp(&format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n")).await;
        assert_eq!(status(&answer), "400", "{framing}");
    }
    assert_eq!(
        status(&tcp("GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await),
        "200"
    );
}

#[tokio::test]
async fn a_head_beyond_its_bounds_is_refused() {
    let head = |more: String| format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    let long = head(format!("A: {}\r\n", "x".repeat(HEADER_LEN_MAX)));
    assert_eq!(status(&tcp(&long).await), "431");
    let many = head("A: x\r\n".repeat(HEADERS_MAX));
    assert_eq!(status(&tcp(&many).await), "431");
    let most = head("A: x\r\n".repeat(HEADERS_MAX - 1));
    assert_eq!(status(&tcp(&most).await), "200");
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_head_is_cut_off() {
    let bounds = Bounds { header_timeout: Duration::from_millis(20), ..Bounds::default() };
    // Without the bound this would wait for ever: the client sends no more.
    let answer = play_tcp(Arc::default(), bounds, "GET /livez HTTP/1.1\r\nHost: loc").await;
    assert_ne!(status(&answer), "200");
    let bounds = Bounds { request_timeout: Duration::from_millis(20), ..Bounds::default() };
    assert_eq!(play_tcp(Arc::default(), bounds, "GET /livez HTTP/1.1\r\n").await, "");
}

#[tokio::test]
async fn a_connection_too_many_is_turned_away_and_counted() {
    let doll = Arc::new(Doll::default());
    let bounds = Bounds { connections_max: 0, ..Bounds::default() };
    let answer = play_tcp(doll.clone(), bounds, "").await;
    assert_eq!(status(&answer), "503");
    let stranger = Caller::At([127, 0, 0, 1].into());
    assert_eq!(*doll.turned_away.lock().unwrap(), [(stranger, String::new(), Reason::AdminLimited)]);
}

#[tokio::test]
async fn the_socket_shows_what_is() {
    for (path, text) in [
        ("/livez", "ok\n"),
        ("/status", "{\"version\":\"1\"}\n"),
        ("/flows", "[]\n"),
        ("/config", "version = 1\n"),
        ("/checkpoint", "done\n"),
    ] {
        let answer = unix(&format!("GET {path}")).await;
        assert_eq!((status(&answer), body(&answer)), ("200", text), "{path}");
    }
}

#[tokio::test]
async fn the_socket_takes_asks_and_tells_what_came_of_them() {
    assert_eq!(status(&unix("POST /drain").await), "200");
    assert_eq!(body(&unix("POST /flows/f1/close").await), "closed\n");
    let unknown = unix("POST /flows/f2/close").await;
    assert_eq!(status(&unknown), "404");
    assert!(body(&unknown).contains("no flow `f2` is alive"), "{unknown}");
    let failed = unix("POST /reload").await;
    assert_eq!(status(&failed), "403");
    assert!(body(&failed).contains("a.cedar:1:1"), "{failed}");
    assert_eq!(status(&unix("GET /reload").await), "405");
}

#[tokio::test]
async fn another_user_gets_nothing_of_the_socket_and_is_written_down() {
    let doll = Arc::new(Doll::default());
    let desk = Desk {
        house: doll.clone(),
        hosts: Vec::new(),
        listen: None,
        own_uid: 1000,
        bounds: Bounds::default(),
    };
    for (uid, method, path, allowed) in [
        (1001, "POST", "/drain", 403),
        (1001, "GET", "/livez", 403),
        (1000, "POST", "/drain", 200),
        (0, "GET", "/status", 200),
    ] {
        let request = hyper::Request::builder().method(method).uri(path);
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        assert_eq!(desk.answer(Caller::User(uid), request).await.status().as_u16(), allowed, "{uid} {path}");
    }
    assert_eq!(*doll.asked.lock().unwrap(), [Ask::Drain]);
    assert_eq!(*doll.refused.lock().unwrap(), [Reason::CallerForbidden; 2]);
    let seen: Vec<_> = doll.seen.lock().unwrap().iter().map(|event| (event.uid, event.refused)).collect();
    let forbidden = Some(Reason::CallerForbidden);
    assert_eq!(seen, [(1001, forbidden), (1001, forbidden), (1000, None), (0, None)]);
}

#[tokio::test]
async fn what_a_user_wants_is_written_down_before_it_is_done() {
    let doll = Arc::new(Doll::default());
    let long = "x".repeat(200);
    for request in ["POST /drain", "GET /status", "GET /metrics", "PUT /reload", &format!("GET /{long}")] {
        play_unix(doll.clone(), own_uid(), &format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    }
    let seen = doll.seen.lock().unwrap();
    let told: Vec<_> = seen.iter().map(|event| (event.what.as_str(), event.refused)).collect();
    let cut = format!("GET /{}", "x".repeat(123));
    assert_eq!(
        told,
        [
            ("POST /drain", None),
            ("GET /status", None),
            ("PUT /reload", Some(Reason::AdminMethodNotAllowed)),
            (cut.as_str(), Some(Reason::AdminPathUnknown)),
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_done_but_reading_goes_on() {
    let doll = Arc::new(Doll { unrecordable: true, ..Doll::default() });
    let answer = play_unix(doll.clone(), own_uid(), "POST /drain HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&answer), "503");
    assert!(answer.contains("audit_unavailable"), "{answer}");
    assert!(doll.asked.lock().unwrap().is_empty());
    let answer = play_unix(doll, own_uid(), "GET /status HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
}

#[tokio::test]
async fn the_client_gets_status_and_body() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let listener = Listener::unix(&path, UnixMode::default()).unwrap();
    let settings = Settings { listen: None, hosts: Vec::new(), socket: path.clone() };
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        serve(listener, Arc::new(Doll::default()), &settings, async { drop(stopped.await) }).await;
    });
    let ask = |method, path_and_query| client::ask(&path, method, path_and_query);
    assert_eq!(ask(hyper::Method::GET, "/livez").await.unwrap(), (200, "ok\n".into()));
    assert_eq!(ask(hyper::Method::POST, "/reload").await.unwrap().0, 403);
    assert!(matches!(ask(hyper::Method::GET, "/ /").await, Err(client::ClientError::Path { .. })));
    drop(stop);
    server.await.unwrap();
    assert!(matches!(ask(hyper::Method::GET, "/livez").await, Err(client::ClientError::Connect { .. })));
}

#[tokio::test]
async fn an_answer_longer_than_the_client_takes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        let length = client::ANSWER_LEN_MAX + 1;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let _ = stream.write_all(&vec![b'x'; length]).await;
    });
    let answer = client::ask(&path, hyper::Method::GET, "/status").await.map(|(status, _)| status);
    assert!(matches!(answer, Err(client::ClientError::Answer { .. })), "{answer:?}");
    server.abort();
}
