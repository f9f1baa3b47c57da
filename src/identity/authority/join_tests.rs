//! What joining promises at the authority: who is let in, with what, how often.

use std::os::unix::fs::PermissionsExt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519,
};

use super::super::enrol::{EnrolError, Enrolment, Gift};
use super::super::svid::svid;
use super::super::testing::{HOUR, World, id};
use super::*;
use crate::model::{Reason, Sign, Tier};

const X: [u8; 32] = [9; 32];

/// An authority, a token of it, and a device that wants in.
struct Scene {
    world: World,
    token: Token,
    device: Enrolment,
    settings: Settings,
}

impl Scene {
    fn new(approval: Approval) -> Self {
        let world = World::new();
        let (token, _) = invite(&world.ca(), &request("web-1"), world.now).unwrap();
        let device = Enrolment::begin(&world.dir.path().join("web-1/state"), &token).unwrap();
        let settings = Settings {
            ca: world.ca(),
            records: world.dir.path().join("devices"),
            approval,
            leaf_ttl: 24 * HOUR,
            crl_ttl: CRL_TTL_DEFAULT,
            record_ttl: 24 * HOUR,
            recover_grace: 24 * HOUR,
        };
        Self { world, token, device, settings }
    }

    fn ask(&self) -> Ask {
        self.ask_with(&self.token, self.device.csr())
    }

    fn ask_with(&self, token: &Token, csr: &[u8]) -> Ask {
        Ask {
            token: token.id(),
            authority: token.authority.clone(),
            root_spki_sha256: token.root_spki_sha256,
            name: token.name.clone(),
            csr: csr.to_vec(),
            proof: token.key().prove(&X, csr),
            exporter: X,
            source: "192.0.2.1".into(),
            summary: "profile\n`full`".into(),
        }
    }

    fn admit(&self, ask: &Ask, now: Timestamp) -> Result<Admitted, Reason> {
        let recorder = |whom: &Recordable, _: &dyn Sign| {
            let text = format!("record of {}", whom.id);
            Ok(Recorded { text, version: 0x80, baseline_sha256: [7; 32] })
        };
        admit(&self.settings, &id("authority"), ask, &recorder, now).map_err(|e| e.reason)
    }

    fn granted(&self, ask: &Ask) -> Granted {
        match self.admit(ask, self.world.now).unwrap() {
            Admitted::Granted(granted) => *granted,
            Admitted::Pending { .. } => panic!("it waits"),
        }
    }

    fn state(&self) -> String {
        invites(&self.world.ca()).unwrap().pop().unwrap().state.name().into()
    }

    fn spend(&self) -> Granted {
        let granted = self.granted(&self.ask());
        let ack = self.device.acknowledge(&X, &leaf(&granted)).unwrap();
        acknowledge(&self.settings, &granted, &X, &ack).unwrap();
        granted
    }

    /// A request of another key for the same name.
    fn other_csr(&self) -> Vec<u8> {
        let dir = self.world.dir.path().join("thief");
        Enrolment::begin(&dir, &self.token).unwrap().csr().to_vec()
    }

    fn serials(&self) -> usize {
        show(&self.world.ca(), self.world.now).unwrap().issued.len()
    }
}

fn request(name: &str) -> InviteRequest {
    InviteRequest {
        name: name.parse().unwrap(),
        ttl: HOUR,
        tier_max: Tier::Software,
        authority: id("authority"),
        addresses: vec!["127.0.0.1:15443".parse().unwrap()],
    }
}

fn leaf(granted: &Granted) -> Vec<u8> {
    parse_certificates(granted.chain_pem.as_bytes()).unwrap().remove(0).to_vec()
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
fn a_good_token_gives_a_certificate_for_its_name_and_the_key_of_the_request() {
    let scene = Scene::new(Approval::Auto);
    let granted = scene.granted(&scene.ask());
    let joined = scene.device.check(&gift(&granted), scene.world.now).unwrap();
    assert_eq!(
        (joined.issued.id, granted.record.as_str()),
        (id("web-1"), "record of spiffe://example.org/device/web-1")
    );
    assert_eq!(joined.issued.serial, granted.serial);
    assert_eq!((scene.state().as_str(), scene.serials()), ("issued", 1));
}

#[test]
fn the_certificate_of_a_device_with_a_record_says_so_and_one_that_is_issued_by_hand_does_not() {
    let scene = Scene::new(Approval::Auto);
    let der = leaf(&scene.granted(&scene.ask()));
    assert!(svid(&der).unwrap().has_fingerprint_extension);
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    let found =
        parsed.extensions().iter().find(|e| e.oid.to_id_string() == "1.3.6.1.4.1.32473.15443.1").unwrap();
    let holds = [&[0x30, 41, 2, 1, 1, 2, 2, 0, 0x80, 4, 32][..], &[7; 32]].concat();
    assert_eq!((found.critical, found.value), (false, &holds[..]));
    let by_hand = scene.world.issue("web-2");
    let by_hand = parse_certificates(by_hand.leaf_pem.as_bytes()).unwrap().remove(0);
    assert!(!svid(&by_hand).unwrap().has_fingerprint_extension);
}

#[test]
fn the_same_request_gets_the_same_certificate_however_often_and_also_when_the_token_is_spent() {
    let scene = Scene::new(Approval::Auto);
    let first = scene.granted(&scene.ask());
    let again = scene.granted(&scene.ask());
    assert_eq!((&first.chain_pem, first.again, again.again), (&again.chain_pem, false, true));
    scene.spend();
    assert_eq!(scene.granted(&scene.ask()).chain_pem, first.chain_pem);
    assert_eq!((scene.state().as_str(), scene.serials()), ("spent", 1));
}

#[test]
fn another_request_on_a_used_token_is_refused() {
    let scene = Scene::new(Approval::Auto);
    let thief = scene.ask_with(&scene.token, &scene.other_csr());
    scene.granted(&scene.ask());
    assert_eq!(scene.admit(&thief, scene.world.now).unwrap_err(), Reason::JoinCsrChanged);
    scene.spend();
    assert_eq!(scene.admit(&thief, scene.world.now).unwrap_err(), Reason::JoinTokenSpent);
    assert_eq!(scene.serials(), 1);
}

#[test]
fn only_a_signature_of_the_new_key_on_this_connection_spends_the_token() {
    let scene = Scene::new(Approval::Auto);
    let granted = scene.granted(&scene.ask());
    let der = leaf(&granted);
    let thief = Enrolment::begin(&scene.world.dir.path().join("thief"), &scene.token).unwrap();
    let good = scene.device.acknowledge(&X, &der).unwrap();
    for bad in [
        thief.acknowledge(&X, &der).unwrap(),
        scene.device.acknowledge(&[8; 32], &der).unwrap(),
        scene.device.acknowledge(&X, b"another certificate").unwrap(),
        good[1..].to_vec(),
        vec![],
    ] {
        let refused = acknowledge(&scene.settings, &granted, &X, &bad).unwrap_err();
        assert_eq!((refused.reason, scene.state().as_str()), (Reason::JoinAckInvalid, "issued"));
    }
    acknowledge(&scene.settings, &granted, &X, &good).unwrap();
    acknowledge(&scene.settings, &granted, &X, &good).unwrap();
    assert_eq!(scene.state(), "spent");
}

#[test]
fn a_token_that_is_unknown_unproven_or_foreign_is_refused() {
    let scene = Scene::new(Approval::Auto);
    let (elsewhere, _) = invite(&World::new().ca(), &request("web-1"), scene.world.now).unwrap();
    let refused = |ask: Ask| scene.admit(&ask, scene.world.now).unwrap_err();
    assert_eq!(refused(scene.ask_with(&elsewhere, scene.device.csr())), Reason::JoinTokenForeign);
    let unknown = Ask {
        root_spki_sha256: scene.token.root_spki_sha256,
        ..scene.ask_with(&elsewhere, scene.device.csr())
    };
    assert_eq!(refused(unknown), Reason::JoinTokenUnknown);
    assert_eq!(refused(Ask { authority: id("other"), ..scene.ask() }), Reason::JoinTokenForeign);
    assert_eq!(refused(Ask { proof: [0; 32], ..scene.ask() }), Reason::JoinTokenUnknown);
    assert_eq!(refused(Ask { exporter: [1; 32], ..scene.ask() }), Reason::JoinTokenUnknown);
    let swapped = Ask { csr: scene.other_csr(), ..scene.ask() };
    assert_eq!(refused(swapped), Reason::JoinTokenUnknown, "a proof is for one request");
    assert_eq!((scene.state().as_str(), scene.serials()), ("open", 0));
}

#[test]
fn an_invite_for_another_authority_is_refused_whatever_the_device_says() {
    let scene = Scene::new(Approval::Auto);
    let other = InviteRequest { authority: id("other"), ..request("web-1") };
    let (token, _) = invite(&scene.world.ca(), &other, scene.world.now).unwrap();
    let ask = Ask { authority: id("authority"), ..scene.ask_with(&token, scene.device.csr()) };
    assert_eq!(scene.admit(&ask, scene.world.now).unwrap_err(), Reason::JoinTokenForeign);
}

#[test]
fn a_token_must_be_used_before_its_end_and_what_was_begun_may_be_ended_after_it() {
    let scene = Scene::new(Approval::Auto);
    let end = scene.world.now.plus(HOUR);
    assert_eq!(scene.admit(&scene.ask(), end).unwrap_err(), Reason::JoinTokenExpired);
    let just = Timestamp::from_millis(end.as_millis() - 1);
    assert!(scene.admit(&scene.ask(), just).is_ok());
    assert!(scene.admit(&scene.ask(), end.plus(HOUR)).is_ok());
    // But never past the certificate itself.
    assert_eq!(scene.admit(&scene.ask(), end.plus(24 * HOUR)).unwrap_err(), Reason::JoinTokenSpent);
}

#[test]
fn a_name_that_is_not_the_tokens_is_refused() {
    let scene = Scene::new(Approval::Auto);
    let ask = Ask { name: "web-2".parse().unwrap(), ..scene.ask() };
    assert_eq!(scene.admit(&ask, scene.world.now).unwrap_err(), Reason::JoinNameMismatch);
}

/// A request of a fresh key that `change` bent; DER.
fn csr(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr_of(&generate_key().unwrap(), change)
}

fn csr_of(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn uri(text: &str) -> rcgen::SanType {
    rcgen::SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_request_for_another_name_is_refused_and_its_other_wishes_are_dropped() {
    let expected = id("web-1");
    let reason = |der: &[u8]| check_csr(der, &expected).map(drop).map_err(|e| e.reason);
    let called = |name: &str| {
        let name = name.to_owned();
        csr(move |p| p.distinguished_name.push(DnType::CommonName, name))
    };
    assert_eq!(reason(&csr(|_| ())), Ok(()));
    assert_eq!(reason(&called("web-1")), Ok(()));
    assert_eq!(reason(&called("web-2")), Err(Reason::JoinNameMismatch));
    let named = |names: Vec<rcgen::SanType>| csr(move |p| p.subject_alt_names = names);
    let (good, bad) = (uri(expected.as_str()), uri("spiffe://example.org/device/authority"));
    assert_eq!(reason(&named(vec![good.clone()])), Ok(()));
    assert_eq!(reason(&named(vec![bad.clone()])), Err(Reason::JoinNameMismatch));
    assert_eq!(reason(&named(vec![good, bad])), Err(Reason::JoinNameMismatch));

    // A DNS name is no name of a device; it is dropped, and the CA's own rules stand in the leaf.
    let scene = Scene::new(Approval::Auto);
    let wish = named(vec![rcgen::SanType::DnsName("bank.example".try_into().unwrap())]);
    let granted = scene.granted(&scene.ask_with(&scene.token, &wish));
    let der = leaf(&granted);
    assert_eq!(super::super::svid(&der).unwrap().id, expected);
    assert!(!String::from_utf8_lossy(&der).contains("bank"));
}

#[test]
fn a_request_that_is_broken_or_for_another_kind_of_key_is_refused() {
    let good = csr(|_| ());
    let mut bent = good.clone();
    *bent.last_mut().unwrap() ^= 1;
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let ca = csr(|p| p.is_ca = rcgen::IsCa::Ca(BasicConstraints::Unconstrained));
    for (what, der) in [
        ("bent", bent),
        ("empty", vec![]),
        ("cut", good[..good.len() - 1].to_vec()),
        ("longer", [&good[..], &[0]].concat()),
        ("large", [&good[..], &[0; CSR_LEN_MAX]].concat()),
        ("P-384", csr_of(&p384, |_| ())),
        ("Ed25519", csr_of(&ed, |_| ())),
        ("CA", ca),
    ] {
        let refused = check_csr(&der, &id("web-1")).unwrap_err();
        assert_eq!(refused.reason, Reason::JoinCsrInvalid, "{what}");
    }
}

#[test]
fn with_a_queue_an_administrator_decides_about_one_request() {
    let scene = Scene::new(Approval::Queue);
    let now = scene.world.now;
    assert!(matches!(scene.admit(&scene.ask(), now), Ok(Admitted::Pending { first: true })));
    assert!(matches!(scene.admit(&scene.ask(), now), Ok(Admitted::Pending { first: false })));
    let thief = scene.ask_with(&scene.token, &scene.other_csr());
    assert_eq!(scene.admit(&thief, now).unwrap_err(), Reason::JoinCsrChanged);
    assert_eq!(scene.serials(), 0);
    let Some(Invite { state: InviteState::Pending(asked), .. }) = invites(&scene.world.ca()).unwrap().pop()
    else {
        panic!("it does not wait")
    };
    assert_eq!((asked.spki_sha256, asked.summary.as_str()), (scene.device.spki_sha256(), "profile`full`"));
    approve(&scene.world.ca(), "web-1").unwrap();
    assert_eq!(scene.admit(&thief, now).unwrap_err(), Reason::JoinCsrChanged);
    scene.granted(&scene.ask());
    assert_eq!(scene.state(), "issued");
}

#[test]
fn what_was_denied_stays_denied_and_what_waits_too_long_is_forgotten() {
    let scene = Scene::new(Approval::Queue);
    scene.admit(&scene.ask(), scene.world.now).unwrap();
    let late = scene.world.now.plus(PENDING_MAX + HOUR);
    assert_eq!(scene.admit(&scene.ask(), late).unwrap_err(), Reason::JoinTokenExpired);
    deny(&scene.world.ca(), "web-1", scene.world.now).unwrap();
    assert_eq!(scene.admit(&scene.ask(), scene.world.now).unwrap_err(), Reason::JoinDenied);
    let error = approve(&scene.world.ca(), "web-1").unwrap_err();
    assert!(matches!(error, AuthorityError::NotPending { .. }), "{error}");
}

#[test]
fn two_invites_of_one_name_are_told_apart_by_their_ids() {
    let scene = Scene::new(Approval::Queue);
    let (second, _) = invite(&scene.world.ca(), &request("web-1"), scene.world.now).unwrap();
    let error = deny(&scene.world.ca(), "web-1", scene.world.now).unwrap_err();
    assert!(error.to_string().contains(&second.id().to_string()), "{error}");
    deny(&scene.world.ca(), &second.id().to_string(), scene.world.now).unwrap();
    deny(&scene.world.ca(), "web-1", scene.world.now).unwrap();
}

#[test]
fn a_failed_record_issues_nothing() {
    let scene = Scene::new(Approval::Auto);
    let failing = |_: &Recordable, _: &dyn crate::model::Sign| {
        Err(JoinRefused { reason: Reason::JoinMalformed, detail: "x".into() })
    };
    let refused = admit(&scene.settings, &id("authority"), &scene.ask(), &failing, scene.world.now);
    assert_eq!(refused.unwrap_err().reason, Reason::JoinMalformed);
    assert_eq!((scene.state().as_str(), scene.serials()), ("open", 0));
}

#[test]
fn invites_are_for_their_owner_alone_and_never_hold_the_secret() {
    let scene = Scene::new(Approval::Auto);
    let dir = scene.world.ca().join("invites");
    let file = dir.join(format!("{}.json", scene.token.id()));
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&file)), (0o700, 0o600));
    let text = scene.token.to_string();
    let body = text.strip_prefix(Token::PREFIX).unwrap();
    let bytes = data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap();
    let secret = data_encoding::HEXLOWER.encode(&bytes[1..33]);
    assert!(!std::fs::read_to_string(&file).unwrap().contains(&secret));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(scene.admit(&scene.ask(), scene.world.now).unwrap_err(), Reason::Internal);
}

#[test]
fn a_damaged_invite_is_an_error_and_no_stranger() {
    let scene = Scene::new(Approval::Auto);
    let file = scene.world.ca().join(format!("invites/{}.json", scene.token.id()));
    let good = std::fs::read_to_string(&file).unwrap();
    let (other, _) = invite(&scene.world.ca(), &request("web-2"), scene.world.now).unwrap();
    let foreign =
        std::fs::read_to_string(scene.world.ca().join(format!("invites/{}.json", other.id()))).unwrap();
    for bad in [
        String::new(),
        good.replace("open", "opened"),
        good.replace("\"tier_max\":1", "\"tier_max\":4"),
        foreign,
    ] {
        std::fs::write(&file, bad).unwrap();
        assert_eq!(scene.admit(&scene.ask(), scene.world.now).unwrap_err(), Reason::Internal);
    }
    std::fs::write(&file, good).unwrap();
    scene.granted(&scene.ask());
}

#[test]
fn invites_have_bounds_and_old_ones_are_forgotten() {
    let world = World::new();
    let make = |request: &InviteRequest, now| invite(&world.ca(), request, now).map(drop);
    let second = Duration::from_secs(1);
    for ttl in [Duration::ZERO, INVITE_TTL_MAX + second] {
        assert!(matches!(
            make(&InviteRequest { ttl, ..request("a") }, world.now),
            Err(AuthorityError::Ttl { .. })
        ));
    }
    for count in [0, Token::ADDRESSES_MAX + 1] {
        let addresses = vec!["127.0.0.1:1".parse().unwrap(); count];
        let error = make(&InviteRequest { addresses, ..request("a") }, world.now).unwrap_err();
        assert!(matches!(error, AuthorityError::Addresses { .. }), "{error}");
    }
    let foreign = "spiffe://elsewhere.org/device/a".parse().unwrap();
    let error = make(&InviteRequest { authority: foreign, ..request("a") }, world.now).unwrap_err();
    assert!(matches!(error, AuthorityError::Foreign { .. }), "{error}");

    make(&InviteRequest { ttl: INVITE_TTL_MAX, ..request("a") }, world.now).unwrap();
    let file = std::fs::read_dir(world.ca().join("invites")).unwrap().next().unwrap().unwrap().path();
    let row = std::fs::read_to_string(&file).unwrap();
    let own = file.file_stem().unwrap().to_str().unwrap().to_owned();
    for i in 1..INVITES_MAX {
        let id = format!("{i:032x}");
        std::fs::write(file.with_file_name(format!("{id}.json")), row.replace(&own, &id)).unwrap();
        let path = file.with_file_name(format!("{id}.json"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let error = make(&request("b"), world.now).unwrap_err();
    assert!(matches!(error, AuthorityError::Invites { count: INVITES_MAX }), "{error}");
    make(&request("b"), world.now.plus(38 * DAY)).unwrap();
    assert_eq!(invites(&world.ca()).unwrap().len(), 1);
}

#[test]
fn an_authority_waits_for_a_command_that_holds_the_folder_but_not_for_ever() {
    let scene = Scene::new(Approval::Auto);
    let held = Folder::open(&scene.world.ca()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(held));
        scene.granted(&scene.ask());
    });
    let _held = Folder::open(&scene.world.ca()).unwrap();
    assert_eq!(scene.admit(&scene.ask(), scene.world.now).unwrap_err(), Reason::JoinLimited);
}

#[test]
fn a_device_keeps_its_key_and_request_until_it_has_joined() {
    let scene = Scene::new(Approval::Auto);
    let dir = scene.world.dir.path().join("web-1/state");
    let file = dir.join("request.pem");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = Enrolment::begin(&dir, &scene.token).unwrap();
    assert_eq!((again.csr(), again.spki_sha256()), (scene.device.csr(), scene.device.spki_sha256()));
    let (other, _) = invite(&scene.world.ca(), &request("web-2"), scene.world.now).unwrap();
    assert_ne!(Enrolment::begin(&dir, &other).unwrap().spki_sha256(), scene.device.spki_sha256());
    std::fs::write(&file, "what is this").unwrap();
    assert!(matches!(Enrolment::begin(&dir, &scene.token), Err(EnrolError::Broken { .. })));
    Enrolment::finish(&dir).unwrap();
    Enrolment::finish(&dir).unwrap();
    assert!(!dir.exists());
}

#[test]
fn a_key_and_a_request_that_do_not_belong_together_are_refused() {
    let scene = Scene::new(Approval::Auto);
    let dir = scene.world.dir.path().join("mixed");
    Enrolment::begin(&dir, &scene.token).unwrap();
    let file = dir.join("request.pem");
    let text = std::fs::read_to_string(&file).unwrap();
    let key = generate_key().unwrap().serialize_pem();
    let (_, request) = text.split_once("-----BEGIN CERTIFICATE REQUEST").unwrap();
    std::fs::write(&file, key + "-----BEGIN CERTIFICATE REQUEST" + request).unwrap();
    assert!(matches!(Enrolment::begin(&dir, &scene.token), Err(EnrolError::Broken { .. })));
}

#[test]
fn a_device_takes_nothing_that_is_not_its_own_certificate_below_the_pinned_root() {
    let scene = Scene::new(Approval::Auto);
    let now = scene.world.now;
    let good = gift(&scene.granted(&scene.ask()));
    assert!(scene.device.check(&good, now).is_ok());
    let other = World::new();
    let foreign = other.issue("web-1");
    let (own_name, other_name) = (scene.world.issue("web-1"), scene.world.issue("web-2"));
    for (what, bad) in [
        ("another key", Gift { chain_pem: own_name.leaf_pem, ..good.clone() }),
        ("another name", Gift { chain_pem: other_name.leaf_pem, ..good.clone() }),
        ("another CA", Gift { chain_pem: foreign.leaf_pem, ..good.clone() }),
        ("another bundle", Gift { bundle_pem: foreign.bundle_pem, ..good.clone() }),
        ("no bundle", Gift { bundle_pem: String::new(), ..good.clone() }),
        ("no chain", Gift { chain_pem: String::new(), ..good.clone() }),
        ("no lists", Gift { crl_pem: String::new(), ..good.clone() }),
    ] {
        assert!(scene.device.check(&bad, now).is_err(), "{what}");
    }
    let late = scene.device.check(&good, now.plus(CRL_TTL_DEFAULT + HOUR)).unwrap_err();
    assert!(late.to_string().contains("verify"), "{late}");
    let short = gift(&{
        refresh_crl(&scene.world.ca(), HOUR, now).unwrap();
        scene.granted(&scene.ask())
    });
    let late = scene.device.check(&short, now.plus(2 * HOUR)).unwrap_err();
    assert!(late.to_string().contains("revocation list"), "{late}");
}
