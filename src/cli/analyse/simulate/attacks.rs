//! The fourteen attacks, each in three strengths, and by when each must be blocked.

use super::dice::Dice;
use super::honest::{Company, Variety, micros};
use super::stage::{Act, DAY, Device, HOUR, MINUTE, SECOND, Service, Stage};
use crate::analyser::Event;
use crate::analyser::event::{Carrier, End, First, Habit, Reach, Request, Standing, Tongue, Way};

/// How loud an attack is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Strength {
    /// Loud.
    Easy = 0,
    /// As an ordinary tool does it.
    Medium,
    /// By someone who takes care.
    Hard,
}

impl Strength {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Easy, Self::Medium, Self::Hard];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Medium => "medium",
            Self::Hard => "hard",
        }
    }
}

/// By when an attack must be blocked, in what the attacker has achieved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// So many flows opened: targets, contacts, services, sessions' flows.
    Flows(u64),
    /// So many bytes sent out.
    BytesOut(u64),
    /// So many messages sent out in a connection.
    Polls(u64),
    /// So many logins refused.
    Refusals(u64),
    /// So much time, in microseconds.
    Time(u64),
}

/// What an attacker has achieved so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauge {
    /// When the first of its events was heard.
    pub since: Option<u64>,
    now: u64,
    flows: u64,
    bytes_out: u64,
    polls: u64,
    refusals: u64,
}

impl Gauge {
    /// Counts one act of the play.
    pub fn count(&mut self, act: &Act) {
        self.now = act.event.at().0;
        if !act.attack {
            return;
        }
        self.since.get_or_insert(self.now);
        match act.event {
            Event::Open { .. } => self.flows += 1,
            Event::Chunk { way: Way::Out, len, .. } => {
                self.bytes_out += u64::from(len);
                self.polls += 1;
            }
            Event::Message { request: Request::Http { status: 401 | 403, .. }, .. } => self.refusals += 1,
            _ => {}
        }
    }

    /// How much of `bound` is used up; above 1 it is too late.
    pub fn used(&self, bound: Bound) -> f64 {
        let (value, max) = match bound {
            Bound::Flows(max) => (self.flows, max),
            Bound::BytesOut(max) => (self.bytes_out, max),
            Bound::Polls(max) => (self.polls, max),
            Bound::Refusals(max) => (self.refusals, max),
            Bound::Time(max) => (self.since.map_or(0, |since| self.now.saturating_sub(since)), max),
        };
        value as f64 / max.max(1) as f64
    }
}

/// One of the fourteen.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its number in the suite.
    pub number: u8,
    /// Its name on the command line.
    pub name: &'static str,
    /// Whether blocking its hard form is only reported.
    pub hard_is_reported: bool,
    /// By when it must be blocked.
    pub bounds: [Bound; 3],
    /// How long it goes on at most, in microseconds.
    pub lasts: [u64; 3],
    start: fn(&mut Scene<'_>) -> Device,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Scenario {
    /// The one of this name or number.
    pub fn find(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|s| s.name == name || s.number.to_string() == name)
    }

    /// Lets it begin; the device that attacks.
    pub fn start(&self, scene: &mut Scene<'_>) -> Device {
        (self.start)(scene)
    }

    /// By when it must be blocked.
    pub fn bound(&self, strength: Strength) -> Bound {
        at(self.bounds, strength)
    }

    /// How long it goes on at most.
    pub fn lasts(&self, strength: Strength) -> u64 {
        at(self.lasts, strength)
    }
}

/// Where and how an attack is played.
pub struct Scene<'a> {
    /// The stage, played until the attack begins.
    pub stage: &'a mut Stage,
    /// The devices around.
    pub company: &'a Company,
    /// When it begins.
    pub at: u64,
    /// How loud it is.
    pub strength: Strength,
    /// Whose parameters are drawn.
    pub variety: Variety,
    /// The most flows and requests per second that the attacked device makes, over ten seconds, but one in a thousand.
    pub pace: f64,
}

impl Scene<'_> {
    /// The value for this strength: of the suite's, or of those that the prior is trained on.
    fn at<T: Copy>(&self, test: [T; 3], train: [T; 3]) -> T {
        at(if self.variety == Variety::Test { test } else { train }, self.strength)
    }

    /// A part of the attack: what it does each time, and how long it waits after.
    fn go(&mut self, mut step: impl FnMut(u64, u64, &mut Stage) -> Option<u64> + 'static) {
        let mut count = 0;
        self.stage.enter(self.at, move |now: u64, stage: &mut Stage| {
            stage.attacking = true;
            count += 1;
            step(count - 1, now, stage)
        });
    }

    fn dice(&mut self) -> &mut Dice {
        &mut self.stage.dice
    }

    fn unused(&self, nth: usize) -> Service {
        self.company.unused.get(nth).copied().unwrap_or_default()
    }

    fn known(&self) -> Service {
        self.company.known.first().copied().unwrap_or_default()
    }
}

/// All of them, in the order of their numbers.
pub static SCENARIOS: [Scenario; 14] = [
    Scenario {
        number: 1,
        name: "scan",
        hard_is_reported: false,
        bounds: [Bound::Flows(10), Bound::Flows(12), Bound::Flows(25)],
        lasts: [20 * SECOND, 5 * MINUTE, 30 * MINUTE],
        start: scan,
    },
    Scenario {
        number: 2,
        name: "exfiltration",
        hard_is_reported: false,
        bounds: [Bound::BytesOut(20_000_000), Bound::BytesOut(10_000_000), Bound::BytesOut(15_000_000)],
        lasts: [MINUTE, 2 * MINUTE, 30 * MINUTE],
        start: exfiltration,
    },
    Scenario {
        number: 3,
        name: "beacon",
        hard_is_reported: false,
        bounds: [Bound::Flows(12), Bound::Flows(15), Bound::Flows(20)],
        lasts: [5 * MINUTE, HOUR, 4 * HOUR],
        start: beacon,
    },
    Scenario {
        number: 4,
        name: "c2-connection",
        hard_is_reported: false,
        bounds: [Bound::Polls(15), Bound::Polls(20), Bound::Polls(30)],
        lasts: [2 * MINUTE, 15 * MINUTE, 2 * HOUR],
        start: c2_connection,
    },
    Scenario {
        number: 5,
        name: "flood",
        hard_is_reported: false,
        bounds: [Bound::Time(SECOND), Bound::Time(3 * SECOND), Bound::Time(MINUTE)],
        lasts: [3 * SECOND, 20 * SECOND, 10 * MINUTE],
        start: flood,
    },
    Scenario {
        number: 6,
        name: "slow-request",
        hard_is_reported: false,
        bounds: [Bound::Time(5 * SECOND), Bound::Time(15 * SECOND), Bound::Time(30 * SECOND)],
        lasts: [MINUTE, 2 * MINUTE, 5 * MINUTE],
        start: slow_request,
    },
    Scenario {
        number: 7,
        name: "credentials",
        hard_is_reported: false,
        bounds: [Bound::Refusals(15), Bound::Refusals(25), Bound::Refusals(40)],
        lasts: [10 * SECOND, MINUTE, 20 * MINUTE],
        start: credentials,
    },
    Scenario {
        number: 8,
        name: "lateral",
        hard_is_reported: false,
        bounds: [Bound::Flows(5), Bound::Flows(4), Bound::Flows(4)],
        lasts: [2 * MINUTE, 5 * MINUTE, 10 * MINUTE],
        start: lateral,
    },
    Scenario {
        number: 9,
        name: "tunnel",
        hard_is_reported: false,
        bounds: [Bound::Polls(1), Bound::Time(10 * SECOND), Bound::Time(MINUTE)],
        lasts: [MINUTE, MINUTE, 5 * MINUTE],
        start: tunnel,
    },
    Scenario {
        number: 10,
        name: "mqtt",
        hard_is_reported: false,
        bounds: [Bound::Time(SECOND), Bound::Time(5 * SECOND), Bound::Time(30 * SECOND)],
        lasts: [10 * SECOND, MINUTE, 5 * MINUTE],
        start: mqtt,
    },
    Scenario {
        number: 11,
        name: "replay",
        hard_is_reported: false,
        bounds: [Bound::Flows(40), Bound::Flows(40), Bound::Flows(40)],
        lasts: [HOUR, 3 * HOUR, 2 * HOUR],
        start: replay,
    },
    Scenario {
        number: 12,
        name: "stolen-certificate",
        hard_is_reported: true,
        bounds: [Bound::Flows(1), Bound::Flows(20), Bound::Time(300 * SECOND)],
        lasts: [10 * MINUTE, HOUR, HOUR],
        start: stolen_certificate,
    },
    Scenario {
        number: 13,
        name: "low-and-slow",
        hard_is_reported: false,
        bounds: [Bound::Time(HOUR), Bound::Time(HOUR), Bound::Time(HOUR)],
        lasts: [HOUR, HOUR, HOUR],
        start: low_and_slow,
    },
    Scenario {
        number: 14,
        name: "poisoning",
        hard_is_reported: false,
        bounds: [Bound::BytesOut(20_000_000), Bound::BytesOut(10_000_000), Bound::BytesOut(15_000_000)],
        lasts: [MINUTE, 2 * MINUTE, 30 * MINUTE],
        // Its three weeks are played before; what follows is the exfiltration.
        start: exfiltration,
    },
];

/// Targets that policy refuses, that refuse by themselves, and that answer and are left.
fn scan(scene: &mut Scene<'_>) -> Device {
    let per_second = scene.at([50.0, 2.0, 0.1], [20.0, 5.0, 0.25]);
    let targets = scene.dice().range(100, 500);
    let (device, has_policy) = (scene.company.web, scene.company.has_policy);
    // Without a mesh: many hosts, or many ports of one.
    let vertical = scene.dice().chance(0.5);
    scene.go(move |count, now, stage| {
        let chance = stage.dice.unit();
        let (low, high) = (count % 250 + 1, count / 250);
        let (name, port) = match (has_policy, vertical) {
            (true, _) => (format!("scanned-{count}"), 0),
            (false, true) => ("10.0.9.9".to_owned(), u16::try_from(count + 20).unwrap_or(u16::MAX)),
            (false, false) => (format!("10.0.{}.{low}", 20 + high), 22),
        };
        let standing = match (has_policy, chance < 0.6) {
            (false, _) => Standing::Unknown,
            (true, true) => Standing::Refused,
            (true, false) => Standing::Allowed,
        };
        let target = stage.place(&name, port, Carrier::Tcp, Tongue::Unknown, standing, Reach::Near);
        let line = stage.open(now, device, target);
        match chance {
            c if c < 0.6 && has_policy => line.wait(300).close(End::Policy),
            c if c < 0.8 => line.wait(900).close(End::Refused),
            c if c < 0.9 => line.wait(2 * SECOND).close(End::Timeout),
            _ => line.wait(2_000).close(End::Reset),
        };
        let pause = 1.0 / per_second * stage.dice.between(0.8, 1.2);
        (count + 1 < targets).then_some(now + micros(pause))
    });
    device
}

/// Much out of a device to a service it fetches from.
fn exfiltration(scene: &mut Scene<'_>) -> Device {
    let (total, rate, piece) = scene.at(
        [(500e6, 100e6, 500e6), (50e6, 1e6, 50e6), (50e6, 1e6, 200e3)],
        [(300e6, 40e6, 300e6), (80e6, 2e6, 80e6), (30e6, 0.5e6, 100e3)],
    );
    let (device, service) = (scene.company.web, scene.known());
    let mut left = total;
    scene.go(move |_, now, stage| {
        let line = stage.open(now, device, service).wait(2_000);
        let end = line.bulk(Way::Out, piece as u64, rate).send(Way::In, 200).close(End::Fin);
        left -= piece;
        let pause = stage.dice.between(1.0, 4.0);
        (left > 0.0).then_some(end + micros(pause))
    });
    device
}

/// A small contact each period with a service the device may use and never did.
fn beacon(scene: &mut Scene<'_>) -> Device {
    let (period, jitter) =
        scene.at([(5.0, 0.02), (60.0, 0.1), (300.0, 0.3)], [(8.0, 0.05), (40.0, 0.15), (200.0, 0.25)]);
    let (device, service) = (scene.company.worker, scene.unused(0));
    beacons(scene, device, service, period, jitter, 200);
    device
}

/// Contacts of nearly one size at nearly one pace.
pub fn beacons(
    scene: &mut Scene<'_>,
    device: Device,
    service: Service,
    period: f64,
    jitter: f64,
    contacts: u64,
) {
    scene.go(move |count, now, stage| {
        let (out, back) = (300 + stage.dice.below(12), 180 + stage.dice.below(8));
        let line = stage.open(now, device, service).wait(2_000);
        line.send(Way::Out, out).wait(30_000).send(Way::In, back).wait(1_000).close(End::Fin);
        let pause = period * stage.dice.between(1.0 - jitter, 1.0 + jitter);
        (count + 1 < contacts).then_some(now + micros(pause))
    });
}

/// One connection, asked again and again whether there is something to do.
fn c2_connection(scene: &mut Scene<'_>) -> Device {
    let (period, jitter) =
        scene.at([(1.0, 0.02), (10.0, 0.2), (60.0, 0.3)], [(2.0, 0.05), (15.0, 0.15), (45.0, 0.25)]);
    let (device, service) = (scene.company.worker, scene.unused(1));
    scene.go(move |_, now, stage| {
        let mut line = stage.open(now, device, service).wait(2_000);
        for _ in 0..120 {
            let (out, back) = (110 + line.dice().below(20), 60 + line.dice().below(10));
            let task = line.dice().chance(0.05);
            let pause = period * line.dice().between(1.0 - jitter, 1.0 + jitter);
            line = line.send(Way::Out, out).wait(20_000).send(Way::In, if task { 900 } else { back });
            line = line.wait(micros(pause));
        }
        line.close(End::Fin);
        None
    });
    device
}

/// Requests as fast as asked for, to the device's favourite service.
fn flood(scene: &mut Scene<'_>) -> Device {
    let times = scene.at([0.0, 5.0, 2.0], [0.0, 8.0, 3.0]);
    let per_second = if times > 0.0 { times * scene.pace } else { scene.at([20_000.0; 3], [8_000.0; 3]) };
    let (device, service) = (scene.company.web, scene.known());
    let lasts = if times > 3.0 {
        20.0
    } else if times > 0.0 {
        600.0
    } else {
        3.0
    };
    let requests = (per_second * lasts) as u64;
    // Connections of a hundred requests, as load tools make them.
    scene.go(move |count, now, stage| {
        let mut line = stage.open(now, device, service).wait(200);
        for _ in 0..REQUESTS_PER_CONNECTION {
            let gap = micros(1.0 / per_second);
            let latency = gap.min(500);
            line = line.http("GET", "/v1/item/0", 200, [90, 800], latency).wait(gap - latency);
        }
        let end = line.close(End::Fin);
        ((count + 1) * REQUESTS_PER_CONNECTION < requests).then_some(end)
    });
    device
}

/// Connections that never finish: a head, a body or an answer, a byte at a time.
fn slow_request(scene: &mut Scene<'_>) -> Device {
    let connections = scene.at([500, 100, 20], [300, 60, 30]);
    let (device, service) = (scene.company.web, scene.known());
    let kind = scene.dice().below(3);
    scene.go(move |count, now, stage| {
        let mut line = stage.open(now, device, service).wait(2_000);
        line = match kind {
            0 => line.send(Way::Out, 60),
            1 => line.send(Way::Out, 400),
            _ => line.send(Way::Out, 450).wait(20_000).send(Way::In, 200),
        };
        for _ in 0..30 {
            line = line.wait(10 * SECOND).send(if kind == 2 { Way::In } else { Way::Out }, 1);
        }
        line.close(End::Timeout);
        (count + 1 < connections).then_some(now + 4_000)
    });
    device
}

/// Logins that are refused.
fn credentials(scene: &mut Scene<'_>) -> Device {
    let per_second = scene.at([50.0, 5.0, 0.1], [20.0, 3.0, 0.2]);
    let (device, service) = (scene.company.web, scene.known());
    let tries = 400;
    scene.go(move |count, now, stage| {
        let status = if stage.dice.chance(0.01) { 200 } else { 401 };
        let sizes = [480 + stage.dice.below(30), 210];
        let line = stage.open(now, device, service).wait(2_000);
        line.http("POST", "/login", status, sizes, 40_000).close(End::Fin);
        let pause = stage.dice.between(0.7, 1.3) / per_second;
        (count + 1 < tries).then_some(now + micros(pause))
    });
    device
}

/// Services the device may use and never did, one after the other, on paths nobody else asks for.
fn lateral(scene: &mut Scene<'_>) -> Device {
    let (services, pause) = scene.at([(20, 2.0), (8, 10.0), (4, 60.0)], [(15, 4.0), (10, 20.0), (6, 40.0)]);
    let device = scene.company.worker;
    let targets: Vec<_> = (0..services).map(|n| scene.unused(n)).collect();
    scene.go(move |count, now, stage| {
        let target = targets.get(usize::try_from(count).ok()?).copied()?;
        let line = stage.open(now, device, target).wait(2_000);
        let sizes = [380, 900 + line.at % 700];
        let line = line.http("GET", "/admin/users", 200, sizes, 20_000);
        line.http("GET", &format!("/admin/{count}/secrets"), 403, [400, 200], 20_000).close(End::Fin);
        Some(now + micros(pause * stage.dice.between(0.8, 1.2)))
    });
    device
}

/// Another protocol inside the one a service speaks.
fn tunnel(scene: &mut Scene<'_>) -> Device {
    let device = scene.company.worker;
    let strength = scene.strength;
    let tongue = match strength {
        Strength::Easy => Tongue::Tls,
        Strength::Medium => Tongue::Http,
        Strength::Hard => Tongue::Http2,
    };
    let names = ["payments", "pages", "feed"];
    let service = scene.stage.service(at(names, strength), tongue);
    let (size, pause_ms) = scene.at([(0, 0), (140, 200), (1_200, 60)], [(0, 0), (110, 350), (900, 90)]);
    scene.go(move |_, now, stage| {
        let line = stage.open(now, device, service).wait(2_000);
        match strength {
            Strength::Easy => {
                let ssh = First { tongue: Tongue::Ssh, entropy: 140 };
                let mut line = line.send_as(Way::Out, 24, ssh).wait(9_000).send_as(Way::In, 40, ssh);
                for _ in 0..200 {
                    line = line.wait(200_000).send(Way::Out, 52).wait(20_000).send(Way::In, 84);
                }
                line.close(End::Fin);
            }
            Strength::Medium => {
                let mut line = line;
                for n in 0..300 {
                    let word = line.dice().bits();
                    let sizes = [size + line.dice().below(8), size + line.dice().below(8)];
                    line = line.http("GET", &format!("/{n}/{word:016x}"), 200, sizes, 15_000);
                    line = line.wait(pause_ms * 1000);
                }
                line.close(End::Fin);
            }
            Strength::Hard => {
                let first = First { tongue: Tongue::Http2, entropy: 250 };
                let mut line = line;
                for _ in 0..3000 {
                    line = line.send_as(Way::Out, size, first).wait(pause_ms * 500);
                    line = line.send_as(Way::In, size, first).wait(pause_ms * 500);
                }
                line.close(End::Fin);
            }
        }
        None
    });
    device
}

/// A broker's troubles: connections, subscriptions, readings, broken packets, connections that say nothing.
fn mqtt(scene: &mut Scene<'_>) -> Device {
    let per_second = scene.at([100.0, 20.0, 3.0], [60.0, 12.0, 5.0]);
    let (device, broker) = (scene.company.sensor, scene.company.broker);
    let kind = scene.dice().below(5);
    let pause = micros(1.0 / per_second);
    let count_max = (300.0 * per_second).min(3000.0) as u64;
    match kind {
        // Connections, and nothing after.
        0 => scene.go(move |count, now, stage| {
            let line = stage.open(now, device, broker).wait(1_000).mqtt(1, "", 0, 0, [40, 4]);
            line.wait(2_000).mqtt(14, "", 0, 0, [2, 0]).close(End::Fin);
            (count < count_max).then_some(now + pause)
        }),
        // One connection that subscribes to everything.
        1 => scene.go(move |_, now, stage| {
            let mut line = stage.open(now, device, broker).wait(1_000).mqtt(1, "", 0, 0, [40, 4]);
            for n in 0..count_max {
                let filter = if n == 0 { "#".to_owned() } else { format!("+/area-{n}/#") };
                line = line.mqtt(8, &filter, if n == 0 { 4 } else { 5 }, 0, [30, 5]).wait(pause);
            }
            line.close(End::Fin);
            None
        }),
        // One connection that publishes without end.
        2 => scene.go(move |_, now, stage| {
            let mut line = stage.open(now, device, broker).wait(1_000).mqtt(1, "", 0, 0, [40, 4]);
            for n in 0..count_max {
                line = line.mqtt(3, &format!("reading/{}", n % 3), 0, 0, [75, 0]).wait(pause);
            }
            line.close(End::Fin);
            None
        }),
        // Packets that are broken: the broker says so and hangs up.
        3 => scene.go(move |count, now, stage| {
            let line = stage.open(now, device, broker).wait(1_000).mqtt(1, "", 0, 0x81, [60, 5]);
            line.close(End::Reset);
            (count < count_max).then_some(now + pause)
        }),
        // Connections that ask to be kept for ever and say nothing (SlowITe).
        _ => scene.go(move |count, now, stage| {
            let line = stage.open(now, device, broker).wait(1_000).mqtt(1, "", 0, 0, [40, 4]);
            line.wait(600 * SECOND).close(End::Timeout);
            (count < count_max).then_some(now + pause)
        }),
    }
    device
}

/// A benign session, recorded and played again from another network.
fn replay(scene: &mut Scene<'_>) -> Device {
    let device = scene.company.web;
    let after = scene.at([0, HOUR, 20 * MINUTE], [2 * MINUTE, 30 * MINUTE, 10 * MINUTE]);
    let habit = elsewhere(scene, device, "stack-1");
    let services = scene.company.known.clone();
    let spread = scene.at([1.0, 1.0, 6.0], [1.0, 1.0, 4.0]);
    let mut session: Vec<(f64, Service, u64, u64)> = Vec::new();
    for _ in 0..20 {
        let (gap, at) = (scene.dice().wait(15.0), scene.dice().favourite(services.len() as u64));
        let service = usize::try_from(at).ok().and_then(|at| services.get(at)).copied().unwrap_or_default();
        let sizes = (scene.dice().around(450.0, 0.3) as u64, scene.dice().around(6_000.0, 1.2) as u64);
        session.push((gap, service, sizes.0, sizes.1));
    }
    scene.at += after;
    scene.go(move |count, now, stage| {
        let nth = usize::try_from(count).ok()?;
        let (gap, service, out, back) = session.get(nth % session.len()).copied()?;
        let line = stage.open_as(now, device, service, habit).wait(2_000);
        line.http("GET", &format!("/v1/item/{}", nth % 20), 200, [out, back], 20_000).close(End::Fin);
        (nth < 3 * session.len()).then_some(now + micros(gap * spread))
    });
    device
}

/// Another device under a stolen certificate.
fn stolen_certificate(scene: &mut Scene<'_>) -> Device {
    let device = scene.company.web;
    let habit =
        elsewhere(scene, device, if scene.strength == Strength::Easy { "stack-other" } else { "stack-1" });
    let (strength, known, unused) =
        (scene.strength, scene.company.known.clone(), scene.company.unused.clone());
    scene.go(move |count, now, stage| {
        let mimics = strength == Strength::Hard;
        let from = if mimics || stage.dice.chance(0.5) { &known } else { &unused };
        let nth = stage.dice.favourite(from.len().min(8) as u64);
        let service = usize::try_from(nth).ok().and_then(|n| from.get(n)).copied()?;
        let (path, method) = if mimics { ("/v1/item/0", "GET") } else { ("/export/all", "POST") };
        let sizes = if mimics { [450, 6_000] } else { [1_500, 90_000] };
        let line = stage.open_as(now, device, service, habit).wait(2_000);
        line.http(method, path, 200, sizes, 30_000).close(End::Fin);
        let pause = stage.dice.wait(if mimics { 40.0 } else { 15.0 });
        (count < 100).then_some(now + micros(pause))
    });
    device
}

/// Exfiltration, a beacon and lateral movement, each at a tenth of its pace.
fn low_and_slow(scene: &mut Scene<'_>) -> Device {
    let device = scene.company.worker;
    let (megabytes, period, services) = scene.at(
        [(40.0, 50.0, 4), (15.0, 150.0, 3), (5.0, 300.0, 2)],
        [(30.0, 80.0, 4), (20.0, 120.0, 3), (8.0, 240.0, 2)],
    );
    let unused = scene.unused(10);
    beacons(scene, device, unused, period, 0.2, 100);
    let drop = scene.unused(11);
    let pieces = 60_u32;
    scene.go(move |count, now, stage| {
        let size = megabytes * 1e6 / f64::from(pieces);
        stage
            .open(now, device, drop)
            .wait(2_000)
            .bulk(Way::Out, size as u64, 1e6)
            .send(Way::In, 200)
            .close(End::Fin);
        (count + 1 < u64::from(pieces)).then_some(now + micros(stage.dice.between(50.0, 66.0)))
    });
    let targets: Vec<_> = (0..services).map(|n| scene.unused(12 + n)).collect();
    scene.at += 5 * MINUTE;
    scene.go(move |count, now, stage| {
        let target = targets.get(usize::try_from(count).ok()?).copied()?;
        let line = stage.open(now, device, target).wait(2_000);
        line.http("GET", "/admin/users", 200, [380, 1_200], 20_000).close(End::Fin);
        Some(now + micros(stage.dice.between(500.0, 700.0)))
    });
    device
}

/// Three weeks in which a device sends a twentieth more each day to a service it fetches from.
pub fn poison(stage: &mut Stage, device: Device, service: Service, from: u64, growth: f64) {
    let mut size = 40e3;
    let mut day = from;
    stage.enter(from, move |now: u64, stage: &mut Stage| {
        while now >= day + DAY {
            size *= growth;
            day += DAY;
        }
        let out = size * stage.dice.between(0.9, 1.1);
        stage
            .open(now, device, service)
            .wait(2_000)
            .bulk(Way::Out, out as u64, 1e6)
            .send(Way::In, 200)
            .close(End::Fin);
        Some(now + micros(stage.dice.between(500.0, 700.0)))
    });
}

/// How a device looks from another network.
fn elsewhere(scene: &Scene<'_>, device: Device, stack: &str) -> Habit {
    let own = scene.stage.actors.get(usize::from(device.0)).map(|a| a.habit).unwrap_or_default();
    Habit { stack: scene.stage.word(stack), source: scene.stage.word("198.51.100.66"), ..own }
}

fn at<T: Copy>(values: [T; 3], strength: Strength) -> T {
    let [easy, medium, hard] = values;
    match strength {
        Strength::Easy => easy,
        Strength::Medium => medium,
        Strength::Hard => hard,
    }
}

const REQUESTS_PER_CONNECTION: u64 = 100;
