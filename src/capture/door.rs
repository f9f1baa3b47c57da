//! A local door: binding it, and the loop that takes connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::{Caller, Socket};
use super::ask::ask;
use super::{Arrival, Door, Listen, Mode, Wanted};
use crate::model::Reason;
use crate::net::{Accepted, Listener, SocketOptions};

/// Where arrivals go. Called on the connection's task: it hands on and returns, it does not wait.
pub type Take = Arc<dyn Fn(Arrival) + Send + Sync>;

/// Asked for every connection before a byte is read; `None` for a Unix socket.
pub type Knock = Arc<dyn Fn(Option<IpAddr>) -> Result<(), Reason> + Send + Sync>;

/// A door that is bound and not yet served: connections queue in the kernel.
pub struct OpenDoor {
    listener: Listener,
    mode: Mode,
    request_timeout: Duration,
    requests_max: usize,
    turned_away: TurnedAway,
}

/// Counts connections that a door closed without an answer: refused by the knock, or past [`REQUESTS_MAX`].
#[derive(Clone, Debug, Default)]
pub struct TurnedAway(Arc<AtomicU64>);

/// Most connections of one door that have not yet said what they want, or are being told that it cannot be.
pub const REQUESTS_MAX: usize = 1024;

/// Binds a door. Needs a running tokio runtime, as sockets do.
///
/// # Errors
/// [`OpenError`] names the address; nothing is left behind.
pub fn open(door: &Door) -> Result<OpenDoor, OpenError> {
    let (listener, at) = match &door.listen {
        Listen::Tcp(addr) => (Listener::tcp(*addr), addr.to_string()),
        Listen::Unix { path, mode } => (Listener::unix(path, *mode), format!("unix:{}", path.display())),
    };
    Ok(OpenDoor {
        listener: listener.map_err(|source| OpenError { at, source })?,
        mode: door.mode.clone(),
        request_timeout: door.request_timeout,
        requests_max: REQUESTS_MAX,
        turned_away: TurnedAway::default(),
    })
}

/// A door cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{at}`: {source}")]
pub struct OpenError {
    /// The address or `unix:<path>`.
    pub at: String,
    /// What the kernel says.
    pub source: io::Error,
}

impl OpenDoor {
    /// Where it listens, for logs.
    pub fn name(&self) -> String {
        self.listener.name()
    }

    /// The bound TCP address, `None` on a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr()
    }

    /// The counter of connections closed without an answer, for the meters.
    pub fn turned_away(&self) -> TurnedAway {
        self.turned_away.clone()
    }

    #[cfg(test)]
    pub(super) fn requests_max(self, requests_max: usize) -> Self {
        Self { requests_max, ..self }
    }
}

impl TurnedAway {
    /// How many since the door was opened.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Takes connections until `shutdown` is ready; then the door closes, and with it those that have not yet said what
/// they want. Arrivals handed to `take` live on.
///
/// An accept that fails does not end the door: out of descriptors, it pauses and leaves them to the living flows.
pub async fn serve(open: OpenDoor, take: Take, knock: Knock, shutdown: impl Future<Output = ()> + Send) {
    let OpenDoor { listener, mode, request_timeout, requests_max, turned_away } = open;
    let name = listener.name();
    let mode = Arc::new(mode);
    let requests = Arc::new(Semaphore::new(requests_max));
    let mut asking = JoinSet::new();
    let mut complaints = Complaints::default();
    let mut failed_in_a_row = 0u32;
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = asking.join_next() => continue,
            accepted = listener.accept(SocketOptions::default()) => accepted,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                failed_in_a_row = failed_in_a_row.saturating_add(1);
                let Some(pause) = pause_after(&error, failed_in_a_row) else { continue };
                complaints
                    .say(|unsaid| tracing::warn!(door = %name, %error, unsaid, "cannot take connections"));
                tokio::select! {
                    () = &mut shutdown => break,
                    () = tokio::time::sleep(pause) => continue,
                }
            }
        };
        failed_in_a_row = 0;
        let admitted = knock(accepted.ip()).and_then(|()| {
            // Not a handshake in name, but the same thing: somebody of whom nothing is known yet.
            requests.clone().try_acquire_owned().map_err(|_| Reason::HandshakesLimited)
        });
        match admitted {
            Ok(permit) => {
                let deadline = Instant::now() + request_timeout;
                asking.spawn(meet(accepted, mode.clone(), deadline, permit, take.clone()));
            }
            Err(reason) => {
                turned_away.0.fetch_add(1, Ordering::Relaxed);
                complaints
                    .say(|unsaid| tracing::warn!(door = %name, %reason, unsaid, "connection turned away"));
            }
        }
    }
    drop(listener);
    asking.shutdown().await;
}

/// Hears one caller and hands it on.
async fn meet(
    accepted: Accepted,
    mode: Arc<Mode>,
    deadline: Instant,
    permit: OwnedSemaphorePermit,
    take: Take,
) {
    let arrival = match accepted {
        Accepted::Tcp(io, addr) => hear(io, None, addr.to_string(), &mode, deadline, permit).await,
        Accepted::Unix(io, uid) => hear(io, Some(uid), format!("unix:{uid}"), &mode, deadline, permit).await,
    };
    if let Some(arrival) = arrival {
        take(arrival);
    }
}

async fn hear(
    mut io: impl Socket,
    uid: Option<u32>,
    source: String,
    mode: &Mode,
    deadline: Instant,
    permit: OwnedSemaphorePermit,
) -> Option<Arrival> {
    let asked = ask(&mut io, mode, deadline).await?;
    let only_refusable = matches!(asked.wanted, Wanted::Nothing(_)).then_some(permit);
    let answer = Caller { io, early: asked.early, language: asked.language, only_refusable };
    Some(Arrival { wanted: asked.wanted, uid, source, answer: Box::new(answer), door: mode.name() })
}

impl Mode {
    /// The name used in logs and audit.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Forward(_) => "forward",
            Self::Socks5 => "socks5",
            Self::Connect => "connect",
        }
    }
}

/// How long to leave the listener alone after a failed accept: not at all when only that one connection failed,
/// else a little, for the kernel is out of something (descriptors, memory) and asking again at once would spin.
fn pause_after(error: &io::Error, failed_in_a_row: u32) -> Option<Duration> {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {
            None
        }
        _ if failed_in_a_row <= 1 => Some(PAUSE_FIRST),
        _ => Some(PAUSE_NEXT),
    }
}

/// Says a thing at most once a second, and then how many times it was not said.
#[derive(Debug, Default)]
struct Complaints {
    said: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    fn say(&mut self, say: impl FnOnce(u64)) {
        if self.may_say(Instant::now()) {
            say(std::mem::take(&mut self.unsaid));
        }
    }

    fn may_say(&mut self, now: Instant) -> bool {
        let quiet = self.said.is_none_or(|said| now.saturating_duration_since(said) >= COMPLAINT_INTERVAL);
        if quiet {
            self.said = Some(now);
        } else {
            self.unsaid = self.unsaid.saturating_add(1);
        }
        quiet
    }
}

const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_NEXT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_descriptors_the_loop_pauses_and_a_lost_connection_does_not_slow_it() {
        use rustix::io::Errno;
        let pause = |errno: Errno, in_a_row| pause_after(&errno.into(), in_a_row);
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(pause(errno, 1), Some(PAUSE_FIRST));
            assert_eq!(pause(errno, 2), Some(PAUSE_NEXT));
        }
        for errno in [Errno::CONNABORTED, Errno::CONNRESET, Errno::INTR] {
            assert_eq!(pause(errno, 9), None);
        }
    }

    #[test]
    fn a_complaint_is_said_once_a_second_with_the_number_of_those_that_were_not() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let said =
            [0, 1, 999, 1000, 1001, 2000].map(|ms| complaints.may_say(start + Duration::from_millis(ms)));
        assert_eq!(said, [true, false, false, true, false, true]);
        assert_eq!(complaints.unsaid, 3);
    }
}
