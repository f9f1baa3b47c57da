//! Our side: makes our evidence for one session, and holds the conversation as the client.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;

use super::machine::random;
use super::{AttestRefused, Attester, EVIDENCE_ERRAND};
use crate::channel::errand::{self, ErrandError};
use crate::channel::session::Session;
use crate::device::{Answer, Claims, MESSAGE_LEN_MAX, Message, NewLeaf, make};
use crate::model::{Reason, Timestamp};

impl Attester {
    /// Proves us to the session's peer and has it prove itself; says how long our own lease lasts, if we have one.
    ///
    /// One at a time for each peer: the thread of continuity has one end.
    ///
    /// # Errors
    /// [`AttestRefused`]; the session is then of no use, unless it holds a lease and the refusal is
    /// [`AttestRefused::is_passing`].
    pub(in crate::channel) async fn exchange(
        &self,
        session: &Session,
        send: &SendRequest<Bytes>,
        timeout: Duration,
    ) -> Result<Option<Duration>, AttestRefused> {
        let turn = self.memory().turn(session.peer.id(), Timestamp::now()).map_err(plain)?;
        let _turn = turn.lock().await;
        let now = Timestamp::now();
        let (next, nonce) = (fresh()?, fresh()?);
        let continuity_next = self.memory().for_server(session.peer.id(), now).map_err(plain)?;
        let message = Message { nonce: Some(nonce), continuity_next, ..self.message(session, now)? };
        let body =
            message.to_bytes().map_err(|e| AttestRefused { reason: e.reason(), detail: e.to_string() })?;
        session.hand_out(nonce);
        let answered = errand::run(send, EVIDENCE_ERRAND, body.into(), MESSAGE_LEN_MAX, timeout).await;
        let now = Timestamp::now();
        let answer = match answered {
            Ok(bytes) => Answer::read(&bytes).map_err(|e| {
                let e = AttestRefused { reason: e.reason(), detail: e.to_string() };
                self.refuse(session, e, now)
            })?,
            // It speaks CONNECT and no more: a proxy of another make. Whether that will do is not for it to say.
            Err(ErrandError::Refused { status: 400 | 404 | 405 | 501, reason: None, .. }) => {
                self.appraised(session, &Message::default(), &next, now)?;
                return Ok(None);
            }
            Err(e) => {
                // The peer may have said why in a TLS alert: the task that moves the frames heard it.
                let heard = session.ended().filter(|_| matches!(e, ErrandError::Gone { .. }));
                let refused = AttestRefused::from(e);
                return Err(AttestRefused { reason: heard.unwrap_or(refused.reason), ..refused });
            }
        };
        self.appraised(session, &answer.message, &next, now)?;
        session.was_handed(answer.message.nonce);
        self.memory().was_handed(session.peer.id(), session.role, answer.message.continuity_next, now);
        let lease = Duration::from_secs(u64::from(answer.lease_ttl_s));
        Ok((!lease.is_zero()).then_some(lease))
    }

    /// Our evidence for this session, and what goes with it.
    pub(super) fn message(&self, session: &Session, now: Timestamp) -> Result<Message, AttestRefused> {
        let inner = &*self.0;
        let mut machine = inner.machine.load_full();
        let digests = inner.digests.load();
        let binder = session.own_binder();
        let ours = |detail: String| AttestRefused { reason: Reason::Internal, detail };
        let current = inner.identity.signer();
        let renewed = current.svid().fingerprint_sha256 != session.leaf.svid().fingerprint_sha256;
        let keys = [session.leaf.svid().spki_sha256, current.svid().spki_sha256];
        // The leaf was renewed a moment ago, and its record lies there, too: nobody has looked yet.
        if machine.record.as_ref().is_some_and(|r| !keys.contains(&r.read.spki_sha256))
            && self.look_again(now).is_ok()
        {
            machine = inner.machine.load_full();
        }
        let new_leaf = match renewed {
            true => {
                let chain = current.chain().iter().map(|der| der.to_vec()).collect();
                Some(NewLeaf::prove(chain, &binder, &current).map_err(|e| ours(e.to_string()))?)
            }
            false => None,
        };
        let claims = Claims {
            ueid: machine.fingerprint.ueid,
            issued_at: Timestamp::from_secs(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)),
            components: machine.components().clone(),
            boot: machine.fingerprint.boot,
            counter: now.as_millis(),
            program: PROGRAM.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            config_digest: digests.config,
            policy_digest: digests.policy,
            new_leaf_sha256: new_leaf.as_ref().map(NewLeaf::leaf_sha256),
        };
        let evidence = make(&claims, &binder, &session.leaf).map_err(|e| ours(e.to_string()))?;
        Ok(Message {
            evidence,
            record: machine.record.as_ref().map(|r| r.text.clone()),
            continuity: self.memory().token(session.peer.id(), session.role, now).map_err(plain)?,
            new_leaf,
            nonce: None,
            continuity_next: None,
        })
    }
}

impl AttestRefused {
    /// Whether it may be different in a moment: the peer is busy.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.reason, Reason::ErrandsLimited | Reason::AuditUnavailable | Reason::MemoryExhausted)
    }
}

impl From<ErrandError> for AttestRefused {
    fn from(error: ErrandError) -> Self {
        let detail = error.to_string();
        let reason = match error {
            ErrandError::Refused {
                reason: Some(reason @ (Reason::ErrandsLimited | Reason::AuditUnavailable)),
                ..
            } => reason,
            ErrandError::Refused { .. } => Reason::PeerRefused,
            ErrandError::Timeout => Reason::ConnectTimeout,
            ErrandError::TooLarge { .. } => Reason::EvidenceMalformed,
            ErrandError::Gone { reason, .. } => reason,
        };
        Self { reason, detail }
    }
}

pub(super) fn plain(reason: Reason) -> AttestRefused {
    AttestRefused { reason, detail: reason.sentence().into() }
}

pub(super) fn fresh() -> Result<[u8; 32], AttestRefused> {
    random().map_err(|e| AttestRefused { reason: Reason::Internal, detail: e.to_string() })
}

const PROGRAM: &str = "countersign";
