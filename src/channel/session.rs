//! One authenticated connection to a peer: what the handshake proved, and the switch that ends it.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::CommonState;
use tokio::sync::watch;

use crate::identity::{self, PeerIdentity, SvidError};
use crate::model::{Reason, Timestamp, Transport};

/// Names a session on both ends: 16 bytes of the TLS exporter `EXPORTER-countersign-session` (RFC 8446 §7.5), as hex.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SessionId([u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What the handshake proved of one connection. Flows keep it alive; ending it ends them.
pub struct Session {
    /// The same on both ends.
    pub id: SessionId,
    /// Whose leaf key the handshake proved.
    pub peer: PeerIdentity,
    /// h2 or HTTP/1.1.
    pub transport: Transport,
    /// Name of the key exchange group.
    pub group: &'static str,
    /// Whether that group is a post-quantum hybrid.
    pub pq: bool,
    /// Name of the cipher suite.
    pub cipher: &'static str,
    /// The peer's address.
    pub remote: SocketAddr,
    /// When the handshake was complete.
    pub since: Timestamp,
    end: watch::Sender<Option<Reason>>,
}

impl Session {
    /// Reads a completed handshake.
    ///
    /// # Errors
    /// [`SvidError`] when the peer's leaf is no X.509-SVID; the verifier refused such a peer already.
    pub(crate) fn new(
        tls: &CommonState,
        exporter: [u8; 16],
        remote: SocketAddr,
        transport: Transport,
        now: Timestamp,
    ) -> Result<Self, SvidError> {
        let peer = identity::peer(tls.peer_certificates().unwrap_or_default(), now)?;
        let group = tls.negotiated_key_exchange_group().map(|g| g.name());
        Ok(Self {
            id: SessionId(exporter),
            peer,
            transport,
            group: group.map_or("unknown", group_name),
            pq: group == Some(rustls::NamedGroup::X25519MLKEM768),
            cipher: tls.negotiated_cipher_suite().map_or("unknown", |s| cipher_name(s.suite())),
            remote,
            since: now,
            end: watch::Sender::new(None),
        })
    }

    /// Ends the session: no new flows, and the connection is broken off. The first reason stays.
    pub fn end(&self, reason: Reason) {
        self.end.send_if_modified(|slot| {
            let first = slot.is_none();
            slot.get_or_insert(reason);
            first
        });
    }

    /// Why it was ended, `None` while it lives.
    pub fn ended(&self) -> Option<Reason> {
        *self.end.borrow()
    }

    /// Waits until somebody ends it.
    pub(crate) async fn until_ended(&self) -> Reason {
        let mut seen = self.end.subscribe();
        let reason = seen.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

/// The living sessions, so that a reload can find them. Bounded by the connections that made them.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Registry>);

#[derive(Default)]
struct Registry {
    /// By a number of our own: a sidecar that dials itself holds both ends of one session.
    living: Mutex<HashMap<u64, Arc<Session>>>,
    next: AtomicU64,
}

impl Sessions {
    /// Registers a session until the guard is dropped.
    pub(crate) fn register(&self, session: &Arc<Session>) -> Registered {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::clone(session));
        Registered { sessions: self.clone(), number }
    }

    /// The living ones.
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.lock().values().cloned().collect()
    }

    /// How many live.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// None lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Session>>> {
        self.0.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a session out of [`Sessions`] when dropped.
pub(crate) struct Registered {
    sessions: Sessions,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.number);
    }
}

fn group_name(group: rustls::NamedGroup) -> &'static str {
    match group {
        rustls::NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        rustls::NamedGroup::X25519 => "x25519",
        rustls::NamedGroup::secp256r1 => "secp256r1",
        rustls::NamedGroup::secp384r1 => "secp384r1",
        _ => "other",
    }
}

fn cipher_name(suite: rustls::CipherSuite) -> &'static str {
    suite.as_str().unwrap_or("other")
}

/// Label of the exporter that names a session.
pub(crate) const SESSION_EXPORTER: &[u8] = b"EXPORTER-countersign-session";
