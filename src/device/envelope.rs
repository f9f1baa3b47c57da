//! What the two ends send each other around their evidence: maps of whole-numbered keys in CBOR.

use ciborium::value::Value;

use super::appraise::Verdict;
use super::binder::Binder;
use super::cbor::{self, Fields};
use super::evidence::{Claims, EVIDENCE_LEN_MAX};
use super::p256::{SIGNATURE_LEN, sign_p256, verify_p256};
use super::record::{RECORD_LEN_MAX, digest_of, tier};
use crate::model::{Reason, Score, Sign, SignError, Tier};

/// Longest message or answer in bytes.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Most certificates of a new leaf's chain.
pub const CHAIN_MAX: usize = 4;
/// Longest certificate in bytes.
pub const CERTIFICATE_LEN_MAX: usize = 7 * 1024;

/// What both directions carry: evidence, and what goes with it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Message {
    /// COSE_Sign1, not yet opened.
    pub evidence: Vec<u8>,
    /// The prover's signed record, not yet opened.
    pub record: Option<String>,
    /// The continuity token that the verifier handed out last.
    pub continuity: Option<[u8; 32]>,
    /// At a renewal: the leaf that takes the place of the handshake's.
    pub new_leaf: Option<NewLeaf>,
    /// What the other end is to put into its exporter's context for its next evidence.
    pub nonce: Option<[u8; 32]>,
    /// The continuity token that the other end is to show next.
    pub continuity_next: Option<[u8; 32]>,
}

/// The answer: the other end's evidence, and what it thinks of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Evidence of the one who answers.
    pub message: Message,
    /// What it thinks of ours.
    pub verdict: Verdict,
    /// What it takes us for.
    pub tier: Tier,
    /// How much of our fingerprint matches.
    pub score: Score,
    /// How long its lease lasts, in seconds.
    pub lease_ttl_s: u32,
}

/// A renewed leaf, proven on the connection that the old one opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewLeaf {
    /// DER certificates, leaf first: 1..=[`CHAIN_MAX`] of at most [`CERTIFICATE_LEN_MAX`] bytes.
    pub chain: Vec<Vec<u8>>,
    /// Its key's signature over the binder of the evidence that it comes with.
    pub signature: [u8; SIGNATURE_LEN],
}

impl NewLeaf {
    /// Proves the key of `chain`'s leaf on the connection of `binder`.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    pub fn prove(chain: Vec<Vec<u8>>, binder: &Binder, signer: &dyn Sign) -> Result<Self, SignError> {
        Ok(Self { chain, signature: sign_p256(signer, &proof(binder))? })
    }

    /// The digest that the evidence must name as its new leaf.
    pub fn leaf_sha256(&self) -> [u8; 32] {
        digest_of(self.chain.first().map(Vec::as_slice).unwrap_or_default())
    }

    /// Whether the old key named this leaf and the new key signed. The chain is for `identity` to verify.
    ///
    /// # Errors
    /// `EvidenceBinding` when the evidence does not name it, `EvidenceSignature` when its key did not sign.
    pub fn check(&self, claims: &Claims, binder: &Binder, spki_der: &[u8]) -> Result<(), Reason> {
        if claims.new_leaf_sha256 != Some(self.leaf_sha256()) {
            return Err(Reason::EvidenceBinding);
        }
        if !verify_p256(spki_der, &proof(binder), &self.signature) {
            return Err(Reason::EvidenceSignature);
        }
        Ok(())
    }
}

/// What a new key signs; nothing else that it signs begins so.
fn proof(binder: &Binder) -> Vec<u8> {
    [NEW_LEAF_LABEL, binder.as_bytes()].concat()
}

impl Message {
    /// As it is sent.
    ///
    /// # Errors
    /// [`EnvelopeError`] when nobody would take it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EnvelopeError> {
        bounded(cbor::write(&cbor::map(self.fields())), |bytes| Self::read(bytes).as_ref() == Ok(self))
    }

    /// Reads what was sent. Nothing in it is verified.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is too long, no such map, or has a key that is foreign or twice there.
    pub fn read(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let mut fields = opened(bytes)?;
        let message = Self::of(&mut fields).ok_or(EnvelopeError::Malformed)?;
        fields.end().ok_or(EnvelopeError::Malformed)?;
        Ok(message)
    }

    fn fields(&self) -> Vec<(i64, Value)> {
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
        let mut fields = vec![(EVIDENCE, bytes(&self.evidence))];
        fields.extend(self.record.as_deref().map(|text| (RECORD, Value::from(text))));
        fields.extend(self.continuity.map(|token| (CONTINUITY, bytes(&token))));
        fields.extend(self.new_leaf.as_ref().map(|new| {
            let chain = Value::Array(new.chain.iter().map(|der| bytes(der)).collect());
            (NEW_LEAF, Value::Array(vec![chain, bytes(&new.signature)]))
        }));
        fields.extend(self.nonce.map(|nonce| (NONCE, bytes(&nonce))));
        fields.extend(self.continuity_next.map(|token| (CONTINUITY_NEXT, bytes(&token))));
        fields
    }

    fn of(fields: &mut Fields) -> Option<Self> {
        let evidence = fields.take(EVIDENCE)?.into_bytes().ok()?;
        if evidence.len() > EVIDENCE_LEN_MAX {
            return None;
        }
        let record = match fields.take(RECORD) {
            None => None,
            Some(value) => Some(value.into_text().ok().filter(|text| text.len() <= RECORD_LEN_MAX)?),
        };
        let new_leaf = match fields.take(NEW_LEAF) {
            None => None,
            Some(value) => Some(new_leaf(value)?),
        };
        Some(Self {
            evidence,
            record,
            continuity: fields.maybe_bytes(CONTINUITY)?,
            new_leaf,
            nonce: fields.maybe_bytes(NONCE)?,
            continuity_next: fields.maybe_bytes(CONTINUITY_NEXT)?,
        })
    }
}

impl Answer {
    /// As it is sent.
    ///
    /// # Errors
    /// [`EnvelopeError`] when nobody would take it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EnvelopeError> {
        let mut fields = self.message.fields();
        fields.extend([
            (VERDICT, Value::from(self.verdict.number())),
            (TIER, Value::from(self.tier.level())),
            (SCORE, Value::from(self.score.percent())),
            (LEASE_TTL_S, Value::from(self.lease_ttl_s)),
        ]);
        bounded(cbor::write(&cbor::map(fields)), |bytes| Self::read(bytes).as_ref() == Ok(self))
    }

    /// Reads what was sent. Nothing in it is verified.
    ///
    /// # Errors
    /// [`EnvelopeError`] as for [`Message::read`].
    pub fn read(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let mut fields = opened(bytes)?;
        let answer = Self::of(&mut fields).ok_or(EnvelopeError::Malformed)?;
        fields.end().ok_or(EnvelopeError::Malformed)?;
        Ok(answer)
    }

    fn of(fields: &mut Fields) -> Option<Self> {
        let small = |number: u64| u8::try_from(number).ok();
        Some(Self {
            message: Message::of(fields)?,
            verdict: Verdict::from_number(small(fields.number(VERDICT)?)?)?,
            tier: tier(small(fields.number(TIER)?)?)?,
            score: small(fields.number(SCORE)?).filter(|s| *s <= 100).map(Score::from_percent)?,
            lease_ttl_s: fields.number(LEASE_TTL_S)?.try_into().ok()?,
        })
    }
}

fn new_leaf(value: Value) -> Option<NewLeaf> {
    let [chain, signature] = <[Value; 2]>::try_from(value.into_array().ok()?).ok()?;
    let chain: Option<Vec<_>> = chain.into_array().ok()?.into_iter().map(|v| v.into_bytes().ok()).collect();
    let chain = chain.filter(|c| (1..=CHAIN_MAX).contains(&c.len()))?;
    let fit = chain.iter().all(|der| (1..=CERTIFICATE_LEN_MAX).contains(&der.len()));
    fit.then_some(NewLeaf { chain, signature: cbor::bytes(signature)? })
}

fn opened(bytes: &[u8]) -> Result<Fields, EnvelopeError> {
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(EnvelopeError::TooLarge { len: bytes.len() });
    }
    cbor::read(bytes).and_then(Fields::of).ok_or(EnvelopeError::Malformed)
}

/// What we could not read ourselves is not sent.
fn bounded(bytes: Vec<u8>, reads: impl FnOnce(&[u8]) -> bool) -> Result<Vec<u8>, EnvelopeError> {
    if reads(&bytes) { Ok(bytes) } else { Err(EnvelopeError::Unsendable) }
}

/// Why a message cannot be read or sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// No map of the right keys and values.
    #[error("the message around the evidence is not understood")]
    Malformed,
    /// Longer than [`MESSAGE_LEN_MAX`].
    #[error("the message around the evidence is {len} bytes, expected at most {MESSAGE_LEN_MAX}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// A part of it is longer than anybody takes.
    #[error("a part of the message around the evidence is longer than anybody takes")]
    Unsendable,
}

impl EnvelopeError {
    /// What a stranger is told.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed | Self::TooLarge { .. } => Reason::EvidenceMalformed,
            Self::Unsendable => Reason::Internal,
        }
    }
}

const NEW_LEAF_LABEL: &[u8] = b"countersign/new-leaf/1";
const EVIDENCE: i64 = 1;
const RECORD: i64 = 2;
const CONTINUITY: i64 = 3;
const NEW_LEAF: i64 = 4;
const NONCE: i64 = 5;
const CONTINUITY_NEXT: i64 = 6;
const VERDICT: i64 = 7;
const TIER: i64 = 8;
const SCORE: i64 = 9;
const LEASE_TTL_S: i64 = 10;
// The parts at their longest, with some room for what holds them together.
const _: () = assert!(
    EVIDENCE_LEN_MAX + RECORD_LEN_MAX + CHAIN_MAX * CERTIFICATE_LEN_MAX + 1024 <= MESSAGE_LEN_MAX,
    "a message of the longest parts can be sent"
);

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
