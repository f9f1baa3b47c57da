//! One authenticated connection to a peer: what the handshake and the evidence proved, and the switch that ends it.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::CommonState;
use tokio::sync::watch;

use crate::device::{Binder, EXPORTER_LABEL, Generation, Lease, Role, Verdict, binder};
use crate::identity::{self, LeafSigner, PeerIdentity, SvidError};
use crate::model::{DeviceFacts, Reason, Score, Tier, Timestamp, Transport};

/// Names a session on both ends: 16 bytes of the TLS exporter `EXPORTER-countersign-session` (RFC 8446 §7.5), as hex.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SessionId([u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What was taken from the TLS exporter (RFC 8446 §7.5) when the handshake was complete: later the TLS state is out of
/// reach, inside the connection that moves the frames.
#[derive(Clone)]
pub(crate) struct Exports {
    session: [u8; 16],
    /// For the first evidence: empty context.
    evidence: [u8; 32],
    /// Keys the binders of renewals, see `docs/adr/0010-renewal-binder.md`.
    renewal: [u8; 32],
}

impl Exports {
    /// Takes them; `export` is the connection's own `export_keying_material`.
    pub(crate) fn take(
        mut export: impl FnMut(&mut [u8], &[u8], Option<&[u8]>) -> Result<(), rustls::Error>,
    ) -> Result<Self, rustls::Error> {
        let mut exports = Self { session: [0; 16], evidence: [0; 32], renewal: [0; 32] };
        export(&mut exports.session, SESSION_EXPORTER, None)?;
        export(&mut exports.evidence, EXPORTER_LABEL, Some(b""))?;
        export(&mut exports.renewal, EXPORTER_LABEL, Some(RENEWAL_CONTEXT))?;
        Ok(exports)
    }
}

/// What stands in the place of the exporter in a binder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Freshness {
    /// The first evidence of a connection: the exporter itself is fresh.
    First,
    /// Later ones: the verifier's nonce.
    Nonce([u8; 32]),
}

/// How far the peer has proven its device, as we see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It must give evidence and has not yet (`EvidenceMissing`), or what it gave was refused.
    Unproven(Reason),
    /// It need not: tier 0.
    Exempt,
    /// It has a lease.
    Leased {
        /// The lease.
        lease: Lease,
        /// Of which span without a break.
        generation: Generation,
        /// The same device, or one that drifted.
        verdict: Verdict,
        /// Version of the record it was appraised by.
        record_version: u64,
    },
}

/// What may change while a session lives.
struct Proof {
    peer: Arc<PeerIdentity>,
    standing: Standing,
    proven_at: Timestamp,
    /// What the peer's next evidence must answer.
    ours: Freshness,
    /// What our next evidence must answer.
    theirs: Freshness,
}

/// What was proven of one connection. Flows keep it alive; ending it ends them.
pub struct Session {
    /// The same on both ends.
    pub id: SessionId,
    /// Whose leaf key the handshake proved; see [`Session::proven`] for a leaf renewed since.
    pub peer: PeerIdentity,
    /// Which end of the handshake we were.
    pub role: Role,
    /// The leaf that we showed in the handshake.
    pub(crate) leaf: LeafSigner,
    exports: Exports,
    proof: Mutex<Proof>,
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
    pub(crate) fn new(tls: &CommonState, shaken: Shaken) -> Result<Self, SvidError> {
        let Shaken { exports, role, leaf, remote, transport, now } = shaken;
        let peer = identity::peer(tls.peer_certificates().unwrap_or_default(), now)?;
        let group = tls.negotiated_key_exchange_group().map(|g| g.name());
        let proof = Proof {
            peer: Arc::new(peer.clone()),
            standing: Standing::Unproven(Reason::EvidenceMissing),
            proven_at: now,
            ours: Freshness::First,
            theirs: Freshness::First,
        };
        Ok(Self {
            id: SessionId(exports.session),
            peer,
            role,
            leaf,
            exports,
            proof: Mutex::new(proof),
            transport,
            group: group.map_or("unknown", group_name),
            pq: group == Some(rustls::NamedGroup::X25519MLKEM768),
            cipher: tls.negotiated_cipher_suite().map_or("unknown", |s| cipher_name(s.suite())),
            remote,
            since: now,
            end: watch::Sender::new(None),
        })
    }

    /// The peer's leaf proven last: the handshake's, or a renewed one.
    pub fn proven(&self) -> Arc<PeerIdentity> {
        Arc::clone(&self.proof().peer)
    }

    /// How far the peer has proven its device.
    pub fn standing(&self) -> Standing {
        self.proof().standing
    }

    /// When the peer was last proven: by the handshake, later by its evidence.
    pub fn proven_at(&self) -> Timestamp {
        self.proof().proven_at
    }

    /// What policy may take the peer for at `now`.
    ///
    /// # Errors
    /// `EvidenceMissing` when it must give evidence first, the reason when what it gave was refused, `LeaseExpired` when
    /// its lease is over.
    pub fn device(&self, now: Timestamp) -> Result<DeviceFacts, Reason> {
        let id = self.peer.id().clone();
        match self.standing() {
            Standing::Unproven(reason) => Err(reason),
            Standing::Exempt => Ok(DeviceFacts { id, tier: Tier::None, score: Score::default() }),
            Standing::Leased { lease, .. } => {
                lease.check(now)?;
                Ok(DeviceFacts { id, tier: lease.tier, score: lease.score })
            }
        }
    }

    /// What the peer's next evidence must name as its nonce.
    pub(crate) fn expected_binder(&self) -> Binder {
        let (prover, ours) = (other(self.role), self.proof().ours);
        self.binder(prover, &self.peer.svid().spki_sha256, &self.leaf.svid().spki_sha256, ours)
    }

    /// What our next evidence must name as its nonce.
    pub(crate) fn own_binder(&self) -> Binder {
        let theirs = self.proof().theirs;
        self.binder(self.role, &self.leaf.svid().spki_sha256, &self.peer.svid().spki_sha256, theirs)
    }

    fn binder(&self, prover: Role, own: &[u8; 32], other: &[u8; 32], freshness: Freshness) -> Binder {
        match freshness {
            Freshness::First => binder(prover, own, other, &self.exports.evidence),
            Freshness::Nonce(nonce) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.exports.renewal);
                let mut fresh = [0; 32];
                fresh.copy_from_slice(ring::hmac::sign(&key, &nonce).as_ref());
                binder(prover, own, other, &fresh)
            }
        }
    }

    /// Says that the peer need not prove its device.
    pub(crate) fn exempt(&self) {
        self.proof().standing = Standing::Exempt;
    }

    /// The peer is no longer taken for its device: no new flows.
    pub(crate) fn forfeit(&self, reason: Reason) {
        self.proof().standing = Standing::Unproven(reason);
    }

    /// Takes what an appraisal came to; `renewed` is a leaf that was proven with it.
    pub(crate) fn prove(&self, standing: Standing, renewed: Option<PeerIdentity>, now: Timestamp) {
        let mut proof = self.proof();
        proof.standing = standing;
        proof.proven_at = now;
        if let Some(renewed) = renewed {
            proof.peer = Arc::new(renewed);
        }
    }

    /// From now on the peer's evidence must answer this.
    pub(crate) fn hand_out(&self, nonce: [u8; 32]) {
        self.proof().ours = Freshness::Nonce(nonce);
    }

    /// From now on our evidence must answer this.
    pub(crate) fn was_handed(&self, nonce: Option<[u8; 32]>) {
        if let Some(nonce) = nonce {
            self.proof().theirs = Freshness::Nonce(nonce);
        }
    }

    fn proof(&self) -> std::sync::MutexGuard<'_, Proof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What is known of a handshake beside what TLS tells.
pub(crate) struct Shaken {
    pub(crate) exports: Exports,
    /// Which end we were.
    pub(crate) role: Role,
    /// What we showed.
    pub(crate) leaf: LeafSigner,
    pub(crate) remote: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) now: Timestamp,
}

fn other(role: Role) -> Role {
    match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
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
const SESSION_EXPORTER: &[u8] = b"EXPORTER-countersign-session";
/// Context of the exporter that keys the binders of renewals.
const RENEWAL_CONTEXT: &[u8] = b"renewal";
