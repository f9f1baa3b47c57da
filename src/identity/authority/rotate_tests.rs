//! A CA whose keys change under way: who was trusted stays so, who was revoked stays so.

use std::time::Duration;

use super::super::testing::{HOUR, World};
use super::super::{Identity, peer};
use super::*;
use crate::model::{Reason, Sign};

const DAYS: Duration = Duration::from_secs(24 * 3600);

fn roots_in(world: &World) -> usize {
    show(&world.ca(), world.now).unwrap().roots
}

/// Whether a device that has only `bundle` of then believes `leaf_pem` of now.
fn believes(world: &World, observer: &Identity, leaf_pem: &str, at: Timestamp) -> Result<(), Reason> {
    let chain = parse_certificates(leaf_pem.as_bytes()).unwrap();
    observer.reload(at).unwrap();
    let _ = world;
    observer.recheck(&peer(&chain, at).unwrap(), at)
}

#[test]
fn after_a_new_issuing_ca_both_generations_are_trusted_and_revoked_alike() {
    let world = World::new();
    let (old, observer) = (world.issue("web-1"), world.device("observer"));
    let rotated = rotate(&world.ca(), false, world.now).unwrap();
    assert_eq!((rotated.root_not_after, roots_in(&world)), (None, 1));
    let new = world.issue("web-2");
    let issuer = |pem: &str| parse_certificates(pem.as_bytes()).unwrap()[1].clone();
    assert_ne!(issuer(&old.leaf_pem), issuer(&new.leaf_pem));
    for leaf in [&old, &new] {
        assert_eq!(believes(&world, &observer, &leaf.leaf_pem, world.now), Ok(()));
    }
    for name in ["web-1", "web-2"] {
        revoke(&world.ca(), name, world.now).unwrap();
    }
    for leaf in [&old, &new] {
        let judged = believes(&world, &observer, &leaf.leaf_pem, world.now);
        assert_eq!(judged, Err(Reason::CertificateRevoked));
    }
    // Lists are signed anew for both; nobody is forgotten.
    refresh_crl(&world.ca(), DAYS, world.now.plus(HOUR)).unwrap();
    let judged = believes(&world, &observer, &old.leaf_pem, world.now.plus(HOUR));
    assert_eq!(judged, Err(Reason::CertificateRevoked));
    assert_eq!(with_issuing_keys(&world.ca(), world.now, |keys| keys.len()).unwrap(), 2);
}

#[test]
fn with_a_new_root_those_who_have_heard_of_it_and_those_who_have_not_trust_each_other() {
    let world = World::new();
    let (old, unaware) = (world.issue("web-1"), world.device("unaware"));
    rotate(&world.ca(), true, world.now).unwrap();
    assert_eq!(roots_in(&world), 2);
    let (new, aware) = (world.issue("web-2"), world.device("aware"));
    assert_eq!(unaware.status(world.now).roots, 1);
    assert_eq!(aware.status(world.now).roots, 2);
    for observer in [&unaware, &aware] {
        for leaf in [&old, &new] {
            assert_eq!(believes(&world, observer, &leaf.leaf_pem, world.now), Ok(()));
        }
    }
    let bundle = std::fs::read_to_string(world.ca().join("bundle.pem")).unwrap();
    assert_eq!(unaware.judge_bundle(&bundle, world.now), Ok(()));
}

#[test]
fn what_was_rotated_out_is_forgotten_only_when_all_it_issued_has_ended() {
    let world = World::new();
    world.issue_for("web-1", 2 * DAYS);
    let rotated = rotate(&world.ca(), true, world.now).unwrap();
    let soon = retire(&world.ca(), world.now.plus(DAYS)).unwrap();
    assert_eq!((soon.issuing, soon.roots.len(), soon.next_at), (0, 0, Some(rotated.overlap_until)));
    assert_eq!(roots_in(&world), 2);
    let later = rotated.overlap_until.plus(HOUR);
    let retired = retire(&world.ca(), later).unwrap();
    assert_eq!((retired.issuing, retired.roots.len(), retired.next_at), (1, 1, None));
    assert_eq!(show(&world.ca(), later).unwrap().roots, 1);
    assert_eq!(with_issuing_keys(&world.ca(), later, |keys| keys.len()).unwrap(), 1);
    // What is left works: a device that knows the new root only, with lists of the living CAs only.
    let request = IssueRequest { name: "web-3".parse().unwrap(), dns: vec![], ip: vec![], ttl: HOUR };
    let issued = issue(&world.ca(), &request, later).unwrap();
    assert_eq!(
        parse_certificates(issued.leaf_pem.as_bytes()).unwrap().len(),
        2,
        "no cross certificate any more"
    );
    super::super::install(&world.dir.path().join("web-3"), &issued).unwrap();
    let device = Identity::load(&world.settings("web-3"), later).unwrap();
    assert_eq!(
        device
            .recheck(&peer(&parse_certificates(issued.leaf_pem.as_bytes()).unwrap(), later).unwrap(), later),
        Ok(())
    );
    assert_eq!(retire(&world.ca(), later).unwrap(), Retired::default());
}

#[test]
fn rotating_needs_the_root_key_and_has_a_bound() {
    let world = World::new();
    for n in 0..rotate::GENERATIONS_MAX {
        rotate(&world.ca(), n % 4 == 0, world.now).unwrap();
    }
    let full = rotate(&world.ca(), false, world.now).unwrap_err();
    assert!(matches!(full, AuthorityError::Generations { count: rotate::GENERATIONS_MAX }), "{full}");
    let other = World::new();
    std::fs::remove_file(other.ca().join("root.key")).unwrap();
    assert!(matches!(rotate(&other.ca(), true, other.now), Err(AuthorityError::File(_))));
    assert_eq!(roots_in(&other), 1);
}

#[test]
fn an_interrupted_rotation_is_finished_by_the_next_command() {
    use super::super::file::{Access, Planned, write};
    let world = World::new();
    let (ca, now) = (world.ca(), world.now);
    let before = std::fs::read_to_string(ca.join("issuing.pem")).unwrap();
    rotate(&ca, false, now).unwrap();
    let after = std::fs::read_to_string(ca.join("issuing.pem")).unwrap();
    let key = std::fs::read_to_string(ca.join("issuing.key")).unwrap();
    // As a crash leaves it between the key and the certificate.
    write(&ca.join("issuing.pem"), before.as_bytes(), Access::Everybody).unwrap();
    let files = [
        Planned::file(ca.join("issuing.key"), key, Access::Owner),
        Planned::file(ca.join("issuing.pem"), &*after, Access::Everybody),
    ];
    write(&ca.join(ROTATION), &serde_json::to_vec(&files).unwrap(), Access::Owner).unwrap();
    world.issue("web-1");
    assert_eq!(std::fs::read_to_string(ca.join("issuing.pem")).unwrap(), after);
}

#[test]
fn records_by_an_earlier_ca_are_still_known() {
    let world = World::new();
    let sign = |message: &[u8]| {
        with_issuing_keys(&world.ca(), world.now, |keys| {
            let signer: &dyn Sign = keys[0];
            (signer.public_key_spki().to_vec(), signer.sign(message).unwrap())
        })
        .unwrap()
    };
    let (old, _) = sign(b"record");
    rotate(&world.ca(), false, world.now).unwrap();
    let (new, _) = sign(b"record");
    assert_ne!(old, new);
    let known = with_issuing_keys(&world.ca(), world.now, |keys| {
        keys.iter().map(|k| k.public_key_spki().to_vec()).collect::<Vec<_>>()
    });
    assert_eq!(known.unwrap(), [new, old]);
}
