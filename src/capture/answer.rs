//! Answers a local app in the language it asked in.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::ask::Language;
use crate::model::Refusal;
use crate::net::{Answer, BoxFuture, BoxStream, EndKind, StreamError};
use crate::protocols::{http1_refusal, socks5};

/// A TCP or Unix stream.
pub(super) trait Socket: AsyncRead + AsyncWrite + Into<BoxStream> + Send + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Into<BoxStream> + Send + Unpin + 'static> Socket for S {}

/// An app that waits for its answer.
pub(super) struct Caller<S> {
    pub(super) io: S,
    pub(super) early: Bytes,
    pub(super) language: Language,
    /// Kept when the request can only be refused: until that is said, the caller counts as still asking.
    pub(super) only_refusable: Option<OwnedSemaphorePermit>,
}

impl<S: Socket> Answer for Caller<S> {
    fn accept(self: Box<Self>) -> BoxFuture<Result<BoxStream, StreamError>> {
        Box::pin(async move {
            let Self { mut io, early, language, only_refusable } = *self;
            if only_refusable.is_some() {
                return Err(StreamError::Reset);
            }
            say(&mut io, &yes(language)).await?;
            Ok(io.into().with_early(early))
        })
    }

    fn refuse(self: Box<Self>, refusal: Refusal) -> BoxFuture<()> {
        Box::pin(async move {
            let Self { mut io, language, only_refusable, .. } = *self;
            match no(language, &refusal) {
                // Nothing can be said: a reset at least does not look like an orderly end.
                None => io.into().write.reset(EndKind::Cut),
                Some(words) => {
                    // An app that has left already cannot be told; log and audit know.
                    if say(&mut io, &words).await.is_ok() {
                        let _ = timeout(LINGER_TIMEOUT, linger(&mut io)).await;
                    }
                }
            }
            drop(only_refusable);
        })
    }
}

fn yes(language: Language) -> Vec<u8> {
    match language {
        Language::Forward | Language::Greeting => Vec::new(),
        Language::Socks5 => socks5::accepted_reply().into(),
        Language::Connect => b"HTTP/1.1 200 OK\r\n\r\n".into(),
    }
}

fn no(language: Language, refusal: &Refusal) -> Option<Vec<u8>> {
    match language {
        Language::Forward => None,
        Language::Greeting => Some(socks5::GREETING_REFUSED.into()),
        Language::Socks5 => Some(socks5::refusal_reply(refusal.reason).into()),
        Language::Connect => Some(http1_refusal(refusal)),
    }
}

async fn say(io: &mut impl Socket, words: &[u8]) -> io::Result<()> {
    let said = async {
        io.write_all(words).await?;
        io.flush().await
    };
    timeout(SAY_TIMEOUT, said).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Closes our half, then reads until the app closes its own. Closing with bytes unread would send a reset, and the
/// app could lose the answer it was just given (RFC 9112 §9.6).
async fn linger(io: &mut impl Socket) -> io::Result<()> {
    io.shutdown().await?;
    let mut scrap = [0; 1024];
    let mut read = 0;
    while read < LINGER_LEN_MAX {
        match io.read(&mut scrap).await? {
            0 => return Ok(()),
            len => read += len,
        }
    }
    Ok(())
}

/// Longest wait for an app to take its answer; it fits into an empty socket buffer.
const SAY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an app to close after it was refused, and how much it may still send.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
const LINGER_LEN_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DecisionId, Reason, Timestamp};
    use tokio::net::{TcpListener, TcpStream};

    /// No test hangs.
    async fn within<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(10), future).await.unwrap()
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (app, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_refused_app_that_sends_without_end_is_let_go() {
        let (mut app, mut io) = pair().await;
        let sending = tokio::spawn(async move { while app.write_all(&[0; 4096]).await.is_ok() {} });
        // No time-out around it: the number of bytes is what ends it.
        within(linger(&mut io)).await.unwrap();
        drop(io);
        within(sending).await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_app_that_never_closes_is_let_go() {
        let (mut app, io) = pair().await;
        let early = Bytes::new();
        let caller = Caller { io, early, language: Language::Socks5, only_refusable: None };
        let id = DecisionId::new(Timestamp::from_millis(1), [0; 10]);
        within(Box::new(caller).refuse(Refusal::new(id, Reason::PolicyDenied))).await;
        let mut answer = Vec::new();
        within(app.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, socks5::refusal_reply(Reason::PolicyDenied));
    }
}
