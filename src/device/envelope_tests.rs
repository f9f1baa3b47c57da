//! Messages read back as they were sent, and nothing else reads.

use proptest::prelude::*;

use super::super::testing::{Key, claims, machine};
use super::*;
use crate::device::{Role, binder};

fn small() -> Message {
    Message { evidence: vec![1, 2, 3], ..Message::default() }
}

fn full() -> Message {
    let chain = vec![vec![1; CERTIFICATE_LEN_MAX]; CHAIN_MAX];
    Message {
        evidence: vec![7; EVIDENCE_LEN_MAX],
        record: Some("r".repeat(RECORD_LEN_MAX)),
        continuity: Some([1; 32]),
        new_leaf: Some(NewLeaf { chain, signature: [2; 64] }),
        nonce: Some([3; 32]),
        continuity_next: Some([4; 32]),
    }
}

fn answer(message: Message) -> Answer {
    let (verdict, tier, score) = (Verdict::Drift, Tier::Software, Score::from_percent(84));
    Answer { message, verdict, tier, score, lease_ttl_s: 60 }
}

#[test]
fn what_is_sent_reads_back() {
    for message in [small(), full()] {
        assert_eq!(Message::read(&message.to_bytes().unwrap()), Ok(message.clone()));
        let answer = answer(message);
        assert_eq!(Answer::read(&answer.to_bytes().unwrap()), Ok(answer));
    }
    for verdict in [Verdict::Match, Verdict::Drift, Verdict::Quarantine] {
        let answer = Answer { verdict, ..answer(small()) };
        assert_eq!(Answer::read(&answer.to_bytes().unwrap()).unwrap().verdict, verdict);
    }
}

#[test]
fn every_part_has_its_bound() {
    let over: [fn(&mut Message); 6] = [
        |m| m.evidence.push(0),
        |m| m.record.as_mut().unwrap().push('x'),
        |m| m.new_leaf.as_mut().unwrap().chain.push(vec![1]),
        |m| m.new_leaf.as_mut().unwrap().chain[0].push(1),
        |m| m.new_leaf.as_mut().unwrap().chain[0].clear(),
        |m| m.new_leaf.as_mut().unwrap().chain.clear(),
    ];
    for (n, change) in over.into_iter().enumerate() {
        let mut message = full();
        change(&mut message);
        assert_eq!(message.to_bytes(), Err(EnvelopeError::Unsendable), "{n}");
        let bytes = cbor::write(&cbor::map(message.fields()));
        assert_eq!(Message::read(&bytes), Err(EnvelopeError::Malformed), "{n}");
    }
}

#[test]
fn a_message_longer_than_its_bound_is_refused_unread() {
    let bytes = vec![0xa0; MESSAGE_LEN_MAX + 1];
    let error = Message::read(&bytes).unwrap_err();
    assert_eq!(error, EnvelopeError::TooLarge { len: MESSAGE_LEN_MAX + 1 });
    assert_eq!(error.reason(), Reason::EvidenceMalformed);
    assert!(matches!(Answer::read(&bytes), Err(EnvelopeError::TooLarge { .. })));
    assert_eq!(Message::read(&bytes[..MESSAGE_LEN_MAX]), Err(EnvelopeError::Malformed));
}

#[test]
fn keys_that_are_missing_foreign_or_twice_there_are_refused() {
    let play = |fields: Vec<(i64, Value)>| Message::read(&cbor::write(&cbor::map(fields)));
    let bytes = |n: usize| Value::Bytes(vec![1; n]);
    assert!(play(vec![(EVIDENCE, bytes(3))]).is_ok());
    for wrong in [
        vec![],
        vec![(NONCE, bytes(32))],
        vec![(EVIDENCE, bytes(3)), (EVIDENCE, bytes(3))],
        vec![(EVIDENCE, bytes(3)), (VERDICT, Value::from(0))],
        vec![(EVIDENCE, bytes(3)), (0, Value::Null)],
        vec![(EVIDENCE, bytes(3)), (NONCE, bytes(31))],
        vec![(EVIDENCE, bytes(3)), (NONCE, Value::Null)],
        vec![(EVIDENCE, bytes(3)), (RECORD, bytes(3))],
        vec![(EVIDENCE, Value::from("text"))],
    ] {
        assert_eq!(play(wrong.clone()), Err(EnvelopeError::Malformed), "{wrong:?}");
    }
    let text = Value::Map(vec![(Value::from("evidence"), bytes(3))]);
    assert_eq!(Message::read(&cbor::write(&text)), Err(EnvelopeError::Malformed));
}

#[test]
fn an_answer_says_nothing_that_it_cannot() {
    let right = answer(small());
    let play = |key: i64, number: u64| {
        let mut fields = right.message.fields();
        let rest = [(VERDICT, 1), (TIER, 1), (SCORE, 84), (LEASE_TTL_S, 60)];
        fields.extend(rest.map(|(k, n)| (k, Value::from(if k == key { number } else { n }))));
        Answer::read(&cbor::write(&cbor::map(fields)))
    };
    assert_eq!(play(0, 0), Ok(right.clone()));
    for (key, number) in [(VERDICT, 3), (VERDICT, 257), (TIER, 4), (SCORE, 101), (LEASE_TTL_S, 1 << 32)] {
        assert_eq!(play(key, number), Err(EnvelopeError::Malformed), "{key} {number}");
    }
    assert_eq!(Answer::read(&small().to_bytes().unwrap()), Err(EnvelopeError::Malformed));
    assert_eq!(Message::read(&right.to_bytes().unwrap()), Err(EnvelopeError::Malformed));
}

#[test]
fn a_new_leaf_needs_the_word_of_the_old_key_and_of_its_own() {
    let key = Key::new();
    let here = binder(Role::Client, &[1; 32], &[2; 32], &[3; 32]);
    let there = binder(Role::Client, &[1; 32], &[2; 32], &[4; 32]);
    let new = NewLeaf::prove(vec![b"leaf".to_vec(), b"ca".to_vec()], &here, &key).unwrap();
    let mut claims = claims(&machine(1, 1));
    let spki = key.public_key_spki();
    assert_eq!(new.check(&claims, &here, spki), Err(Reason::EvidenceBinding));
    claims.new_leaf_sha256 = Some(new.leaf_sha256());
    assert_eq!(new.check(&claims, &here, spki), Ok(()));
    assert_eq!(new.check(&claims, &there, spki), Err(Reason::EvidenceSignature));
    assert_eq!(new.check(&claims, &here, Key::new().public_key_spki()), Err(Reason::EvidenceSignature));
    let other = NewLeaf { chain: vec![b"other".to_vec()], ..new };
    assert_eq!(other.check(&claims, &here, spki), Err(Reason::EvidenceBinding));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::read(&bytes);
        let _ = Answer::read(&bytes);
    }
}

#[test]
fn the_longest_certificate_is_seven_kibibytes() {
    assert_eq!((CERTIFICATE_LEN_MAX, MESSAGE_LEN_MAX), (7168, 65_536));
}
