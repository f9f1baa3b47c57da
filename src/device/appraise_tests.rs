//! The same device matches, a changed one drifts, another one goes to quarantine.

use super::super::testing::{HOUR, Key, NOW, claims, id, machine, record};
use super::*;
use crate::device::{Fingerprint, Weights};

use Component::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A machine as it was enrolled, and what is remembered of it.
struct World {
    key: Key,
    machine: Fingerprint,
    record: Record,
    thresholds: Thresholds,
    history: History,
}

impl World {
    fn new() -> Self {
        let (key, machine) = (Key::new(), machine(1, 1));
        let record = record(&machine, &key);
        let (thresholds, history) = (Thresholds::default(), History::default());
        Self { key, machine, record, thresholds, history }
    }

    fn appraise(&self, claims: &Claims, now: Timestamp) -> Result<Appraisal, Reason> {
        let (id, proven) = (id("web-1"), [self.key.spki_sha256()]);
        let anchor = Anchor { id: &id, proven: &proven };
        appraise(claims, &self.record, &anchor, &self.thresholds, &self.history, now)
    }

    /// Verdict, score and whether the baseline follows when these have changed and those are absent.
    fn play(&self, changed: &[Component], absent: &[Component]) -> (Verdict, u8, bool) {
        let mut claims = claims(&self.machine);
        for component in changed {
            claims.components.insert(*component, vec![[0xee; 16]]);
        }
        for component in absent {
            assert!(claims.components.remove(component).is_some(), "{component}");
        }
        let appraisal = self.appraise(&claims, NOW).unwrap();
        for (component, state) in &appraisal.components {
            let expected = match component {
                c if absent.contains(c) => State::Absent,
                c if changed.contains(c) => State::Changed,
                _ => State::Same,
            };
            assert_eq!(*state, expected, "{component}");
        }
        (appraisal.verdict, appraisal.score.percent(), appraisal.follows)
    }
}

#[test]
fn an_unchanged_machine_matches_whole() {
    let world = World::new();
    assert_eq!(world.play(&[], &[]), (Verdict::Match, 100, false));
    let appraisal = world.appraise(&claims(&world.machine), NOW).unwrap();
    assert_eq!((appraisal.tier, appraisal.components.len()), (Tier::Software, 13));
}

#[test]
fn updates_are_free_and_a_part_may_change() {
    let world = World::new();
    assert_eq!(world.play(&[Os, Kernel, Arch], &[]), (Verdict::Match, 95, false));
    assert_eq!(world.play(&[RootDisk], &[Memory]), (Verdict::Match, 85, false));
}

#[test]
fn the_thresholds_are_where_they_say() {
    let mut world = World::new();
    assert_eq!(world.play(&[MachineId, RootFs, SshHostKeys], &[]).0, Verdict::Match, "85");
    assert_eq!(world.play(&[MachineId, RootFs, SshHostKeys, Arch], &[]).0, Verdict::Drift, "84");
    assert_eq!(world.play(&[ProductUuid, RootDisk, RootFs], &[Memory, Arch]), (Verdict::Drift, 60, false));
    let more = [ProductUuid, RootDisk, RootFs, Os];
    assert_eq!(world.play(&more, &[Memory]), (Verdict::Quarantine, 59, false));
    world.thresholds.match_min = 100;
    assert_eq!(world.play(&[Arch], &[]).0, Verdict::Drift);
    world.thresholds.drift_min = 100;
    assert_eq!(world.play(&[Arch], &[]).0, Verdict::Quarantine);
}

#[test]
fn whoever_leaves_out_what_differs_gains_nothing() {
    let world = World::new();
    for some in [&[RootDisk, Cpu][..], &[ProductUuid], &[MachineId, RootFs, SshHostKeys, Os]] {
        assert_eq!(world.play(some, &[]), world.play(&[], some));
    }
    let mut claims = claims(&world.machine);
    claims.components.clear();
    let appraisal = world.appraise(&claims, NOW).unwrap();
    assert_eq!((appraisal.verdict, appraisal.score.percent()), (Verdict::Quarantine, 0));
}

#[test]
fn two_values_of_the_board_are_another_machine() {
    let mut world = World::new();
    // 75 in all: without the rule it would have drifted.
    assert_eq!(world.play(&[BoardSerial, ProductSerial], &[]), (Verdict::Quarantine, 75, false));
    assert_eq!(world.play(&[BoardSerial], &[ProductSerial]).0, Verdict::Quarantine);
    assert_eq!(world.play(&[BoardSerial], &[]), (Verdict::Match, 85, false));
    world.thresholds.board_changed_max = 2;
    assert_eq!(world.play(&[BoardSerial, ProductSerial], &[]).0, Verdict::Drift);
}

#[test]
fn another_machine_with_the_stolen_key_goes_to_quarantine() {
    let mut world = World::new();
    // It has the key and even the salt, but is another machine.
    world.machine = machine(2, 1);
    let appraisal = world.appraise(&claims(&world.machine), NOW).unwrap();
    assert_eq!(appraisal.verdict, Verdict::Quarantine);
    assert_eq!(appraisal.lease(&world.thresholds, NOW), Err(Reason::DeviceQuarantined));
    // It is the same machine, but has not the salt: nothing matches.
    world.machine = machine(1, 2);
    let appraisal = world.appraise(&claims(&world.machine), NOW).unwrap();
    assert_eq!((appraisal.verdict, appraisal.score.percent()), (Verdict::Quarantine, 0));
}

#[test]
fn network_interfaces_count_by_how_many_are_the_same() {
    let mut world = World::new();
    let macs = |n: &[u8]| n.iter().map(|n| [*n; 16]).collect::<Vec<_>>();
    world.machine.values.insert(NicMacs, macs(&[1, 2, 3, 4]));
    world.record = record(&world.machine, &world.key);
    // The weight of the set is 10 of 100.
    for (now, score) in [
        (&[1, 2, 3, 4][..], 100),
        (&[1, 2, 3], 97),
        (&[1, 2, 3, 4, 5], 98),
        (&[1, 2], 95),
        (&[1, 2, 5, 6], 93),
        (&[5], 90),
    ] {
        let mut claims = claims(&world.machine);
        claims.components.insert(NicMacs, macs(now));
        let appraisal = world.appraise(&claims, NOW).unwrap();
        assert_eq!(appraisal.score.percent(), score, "{now:?}");
        let state = if score == 100 { State::Same } else { State::Changed };
        assert!(appraisal.components.contains(&(NicMacs, state)));
    }
    // Of a component that is no set a part is as good as nothing.
    let mut claims = claims(&world.machine);
    claims.components.get_mut(&Cpu).unwrap().push([0xff; 16]);
    assert_eq!(world.appraise(&claims, NOW).unwrap().score.percent(), 90);
}

#[test]
fn what_was_not_enrolled_helps_nobody() {
    let mut world = World::new();
    world.record.baseline.retain(|c, _| *c != ProductUuid);
    let without = world.play(&[Cpu], &[]);
    // 70 of 80 that weigh, whether the UUID is presented or not.
    assert_eq!(without, (Verdict::Match, 87, false));
    assert_eq!(world.appraise(&claims(&world.machine), NOW).unwrap().components.len(), 12);
}

#[test]
fn a_baseline_that_weighs_nothing_says_nothing() {
    let mut world = World::new();
    world.record.baseline.clear();
    assert_eq!(world.play(&[], &[]), (Verdict::Quarantine, 0, false));
    let mut world = World::new();
    world.thresholds.weights = Weights::with(Component::ALL.iter().map(|c| (*c, 0)));
    assert_eq!(world.play(&[], &[]), (Verdict::Quarantine, 0, false));
}

#[test]
fn drift_of_a_thin_machine_goes_to_quarantine() {
    let mut world = World::new();
    let drifted = [MachineId, RootFs, SshHostKeys, Os];
    for (profile, verdict) in [
        (Profile::Full, Verdict::Drift),
        (Profile::Thin, Verdict::Quarantine),
        (Profile::Container, Verdict::Quarantine),
    ] {
        world.record.profile = profile;
        assert_eq!(world.play(&drifted, &[]).0, verdict);
        assert_eq!(world.play(&[Os], &[]).0, Verdict::Match);
    }
}

#[test]
fn the_baseline_follows_updates_and_one_part_of_a_quiet_device() {
    let mut world = World::new();
    let free = [Os, Kernel, Arch, RootDisk];
    assert_eq!(world.play(&free, &[]), (Verdict::Drift, 83, true));
    assert_eq!(world.play(&[Os, Kernel, Arch, RootDisk, Cpu], &[]), (Verdict::Drift, 73, false));
    assert_eq!(world.play(&[Os, Kernel, RootDisk, SshHostKeys], &[]), (Verdict::Drift, 81, false));
    assert_eq!(world.play(&[ProductUuid], &[]), (Verdict::Drift, 80, false));
    world.history.drift_last = Some(before(7 * DAY));
    assert!(world.play(&free, &[]).2);
    world.history.drift_last = Some(before(7 * DAY - HOUR));
    assert!(!world.play(&free, &[]).2);
}

fn before(time: Duration) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() - u64::try_from(time.as_millis()).unwrap())
}

#[test]
fn the_record_is_checked_before_anything_is_compared() {
    let world = World::new();
    let claims = claims(&world.machine);
    let (right, other) = (id("web-1"), id("web-2"));
    let proven = [world.key.spki_sha256()];
    let play = |id, proven| {
        let anchor = Anchor { id, proven };
        appraise(&claims, &world.record, &anchor, &world.thresholds, &world.history, NOW).map(|a| a.verdict)
    };
    assert_eq!(play(&right, &proven), Ok(Verdict::Match));
    assert_eq!(play(&other, &proven), Err(Reason::RecordInvalid));
    assert_eq!(play(&right, &[[0; 32]]), Err(Reason::RecordInvalid));
    assert_eq!(world.appraise(&claims, world.record.expires_at), Err(Reason::RecordExpired));
}

#[test]
fn whom_the_authority_has_put_out_stays_out_however_well_it_matches() {
    let mut world = World::new();
    world.record.status = Status::Revoked;
    assert_eq!(world.appraise(&claims(&world.machine), NOW), Err(Reason::DeviceRevoked));
    world.record.status = Status::Quarantined;
    let appraisal = world.appraise(&claims(&world.machine), NOW).unwrap();
    assert_eq!((appraisal.verdict, appraisal.score.percent()), (Verdict::Quarantine, 100));
    assert_eq!(appraisal.lease(&world.thresholds, NOW), Err(Reason::DeviceQuarantined));
}

#[test]
fn evidence_of_another_time_is_stale() {
    let mut world = World::new();
    world.record.issued_at = before(DAY);
    let play = |at| world.appraise(&Claims { issued_at: at, ..claims(&world.machine) }, NOW).map(|_| ());
    assert_eq!(play(before(CLOCK_SKEW_MAX)), Ok(()));
    assert_eq!(play(NOW.plus(CLOCK_SKEW_MAX)), Ok(()));
    assert_eq!(play(before(CLOCK_SKEW_MAX + Duration::from_secs(1))), Err(Reason::EvidenceStale));
    assert_eq!(play(NOW.plus(CLOCK_SKEW_MAX + Duration::from_secs(1))), Err(Reason::EvidenceStale));
}

#[test]
fn nobody_is_taken_for_more_than_evidence_shows_or_the_record_grants() {
    let mut world = World::new();
    for (granted, taken) in
        [(Tier::None, Tier::None), (Tier::Software, Tier::Software), (Tier::Attested, Tier::Software)]
    {
        world.record.tier_max = granted;
        assert_eq!(world.appraise(&claims(&world.machine), NOW).unwrap().tier, taken);
    }
}

#[test]
fn a_lease_lasts_by_the_verdict_and_never_past_the_record() {
    let mut world = World::new();
    let whole = world.appraise(&claims(&world.machine), NOW).unwrap();
    let lease = whole.lease(&world.thresholds, NOW).unwrap();
    assert_eq!((lease.ttl, lease.until), (Duration::from_secs(900), NOW.plus(Duration::from_secs(900))));
    assert_eq!(lease.renew_at(), NOW.plus(Duration::from_secs(300)));
    let last = Timestamp::from_millis(lease.until.as_millis() - 1);
    assert_eq!(lease.check(last), Ok(()));
    assert_eq!(lease.check(lease.until), Err(Reason::LeaseExpired));

    let mut changed = claims(&world.machine);
    changed.components.remove(&ProductUuid);
    let drifted = world.appraise(&changed, NOW).unwrap();
    let lease = drifted.lease(&world.thresholds, NOW).unwrap();
    assert_eq!((lease.ttl, lease.score.percent()), (Duration::from_secs(60), 80));

    world.record.expires_at = NOW.plus(Duration::from_secs(30));
    let short = world.appraise(&claims(&world.machine), NOW).unwrap();
    assert_eq!(short.lease(&world.thresholds, NOW).unwrap().until, world.record.expires_at);
    assert_eq!(short.lease(&world.thresholds, world.record.expires_at), Err(Reason::RecordExpired));
}

#[test]
fn only_who_is_exempt_and_was_never_enrolled_need_not_attest() {
    let mut free = 0;
    for n in 0..8 {
        let standing = Standing { record_known: n & 1 > 0, has_extension: n & 2 > 0, exempt: n & 4 > 0 };
        if !must_attest(standing) {
            assert_eq!(standing, Standing { record_known: false, has_extension: false, exempt: true });
            free += 1;
        }
    }
    assert_eq!(free, 1);
}
