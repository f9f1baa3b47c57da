//! Two devices that meet in memory, and everybody who would like to be one of them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::CommonState;

use super::*;
use crate::channel::session::{Exports, Shaken};
use crate::device::{Answer, Message, Record, Status, demo_machine};
use crate::identity::authority;
use crate::identity::testing::{HOUR, World, handshake, id};
use crate::model::{CLOCK_SKEW_MAX, Score, Transport};

/// Hears what an attester says.
#[derive(Default)]
pub(in crate::channel) struct Hears {
    said: Mutex<Vec<String>>,
    details: Mutex<Vec<String>>,
    full: Mutex<bool>,
}

impl Witness for Hears {
    fn attested(&self, session: &Session, _: &Outcome, _: Timestamp) -> Result<(), Reason> {
        if *self.full.lock().unwrap() {
            return Err(Reason::AuditUnavailable);
        }
        self.said.lock().unwrap().push(format!("attested {}", session.peer.id().device_name().unwrap()));
        Ok(())
    }

    fn refused(&self, session: &Session, reason: Reason, detail: &str, now: Timestamp) -> DecisionId {
        self.details.lock().unwrap().push(detail.into());
        let said = format!("refused {}: {}", session.peer.id().device_name().unwrap(), reason.code());
        self.said.lock().unwrap().push(said);
        DecisionId::new(now, [0; 10])
    }

    fn lost(&self, _: &Session, _: Reason) -> usize {
        0
    }
}

/// An attester of a machine that was never enrolled, for the tests of others.
pub(in crate::channel) fn plain_attester(identity: &Identity, dir: &std::path::Path) -> Attester {
    let sysroot = dir.join("machine");
    demo_machine(&sysroot, 1).unwrap();
    let digests = Digests { config: [0; 32], policy: [0; 32] };
    let remembered = Remembered::read(None, 16).unwrap();
    let settings = settings(dir, sysroot);
    Attester::new(
        identity.clone(),
        settings,
        digests,
        Arc::new(Hears::default()),
        remembered,
        Timestamp::now(),
    )
    .unwrap()
}

fn settings(certs: &std::path::Path, sysroot: PathBuf) -> Settings {
    Settings {
        sysroot,
        salt: certs.join("device.salt"),
        record: certs.join("device.record"),
        records: certs.join("devices"),
        require_tier: Tier::None,
        exempt: Vec::new(),
        devices_max: 16,
        look_interval: HOUR,
        lease_drain: Duration::ZERO,
        thresholds: device::Thresholds::default(),
    }
}

/// A device: its files, its machine, its attester.
struct Device {
    identity: Identity,
    settings: Settings,
    attester: Attester,
    hears: Arc<Hears>,
}

impl Device {
    fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.hears.said.lock().unwrap())
    }

    /// The process starts again with other settings; what it remembered is gone.
    fn again(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        let digests = Digests { config: [1; 32], policy: [2; 32] };
        let hears = Arc::clone(&self.hears) as _;
        let remembered = Remembered::read(None, 16).unwrap();
        let now = Timestamp::now();
        self.attester =
            Attester::new(self.identity.clone(), self.settings.clone(), digests, hears, remembered, now)
                .unwrap();
    }
}

/// A device with a certificate, on a machine of its own, enrolled.
fn enrolled(world: &World, name: &str, seed: u8) -> Device {
    let device = unenrolled(world, name, seed);
    Salt::load_or_make(&device.settings.salt).unwrap();
    enrol(world, &device, 1, |_| {});
    let mut device = device;
    device.again(|_| {});
    device
}

fn unenrolled(world: &World, name: &str, seed: u8) -> Device {
    let identity = world.device(name);
    let certs = world.dir.path().join(name);
    let sysroot = world.dir.path().join(format!("machine-{name}"));
    demo_machine(&sysroot, seed).unwrap();
    let settings = settings(&certs, sysroot);
    let hears = Arc::new(Hears::default());
    let digests = Digests { config: [1; 32], policy: [2; 32] };
    let remembered = Remembered::read(None, 16).unwrap();
    let witness = Arc::clone(&hears) as _;
    let attester =
        Attester::new(identity.clone(), settings.clone(), digests, witness, remembered, Timestamp::now())
            .unwrap();
    Device { identity, settings, attester, hears }
}

/// Writes the device's record of this version, as `change` would have it.
fn enrol(world: &World, device: &Device, version: u64, change: impl FnOnce(&mut Record)) {
    let now = Timestamp::now();
    let salt = Salt::load(&device.settings.salt).unwrap();
    let fingerprint = device::fingerprint(&device::collect(&device.settings.sysroot).unwrap(), &salt);
    let mut record = Record {
        id: device.identity.id().clone(),
        version,
        profile: fingerprint.profile,
        tier_max: Tier::Software,
        spki_sha256: device.identity.signer().svid().spki_sha256,
        baseline: Record::baseline_of(&fingerprint.values),
        status: Status::Active,
        issued_at: now,
        expires_at: now.plus(HOUR),
    };
    change(&mut record);
    let signed =
        authority::with_issuing_keys(&world.ca(), now, |cas| record.to_signed(cas[0])).unwrap().unwrap();
    std::fs::write(&device.settings.record, signed.text).unwrap();
}

/// One connection: the session as either end has it.
struct Meeting {
    client: Session,
    server: Session,
}

fn meet(client: &Device, server: &Device) -> Meeting {
    meet_as(&client.identity, client, &server.identity, server)
}

/// A connection of these identities, for attesters of those devices.
fn meet_as(c: &Identity, client: &Device, s: &Identity, server: &Device) -> Meeting {
    let ((to, own), (at, theirs)) = (c.dialling(s.id(), &[]), s.accepting(&[]));
    let (tls_c, tls_s) = handshake(to, at).unwrap();
    let session = |tls: &CommonState, exports, role, leaf| {
        let (remote, transport, now) = ("127.0.0.1:1".parse().unwrap(), Transport::H2, Timestamp::now());
        Session::new(tls, Shaken { exports, role, leaf, remote, transport, now }).unwrap()
    };
    let exports_c = Exports::take(|o, l, c| tls_c.export_keying_material(o, l, c).map(drop)).unwrap();
    let exports_s = Exports::take(|o, l, c| tls_s.export_keying_material(o, l, c).map(drop)).unwrap();
    let meeting = Meeting {
        client: session(&tls_c, exports_c, Role::Client, own),
        server: session(&tls_s, exports_s, Role::Server, theirs),
    };
    client.attester.begin(&meeting.client);
    server.attester.begin(&meeting.server);
    meeting
}

/// What the client sends on this session.
fn ask(client: &Device, session: &Session) -> Message {
    let nonce = [7; 32];
    let now = Timestamp::now();
    let own = client.attester.message(session, now).unwrap();
    let continuity_next = client.attester.memory().for_server(session.peer.id(), now).unwrap();
    session.hand_out(nonce);
    Message { nonce: Some(nonce), continuity_next, ..own }
}

/// What the server makes of it, and what the client makes of the answer.
fn told(client: &Device, server: &Device, meeting: &Meeting, message: &Message) -> Result<Answer, Reason> {
    let now = Timestamp::now();
    let bytes = message.to_bytes().unwrap();
    let answer = server.attester.answer(&meeting.server, &bytes, now).map_err(|refusal| refusal.reason)?;
    let answer = Answer::read(&answer).unwrap();
    let next = prove::fresh().unwrap();
    client.attester.appraised(&meeting.client, &answer.message, &next, now).map_err(|e| e.reason)?;
    meeting.client.was_handed(answer.message.nonce);
    let id = meeting.client.peer.id();
    client.attester.memory().was_handed(id, Role::Client, answer.message.continuity_next, now);
    Ok(answer)
}

/// The whole exchange.
fn exchange(client: &Device, server: &Device, meeting: &Meeting) -> Result<Answer, Reason> {
    told(client, server, meeting, &ask(client, &meeting.client))
}

fn tier(session: &Session) -> Result<u8, Reason> {
    session.device(Timestamp::now()).map(|device| device.tier.level())
}

#[test]
fn two_enrolled_devices_prove_themselves_to_each_other_and_again() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let meeting = meet(&a, &b);
    for round in 0..3 {
        let answer = exchange(&a, &b, &meeting).unwrap_or_else(|e| panic!("round {round}: {e:?}"));
        assert_eq!(
            (answer.verdict, answer.tier, answer.lease_ttl_s),
            (device::Verdict::Match, Tier::Software, 900)
        );
        assert_eq!((tier(&meeting.client), tier(&meeting.server)), (Ok(1), Ok(1)));
        a.attester.check(&meeting.client, Timestamp::now()).unwrap();
        b.attester.check(&meeting.server, Timestamp::now()).unwrap();
    }
    assert_eq!(a.said(), ["attested b"; 3]);
    assert_eq!(b.said(), ["attested a"; 3]);
    let lease_over = Timestamp::now().plus(Duration::from_secs(901));
    assert_eq!(meeting.server.device(lease_over), Err(Reason::LeaseExpired));
    assert_eq!(b.attester.check(&meeting.server, lease_over), Err(Reason::LeaseExpired));
    assert_eq!(a.attester.own().device.tier, Tier::Software);
    assert_eq!(a.attester.own().device.score, Score::from_percent(100));
}

#[test]
fn several_sessions_of_two_devices_go_on_side_by_side_and_a_lost_answer_brands_nobody() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let sessions = [meet(&a, &b), meet(&a, &b), meet(&a, &b)];
    // The other way, too: b dials a while a dials b.
    let back = [meet(&b, &a), meet(&b, &a)];
    for round in 0..4 {
        for (at, meeting) in sessions.iter().enumerate() {
            exchange(&a, &b, meeting).unwrap_or_else(|e| panic!("{at} in round {round}: {e:?}"));
        }
        for meeting in &back {
            exchange(&b, &a, meeting).unwrap_or_else(|e| panic!("back in round {round}: {e:?}"));
        }
        // An answer that is lost ends its session; the others and the next one go on.
        let lost = meet(&a, &b);
        b.attester
            .answer(&lost.server, &ask(&a, &lost.client).to_bytes().unwrap(), Timestamp::now())
            .unwrap();
        let _unsent = ask(&a, &meet(&a, &b).client);
    }
    for meeting in &sessions {
        a.attester.check(&meeting.client, Timestamp::now()).unwrap();
        b.attester.check(&meeting.server, Timestamp::now()).unwrap();
    }
}

#[test]
fn who_has_no_record_is_tier_0_where_that_will_do() {
    let world = World::new();
    let (a, mut b) = (unenrolled(&world, "a", 1), unenrolled(&world, "b", 2));
    let meeting = meet(&a, &b);
    assert_eq!(tier(&meeting.server), Ok(0), "not even evidence is asked for");
    assert_eq!(exchange(&a, &b, &meeting).unwrap().lease_ttl_s, 0);
    assert_eq!((tier(&meeting.client), tier(&meeting.server)), (Ok(0), Ok(0)));
    b.again(|s| s.require_tier = Tier::Software);
    let meeting = meet(&a, &b);
    assert_eq!(tier(&meeting.server), Err(Reason::EvidenceMissing));
    assert_eq!(exchange(&a, &b, &meeting).unwrap_err(), Reason::RecordMissing);
    assert_eq!(tier(&meeting.server), Err(Reason::RecordMissing));
    b.again(|s| s.exempt = vec![id("a")]);
    let meeting = meet(&a, &b);
    exchange(&a, &b, &meeting).unwrap();
    assert_eq!(tier(&meeting.server), Ok(0));
}

#[test]
fn evidence_that_is_given_must_be_right_even_where_none_is_asked_for() {
    let world = World::new();
    let (a, b) = (unenrolled(&world, "a", 1), unenrolled(&world, "b", 2));
    let (old, meeting) = (meet(&a, &b), meet(&a, &b));
    let replayed = ask(&a, &old.client);
    assert_eq!(told(&a, &b, &meeting, &replayed).unwrap_err(), Reason::EvidenceBinding);
    assert_eq!(tier(&meeting.server), Err(Reason::EvidenceBinding));
}

#[test]
fn whoever_once_had_a_record_is_never_tier_0_again() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    exchange(&a, &b, &meet(&a, &b)).unwrap();
    let later = meet(&a, &b);
    assert_eq!(tier(&later.server), Err(Reason::EvidenceMissing));
    let nothing = Message::default();
    assert_eq!(told(&a, &b, &later, &nothing).unwrap_err(), Reason::EvidenceMissing);
    let later = meet(&a, &b);
    let bare = Message { record: None, ..ask(&a, &later.client) };
    assert_eq!(told(&a, &b, &later, &bare).unwrap_err(), Reason::RecordMissing);
    assert_eq!(b.said(), ["attested a", "refused a: evidence_missing", "refused a: record_missing"]);
    // So does what it remembers, when it starts again.
    let text = b.attester.unsaved().unwrap();
    assert_eq!(b.attester.unsaved(), None);
    assert!(Remembered::read(Some(&text), 16).unwrap().0.has_record(&id("a")));
    b.attester.not_saved();
    assert_eq!(b.attester.unsaved(), Some(text));
}

#[test]
fn a_server_that_gives_no_evidence_is_refused_likewise() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    exchange(&a, &b, &meet(&a, &b)).unwrap();
    let later = meet(&a, &b);
    let refused = a.attester.appraised(&later.client, &Message::default(), &[1; 32], Timestamp::now());
    assert_eq!(refused.unwrap_err().reason, Reason::EvidenceMissing);
    assert_eq!(tier(&later.client), Err(Reason::EvidenceMissing));
}

#[test]
fn key_certificate_and_record_on_another_machine_are_of_no_use() {
    let world = World::new();
    let (mut a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    exchange(&a, &b, &meet(&a, &b)).unwrap();
    let elsewhere = world.dir.path().join("elsewhere");
    demo_machine(&elsewhere, 9).unwrap();
    a.again(|s| s.sysroot = elsewhere);
    assert_eq!(exchange(&a, &b, &meet(&a, &b)).unwrap_err(), Reason::DeviceQuarantined);
    assert_eq!(a.attester.own().device.tier, Tier::None, "it knows itself, too");
    // Without the salt not even the values would do.
    std::fs::remove_file(&a.settings.salt).unwrap();
    let again = Machine::look(&a.settings, &a.identity, &Salt::new([9; 32]), None, Timestamp::now());
    assert!(again.is_ok());
    assert!(matches!(machine::salt(&a.settings), Err(AttestError::SaltMissing { .. })));
}

#[test]
fn what_lies_there_and_cannot_be_read_is_not_taken_for_missing() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let dir = world.dir.path().join("odd");
    std::fs::create_dir_all(&dir).unwrap();
    let settings = settings(&dir, dir.clone());
    assert!(machine::salt(&settings).is_ok(), "one that was never enrolled");
    std::fs::write(&settings.salt, [7; 32]).unwrap();
    std::fs::set_permissions(&settings.salt, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(machine::salt(&settings), Err(AttestError::Salt(_))), "others may read it");
    std::fs::remove_file(&settings.salt).unwrap();
    std::fs::create_dir(&settings.record).unwrap();
    assert!(matches!(machine::salt(&settings), Err(AttestError::File(_))), "a folder is no record");
    assert_ne!(machine::random().unwrap(), machine::random().unwrap());
    assert_ne!(prove::fresh().unwrap(), prove::fresh().unwrap());
}

#[test]
fn evidence_of_an_earlier_connection_or_of_an_earlier_nonce_is_of_no_use() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let first = meet(&a, &b);
    let message = ask(&a, &first.client);
    told(&a, &b, &first, &message).unwrap();
    let other = meet(&a, &b);
    assert_eq!(told(&a, &b, &other, &message).unwrap_err(), Reason::EvidenceBinding);
    // On the same connection, once the nonce moved on.
    assert_eq!(told(&a, &b, &first, &message).unwrap_err(), Reason::EvidenceBinding);
}

#[test]
fn evidence_of_a_clock_that_is_off_says_by_how_much() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let meeting = meet(&a, &b);
    let bytes = ask(&a, &meeting.client).to_bytes().unwrap();
    let later = Timestamp::now().plus(CLOCK_SKEW_MAX + Duration::from_secs(60));
    let refusal = b.attester.answer(&meeting.server, &bytes, later).unwrap_err();
    assert_eq!(refusal.reason, Reason::EvidenceStale);
    let told = "the clocks differ by about 6 min: the evidence was made at ";
    assert!(refusal.detail.starts_with(told), "{refusal}");
    assert!(refusal.detail.ends_with(&format!(", here it is {later}")), "{refusal}");
    assert!(b.hears.details.lock().unwrap().contains(&refusal.detail.to_string()), "the audit has it, too");
}

#[test]
fn evidence_relayed_by_a_man_in_the_middle_is_of_no_use() {
    let world = World::new();
    let (a, b, mallory) =
        (enrolled(&world, "a", 1), enrolled(&world, "b", 2), enrolled(&world, "mallory", 3));
    // a believes to speak with mallory's service, and mallory passes on what it says to b.
    let (with_a, with_b) = (meet(&a, &mallory), meet(&mallory, &b));
    let message = ask(&a, &with_a.client);
    assert_eq!(told(&mallory, &b, &with_b, &message).unwrap_err(), Reason::EvidenceBinding);
}

#[test]
fn evidence_sent_back_to_its_maker_is_of_no_use() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let meeting = meet(&a, &b);
    let message = ask(&a, &meeting.client);
    let mirrored = a.attester.appraised(&meeting.client, &message, &[1; 32], Timestamp::now());
    let refused = mirrored.unwrap_err();
    assert_eq!(refused.reason, Reason::EvidenceBinding);
    assert!(refused.detail.contains("; id="), "the one under which it is written: {}", refused.detail);
}

#[test]
fn an_older_record_never_comes_back() {
    let world = World::new();
    let (mut a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let old = std::fs::read(&a.settings.record).unwrap();
    enrol(&world, &a, 2, |_| {});
    a.again(|_| {});
    exchange(&a, &b, &meet(&a, &b)).unwrap();
    std::fs::write(&a.settings.record, old).unwrap();
    a.again(|_| {});
    assert_eq!(exchange(&a, &b, &meet(&a, &b)).unwrap_err(), Reason::RecordRolledBack);
}

#[test]
fn a_record_of_another_or_signed_by_another_or_over_is_refused() {
    let world = World::new();
    let (mut a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let play = |a: &Device, change: &dyn Fn(&mut Message)| {
        let meeting = meet(a, &b);
        let mut message = ask(a, &meeting.client);
        change(&mut message);
        told(a, &b, &meeting, &message).map(drop).unwrap_err()
    };
    let of_b = std::fs::read_to_string(&b.settings.record).unwrap();
    assert_eq!(play(&a, &|m| m.record = Some(of_b.clone())), Reason::RecordInvalid);
    let foreign = World::new();
    let twin = enrolled(&foreign, "a", 1);
    let signed_elsewhere = std::fs::read_to_string(&twin.settings.record).unwrap();
    assert_eq!(play(&a, &|m| m.record = Some(signed_elsewhere.clone())), Reason::RecordInvalid);
    assert_eq!(play(&a, &|m| m.record = Some("x".into())), Reason::RecordInvalid);
    for (reason, status, ttl) in [
        (Reason::DeviceRevoked, Status::Revoked, 100),
        (Reason::DeviceQuarantined, Status::Quarantined, 100),
        (Reason::RecordExpired, Status::Active, 0),
    ] {
        enrol(&world, &a, 3, |r| {
            r.status = status;
            r.issued_at = Timestamp::from_millis(r.issued_at.as_millis() - 1000);
            r.expires_at = r.issued_at.plus(Duration::from_secs(1 + ttl));
        });
        let text = std::fs::read_to_string(&a.settings.record).unwrap();
        assert_eq!(play(&a, &|m| m.record = Some(text.clone())), reason);
    }
    // Its own bad record is not even sent.
    a.again(|_| {});
    assert!(a.attester.own().problem.is_some());
    assert_eq!(a.attester.own().device.tier, Tier::None);
}

#[test]
fn a_tier_below_the_one_required_is_refused() {
    let world = World::new();
    let (a, mut b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    b.again(|s| s.require_tier = Tier::Software);
    exchange(&a, &b, &meet(&a, &b)).unwrap();
    b.again(|s| s.require_tier = Tier::Attested);
    assert_eq!(exchange(&a, &b, &meet(&a, &b)).unwrap_err(), Reason::TierTooLow);
    b.again(|s| s.exempt = vec![id("a")]);
    exchange(&a, &b, &meet(&a, &b)).unwrap();
}

#[test]
fn a_leaf_renewed_while_the_session_lives_is_proven_on_it_both_ways() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let meeting = meet(&a, &b);
    exchange(&a, &b, &meeting).unwrap();
    for device in [&a, &b] {
        world.issue(device.identity.id().device_name().unwrap());
        device.identity.reload(Timestamp::now()).unwrap();
        enrol(&world, device, 2, |_| {});
        device.attester.look_again(Timestamp::now()).unwrap();
    }
    exchange(&a, &b, &meeting).unwrap();
    let serial = |d: &Device| d.identity.signer().svid().serial_hex();
    assert_eq!(meeting.server.proven().svid().serial_hex(), serial(&a));
    assert_eq!(meeting.client.proven().svid().serial_hex(), serial(&b));
    assert_ne!(meeting.server.peer.svid().serial_hex(), serial(&a));
    exchange(&a, &b, &meeting).unwrap();
}

#[test]
fn a_leaf_that_was_renewed_a_moment_ago_comes_with_the_record_that_was_renewed_with_it() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    for version in [2, 3] {
        world.issue("a");
        a.identity.reload(Timestamp::now()).unwrap();
        enrol(&world, &a, version, |_| {});
        exchange(&a, &b, &meet(&a, &b)).unwrap();
    }
}

#[test]
fn a_new_leaf_that_is_not_proven_is_refused() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let play = |change: &dyn Fn(&mut Message)| {
        let meeting = meet(&a, &b);
        exchange(&a, &b, &meeting).unwrap();
        world.issue("a");
        a.identity.reload(Timestamp::now()).unwrap();
        enrol(&world, &a, 2, |_| {});
        a.attester.look_again(Timestamp::now()).unwrap();
        let mut message = ask(&a, &meeting.client);
        change(&mut message);
        told(&a, &b, &meeting, &message).map(drop).unwrap_err()
    };
    // The old key did not name this leaf.
    let other = b.identity.signer().chain()[0].to_vec();
    assert_eq!(play(&|m| m.new_leaf.as_mut().unwrap().chain[0] = other.clone()), Reason::PeerUnexpected);
    // The new key did not sign.
    assert_eq!(play(&|m| m.new_leaf.as_mut().unwrap().signature[5] ^= 1), Reason::EvidenceSignature);
    // The evidence names one, and none comes with it.
    assert_eq!(play(&|m| m.new_leaf = None), Reason::EvidenceMalformed);
}

#[test]
fn a_copy_of_a_whole_machine_is_noticed_when_both_prove_themselves() {
    let world = World::new();
    let (mut a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let original = meet(&a, &b);
    exchange(&a, &b, &original).unwrap();
    let attester = a.attester.clone();
    // The copy has every file, and none of the memory.
    a.again(|_| {});
    let copied = meet(&a, &b);
    exchange(&a, &b, &copied).unwrap();
    assert_eq!(b.attester.check(&original.server, Timestamp::now()), Err(Reason::LeaseExpired));
    let copy = std::mem::replace(&mut a.attester, attester);
    assert_eq!(exchange(&a, &b, &original).unwrap_err(), Reason::CloneSuspected);
    a.attester = copy;
    assert_eq!(b.attester.check(&copied.server, Timestamp::now()), Err(Reason::CloneSuspected));
    assert_eq!(exchange(&a, &b, &meet(&a, &b)).unwrap_err(), Reason::CloneSuspected);
    b.attester.reset(&id("a"));
    exchange(&a, &b, &meet(&a, &b)).unwrap();
}

#[test]
fn without_an_entry_in_the_audit_nobody_gets_a_lease() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let meeting = meet(&a, &b);
    exchange(&a, &b, &meeting).unwrap();
    *b.hears.full.lock().unwrap() = true;
    let other = meet(&a, &b);
    assert_eq!(exchange(&a, &b, &other).unwrap_err(), Reason::AuditUnavailable);
    assert_eq!(tier(&other.server), Err(Reason::EvidenceMissing));
    // What was proven before holds until it is over: the peer asks again.
    assert_eq!(exchange(&a, &b, &meeting).unwrap_err(), Reason::AuditUnavailable);
    assert_eq!(tier(&meeting.server), Ok(1));
}

#[test]
fn a_part_that_changed_shortens_the_lease() {
    let world = World::new();
    let (mut a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    for gone in ["sys/class/block/sda", "etc/machine-id"] {
        std::fs::remove_file(a.settings.sysroot.join(gone)).unwrap();
    }
    a.again(|_| {});
    let last_drift = |id| b.attester.memory().history(&id, Timestamp::now()).unwrap().drift_last;
    let meeting = meet(&a, &b);
    let answer = exchange(&a, &b, &meeting).unwrap();
    assert_eq!((answer.verdict, answer.lease_ttl_s), (device::Verdict::Drift, 60));
    assert!(last_drift(id("a")).is_some(), "and is remembered");
    let whole = enrolled(&world, "c", 3);
    exchange(&whole, &b, &meet(&whole, &b)).unwrap();
    assert_eq!(last_drift(id("c")), None);
}

#[test]
fn what_is_no_message_is_refused() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let now = Timestamp::now();
    let good = ask(&a, &meet(&a, &b).client).to_bytes().unwrap();
    let large = vec![0; crate::device::MESSAGE_LEN_MAX + 1];
    for bytes in [&[][..], &good[..good.len() - 1], &large] {
        let meeting = meet(&a, &b);
        let refusal = b.attester.answer(&meeting.server, bytes, now).unwrap_err();
        assert_eq!(refusal.reason, Reason::EvidenceMalformed);
        assert_eq!(tier(&meeting.server), Err(Reason::EvidenceMalformed));
    }
}

#[test]
fn evidence_names_the_files_in_force() {
    let world = World::new();
    let (a, b) = (enrolled(&world, "a", 1), enrolled(&world, "b", 2));
    let named = || {
        let evidence = ask(&a, &meet(&a, &b).client).evidence;
        // COSE_Sign1: [protected, unprotected, payload, signature].
        let sign1 =
            <coset::CoseSign1 as coset::TaggedCborSerializable>::from_tagged_slice(&evidence).unwrap();
        let claims = device::parse_claims(&sign1.payload.unwrap()).unwrap().0;
        (claims.config_digest, claims.policy_digest)
    };
    assert_eq!(named(), ([1; 32], [2; 32]));
    a.attester.set_digests(Digests { config: [3; 32], policy: [4; 32] });
    assert_eq!(named(), ([3; 32], [4; 32]));
}

#[test]
fn a_renewed_leaf_is_told_to_everybody_who_keeps_a_session() {
    let world = World::new();
    let a = enrolled(&world, "a", 1);
    let mut keeper = a.attester.0.renewed.subscribe();
    assert!(!keeper.has_changed().unwrap());
    a.attester.renewed();
    assert!(keeper.has_changed().unwrap());
    keeper.mark_unchanged();
    assert!(!keeper.has_changed().unwrap());
}
