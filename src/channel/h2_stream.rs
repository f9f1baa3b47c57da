//! The halves of one h2 stream, as a flow carries them, and the settings every h2 connection of ours gets.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use crate::net::{BoxStream, Chunks, EndKind, ReadHalf, StreamError, WriteHalf};

/// Makes a flow's stream of an accepted h2 stream.
pub(super) fn stream(send: SendStream<Bytes>, recv: RecvStream, hold: impl Send + 'static) -> BoxStream {
    BoxStream {
        read: Box::new(H2Read { recv, done: false, _hold: hold }),
        write: Box::new(H2Write { send, finished: false }),
    }
}

struct H2Read<H> {
    recv: RecvStream,
    done: bool,
    /// Whatever must live as long as the stream: the session, the pool's place.
    _hold: H,
}

impl<H: Send> ReadHalf for H2Read<H> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        while !self.done {
            match ready!(self.recv.poll_data(cx)) {
                // An empty DATA frame carries nothing; credit was not spent on it.
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => return Poll::Ready(Ok(Some(chunk))),
                Some(Err(e)) => return Poll::Ready(Err(stream_error(e))),
                None => self.done = true,
            }
        }
        Poll::Ready(Ok(None))
    }

    fn release(&mut self, len: usize) {
        // Fails only for more than was received, which the pump never releases.
        let _ = self.recv.flow_control().release_capacity(len);
    }

    // Frames must always be taken off the connection, or one stalled app would end every flow of this peer: small
    // unread DATA frames count against a budget of the whole connection (docs/adr/0003-always-drain.md).
    fn undelivered_max(&self) -> usize {
        usize::MAX
    }
}

struct H2Write {
    send: SendStream<Bytes>,
    finished: bool,
}

impl WriteHalf for H2Write {
    fn poll_send(&mut self, cx: &mut Context<'_>, chunks: &mut Chunks) -> Poll<Result<usize, StreamError>> {
        let mut sent = 0;
        while !chunks.is_empty() {
            let room = self.send.capacity();
            if room > 0 {
                let Some(chunk) = chunks.take_front(room) else { break };
                sent += chunk.len();
                self.send.send_data(chunk, false).map_err(stream_error)?;
                continue;
            }
            self.send.reserve_capacity(chunks.len());
            match self.send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(stream_error(e))),
                Poll::Ready(None) => return Poll::Ready(Err(StreamError::Reset)),
                Poll::Pending => break,
            }
        }
        if sent > 0 { Poll::Ready(Ok(sent)) } else { Poll::Pending }
    }

    // The connection's own task writes out.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if !self.finished {
            self.finished = true;
            self.send.send_data(Bytes::new(), true).map_err(stream_error)?;
        }
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, kind: EndKind) {
        self.finished = true;
        self.send.send_reset(match kind {
            EndKind::Reset => h2::Reason::CONNECT_ERROR,
            EndKind::Cut => h2::Reason::CANCEL,
        });
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(_) => Poll::Ready(StreamError::Reset),
            Err(e) => Poll::Ready(stream_error(e)),
        }
    }
}

fn stream_error(error: h2::Error) -> StreamError {
    if error.is_reset() || error.is_go_away() {
        return StreamError::Reset;
    }
    match error.into_io() {
        Some(io) => io.into(),
        None => StreamError::Reset,
    }
}

/// Bytes one stream may have under way. Bounds what one stalled flow can hold of our memory.
pub(super) const STREAM_WINDOW: u32 = 1024 * 1024;
/// Bytes one connection may have under way: 64 streams' worth, so that this many stalled apps hold up no other flow.
/// Equal windows can lock each other up.
pub(super) const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;
/// Largest DATA frame we take.
pub(super) const FRAME_MAX: u32 = 64 * 1024;
/// Bytes of records that may wait for one socket: a whole DATA frame goes out by one system call.
pub(super) const TLS_BUFFER: usize = FRAME_MAX as usize + 16 * 1024;
/// Largest header list we take.
pub(super) const HEADERS_MAX: u32 = 16 * 1024;
/// Bytes one stream may have buffered towards the socket.
pub(super) const SEND_BUFFER: usize = 512 * 1024;
/// Streams reset by the peer or by us and not yet forgotten (rapid reset, CVE-2023-44487).
pub(super) const RESET_STREAMS_MAX: usize = 128;
/// How long a reset stream is remembered, so that late frames on it are ignored.
pub(super) const RESET_MEMORY: Duration = Duration::from_secs(5);
/// Local errors a peer may provoke before it is told to go away.
pub(super) const LOCAL_RESETS_MAX: usize = 1024;
/// Small DATA frames that may stand unread; past it the connection is given up. The pump drains always, but all frames
/// of one burst come before it gets its turn: as many as fit into the connection's credit at 64 bytes each.
const SMALL_FRAMES_MAX: usize = 64 * 1024;
/// The same as h2 counts it: in bytes, what each frame lacks to 256.
pub(super) const SMALL_FRAMES_BUDGET: usize = SMALL_FRAMES_MAX * 256;
