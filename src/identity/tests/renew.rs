//! What changes while we run: leaves, lists, clocks, living sessions.

use std::time::Duration;

use super::super::authority::{self, AuthorityError};
use super::super::load::load_own;
use super::super::testing::{HOUR, Side, World, handshake, id, raw_client};
use super::super::trust::{Revocation, Root, Stage, check_chain};
use super::super::*;
use crate::model::{Reason, Timestamp};

/// `a` connects to `b`; the peer as `b` sees it, or the reason.
fn connect(a: &Identity, b: &Identity) -> Result<PeerIdentity, Reason> {
    let done = handshake(a.client_config(b.id(), &[]), b.server_config(&[]));
    let (_, server) = done.map_err(|(_, error)| reason_of(&error))?;
    Ok(peer(server.peer_certificates().unwrap(), Timestamp::now()).unwrap())
}

#[test]
fn a_new_leaf_is_shown_at_the_next_handshake_without_new_configurations() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let (client, server) = (a.client_config(&id("b"), &[]), b.server_config(&[]));
    let serials = || {
        let (c, s) = handshake(client.clone(), server.clone()).unwrap();
        let serial = |chain| peer(chain, world.now).unwrap().svid().serial_hex();
        (serial(s.peer_certificates().unwrap()), serial(c.peer_certificates().unwrap()))
    };
    assert_eq!(serials(), (a.status(world.now).serial, b.status(world.now).serial));
    let renewed = (world.issue("a").serial, world.issue("b").serial);
    assert_ne!(serials(), renewed);
    let leaf = Reloaded { leaf: true, ..Reloaded::default() };
    assert_eq!(a.reload(world.now).unwrap(), leaf);
    assert_eq!(b.clone().reload(world.now).unwrap(), leaf);
    assert_eq!(serials(), renewed);
    assert_eq!(a.reload(world.now).unwrap(), Reloaded::default());
}

#[test]
fn broken_files_leave_the_running_leaf_in_force() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let serial = b.status(world.now).serial;
    let settings = world.settings("b");
    for file in [&settings.leaf, &settings.key, &settings.bundle] {
        let good = std::fs::read(file).unwrap();
        std::fs::write(file, "broken").unwrap();
        let error = b.reload(world.now).unwrap_err().to_string();
        assert!(error.contains(&*file.to_string_lossy()), "{error}");
        assert_eq!(b.status(world.now).serial, serial);
        connect(&a, &b).unwrap();
        std::fs::write(file, good).unwrap();
    }
    b.reload(world.now).unwrap();
}

#[test]
fn the_files_of_another_device_do_not_change_who_runs() {
    let world = World::new();
    let b = world.device("b");
    let other = world.issue("c");
    install(&world.dir.path().join("b"), &other).unwrap();
    let error = b.reload(world.now).unwrap_err();
    assert!(matches!(error.problems.as_slice(), [Problem::IdChanged { .. }]), "{error}");
    assert_eq!((b.id(), b.status(world.now).id), (&id("b"), id("b")));
}

#[test]
fn a_revoked_device_is_refused_at_the_next_handshake_and_its_living_session_is_told() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let living = connect(&a, &b).unwrap();
    let other = connect(&world.device("c"), &b).unwrap();
    authority::revoke(&world.ca(), "a", world.now).unwrap();
    assert_eq!(b.recheck(&living, world.now), Ok(()));
    assert!(b.reload(world.now).unwrap().crl);
    assert_eq!(b.recheck(&living, world.now), Err(Reason::CertificateRevoked));
    assert_eq!(b.recheck(&other, world.now), Ok(()));
    assert_eq!(connect(&a, &b).unwrap_err(), Reason::CertificateRevoked);
    // And the other way round: nobody dials it either.
    let (side, error) = handshake(b.client_config(&id("a"), &[]), a.server_config(&[])).unwrap_err();
    assert_eq!((side, reason_of(&error)), (Side::Client, Reason::CertificateRevoked));
    world.issue("a");
    a.reload(world.now).unwrap();
    connect(&a, &b).unwrap();
}

#[test]
fn a_device_that_is_itself_revoked_does_not_start() {
    let world = World::new();
    let a = world.device("a");
    authority::revoke(&world.ca(), "a", world.now).unwrap();
    let error = Identity::load(&world.settings("a"), world.now).unwrap_err();
    assert!(matches!(error.problems.as_slice(), [Problem::OwnRefused { .. }]), "{error}");
    assert!(a.reload(world.now).is_err());
}

#[test]
fn a_lost_crl_closes_the_door_at_once_and_living_sessions_at_its_next_update() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let living = connect(&a, &b).unwrap();
    let next_update = b.crl_next_update().unwrap();
    let path = world.settings("b").crl.unwrap();
    let good = std::fs::read(&path).unwrap();
    let lose = |how: &dyn Fn()| {
        how();
        assert!(b.reload(world.now).is_err());
        assert_eq!(connect(&a, &b).unwrap_err(), Reason::CrlUnavailable);
        assert!(matches!(b.status(world.now).crl, CrlStatus::Unavailable { .. }));
        assert_eq!(b.crl_next_update(), None);
        assert_eq!(b.recheck(&living, world.now), Ok(()));
        let long_lived = b.recheck(&living, next_update);
        assert_ne!(long_lived, Ok(()));
    };
    lose(&|| std::fs::write(&path, "broken").unwrap());
    lose(&|| std::fs::write(&path, &good[..good.len() / 2]).unwrap());
    lose(&|| std::fs::remove_file(&path).unwrap());
    std::fs::write(&path, &good).unwrap();
    assert!(b.reload(world.now).unwrap().crl);
    connect(&a, &b).unwrap();
    assert_eq!(b.crl_next_update(), Some(next_update));
}

#[test]
fn the_last_good_list_judges_living_sessions_until_it_expires() {
    // The leaf outlives the list, so that only the list can end the session.
    let world = World::new();
    world.issue_for("a", 30 * 24 * HOUR);
    let a = Identity::load(&world.settings("a"), world.now).unwrap();
    let b = world.device("b");
    let living = connect(&a, &b).unwrap();
    let next_update = b.crl_next_update().unwrap();
    let before = Timestamp::from_millis(next_update.as_millis() - 1);
    for lost in [false, true] {
        if lost {
            std::fs::remove_file(world.settings("b").crl.unwrap()).unwrap();
            b.reload(world.now).unwrap_err();
        }
        assert_eq!(b.recheck(&living, before), Ok(()));
        assert_eq!(b.recheck(&living, next_update), Err(Reason::CrlUnavailable));
    }
}

#[test]
fn one_expired_list_spoils_them_all() {
    let (world, other) = (World::new(), World::new());
    authority::refresh_crl(&world.ca(), 30 * 24 * HOUR, world.now).unwrap();
    let crl = world.ca().join("crl.pem");
    let both = [std::fs::read(&crl).unwrap(), std::fs::read(other.ca().join("crl.pem")).unwrap()];
    std::fs::write(&crl, both.concat()).unwrap();
    world.issue_for("a", 30 * 24 * HOUR);
    let a = Identity::load(&world.settings("a"), world.now).unwrap();
    let living = connect(&a, &world.device("b")).unwrap();
    let next_update = a.crl_next_update().unwrap();
    assert!(next_update < world.now.plus(8 * 24 * HOUR));
    assert_eq!(a.recheck(&living, next_update), Err(Reason::CrlUnavailable));
}

#[test]
fn a_crl_that_expires_while_we_run_closes_the_door_without_a_reload() {
    // Loaded eight days ago, when the list was fresh; the handshake looks at today's clock.
    let then = Timestamp::from_millis(Timestamp::now().as_millis() - 8 * 24 * 3_600_000);
    let world = World::of("example.org", then);
    let with = |name| {
        world.issue_for(name, 30 * 24 * HOUR);
        Identity::load(&world.settings(name), then).unwrap()
    };
    let (a, b) = (with("a"), with("b"));
    assert!(matches!(b.status(then).crl, CrlStatus::Good { .. }));
    assert!(matches!(b.status(Timestamp::now()).crl, CrlStatus::Expired { .. }));
    assert_eq!(connect(&a, &b).unwrap_err(), Reason::CrlUnavailable);
    assert!(b.reload(Timestamp::now()).is_err());
    assert_eq!(connect(&a, &b).unwrap_err(), Reason::CrlUnavailable);
    authority::refresh_crl(&world.ca(), 24 * HOUR, Timestamp::now()).unwrap();
    a.reload(Timestamp::now()).unwrap();
    b.reload(Timestamp::now()).unwrap();
    connect(&a, &b).unwrap();
}

#[test]
fn a_leaf_whose_issuer_has_no_list_is_refused() {
    let world = World::new();
    let crl = world.ca().join("crl.pem");
    let text = std::fs::read_to_string(&crl).unwrap();
    let root_only = text.split_inclusive("-----END X509 CRL-----\n").nth(1).unwrap();
    let (a, b) = (world.device("a"), world.device("b"));
    std::fs::write(&crl, root_only).unwrap();
    let error = b.reload(world.now).unwrap_err();
    assert!(matches!(error.problems.as_slice(), [Problem::OwnRefused { .. }]), "{error}");
    assert_eq!(connect(&a, &b).unwrap_err(), Reason::CrlUnavailable);
}

#[test]
fn a_list_that_is_not_signed_by_its_issuer_is_refused() {
    let (world, other) = (World::new(), World::new());
    let (a, b) = (world.device("a"), world.device("b"));
    let crl = world.ca().join("crl.pem");
    let mut der = world.first_list();
    let last = der.len() - 1;
    der[last] ^= 1;
    std::fs::write(&crl, der).unwrap();
    b.reload(world.now).unwrap_err();
    assert_eq!(connect(&a, &b).unwrap_err(), Reason::CrlUnavailable);
    std::fs::copy(other.ca().join("crl.pem"), &crl).unwrap();
    b.reload(world.now).unwrap_err();
    assert_eq!(connect(&a, &b).unwrap_err(), Reason::CrlUnavailable);
}

#[test]
fn a_revoked_issuing_ca_takes_its_devices_with_it() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let living = connect(&a, &b).unwrap();
    world.revoke_issuing();
    b.reload(world.now).unwrap_err();
    assert_eq!(connect(&a, &b).unwrap_err(), Reason::CertificateRevoked);
    assert_eq!(b.recheck(&living, world.now), Err(Reason::CertificateRevoked));
}

#[test]
fn without_a_configured_crl_nobody_asks_for_one() {
    let world = World::new();
    let a = world.device("a");
    world.issue("b");
    let settings = Settings { crl: None, ..world.settings("b") };
    let b = Identity::load(&settings, world.now).unwrap();
    assert_eq!((b.status(world.now).crl, b.crl_next_update()), (CrlStatus::Off, None));
    assert_eq!(b.watch_paths(), [settings.leaf, settings.key, settings.bundle]);
    authority::revoke(&world.ca(), "a", world.now).unwrap();
    connect(&a, &b).unwrap();
}

#[test]
fn a_living_session_ends_with_the_leaf_that_proved_it() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let living = connect(&a, &b).unwrap();
    let end = living.svid().not_after;
    assert_eq!(b.recheck(&living, end), Ok(()));
    assert_eq!(b.recheck(&living, end.plus(Duration::from_secs(1))), Err(Reason::SessionExpired));
    let before = Timestamp::from_millis(living.svid().not_before.as_millis() - 1000);
    assert_eq!(b.recheck(&living, before), Err(Reason::CertificateNotYetValid));
}

#[test]
fn a_root_that_leaves_the_bundle_takes_its_sessions_with_it() {
    let (world, other) = (World::new(), World::new());
    world.issue("b");
    let settings = Settings { crl: None, ..world.settings("b") };
    let both = [other.issue("x").bundle_pem, world.issue("b").bundle_pem].concat();
    std::fs::write(&settings.bundle, both).unwrap();
    let b = Identity::load(&settings, world.now).unwrap();
    assert_eq!(b.status(world.now).roots, 2);
    let foreign = other.issue("a");
    let (_, server) = handshake(raw_client(&foreign), b.server_config(&[])).unwrap();
    let living = peer(server.peer_certificates().unwrap(), world.now).unwrap();
    assert_eq!(b.recheck(&living, world.now), Ok(()));
    std::fs::write(&settings.bundle, world.issue("b").bundle_pem).unwrap();
    let changed = b.reload(world.now).unwrap();
    assert!(changed.bundle && changed.leaf);
    assert_eq!(b.recheck(&living, world.now), Err(Reason::CertificateUntrusted));
    let (_, error) = handshake(raw_client(&foreign), b.server_config(&[])).unwrap_err();
    assert_eq!(reason_of(&error), Reason::CertificateUntrusted);
}

#[test]
fn a_root_is_trusted_between_its_dates_only() {
    let world = World::new();
    world.issue("a");
    let own = load_own(&world.settings("a"), world.now).unwrap();
    let [root] = own.roots.as_slice() else { panic!("one root") };
    let check = |not_before, not_after| {
        let root = Root { not_before, not_after, ..root.clone() };
        let chain = &own.certified.cert;
        check_chain(&[root], &Revocation::Off, chain, world.now, Stage::Handshake)
            .map(drop)
            .map_err(|e| e.reason())
    };
    let second = Duration::from_secs(1);
    let earlier = Timestamp::from_millis(world.now.as_millis() - 1000);
    assert_eq!(check(earlier, world.now), Ok(()));
    assert_eq!(check(world.now, world.now.plus(second)), Ok(()));
    assert_eq!(check(earlier, earlier), Err(Reason::CertificateUntrusted));
    assert_eq!(check(world.now.plus(second), world.now.plus(HOUR)), Err(Reason::CertificateUntrusted));
}

#[test]
fn a_bundle_whose_roots_have_all_ended_is_named() {
    let then = Timestamp::from_secs(1_000_000_000);
    let world = World::of("example.org", then);
    let late = then.plus(Duration::from_secs(11 * 365 * 86_400));
    let issued = world.bent("a", |p| p.not_after += time::Duration::days(20 * 365));
    install(&world.dir.path().join("a"), &issued).unwrap();
    let settings = Settings { crl: None, ..world.settings("a") };
    Identity::load(&settings, then).unwrap();
    let error = Identity::load(&settings, late).unwrap_err();
    assert!(matches!(error.problems.as_slice(), [Problem::BundleExpired { .. }]), "{error}");
    let error = authority::show(&world.ca(), late).unwrap_err();
    assert!(matches!(error, AuthorityError::Expired { .. }));
}
