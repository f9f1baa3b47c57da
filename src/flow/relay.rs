//! Moves the bytes of one flow, both ways, until both halves are closed or somebody breaks off.
//!
//! One task per flow and no copy: a chunk read from one end is handed to the other as it is. Each way always takes
//! what its source may deliver (see `ReadHalf::undelivered_max`) and gives flow-control credit back only for what
//! the other end took, so a stalled app holds up nobody but itself.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::behaviour;
use super::table::{Count, Cut, Seat};
use super::talk::Talk;
use crate::limits::Slot;
use crate::model::Reason;
use crate::net::{BoxStream, Chunks, EndKind, ReadHalf, StreamError, WriteHalf};
use crate::policy::Permit;

/// How a flow ended.
#[derive(Debug)]
pub enum End {
    /// Both ends closed in order.
    Closed,
    /// One end broke off.
    Reset(StreamError),
    /// This sidecar ended it.
    Cut(Cut),
}

/// The bytes' way there and back.
pub struct Ways {
    up: Way,
    down: Way,
}

impl End {
    /// In the analyser's words. A flow that was idle for long has ended as it should.
    pub(super) fn for_analyser(&self) -> behaviour::End {
        match self {
            Self::Closed => behaviour::End::Fin,
            Self::Cut(cut) if cut.reason == Reason::IdleTimeout => behaviour::End::Fin,
            Self::Cut(cut) if cut.reason == Reason::PolicyWithdrawn => behaviour::End::Policy,
            Self::Reset(_) | Self::Cut(_) => behaviour::End::Reset,
        }
    }
}

impl Ways {
    /// Between the one who asked (`near`) and what was asked for (`far`). The permit is spent.
    pub fn new(_permit: Permit, near: BoxStream, far: BoxStream) -> Self {
        Self { up: Way::new(near.read, far.write), down: Way::new(far.read, near.write) }
    }
}

/// Who hears of the bytes.
pub trait Listener: Sync {
    /// So many bytes went this way. How long that way must wait before the next.
    fn moved(&self, way: behaviour::Way, len: usize) -> Option<Duration>;

    /// A chunk is about to go this way. Whether it may.
    fn may_go(&self, talk: &mut Talk, way: behaviour::Way, chunk: &[u8]) -> bool;
}

/// Relays until the flow ends.
pub async fn relay(ways: &mut Ways, seat: &Seat, slot: &Slot, listener: &dyn Listener) -> End {
    let Ways { up, down } = ways;
    let mut talk = Talk::default();
    let end = {
        let mut cut = std::pin::pin!(seat.until_cut());
        std::future::poll_fn(|cx| {
            if let Poll::Ready(cut) = cut.as_mut().poll(cx) {
                return Poll::Ready(End::Cut(cut));
            }
            let mut ear = Ear { listener, talk: &mut talk, way: behaviour::Way::Out };
            let up_end = up.poll(cx, slot, &seat.moved.up, &mut ear);
            ear.way = behaviour::Way::In;
            let down_end = down.poll(cx, slot, &seat.moved.down, &mut ear);
            match (up_end, down_end) {
                (Poll::Ready(Err(e)), _) | (_, Poll::Ready(Err(e))) => Poll::Ready(End::Reset(e)),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
                _ => Poll::Pending,
            }
        })
        .await
    };
    match end {
        End::Closed => {}
        End::Reset(_) => [up, down].into_iter().for_each(|w| w.write.reset(EndKind::Reset)),
        End::Cut(_) => [up, down].into_iter().for_each(|w| w.write.reset(EndKind::Cut)),
    }
    end
}

/// Hears one direction.
struct Ear<'a> {
    listener: &'a dyn Listener,
    talk: &'a mut Talk,
    way: behaviour::Way,
}

/// One direction.
struct Way {
    read: Box<dyn ReadHalf>,
    write: Box<dyn WriteHalf>,
    chunks: Chunks,
    source: Source,
    finished: bool,
    unflushed: bool,
    /// What was heard ends the flow: nothing goes any more.
    held: bool,
    /// The device's byte rate is spent until then.
    wait: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Source {
    Open,
    Closed,
}

impl Way {
    fn new(read: Box<dyn ReadHalf>, write: Box<dyn WriteHalf>) -> Self {
        Self {
            read,
            write,
            chunks: Chunks::default(),
            source: Source::Open,
            finished: false,
            unflushed: false,
            held: false,
            wait: None,
        }
    }

    /// Moves what can be moved now. Ready when the source closed and everything arrived.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        slot: &Slot,
        moved: &Count,
        ear: &mut Ear<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        let mut rounds = 0;
        loop {
            let read = self.poll_read(cx, ear)?;
            let sent = self.poll_write(cx, slot, moved, ear)?;
            if self.source == Source::Closed && self.chunks.is_empty() {
                return self.poll_finish(cx);
            }
            if !read && !sent {
                break;
            }
            rounds += 1;
            if rounds == ROUNDS_MAX {
                // Others of this worker get their turn.
                cx.waker().wake_by_ref();
                break;
            }
        }
        if self.unflushed && self.write.poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        match self.write.poll_reset(cx) {
            Poll::Ready(e) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Takes what the source has; says whether it took something.
    fn poll_read(&mut self, cx: &mut Context<'_>, ear: &mut Ear<'_>) -> Result<bool, StreamError> {
        let mut took = false;
        while self.source == Source::Open && self.chunks.len() < self.read.undelivered_max() {
            match self.read.poll_chunk(cx)? {
                Poll::Ready(Some(chunk)) => {
                    took = true;
                    if ear.talk.listens(ear.way) {
                        self.held |= !ear.listener.may_go(ear.talk, ear.way, &chunk);
                    }
                    self.chunks.push(chunk);
                    if self.chunks.len() >= BATCH {
                        break;
                    }
                }
                Poll::Ready(None) => self.source = Source::Closed,
                Poll::Pending => break,
            }
        }
        Ok(took)
    }

    /// Passes on what waits, as far as the device's byte rate allows; says whether something went.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slot: &Slot,
        moved: &Count,
        ear: &Ear<'_>,
    ) -> Result<bool, StreamError> {
        if self.chunks.is_empty() || self.held {
            return Ok(false);
        }
        if let Some(wait) = &mut self.wait {
            if wait.as_mut().poll(cx).is_pending() {
                return Ok(false);
            }
            self.wait = None;
        }
        match self.write.poll_send(cx, &mut self.chunks)? {
            Poll::Ready(sent) => {
                self.read.release(sent);
                self.unflushed = true;
                moved.add(sent);
                // Paid for afterwards: what was sent is known only now. The source is still drained meanwhile.
                let slow = ear.listener.moved(ear.way, sent);
                let spent = slot.bytes(sent, Instant::now()).err();
                if let Some(wait) = spent.max(slow) {
                    self.wait = Some(Box::pin(tokio::time::sleep(wait)));
                    cx.waker().wake_by_ref();
                }
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self.write.poll_finish(cx)? {
            Poll::Ready(()) => {
                self.finished = true;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Bytes taken from a source before they are passed on.
const BATCH: usize = 256 * 1024;
/// Rounds of taking and passing on before other flows of this worker get their turn.
const ROUNDS_MAX: u32 = 16;
