//! Services that stand behind a sidecar.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;

/// A service on a loopback port; it goes when dropped.
pub struct Service {
    pub addr: SocketAddr,
    visitors: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Service {
    /// Serves every connection with `serve`.
    pub async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let visitors = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&visitors);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream));
            }
        });
        Self { addr, visitors, task }
    }

    /// Says everything back; closes when the other end closes.
    pub async fn echo() -> Self {
        Self::start(say_back).await
    }

    /// The same on a Unix socket.
    pub fn echo_on(path: &Path) -> JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(say_back(stream));
            }
        })
    }

    /// Connections so far.
    pub fn visitors(&self) -> usize {
        self.visitors.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn say_back(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
