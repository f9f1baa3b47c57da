//! Pings an h2 connection, so that a dead path is noticed while no app sends.

use std::time::Duration;

use h2::{Ping, PingPong};

/// Pings at every `interval`; ends when an answer is missing for `timeout` or the connection is gone.
pub(super) async fn lost(ping: Option<PingPong>, interval: Duration, timeout: Duration) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        tokio::time::sleep(interval).await;
        match tokio::time::timeout(timeout, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
