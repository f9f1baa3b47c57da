//! The door to the log: a bounded queue in front of one writing thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::aggregate::{Aggregate, Verdict};
use super::chain::Hash;
use super::entry::{Entry, Kind};
use super::writer::{Sealed, Writer, recovered, run};
use super::{OnFull, Settings};
use crate::model::{Reason, Timestamp};

/// An open log. Clones share it; the last one to go stops the writer.
#[derive(Clone)]
pub struct Log(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Puts `entry` into the queue; never waits for the disk.
    ///
    /// Denials that come faster than [`Aggregate::PASSES_PER_SECOND`] per kind are summed, not queued.
    /// With `on_full = "drop-allow"`, entries of flows that were allowed are dropped and counted instead of refused,
    /// and the last eighth of the queue is kept for the others.
    ///
    /// # Errors
    /// [`Refused`] when the entry cannot be recorded: what it is about must not happen.
    pub fn append(&self, entry: Entry) -> Result<(), Refused> {
        self.0.shared.append(entry.cut())
    }

    /// Waits until everything appended so far is on disk under a signed checkpoint. Blocks the calling thread.
    ///
    /// # Errors
    /// [`Refused`] when the log is failing or closed: not everything is durable.
    pub fn flush(&self) -> Result<(), Refused> {
        self.0.shared.flush()
    }

    /// Writes what is queued, signs the last checkpoint and stops the writer. Blocks the calling thread.
    ///
    /// Gives the last checkpoint: kept elsewhere, it shows a log that was rolled back.
    ///
    /// # Errors
    /// [`Refused`] when not everything could be written.
    pub fn close(&self) -> Result<String, Refused> {
        self.0.stop();
        let state = self.0.shared.lock();
        match state.failing {
            None if state.queue.is_empty() && state.durable == state.pushed => {
                tracing::info!(size = state.size, checkpoint = %state.checkpoint, "audit log closed");
                Ok(state.checkpoint.clone())
            }
            _ => Err(Refused::Failing),
        }
    }

    /// How the log is.
    pub fn status(&self) -> Status {
        let state = self.0.shared.lock();
        Status {
            size: state.size,
            root: state.root,
            checkpoint_at: state.checkpoint_at,
            queued: state.queue.len(),
            refused: state.refused,
            dropped: state.dropped,
            failing: state.failing.clone(),
        }
    }

    /// The latest signed checkpoint (C2SP tlog-checkpoint), to be kept elsewhere.
    pub fn checkpoint(&self) -> String {
        self.0.shared.lock().checkpoint.clone()
    }

    /// Starts the writer. `retry`: how long a failing disk is left alone.
    pub(super) fn start(
        writer: Writer,
        settings: &Settings,
        sealed: Sealed,
        now: Timestamp,
        retry: Duration,
    ) -> std::io::Result<Self> {
        let state = State {
            aggregate: Aggregate::new(Aggregate::PASSES_PER_SECOND, Aggregate::KEYS_MAX),
            queue: VecDeque::new(),
            oldest: None,
            urgent: false,
            ticked: Instant::now(),
            pushed: 0,
            durable: 0,
            refused: 0,
            dropped: 0,
            reported: (0, 0),
            failing: None,
            closing: false,
            stopped: false,
            size: sealed.size,
            root: sealed.root,
            checkpoint: sealed.checkpoint,
            checkpoint_at: now,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Condvar::new(),
            done: Condvar::new(),
            on_full: settings.on_full,
            queue_max: settings.queue_max,
            commit_interval: settings.commit_interval,
        });
        let theirs = Stopped(Arc::clone(&shared));
        let thread =
            std::thread::Builder::new().name("audit".into()).spawn(move || run(&theirs.0, writer, retry))?;
        Ok(Self(Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) })))
    }
}

impl Handle {
    fn stop(&self) {
        self.shared.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A writer that panicked has marked the log stopped; there is nothing more to say here.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How the log is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// Entries under the latest checkpoint.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// When it was signed.
    pub checkpoint_at: Timestamp,
    /// Entries waiting for the writer.
    pub queued: usize,
    /// Entries refused since the start.
    pub refused: u64,
    /// Entries dropped since the start (`on_full = "drop-allow"`).
    pub dropped: u64,
    /// Why the log cannot be written now.
    pub failing: Option<String>,
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The log is closed, or its writer died.
    #[error("the audit log is closed")]
    Closed,
    /// The disk fails or is full.
    #[error("the audit log cannot be written")]
    Failing,
    /// The queue is full.
    #[error("the queue of the audit log is full")]
    Full,
}

impl From<Refused> for Reason {
    fn from(_: Refused) -> Self {
        Self::AuditUnavailable
    }
}

/// What the door and the writer share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// For the writer: there is something to do.
    wake: Condvar,
    /// For those who flush: something became durable, or will not.
    done: Condvar,
    on_full: OnFull,
    queue_max: usize,
    commit_interval: Duration,
}

struct State {
    aggregate: Aggregate,
    queue: VecDeque<Entry>,
    /// When the first in the queue came.
    oldest: Option<Instant>,
    /// Something in the queue should not wait for its group.
    urgent: bool,
    ticked: Instant,
    /// Entries that were ever queued, and those of them that are durable.
    pushed: u64,
    durable: u64,
    refused: u64,
    dropped: u64,
    /// `refused` and `dropped` as the log has last told.
    reported: (u64, u64),
    failing: Option<String>,
    closing: bool,
    stopped: bool,
    size: u64,
    root: Hash,
    checkpoint: String,
    checkpoint_at: Timestamp,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, entry: Entry) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closing || state.stopped {
            state.refused += 1;
            return Err(Refused::Closed);
        }
        let droppable = self.on_full == OnFull::DropAllow && entry.kind.is_droppable();
        if state.failing.is_some() && (droppable || self.on_full == OnFull::Block) {
            return state.turn_away(droppable, Refused::Failing);
        }
        if entry.kind == Kind::Deny && state.aggregate.offer(&entry) == Verdict::Summed {
            return Ok(());
        }
        let kept = if droppable { self.queue_max / DENIALS_SHARE } else { 0 };
        if state.queue.len() >= self.queue_max - kept {
            return state.turn_away(droppable, Refused::Full);
        }
        let urgent = entry.kind.is_urgent();
        let wakes = state.queue.is_empty() || state.queue.len() == GROUP_ENTRIES || (urgent && !state.urgent);
        state.push(entry);
        state.urgent |= urgent;
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Refused> {
        let mut state = self.lock();
        state.push_sums();
        state.urgent = true;
        self.wake.notify_one();
        let target = state.pushed;
        while state.durable < target {
            if state.failing.is_some() {
                return Err(Refused::Failing);
            }
            if state.stopped {
                return Err(Refused::Closed);
            }
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failing.is_some() { Err(Refused::Failing) } else { Ok(()) }
    }

    fn close(&self) {
        let mut state = self.lock();
        if !state.closing {
            state.push_sums();
            state.closing = true;
        }
        self.wake.notify_one();
    }

    /// Waits for a group to be due, at most a second, and takes all of it in exchange for an empty queue.
    ///
    /// Says whether the log is being closed.
    pub(super) fn take(&self, entries: &mut VecDeque<Entry>) -> bool {
        let mut state = self.lock();
        loop {
            let ticking = state.ticked.elapsed();
            if ticking >= TICK || state.closing {
                state.tick();
            }
            let waited = state.oldest.map(|oldest| oldest.elapsed());
            let due = state.closing
                || (state.urgent && !state.queue.is_empty())
                || state.queue.len() > GROUP_ENTRIES
                || waited.is_some_and(|w| w >= self.commit_interval);
            if due {
                break;
            }
            if ticking >= TICK {
                // Nothing is due, but the writer looks at its disk.
                return false;
            }
            let group_left = waited.map_or(TICK, |w| self.commit_interval.saturating_sub(w));
            let left = group_left.min(TICK.saturating_sub(ticking));
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        // An exchange, since those who append wait for this lock meanwhile.
        std::mem::swap(&mut state.queue, entries);
        state.oldest = None;
        state.urgent = false;
        state.closing
    }

    /// Leaves a failing disk alone for `retry`; says whether the log is being closed.
    pub(super) fn wait_to_retry(&self, retry: Duration) -> bool {
        let (state, _) = self
            .wake
            .wait_timeout_while(self.lock(), retry, |state| !state.closing)
            .unwrap_or_else(PoisonError::into_inner);
        state.closing
    }

    /// `durable` more entries are on disk; `sealed` is the checkpoint over them, if there was something to sign.
    pub(super) fn succeeded(&self, durable: u64, sealed: Option<Sealed>, failed_for: Option<Duration>) {
        let mut state = self.lock();
        state.durable += durable;
        if let Some(sealed) = sealed {
            state.size = sealed.size;
            state.root = sealed.root;
            state.checkpoint = sealed.checkpoint;
            state.checkpoint_at = Timestamp::now();
        }
        if let (Some(time), Some(why)) = (failed_for, state.failing.take()) {
            tracing::warn!(%why, "the audit log can be written again");
            state.report(Some((time, &why)));
        }
        self.done.notify_all();
    }

    /// Nothing can be written, and why.
    pub(super) fn failed(&self, why: String) {
        let mut state = self.lock();
        if state.failing.is_none() {
            tracing::error!(%why, "the audit log cannot be written");
        }
        state.failing = Some(why);
        self.done.notify_all();
    }

    /// Whether nothing waits for the writer.
    pub(super) fn is_drained(&self) -> bool {
        self.lock().queue.is_empty()
    }
}

impl State {
    fn push(&mut self, entry: Entry) {
        self.oldest.get_or_insert_with(Instant::now);
        self.queue.push_back(entry);
        self.pushed += 1;
    }

    /// Queues the sums; they are at most as many as the aggregate tells kinds apart, so the queue stays bounded.
    fn push_sums(&mut self) {
        for sum in self.aggregate.drain_all() {
            self.push(sum);
        }
    }

    /// Once a second: the sums of the seconds past, and what a full queue has lost.
    fn tick(&mut self) {
        self.ticked = Instant::now();
        for sum in self.aggregate.drain(Timestamp::now()) {
            self.push(sum);
        }
        if self.reported != (self.refused, self.dropped) && self.failing.is_none() && !self.closing {
            self.report(None);
        }
    }

    fn report(&mut self, failing: Option<(Duration, &str)>) {
        let (refused, dropped) = (self.refused - self.reported.0, self.dropped - self.reported.1);
        self.reported = (self.refused, self.dropped);
        self.push(recovered(refused, dropped, failing));
        self.urgent = true;
    }

    fn turn_away(&mut self, droppable: bool, why: Refused) -> Result<(), Refused> {
        if droppable {
            self.dropped += 1;
            Ok(())
        } else {
            self.refused += 1;
            Err(why)
        }
    }
}

/// Marks the log stopped when the writer is gone, also when it panicked: nobody may believe it still records.
struct Stopped(Arc<Shared>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.done.notify_all();
    }
}

/// Entries after which a group is written before its time: some 256 KiB.
const GROUP_ENTRIES: usize = 512;
/// One in this many places of the queue is kept for denials (`on_full = "drop-allow"`).
const DENIALS_SHARE: usize = 8;
/// How often sums are written and the disk is looked at.
const TICK: Duration = Duration::from_secs(1);

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
