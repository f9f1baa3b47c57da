//! The engine as a whole, heard from outside.

use super::event::{Carrier, End, FlowKey, Habit, Reach, Request, Target, Tongue, Way};
use super::{Action, Engine, Event, Keys, Moment, Rule, Settings, Stage, Verdict};

const S: u64 = 1_000_000;

/// A device that used three services for a day and is enforced from then on.
struct Play {
    engine: Engine,
    keys: Keys,
    now: u64,
    flows: u64,
}

impl Play {
    fn new(settings: Settings) -> Self {
        Self { engine: Engine::new(settings), keys: Keys::new([1, 2]), now: 1_000_000 * S, flows: 0 }
    }

    fn settled() -> Self {
        Self::settled_without(Vec::new())
    }

    fn settled_without(without: Vec<Rule>) -> Self {
        let until = Moment(1_000_000 * S + 86_400 * S);
        let mut play = Self::new(Settings { learn_until: Some(until), without, ..Settings::default() });
        for i in 0..2880 {
            play.now += 30 * S;
            play.flow(&format!("svc-{}", i % 3), 443, End::Fin, [400 + i % 100, 4000]);
        }
        play
    }

    fn open(&mut self, name: &str, port: u16, declared: Tongue, habit: Habit) -> (FlowKey, Verdict) {
        self.flows += 1;
        let target = Target {
            service: self.keys.service(name, port, Carrier::Tcp),
            host: self.keys.host(name),
            port,
            declared,
            reach: Reach::Near,
            ..Target::default()
        };
        let (t, flow, device) = (Moment(self.now), FlowKey(self.flows), self.keys.device("d"));
        (flow, self.engine.on(&Event::Open { t, began: t, flow, device, target, habit }))
    }

    fn flow(&mut self, name: &str, port: u16, end: End, bytes: [u64; 2]) -> Verdict {
        let (flow, a) = self.open(name, port, Tongue::Unknown, Habit::default());
        let b = self.engine.on(&Event::Close { t: Moment(self.now), flow, end, bytes, chunks: [4, 4] });
        if a.score > b.score { a } else { b }
    }

    /// The first rule that acts in `n` turns `gap_s` apart, and in which turn.
    fn until(
        &mut self,
        n: u64,
        gap_s: f64,
        mut turn: impl FnMut(&mut Self, u64) -> Verdict,
    ) -> Option<(Rule, u64)> {
        (1..=n).find_map(|i| {
            self.now += (gap_s * 1e6) as u64;
            let verdict = turn(self, i);
            (verdict.action != Action::Allow).then_some((verdict.rule, i))
        })
    }
}

/// Asserts that the rule acts within `most` turns when those of `apart` are off, and is silent when it is off itself.
fn caught(rule: Rule, apart: &[Rule], most: u64, gap_s: f64, turn: fn(&mut Play, u64) -> Verdict) {
    let found = Play::settled_without(apart.to_vec()).until(most, gap_s, turn);
    assert!(found.is_some_and(|(r, _)| r == rule), "{rule}: {found:?}");
    let without = Play::settled_without([apart, &[rule]].concat()).until(most, gap_s, turn);
    assert!(without.is_none_or(|(r, _)| r != rule), "{rule} is off: {without:?}");
}

#[test]
fn each_named_rule_catches_its_attack_and_is_silent_when_off() {
    use Rule::{Beacon, Exfil, Failures, FanOut, Flip, Flood, Scan};
    let scan = |p: &mut Play, i: u64| p.flow("x", i as u16, End::Refused, [0, 0]);
    caught(Scan, &[FanOut], 12, 0.5, scan);
    caught(Scan, &[FanOut], 25, 10.0, scan);
    caught(Scan, &[FanOut], 40, 300.0, scan);
    caught(FanOut, &[], 8, 2.0, |p, i| p.flow(&format!("y{i}"), 443, End::Fin, [500, 4000]));
    caught(Failures, &[Beacon], 30, 5.0, |p, _| p.flow("x", 1, End::Refused, [0, 0]));
    caught(Exfil, &[Flip], 20, 1.0, |p, _| p.flow("svc-0", 443, End::Fin, [2_000_000, 1000]));
    caught(Flood, &[], 40, 0.01, |p, _| p.flow("svc-0", 443, End::Fin, [450, 4000]));
    caught(Beacon, &[], 15, 60.0, |p, i| p.flow("c2", 443, End::Fin, [300 + i % 3, 100]));
    caught(Flip, &[Exfil], 8, 10.0, |p, _| p.flow("svc-0", 443, End::Fin, [600_000, 10]));
}

#[test]
fn logins_and_floods_of_requests_are_seen_in_messages() {
    let message = |p: &mut Play, status: u16| {
        let (flow, _) = p.open("svc-0", 443, Tongue::Http, Habit::default());
        let request = Request::Http { method: 1, path: 2, status };
        let t = Moment(p.now);
        p.engine.on(&Event::Message { t, flow, request, bytes: [100, 100], latency_us: 10 })
    };
    let found = Play::settled().until(15, 0.2, |p, _| message(p, 401));
    assert!(matches!(found, Some((Rule::Logins, n)) if n <= 15), "{found:?}");
    let found = Play::settled().until(40, 10.0, |p, _| message(p, 401));
    assert!(matches!(found, Some((Rule::Logins, _))), "{found:?}");
    assert_eq!(Play::settled().until(15, 1.0, |p, _| message(p, 200)), None);
}

#[test]
fn another_protocol_and_another_end_of_the_wire_are_told() {
    let mut play = Play::settled();
    let (flow, _) = play.open("svc-0", 443, Tongue::Http, Habit::default());
    let first = Some(super::event::First { tongue: Tongue::Ssh, entropy: 100 });
    let chunk = Event::Chunk { t: Moment(play.now), flow, way: Way::Out, len: 60, first };
    let verdict = play.engine.on(&chunk);
    assert_eq!((verdict.rule, verdict.action), (Rule::Mismatch, Action::Kill));
    let mut play = Play::settled();
    play.open("svc-0", 443, Tongue::Http, habit(1, 1, 20));
    assert_eq!(play.open("svc-0", 443, Tongue::Http, habit(2, 1, 20)).1.action, Action::Allow);
    let verdict = play.open("svc-0", 443, Tongue::Http, habit(2, 2, 20)).1;
    assert_eq!((verdict.rule, verdict.action), (Rule::Stranger, Action::Prove));
}

/// A device that its sidecar knows: the service may be used, the certificate is so many hours old.
fn habit(stack: u32, source: u32, certificate_age_h: u16) -> Habit {
    Habit { stack, source, certificate_age_h, resumed: false }
}

#[test]
fn an_answer_that_cannot_be_told_is_no_other_protocol() {
    use super::event::First;
    let say = |declared, way, bytes: &[u8]| {
        let mut play = Play::settled();
        let (flow, _) = play.open("svc-0", 443, declared, Habit::default());
        let (t, first) = (Moment(play.now), Some(First::of(bytes)));
        play.engine.on(&Event::Chunk { t, flow, way, len: 0, first }).score
    };
    assert!(say(Tongue::Postgres, Way::In, b"R\0\0\0\x08\0\0\0\0") < 3.0);
    assert!(say(Tongue::Mysql, Way::Out, b"\x20\0\0\x01\x85\xa6") < 3.0);
    assert!(say(Tongue::Http, Way::Out, b"\x20\0\0\x01\x85\xa6") > 3.0);
    assert!(say(Tongue::Postgres, Way::In, b"SSH-2.0-x\r\n") > 5.0);
}

#[test]
fn a_service_that_nothing_is_declared_of_speaks_as_it_always_did() {
    use super::event::First;
    let say = |p: &mut Play, bytes: &[u8]| {
        let (flow, _) = p.open("svc-0", 443, Tongue::Unknown, Habit::default());
        let (t, first) = (Moment(p.now), Some(First::of(bytes)));
        let said = p.engine.on(&Event::Chunk { t, flow, way: Way::Out, len: bytes.len() as u32, first });
        p.engine.on(&Event::Close { t, flow, end: End::Fin, bytes: [400, 4000], chunks: [4, 4] });
        said
    };
    let mut play = Play::settled();
    for _ in 0..30 {
        play.now += 30 * S;
        assert_eq!(say(&mut play, b"GET / HTTP/1.1\r\n\r\n").action, Action::Allow);
    }
    let said = say(&mut play, b"SSH-2.0-x\r\n");
    assert_eq!((said.rule, said.action), (Rule::Mismatch, Action::Kill));
    assert_eq!(say(&mut play, b"POST /v1/x HTTP/1.1\r\n\r\n").action, Action::Allow);
}

#[test]
fn a_new_certificate_makes_new_habits_the_devices_own() {
    let thief = |age| {
        let mut play = Play::settled();
        play.open("svc-0", 443, Tongue::Http, habit(1, 1, 20));
        play.now += 7200 * S;
        play.open("svc-0", 443, Tongue::Http, habit(2, 2, age)).1
    };
    assert_eq!((thief(22).rule, thief(22).action), (Rule::Stranger, Action::Prove));
    assert_eq!(thief(1).action, Action::Allow);
    assert_eq!(thief(u16::MAX).action, Action::Prove, "of unknown age is not new");
}

#[test]
fn two_places_at_once_are_told_and_a_move_is_not() {
    let mut play = Play::settled();
    let places = |p: &mut Play, source| p.open("svc-0", 443, Tongue::Http, habit(1, source, 20)).1;
    assert_eq!(places(&mut play, 1).action, Action::Allow);
    let found = play.until(6, 60.0, |p, i| places(p, 1 + (i % 2) as u32));
    assert!(matches!(found, Some((Rule::Stranger, 2..=4))), "{found:?}");
    let mut play = Play::settled();
    places(&mut play, 1);
    assert_eq!(play.until(200, 60.0, |p, _| places(p, 2)), None, "it has moved");
}

#[test]
fn first_contacts_count_more_where_policy_allows_them_and_not_where_others_go() {
    let open = |p: &mut Play, device: &str, name: &str| {
        p.flows += 1;
        let target = Target {
            service: p.keys.service(name, 443, Carrier::Tcp),
            standing: super::event::Standing::Allowed,
            ..Target::default()
        };
        let (t, flow, device) = (Moment(p.now), FlowKey(p.flows), p.keys.device(device));
        let event = Event::Open { t, began: t, flow, device, target, habit: habit(1, 1, 20) };
        let opened = p.engine.on(&event);
        p.engine.on(&Event::Close { t, flow, end: End::Fin, bytes: [400, 4000], chunks: [4, 4] });
        opened
    };
    let found = Play::settled().until(4, 10.0, |p, i| open(p, "d", &format!("new-{i}")));
    assert_eq!(found, Some((Rule::FanOut, 4)));
    // A replica begins where `d` has long been.
    let mut play = Play::settled();
    let found = play.until(3, 10.0, |p, i| open(p, "replica", &format!("svc-{}", i - 1)));
    assert_eq!(found, None);
    let replica = play.engine.devices.get(play.keys.device("replica").0).unwrap();
    assert_eq!(replica.counters.get(super::decay::Count::FreshAllowed, super::decay::Horizon::M10), 0.0);
}

/// One flow, and in it an exchange of these sizes each `gap_s`; the first rule that acts, and at which exchange.
fn exchanges(
    play: &mut Play,
    name: &str,
    n: u64,
    gap_s: f64,
    sizes: fn(u64) -> [u32; 2],
) -> Option<(Rule, u64)> {
    let (flow, _) = play.open(name, 443, Tongue::Http, Habit::default());
    play.until(n, gap_s, |p, i| {
        let [out, back] = sizes(i);
        let t = Moment(p.now);
        let asked = p.engine.on(&Event::Chunk { t, flow, way: Way::Out, len: out, first: None });
        let t = Moment(p.now + 1000);
        let answered = p.engine.on(&Event::Chunk { t, flow, way: Way::In, len: back, first: None });
        if asked.score > answered.score { asked } else { answered }
    })
}

#[test]
fn a_flow_busier_than_any_before_is_slowed_while_it_lasts() {
    let found = exchanges(&mut Play::settled(), "svc-0", 40, 0.1, |i| [90 + i as u32 % 50, 800]);
    assert!(matches!(found, Some((Rule::Flood, 12..=20))), "{found:?}");
    assert_eq!(exchanges(&mut Play::settled(), "svc-0", 40, 1.0, |_| [90, 800]), None);
}

#[test]
fn a_known_service_that_is_sent_far_more_than_ever_is_told_before_the_flow_ends() {
    let mut play = Play::settled();
    let (flow, _) = play.open("svc-0", 443, Tongue::Http, Habit::default());
    let found = play.until(40, 0.5, |p, _| {
        p.engine.on(&Event::Chunk { t: Moment(p.now), flow, way: Way::Out, len: 500_000, first: None })
    });
    assert!(matches!(found, Some((Rule::Exfil, 12..=20))), "6 to 10 MB: {found:?}");
}

#[test]
fn even_pieces_both_ways_are_a_tunnel_and_answers_are_not() {
    let mut play = Play::settled_without(vec![Rule::Beacon, Rule::Flood]);
    let found = exchanges(&mut play, "feed", 60, 0.2, |i| [140 + i as u32 % 8, 142]);
    assert!(matches!(found, Some((Rule::Mismatch, 16..=40))), "{found:?}");
    // As much as can be, both ways.
    let (flow, t) = (FlowKey(play.flows), Moment(play.now));
    play.engine.on(&Event::Close { t, flow, end: End::Fin, bytes: [u64::MAX; 2], chunks: [1, 1] });
    let mut play = Play::settled_without(vec![Rule::Beacon, Rule::Flood]);
    assert_eq!(exchanges(&mut play, "feed", 60, 0.2, |i| [140 + i as u32 % 8, 900]), None);
}

/// Connects to a broker, says what `packets` are, and stays when `stays`.
fn broker(p: &mut Play, packets: &[(u8, u8)], stays: bool) -> Verdict {
    let (flow, _) = p.open("svc-0", 443, Tongue::Mqtt, Habit::default());
    let t = Moment(p.now);
    let mut worst = Verdict::default();
    let mut hear = |p: &mut Play, event| {
        let said = p.engine.on(&event);
        worst = if said.score > worst.score { said } else { worst };
    };
    hear(p, Event::Chunk { t, flow, way: Way::Out, len: 40, first: None });
    hear(p, Event::Chunk { t, flow, way: Way::In, len: 4, first: None });
    for (packet, reason) in packets {
        let request = Request::Mqtt { packet: *packet, topic: 0, wildcards: 0, reason: *reason };
        hear(p, Event::Message { t, flow, request, bytes: [30, 4], latency_us: 0 });
    }
    if !stays {
        hear(p, Event::Close { t, flow, end: End::Fin, bytes: [60, 4], chunks: [2, 1] });
    }
    hear(p, Event::Tick { t });
    worst
}

#[test]
fn a_broker_is_not_kept_busy_with_nothing() {
    let found = Play::settled().until(90, 0.33, |p, _| broker(p, &[(1, 0), (14, 0)], false));
    assert!(matches!(found, Some((Rule::Logins, _))), "connects and leaves: {found:?}");
    let found = Play::settled().until(90, 0.33, |p, _| broker(p, &[(1, 0)], true));
    assert!(matches!(found, Some((Rule::Slow, _))), "connects and stays: {found:?}");
    let found = Play::settled().until(90, 0.33, |p, _| broker(p, &[(1, 0x81)], false));
    assert!(matches!(found, Some((Rule::Failures | Rule::Logins, _))), "is malformed: {found:?}");
    assert_eq!(Play::settled().until(90, 0.33, |p, _| broker(p, &[(1, 0), (8, 0)], true)), None);
    let mut play = Play::settled();
    let (flow, _) = play.open("svc-0", 443, Tongue::Mqtt, Habit::default());
    let found = play.until(90, 0.33, |p, _| {
        let request = Request::Mqtt { packet: 3, topic: 1, wildcards: 0, reason: 0 };
        p.engine.on(&Event::Message { t: Moment(p.now), flow, request, bytes: [70, 0], latency_us: 0 })
    });
    assert!(matches!(found, Some((Rule::Flood, _))), "publishes without end: {found:?}");
}

#[test]
fn unfinished_requests_are_seen_when_time_passes() {
    let mut play = Play::settled();
    let found = play.until(40, 1.0, |p, _| {
        let (flow, _) = p.open("svc-0", 443, Tongue::Http, Habit::default());
        let t = Moment(p.now);
        p.engine.on(&Event::Chunk { t, flow, way: Way::Out, len: 1, first: None });
        p.engine.on(&Event::Tick { t })
    });
    assert!(matches!(found, Some((Rule::Slow, _))), "{found:?}");
}

#[test]
fn a_device_that_is_learnt_is_left_alone_until_it_is_plainly_wrong() {
    let mut play = Play::new(Settings::default());
    for i in 0..200_u64 {
        play.now += 60 * S;
        let verdict = play.flow(&format!("s{}", i % 20), 443, End::Fin, [500, 4000]);
        assert_eq!((verdict.action, verdict.stage), (Action::Allow, Stage::Learn));
    }
    assert_eq!(play.engine.stage(play.keys.device("d")), Some(Stage::Learn));
}

#[test]
fn learning_ends_by_itself_after_a_day_and_enforcing_begins_when_shadow_is_clean() {
    let mut play = Play::new(Settings::default());
    let mut stages = Vec::new();
    for i in 0..12_000_u64 {
        play.now += 30 * S;
        stages.push(play.flow(&format!("s{}", i % 3), 443, End::Fin, [400 + i % 100, 4000]).stage);
    }
    stages.dedup();
    assert_eq!(stages, [Stage::Learn, Stage::Shadow, Stage::Enforce]);
}

#[test]
fn the_same_events_give_the_same_verdicts() {
    let play = || {
        let mut play = Play::settled();
        (0..200_u64)
            .map(|i| {
                play.now += S;
                let v = play.flow(&format!("z{}", i % 40), 443, End::Fin, [i * 1000, 10]);
                (v.score.to_bits(), v.rule, v.action)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(play(), play());
}

#[test]
fn quarantine_holds_the_device_for_its_time_and_a_person_can_end_it() {
    let mut play = Play::settled();
    let last = (0..60_u16).map(|i| play.flow("x", i, End::Refused, [0, 0]).action).max();
    assert_eq!(last, Some(Action::Quarantine));
    assert_eq!(play.engine.meters().quarantined, 1);
    assert_eq!(play.flow("svc-0", 443, End::Fin, [450, 4000]).action, Action::Quarantine);
    let device = play.keys.device("d");
    play.engine.release(device);
    play.now += 600 * S;
    assert_eq!(play.flow("svc-0", 443, End::Fin, [450, 4000]).action, Action::Allow);
}

#[test]
fn tables_hold_their_bounds_and_keep_suspects() {
    let mut play = Play::new(Settings { flows_max: 500, devices_max: 50, ..Settings::default() });
    for i in 0..20_000_u64 {
        play.now += 1000;
        let (t, device) = (Moment(play.now), play.keys.device(&format!("d{}", i % 400)));
        let target = Target { service: play.keys.service("s", i as u16, Carrier::Tcp), ..Target::default() };
        let flow = FlowKey(i);
        play.engine.on(&Event::Open { t, began: t, flow, device, target, habit: Habit::default() });
    }
    assert_eq!(play.engine.held(), (500, 50));
    let (flows, devices) = play.engine.evicted();
    assert!(flows == 19_500 && devices > 300, "{flows} {devices}");
}

#[test]
fn odd_events_are_borne() {
    let mut play = Play::settled();
    for t in [0, u64::MAX, 5, u64::MAX / 2, 1_000_000 * S] {
        play.now = t;
        let verdict = play.flow("svc-0", 443, End::Reset, [u64::MAX, u64::MAX]);
        assert!(verdict.score.is_finite() && verdict.score <= Verdict::SCORE_MAX);
        let (t, flow) = (Moment(t), FlowKey(u64::MAX));
        play.engine.on(&Event::Close { t, flow, end: End::Fin, bytes: [1, 1], chunks: [1, 1] });
        play.engine.on(&Event::Tick { t });
    }
}
