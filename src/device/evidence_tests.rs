//! Evidence is taken only on the connection, from the key and in the role that it was made for.

use coset::ContentType;
use proptest::prelude::*;

use super::super::testing::{Key, NOW, claims, machine};
use super::*;
use crate::device::{Role, binder};

/// A prover and a verifier on one connection.
struct World {
    prover: Key,
    verifier: Key,
    claims: Claims,
}

impl World {
    fn new() -> Self {
        Self { prover: Key::new(), verifier: Key::new(), claims: claims(&machine(1, 1)) }
    }

    fn binder(&self) -> Binder {
        binder(Role::Client, &self.prover.spki_sha256(), &self.verifier.spki_sha256(), &[5; 32])
    }

    fn evidence(&self) -> Vec<u8> {
        make(&self.claims, &self.binder(), &self.prover).unwrap()
    }

    fn open(&self, bytes: &[u8]) -> Result<Claims, EvidenceError> {
        open(bytes, &self.binder(), self.prover.public_key_spki())
    }

    /// A COSE_Sign1 around this payload and headers, rightly signed.
    fn signed(&self, payload: Vec<u8>, protected: Header, unprotected: Header) -> Vec<u8> {
        let builder = CoseSign1Builder::new().protected(protected).unprotected(unprotected).payload(payload);
        let sign = |m: &[u8]| sign_p256(&self.prover, m).unwrap().to_vec();
        builder.create_signature(EVIDENCE_LABEL, sign).build().to_tagged_vec().unwrap()
    }

    /// Rightly signed evidence whose claims `change` has bent.
    fn bent(&self, change: impl FnOnce(&mut Vec<(Value, Value)>)) -> Result<Claims, EvidenceError> {
        let Value::Map(mut fields) = self.claims.to_value(&self.binder()) else { panic!() };
        change(&mut fields);
        let header = header(self.prover.spki_sha256());
        self.open(&self.signed(cbor::write(&Value::Map(fields)), header, Header::default()))
    }
}

/// The value of a claim.
fn at(fields: &mut [(Value, Value)], key: i64) -> &mut Value {
    &mut fields.iter_mut().find(|(k, _)| *k == Value::from(key)).unwrap().1
}

fn name(name: &str) -> Value {
    Value::from(name)
}

fn values(values: &[u8]) -> Value {
    Value::Array(values.iter().map(|v| Value::Bytes(vec![*v; 16])).collect())
}

fn many(n: u8) -> Vec<u8> {
    (0..n).collect()
}

fn components_of(fields: &mut [(Value, Value)]) -> &mut Vec<(Value, Value)> {
    at(fields, COMPONENTS).as_map_mut().unwrap()
}

#[test]
fn what_was_made_for_this_connection_is_taken() {
    let mut world = World::new();
    let evidence = world.evidence();
    assert_eq!(world.open(&evidence).as_ref(), Ok(&world.claims));
    assert!(evidence.len() < 1024, "{}", evidence.len());
    assert_eq!(evidence[0], 0xd2, "tag 18");
    world.claims.new_leaf_sha256 = Some([3; 32]);
    assert_eq!(world.open(&world.evidence()).as_ref(), Ok(&world.claims));
}

#[test]
fn replayed_evidence_is_refused() {
    let world = World::new();
    let (own, peer) = (world.prover.spki_sha256(), world.verifier.spki_sha256());
    let later = binder(Role::Client, &own, &peer, &[6; 32]);
    let error = open(&world.evidence(), &later, world.prover.public_key_spki()).unwrap_err();
    assert_eq!((error.reason(), error), (Reason::EvidenceBinding, EvidenceError::OtherConnection));
}

#[test]
fn evidence_relayed_to_another_verifier_is_refused() {
    // The same exporter, as if the handshake's secrets had been forced to be the same on both sides.
    let world = World::new();
    let other = binder(Role::Client, &world.prover.spki_sha256(), &Key::new().spki_sha256(), &[5; 32]);
    let error = open(&world.evidence(), &other, world.prover.public_key_spki()).unwrap_err();
    assert_eq!((error.reason(), error), (Reason::EvidenceBinding, EvidenceError::OtherConnection));
}

#[test]
fn evidence_relayed_under_another_certificate_is_refused() {
    let world = World::new();
    let middle = Key::new();
    let seen = binder(Role::Client, &middle.spki_sha256(), &world.verifier.spki_sha256(), &[5; 32]);
    let error = open(&world.evidence(), &seen, middle.public_key_spki()).unwrap_err();
    assert_eq!((error.reason(), error), (Reason::EvidenceBinding, EvidenceError::OtherKey));
}

#[test]
fn reflected_evidence_is_refused() {
    // A device that is told to speak with itself: one key on both ends, only the role differs.
    let world = World::new();
    let own = world.prover.spki_sha256();
    let sent = make(&world.claims, &binder(Role::Client, &own, &own, &[5; 32]), &world.prover).unwrap();
    let back = binder(Role::Server, &own, &own, &[5; 32]);
    let error = open(&sent, &back, world.prover.public_key_spki()).unwrap_err();
    assert_eq!((error.reason(), error), (Reason::EvidenceBinding, EvidenceError::OtherConnection));
    // And to its own verifier, whose key it is not.
    let back = binder(Role::Server, &world.verifier.spki_sha256(), &own, &[5; 32]);
    let error = open(&world.evidence(), &back, world.verifier.public_key_spki()).unwrap_err();
    assert_eq!(error, EvidenceError::OtherKey);
}

#[test]
fn every_bit_of_evidence_counts() {
    let world = World::new();
    let evidence = world.evidence();
    for at in 0..evidence.len() {
        for bit in 0..8 {
            let mut bent = evidence.clone();
            bent[at] ^= 1 << bit;
            assert!(world.open(&bent).is_err(), "bit {bit} of byte {at} of {}", evidence.len());
        }
    }
}

#[test]
fn evidence_cut_or_with_more_behind_it_is_refused() {
    let world = World::new();
    let evidence = world.evidence();
    for len in 0..evidence.len() {
        assert_eq!(world.open(&evidence[..len]), Err(EvidenceError::Envelope), "cut at {len}");
    }
    assert_eq!(world.open(&[&evidence[..], &[0]].concat()), Err(EvidenceError::Envelope));
}

#[test]
fn evidence_longer_than_its_bound_is_refused() {
    let world = World::new();
    let error = world.open(&vec![0; EVIDENCE_LEN_MAX + 1]).unwrap_err();
    let expected = EvidenceError::TooLarge { len: EVIDENCE_LEN_MAX + 1 };
    assert_eq!((error.reason(), error), (Reason::EvidenceMalformed, expected));
    // One that is right in all but its length: claims cannot be that long, so it says what is foreign.
    let long = |len: usize| {
        let header = header(world.prover.spki_sha256());
        world.signed(cbor::write(&Value::Bytes(vec![0; len])), header, Header::default())
    };
    let rest = long(EVIDENCE_LEN_MAX / 2).len() - EVIDENCE_LEN_MAX / 2;
    let at_bound = long(EVIDENCE_LEN_MAX - rest);
    assert_eq!(at_bound.len(), EVIDENCE_LEN_MAX);
    assert_eq!(world.open(&at_bound), Err(EvidenceError::Claims));
}

#[test]
fn an_unprotected_header_with_anything_in_it_is_refused() {
    let world = World::new();
    let payload = cbor::write(&world.claims.to_value(&world.binder()));
    let right = || header(world.prover.spki_sha256());
    assert!(world.open(&world.signed(payload.clone(), right(), Header::default())).is_ok());
    for extra in [
        HeaderBuilder::new().key_id(world.prover.spki_sha256().to_vec()).build(),
        HeaderBuilder::new().algorithm(Algorithm::ES256).build(),
        HeaderBuilder::new().value(99, Value::Null).build(),
    ] {
        assert_eq!(world.open(&world.signed(payload.clone(), right(), extra)), Err(EvidenceError::Envelope));
    }
}

#[test]
fn a_protected_header_other_than_ours_is_refused() {
    let world = World::new();
    let payload = cbor::write(&world.claims.to_value(&world.binder()));
    let kid = world.prover.spki_sha256().to_vec();
    let builder = || HeaderBuilder::new().key_id(kid.clone());
    let play = |protected| world.open(&world.signed(payload.clone(), protected, Header::default()));
    for algorithm in [Algorithm::EdDSA, Algorithm::ES384, Algorithm::HMAC_256_256, Algorithm::ES256K] {
        assert_eq!(play(builder().algorithm(algorithm).build()), Err(EvidenceError::Algorithm));
    }
    assert_eq!(play(builder().build()), Err(EvidenceError::Algorithm));
    let right = || HeaderBuilder::new().algorithm(Algorithm::ES256);
    assert_eq!(play(right().build()), Err(EvidenceError::OtherKey));
    assert_eq!(play(right().key_id(vec![0; 32]).build()), Err(EvidenceError::OtherKey));
    let mut more = builder().algorithm(Algorithm::ES256).build();
    more.content_type = Some(ContentType::Text("a/b".into()));
    assert_eq!(play(more), Err(EvidenceError::OtherKey));
    let long = HeaderBuilder::new().algorithm(Algorithm::ES256).key_id(vec![0; PROTECTED_LEN_MAX]).build();
    assert_eq!(play(long), Err(EvidenceError::Envelope));
}

#[test]
fn another_tag_or_none_is_refused() {
    let world = World::new();
    let evidence = world.evidence();
    assert_eq!(world.open(&evidence[1..]), Err(EvidenceError::Envelope));
    // COSE_Mac0, and COSE_Sign1 wrapped as a CWT.
    assert_eq!(world.open(&[&[0xd1], &evidence[1..]].concat()), Err(EvidenceError::Envelope));
    assert_eq!(world.open(&[&[0xd8, 61], &evidence[..]].concat()), Err(EvidenceError::Envelope));
    // The same value in a longer spelling.
    assert_eq!(world.open(&[&[0xd8, 18], &evidence[1..]].concat()), Err(EvidenceError::Envelope));
    assert_eq!(world.open(&[&[0xd2, 0x98, 4], &evidence[2..]].concat()), Err(EvidenceError::Envelope));
}

#[test]
fn a_signature_by_another_key_under_the_right_name_is_refused() {
    let world = World::new();
    let thief = Key::new();
    let payload = cbor::write(&world.claims.to_value(&world.binder()));
    let sign = |m: &[u8]| sign_p256(&thief, m).unwrap().to_vec();
    let builder = CoseSign1Builder::new().protected(header(world.prover.spki_sha256())).payload(payload);
    let forged = builder.create_signature(EVIDENCE_LABEL, sign).build().to_tagged_vec().unwrap();
    let error = world.open(&forged).unwrap_err();
    assert_eq!((error.reason(), error), (Reason::EvidenceSignature, EvidenceError::Signature));
}

#[test]
fn a_signature_for_another_use_is_refused() {
    let world = World::new();
    let payload = cbor::write(&world.claims.to_value(&world.binder()));
    let sign = |m: &[u8]| sign_p256(&world.prover, m).unwrap().to_vec();
    let builder = CoseSign1Builder::new().protected(header(world.prover.spki_sha256())).payload(payload);
    let other = builder.create_signature(b"another protocol", sign).build().to_tagged_vec().unwrap();
    assert_eq!(world.open(&other), Err(EvidenceError::Signature));
}

#[test]
fn claims_that_are_missing_foreign_or_twice_there_are_refused() {
    let world = World::new();
    assert!(world.bent(|_| ()).is_ok());
    let count = world.claims.to_value(&world.binder()).as_map().unwrap().len();
    for n in 0..count {
        assert_eq!(world.bent(|f| drop(f.remove(n))), Err(EvidenceError::Claims), "without the {n}th");
        assert_eq!(world.bent(|f| f.push(f[n].clone())), Err(EvidenceError::Claims), "the {n}th twice");
        assert_eq!(world.bent(|f| f[n].1 = Value::Null), Err(EvidenceError::Claims), "the {n}th null");
    }
    let foreign = |key: Value| world.bent(|f| f.push((key, Value::from(1))));
    assert_eq!(foreign(Value::from(4)), Err(EvidenceError::Claims));
    assert_eq!(foreign(Value::from("text")), Err(EvidenceError::Claims));
    assert_eq!(foreign(Value::from(u64::MAX)), Err(EvidenceError::Claims));
}

#[test]
fn components_that_are_unknown_twice_there_or_no_set_are_refused() {
    let world = World::new();
    let play = |change: fn(&mut Vec<(Value, Value)>)| world.bent(|f| change(components_of(f)));
    assert_eq!(play(|c| c.push((name("hostname"), values(&[1])))), Err(EvidenceError::Claims));
    assert_eq!(play(|c| c.push(c[0].clone())), Err(EvidenceError::Claims));
    assert_eq!(play(|c| c[0].0 = Value::from(1)), Err(EvidenceError::Claims));
    assert!(play(|c| c[0].1 = values(&[1, 2])).is_ok());
    assert_eq!(play(|c| c[0].1 = values(&[2, 1])), Err(EvidenceError::Claims));
    assert_eq!(play(|c| c[0].1 = values(&[1, 1])), Err(EvidenceError::Claims));
    assert_eq!(play(|c| c[0].1 = values(&[])), Err(EvidenceError::Claims));
    assert!(play(|c| c[0].1 = values(&many(16))).is_ok());
    assert_eq!(play(|c| c[0].1 = values(&many(17))), Err(EvidenceError::Claims));
    assert_eq!(play(|c| c[0].1 = Value::Array(vec![Value::Bytes(vec![1; 15])])), Err(EvidenceError::Claims));
    assert!(play(|c| c.clear()).is_ok(), "nothing presented is for the appraisal to judge");
}

#[test]
fn claims_of_another_profile_or_with_odd_texts_are_refused() {
    let world = World::new();
    let play = |key, value: Value| world.bent(|f| *at(f, key) = value);
    assert_eq!(play(EAT_PROFILE, Value::from("urn:x-countersign:evidence:2")), Err(EvidenceError::Claims));
    assert!(play(SWNAME, Value::from("x".repeat(TEXT_LEN_MAX))).is_ok());
    for text in [&"x".repeat(TEXT_LEN_MAX + 1), "", "a\nb", "ä", "\u{202e}"] {
        assert_eq!(play(SWNAME, Value::from(text)), Err(EvidenceError::Claims), "{text}");
        let version = Value::Array(vec![Value::from(text)]);
        assert_eq!(play(SWVERSION, version), Err(EvidenceError::Claims), "{text}");
    }
    let two = Value::Array(vec![Value::from("1"), Value::from(1)]);
    assert_eq!(play(SWVERSION, two), Err(EvidenceError::Claims));
    assert_eq!(play(IAT, Value::from(-1)), Err(EvidenceError::Claims));
    assert_eq!(play(IAT, Value::from(u64::MAX)), Err(EvidenceError::Claims));
    assert_eq!(play(BOOT, Value::Bytes(vec![0; 17])), Err(EvidenceError::Claims));
}

#[test]
fn what_is_nested_deeply_is_refused_without_going_down() {
    let world = World::new();
    for byte in [0x81, 0xa1, 0xd2, 0x9f] {
        let bytes = vec![byte; EVIDENCE_LEN_MAX];
        assert_eq!(world.open(&bytes), Err(EvidenceError::Envelope));
        assert_eq!(parse_claims(&bytes), Err(EvidenceError::Claims));
    }
    // Deep inside the protected header, which another reader takes apart.
    let protected = vec![0x81; PROTECTED_LEN_MAX];
    let parts = vec![Value::Bytes(protected), Value::Map(vec![]), Value::Bytes(vec![]), Value::Bytes(vec![])];
    let bytes = cbor::write(&Value::Tag(18, Box::new(Value::Array(parts))));
    assert_eq!(world.open(&bytes), Err(EvidenceError::Envelope));
}

#[test]
fn claims_that_nobody_would_take_are_not_made() {
    let mut world = World::new();
    let refused = |claims: &Claims| make(claims, &world.binder(), &world.prover).is_err();
    let version = |text: &str| Claims { version: text.into(), ..world.claims.clone() };
    assert!(refused(&version("")) && refused(&version("1\n2")) && refused(&version(&"1".repeat(65))));
    let half_a_second = Timestamp::from_millis(NOW.as_millis() + 500);
    assert!(refused(&Claims { issued_at: half_a_second, ..world.claims.clone() }));
    world.claims.components.insert(Component::Cpu, vec![]);
    assert!(make(&world.claims, &world.binder(), &world.prover).is_err());
}

proptest! {
    #[test]
    fn bytes_put_anywhere_never_pass(at in 0_usize..700, with in prop::collection::vec(any::<u8>(), 0..40), over in 0_usize..40) {
        thread_local! { static WORLD: (World, Vec<u8>) = { let w = World::new(); let e = w.evidence(); (w, e) } }
        WORLD.with(|(world, evidence)| {
            let at = at.min(evidence.len());
            let end = (at + over).min(evidence.len());
            let bent = [&evidence[..at], &with, &evidence[end..]].concat();
            prop_assert!(bent == *evidence || world.open(&bent).is_err());
            Ok(())
        })?;
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let key = [0; 91];
        let _ = open(&bytes, &binder(Role::Client, &[0; 32], &[0; 32], &[0; 32]), &key);
        let _ = parse_claims(&bytes);
    }
}

#[test]
fn our_claims_have_their_numbers() {
    // Others read them, too (docs/evidence.md).
    let ours = [COMPONENTS, BOOT, COUNTER, CONFIG, POLICY, NEW_LEAF];
    assert_eq!(ours, [-70_001, -70_004, -70_005, -70_006, -70_007, -70_008]);
    assert_eq!([IAT, EAT_NONCE, UEID, EAT_PROFILE, SWNAME, SWVERSION], [6, 10, 256, 265, 270, 271]);
}
