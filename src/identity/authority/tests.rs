//! What the CA promises.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::super::load::parse_lists;
use super::super::svid::svid;
use super::super::testing::{HOUR, World, id};
use super::*;

fn request(name: &str, ttl: Duration) -> IssueRequest {
    IssueRequest { name: name.parse().unwrap(), dns: vec![], ip: vec![], ttl }
}

fn number(world: &World) -> u64 {
    show(&world.ca(), world.now).unwrap().crl_number
}

#[test]
fn keys_are_for_their_owner_alone() {
    let world = World::new();
    let mode = |name: &str| std::fs::metadata(world.ca().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode(ROOT_KEY), mode(ISSUING_KEY), mode(LEDGER)), (0o700, 0o600, 0o600, 0o600));
}

#[test]
fn a_ca_is_never_overwritten() {
    let world = World::new();
    let domain = "example.org".parse().unwrap();
    for file in [ROOT_PEM, ROOT_KEY, ISSUING_PEM, ISSUING_KEY, BUNDLE_PEM, CRL_PEM, LEDGER] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(world.ca().join(file), dir.path().join(file)).unwrap();
        let error = init(dir.path(), &domain, world.now).unwrap_err();
        assert!(matches!(error, AuthorityError::Exists { .. }), "{file}: {error}");
        assert!(error.to_string().contains(file));
    }
}

#[test]
fn a_device_is_issued_without_the_root_key() {
    let world = World::new();
    std::fs::remove_file(world.ca().join(ROOT_KEY)).unwrap();
    world.device("a");
    refresh_crl(&world.ca(), DAY, world.now).unwrap();
    revoke(&world.ca(), "a", world.now).unwrap();
    assert!(!show(&world.ca(), world.now).unwrap().root_key_here);
}

#[test]
fn what_is_issued_keeps_the_rules_and_stands_in_the_ledger() {
    let world = World::new();
    let mut request = request("web-1", DAY);
    request.dns = vec!["web.example.org".into(), "web".into()];
    request.ip = vec!["192.0.2.1".parse().unwrap()];
    let issued = issue(&world.ca(), &request, world.now).unwrap();
    let chain = parse_certificates(issued.leaf_pem.as_bytes()).unwrap();
    assert_eq!(chain.len(), 2);
    let leaf = svid(chain.first().unwrap()).unwrap();
    assert_eq!((&leaf.id, leaf.serial_hex()), (&id("web-1"), issued.serial.clone()));
    assert_eq!(leaf.not_before, earlier(world.now_secs(), BACKDATE));
    assert_eq!((leaf.not_after, issued.not_after), (world.now_secs().plus(DAY), world.now_secs().plus(DAY)));
    assert_eq!(leaf.serial.len(), 16);
    let expected =
        Entry { name: "web-1".into(), serial: issued.serial, not_after: issued.not_after.as_secs() };
    assert_eq!(show(&world.ca(), world.now).unwrap().issued, [expected]);
}

#[test]
fn a_certificate_never_outlives_the_issuing_ca() {
    let world = World::new();
    let end = show(&world.ca(), world.now).unwrap().issuing_not_after;
    let late = earlier(end, HOUR);
    let issued = issue(&world.ca(), &request("a", DAY), late).unwrap();
    assert_eq!(issued.not_after, end);
    let error = issue(&world.ca(), &request("a", DAY), end).unwrap_err();
    assert!(matches!(error, AuthorityError::Expired { .. }), "{error}");
}

#[test]
fn lifetimes_have_bounds() {
    let world = World::new();
    let second = Duration::from_secs(1);
    issue(&world.ca(), &request("a", TTL_MAX), world.now).unwrap();
    for ttl in [Duration::ZERO, Duration::from_millis(999), TTL_MAX + second] {
        let error = issue(&world.ca(), &request("a", ttl), world.now).unwrap_err();
        assert!(matches!(error, AuthorityError::Ttl { .. }), "{error}");
    }
    refresh_crl(&world.ca(), CRL_TTL_MAX, world.now).unwrap();
    for ttl in [Duration::ZERO, CRL_TTL_MAX + second] {
        let error = refresh_crl(&world.ca(), ttl, world.now).unwrap_err();
        assert!(matches!(error, AuthorityError::Ttl { .. }), "{error}");
    }
}

#[test]
fn names_have_bounds() {
    let world = World::new();
    let with = |dns: Vec<String>| IssueRequest { dns, ..request("a", DAY) };
    issue(&world.ca(), &with(vec!["a".into(); NAMES_MAX]), world.now).unwrap();
    let error = issue(&world.ca(), &with(vec!["a".into(); NAMES_MAX + 1]), world.now).unwrap_err();
    assert!(matches!(error, AuthorityError::Names { .. }), "{error}");
    for dns in ["", ".", "a..b", "-a", "a-", "ä", "a b", "spiffe://x/y", &"a".repeat(64), &"a.".repeat(127)]
    {
        let error = issue(&world.ca(), &with(vec![dns.into()]), world.now).unwrap_err();
        assert!(matches!(error, AuthorityError::Name { .. }), "{dns}: {error}");
    }
}

#[test]
fn a_command_waits_for_another_but_not_for_ever() {
    let world = World::new();
    let held = Folder::open(&world.ca()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(held);
        });
        issue(&world.ca(), &request("a", DAY), world.now).unwrap();
    });
    let _held = Folder::open(&world.ca()).unwrap();
    let error = issue(&world.ca(), &request("a", DAY), world.now).unwrap_err();
    assert!(matches!(error, AuthorityError::Busy { .. }), "{error}");
}

#[test]
fn many_threads_lose_no_revocation() {
    let world = Arc::new(World::new());
    let serials: Vec<_> = (0..8).map(|_| world.issue("a").serial).collect();
    let threads: Vec<_> = serials
        .into_iter()
        .map(|serial| {
            let world = Arc::clone(&world);
            std::thread::spawn(move || {
                while let Err(error) = revoke(&world.ca(), &serial, world.now) {
                    assert!(matches!(error, AuthorityError::Busy { .. }), "{error}");
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(show(&world.ca(), world.now).unwrap().revoked, 8);
    assert_eq!(number(&world), 9);
}

#[test]
fn a_name_revokes_what_still_lives_and_a_serial_just_one() {
    let world = World::new();
    let (first, second) = (world.issue("a").serial, world.issue("a").serial);
    let other = world.issue("b").serial;
    world.issue_for("a", Duration::from_secs(1));
    assert_eq!(number(&world), 1);
    let later = world.now.plus(Duration::from_secs(10));
    let revoked = revoke(&world.ca(), &first, later).unwrap();
    assert_eq!((revoked.added, revoked.crl_number), (vec![first.clone()], 2));
    let revoked = revoke(&world.ca(), "a", later).unwrap();
    assert_eq!((revoked.added, revoked.already), (vec![second], vec![first]));
    assert!(revoked.in_ledger);
    assert_eq!((revoked.crl_number, revoked.next_update), (3, later.plus(CRL_TTL_DEFAULT)));
    let revoked = revoke(&world.ca(), &other.to_uppercase(), later).unwrap();
    assert_eq!((revoked.added, revoked.in_ledger), (vec![other], true));
    assert!(!revoke(&world.ca(), "0badcafe", later).unwrap().in_ledger);
    for what in ["c", "", "00", "xyz", &"ab".repeat(21)] {
        let error = revoke(&world.ca(), what, later).unwrap_err();
        assert!(matches!(error, AuthorityError::NotIssued { .. }), "{what}: {error}");
    }
}

#[test]
fn a_fresh_list_forgets_nobody_and_counts_on() {
    let world = World::new();
    world.issue("a");
    revoke(&world.ca(), "a", world.now).unwrap();
    let next_update = refresh_crl(&world.ca(), HOUR, world.now).unwrap();
    let shown = show(&world.ca(), world.now).unwrap();
    assert_eq!((shown.revoked, shown.crl_number), (1, 3));
    assert_eq!(shown.crl_next_update, Timestamp::from_millis(next_update.as_secs() * 1000));
    let lists = parse_lists(&std::fs::read(world.ca().join(CRL_PEM)).unwrap()).unwrap();
    assert_eq!(lists.lists.len(), 2);
}

#[test]
fn a_lost_or_broken_list_is_not_made_anew() {
    let world = World::new();
    world.issue("a");
    let path = world.ca().join(CRL_PEM);
    let good = std::fs::read(&path).unwrap();
    for text in [&b""[..], b"broken", &good[..good.len() / 3], &good.repeat(2)] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(refresh_crl(&world.ca(), DAY, world.now), Err(AuthorityError::Broken { .. })));
        assert!(matches!(revoke(&world.ca(), "a", world.now), Err(AuthorityError::Broken { .. })));
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(refresh_crl(&world.ca(), DAY, world.now), Err(AuthorityError::File(_))));
    assert!(!path.exists());
}

#[test]
fn a_broken_ledger_says_which_line() {
    let world = World::new();
    world.issue("a");
    let path = world.ca().join(LEDGER);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + "{\n").unwrap();
    let error = revoke(&world.ca(), "a", world.now).unwrap_err();
    assert!(matches!(error, AuthorityError::Ledger { line: 2, .. }), "{error}");
}

#[test]
fn a_key_that_does_not_fit_or_is_exposed_signs_nothing() {
    let world = World::new();
    let key = world.ca().join(ISSUING_KEY);
    let good = std::fs::read(&key).unwrap();
    std::fs::copy(world.ca().join(ROOT_KEY), &key).unwrap();
    let error = issue(&world.ca(), &request("a", DAY), world.now).unwrap_err();
    assert!(matches!(error, AuthorityError::KeyMismatch { .. }), "{error}");
    std::fs::write(&key, good).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = issue(&world.ca(), &request("a", DAY), world.now).unwrap_err();
    assert!(matches!(error, AuthorityError::File(FileError::Exposed { .. })), "{error}");
}
