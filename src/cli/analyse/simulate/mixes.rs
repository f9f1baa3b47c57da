//! Honest days that look bad: what must not be blocked.

use super::dice::Dice;
use super::honest::{Curve, checks, database, micros, next, sensor, shipper, web, workstation};
use super::stage::{DAWN, DAY, Device, HOUR, MINUTE, SECOND, Service, Stage};
use crate::analyser::Event;
use crate::analyser::event::{End, Tongue, Way};

/// One kind of honest trouble.
#[derive(Clone, Copy)]
pub struct Mix {
    /// Its name.
    pub name: &'static str,
    /// Whether nobody at all may be quarantined: a deploy, a failover, a restart.
    pub is_restart: bool,
    /// How long is learnt before, in microseconds.
    pub learns: u64,
    /// How long it is watched after, in microseconds.
    pub lasts: u64,
    start: fn(&mut Stage, u64),
    /// How the clocks go wrong: a time of the play and what is added from then on, in seconds.
    clock: &'static [(u64, i64)],
}

impl std::fmt::Debug for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Mix {
    /// Sets it up; the trouble comes after its [`Mix::learns`].
    pub fn start(&self, stage: &mut Stage) {
        (self.start)(stage, DAWN + self.learns);
    }

    /// The event as the wrong clock tells it.
    pub fn clocked(&self, event: Event) -> Event {
        let now = event.at().0;
        let begun = self.clock.iter().rev().find(|(from, _)| now >= DAWN + self.learns + from);
        begun.map_or(event, |(_, seconds)| shifted(event, *seconds))
    }
}

const fn mix(name: &'static str, learns: u64, lasts: u64, start: fn(&mut Stage, u64)) -> Mix {
    Mix { name, is_restart: false, learns, lasts, start, clock: &[] }
}

const fn restart(name: &'static str, start: fn(&mut Stage, u64)) -> Mix {
    Mix { is_restart: true, ..mix(name, 26 * HOUR, 12 * HOUR, start) }
}

/// All of them.
pub static MIXES: [Mix; 17] = [
    mix("nightly-backup", 74 * HOUR, 30 * HOUR, nightly_backup),
    mix("cron", 26 * HOUR, 30 * HOUR, cron),
    mix("log-shipper", 26 * HOUR, 18 * HOUR, log_shipper),
    mix("video", 26 * HOUR, 12 * HOUR, video),
    mix("chat", 34 * HOUR, 14 * HOUR, chat),
    mix("grpc", 26 * HOUR, 10 * HOUR, grpc_bursts),
    restart("rolling-deploy", rolling_deploy),
    mix("autoscale", 26 * HOUR, 12 * HOUR, autoscale),
    restart("failover", failover),
    mix("dns-outage", 26 * HOUR, 12 * HOUR, dns_outage),
    mix("health-checks", 26 * HOUR, 4 * HOUR, health_checks),
    restart("broker-restart", broker_restart),
    mix("firmware", 26 * HOUR, 24 * HOUR, firmware),
    Mix {
        clock: &[(2 * HOUR, 3600), (5 * HOUR, 0), (8 * HOUR, -3600)],
        ..mix("clock-jump", 26 * HOUR, 12 * HOUR, clock_jump)
    },
    mix("sleep-wake", 26 * HOUR, 14 * HOUR, sleep_wake),
    mix("monday", 6 * 24 * HOUR + 23 * HOUR, 14 * HOUR, monday),
    mix("retry-storm", 26 * HOUR, 10 * HOUR, retry_storm),
];

/// Web clients around the trouble, so that a mix has the flows of a small site.
fn fleet(stage: &mut Stage, count: usize, mean_s: f64) -> (Vec<Device>, Vec<Service>) {
    let services: Vec<_> = (0..8).map(|n| stage.service(&format!("service-{n}"), Tongue::Http)).collect();
    let devices = (0..count).map(|n| member(stage, n, &services, mean_s, DAWN)).collect();
    (devices, services)
}

fn member(stage: &mut Stage, nth: usize, services: &[Service], mean_s: f64, from: u64) -> Device {
    let device = stage.device(&format!("web-{nth}"));
    let used: Vec<_> = services.iter().cycle().skip(nth % services.len().max(1)).take(4).copied().collect();
    let curve = if stage.dice.chance(0.5) { Curve::Flat } else { Curve::People };
    let mean_s = mean_s * stage.dice.between(0.7, 1.4);
    let at = from + stage.dice.below(10 * MINUTE);
    stage.enter(at, web(device, used, mean_s, curve));
    device
}

/// 5 GB each night at two; on the last night up to two hours earlier or later.
fn nightly_backup(stage: &mut Stage, from: u64) {
    fleet(stage, 8, 60.0);
    let vault = stage.service("vault", Tongue::Tls);
    let device = stage.device("archive");
    let shift = stage.dice.between(-2.0, 2.0);
    let (mut night, mut size) = (0, 5e9);
    stage.enter(DAWN + 2 * HOUR, move |now: u64, stage: &mut Stage| {
        size *= stage.dice.between(0.98, 1.04);
        let line = stage.open(now, device, vault).wait(3_000).send(Way::In, 4_000);
        line.bulk(Way::Out, size as u64, 60e6).send(Way::In, 900).close(End::Fin);
        night += 1;
        let at = DAWN + night * DAY + 2 * HOUR + stage.dice.below(2 * MINUTE);
        Some(if at > from { at.saturating_add_signed((shift * HOUR as f64) as i64) } else { at })
    });
}

/// A hundred jobs at every full hour.
fn cron(stage: &mut Stage, _: u64) {
    let (_, services) = fleet(stage, 3, 60.0);
    for n in 0..4 {
        let device = stage.device(&format!("cron-{n}"));
        let services = services.clone();
        stage.enter(DAWN, move |now: u64, stage: &mut Stage| {
            for job in 0..100 {
                let at = now + stage.dice.below(3 * SECOND);
                let service = stage.dice.pick(&services);
                let sizes = [stage.dice.around(700.0, 0.6) as u64, stage.dice.around(3_000.0, 1.0) as u64];
                let line = stage.open(at, device, service).wait(2_000);
                line.http("POST", &format!("/jobs/{job}"), 200, sizes, 80_000).close(End::Fin);
            }
            Some((now / HOUR + 1) * HOUR + stage.dice.below(SECOND))
        });
    }
}

/// Logs in bursts, more of them when something is broken somewhere.
fn log_shipper(stage: &mut Stage, _: u64) {
    fleet(stage, 4, 60.0);
    let sink = stage.service("logs", Tongue::Http);
    for n in 0..5 {
        let device = stage.device(&format!("shipper-{n}"));
        stage.enter(DAWN + n * SECOND, shipper(device, sink, 45.0, 90e3));
        let at = DAWN + stage.dice.below(3 * HOUR);
        stage.enter(at, move |now: u64, stage: &mut Stage| {
            let mut at = now;
            for _ in 0..stage.dice.range(80, 160) {
                let size = stage.dice.around(150e3, 0.6) as u64;
                stage
                    .open(at, device, sink)
                    .wait(2_000)
                    .bulk(Way::Out, size, 8e6)
                    .send(Way::In, 180)
                    .close(End::Fin);
                at += micros(stage.dice.wait(0.5));
            }
            Some(now + micros(stage.dice.between(2.0, 4.0) * 3600.0))
        });
    }
}

/// Films: a segment every few seconds, and a burst of them after a jump.
fn video(stage: &mut Stage, _: u64) {
    fleet(stage, 16, 45.0);
    let films = stage.service("films", Tongue::Http);
    for n in 0..5 {
        let device = stage.device(&format!("player-{n}"));
        let at = DAWN + stage.dice.below(4 * HOUR);
        stage.enter(at, move |now: u64, stage: &mut Stage| {
            let mut line = stage.open(now, device, films).wait(3_000);
            let end = now + micros(line.dice().between(20.0, 90.0) * 60.0);
            while line.at < end {
                let (jump, size) = (line.dice().chance(0.01), line.dice().around(1.5e6, 0.3) as u64);
                let segments = if jump { 8 } else { 1 };
                for _ in 0..segments {
                    line = line.send(Way::Out, 420).wait(20_000).bulk(Way::In, size, 12e6);
                }
                line = line.wait(4 * SECOND);
            }
            let end = line.close(End::Fin);
            Some(next(&mut stage.dice, end, 3600.0, Curve::People))
        });
    }
}

/// Conversations that stay open all day, quiet for long.
fn chat(stage: &mut Stage, _: u64) {
    fleet(stage, 14, 45.0);
    let room = stage.service("chat", Tongue::Http);
    for n in 0..30 {
        let device = stage.device(&format!("person-{n}"));
        let at = DAWN + stage.dice.below(HOUR);
        stage.enter(at, move |now: u64, stage: &mut Stage| {
            let mut line =
                stage.open(now, device, room).wait(3_000).http("GET", "/socket", 101, [600, 200], 8_000);
            let end = now + micros(line.dice().between(6.0, 9.0) * 3600.0);
            while line.at < end {
                let (pause, size, own) =
                    (line.dice().wait(45.0), line.dice().around(120.0, 0.8) as u64, line.dice().chance(0.4));
                line = line.wait(micros(pause)).send(if own { Way::Out } else { Way::In }, size + 6);
                if line.dice().chance(0.3) {
                    line = line.wait(30 * SECOND).send(Way::Out, 6).wait(20_000).send(Way::In, 6);
                }
            }
            let end = line.close(End::Fin);
            Some(next(&mut stage.dice, end, 900.0, Curve::People))
        });
    }
}

/// Ten thousand calls in a few minutes, several times a day, and streams that only listen.
fn grpc_bursts(stage: &mut Stage, _: u64) {
    fleet(stage, 16, 40.0);
    let orders = stage.service("orders", Tongue::Http2);
    for n in 0..3 {
        let device = stage.device(&format!("batch-{n}"));
        let at = DAWN + stage.dice.below(2 * HOUR);
        stage.enter(at, move |now: u64, stage: &mut Stage| {
            for connection in 0..50_u64 {
                let mut line = stage.open(now + connection * 2 * SECOND, device, orders).wait(1_000);
                for _ in 0..200 {
                    let sizes =
                        [line.dice().around(120.0, 0.5) as u64, line.dice().around(400.0, 0.9) as u64];
                    let latency = micros(line.dice().around(0.006, 0.6));
                    line = line.grpc("/shop.Orders/Price", 0, sizes, latency).wait(2_000);
                }
                line.close(End::Fin);
            }
            Some(now + micros(stage.dice.between(2.0, 4.0) * 3600.0))
        });
        let listener = stage.device(&format!("listener-{n}"));
        stage.enter(at, move |now: u64, stage: &mut Stage| {
            let mut line = stage.open(now, listener, orders).wait(1_000).send(Way::Out, 200);
            let end = now + micros(line.dice().between(1.0, 5.0) * 3600.0);
            while line.at < end {
                let (pause, size) = (line.dice().wait(20.0), line.dice().around(900.0, 1.0) as u64);
                line = line.wait(micros(pause)).send(Way::In, size);
            }
            Some(line.close(End::Fin) + stage.dice.below(30 * SECOND))
        });
    }
}

/// One device after the other comes back as a new version: another TLS library, another address, a fresh certificate,
/// all connections made anew at once.
fn rolling_deploy(stage: &mut Stage, from: u64) {
    let (devices, services) = fleet(stage, 12, 35.0);
    let mut left = devices;
    let announced = stage.dice.chance(0.5);
    stage.enter(from + 2 * HOUR, move |now: u64, stage: &mut Stage| {
        let device = left.pop()?;
        let (stack, source) = (
            stage.word(if announced { "stack-2" } else { "stack-3" }),
            stage.word(&format!("10.2.0.{}", left.len())),
        );
        if let Some(actor) = stage.actors.get_mut(usize::from(device.0)) {
            actor.habit.stack = stack;
            actor.habit.source = source;
            actor.habit.certificate_age_h = 0;
        }
        for n in 0..20_u64 {
            let service = stage.dice.pick(&services);
            let at = now + stage.dice.below(4 * SECOND);
            let line = stage.open(at, device, service).wait(2_000);
            if n % 4 == 0 {
                line.wait(30_000).close(End::Reset);
            } else {
                line.http("GET", "/v1/warm", 200, [400, 5_000], 40_000).close(End::Fin);
            }
        }
        Some(now + micros(stage.dice.between(20.0, 60.0)))
    });
}

/// One replica becomes twenty.
fn autoscale(stage: &mut Stage, from: u64) {
    let (_, services) = fleet(stage, 5, 45.0);
    for n in 5..25 {
        let at = from + HOUR + stage.dice.below(10 * MINUTE);
        member(stage, n, &services, 45.0, at);
    }
}

/// The database goes: every connection breaks, everyone asks again for half a minute, everyone comes back at once.
fn failover(stage: &mut Stage, from: u64) {
    fleet(stage, 10, 40.0);
    let store = stage.service("store", Tongue::Postgres);
    let at = from + 3 * HOUR;
    for n in 0..12 {
        let device = stage.device(&format!("worker-{n}"));
        let (mean_s, begin) = (stage.dice.between(30.0, 60.0), DAWN + stage.dice.below(MINUTE));
        stage.enter(begin, database(device, store, mean_s, Curve::Flat));
        stage.enter_within(at, SECOND, move |now: u64, stage: &mut Stage| {
            if now < at + 30 * SECOND {
                let (wait, end) =
                    if stage.dice.chance(0.7) { (1_000, End::Refused) } else { (SECOND, End::Timeout) };
                stage.open(now, device, store).wait(wait).close(end);
                return Some(now + micros(stage.dice.between(0.5, 2.0)));
            }
            let line = stage.open(now, device, store);
            line.wait(2_000).send(Way::Out, 200).wait(9_000).send(Way::In, 900).close(End::Fin);
            None
        });
    }
}

/// Names cannot be looked up for a while; everyone asks three times, and then again.
fn dns_outage(stage: &mut Stage, from: u64) {
    let at = from + stage.dice.range(8, 10) * HOUR;
    for n in 0..10 {
        let (device, _) = workstation(stage, &format!("10.1.0.{n}"), 80, 90.0);
        let resolver = Service(0);
        stage.enter_within(at, 20 * SECOND, move |now: u64, stage: &mut Stage| {
            for attempt in 0..3 {
                let line = stage.open(now + attempt * 5 * SECOND, device, resolver).send(Way::Out, 40);
                line.wait(5 * SECOND).close(End::Timeout);
            }
            (now < at + 5 * MINUTE).then(|| now + micros(stage.dice.between(8.0, 30.0)))
        });
    }
}

/// Beacons, all of them honest.
fn health_checks(stage: &mut Stage, _: u64) {
    let (_, services) = fleet(stage, 4, 60.0);
    let watcher = stage.device("watcher");
    stage.enter(DAWN, checks(watcher, services.iter().take(3).copied().collect(), 5.0, "/healthz", 40));
    let meters = stage.device("meters");
    stage.enter(DAWN, checks(meters, services, 15.0, "/metrics", 22_000));
}

/// The broker restarts: two hundred sensors break off and come back, some of them several times.
fn broker_restart(stage: &mut Stage, from: u64) {
    fleet(stage, 12, 40.0);
    let broker = stage.service("broker", Tongue::Mqtt);
    let at = from + 2 * HOUR;
    for n in 0..200 {
        let device = stage.device(&format!("sensor-{n}"));
        let begin = DAWN + stage.dice.below(HOUR);
        stage.enter(begin, sensor(device, broker, 240.0, 1.5));
        let mut tries = stage.dice.range(1, 6);
        stage.enter_within(at, 3 * SECOND, move |now: u64, stage: &mut Stage| {
            tries -= 1;
            let line = stage.open(now, device, broker).wait(3_000);
            if tries > 0 {
                line.wait(20_000).close(if tries.is_multiple_of(2) { End::Refused } else { End::Reset });
                return Some(now + micros(stage.dice.between(1.0, 8.0)));
            }
            line.mqtt(1, "", 0, 0, [40, 4])
                .mqtt(8, "device/commands", 0, 0, [30, 5])
                .wait(MINUTE)
                .close(End::Fin);
            None
        });
    }
}

/// Five hundred devices fetch the same 30 MB within an hour, from where they look every hour.
fn firmware(stage: &mut Stage, from: u64) {
    let updates = stage.service("updates", Tongue::Http);
    for n in 0..500 {
        let device = stage.device(&format!("device-{n}"));
        let begin = DAWN + stage.dice.below(HOUR);
        stage.enter(begin, checks(device, vec![updates], 3600.0, "/latest", 300));
        stage.enter_within(from + HOUR, HOUR, move |now: u64, stage: &mut Stage| {
            let rate = stage.dice.between(1e6, 10e6);
            let line = stage.open(now, device, updates).wait(2_000).send(Way::Out, 300).wait(20_000);
            line.bulk(Way::In, 30_000_000, rate).close(End::Fin);
            None
        });
    }
}

/// An ordinary day, told by a clock that leaps an hour ahead, back, and back again.
fn clock_jump(stage: &mut Stage, _: u64) {
    fleet(stage, 12, 35.0);
}

/// Lids that close and open: nothing for hours, and then everything at once.
fn sleep_wake(stage: &mut Stage, _: u64) {
    for n in 0..12 {
        let (device, hosts) = workstation(stage, &format!("10.1.0.{n}"), 80, 80.0);
        let resolver = Service(0);
        let at = DAWN + stage.dice.range(7, 9) * HOUR + stage.dice.below(HOUR);
        stage.enter(at, move |now: u64, stage: &mut Stage| {
            for _ in 0..stage.dice.range(15, 40) {
                let at = now + stage.dice.below(10 * SECOND);
                let nth = stage.dice.favourite(hosts.len() as u64);
                let host = usize::try_from(nth).ok().and_then(|n| hosts.get(n)).copied()?;
                stage
                    .open(at, device, resolver)
                    .send(Way::Out, 38)
                    .wait(20_000)
                    .send(Way::In, 120)
                    .close(End::Fin);
                let line =
                    stage.open(at + 30_000, device, host).wait(30_000).send(Way::Out, 520).wait(30_000);
                line.send(Way::In, 4_200).wait(SECOND).close(End::Fin);
            }
            Some(next(&mut stage.dice, now + 2 * HOUR, 5400.0, Curve::People))
        });
    }
}

/// Everyone logs in on Monday morning; some have forgotten their password.
fn monday(stage: &mut Stage, from: u64) {
    let services: Vec<_> = (0..8).map(|n| stage.service(&format!("service-{n}"), Tongue::Http)).collect();
    for n in 0..40 {
        let device = stage.device(&format!("office-{n}"));
        let used: Vec<_> = services.iter().cycle().skip(n).take(5).copied().collect();
        let begin = DAWN + stage.dice.below(HOUR);
        stage.enter(begin, web(device, used.clone(), 60.0, Curve::Office));
        let login = services.first().copied().unwrap_or_default();
        let mut morning = 0;
        let at = DAWN + 8 * HOUR + stage.dice.below(HOUR);
        stage.enter(at, move |now: u64, stage: &mut Stage| {
            let is_monday = now >= from || morning == 0;
            let typos = if is_monday { stage.dice.below(4) } else { u64::from(stage.dice.chance(0.1)) };
            for n in 0..=typos {
                let status = if n < typos { 401 } else { 200 };
                let line = stage.open(now + n * 8 * SECOND, device, login).wait(2_000);
                line.http("POST", "/login", status, [500, 300], 60_000).close(End::Fin);
            }
            for n in 0..stage.dice.range(10, if is_monday { 30 } else { 15 }) {
                let service = stage.dice.pick(&used);
                let line = stage.open(now + MINUTE + n * SECOND, device, service).wait(2_000);
                line.http("GET", &format!("/v1/item/{n}"), 200, [450, 20_000], 60_000).close(End::Fin);
            }
            morning += 1;
            let days = if morning % 7 == 5 { 3 } else { 1 };
            morning += days - 1;
            Some(DAWN + morning * DAY + 8 * HOUR + stage.dice.below(HOUR))
        });
    }
}

/// A service answers 503 for some minutes, and every client tries again, and again.
fn retry_storm(stage: &mut Stage, from: u64) {
    let (devices, services) = fleet(stage, 12, 30.0);
    let at = from + 2 * HOUR;
    let broken = services.first().copied().unwrap_or_default();
    // Only those that use it; they have it among their four.
    let users = devices.into_iter().enumerate().filter(|(n, _)| n % 8 == 0 || n % 8 >= 5);
    for (_, device) in users.collect::<Vec<_>>() {
        let mut pause = 0.5;
        stage.enter_within(at, 20 * SECOND, move |now: u64, stage: &mut Stage| {
            let status = if now < at + 4 * MINUTE { 503 } else { 200 };
            let line = stage.open(now, device, broken).wait(2_000);
            line.http("GET", "/v1/item/1", status, [450, 300], 15_000).close(End::Fin);
            pause = if status == 503 { f64::min(pause * 1.7, 20.0) } else { return None };
            if stage.dice.chance(0.15) {
                pause = 0.5;
            }
            Some(now + micros(jitter(&mut stage.dice, pause)))
        });
    }
}

fn jitter(dice: &mut Dice, seconds: f64) -> f64 {
    seconds * dice.between(0.5, 1.5)
}

/// The event, so many seconds later or earlier.
fn shifted(event: Event, seconds: i64) -> Event {
    let move_it = |t: crate::analyser::Moment| {
        crate::analyser::Moment(t.0.saturating_add_signed(seconds.saturating_mul(1_000_000)))
    };
    match event {
        Event::Open { t, began, flow, device, target, habit } => {
            Event::Open { t: move_it(t), began: move_it(began), flow, device, target, habit }
        }
        Event::Chunk { t, flow, way, len, first } => Event::Chunk { t: move_it(t), flow, way, len, first },
        Event::Message { t, flow, request, bytes, latency_us } => {
            Event::Message { t: move_it(t), flow, request, bytes, latency_us }
        }
        Event::Close { t, flow, end, bytes, chunks } => {
            Event::Close { t: move_it(t), flow, end, bytes, chunks }
        }
        Event::Tick { t } => Event::Tick { t: move_it(t) },
    }
}
