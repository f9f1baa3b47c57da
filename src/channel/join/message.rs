//! The messages of joining: CBOR maps (RFC 8949) with integer keys, each bounded, duplicate and unknown keys refused.

use std::collections::BTreeMap;
use std::time::Duration;

use ciborium::Value;

use crate::device::RECORD_LEN_MAX;
use crate::identity::LEAF_LEN_MAX;
use crate::identity::authority::{CSR_LEN_MAX, RECOVER_CHAIN_MAX, RecoverAsk, TokenId};
use crate::model::{DeviceName, SpiffeId};

/// What a device sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum JoinRequest {
    /// The first message: may I join?
    Ask(Box<AskMessage>),
    /// Send the revocation lists from this byte on.
    More(u32),
    /// The certificate came; signed with its key.
    Ack(Vec<u8>),
    /// The first message of a device whose certificate has expired: may I have the next one?
    Recover(Box<RecoverAsk>),
}

/// The first message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AskMessage {
    /// Names the token.
    pub token: TokenId,
    /// The authority the token names.
    pub authority: SpiffeId,
    /// The root the token names.
    pub root_spki_sha256: [u8; 32],
    /// The name wanted.
    pub name: DeviceName,
    /// The certificate request, DER.
    pub csr: Vec<u8>,
    /// Shows that the secret is known.
    pub proof: [u8; 32],
    /// What the device's record is made from.
    pub facts: Facts,
}

/// What a device says of itself when it joins: digests only. The names mean something to `device`, not here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// Its profile's name, at most `NAME_LEN_MAX` bytes.
    pub profile: String,
    /// SHA-256 of each presented value by component name; at most [`COMPONENTS_MAX`].
    pub baseline: Baseline,
}

/// Digests by component name.
pub type Baseline = BTreeMap<String, Vec<[u8; 32]>>;

/// What the authority answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum JoinReply {
    /// The certificate and what belongs to it; the revocation lists follow in parts.
    Granted {
        /// The leaf and the issuing CA, PEM.
        chain_pem: String,
        /// The roots, PEM.
        bundle_pem: String,
        /// The signed device record.
        record: String,
        /// Length of the revocation lists in bytes.
        crl_len: u32,
    },
    /// A part of the revocation lists.
    Part(Vec<u8>),
    /// An administrator has to say yes first; ask again after this.
    Pending(Duration),
    /// The token is spent, the device has joined.
    Done,
    /// No.
    Refused {
        /// The code of a `Reason`.
        code: String,
        /// What to quote to the administrator.
        decision: String,
    },
}

impl JoinRequest {
    /// As it goes over the wire, without its length.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ask(ask) => map([
                (0, Value::from(ASK)),
                (1, bytes(&ask.token.0)),
                (2, Value::from(ask.authority.as_str())),
                (3, bytes(&ask.root_spki_sha256)),
                (4, Value::from(ask.name.as_str())),
                (5, bytes(&ask.csr)),
                (6, bytes(&ask.proof)),
                (7, Value::from(ask.facts.profile.as_str())),
                (8, Value::Map(ask.facts.baseline.iter().map(component).collect())),
            ]),
            Self::More(offset) => map([(0, Value::from(MORE)), (1, Value::from(*offset))]),
            Self::Ack(signature) => map([(0, Value::from(ACK)), (1, bytes(signature))]),
            Self::Recover(ask) => map([
                (0, Value::from(RECOVER)),
                (1, Value::Array(ask.chain.iter().map(|der| bytes(der)).collect())),
                (2, bytes(&ask.csr)),
                (3, bytes(&ask.signature)),
                (4, Value::from(ask.record.as_str())),
            ]),
        }
    }

    /// Reads one. Fuzzed as `join_message`.
    ///
    /// # Errors
    /// [`MessageError`] when it is anything else than exactly one message.
    pub fn decode(data: &[u8]) -> Result<Self, MessageError> {
        let mut fields = Fields::read(data)?;
        let request = match fields.uint(0)? {
            ASK => Self::Ask(Box::new(AskMessage {
                token: TokenId(fields.digest(1)?),
                authority: fields.text(2, SpiffeId::LEN_MAX)?.parse().map_err(|_| MessageError::Field(2))?,
                root_spki_sha256: fields.digest(3)?,
                name: fields.text(4, NAME_LEN_MAX)?.parse().map_err(|_| MessageError::Field(4))?,
                csr: fields.bytes(5, CSR_LEN_MAX)?,
                proof: fields.digest(6)?,
                facts: Facts { profile: fields.text(7, NAME_LEN_MAX)?, baseline: fields.baseline(8)? },
            })),
            MORE => Self::More(u32::try_from(fields.uint(1)?).map_err(|_| MessageError::Field(1))?),
            ACK => Self::Ack(fields.bytes(1, SIGNATURE_LEN_MAX)?),
            RECOVER => Self::Recover(Box::new(RecoverAsk {
                chain: fields.chain(1)?,
                csr: fields.bytes(2, CSR_LEN_MAX)?,
                signature: fields.bytes(3, SIGNATURE_LEN_MAX)?,
                record: fields.text(4, RECORD_LEN_MAX)?,
            })),
            _ => return Err(MessageError::Field(0)),
        };
        fields.finish()?;
        Ok(request)
    }
}

impl JoinReply {
    /// As it goes over the wire, without its length.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Granted { chain_pem, bundle_pem, record, crl_len } => map([
                (0, Value::from(GRANTED)),
                (1, Value::from(chain_pem.as_str())),
                (2, Value::from(bundle_pem.as_str())),
                (3, Value::from(record.as_str())),
                (4, Value::from(*crl_len)),
            ]),
            Self::Part(part) => map([(0, Value::from(PART)), (1, bytes(part))]),
            Self::Pending(after) => map([(0, Value::from(PENDING)), (1, Value::from(after.as_secs()))]),
            Self::Done => map([(0, Value::from(DONE))]),
            Self::Refused { code, decision } => map([
                (0, Value::from(REFUSED)),
                (1, Value::from(code.as_str())),
                (2, Value::from(decision.as_str())),
            ]),
        }
    }

    /// Reads one. Fuzzed as `join_message`.
    ///
    /// # Errors
    /// [`MessageError`] when it is anything else than exactly one message.
    pub fn decode(data: &[u8]) -> Result<Self, MessageError> {
        let mut fields = Fields::read(data)?;
        let reply = match fields.uint(0)? {
            GRANTED => Self::Granted {
                chain_pem: fields.text(1, MESSAGE_LEN_MAX)?,
                bundle_pem: fields.text(2, MESSAGE_LEN_MAX)?,
                record: fields.text(3, MESSAGE_LEN_MAX)?,
                crl_len: u32::try_from(fields.uint(4)?).map_err(|_| MessageError::Field(4))?,
            },
            PART => Self::Part(fields.bytes(1, MESSAGE_LEN_MAX)?),
            PENDING => match fields.uint(1)? {
                seconds @ 0..=RETRY_AFTER_MAX => Self::Pending(Duration::from_secs(seconds)),
                _ => return Err(MessageError::Field(1)),
            },
            DONE => Self::Done,
            REFUSED => {
                Self::Refused { code: fields.text(1, NAME_LEN_MAX)?, decision: fields.text(2, NAME_LEN_MAX)? }
            }
            _ => return Err(MessageError::Field(0)),
        };
        fields.finish()?;
        Ok(reply)
    }
}

pub(in crate::channel) fn map<const N: usize>(fields: [(u8, Value); N]) -> Vec<u8> {
    let fields = fields.into_iter().map(|(key, value)| (Value::from(key), value)).collect();
    let mut out = Vec::new();
    // A `Vec` takes everything; a message cut short would be refused at the other end.
    let _ = ciborium::into_writer(&Value::Map(fields), &mut out);
    out
}

pub(in crate::channel) fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(bytes.to_vec())
}

fn component((name, values): (&String, &Vec<[u8; 32]>)) -> (Value, Value) {
    (Value::from(name.as_str()), Value::Array(values.iter().map(|v| bytes(v)).collect()))
}

/// The fields of one message that were not taken yet.
pub(in crate::channel) struct Fields(Vec<(u64, Value)>);

impl Fields {
    pub(in crate::channel) fn read(data: &[u8]) -> Result<Self, MessageError> {
        if data.len() > MESSAGE_LEN_MAX {
            return Err(MessageError::Length { len: data.len() });
        }
        let mut rest = data;
        let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX)
            .map_err(|_| MessageError::Cbor)?;
        let Value::Map(entries) = value else { return Err(MessageError::Cbor) };
        if !rest.is_empty() || entries.len() > FIELDS_MAX {
            return Err(MessageError::Cbor);
        }
        let mut fields: Vec<(u64, Value)> = Vec::new();
        for (key, value) in entries {
            let key = key.into_integer().ok().and_then(|i| u64::try_from(i).ok());
            let key = key.ok_or(MessageError::Cbor)?;
            if fields.iter().any(|(other, _)| *other == key) {
                return Err(MessageError::Twice(key));
            }
            fields.push((key, value));
        }
        Ok(Self(fields))
    }

    fn take(&mut self, key: u64) -> Result<Value, MessageError> {
        let at = self.0.iter().position(|(k, _)| *k == key).ok_or(MessageError::Field(key))?;
        Ok(self.0.swap_remove(at).1)
    }

    pub(in crate::channel) fn uint(&mut self, key: u64) -> Result<u64, MessageError> {
        let fail = MessageError::Field(key);
        u64::try_from(self.take(key)?.into_integer().map_err(|_| fail.clone())?).map_err(|_| fail)
    }

    pub(in crate::channel) fn bytes(&mut self, key: u64, len_max: usize) -> Result<Vec<u8>, MessageError> {
        let bytes = self.take(key)?.into_bytes().map_err(|_| MessageError::Field(key))?;
        if bytes.len() > len_max { Err(MessageError::Field(key)) } else { Ok(bytes) }
    }

    pub(in crate::channel) fn digest<const N: usize>(&mut self, key: u64) -> Result<[u8; N], MessageError> {
        self.bytes(key, N)?.try_into().map_err(|_| MessageError::Field(key))
    }

    pub(in crate::channel) fn text(&mut self, key: u64, len_max: usize) -> Result<String, MessageError> {
        let text = self.take(key)?.into_text().map_err(|_| MessageError::Field(key))?;
        if text.len() > len_max { Err(MessageError::Field(key)) } else { Ok(text) }
    }

    pub(in crate::channel) fn array(&mut self, key: u64) -> Result<Vec<Value>, MessageError> {
        self.take(key)?.into_array().map_err(|_| MessageError::Field(key))
    }

    fn baseline(&mut self, key: u64) -> Result<Baseline, MessageError> {
        let fail = || MessageError::Field(key);
        let entries = self.take(key)?.into_map().map_err(|_| fail())?;
        if entries.len() > COMPONENTS_MAX {
            return Err(fail());
        }
        let mut baseline = Baseline::new();
        for (name, values) in entries {
            let name = name.into_text().map_err(|_| fail())?;
            let values = values.into_array().map_err(|_| fail())?;
            // In order, so that none stands there twice.
            let late = baseline.last_key_value().is_none_or(|(last, _)| *last < name);
            if name.len() > NAME_LEN_MAX || !late || values.is_empty() || values.len() > VALUES_MAX {
                return Err(fail());
            }
            let digest = |v: Value| v.into_bytes().ok().and_then(|b| b.try_into().ok()).ok_or_else(fail);
            baseline.insert(name, values.into_iter().map(digest).collect::<Result<_, _>>()?);
        }
        Ok(baseline)
    }

    fn chain(&mut self, key: u64) -> Result<Vec<Vec<u8>>, MessageError> {
        let fail = || MessageError::Field(key);
        let chain = self.take(key)?.into_array().map_err(|_| fail())?;
        if chain.is_empty() || chain.len() > RECOVER_CHAIN_MAX {
            return Err(fail());
        }
        let certificate = |v: Value| v.into_bytes().ok().filter(|b| b.len() <= LEAF_LEN_MAX).ok_or_else(fail);
        chain.into_iter().map(certificate).collect()
    }

    pub(in crate::channel) fn finish(self) -> Result<(), MessageError> {
        match self.0.first() {
            Some((key, _)) => Err(MessageError::Unknown(*key)),
            None => Ok(()),
        }
    }
}

/// Why bytes are no message of joining.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// No CBOR map with integer keys, or something follows it.
    #[error("the message is no single CBOR map with integer keys")]
    Cbor,
    /// A field is missing, of another kind, too long or out of its range.
    #[error("field {0} of the message is missing or wrong")]
    Field(u64),
    /// Longer than [`MESSAGE_LEN_MAX`].
    #[error("the message is {len} bytes, expected at most {MESSAGE_LEN_MAX}")]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// The same key twice.
    #[error("key {0} stands in the message twice")]
    Twice(u64),
    /// A key that this kind of message does not have.
    #[error("key {0} does not belong into the message")]
    Unknown(u64),
}

/// The ALPN protocol name of joining (RFC 7301).
pub const ALPN_JOIN: &[u8] = b"countersign-join/1";
/// Longest message in bytes, its length not counted.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Most components of a baseline.
pub const COMPONENTS_MAX: usize = 32;
/// Most values of one component.
pub const VALUES_MAX: usize = 32;
/// Longest name of a profile, a component, a reason or a decision in bytes.
const NAME_LEN_MAX: usize = 64;
/// Longest ECDSA P-256 signature (ASN.1) is 72 bytes.
const SIGNATURE_LEN_MAX: usize = 128;
/// Longest wait that a device can be told, in seconds.
const RETRY_AFTER_MAX: u64 = 3600;
const FIELDS_MAX: usize = 16;
const DEPTH_MAX: usize = 8;
const ASK: u64 = 1;
const MORE: u64 = 2;
const ACK: u64 = 3;
const RECOVER: u64 = 4;
const GRANTED: u64 = 1;
const PART: u64 = 2;
const PENDING: u64 = 3;
const DONE: u64 = 4;
const REFUSED: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> AskMessage {
        AskMessage {
            token: TokenId([1; 16]),
            authority: "spiffe://example.org/device/authority".parse().unwrap(),
            root_spki_sha256: [2; 32],
            name: "web-1".parse().unwrap(),
            csr: vec![3; 300],
            proof: [4; 32],
            facts: Facts {
                profile: "full".into(),
                baseline: [("macs".into(), vec![[6; 32], [7; 32]]), ("cpu".into(), vec![[5; 32]])].into(),
            },
        }
    }

    fn recovery() -> RecoverAsk {
        RecoverAsk {
            chain: vec![vec![1; 500]; 2],
            csr: vec![2; 300],
            signature: vec![3; 72],
            record: "r".into(),
        }
    }

    fn refused(request: &JoinRequest) -> MessageError {
        JoinRequest::decode(&request.encode()).unwrap_err()
    }

    #[test]
    fn messages_read_back_as_they_were() {
        for request in [
            JoinRequest::Ask(Box::new(ask())),
            JoinRequest::More(7),
            JoinRequest::Ack(vec![1; 72]),
            JoinRequest::Recover(Box::new(recovery())),
        ] {
            assert_eq!(JoinRequest::decode(&request.encode()), Ok(request));
        }
        let granted = JoinReply::Granted {
            chain_pem: "c".into(),
            bundle_pem: "b".into(),
            record: "r".into(),
            crl_len: 9,
        };
        let refused = JoinReply::Refused { code: "token_spent".into(), decision: "d".into() };
        let pending = JoinReply::Pending(Duration::from_secs(5));
        for reply in [granted, JoinReply::Part(vec![1]), pending, JoinReply::Done, refused] {
            assert_eq!(JoinReply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn a_message_cut_short_or_with_something_behind_it_is_refused() {
        let whole = JoinRequest::Ask(Box::new(ask())).encode();
        for at in 0..whole.len() {
            assert!(JoinRequest::decode(&whole[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(JoinRequest::decode(&[&whole[..], &[0]].concat()), Err(MessageError::Cbor));
    }

    #[test]
    fn unknown_and_repeated_keys_are_refused() {
        let twice = map([(0, Value::from(MORE)), (1, Value::from(1)), (1, Value::from(1))]);
        assert_eq!(JoinRequest::decode(&twice), Err(MessageError::Twice(1)));
        let more = map([(0, Value::from(MORE)), (1, Value::from(1)), (9, Value::from(1))]);
        assert_eq!(JoinRequest::decode(&more), Err(MessageError::Unknown(9)));
        assert_eq!(JoinRequest::decode(&map([(0, Value::from(77))])), Err(MessageError::Field(0)));
        let named = Value::Map(vec![(Value::from("0"), Value::from(1))]);
        let mut text = Vec::new();
        ciborium::into_writer(&named, &mut text).unwrap();
        assert_eq!(JoinRequest::decode(&text), Err(MessageError::Cbor));
    }

    #[test]
    fn components_stand_once_and_in_order() {
        let play = |names: [&str; 2]| {
            let entry = |name: &str| (Value::from(name), Value::Array(vec![bytes(&[0; 32])]));
            let mut fields = Fields(vec![(8, Value::Map(names.map(entry).into()))]);
            fields.baseline(8).is_ok()
        };
        assert_eq!([["a", "b"], ["a", "a"], ["b", "a"]].map(play), [true, false, false]);
    }

    #[test]
    fn every_part_has_its_bound() {
        let with = |change: &dyn Fn(&mut AskMessage)| {
            let mut ask = ask();
            change(&mut ask);
            JoinRequest::Ask(Box::new(ask))
        };
        assert!(JoinRequest::decode(&with(&|a| a.csr = vec![0; CSR_LEN_MAX]).encode()).is_ok());
        assert_eq!(refused(&with(&|a| a.csr = vec![0; CSR_LEN_MAX + 1])), MessageError::Field(5));
        assert_eq!(refused(&with(&|a| a.facts.profile = "p".repeat(65))), MessageError::Field(7));
        let many = |n: usize| (0..n).map(|i| (format!("{i:03}"), vec![[0; 32]])).collect::<Baseline>();
        assert!(JoinRequest::decode(&with(&|a| a.facts.baseline = many(COMPONENTS_MAX)).encode()).is_ok());
        for baseline in [
            many(COMPONENTS_MAX + 1),
            [("a".into(), vec![[0; 32]; VALUES_MAX + 1])].into(),
            [("a".into(), vec![])].into(),
            [("n".repeat(65), vec![[0; 32]])].into(),
        ] {
            assert_eq!(refused(&with(&|a| a.facts.baseline = baseline.clone())), MessageError::Field(8));
        }
        assert_eq!(refused(&JoinRequest::Ack(vec![0; SIGNATURE_LEN_MAX + 1])), MessageError::Field(1));
        let with = |change: &dyn Fn(&mut RecoverAsk)| {
            let mut ask = recovery();
            change(&mut ask);
            JoinRequest::Recover(Box::new(ask))
        };
        assert!(
            JoinRequest::decode(&with(&|a| a.chain = vec![vec![0; 1]; RECOVER_CHAIN_MAX]).encode()).is_ok()
        );
        assert_eq!(
            refused(&with(&|a| a.chain = vec![vec![0; 1]; RECOVER_CHAIN_MAX + 1])),
            MessageError::Field(1)
        );
        assert_eq!(refused(&with(&|a| a.chain = vec![])), MessageError::Field(1));
        assert_eq!(refused(&with(&|a| a.chain = vec![vec![0; LEAF_LEN_MAX + 1]])), MessageError::Field(1));
        assert_eq!(refused(&with(&|a| a.csr = vec![0; CSR_LEN_MAX + 1])), MessageError::Field(2));
        assert_eq!(refused(&with(&|a| a.signature = vec![0; SIGNATURE_LEN_MAX + 1])), MessageError::Field(3));
        assert_eq!(refused(&with(&|a| a.record = "r".repeat(RECORD_LEN_MAX + 1))), MessageError::Field(4));
        let long = JoinReply::Part(vec![0; MESSAGE_LEN_MAX]).encode();
        assert_eq!(JoinReply::decode(&long), Err(MessageError::Length { len: long.len() }));
        let late = JoinReply::Pending(Duration::from_secs(RETRY_AFTER_MAX + 1)).encode();
        assert_eq!(JoinReply::decode(&late), Err(MessageError::Field(1)));
        let deep = [vec![0x81; 1000], vec![0]].concat();
        assert_eq!(JoinRequest::decode(&deep), Err(MessageError::Cbor));
    }
}
