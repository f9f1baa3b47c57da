//! Honest traffic: what devices of a mesh do all day, and the company of three in which attacks are played.

use super::dice::Dice;
use super::stage::{DAWN, DAY, Device, HOUR, MINUTE, Part, SECOND, Service, Stage};
use crate::analyser::event::{Carrier, End, Reach, Standing, Tongue, Way};

/// Which parameters are drawn: those that detectors are trained on, or those that they are tested on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variety {
    /// For the shipped prior.
    Train,
    /// For the suite.
    Test,
}

/// When a device is busy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Curve {
    /// Always the same.
    Flat,
    /// Nine to five, quiet at night and at the weekend.
    Office,
    /// Awake from early to late, a little at night.
    People,
}

impl Curve {
    /// Share of the full pace at this time, above 0 and at most 1.
    pub fn activity(self, now: u64) -> f64 {
        let hour = now / HOUR % 24;
        let weekend = (now.saturating_sub(DAWN)) / DAY % 7 >= 5;
        match (self, hour) {
            (Self::Flat, _) => 1.0,
            (Self::Office, _) if weekend => 0.05,
            (Self::Office, 9..=16) => 1.0,
            (Self::Office, 7..=8 | 17..=18) => 0.4,
            (Self::Office, _) => 0.05,
            (Self::People, 8..=22) => 1.0,
            (Self::People, 6..=7 | 23) => 0.5,
            (Self::People, _) => 0.1,
        }
    }
}

/// A time after `now`: a Poisson process of this mean at full pace, thinned by the curve.
pub fn next(dice: &mut Dice, now: u64, mean_s: f64, curve: Curve) -> u64 {
    let mut at = now;
    // Thinning may fail a thousand times only if the curve were far lower than any of ours.
    for _ in 0..1000 {
        at += micros(dice.wait(mean_s)).max(1);
        if dice.chance(curve.activity(at)) {
            break;
        }
    }
    at
}

/// Seconds in microseconds.
pub fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

/// A client of HTTP services: visits of a few requests, the first services of the list more often.
pub fn web(device: Device, services: Vec<Service>, mean_s: f64, curve: Curve) -> impl Part {
    move |now: u64, stage: &mut Stage| {
        let service = favourite(&mut stage.dice, &services);
        let requests = 1 + stage.dice.wait(3.0) as u64;
        let trouble = stage.dice.unit();
        let line = stage.open(now, device, service);
        if trouble < 0.002 {
            line.wait(5 * SECOND).close(End::Timeout);
        } else {
            let mut line = line.wait(2_000);
            for _ in 0..requests {
                let (path, post) = (line.dice().favourite(30), line.dice().chance(0.2));
                let status = status(line.dice().unit());
                let sizes = if post {
                    [line.dice().around(2_000.0, 0.8) as u64, line.dice().around(600.0, 0.5) as u64]
                } else {
                    [line.dice().around(450.0, 0.3) as u64, line.dice().around(6_000.0, 1.2) as u64]
                };
                let (latency, think) = (line.dice().around(0.02, 0.7), line.dice().wait(1.5));
                let method = if post { "POST" } else { "GET" };
                line = line.http(method, &format!("/v1/item/{path}"), status, sizes, micros(latency));
                line = line.wait(micros(think));
            }
            line.close(if trouble > 0.99 { End::Reset } else { End::Fin });
        }
        Some(next(&mut stage.dice, now, mean_s, curve))
    }
}

fn status(chance: f64) -> u16 {
    match chance {
        c if c < 0.965 => 200,
        c if c < 0.985 => 404,
        c if c < 0.992 => 401,
        c if c < 0.997 => 304,
        _ => 500,
    }
}

/// A sensor: one connection to its broker for hours, a small reading each period, made anew now and then.
pub fn sensor(device: Device, broker: Service, period_s: f64, session_h: f64) -> impl Part {
    move |now: u64, stage: &mut Stage| {
        let until = now + micros(stage.dice.around(session_h * 3600.0, 0.4));
        let mut line = stage.open(now, device, broker).wait(3_000).mqtt(1, "", 0, 0, [40, 4]);
        line = line.wait(20_000).mqtt(8, "device/commands", 0, 0, [30, 5]);
        while line.at < until {
            let (pause, size) = (line.dice().between(0.97, 1.03) * period_s, line.dice().range(60, 90));
            let topic = line.dice().below(3);
            line = line.wait(micros(pause)).mqtt(3, &format!("reading/{topic}"), 0, 0, [size, 0]);
        }
        let end = line.mqtt(14, "", 0, 0, [2, 0]).close(End::Fin);
        Some(end + stage.dice.range(1, 20) * SECOND)
    }
}

/// A client of a database: a pooled connection for a while, queries in bursts.
pub fn database(device: Device, service: Service, mean_s: f64, curve: Curve) -> impl Part {
    move |now: u64, stage: &mut Stage| {
        let queries = 5 + stage.dice.wait(25.0) as u64;
        let mut line = stage.open(now, device, service).wait(1_500);
        for _ in 0..queries {
            let (ask, rows) =
                (line.dice().around(180.0, 0.5) as u64, line.dice().around(1_200.0, 1.1) as u64);
            let (latency, pause) = (line.dice().around(0.004, 0.6), line.dice().wait(4.0));
            line = line.send(Way::Out, ask).wait(micros(latency)).send(Way::In, rows).wait(micros(pause));
        }
        let end = line.close(End::Fin);
        Some(next(&mut stage.dice, end, mean_s, curve))
    }
}

/// A gRPC client: a connection of many calls.
pub fn grpc(device: Device, service: Service, mean_s: f64, calls: f64, curve: Curve) -> impl Part {
    move |now: u64, stage: &mut Stage| {
        let count = 1 + stage.dice.wait(calls) as u64;
        let mut line = stage.open(now, device, service).wait(1_000);
        for _ in 0..count {
            let method = line.dice().favourite(8);
            let sizes = [line.dice().around(120.0, 0.5) as u64, line.dice().around(400.0, 0.9) as u64];
            let (latency, pause) = (line.dice().around(0.006, 0.6), line.dice().wait(0.3));
            let code = if line.dice().chance(0.004) { 14 } else { 0 };
            line = line.grpc(&format!("/shop.Orders/Call{method}"), code, sizes, micros(latency));
            line = line.wait(micros(pause));
        }
        line.close(End::Fin);
        Some(next(&mut stage.dice, now, mean_s, curve))
    }
}

/// A check at a fixed period: a beacon, and honest.
pub fn checks(
    device: Device,
    services: Vec<Service>,
    period_s: f64,
    path: &'static str,
    answer: u64,
) -> impl Part {
    move |now: u64, stage: &mut Stage| {
        for service in &services {
            let size = (answer as f64 * stage.dice.between(0.98, 1.02)) as u64;
            let latency = stage.dice.around(0.003, 0.5);
            let line = stage.open(now, device, *service).wait(1_000);
            line.http("GET", path, 200, [130, size], micros(latency)).wait(500).close(End::Fin);
        }
        Some(now + micros(period_s * stage.dice.between(0.998, 1.002)))
    }
}

/// A shipper of logs: bursts that go out.
pub fn shipper(device: Device, service: Service, mean_s: f64, median: f64) -> impl Part {
    move |now: u64, stage: &mut Stage| {
        let size = stage.dice.around(median, 0.7) as u64;
        let line = stage.open(now, device, service).wait(2_000).bulk(Way::Out, size, 4e6);
        line.wait(5_000).send(Way::In, 180).close(End::Fin);
        Some(next(&mut stage.dice, now, mean_s, Curve::Flat))
    }
}

/// A person at a workstation: names looked up, then TLS to hosts far away, some of them new every day.
pub fn browser(device: Device, resolver: Service, hosts: Vec<Service>, mean_s: f64) -> impl Part {
    move |now: u64, stage: &mut Stage| {
        let mut at = now;
        for _ in 0..stage.dice.range(1, 6) {
            let host = favourite(&mut stage.dice, &hosts);
            let lookup = stage.open(at, device, resolver).send(Way::Out, 38).wait(15_000);
            lookup.send(Way::In, 120).close(End::Fin);
            let trouble = stage.dice.unit();
            let (ask, answer) = (stage.dice.around(1_800.0, 0.6), stage.dice.around(14_000.0, 1.4));
            let stay = stage.dice.wait(20.0);
            let line = stage.open(at + 20_000, device, host).wait(30_000);
            if trouble < 0.015 {
                line.wait(20 * SECOND).close(End::Timeout);
            } else {
                let line = line.send(Way::Out, 520).wait(30_000).send(Way::In, 4_200).wait(5_000);
                let line = line.send(Way::Out, ask as u64).wait(60_000).bulk(Way::In, answer as u64, 2e6);
                line.wait(micros(stay)).close(if trouble > 0.93 { End::Reset } else { End::Fin });
            }
            at += micros(stage.dice.wait(1.0));
        }
        Some(next(&mut stage.dice, at, mean_s, Curve::People))
    }
}

/// Now and then a service for the first time, as honest devices do: one, and a while to get used to it.
pub fn newcomer(device: Device, services: Vec<Service>, mean_s: f64) -> impl Part {
    let mut left = services;
    move |now: u64, stage: &mut Stage| {
        let service = left.pop()?;
        let mut at = now;
        for n in 0..stage.dice.range(3, 12) {
            let sizes = [stage.dice.around(450.0, 0.3) as u64, stage.dice.around(5_000.0, 1.0) as u64];
            let line = stage.open(at, device, service).wait(2_000);
            line.http("GET", &format!("/v1/new/{n}"), 200, sizes, 30_000).close(End::Fin);
            at += micros(stage.dice.wait(60.0));
        }
        Some(next(&mut stage.dice, at, mean_s, Curve::Office))
    }
}

/// Three devices at work, and what an attacker finds around them.
pub struct Company {
    /// A client of web services.
    pub web: Device,
    /// A sensor.
    pub sensor: Device,
    /// A worker with a database.
    pub worker: Device,
    /// HTTP services that `web` uses, its favourite first.
    pub known: Vec<Service>,
    /// The broker of the sensor.
    pub broker: Service,
    /// Services that policy allows to all and none of them ever used.
    pub unused: Vec<Service>,
    /// Whether policy knows the services, as in a mesh; a capture knows only addresses.
    pub has_policy: bool,
}

/// Sets up a company; its devices begin at [`DAWN`] and go on for ever.
pub fn company(stage: &mut Stage, variety: Variety) -> Company {
    let test = variety == Variety::Test;
    let (web_device, sensor_device, worker) =
        (stage.device("web-1"), stage.device("sensor-12"), stage.device("worker-3"));
    let known: Vec<_> =
        ["orders", "catalog", "accounts", "search"].map(|n| stage.service(n, Tongue::Http)).to_vec();
    let broker = stage.service("broker", Tongue::Mqtt);
    let (store, cache) = (stage.service("store", Tongue::Postgres), stage.service("cache", Tongue::Redis));
    let (pricing, logs) = (stage.service("pricing", Tongue::Http2), stage.service("logs", Tongue::Http));
    let updates = stage.service("updates", Tongue::Http);
    let tongues = [Tongue::Http, Tongue::Http2, Tongue::Tls].into_iter().cycle();
    let unused: Vec<_> = tongues
        .take(30)
        .enumerate()
        .map(|(n, spoken)| stage.service(&format!("internal-{n}"), spoken))
        .collect();

    let pace = |dice: &mut Dice| if test { dice.between(25.0, 60.0) } else { dice.between(12.0, 90.0) };
    let curve = if stage.dice.chance(0.5) { Curve::People } else { Curve::Flat };
    let start = |dice: &mut Dice| DAWN + dice.below(10 * MINUTE);

    let (mean_s, at) = (pace(&mut stage.dice), start(&mut stage.dice));
    stage.enter(at, web(web_device, known.clone(), mean_s, curve));
    let (period, session) = if test { (30.0, 5.0) } else { (17.0, 3.0) };
    let at = start(&mut stage.dice);
    stage.enter(at, sensor(sensor_device, broker, period, session));
    stage.enter(at, checks(sensor_device, vec![updates], if test { 600.0 } else { 450.0 }, "/config", 900));
    let (mean_s, at) = (pace(&mut stage.dice), start(&mut stage.dice));
    stage.enter(at, database(worker, store, mean_s, Curve::Flat));
    stage.enter(at, database(worker, cache, 2.0 * mean_s, Curve::Flat));
    stage.enter(at, grpc(worker, pricing, 2.0 * mean_s, 20.0, curve));
    stage.enter(at, shipper(worker, logs, 120.0, if test { 120e3 } else { 60e3 }));
    // The last of the unused are for honest firsts; an attacker takes from the front.
    let firsts: Vec<_> = unused.iter().rev().take(4).copied().collect();
    let at = at + HOUR;
    stage.enter(at, newcomer(web_device, firsts, DAY as f64 / 1e6));
    Company { web: web_device, sensor: sensor_device, worker, known, broker, unused, has_policy: true }
}

/// A site without a mesh: one workstation plays every part, services are addresses, and nobody knows a policy.
pub fn site(stage: &mut Stage, variety: Variety) -> Company {
    let test = variety == Variety::Test;
    let (hosts, mean_s) =
        if test { (120, 150.0) } else { (60 + stage.dice.below(120), stage.dice.between(60.0, 240.0)) };
    let (device, known) = workstation(stage, "10.0.0.7", hosts, mean_s);
    let mut unused = Vec::new();
    for n in 0..30 {
        let (name, port, tongue) = match n % 3 {
            0 => (format!("203.0.113.{n}"), 443, Tongue::Tls),
            1 => (format!("10.0.5.{n}"), 80, Tongue::Http),
            _ => (format!("203.0.113.{n}"), 8000 + n, Tongue::Unknown),
        };
        let reach = if n % 3 == 1 { Reach::Near } else { Reach::Far };
        unused.push(stage.place(&name, port, Carrier::Tcp, tongue, Standing::Unknown, reach));
    }
    let broker = stage.place("10.0.0.18", 1883, Carrier::Tcp, Tongue::Mqtt, Standing::Unknown, Reach::Near);
    let begin = DAWN + stage.dice.below(HOUR);
    stage.enter(begin, sensor(device, broker, if test { 60.0 } else { 45.0 }, 2.0));
    Company { web: device, sensor: device, worker: device, known, broker, unused, has_policy: false }
}

/// A workstation of a site without a mesh, as packet captures see it; policy is not known.
pub fn workstation(stage: &mut Stage, name: &str, hosts: u64, mean_s: f64) -> (Device, Vec<Service>) {
    let device = stage.device(name);
    let resolver = stage.place("10.0.0.53", 53, Carrier::Udp, Tongue::Dns, Standing::Unknown, Reach::Near);
    let hosts: Vec<_> = (0..hosts)
        .map(|n| {
            let name = format!("198.51.{}.{}", n / 250, n % 250 + 1);
            stage.place(&name, 443, Carrier::Tcp, Tongue::Tls, Standing::Unknown, Reach::Far)
        })
        .collect();
    let at = DAWN + stage.dice.below(HOUR);
    stage.enter(at, browser(device, resolver, hosts.clone(), mean_s));
    (device, hosts)
}

fn favourite(dice: &mut Dice, services: &[Service]) -> Service {
    let at = dice.favourite(services.len() as u64);
    usize::try_from(at).ok().and_then(|at| services.get(at)).copied().unwrap_or_default()
}
