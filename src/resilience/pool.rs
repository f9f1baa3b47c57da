//! Connections to peers: a few per peer, many flows each, a refusal instead of a wait when all are full.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::resolve::{ResolveError, resolve};
use crate::channel::{DialError, Dialled, Dialler, ErrandError, OpenError, Session, dial};
use crate::model::{Authority, Host, Reason, SpiffeId};
use crate::net::BoxStream;

/// A flow opened at a peer.
pub struct Opened {
    /// Carries the flow.
    pub stream: BoxStream,
    /// The session it rides on.
    pub session: Arc<Session>,
}

/// Why no flow was opened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct PoolError {
    /// The reason a stranger may see.
    pub reason: Reason,
    /// In a few words.
    pub detail: String,
}

/// The connections to every peer. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    dialler: Dialler,
    /// One entry per configured outbound, so bounded by the configuration.
    peers: Mutex<HashMap<Key, Arc<Peer>>>,
}

type Key = (SpiffeId, Vec<Authority>);

/// One peer's connections.
struct Peer {
    id: SpiffeId,
    paths: Vec<Authority>,
    state: Mutex<PeerState>,
    /// Held while one flow dials for all that wait.
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct PeerState {
    connections: Vec<Arc<Dialled>>,
    /// Counts dials that failed, so that those who waited for one share its outcome.
    failures: u64,
    last_failure: Option<PoolError>,
    resolved: Option<Instant>,
    resolving: bool,
}

impl Pool {
    /// A pool without connections.
    pub fn new(dialler: Dialler) -> Self {
        Self(Arc::new(Shared { dialler, peers: Mutex::default() }))
    }

    /// Runs the errand `name` at `peer`, on a living connection or a new one: posts `body`, takes at most `answer_max`
    /// bytes within `timeout`.
    ///
    /// # Errors
    /// [`ErrandError`]; a peer that cannot be reached is [`ErrandError::Gone`].
    pub async fn errand(
        &self,
        peer: &SpiffeId,
        paths: &[Authority],
        name: &str,
        body: Bytes,
        answer_max: usize,
        timeout: Duration,
    ) -> Result<(Bytes, Arc<Session>), ErrandError> {
        let peer = self.peer(peer, paths);
        self.refresh_names(&peer);
        let connection = self
            .connection(&peer)
            .await
            .map_err(|e| ErrandError::Gone { reason: e.reason, detail: e.to_string() })?;
        // An errand may wait for long: a connection that has one is not idle.
        let _place = connection.place().ok();
        let answer = connection.post(name, body, answer_max, timeout).await;
        if matches!(answer, Err(ErrandError::Gone { .. } | ErrandError::Timeout)) {
            peer.forget(&connection);
        }
        Ok((answer?, Arc::clone(&connection.session)))
    }

    /// Opens `authority` at `peer`, on a living connection or a new one.
    ///
    /// # Errors
    /// [`PoolError`] when the peer cannot be reached, refuses, or all connections to it are full.
    pub async fn open(
        &self,
        peer: &SpiffeId,
        paths: &[Authority],
        authority: &Authority,
    ) -> Result<Opened, PoolError> {
        let peer = self.peer(peer, paths);
        let mut tries = 0;
        loop {
            tries += 1;
            self.refresh_names(&peer);
            let connection = self.connection(&peer).await?;
            let place = match connection.place() {
                Ok(place) => place,
                // Somebody else took the last place in between, or the session ended: look again.
                Err(_) if tries < TRIES_MAX => continue,
                Err(e) => return Err(open_error(&peer, &connection, e)),
            };
            match connection.open(authority, place, &self.0.dialler.settings).await {
                Ok(stream) => return Ok(Opened { stream, session: Arc::clone(&connection.session) }),
                // No service saw anything of it, so that a second try can do no harm.
                Err(OpenError::Gone { reason: Reason::PeerClosed, detail }) if tries < TRIES_MAX => {
                    tracing::debug!(peer = %peer.id, detail, "opening again on another connection");
                    peer.forget(&connection);
                }
                Err(e) => return Err(open_error(&peer, &connection, e)),
            }
        }
    }

    /// Lets go of all connections; they close when their last flow is over.
    pub fn release(&self) {
        for peer in self.lock().values() {
            peer.lock().connections.clear();
        }
    }

    /// The least busy connection with room, or a new one.
    async fn connection(&self, peer: &Arc<Peer>) -> Result<Arc<Dialled>, PoolError> {
        let failures = match peer.pick(self.0.dialler.settings.connections_max) {
            Pick::Use(connection) => return Ok(connection),
            Pick::Full => return Err(streams_exhausted()),
            Pick::Dial { failures } => failures,
        };
        let _dialling = peer.dialling.lock().await;
        match peer.pick(self.0.dialler.settings.connections_max) {
            Pick::Use(connection) => return Ok(connection),
            Pick::Full => return Err(streams_exhausted()),
            Pick::Dial { failures: now } if now != failures => {
                if let Some(failure) = peer.lock().last_failure.clone() {
                    return Err(failure);
                }
            }
            Pick::Dial { .. } => {}
        }
        // Boxed: a handshake is large and rare, and every flow waits in the same future.
        match Box::pin(self.dial(peer)).await {
            Ok(dialled) => {
                let dialled = Arc::new(dialled);
                self.keep(peer, &dialled);
                Ok(dialled)
            }
            Err(e) => {
                let mut state = peer.lock();
                state.failures += 1;
                state.last_failure = Some(e.clone());
                Err(e)
            }
        }
    }

    /// Puts a connection among the peer's, and looks after it from now on.
    fn keep(&self, peer: &Arc<Peer>, connection: &Arc<Dialled>) {
        peer.lock().connections.push(Arc::clone(connection));
        let (of, it) = (Arc::downgrade(peer), Arc::downgrade(connection));
        tokio::spawn(retire_when_idle(of.clone(), it.clone(), self.0.dialler.settings.idle_timeout));
        // Boxed: it makes others of its kind.
        let replaced: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(replace_when_old(Arc::downgrade(&self.0), of, it));
        tokio::spawn(replaced);
    }

    /// Tries every address of every path in order; the first that proves to be the peer wins.
    async fn dial(&self, peer: &Peer) -> Result<Dialled, PoolError> {
        let mut last = PoolError { reason: Reason::ConnectFailed, detail: "no path is configured".into() };
        for path in &peer.paths {
            let addrs = match resolve(path, self.0.dialler.settings.resolve_timeout).await {
                Ok(addrs) => addrs,
                Err(e) => {
                    last = e.into();
                    continue;
                }
            };
            for addr in addrs {
                match dial(addr, &peer.id, &self.0.dialler).await {
                    Ok(dialled) => return Ok(dialled),
                    Err(e) => last = e.into(),
                }
            }
        }
        Err(last)
    }

    /// Resolves the names in `paths` again when it is time; connections to addresses that are gone get no new flows.
    fn refresh_names(&self, peer: &Arc<Peer>) {
        let now = Instant::now();
        let mut state = peer.lock();
        let due = state
            .resolved
            .is_none_or(|at| now.duration_since(at) >= self.0.dialler.settings.resolve_interval);
        if !due || state.resolving || !peer.paths.iter().any(|p| matches!(p.host, Host::Name(_))) {
            return;
        }
        state.resolving = true;
        drop(state);
        let (peer, timeout) = (Arc::clone(peer), self.0.dialler.settings.resolve_timeout);
        tokio::spawn(async move {
            let mut addrs: Vec<SocketAddr> = Vec::new();
            let mut whole = true;
            for path in &peer.paths {
                match resolve(path, timeout).await {
                    Ok(found) => addrs.extend(found),
                    Err(_) => whole = false,
                }
            }
            let mut state = peer.lock();
            state.resolving = false;
            state.resolved = Some(Instant::now());
            // A resolver in trouble moves nobody: only a whole answer retires a connection.
            if whole {
                state.connections.retain(|c| addrs.contains(&c.session.remote));
            }
        });
    }

    fn peer(&self, id: &SpiffeId, paths: &[Authority]) -> Arc<Peer> {
        let mut peers = self.lock();
        let key = (id.clone(), paths.to_vec());
        let peer = peers.entry(key).or_insert_with(|| {
            Arc::new(Peer {
                id: id.clone(),
                paths: paths.to_vec(),
                state: Mutex::default(),
                dialling: tokio::sync::Mutex::default(),
            })
        });
        Arc::clone(peer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Peer>>> {
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Pick {
    Use(Arc<Dialled>),
    Dial { failures: u64 },
    Full,
}

impl Peer {
    fn pick(&self, connections_max: usize) -> Pick {
        let mut state = self.lock();
        state.connections.retain(|c| c.session.ended().is_none());
        let roomy = || state.connections.iter().filter(|c| c.has_room());
        // The worker's own connections first, then one more of its own, and only at the bound those of the others.
        let near = roomy().filter(|c| c.is_near()).min_by_key(|c| c.flows());
        let may_dial = state.connections.len() < connections_max;
        match near.or_else(|| roomy().filter(|_| !may_dial).min_by_key(|c| c.flows())) {
            Some(c) => Pick::Use(Arc::clone(c)),
            None if may_dial => Pick::Dial { failures: state.failures },
            None => Pick::Full,
        }
    }

    fn forget(&self, connection: &Arc<Dialled>) {
        self.lock().connections.retain(|c| !Arc::ptr_eq(c, connection));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a connection that carried no flow for `idle`. Ends by itself when the pool or the connection is gone.
async fn retire_when_idle(peer: Weak<Peer>, connection: Weak<Dialled>, idle: Duration) {
    let mut quiet = false;
    loop {
        tokio::time::sleep(idle / 2).await;
        let (Some(peer), Some(connection)) = (peer.upgrade(), connection.upgrade()) else { return };
        if connection.flows() > 0 {
            quiet = false;
        } else if quiet {
            return peer.forget(&connection);
        } else {
            quiet = true;
        }
    }
}

/// Makes before it breaks: dials anew when a connection's keys are as old as they may be, and only then lets go of the
/// old one, which closes with its last flow. Ends by itself when the pool or the connection is gone.
async fn replace_when_old(pool: Weak<Shared>, peer: Weak<Peer>, connection: Weak<Dialled>) {
    let Some(after) = pool.upgrade().map(|pool| pool.dialler.settings.rekey_after) else { return };
    tokio::time::sleep(after).await;
    loop {
        let (Some(pool), Some(peer), Some(old)) = (pool.upgrade(), peer.upgrade(), connection.upgrade())
        else {
            return;
        };
        if old.flows() == 0 {
            return peer.forget(&old);
        }
        let pool = Pool(pool);
        match Box::pin(pool.dial(&peer)).await {
            Ok(new) => {
                let new = Arc::new(new);
                pool.keep(&peer, &new);
                peer.forget(&old);
                tracing::info!(peer = %peer.id, old = %old.session.id, new = %new.session.id, "new keys: new flows take a new session");
                return;
            }
            Err(e) => {
                tracing::warn!(peer = %peer.id, "new keys are due, and a new session cannot be had: {e}")
            }
        }
        drop((pool, peer, old));
        tokio::time::sleep(REKEY_RETRY).await;
    }
}

fn streams_exhausted() -> PoolError {
    PoolError { reason: Reason::StreamsExhausted, detail: "all connections to the peer are full".into() }
}

fn open_error(peer: &Peer, connection: &Arc<Dialled>, error: OpenError) -> PoolError {
    let detail = error.to_string();
    let reason = match error {
        OpenError::Gone { reason, .. } => {
            peer.forget(connection);
            reason
        }
        OpenError::Full => Reason::StreamsExhausted,
        OpenError::Refused { .. } => Reason::PeerRefused,
        OpenError::Timeout => Reason::ConnectTimeout,
    };
    PoolError { reason, detail }
}

impl From<DialError> for PoolError {
    fn from(e: DialError) -> Self {
        Self { reason: e.reason, detail: e.to_string() }
    }
}

impl From<ResolveError> for PoolError {
    fn from(e: ResolveError) -> Self {
        Self { reason: e.reason(), detail: e.to_string() }
    }
}

/// Pause before a new session is tried for again when new keys are due.
const REKEY_RETRY: Duration = Duration::from_secs(10);
/// Connections tried for one flow before it is given up.
const TRIES_MAX: u32 = 3;
