//! HTTP/1.1 CONNECT on the peers' door, for plain clients with a device certificate (curl, browsers).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::session::{Registered, Session};
use crate::model::{Authority, Reason, Refusal};
use crate::net::{self, Answer, BoxFuture, BoxStream, HeadError, ReadAhead, StreamError};
use crate::protocols::{self, Parsed};

/// Reads the one request of the connection: its target, or why it is none; and the bytes sent ahead.
pub(super) async fn request(
    io: &mut TlsStream<ReadAhead<TcpStream>>,
    deadline: Instant,
) -> (Result<Authority, Reason>, Bytes) {
    let mut buffer = BytesMut::new();
    let judge = |seen: &[u8]| match protocols::parse(seen) {
        Parsed::Partial => None,
        Parsed::Complete { request, head_len } => Some(Ok((request.authority, head_len))),
        Parsed::Refused(reason) => Some(Err(reason)),
    };
    match net::read_head(io, &mut buffer, protocols::HEAD_LEN_MAX, deadline, judge).await {
        Ok(Ok((authority, head_len))) => {
            let early = buffer.split_off(head_len.min(buffer.len()));
            (Ok(authority), early.freeze())
        }
        Ok(Err(reason)) => (Err(reason), Bytes::new()),
        Err(HeadError::TooLarge { .. }) => (Err(Reason::RequestTooLarge), Bytes::new()),
        Err(HeadError::Timeout) => (Err(Reason::RequestTimeout), Bytes::new()),
        Err(_) => (Err(Reason::RequestMalformed), Bytes::new()),
    }
}

/// Answers that request.
pub(super) struct H1Answer {
    pub io: TlsStream<ReadAhead<TcpStream>>,
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
