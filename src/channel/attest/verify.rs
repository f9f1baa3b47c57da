//! The other side: appraises what a peer shows, and answers it as the server.

use crate::channel::session::{Session, Standing};
use crate::device::{
    self, Anchor, Answer, Appraisal, Arrival, Claims, Message, Record, SignedRecord, Verdict, appraise,
    verify_p256,
};
use crate::identity::PeerIdentity;
use crate::model::{DecisionId, Reason, Refusal, Score, Tier, Timestamp};

use super::prove::{fresh, plain};
use super::{AttestRefused, Attester, prover};

/// What an appraisal came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the peer is taken for from now on.
    pub standing: Standing,
    /// Component by component; `None` for a peer that need not attest.
    pub appraisal: Option<Appraisal>,
    /// A leaf that was proven with it, and takes the place of the last.
    pub renewed: Option<PeerIdentity>,
}

impl Attester {
    /// Answers a client's message with our own evidence and what we think of its.
    ///
    /// # Errors
    /// [`Refusal`] under the id that the audit has; the session is then worth nothing more.
    pub fn answer(&self, session: &Session, body: &[u8], now: Timestamp) -> Result<Vec<u8>, Refusal> {
        let read =
            Message::read(body).map_err(|e| AttestRefused { reason: e.reason(), detail: e.to_string() });
        read.and_then(|message| self.reply(session, &message, now)).map_err(|e| {
            let id = self.refused(session, &e, now);
            Refusal::new(id, e.reason).detail(e.detail)
        })
    }

    fn reply(&self, session: &Session, message: &Message, now: Timestamp) -> Result<Vec<u8>, AttestRefused> {
        let (next, nonce) = (fresh()?, fresh()?);
        let outcome = self.appraise(session, message, &next, now)?;
        self.write_down(session, &outcome, now)?;
        // Fresher than the exporter, and it is there.
        session.was_handed(message.nonce);
        self.memory().was_handed(session.peer.id(), session.role, message.continuity_next, now);
        let own = self.message(session, now)?;
        let (verdict, tier, score, ttl) = match outcome.standing {
            Standing::Leased { lease, verdict, .. } => {
                (verdict, lease.tier, lease.score, u32::try_from(lease.ttl.as_secs()).unwrap_or(u32::MAX))
            }
            Standing::Exempt | Standing::Unproven(_) => (Verdict::Match, Tier::None, Score::default(), 0),
        };
        let message = Message { nonce: Some(nonce), continuity_next: Some(next), ..own };
        let answer = Answer { message, verdict, tier, score, lease_ttl_s: ttl };
        let bytes =
            answer.to_bytes().map_err(|e| AttestRefused { reason: e.reason(), detail: e.to_string() })?;
        session.hand_out(nonce);
        Ok(bytes)
    }

    /// Appraises the server's evidence at a client, and writes it down either way.
    pub(super) fn appraised(
        &self,
        session: &Session,
        message: &Message,
        next: &[u8; 32],
        now: Timestamp,
    ) -> Result<(), AttestRefused> {
        let outcome = self.appraise(session, message, next, now).map_err(|e| self.refuse(session, e, now))?;
        self.write_down(session, &outcome, now)
    }

    /// Writes a refusal down.
    pub(super) fn refuse(&self, session: &Session, e: AttestRefused, now: Timestamp) -> AttestRefused {
        let id = self.refused(session, &e, now);
        AttestRefused { detail: format!("{}; id={id}", e.detail), ..e }
    }

    fn refused(&self, session: &Session, e: &AttestRefused, now: Timestamp) -> DecisionId {
        if !e.is_passing() {
            session.forfeit(e.reason);
        }
        self.0.witness.refused(session, e.reason, &e.detail, now)
    }

    /// No entry, no lease.
    fn write_down(&self, session: &Session, outcome: &Outcome, now: Timestamp) -> Result<(), AttestRefused> {
        self.0.witness.attested(session, outcome, now).map_err(plain)?;
        session.prove(outcome.standing, outcome.renewed.clone(), now);
        Ok(())
    }

    fn appraise(
        &self,
        session: &Session,
        message: &Message,
        next: &[u8; 32],
        now: Timestamp,
    ) -> Result<Outcome, AttestRefused> {
        let must = self.must_attest(session);
        if message.evidence.is_empty() {
            return match must {
                true => Err(plain(Reason::EvidenceMissing)),
                false => Ok(Outcome { standing: Standing::Exempt, appraisal: None, renewed: None }),
            };
        }
        let binder = session.expected_binder();
        let claims = device::open(&message.evidence, &binder, session.peer.spki())
            .map_err(|e| AttestRefused { reason: e.reason(), detail: e.to_string() })?;
        let renewed = match &message.new_leaf {
            None if claims.new_leaf_sha256.is_some() => return Err(plain(Reason::EvidenceMalformed)),
            None => None,
            Some(new) => {
                let leaf = self.0.identity.read_renewed(&new.chain, session.peer.id(), now).map_err(plain)?;
                new.check(&claims, &binder, leaf.spki()).map_err(plain)?;
                Some(leaf)
            }
        };
        let Some(text) = &message.record else {
            return match must {
                true => Err(plain(Reason::RecordMissing)),
                false => Ok(Outcome { standing: Standing::Exempt, appraisal: None, renewed }),
            };
        };
        let record = self.record(session, text, renewed.as_ref(), now)?;
        let (standing, appraisal) =
            self.lease(session, message, &claims, &record, renewed.as_ref(), next, now)?;
        Ok(Outcome { standing, appraisal: Some(appraisal), renewed })
    }

    /// The peer's record: signed by the CA that issued its leaf, of this device, and not older than one seen before.
    fn record(
        &self,
        session: &Session,
        text: &str,
        renewed: Option<&PeerIdentity>,
        now: Timestamp,
    ) -> Result<Record, AttestRefused> {
        // A record is signed anew with each leaf: the CA of the newest one signed it.
        let newest = session.proven();
        let leaf = renewed.unwrap_or(&newest);
        let issuer = self.0.identity.issuer_of(leaf.chain(), now).map_err(plain)?;
        let verify = |message: &[u8], signature: &[u8]| verify_p256(&issuer, message, signature);
        let record = SignedRecord::open(text, &verify)
            .map_err(|e| AttestRefused { reason: e.reason(), detail: e.to_string() })?;
        let proven = [session.peer.svid().spki_sha256, newest.svid().spki_sha256, leaf.svid().spki_sha256];
        if record.id != *session.peer.id() || !proven.contains(&record.spki_sha256) {
            return Err(AttestRefused {
                reason: Reason::RecordInvalid,
                detail: format!("the record is of `{}`, or of another key than was proven here", record.id),
            });
        }
        self.memory().admit(&record, now).map_err(plain)?;
        Ok(record)
    }

    #[allow(clippy::too_many_arguments, reason = "each is a fact that the verdict depends on")]
    fn lease(
        &self,
        session: &Session,
        message: &Message,
        claims: &Claims,
        record: &Record,
        renewed: Option<&PeerIdentity>,
        next: &[u8; 32],
        now: Timestamp,
    ) -> Result<(Standing, Appraisal), AttestRefused> {
        let id = session.peer.id();
        let thresholds = &self.0.settings.thresholds;
        let newest = session.proven();
        let mut proven = vec![session.peer.svid().spki_sha256, newest.svid().spki_sha256];
        proven.extend(renewed.map(|leaf| leaf.svid().spki_sha256));
        let history = self.memory().history(id, now).map_err(plain)?;
        let anchor = Anchor { id, proven: &proven };
        let appraisal = appraise(claims, record, &anchor, thresholds, &history, now).map_err(plain)?;
        let lease = appraisal
            .lease(thresholds, now)
            .map_err(|reason| AttestRefused { reason, detail: appraisal.to_string() })?;
        let required = self.0.settings.require_tier;
        if lease.tier < required && !self.0.settings.exempt.contains(id) {
            let detail = format!("tier {}, required {}", lease.tier.level(), required.level());
            return Err(AttestRefused { reason: Reason::TierTooLow, detail });
        }
        let renews = match session.standing() {
            Standing::Leased { generation, .. } => Some(generation),
            Standing::Exempt | Standing::Unproven(_) => None,
        };
        let arrival = Arrival { token: message.continuity, boot: claims.boot, renews };
        let generation = self.memory().show(id, prover(session), &arrival, next, now).map_err(plain)?;
        if appraisal.verdict == Verdict::Drift {
            self.memory().drifted(id, now).map_err(plain)?;
        }
        let (verdict, record_version) = (appraisal.verdict, record.version);
        Ok((Standing::Leased { lease, generation, verdict, record_version }, appraisal))
    }
}
