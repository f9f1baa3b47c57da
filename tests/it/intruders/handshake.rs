//! Who is stopped in the handshake: with the wrong certificate, none, or no TLS of ours.

use std::sync::Arc;

use countersign::identity::Pq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ground::{Ground, Rng, Shown, shake};
use crate::support::within;

/// Shows what the ground has under `what`.
pub async fn shown(g: Arc<Ground>, mut rng: Rng, what: &'static str) -> Vec<String> {
    let shown = g.shown[what].clone();
    knock(&g, Some(&shown), &mut rng, Pq::Prefer).await;
    vec![]
}

/// Shows nothing.
pub async fn nothing(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    knock(&g, None, &mut rng, Pq::Prefer).await;
    vec![]
}

/// An enrolled device that knows no post-quantum group.
pub async fn classical(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let shown = g.devices[lane].shown();
    knock(&g, Some(&shown), &mut rng, Pq::Off).await;
    vec![]
}

/// An enrolled device that speaks another protocol.
pub async fn other_alpn(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let alpn = *rng.pick(&[&b"smuggle/1"[..], b"h3", b"spdy/3", b"countersign-join/2"]);
    let failed = shake(g.door, Some(&g.devices[lane].shown()), alpn, Pq::Prefer).await;
    assert!(failed.is_err(), "a protocol that is not ours was taken");
    vec![]
}

async fn knock(g: &Ground, shown: Option<&Shown>, rng: &mut Rng, pq: Pq) {
    let alpn = *rng.pick(&[&b"h2"[..], b"http/1.1"]);
    // TLS 1.3 lets a client finish before the server has looked: what it then says must go unanswered.
    let Ok(mut tls) = within("a handshake", shake(g.door, shown, alpn, pq)).await else { return };
    let ask: &[u8] = match alpn {
        b"h2" => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        _ => b"CONNECT orders:80 HTTP/1.1\r\nHost: orders\r\n\r\nhello",
    };
    let _ = tls.write_all(ask).await;
    let mut heard = Vec::new();
    let _ = within("the end", tls.read_to_end(&mut heard)).await;
    assert!(!heard.starts_with(b"HTTP/"), "let in: {}", String::from_utf8_lossy(&heard));
    // h2 settings may come before the certificate was looked at; no more than that.
    assert!(heard.len() < 200, "{} bytes for a stranger", heard.len());
}

/// TLS 1.2 and nothing newer.
pub async fn tls_1_2(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let mut hello = vec![0x03, 0x03];
    hello.extend(rng.bytes(32));
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let extensions = [
        &[0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x17][..],
        &[0x00, 0x0b, 0, 2, 1, 0],
        &[0x00, 0x0d, 0, 4, 0, 2, 0x04, 0x03],
    ]
    .concat();
    hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    hello.extend(extensions);
    let len = u16::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 3, 1];
    record.extend((len + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(len.to_be_bytes());
    record.extend(hello);
    said(&g, &record).await;
    vec![]
}

/// No TLS at all.
pub async fn no_tls(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let junk = match rng.below(3) {
        0 => b"CONNECT orders:80 HTTP/1.1\r\nHost: orders\r\n\r\n".to_vec(),
        1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        _ => [vec![b'!'], rng.bytes(200)].concat(),
    };
    said(&g, &junk).await;
    vec![]
}

/// Says it, and hears at most an alert.
async fn said(g: &Ground, bytes: &[u8]) {
    let mut tcp = TcpStream::connect(g.door).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut heard = Vec::new();
    let _ = within("the end", tcp.read_to_end(&mut heard)).await;
    assert!(heard.len() < 50, "{heard:?}");
}

/// Leaves in the middle of its hello, or before.
pub async fn gone(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let mut tcp = TcpStream::connect(g.door).await.unwrap();
    let hello = [0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3];
    tcp.write_all(&hello[..rng.below(hello.len())]).await.unwrap();
    tcp.shutdown().await.unwrap();
    let _ = within("the end", tcp.read_to_end(&mut Vec::new())).await;
    vec![]
}

/// Says nothing.
pub async fn silent(g: Arc<Ground>) -> Vec<String> {
    let mut tcp = TcpStream::connect(g.door).await.unwrap();
    let _ = within("the end", tcp.read_to_end(&mut Vec::new())).await;
    vec![]
}
