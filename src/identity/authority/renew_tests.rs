//! Who gets its next certificate, on a session and after the end of the last one, and who does not.

use super::super::enrol::{Enrolment, Gift};
use super::super::own::Identity;
use super::super::svid::svid;
use super::super::testing::{Book, HOUR, World, id};
use super::super::{LeafSigner, Places};
use super::*;
use crate::model::{Reason, Sign};

const X: [u8; 32] = [9; 32];

/// A CA, a device of it with a record, and what it would renew with.
struct Scene {
    world: World,
    settings: Settings,
    book: Book,
    device: Identity,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let device = world.device("web-1");
        let settings = Settings {
            ca: world.ca(),
            records: world.dir.path().join("devices"),
            approval: Approval::Auto,
            leaf_ttl: HOUR,
            crl_ttl: CRL_TTL_DEFAULT,
            record_ttl: 24 * HOUR,
            recover_grace: 48 * HOUR,
        };
        let book = Book::default();
        book.enter(&id("web-1"), device.signer().svid().spki_sha256);
        Self { world, settings, book, device }
    }

    fn begun(&self, dir: &str) -> Enrolment {
        Enrolment::renew(&self.world.dir.path().join(dir), &self.device.signer()).unwrap()
    }

    fn ask(&self, begun: &Enrolment) -> RenewAsk {
        let leaf = self.device.signer();
        RenewAsk { id: id("web-1"), spki_sha256: leaf.svid().spki_sha256, csr: begun.csr().to_vec() }
    }

    fn renew(&self, ask: &RenewAsk, now: Timestamp) -> Result<Granted, Reason> {
        renew(&self.settings, &id("authority"), ask, &self.book, now).map_err(|e| e.reason)
    }

    fn recovery(&self, leaf: &LeafSigner, begun: &Enrolment) -> RecoverAsk {
        RecoverAsk {
            chain: leaf.chain().iter().map(|der| der.to_vec()).collect(),
            csr: begun.csr().to_vec(),
            signature: leaf.sign(&recover_message(&X, begun.csr())).unwrap(),
            record: String::new(),
        }
    }

    fn recover(&self, ask: &RecoverAsk, now: Timestamp) -> Result<Granted, Reason> {
        recover(&self.settings, &id("authority"), ask, &X, &self.book, now).map_err(|e| e.reason)
    }

    fn serials(&self) -> usize {
        show(&self.world.ca(), self.world.now).unwrap().issued.len()
    }
}

fn gift(granted: &Granted) -> Gift {
    Gift {
        chain_pem: granted.chain_pem.clone(),
        bundle_pem: granted.bundle_pem.clone(),
        crl_pem: granted.crl_pem.clone(),
        record: granted.record.clone(),
    }
}

#[test]
fn the_key_of_the_record_gets_the_next_certificate_and_the_same_request_the_same_again() {
    let scene = Scene::new();
    let begun = scene.begun("state");
    let (ask, now) = (scene.ask(&begun), scene.world.now);
    let first = scene.renew(&ask, now).unwrap();
    assert_eq!((first.record.as_str(), first.again, first.spends_a_token()), ("record 1+", false, false));
    let joined = begun.check(&gift(&first), now).unwrap();
    assert_eq!((joined.issued.id.clone(), joined.issued.serial.clone()), (id("web-1"), first.serial.clone()));
    assert!(svid(&joined.leaf_der).unwrap().has_fingerprint_extension);
    // The answer was lost on the way: the record is for the new key by now, and the old one may ask again.
    let again = scene.renew(&ask, now).unwrap();
    assert_eq!((again.chain_pem == first.chain_pem, again.again, scene.serials()), (true, true, 2));
    // It never came in time at all: the same key gets another.
    let late = scene.renew(&ask, now.plus(2 * HOUR)).unwrap();
    assert_eq!((late.again, scene.serials()), (false, 3));
}

#[test]
fn a_key_that_was_renewed_gets_nothing_for_another_one() {
    let scene = Scene::new();
    let now = scene.world.now;
    scene.renew(&scene.ask(&scene.begun("state")), now).unwrap();
    let thief = scene.begun("thief");
    assert_eq!(scene.renew(&scene.ask(&thief), now).unwrap_err(), Reason::RenewSuperseded);
    assert_eq!(
        scene.recover(&scene.recovery(&scene.device.signer(), &thief), now).unwrap_err(),
        Reason::RenewSuperseded
    );
    assert_eq!(scene.serials(), 2);
}

#[test]
fn who_is_barred_foreign_or_unknown_gets_nothing() {
    let scene = Scene::new();
    let (begun, now) = (scene.begun("state"), scene.world.now);
    let ask = scene.ask(&begun);
    for reason in [Reason::DeviceQuarantined, Reason::DeviceRevoked] {
        scene.book.bar(&id("web-1"), Some(reason));
        assert_eq!(scene.renew(&ask, now).unwrap_err(), reason);
    }
    scene.book.bar(&id("web-1"), None);
    let unknown = RenewAsk { id: id("web-2"), ..ask.clone() };
    assert_eq!(scene.renew(&unknown, now).unwrap_err(), Reason::RecordMissing);
    let foreign = RenewAsk { id: "spiffe://other.org/device/web-1".parse().unwrap(), ..ask.clone() };
    assert_eq!(scene.renew(&foreign, now).unwrap_err(), Reason::TrustDomainForeign);
    let broken = RenewAsk { csr: b"what".to_vec(), ..ask.clone() };
    assert_eq!(scene.renew(&broken, now).unwrap_err(), Reason::JoinCsrInvalid);
    let other = scene.world.device("web-2");
    let other = Enrolment::renew(&scene.world.dir.path().join("other"), &other.signer()).unwrap();
    let other = RenewAsk { csr: other.csr().to_vec(), ..ask };
    assert_eq!(scene.renew(&other, now).unwrap_err(), Reason::JoinNameMismatch);
    assert_eq!(scene.serials(), 2);
}

#[test]
fn an_expired_device_recovers_within_the_grace_and_not_after_it() {
    let mut scene = Scene::new();
    let begun = scene.begun("state");
    let leaf = scene.device.signer();
    let ask = scene.recovery(&leaf, &begun);
    let end = leaf.svid().not_after;
    let late = end.plus(scene.settings.recover_grace);
    assert_eq!(scene.recover(&ask, late).unwrap_err(), Reason::RecoverLate);
    let granted = scene.recover(&ask, Timestamp::from_millis(late.as_millis() - 1)).unwrap();
    let at = Timestamp::from_millis(late.as_millis() - 1);
    assert!(begun.check(&gift(&granted), at).is_ok());
    scene.settings.recover_grace = std::time::Duration::ZERO;
    assert_eq!(scene.recover(&ask, end).unwrap_err(), Reason::RecoverOff);
}

#[test]
fn a_recovery_must_prove_the_very_certificate_on_this_connection_for_this_request() {
    let scene = Scene::new();
    let begun = scene.begun("state");
    let leaf = scene.device.signer();
    let (good, at) = (scene.recovery(&leaf, &begun), leaf.svid().not_after.plus(HOUR));
    let thief = scene.begun("thief");
    let stranger = scene.world.device("web-2").signer();
    let other_world = World::new();
    let theirs = other_world.device("web-1").signer();
    let bent = |change: &dyn Fn(&mut RecoverAsk)| {
        let mut ask = good.clone();
        change(&mut ask);
        scene.recover(&ask, at).unwrap_err()
    };
    let refused = Reason::RecoverRefused;
    assert_eq!(bent(&|a| a.csr = thief.csr().to_vec()), refused, "for another request");
    assert_eq!(
        bent(&|a| a.signature = leaf.sign(&recover_message(&[8; 32], &a.csr)).unwrap()),
        refused,
        "replayed"
    );
    assert_eq!(
        bent(&|a| a.signature = stranger.sign(&recover_message(&X, &a.csr)).unwrap()),
        refused,
        "another key"
    );
    assert_eq!(bent(&|a| a.signature.clear()), refused);
    assert_eq!(bent(&|a| a.chain.clear()), refused);
    assert_eq!(bent(&|a| a.chain = vec![a.chain[0].clone(); RECOVER_CHAIN_MAX + 1]), refused);
    assert_eq!(bent(&|a| a.chain[0][40] ^= 1), refused);
    assert_eq!(bent(&|a| *a = scene.recovery(&theirs, &begun)), refused, "of another CA");
    // A right certificate that this CA never wrote down.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let forged = scene.world.with_key("web-1", &key);
    let chain = parse_certificates(forged.leaf_pem.as_bytes()).unwrap();
    let forged = |a: &mut RecoverAsk| {
        a.chain = chain.iter().map(|der| der.to_vec()).collect();
        a.signature = rcgen::SigningKey::sign(&key, &recover_message(&X, &a.csr)).unwrap();
    };
    assert_eq!(bent(&forged), refused, "not in the ledger");
    assert!(scene.recover(&good, at).is_ok());
}

#[test]
fn a_revoked_or_barred_device_does_not_recover() {
    let scene = Scene::new();
    let leaf = scene.device.signer();
    let ask = scene.recovery(&leaf, &scene.begun("state"));
    let at = leaf.svid().not_after.plus(HOUR);
    scene.book.bar(&id("web-1"), Some(Reason::DeviceQuarantined));
    assert_eq!(scene.recover(&ask, at).unwrap_err(), Reason::DeviceQuarantined);
    scene.book.bar(&id("web-1"), None);
    revoke(&scene.world.ca(), "web-1", scene.world.now).unwrap();
    assert_eq!(scene.recover(&ask, at).unwrap_err(), Reason::CertificateRevoked);
}

#[test]
fn what_is_given_is_checked_before_it_is_put_in_place_and_then_fits() {
    let scene = Scene::new();
    let begun = scene.begun("state");
    let now = scene.world.now;
    let good = gift(&scene.renew(&scene.ask(&begun), now).unwrap());
    let other = World::new();
    let refused = |change: &dyn Fn(&mut Gift)| {
        let mut gift = good.clone();
        change(&mut gift);
        begun.check(&gift, now).unwrap_err().to_string()
    };
    let their_bundle = std::fs::read_to_string(other.ca().join("bundle.pem")).unwrap();
    assert!(refused(&|g| g.bundle_pem.clone_from(&their_bundle)).contains("shares no root with ours"));
    assert!(refused(&|g| g.chain_pem = other.issue("web-1").leaf_pem).contains("does not verify"));
    assert!(refused(&|g| g.chain_pem = scene.world.issue("web-1").leaf_pem).contains("for another key"));
    assert!(refused(&|g| g.chain_pem = scene.world.issue("web-2").leaf_pem).contains("does not verify"));
    let settings = scene.world.settings("web-1");
    scene.world.issue("web-1");
    let places = Places::new(&settings, &scene.world.dir.path().join("web-1/device.record"));
    let joined = begun.check(&good, now).unwrap();
    places.install(&joined.issued, &good.record).unwrap();
    assert!(!places.finish().unwrap());
    let fresh = Identity::load(&settings, now).unwrap();
    assert_eq!(fresh.signer().svid().serial_hex(), joined.issued.serial);
    assert_eq!(std::fs::read_to_string(&places.record).unwrap(), "record 1+");
    // An expired leaf is told from one that is wrong.
    assert!(places.lapsed(now).is_none());
    let end = fresh.signer().svid().not_after;
    assert_eq!(places.lapsed(end.plus(HOUR)).unwrap().svid().id, id("web-1"));
    std::fs::copy(scene.world.ca().join("issuing.key"), &settings.key).unwrap();
    assert!(places.lapsed(end.plus(HOUR)).is_none());
}
