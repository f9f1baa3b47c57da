//! Reads a socket in large pieces for somebody who asks for small ones: TLS takes a record at a time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A stream that is read ahead. Writes pass through as they are.
pub struct ReadAhead<S> {
    stream: S,
    /// What was read and not yet asked for.
    buffer: BytesMut,
    /// Bytes to ask for next: grows while the socket fills what it is given, falls back when it runs dry.
    ask: usize,
}

impl<S> ReadAhead<S> {
    /// Reads `stream` ahead from now on.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new(), ask: AHEAD_MIN }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.buffer.is_empty() {
            if this.buffer.capacity() < this.ask {
                this.buffer = BytesMut::with_capacity(this.ask);
            }
            let room = this.buffer.capacity();
            let read = std::pin::pin!(this.stream.read_buf(&mut this.buffer)).poll(cx);
            if read.is_pending() {
                // No buffer is held while the socket has nothing: an idle session costs no memory.
                this.buffer = BytesMut::new();
                this.ask = AHEAD_MIN.max(this.ask / 2);
                return Poll::Pending;
            }
            if ready!(read)? == room {
                this.ask = AHEAD_MAX.min(this.ask * 4);
            }
        }
        let len = this.buffer.len().min(out.remaining());
        out.put_slice(this.buffer.get(..len).unwrap_or_default());
        this.buffer.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Bytes read at once: at first, and at most.
const AHEAD_MIN: usize = 4 * 1024;
const AHEAD_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_is_read_ahead_arrives_whole_in_order_and_leaves_no_buffer_behind() {
        let (mut far, near) = tokio::io::duplex(1024 * 1024);
        let mut ahead = ReadAhead::new(near);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        far.write_all(&sent).await.unwrap();
        let (mut seen, mut most) = (Vec::new(), 0);
        while seen.len() < sent.len() {
            let mut piece = [0; 4096];
            let len = ahead.read(&mut piece).await.unwrap();
            seen.extend_from_slice(&piece[..len]);
            most = most.max(ahead.buffer.len());
        }
        assert_eq!(seen, sent);
        assert!((AHEAD_MAX - 4096..=AHEAD_MAX).contains(&most), "grew to {most}");
        let mut piece = [0; 1];
        let idle = std::future::poll_fn(|cx| {
            let mut out = ReadBuf::new(&mut piece);
            Poll::Ready(Pin::new(&mut ahead).poll_read(cx, &mut out).is_pending())
        });
        assert!(idle.await);
        assert_eq!(ahead.buffer.capacity(), 0, "an idle session holds no buffer");
        far.shutdown().await.unwrap();
        assert_eq!(ahead.read(&mut piece).await.unwrap(), 0);
    }
}
