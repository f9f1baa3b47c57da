//! The service behind the demo's sidecar: it greets whoever gets through, and counts who does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A service on a loopback port of its own.
#[derive(Clone)]
pub(super) struct Service {
    pub addr: SocketAddr,
    visitors: Arc<AtomicUsize>,
}

impl Service {
    /// Starts it; it ends with the process.
    pub async fn start(name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let service = Self { addr: listener.local_addr()?, visitors: Arc::default() };
        let visitors = Arc::clone(&service.visitors);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                visitors.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(greet(stream, name));
            }
        });
        Ok(service)
    }

    /// How many connections it has seen.
    pub fn visitors(&self) -> usize {
        self.visitors.load(Ordering::Relaxed)
    }
}

/// Answers a GET with one line; echoes everything else, so that a flow can be held open.
async fn greet(mut stream: TcpStream, name: &str) {
    let mut buffer = [0u8; 4096];
    while let Ok(len) = stream.read(&mut buffer).await {
        let Some(said) = buffer.get(..len).filter(|s| !s.is_empty()) else { return };
        let sent = if said.starts_with(b"GET ") {
            let body = format!("hello from {name}\n");
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await
        } else {
            stream.write_all(said).await
        };
        if sent.is_err() || said.starts_with(b"GET ") {
            return;
        }
    }
}
