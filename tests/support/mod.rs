//! What every story stands on: a CA and devices in a temporary folder, real sidecars, services and clients.

mod client;
mod enrolled;
mod evidence;
mod foreign;
mod joined;
mod service;
mod sidecar;

pub use client::{Client, Credentials, H2Client};
pub use enrolled::{enrol, enrol_as, machine, on_machine};
pub use evidence::{Key, claims};
pub use foreign::{Foreign, echo_apart, envoy, haproxy_told, nginx, nginx_told, postgres};
pub use joined::Fleet;
pub use service::Service;
pub use sidecar::{Sidecar, Yard, binary, free_addr};

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest wait for anything that should come at once, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// No test hangs.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Looks every few milliseconds until `look` sees something.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a word to an echo service and has it back.
pub async fn echo(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    assert!(echoes(stream).await, "the flow does not answer");
}

/// Whether the flow still carries a word there and back.
pub async fn echoes(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> bool {
    let round = async {
        stream.write_all(b"alive").await?;
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.map(|_| heard)
    };
    matches!(tokio::time::timeout(PATIENCE, round).await, Ok(Ok(heard)) if &heard == b"alive")
}

/// How a flow on which nothing comes any more ended: `None` in order, else the kind of its break.
pub async fn ending(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<std::io::ErrorKind> {
    let mut rest = Vec::new();
    within("the flow's end", stream.read_to_end(&mut rest)).await.err().map(|e| e.kind())
}
