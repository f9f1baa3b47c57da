//! The threads that carry flows. Each runs all of the flows it took, so that a chunk changes hands without waking
//! another thread (docs/adr/0009-a-runtime-per-core.md).

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// Running workers; they stop when this is dropped, whatever they are at.
pub struct Workers {
    spread: Spread,
    threads: Vec<JoinHandle<()>>,
    /// Dropped to stop them.
    stop: Option<watch::Sender<()>>,
}

/// Hands work to the workers, one after the other. Cheap to clone; useless once [`Workers`] is dropped.
#[derive(Clone)]
pub struct Spread(Arc<Ring>);

struct Ring {
    handles: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts `count` threads, each with a runtime of its own.
    ///
    /// # Errors
    /// The kernel's, when it gives no thread or no epoll descriptor; none runs then.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(());
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let mut stopped = stopped.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                runtime.block_on(async move { while stopped.changed().await.is_ok() {} });
                // Not waiting for a resolver that does not answer.
                runtime.shutdown_background();
            })?;
            threads.push(thread);
        }
        Ok(Self {
            spread: Spread(Arc::new(Ring { handles, next: AtomicUsize::new(0) })),
            threads,
            stop: Some(stop),
        })
    }

    /// As many as there are cores for this process.
    ///
    /// # Errors
    /// As [`Workers::start`].
    pub fn per_core() -> io::Result<Self> {
        Self::start(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// Hands work to them.
    pub fn spread(&self) -> &Spread {
        &self.spread
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A worker that panicked has nothing more to say: its flows ended with it.
            let _ = thread.join();
        }
    }
}

impl Spread {
    /// Everything on the runtime of `handle`, for tests.
    pub fn on(handle: Handle) -> Self {
        Self(Arc::new(Ring { handles: vec![handle], next: AtomicUsize::new(0) }))
    }

    /// Every worker, so that a door can be served by all of them. At least one.
    pub fn all(&self) -> &[Handle] {
        &self.0.handles
    }

    /// Has the next worker run `work`.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        if let Some(handle) = self.0.handles.get(turn % self.0.handles.len().max(1)) {
            handle.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn work_goes_round_and_ends_with_the_workers() {
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let (tell, told) = channel();
        for _ in 0..4 {
            let tell = tell.clone();
            workers.spread().spawn(async move {
                tell.send(std::thread::current().id()).unwrap();
                std::future::pending().await
            });
        }
        drop(tell);
        let ids: Vec<_> = (0..4).map(|_| told.recv().unwrap()).collect();
        for id in &ids {
            assert_eq!(ids.iter().filter(|other| *other == id).count(), 2);
        }
        drop(workers);
        assert!(told.recv().is_err(), "a task outlived its worker");
    }
}
