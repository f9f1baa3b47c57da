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

/// Asserts that the rule acts within `most` turns, and that nothing of its name does when it is off.
fn caught(rule: Rule, most: u64, gap_s: f64, turn: fn(&mut Play, u64) -> Verdict) {
    let found = Play::settled().until(most, gap_s, turn);
    assert!(found.is_some_and(|(r, _)| r == rule), "{rule}: {found:?}");
    let without = Play::settled_without(vec![rule]).until(most, gap_s, turn);
    assert!(without.is_none_or(|(r, _)| r != rule), "{rule} is off: {without:?}");
}

#[test]
fn each_named_rule_catches_its_attack_and_is_silent_when_off() {
    caught(Rule::Scan, 12, 0.5, |p, i| p.flow("x", i as u16, End::Refused, [0, 0]));
    caught(Rule::Scan, 25, 10.0, |p, i| p.flow("x", i as u16, End::Refused, [0, 0]));
    caught(Rule::Scan, 40, 300.0, |p, i| p.flow("x", i as u16, End::Refused, [0, 0]));
    caught(Rule::FanOut, 8, 2.0, |p, i| p.flow(&format!("y{i}"), 443, End::Fin, [500, 4000]));
    caught(Rule::Failures, 30, 5.0, |p, _| p.flow("x", 1, End::Refused, [0, 0]));
    caught(Rule::Exfil, 20, 1.0, |p, _| p.flow("svc-0", 443, End::Fin, [2_000_000, 1000]));
    caught(Rule::Flood, 40, 0.01, |p, _| p.flow("svc-0", 443, End::Fin, [450, 4000]));
    caught(Rule::Beacon, 15, 60.0, |p, i| p.flow("c2", 443, End::Fin, [300 + i % 3, 100]));
    caught(Rule::Flip, 8, 10.0, |p, _| p.flow("svc-0", 443, End::Fin, [600_000, 10]));
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
    let habit = |stack, source| Habit { stack, source, ..Habit::default() };
    let mut play = Play::settled();
    play.open("svc-0", 443, Tongue::Http, habit(1, 1));
    assert_eq!(play.open("svc-0", 443, Tongue::Http, habit(2, 1)).1.action, Action::Allow);
    let verdict = play.open("svc-0", 443, Tongue::Http, habit(2, 2)).1;
    assert_eq!((verdict.rule, verdict.action), (Rule::Stranger, Action::Prove));
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
