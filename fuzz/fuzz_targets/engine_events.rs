//! Any bytes as events before an engine that may hold little: it holds no more, its scores are scores, and the same
//! events give the same verdicts.
#![no_main]

use countersign::analyser::event::{
    Carrier, DeviceKey, End, First, FlowKey, Habit, Reach, Request, ServiceKey, Standing, Target, Tongue, Way,
};
use countersign::analyser::{Action, Engine, Event, Moment, Rule, Settings, Stage, Verdict};
use libfuzzer_sys::fuzz_target;

/// Events in one run: enough to fill what the engine may hold many times over.
const EVENTS_MAX: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let settings = settings(&mut input);
    let (flows_max, devices_max) = (settings.flows_max, settings.devices_max);
    let mut engine = Engine::new(settings);
    let mut twin = engine.clone();
    let mut now = Moment(1_700_000_000_000_000);
    for _ in 0..EVENTS_MAX {
        let Some(event) = event(&mut input, &mut now) else { break };
        let verdict = engine.on(&event);
        check(&verdict);
        assert_eq!(verdict, twin.on(&event));
        let (flows, devices) = engine.held();
        assert!(flows <= flows_max && devices <= devices_max, "{flows} flows, {devices} devices");
    }
    let meters = engine.meters();
    // More may be acted on than would be: in quarantine whatever a device does is held against it.
    assert!(meters.acted.max(meters.would) <= meters.judged, "{meters:?}");
    assert!(meters.quarantined as usize <= devices_max);
});

fn check(verdict: &Verdict) {
    assert!((0.0..=Verdict::SCORE_MAX).contains(&verdict.score), "{verdict:?}");
    assert!(verdict.stage == Stage::Enforce || verdict.action == Action::Allow, "{verdict:?}");
    if let Some(why) = verdict.why {
        assert!(!why.to_string().chars().any(char::is_control));
    }
}

fn settings(input: &mut Input<'_>) -> Settings {
    let [flows, devices, bits, rule] = input.take();
    let mut settings = Settings {
        flows_max: usize::from(flows % 16) + 1,
        devices_max: usize::from(devices % 8) + 1,
        ..Settings::default()
    };
    if bits & 1 != 0 {
        // Enforcing from the first event on, from some later one on, or never.
        settings.learn_until = Some(Moment(1_700_000_000_000_000 + u64::from(bits >> 1) * 60_000_000));
    }
    if bits & 2 != 0 {
        settings.learn_checkpoints_min = 4;
        settings.learn_min = std::time::Duration::from_secs(1);
    }
    settings.without.extend(Rule::ALL.get(usize::from(rule)).copied());
    settings
}

/// The next event; few flows, devices and targets, so that they meet.
fn event(input: &mut Input<'_>, now: &mut Moment) -> Option<Event> {
    if input.0.is_empty() {
        return None;
    }
    let [kind, flow, more, how] = input.take();
    *now = clock(*now, how, input);
    let (t, flow) = (*now, FlowKey(u64::from(flow % 32)));
    Some(match kind % 8 {
        0..=2 => Event::Open {
            t,
            began: Moment(t.0.saturating_sub(u64::from(how) * 1000)),
            flow,
            device: DeviceKey(u64::from(more % 12)),
            target: target(input),
            habit: habit(input),
        },
        3 => Event::Chunk {
            t,
            flow,
            way: if more & 1 == 0 { Way::Out } else { Way::In },
            len: u32::from_le_bytes(input.take()) >> (more & 31),
            first: (more & 64 != 0).then(|| {
                let [word, entropy] = input.take();
                First { tongue: tongue(word), entropy }
            }),
        },
        4 => Event::Message {
            t,
            flow,
            request: request(input),
            bytes: [u32::from(more), u32::from(how)],
            latency_us: u32::MAX,
        },
        5 | 6 => Event::Close {
            t,
            flow,
            end: match more % 5 {
                0 => End::Fin,
                1 => End::Reset,
                2 => End::Timeout,
                3 => End::Refused,
                _ => End::Policy,
            },
            bytes: [0; 2].map(|_: u64| u64::from_le_bytes(input.take()) >> (how & 63)),
            chunks: [u32::from(more), u32::from_le_bytes(input.take())],
        },
        _ => Event::Tick { t },
    })
}

/// Mostly on by a little; sometimes by hours, back, or to where no clock can be.
fn clock(now: Moment, how: u8, input: &mut Input<'_>) -> Moment {
    match how >> 4 {
        0 => Moment(u64::from_le_bytes(input.take())),
        1 => Moment(now.0.saturating_sub(u64::from(how) * 3_600_000_000)),
        2..=5 => now.plus(u64::from(how) * 60_000_000),
        step => now.plus(u64::from(step) * 1000),
    }
}

fn target(input: &mut Input<'_>) -> Target {
    let [service, port, bits, word] = input.take();
    Target {
        service: ServiceKey(u64::from(service)),
        host: u32::from(service % 16),
        port: u16::from(port),
        carrier: match bits % 3 {
            0 => Carrier::Tcp,
            1 => Carrier::Udp,
            _ => Carrier::Other,
        },
        declared: tongue(word),
        standing: match (bits >> 2) % 3 {
            0 => Standing::Unknown,
            1 => Standing::Allowed,
            _ => Standing::Refused,
        },
        reach: match (bits >> 4) % 3 {
            0 => Reach::Near,
            1 => Reach::Far,
            _ => Reach::Many,
        },
    }
}

fn habit(input: &mut Input<'_>) -> Habit {
    let [stack, source, age, bits] = input.take();
    Habit {
        stack: u32::from(stack % 4),
        source: u32::from(source % 4),
        certificate_age_h: if bits & 2 == 0 { u16::MAX } else { u16::from(age) },
        resumed: bits & 1 != 0,
    }
}

fn request(input: &mut Input<'_>) -> Request {
    let [kind, word, low, high] = input.take();
    match kind % 3 {
        0 => Request::Http {
            method: u32::from(kind),
            path: u32::from(word),
            status: u16::from_le_bytes([low, high % 4]),
        },
        1 => Request::Grpc { method: u32::from(word), code: low },
        _ => Request::Mqtt { packet: kind, topic: u32::from(word), wildcards: low, reason: high },
    }
}

fn tongue(word: u8) -> Tongue {
    const ALL: [Tongue; 15] = [
        Tongue::Unknown,
        Tongue::Tls,
        Tongue::Http,
        Tongue::Http2,
        Tongue::Mqtt,
        Tongue::Ssh,
        Tongue::Dns,
        Tongue::Postgres,
        Tongue::Mysql,
        Tongue::Redis,
        Tongue::Kafka,
        Tongue::Rdp,
        Tongue::Text,
        Tongue::Binary,
        Tongue::Random,
    ];
    ALL.get(usize::from(word) % ALL.len()).copied().unwrap_or_default()
}

/// The fuzzer's bytes; zeros when they ran out.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (first, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut all = [0; N];
        all[..first.len()].copy_from_slice(first);
        all
    }
}
