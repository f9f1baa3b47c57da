//! Finds out what a local app wants, in the door's language.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::{Mode, Wanted};
use crate::model::{Authority, Reason};
use crate::net::{HeadError, read_head};
use crate::protocols::{self, Parsed, socks5};

/// A request that was read, or that cannot be.
pub(super) struct Asked {
    pub(super) wanted: Wanted,
    /// What the app sent after its request, without waiting for the answer.
    pub(super) early: Bytes,
    pub(super) language: Language,
}

/// In which words the app expects its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Language {
    /// None: bytes flow, or they do not.
    Forward,
    /// SOCKS5 before its methods are agreed.
    Greeting,
    /// SOCKS5 after that.
    Socks5,
    /// HTTP/1.1.
    Connect,
}

/// Reads the app's whole request until `deadline`; `None` when it left before, so that nobody waits for an answer.
pub(super) async fn ask(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mode: &Mode,
    deadline: Instant,
) -> Option<Asked> {
    let mut buffer = BytesMut::new();
    let (language, read) = match mode {
        Mode::Forward(outbound) => {
            let (wanted, early) = (Wanted::Outbound(outbound.clone()), Bytes::new());
            return Some(Asked { wanted, early, language: Language::Forward });
        }
        Mode::Socks5 => socks5(io, &mut buffer, deadline).await,
        Mode::Connect => (Language::Connect, connect(io, &mut buffer, deadline).await),
    };
    let wanted = match read {
        Ok(host) => Wanted::Host(host),
        Err(Unread::Refused(reason)) => Wanted::Nothing(reason),
        Err(Unread::Gone) => return None,
    };
    Some(Asked { wanted, early: buffer.freeze(), language })
}

async fn connect(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    deadline: Instant,
) -> Result<Authority, Unread> {
    let request = read(io, buffer, protocols::HEAD_LEN_MAX, deadline, protocols::parse).await?;
    Ok(request.authority)
}

async fn socks5(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    buffer: &mut BytesMut,
    deadline: Instant,
) -> (Language, Result<Authority, Unread>) {
    if let Err(unread) = read(io, buffer, socks5::GREETING_LEN_MAX, deadline, socks5::greeting).await {
        return (Language::Greeting, Err(unread));
    }
    let answered = timeout_at(deadline, io.write_all(&socks5::GREETING_ACCEPTED)).await;
    if !matches!(answered, Ok(Ok(()))) {
        return (Language::Socks5, Err(Unread::Gone));
    }
    (Language::Socks5, read(io, buffer, socks5::REQUEST_LEN_MAX, deadline, socks5::request).await)
}

/// Reads one message and takes it off the front of `buffer`.
async fn read<T>(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    len_max: usize,
    deadline: Instant,
    parse: impl Fn(&[u8]) -> Parsed<T>,
) -> Result<T, Unread> {
    let judge = |bytes: &[u8]| match parse(bytes) {
        Parsed::Partial => None,
        Parsed::Complete { request, head_len } => Some(Ok((request, head_len))),
        Parsed::Refused(reason) => Some(Err(reason)),
    };
    let (request, head_len) = read_head(io, buffer, len_max, deadline, judge).await??;
    // The parser says at most what it was given.
    let _ = buffer.split_to(head_len.min(buffer.len()));
    Ok(request)
}

enum Unread {
    Refused(Reason),
    Gone,
}

impl From<Reason> for Unread {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

impl From<HeadError> for Unread {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Closed | HeadError::Io(_) => Self::Gone,
            HeadError::TooLarge { .. } => Self::Refused(Reason::RequestTooLarge),
            HeadError::Timeout => Self::Refused(Reason::RequestTimeout),
        }
    }
}
