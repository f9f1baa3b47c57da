//! Who is known and asks for what may not be: at the peers' door, the apps' doors and the admin doors.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign::identity::Pq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::ground::{Ground, Rng, Shown, shake};
use crate::support::{refusal, within};

/// Sends a request head over HTTP/1.1 as this device; gives the reason it was refused with.
pub async fn plain(g: &Ground, shown: &Shown, request: &[u8]) -> Vec<String> {
    let tls = within("a handshake", shake(g.door, Some(shown), b"http/1.1", Pq::Prefer)).await.unwrap();
    let heard = exchange(tls, request).await;
    let (status, reason) = refusal(&heard).unwrap_or_else(|| panic!("let in: {heard}"));
    assert!((400..600).contains(&status), "{heard}");
    vec![reason]
}

/// Says it all, and hears all there is to hear.
async fn exchange(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
    // Whoever says too much may be cut short.
    let _ = io.write_all(request).await;
    let mut heard = Vec::new();
    let _ = within("an answer", io.read_to_end(&mut heard)).await;
    String::from_utf8_lossy(&heard).into_owned()
}

fn exempt(g: &Ground) -> Shown {
    let credentials = g.yard.credentials("plain-1");
    Shown::read(&credentials.leaf, &credentials.key)
}

/// Where nobody may be led: other services, own doors, metadata, tricks with addresses.
pub fn elsewhere(g: &Ground) -> Vec<String> {
    let canary = g.canary.addr.port();
    [
        g.door.to_string(),
        g.admin.to_string(),
        format!("localhost:{canary}"),
        format!("[::ffff:127.0.0.1]:{canary}"),
        format!("0.0.0.0:{canary}"),
        "169.254.169.254:80".into(),
        "[fd00:ec2::254]:80".into(),
        "[::ffff:169.254.169.254]:80".into(),
        "metadata.google.internal:80".into(),
        "orders.evil.example:443".into(),
        "10.0.0.1:22".into(),
        "[::1]:443".into(),
        format!("127.0.0.1:{}", g.orders.addr.port() ^ 1),
    ]
    .into()
}

/// A plain client that need not attest, and wants what is no service.
pub async fn no_service(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let target = rng.pick(&elsewhere(&g)).clone();
    plain(&g, &exempt(&g), format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await
}

/// A plain client that need not attest, and wants a service which policy does not give it.
pub async fn not_allowed(g: Arc<Ground>, _: Rng) -> Vec<String> {
    plain(&g, &exempt(&g), b"CONNECT ledger:80 HTTP/1.1\r\nHost: ledger\r\n\r\n").await
}

/// Heads that are no CONNECT, and what each is refused with.
fn bad_heads() -> Vec<(Vec<u8>, &'static str)> {
    let connect = |rest: &str| format!("CONNECT {rest}\r\n\r\n").into_bytes();
    let many = |n| (0..n).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    vec![
        (b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n".into(), "method_not_allowed"),
        (b"POST /.well-known/countersign/evidence HTTP/1.1\r\nHost: x\r\n\r\n".into(), "method_not_allowed"),
        (b"connect orders:80 HTTP/1.1\r\n\r\n".into(), "method_not_allowed"),
        (connect("orders HTTP/1.1"), "request_malformed"),
        (connect("orders:99999 HTTP/1.1"), "request_malformed"),
        (connect("orders:+80 HTTP/1.1"), "request_malformed"),
        (connect("user@orders:80 HTTP/1.1"), "request_malformed"),
        (connect("/orders:80 HTTP/1.1"), "request_malformed"),
        (connect("http://orders:80/ HTTP/1.1"), "request_malformed"),
        (connect("orders:80 HTTP/3.0"), "request_malformed"),
        (connect("orders:80 HTTP/1.1\r\nContent-Length: 5"), "request_malformed"),
        (connect("orders:80 HTTP/1.1\r\nTransfer-Encoding: chunked"), "request_malformed"),
        (connect("orders:80 HTTP/1.1\r\nHost: orders:80\r\nHost: ledger:80"), "request_malformed"),
        (connect("orders:80 HTTP/1.1\r\nBad Header: x"), "request_malformed"),
        (b"\0\0\0\0\r\n\r\n".into(), "request_malformed"),
        (connect(&format!("orders:80 HTTP/1.1\r\nX: {}", "y".repeat(17_000))), "request_too_large"),
        (connect(&format!("orders:80 HTTP/1.1\r\n{}", many(65))), "request_too_large"),
    ]
}

/// A plain client that need not attest, and asks in no language of ours.
pub async fn malformed(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let (head, reason) = rng.pick(&bad_heads()).clone();
    let said = plain(&g, &exempt(&g), &head).await;
    assert_eq!(said, [reason], "{}", String::from_utf8_lossy(&head));
    said
}

/// An app that says no SOCKS5 of ours.
pub async fn socks(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let greeted = |rest: &[u8]| [&[5, 1, 0], rest].concat();
    let name = |command: u8, name: &str| {
        let len = u8::try_from(name.len()).unwrap();
        greeted(&[&[5, command, 0, 3, len], name.as_bytes(), &[0, 80]].concat())
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![4, 1, 0, 80, 127, 0, 0, 1, 0], "request_malformed"),
        (b"GET / HTTP/1.1\r\n\r\n".into(), "request_malformed"),
        (vec![5, 1, 2], "request_malformed"),
        (greeted(&[5, 1, 0, 9, 1, 2, 3, 4, 0, 80]), "request_malformed"),
        (greeted(&[4, 1, 0, 1, 1, 2, 3, 4, 0, 80]), "request_malformed"),
        (name(2, "orders"), "method_not_allowed"),
        (name(3, "orders"), "method_not_allowed"),
        (name(1, "elsewhere"), "outbound_unknown"),
        (name(1, "metadata.google.internal"), "outbound_unknown"),
        (greeted(&[5, 1, 0, 1, 169, 254, 169, 254, 0, 80]), "outbound_unknown"),
        (greeted(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 80]), "outbound_unknown"),
        (greeted(&[&[5, 1, 0, 4][..], &[0; 15], &[1, 0, 80]].concat()), "outbound_unknown"),
    ];
    let (bytes, reason) = rng.pick(&cases).clone();
    let heard = local(g.socks, &bytes).await;
    // No more than the greeting's answer and one refusal.
    assert!(heard.len() <= 12, "{heard:?}");
    vec![reason.into()]
}

/// An app that says no CONNECT of ours.
pub async fn proxy(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let mut cases = bad_heads();
    for target in elsewhere(&g) {
        cases.push((format!("CONNECT {target} HTTP/1.1\r\n\r\n").into_bytes(), "outbound_unknown"));
    }
    let (head, reason) = rng.pick(&cases).clone();
    let heard = local(g.proxy, &head).await;
    assert!(!heard.starts_with("HTTP/1.1 200"), "let in: {heard}");
    vec![reason.into()]
}

async fn local(door: SocketAddr, bytes: &[u8]) -> String {
    exchange(TcpStream::connect(door).await.unwrap(), bytes).await
}

/// A page of another site, or anybody on this host, at the admin address.
pub async fn admin(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let cases = [
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "admin_host_foreign"),
        ("GET /livez HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", "admin_host_foreign"),
        ("GET http://evil.example/readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", "admin_host_foreign"),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", "request_malformed"),
        ("GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n", "admin_path_unknown"),
        ("POST /drain HTTP/1.1\r\nHost: localhost\r\n\r\n", "admin_path_unknown"),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "admin_method_not_allowed"),
    ];
    let (request, reason) = *rng.pick(&cases);
    let heard = local(g.admin, request.as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 4"), "{heard}");
    vec![reason.into()]
}

/// The right user at the admin socket who asks for what there is not.
pub async fn admin_socket(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let cases = [
        ("GET /secrets", "admin_path_unknown"),
        ("GET /../certs/leaf.key", "admin_path_unknown"),
        ("POST /flows/f0x1/close", "admin_path_unknown"),
        ("GET /drain", "admin_method_not_allowed"),
        ("DELETE /config", "admin_method_not_allowed"),
    ];
    let (request, reason) = *rng.pick(&cases);
    let socket = UnixStream::connect(g.web.dir.join("countersign.sock")).await.unwrap();
    let heard = exchange(socket, format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 4"), "{heard}");
    vec![reason.into()]
}

/// Another user at the admin socket, whose permission bits somebody has loosened.
pub async fn other_user(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let (method, path) =
        *rng.pick(&[("POST", "drain"), ("POST", "reload"), ("GET", "status"), ("GET", "livez")]);
    let socket = g.web.dir.join("countersign.sock");
    let done = tokio::process::Command::new("curl")
        .uid(NOBODY)
        .args(["-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", "-X", method])
        .arg("--unix-socket")
        .arg(socket)
        .arg(format!("http://x/{path}"))
        .output()
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "403", "{done:?}");
    vec!["caller_forbidden".into()]
}

/// Lets every user of this host as far as the admin socket itself; only root can try it as another.
pub fn loosen(g: &Ground) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path, bits| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
    };
    mode(g.yard.path(), 0o755);
    mode(&g.web.dir, 0o755);
    mode(&g.web.dir.join("countersign.sock"), 0o666);
    rustix::process::getuid().is_root()
}

/// A user who owns nothing here.
const NOBODY: u32 = 65_534;
