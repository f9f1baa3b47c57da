//! Snapshots are played on, cut, bent and overfilled.

use super::*;
use crate::analyser::event::{Carrier, End, FlowKey, Habit, Reach, Request, Target, Tongue, Way};
use crate::analyser::{Action, Event, Keys, Settings, Stage, Verdict};

const S: u64 = 1_000_000;
const START: u64 = 1_000_000 * S;
const LEARNT: u64 = START + 3000 * 7 * S;

fn engine(devices_max: usize) -> Engine {
    let learn_until = Some(Moment(LEARNT));
    Engine::new(Settings { learn_until, devices_max, flows_max: 1000, ..Settings::default() })
}

/// The `n`-th flow, from beginning to end. Ten devices use six services each, in turns; later some scan, flood, send much, call
/// home in a rhythm or come from elsewhere.
fn flow(n: u64) -> Vec<Event> {
    let (keys, t) = (Keys::new([1, 2]), START + n * 7 * S);
    let (device, pick) = (n / 60 % 10, mix(n));
    let strange = t > LEARNT && !pick.is_multiple_of(4);
    let (name, port, end, bytes) = match (strange, device) {
        (true, 1) => (format!("x{n}"), 22, End::Refused, [0, 0]),
        (true, 2) => ("svc-0".to_owned(), 443, End::Fin, [40_000_000, 100]),
        (_, 3) if t > LEARNT => ("home".to_owned(), 443, End::Fin, [300, 100]),
        _ => (format!("svc-{}", pick % 6), 443, End::Fin, [400 + pick % 300, 4000 + pick % 5000]),
    };
    let source = if strange && device == 4 { 9 } else { 1 + device as u32 };
    let target = Target {
        service: keys.service(&name, port, Carrier::Tcp),
        host: keys.host(&name),
        port,
        declared: Tongue::Http,
        reach: Reach::Near,
        ..Target::default()
    };
    let habit = Habit { source, stack: source, certificate_age_h: 10_000, ..Habit::default() };
    let (key, device) = (FlowKey(n), keys.device(&format!("d{device}")));
    let began = Moment(t);
    let request = Request::Http { method: 1, path: (pick % 50) as u32 + 1, status: 200 };
    vec![
        Event::Open { t: began, began, flow: key, device, target, habit },
        Event::Chunk { t: Moment(t + S), flow: key, way: Way::Out, len: 400, first: None },
        Event::Message { t: Moment(t + S), flow: key, request, bytes: [400, 100], latency_us: 10 },
        Event::Close { t: Moment(t + 2 * S), flow: key, end, bytes, chunks: [4, 4] },
        Event::Tick { t: Moment(t + 3 * S) },
    ]
}

/// Plays flows; every verdict, to the last bit.
fn play(engine: &mut Engine, flows: std::ops::Range<u64>) -> Vec<(Verdict, u32)> {
    let events = flows.flat_map(flow);
    events.map(|event| engine.on(&event)).map(|verdict| (verdict, verdict.score.to_bits())).collect()
}

fn played(devices_max: usize, flows: u64) -> Engine {
    let mut engine = engine(devices_max);
    play(&mut engine, 0..flows);
    engine
}

#[test]
fn verdicts_after_a_restart_are_those_without_one() {
    // The second stops within a quarantine; the fourth has more devices than there is room for.
    for (devices_max, before, quarantined) in
        [(100, 2000, 0), (100, 3700, 1), (100, 4000, 0), (7, 3700, 1), (100, 0, 0)]
    {
        let mut through = played(devices_max, before);
        let mut again = engine(devices_max);
        let restored = again.restore(&through.snapshot()).unwrap();
        assert_eq!((restored.devices, restored.dropped), (through.held().1, 0));
        assert_eq!((again.snapshot(), again.meters.quarantined), (through.snapshot(), quarantined));
        let (a, b) = (play(&mut through, before..5000), play(&mut again, before..5000));
        assert_eq!(a.iter().zip(&b).position(|(a, b)| a != b), None, "{devices_max} {before}");
        assert_eq!(again.snapshot(), through.snapshot());
        for action in [Action::Throttle, Action::Tarpit, Action::Kill, Action::Prove, Action::Quarantine] {
            assert!(
                a.iter().any(|(verdict, _)| verdict.action == action),
                "{devices_max} {before} {action:?}"
            );
        }
    }
}

#[test]
fn who_makes_room_after_a_restart_is_who_would_have_without_one() {
    let (mut through, keys) = (engine(40), Keys::new([1, 2]));
    let meet = |engine: &mut Engine, names: std::ops::Range<u64>| {
        for n in names {
            let (t, flow, device) = (Moment(START), FlowKey(n), keys.device(&format!("d{n}")));
            let (target, habit) = (Target::default(), Habit::default());
            engine.on(&Event::Open { t, began: t, flow, device, target, habit });
        }
    };
    meet(&mut through, 0..71);
    let mut again = engine(40);
    again.restore(&through.snapshot()).unwrap();
    meet(&mut through, 71..90);
    meet(&mut again, 71..90);
    assert_eq!(again.snapshot(), through.snapshot());
}

#[test]
fn nothing_is_known_of_flows_that_lived() {
    let mut engine_was = played(100, 50);
    let [open, chunk, ..] = &flow(50)[..] else { panic!() };
    engine_was.on(open);
    let mut engine = engine(100);
    engine.restore(&engine_was.snapshot()).unwrap();
    assert_eq!(engine.held(), (0, 1));
    assert_eq!(engine.on(chunk), Verdict::default());
    assert_eq!(engine.stage(Keys::new([1, 2]).device("d0")), Some(Stage::Learn));
}

/// What a restore of these bytes says; an engine that refuses them stays as it was.
fn said(bytes: &[u8]) -> Result<Restored, SnapshotError> {
    let mut engine = played(100, 30);
    let before = engine.snapshot();
    let said = engine.restore(bytes);
    if said.is_err() {
        assert_eq!(engine.snapshot(), before);
    }
    said
}

#[test]
fn a_snapshot_that_is_cut_or_goes_on_is_refused_at_every_length() {
    let engine = played(100, 12);
    let one = engine.devices.iter().take(1).map(|(key, device)| (key, &**device));
    let mut bytes = engine.written(one, SNAPSHOT_BYTES_MAX);
    assert_eq!(said(&bytes), Ok(Restored { devices: 1, dropped: 0 }));
    for n in 0..bytes.len() {
        assert_eq!(said(&bytes[..n]), Err(SnapshotError::Broken), "{n}");
    }
    bytes.push(0);
    assert_eq!(said(&bytes), Err(SnapshotError::Broken));
}

#[test]
fn another_version_of_the_analyser_is_told() {
    let mut bytes = played(100, 12).snapshot();
    bytes[0] ^= 1;
    assert_eq!(said(&bytes), Err(SnapshotError::Foreign));
    let mut engine = played(100, 12);
    engine.roles.push(Model::new());
    assert_eq!(said(&engine.snapshot()), Err(SnapshotError::Foreign), "another number of roles");
}

#[test]
fn the_longest_snapshot_is_read_and_a_longer_one_neither_written_nor_read() {
    let len = SNAPSHOT_BYTES_MAX + 1;
    let mut bytes = played(100, 12).snapshot();
    bytes.resize(SNAPSHOT_BYTES_MAX, 0);
    assert_eq!(said(&bytes), Err(SnapshotError::Broken));
    bytes.push(0);
    assert_eq!(said(&bytes), Err(SnapshotError::TooLarge { len }));

    let engine = played(100, 600);
    let whole = engine.snapshot();
    let all = || engine.devices.iter().map(|(key, device)| (key, &**device));
    assert_eq!(engine.written(all(), whole.len()), whole);
    let less = engine.written(all(), whole.len() - 1);
    assert!(less.len() < whole.len());
    assert_eq!(said(&less), Ok(Restored { devices: 9, dropped: 0 }));
}

#[test]
fn a_device_takes_no_more_than_it_knows_and_never_more_than_its_bound() {
    let engine = played(100, 5000);
    let none = engine.written(std::iter::empty(), SNAPSHOT_BYTES_MAX).len();
    let each = (engine.snapshot().len() - none) / engine.held().1;
    assert!((1000..4000).contains(&each), "{each}");

    // All that a device may know, each figure at its longest.
    let mut full = Device::new(Moment(u64::MAX), u16::MAX);
    for i in 0..1_000_000 {
        full.services.set(i, 0xffff);
        full.hosts.set(i, 0xffff);
        full.ports.set(i, 0xffff);
    }
    full.words.registers = [59; 64];
    let relation = Relation {
        service: super::super::event::ServiceKey(u64::MAX),
        port: u16::MAX,
        count: u32::MAX,
        last: Moment(u64::MAX),
        gaps: [u16::MAX; 32],
        sizes: [u16::MAX; 32],
        learnt: u32::MAX,
        raised_h: u32::MAX,
        mean: 1.0,
        ..Relation::default()
    };
    full.relations = [relation; 32];
    (full.usual.now, full.usual.anchors) = ([1.0; TABLE.len()], [[1.0; TABLE.len()]; 3]);
    full.generic.bins = [u16::MAX; Tail::BINS];
    full.prior.bins = [u16::MAX; Tail::BINS];
    let bytes = postcard::to_allocvec(&(u64::MAX, &full)).unwrap().len();
    assert!(bytes * 800 < SNAPSHOT_BYTES_MAX, "{bytes}");
}

#[test]
fn of_too_many_devices_those_worth_least_are_dropped_and_counted() {
    let bytes = played(100, 5000).snapshot();
    for devices_max in [1, 4, 9, 10] {
        let mut engine = engine(devices_max);
        let dropped = 10 - devices_max;
        assert_eq!(engine.restore(&bytes), Ok(Restored { devices: devices_max, dropped }));
        assert_eq!(engine.held().1, devices_max);
        play(&mut engine, 5000..5050);
        assert_eq!(engine.held().1, devices_max);
    }
    let (mut engine, keys) = (played(100, 600), Keys::new([1, 2]));
    let suspect = keys.device("d7");
    engine.devices.get_mut(suspect.0).unwrap().evidence.log = 3.0;
    let bytes = engine.snapshot();
    engine = super::super::Engine::new(Settings { devices_max: 2, ..Settings::default() });
    engine.restore(&bytes).unwrap();
    assert!(engine.stage(suspect).is_some(), "the suspect stays");
}

#[test]
fn no_impossible_figure_is_written_or_read() {
    let bends: &[fn(&mut Device, f32)] = &[
        |d, x| d.judged = x,
        |d, x| d.would = x,
        |d, x| d.strange = x,
        |d, x| d.counters.counts[17][5] = x,
        |d, x| d.counters.added[17] = x,
        |d, x| d.usual.now[33] = x,
        |d, x| d.usual.anchors[2][33] = x,
        |d, x| d.relations[31].out_share = x,
        |d, x| d.relations[31].usual_out = x,
        |d, x| d.relations[31].recent[0] = x,
        |d, x| d.relations[31].recent[1] = x,
        |d, x| d.generic.fit.from = x,
        |d, x| d.generic.fit.share = x,
        |d, x| d.generic.fit.shape = x,
        |d, x| d.prior.fit.scale = x,
        |d, x| d.evidence.log = x,
        |d, x| d.ladder.strikes = x,
        // These may be below zero.
        |d, x| d.relations[31].mean = if x < 0.0 { f32::INFINITY } else { x },
        |d, x| d.offsets[27].middle = if x < 0.0 { f32::INFINITY } else { x },
        |d, x| d.offsets[27].spread = if x < 0.0 { f32::INFINITY } else { x },
        // No matter which figure.
        |d, _| d.generic.fit.scale = 0.0,
        |d, _| d.generic.fit.share = 0.0,
        |d, _| d.generic.due = 0,
        |d, _| d.prior.due = REFIT + 1,
        |d, _| d.prior.total = u32::MAX,
        |d, _| d.ladder.ttl_s = TTL_MAX_S + 1,
    ];
    let engine = played(100, 600);
    let (key, sound) = engine.devices.iter().next().unwrap();
    for (at, bend) in bends.iter().enumerate() {
        for figure in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
            let mut bent = (**sound).clone();
            bend(&mut bent, figure);
            let bytes = engine.written([(key, &bent)].into_iter(), SNAPSHOT_BYTES_MAX);
            assert_eq!(said(&bytes), Err(SnapshotError::Unsound), "{at} {figure}");
            let mut engine = engine.clone();
            bend(engine.devices.get_mut(key).unwrap(), figure);
            assert_eq!(said(&engine.snapshot()), Ok(Restored { devices: 9, dropped: 0 }), "{at} {figure}");
        }
    }
    let mut role = engine.clone();
    role.roles[0].total = u32::from(u16::MAX);
    assert_eq!(said(&role.snapshot()), Err(SnapshotError::Unsound));
    let twice = [(key, &**sound), (key, &**sound)].into_iter();
    assert_eq!(said(&engine.written(twice, SNAPSHOT_BYTES_MAX)), Err(SnapshotError::Unsound));
}

#[test]
fn whatever_the_bytes_nothing_panics_and_the_bounds_hold() {
    let engine_was = played(100, 400);
    let bytes = engine_was.snapshot();
    let mut state = 7_u64;
    let mut draw = |n: usize| {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        (state % n as u64) as usize
    };
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..300 {
        let mut bent = bytes.clone();
        for _ in 0..=draw(3) {
            let at = 10 + draw(bent.len() - 10);
            bent[at] = draw(256) as u8;
        }
        let mut engine = engine(5);
        match engine.restore(&bent) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
        play(&mut engine, 5000..5040);
        assert!(engine.held().1 <= 5);
    }
    assert!(taken > 10 && refused > 10, "{taken} {refused}");
}
