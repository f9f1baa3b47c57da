//! Asks a running sidecar through its admin socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::HOST;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;

/// Largest answer in bytes.
pub const ANSWER_LEN_MAX: usize = 16 * 1024 * 1024;
/// Longest wait for the whole answer.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Why a sidecar gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens at the socket, or this user may not.
    #[error("admin socket `{}`: {error}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The kernel's word.
        error: io::Error,
    },
    /// The answer is no HTTP, breaks off, or is longer than [`ANSWER_LEN_MAX`].
    #[error("admin socket `{}`: the answer is broken or too long: {detail}", socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The path is none.
    #[error("`{path}` is no path of the admin API")]
    Path {
        /// What was asked for.
        path: String,
    },
    /// No whole answer within [`TIMEOUT`].
    #[error("admin socket `{}`: no answer in time", socket.display())]
    Timeout {
        /// The socket.
        socket: PathBuf,
    },
}

/// Sends one request to the sidecar at `socket`; gives the HTTP status and the body.
///
/// # Errors
/// [`ClientError`] when no whole answer came. A refusal is an answer.
pub async fn ask(socket: &Path, method: Method, path: &str) -> Result<(u16, String), ClientError> {
    tokio::time::timeout(TIMEOUT, exchange(socket, method, path))
        .await
        .map_err(|_| ClientError::Timeout { socket: socket.to_owned() })?
}

async fn exchange(socket: &Path, method: Method, path: &str) -> Result<(u16, String), ClientError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|_| ClientError::Path { path: path.to_owned() })?;
    let stream = crate::net::connect_unix(socket, TIMEOUT)
        .await
        .map_err(|error| ClientError::Connect { socket: socket.to_owned(), error })?;
    let broken = |detail: String| ClientError::Answer { socket: socket.to_owned(), detail };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken(e.to_string()))?;
    let whole = async {
        let response = sender.send_request(request).await.map_err(|e| broken(e.to_string()))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
        let body = body.map_err(|e| broken(e.to_string()))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(whole);
    tokio::select! {
        answer = &mut whole => answer,
        // The connection ends when the server has sent all of it: the answer is there by then, or never.
        _ = connection => whole.await,
    }
}
