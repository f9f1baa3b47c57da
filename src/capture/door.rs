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
use crate::net::{Accepted, Complaints, Listener, Patience, SocketOptions};

/// Where arrivals go. Called on the connection's task: it hands on and returns, it does not wait.
pub type Take = Arc<dyn Fn(Arrival) + Send + Sync>;

/// Asked for every connection before a byte is read; `None` for a Unix socket.
pub type Knock = Arc<dyn Fn(Option<IpAddr>) -> Result<(), Reason> + Send + Sync>;

/// A door that is bound and not yet served: connections queue in the kernel.
pub struct OpenDoor {
    listener: Listener,
    mode: Mode,
    request_timeout: Duration,
    requests: Arc<Semaphore>,
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
        requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
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

    /// The same door, to be served by the runtime that runs now too: they share its bounds.
    ///
    /// # Errors
    /// [`OpenError`] when the kernel gives no descriptor.
    pub fn share(&self) -> Result<Self, OpenError> {
        let listener = self.listener.share().map_err(|source| OpenError { at: self.name(), source })?;
        Ok(Self {
            listener,
            mode: self.mode.clone(),
            request_timeout: self.request_timeout,
            requests: Arc::clone(&self.requests),
            turned_away: self.turned_away.clone(),
        })
    }

    /// The counter of connections closed without an answer, for the meters.
    pub fn turned_away(&self) -> TurnedAway {
        self.turned_away.clone()
    }

    #[cfg(test)]
    pub(super) fn requests_max(self, requests_max: usize) -> Self {
        Self { requests: Arc::new(Semaphore::new(requests_max)), ..self }
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
    let OpenDoor { listener, mode, request_timeout, requests, turned_away } = open;
    let name = listener.name();
    let mode = Arc::new(mode);
    let mut asking = JoinSet::new();
    let (mut patience, mut complaints) = (Patience::default(), Complaints::default());
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = asking.join_next() => continue,
            accepted = listener.accept_patiently(SocketOptions::default(), &mut patience) => accepted,
        };
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
