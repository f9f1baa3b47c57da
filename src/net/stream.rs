//! The boxed stream a flow carries: chunks in, chunks out, half-close and reset kept apart.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::model::Refusal;

/// Both directions of one flow's end.
pub struct BoxStream {
    /// What the other end sends us.
    pub read: Box<dyn ReadHalf>,
    /// What we send the other end.
    pub write: Box<dyn WriteHalf>,
}

impl BoxStream {
    /// Keeps `hold` alive as long as the receiving half: a session, a place in a pool.
    #[must_use]
    pub fn holding(self, hold: impl Send + 'static) -> Self {
        Self { read: Box::new(Holding { read: self.read, _hold: hold }), write: self.write }
    }

    /// With bytes that were read ahead of the stream (while its request was read) put back in front.
    #[must_use]
    pub fn with_early(self, early: Bytes) -> Self {
        if early.is_empty() {
            return self;
        }
        let unreleased = early.len();
        Self { read: Box::new(EarlyRead { early, unreleased, then: self.read }), write: self.write }
    }
}

struct Holding<H> {
    read: Box<dyn ReadHalf>,
    _hold: H,
}

impl<H: Send> ReadHalf for Holding<H> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        self.read.poll_chunk(cx)
    }

    fn release(&mut self, len: usize) {
        self.read.release(len);
    }

    fn undelivered_max(&self) -> usize {
        self.read.undelivered_max()
    }
}

/// The receiving half.
pub trait ReadHalf: Send {
    /// The next chunk, never empty; `None` when the other end closed its half in order.
    ///
    /// # Errors
    /// [`StreamError`] when the stream was reset or broke.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>>;

    /// Says that `len` bytes have been passed on for good, so that the sender may send as many again.
    fn release(&mut self, len: usize);

    /// How many bytes may wait undelivered before this half should not be asked for more.
    ///
    /// A half that is bounded by flow control (h2) says `usize::MAX`: it must always be drained, see
    /// `docs/adr/0003-always-drain.md`.
    fn undelivered_max(&self) -> usize;
}

/// The sending half.
pub trait WriteHalf: Send {
    /// Takes as much from the front of `chunks` as goes out now; returns how many bytes that was, at least one.
    ///
    /// # Errors
    /// [`StreamError`] when the stream was reset or broke.
    fn poll_send(&mut self, cx: &mut Context<'_>, chunks: &mut Chunks) -> Poll<Result<usize, StreamError>>;

    /// Pushes out what is buffered below.
    ///
    /// # Errors
    /// [`StreamError`] when the stream was reset or broke.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>>;

    /// Closes this half in order, after everything sent (TCP FIN, h2 END_STREAM).
    ///
    /// # Errors
    /// [`StreamError`] when the stream was reset or broke.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>>;

    /// Breaks the stream off so that the other end sees a reset, not an orderly end.
    fn reset(&mut self, kind: EndKind);

    /// Ready when the other end reset the stream while nothing is being sent; pending for ever where
    /// the read half tells it already.
    fn poll_reset(&mut self, _cx: &mut Context<'_>) -> Poll<StreamError> {
        Poll::Pending
    }
}

/// Why a stream is broken off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndKind {
    /// The far side broke off: pass the reset on (RFC 9113 §8.5 CONNECT_ERROR).
    Reset,
    /// This sidecar ends the flow: policy, revocation, limits, drain (CANCEL).
    Cut,
}

/// Why a stream gives nothing more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The socket broke.
    #[error("socket: {0}")]
    Io(#[source] io::Error),
    /// The other end reset the stream.
    #[error("reset by the other end")]
    Reset,
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset,
            _ => Self::Io(error),
        }
    }
}

/// A queue of chunks that knows its length in bytes. Bounded by whoever fills it.
///
/// Its memory is bounded by its bytes, too: where many chunks wait already, small ones are copied together. Otherwise a
/// peer that sends each byte in a frame of its own, to an app that reads nothing, would have us hold a chunk per byte.
#[derive(Debug, Default)]
pub struct Chunks {
    queue: VecDeque<Bytes>,
    /// Small chunks at the end, copied together; only while the queue is not empty. Boxed: mostly there is none.
    tail: Option<Box<BytesMut>>,
    len: usize,
}

impl Chunks {
    /// Appends a chunk.
    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        self.len += chunk.len();
        if self.queue.len() < SLICES_MAX || chunk.len() > SMALL_MAX {
            self.close_tail();
            self.queue.push_back(chunk);
            return;
        }
        let tail = self.tail.get_or_insert_default();
        tail.extend_from_slice(&chunk);
        if tail.len() >= TAIL_MAX {
            self.close_tail();
        }
    }

    /// Makes a chunk of what was copied together.
    fn close_tail(&mut self) {
        if let Some(tail) = self.tail.take() {
            self.queue.push_back(tail.freeze());
        }
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first chunk.
    pub fn front(&self) -> Option<&Bytes> {
        self.queue.front()
    }

    /// The chunks from the front, to be written with one call; fills `slices` and says how many are set.
    pub fn io_slices<'a>(&'a self, slices: &mut [io::IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slot, chunk) in slices.iter_mut().zip(&self.queue) {
            *slot = io::IoSlice::new(chunk);
            count += 1;
        }
        count
    }

    /// Drops `len` bytes from the front.
    pub fn advance(&mut self, mut len: usize) {
        self.len = self.len.saturating_sub(len);
        while let Some(front) = self.queue.front_mut() {
            if len < front.len() {
                front.advance(len);
                break;
            }
            len -= front.len();
            self.pop_front();
        }
        if self.queue.is_empty() && self.queue.capacity() > CHUNKS_KEPT_MAX {
            self.queue = VecDeque::new();
        }
    }

    /// Takes up to `max` bytes of the first chunk.
    pub fn take_front(&mut self, max: usize) -> Option<Bytes> {
        let front = self.queue.front_mut()?;
        let chunk = front.split_to(max.min(front.len()));
        self.len = self.len.saturating_sub(chunk.len());
        if front.is_empty() {
            self.pop_front();
        }
        Some(chunk)
    }

    fn pop_front(&mut self) {
        self.queue.pop_front();
        if self.queue.is_empty() {
            self.close_tail();
        }
    }
}

/// Asks the door that took a flow to let it in or to turn it away, in the door's own language.
pub trait Answer: Send {
    /// Says yes (HTTP 200, SOCKS5 reply 0) and hands out the stream.
    fn accept(self: Box<Self>) -> BoxFuture<Result<BoxStream, StreamError>>;

    /// Says no with the refusal's reason, as far as the door's protocol can tell it, and closes.
    fn refuse(self: Box<Self>, refusal: Refusal) -> BoxFuture<()>;
}

/// A boxed future that owns what it needs.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct EarlyRead {
    early: Bytes,
    /// Early bytes not yet released: the half below never counted them and must not hear of them.
    unreleased: usize,
    then: Box<dyn ReadHalf>,
}

impl ReadHalf for EarlyRead {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        match self.early.is_empty() {
            true => self.then.poll_chunk(cx),
            false => Poll::Ready(Ok(Some(std::mem::take(&mut self.early)))),
        }
    }

    fn release(&mut self, len: usize) {
        let early = len.min(self.unreleased);
        self.unreleased -= early;
        if len > early {
            self.then.release(len - early);
        }
    }

    fn undelivered_max(&self) -> usize {
        self.then.undelivered_max()
    }
}

/// Makes a stream of anything that reads and writes; `early` is what was already read ahead of it.
///
/// The halves share a lock, so this is for the plain-client doors, not for the hot path.
pub fn from_io<S>(io: S, early: Bytes) -> BoxStream
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    BoxStream {
        read: Box::new(IoRead { io: read, early, buffer: BytesMut::new() }),
        write: Box::new(IoWrite { io: write }),
    }
}

struct IoRead<R> {
    io: R,
    early: Bytes,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin + Send> ReadHalf for IoRead<R> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        if !self.early.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.early))));
        }
        self.buffer.resize(IO_CHUNK, 0);
        let mut buf = ReadBuf::new(&mut self.buffer);
        let end = Pin::new(&mut self.io).poll_read(cx, &mut buf);
        let filled = buf.filled().len();
        match end {
            Poll::Pending => {
                self.buffer = BytesMut::new();
                Poll::Pending
            }
            // A peer that closes TCP without close_notify after its protocol ended is ordinary (libcurl does).
            Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(None)),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e.into())),
            Poll::Ready(Ok(())) if filled == 0 => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Some(self.buffer.split_to(filled).freeze()))),
        }
    }

    fn release(&mut self, _len: usize) {}

    fn undelivered_max(&self) -> usize {
        IO_CHUNK
    }
}

struct IoWrite<W> {
    io: W,
}

impl<W: AsyncWrite + Unpin + Send> WriteHalf for IoWrite<W> {
    fn poll_send(&mut self, cx: &mut Context<'_>, chunks: &mut Chunks) -> Poll<Result<usize, StreamError>> {
        let mut slices = [io::IoSlice::new(&[]); SLICES_MAX];
        let count = chunks.io_slices(&mut slices);
        let Some(slices) = slices.get(..count) else { return Poll::Ready(Ok(0)) };
        let sent = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        if sent == 0 {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
        }
        chunks.advance(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Pin::new(&mut self.io).poll_flush(cx).map_err(StreamError::from)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Pin::new(&mut self.io).poll_shutdown(cx).map_err(StreamError::from)
    }

    // Dropping a TLS stream without close_notify is how a cut shows to the other end.
    fn reset(&mut self, _kind: EndKind) {}
}

/// Chunk queues that grew past this many slots give their memory back when empty.
const CHUNKS_KEPT_MAX: usize = 32;
/// Chunks up to this are copied together where [`SLICES_MAX`] or more wait already.
const SMALL_MAX: usize = 512;
/// What is copied together becomes a chunk at this length.
const TAIL_MAX: usize = 16 * 1024;
/// Bytes asked of a plain stream at once.
const IO_CHUNK: usize = 64 * 1024;
/// Chunks handed to one vectored write.
pub(super) const SLICES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Ends at once and counts what is released.
    struct Ended(Arc<AtomicUsize>);

    impl ReadHalf for Ended {
        fn poll_chunk(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
            Poll::Ready(Ok(None))
        }
        fn release(&mut self, len: usize) {
            self.0.fetch_add(len, Ordering::Relaxed);
        }
        fn undelivered_max(&self) -> usize {
            7
        }
    }

    #[tokio::test]
    async fn early_bytes_come_first_and_are_not_released_below() {
        let released = Arc::new(AtomicUsize::new(0));
        let plain = from_io(tokio::io::duplex(1).0, Bytes::new());
        let stream = BoxStream { read: Box::new(Ended(released.clone())), write: plain.write };
        let mut read = stream.with_early(Bytes::from_static(b"early")).read;
        let chunk = std::future::poll_fn(|cx| read.poll_chunk(cx)).await.unwrap();
        assert_eq!(chunk.as_deref(), Some(&b"early"[..]));
        assert!(matches!(std::future::poll_fn(|cx| read.poll_chunk(cx)).await, Ok(None)));
        for (len, below) in [(3, 0), (3, 1), (4, 5)] {
            read.release(len);
            assert_eq!(released.load(Ordering::Relaxed), below);
        }
        assert_eq!(read.undelivered_max(), 7);
    }

    #[test]
    fn a_million_chunks_of_one_byte_cost_no_more_than_their_bytes() {
        let mut chunks = Chunks::default();
        for n in 0..1_000_000_u32 {
            chunks.push(Bytes::copy_from_slice(&n.to_be_bytes()[3..]));
        }
        assert_eq!(chunks.len(), 1_000_000);
        assert!(chunks.queue.len() <= SLICES_MAX + 1_000_000 / TAIL_MAX, "{} chunks", chunks.queue.len());
        for n in 0..1_000_000_u32 {
            assert_eq!(chunks.take_front(1).unwrap()[0], n.to_be_bytes()[3]);
        }
        assert!(chunks.is_empty() && chunks.tail.is_none() && chunks.queue.is_empty());
    }

    proptest::proptest! {
        /// Whatever is pushed and taken: the same bytes as one long text, in order.
        #[test]
        fn chunks_are_one_text(steps in proptest::collection::vec((0..4_u8, 0..1500_usize), 0..200)) {
            let (mut chunks, mut text, mut next) = (Chunks::default(), VecDeque::new(), 0_u8);
            for (kind, size) in steps {
                match kind {
                    0 => {
                        let len = size.min(chunks.len());
                        chunks.advance(len);
                        text.drain(..len);
                    }
                    1 => {
                        let taken = chunks.take_front(size.max(1)).unwrap_or_default();
                        let expected: Vec<u8> = text.drain(..taken.len()).collect();
                        assert_eq!(taken, expected);
                    }
                    _ => {
                        // Mostly small ones.
                        let count = if kind == 2 { 40 } else { 1 };
                        let len = if kind == 2 { size % 9 } else { size };
                        for _ in 0..count {
                            let chunk: Vec<u8> = (0..len).map(|i| next.wrapping_add(i as u8)).collect();
                            next = next.wrapping_add(7);
                            text.extend(&chunk);
                            chunks.push(chunk.into());
                        }
                    }
                }
                assert_eq!(chunks.len(), text.len());
                assert_eq!(chunks.is_empty(), chunks.front().is_none());
                let mut slices = [io::IoSlice::new(&[]); SLICES_MAX];
                let count = chunks.io_slices(&mut slices);
                let seen: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
                assert!(text.iter().zip(&seen).all(|(a, b)| a == b) && (seen.len() == text.len() || !seen.is_empty()));
            }
        }
    }

    #[test]
    fn chunks_count_their_bytes_and_give_them_back_in_order() {
        let mut chunks = Chunks::default();
        chunks.push(Bytes::from_static(b"abc"));
        chunks.push(Bytes::new());
        chunks.push(Bytes::from_static(b"defg"));
        assert_eq!(chunks.len(), 7);
        chunks.advance(4);
        assert_eq!(chunks.front().unwrap().as_ref(), b"efg");
        assert_eq!(chunks.take_front(2).unwrap().as_ref(), b"ef");
        assert_eq!(chunks.len(), 1);
        chunks.advance(1);
        assert!(chunks.is_empty() && chunks.front().is_none());
    }
}
