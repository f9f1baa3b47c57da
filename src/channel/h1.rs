//! HTTP/1.1 CONNECT on the peers' door, for plain clients with a device certificate (curl, browsers).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::session::{Registered, Session};
use crate::model::{Authority, Reason, Refusal};
use crate::net::{self, Answer, BoxFuture, BoxStream, StreamError};
use crate::protocols;

/// Reads the one request of the connection: its target, or why it is none; and the bytes sent ahead.
pub(super) async fn request(io: &mut TlsStream<TcpStream>) -> (Result<Authority, Reason>, Bytes) {
    let head = net::read_head(io, protocols::HEAD_MAX, |seen| {
        !matches!(protocols::parse_connect(seen), protocols::Parsed::Partial)
    })
    .await;
    let Ok(mut bytes) = head else { return (Err(Reason::RequestMalformed), Bytes::new()) };
    match protocols::parse_connect(&bytes) {
        protocols::Parsed::Complete { request, head_len } => {
            let early = bytes.split_off(head_len.min(bytes.len()));
            (Ok(request.authority), early.freeze())
        }
        protocols::Parsed::Refused(reason) => (Err(reason), Bytes::new()),
        protocols::Parsed::Partial => (Err(Reason::RequestMalformed), Bytes::new()),
    }
}

/// Answers that request.
pub(super) struct H1Answer {
    pub io: TlsStream<TcpStream>,
    pub early: Bytes,
    pub session: Arc<Session>,
    pub registered: Registered,
}

impl Answer for H1Answer {
    fn accept(self: Box<Self>) -> BoxFuture<Result<BoxStream, StreamError>> {
        Box::pin(async move {
            let Self { mut io, early, session, registered } = *self;
            io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            io.flush().await?;
            Ok(net::from_io(io, early).holding((session, registered)))
        })
    }

    fn refuse(self: Box<Self>, refusal: Refusal) -> BoxFuture<()> {
        Box::pin(async move {
            let mut io = BufWriter::new(self.io);
            let said = async {
                io.write_all(&protocols::http1_refusal(&refusal)).await?;
                io.shutdown().await
            };
            // A client that left does not hear it; the audit has it.
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, said).await;
        })
    }
}

/// Longest wait for a plain client to take its refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
