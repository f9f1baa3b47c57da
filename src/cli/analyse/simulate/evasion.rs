//! Attackers who know the analyser: each evasion, and the floor that must hold all the same.

use super::attacks::{Bound, Scene, Strength, beacons};
use super::honest::micros;
use super::stage::{DAWN, Device, HOUR, MINUTE, SECOND, Service};
use super::suite::{Attack, Call, LEARNS, Outcome, play_attack};
use crate::analyser::event::{Carrier, End, First, Reach, Standing, Tongue, Way};

/// One way around the analyser.
#[derive(Clone, Copy)]
pub struct Evasion {
    /// What the attacker does.
    pub name: &'static str,
    /// Whether it must be blocked; the others are shown as they are.
    pub must: bool,
    /// By when.
    pub bound: Bound,
    lasts: u64,
    learns: u64,
    poison: f64,
    start: fn(&mut Scene<'_>) -> Device,
}

impl Evasion {
    /// Plays it.
    pub fn play(&self, seed: u64, call: Call<'_>) -> Outcome {
        let attack = Attack {
            start: &self.start,
            strength: Strength::Medium,
            bound: self.bound,
            lasts: self.lasts,
            learns: self.learns,
            poison: self.poison,
        };
        play_attack(&attack, super::honest::Variety::Test, seed, call)
    }
}

const fn evasion(
    name: &'static str,
    bound: Bound,
    lasts: u64,
    start: fn(&mut Scene<'_>) -> Device,
) -> Evasion {
    Evasion { name, must: true, bound, lasts, learns: LEARNS, poison: 1.0, start }
}

/// All of them.
pub static EVASIONS: [Evasion; 20] = [
    evasion("beacon, jitter 0 %", Bound::Flows(20), HOUR, |s| jittered(s, 0.0)),
    evasion("beacon, jitter 10 %", Bound::Flows(20), HOUR, |s| jittered(s, 0.1)),
    evasion("beacon, jitter 20 %", Bound::Flows(20), HOUR, |s| jittered(s, 0.2)),
    evasion("beacon, jitter 30 %", Bound::Flows(20), HOUR, |s| jittered(s, 0.3)),
    evasion("beacon, jitter 40 %", Bound::Flows(20), HOUR, |s| jittered(s, 0.4)),
    Evasion { must: false, ..evasion("beacon, jitter 50 %", Bound::Flows(20), HOUR, |s| jittered(s, 0.5)) },
    Evasion { must: false, ..evasion("beacon, jitter 60 %", Bound::Flows(20), HOUR, |s| jittered(s, 0.6)) },
    evasion("every message padded to one size", Bound::Polls(60), 10 * MINUTE, padded),
    evasion("its usual sizes, at a twentieth of line rate", Bound::BytesOut(50_000_000), HOUR, mimicry),
    evasion("out over eight services", Bound::BytesOut(40_000_000), 10 * MINUTE, split_services),
    evasion("out by three devices", Bound::BytesOut(40_000_000), 10 * MINUTE, split_devices),
    evasion("a scan, one target in five minutes", Bound::Flows(40), 4 * HOUR, slow_scan),
    Evasion {
        poison: 1.05,
        ..evasion("three weeks of 5 % more each day", Bound::BytesOut(10_000_000), 2 * MINUTE, out_fast)
    },
    Evasion {
        learns: 0,
        ..evasion("a scan from the first second", Bound::Flows(50), 5 * MINUTE, early_scan)
    },
    Evasion {
        learns: 0,
        ..evasion("another protocol from the first second", Bound::Polls(4), MINUTE, early_tunnel)
    },
    evasion("an aged relation, then much out", Bound::BytesOut(15_000_000), 8 * HOUR, aged),
    evasion("one connection for hours", Bound::Polls(60), 4 * HOUR, long_connection),
    evasion("another device's habits under its name", Bound::Flows(40), HOUR, swapped),
    evasion("a million paths and topics", Bound::Flows(1500), 10 * MINUTE, many_paths),
    evasion("100,000 open flows", Bound::Flows(100_000), 10 * MINUTE, many_flows),
];

fn first_of(services: &[Service]) -> Service {
    services.first().copied().unwrap_or_default()
}

fn jittered(scene: &mut Scene<'_>, jitter: f64) -> Device {
    let (device, service) = (scene.company.worker, first_of(&scene.company.unused));
    beacons(scene, device, service, 60.0, jitter, 60);
    device
}

fn padded(scene: &mut Scene<'_>) -> Device {
    let (device, service, at) = (scene.company.worker, first_of(&scene.company.unused), scene.at);
    scene.stage.attacking = true;
    let mut line = scene.stage.open(at, device, service).wait(2_000);
    for _ in 0..300 {
        let pause = line.dice().between(1.5, 2.5);
        let first = First { tongue: Tongue::Binary, entropy: 250 };
        line = line
            .send_as(Way::Out, 1024, first)
            .wait(20_000)
            .send_as(Way::In, 1024, first)
            .wait(micros(pause));
    }
    line.close(End::Fin);
    scene.stage.attacking = false;
    device
}

/// 50 kB/s in requests that look like the device's own.
fn mimicry(scene: &mut Scene<'_>) -> Device {
    let device = scene.company.web;
    let services = scene.company.known.clone();
    let at = scene.at;
    scene.stage.enter(at, move |now: u64, stage: &mut super::stage::Stage| {
        stage.attacking = true;
        let service = stage.dice.pick(&services);
        let mut line = stage.open(now, device, service).wait(2_000);
        for n in 0..10 {
            let sizes = [line.dice().around(2_000.0, 0.8) as u64, line.dice().around(600.0, 0.5) as u64];
            line = line.http("POST", &format!("/v1/item/{n}"), 200, sizes, 20_000).wait(20_000);
        }
        Some(line.close(End::Fin))
    });
    device
}

fn split_services(scene: &mut Scene<'_>) -> Device {
    let device = scene.company.web;
    let mut services = scene.company.known.clone();
    services.extend(scene.company.unused.iter().take(4));
    out_over(scene, vec![device], services);
    device
}

fn split_devices(scene: &mut Scene<'_>) -> Device {
    let devices = vec![scene.company.web, scene.company.worker, scene.company.sensor];
    let services = vec![first_of(&scene.company.known)];
    let first = scene.company.web;
    out_over(scene, devices, services);
    first
}

/// 200 kB at a time, from one device after the other to one service after the other.
fn out_over(scene: &mut Scene<'_>, devices: Vec<Device>, services: Vec<Service>) {
    let (at, mut count) = (scene.at, 0_usize);
    scene.stage.enter(at, move |now: u64, stage: &mut super::stage::Stage| {
        stage.attacking = true;
        let device = devices.get(count % devices.len()).copied()?;
        let service = services.get(count % services.len()).copied()?;
        count += 1;
        stage
            .open(now, device, service)
            .wait(2_000)
            .bulk(Way::Out, 200_000, 2e6)
            .send(Way::In, 200)
            .close(End::Fin);
        Some(now + micros(stage.dice.between(0.3, 0.7)))
    });
}

fn out_fast(scene: &mut Scene<'_>) -> Device {
    let (device, service, at) = (scene.company.web, first_of(&scene.company.known), scene.at);
    scene.stage.attacking = true;
    scene.stage.open(at, device, service).wait(2_000).bulk(Way::Out, 50_000_000, 1e6).close(End::Fin);
    scene.stage.attacking = false;
    device
}

fn slow_scan(scene: &mut Scene<'_>) -> Device {
    let (device, at) = (scene.company.web, scene.at);
    let mut count = 0;
    scene.stage.enter(at, move |now: u64, stage: &mut super::stage::Stage| {
        stage.attacking = true;
        let name = format!("slowly-scanned-{count}");
        let target = stage.place(&name, 0, Carrier::Tcp, Tongue::Http, Standing::Allowed, Reach::Near);
        count += 1;
        let end = if stage.dice.chance(0.5) { End::Refused } else { End::Fin };
        stage.open(now, device, target).wait(2_000).send(Way::Out, 90).wait(9_000).close(end);
        Some(now + micros(stage.dice.between(280.0, 320.0)))
    });
    device
}

fn early_scan(scene: &mut Scene<'_>) -> Device {
    let device = scene.company.web;
    scene.at = DAWN + SECOND;
    let at = scene.at;
    let mut count = 0;
    scene.stage.enter(at, move |now: u64, stage: &mut super::stage::Stage| {
        stage.attacking = true;
        let name = format!("early-{count}");
        let target = stage.place(&name, 0, Carrier::Tcp, Tongue::Unknown, Standing::Refused, Reach::Near);
        count += 1;
        stage.open(now, device, target).wait(300).close(End::Policy);
        Some(now + SECOND / 2)
    });
    device
}

fn early_tunnel(scene: &mut Scene<'_>) -> Device {
    let device = scene.company.worker;
    let service = scene.stage.service("early-tls", Tongue::Tls);
    scene.stage.attacking = true;
    let ssh = First { tongue: Tongue::Ssh, entropy: 140 };
    let mut line = scene.stage.open(DAWN + SECOND, device, service).wait(2_000);
    line = line.send_as(Way::Out, 24, ssh).wait(9_000).send_as(Way::In, 40, ssh);
    for _ in 0..100 {
        line = line.wait(200_000).send(Way::Out, 52).wait(20_000).send(Way::In, 84);
    }
    line.close(End::Fin);
    scene.stage.attacking = false;
    device
}

/// Six hours of harmless use of a new service, and then 50 MB to it.
fn aged(scene: &mut Scene<'_>) -> Device {
    let (device, service, begin) = (scene.company.web, first_of(&scene.company.unused), scene.at);
    scene.stage.enter(begin, move |now: u64, stage: &mut super::stage::Stage| {
        if now < begin + 6 * HOUR {
            // Not yet the attack: nothing of it is wrong.
            let line = stage.open(now, device, service).wait(2_000);
            line.http("GET", "/v1/item/1", 200, [450, 5_000], 20_000).close(End::Fin);
            return Some(now + micros(stage.dice.wait(120.0)));
        }
        stage.attacking = true;
        stage.open(now, device, service).wait(2_000).bulk(Way::Out, 50_000_000, 1e6).close(End::Fin);
        None
    });
    device
}

fn long_connection(scene: &mut Scene<'_>) -> Device {
    let (device, service, at) = (scene.company.worker, first_of(&scene.company.unused), scene.at);
    scene.stage.attacking = true;
    let mut line = scene.stage.open(at, device, service).wait(2_000);
    for _ in 0..110 {
        let (out, pause) = (100 + line.dice().below(30), line.dice().between(90.0, 150.0));
        line = line.send(Way::Out, out).wait(20_000).send(Way::In, 64).wait(micros(pause));
    }
    line.close(End::Fin);
    scene.stage.attacking = false;
    device
}

/// What the web client does, under the sensor's name.
fn swapped(scene: &mut Scene<'_>) -> Device {
    let (device, services, at) = (scene.company.sensor, scene.company.known.clone(), scene.at);
    scene.stage.enter(at, move |now: u64, stage: &mut super::stage::Stage| {
        stage.attacking = true;
        let service = stage.dice.pick(&services);
        let sizes = [stage.dice.around(450.0, 0.3) as u64, stage.dice.around(6_000.0, 1.2) as u64];
        let path = format!("/v1/item/{}", stage.dice.favourite(30));
        let line = stage.open(now, device, service).wait(2_000);
        line.http("GET", &path, 200, sizes, 20_000).close(End::Fin);
        Some(now + micros(stage.dice.wait(30.0)))
    });
    device
}

fn many_paths(scene: &mut Scene<'_>) -> Device {
    let (device, service, at) = (scene.company.web, first_of(&scene.company.known), scene.at);
    let mut flows = 0;
    scene.stage.enter(at, move |now: u64, stage: &mut super::stage::Stage| {
        stage.attacking = true;
        flows += 1;
        let mut line = stage.open(now, device, service).wait(200);
        for _ in 0..1000 {
            let path = line.dice().bits();
            line = line.http("GET", &format!("/{path:016x}"), 404, [90, 120], 200);
        }
        let end = line.close(End::Fin);
        (flows < 1000).then_some(end)
    });
    device
}

/// Flows opened and left open; nothing is sent.
fn many_flows(scene: &mut Scene<'_>) -> Device {
    let (device, service, at) = (scene.company.web, first_of(&scene.company.known), scene.at);
    let mut flows = 0_u64;
    scene.stage.enter(at, move |now: u64, stage: &mut super::stage::Stage| {
        stage.attacking = true;
        flows += 1;
        stage.open(now, device, service).wait(HOUR).close(End::Timeout);
        (flows < 100_000).then_some(now + 2_000)
    });
    device
}
