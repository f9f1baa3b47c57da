//! The stage: a clock that jumps from one event to the next, devices, services, and flows as they are played.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::dice::Dice;
use crate::analyser::event::{
    Both, Carrier, DeviceKey, End, First, FlowKey, Habit, Reach, Request, Standing, Target, Tongue, Way,
};
use crate::analyser::{Event, Keys, Moment};

/// A microsecond, a second, a minute, an hour and a day, in microseconds.
pub const US: u64 = 1;
/// One second.
pub const SECOND: u64 = 1_000_000 * US;
/// One minute.
pub const MINUTE: u64 = 60 * SECOND;
/// One hour.
pub const HOUR: u64 = 60 * MINUTE;
/// One day.
pub const DAY: u64 = 24 * HOUR;
/// When every play begins: a Monday at midnight UTC.
pub const DAWN: u64 = 1_767_571_200 * SECOND;

/// A device of the play, by its place in the list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Device(pub u16);

/// A service of the play, by its place in the list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Service(pub u16);

/// Who a device is.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: DeviceKey,
    /// How its end of a session looks.
    pub habit: Habit,
}

/// What a service is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name, or its address.
    pub name: String,
    /// As events tell it.
    pub target: Target,
}

/// One event of the play.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// What happens.
    pub event: Event,
    /// Whether it is part of an attack.
    pub attack: bool,
    /// Whose it is; nobody's when time passes.
    pub device: Device,
    /// What it goes to.
    pub service: Service,
}

/// Something that goes on by itself: it plays its part at `now` and says when it wants to go on.
pub trait Part {
    /// Plays; `None` when the part is over.
    fn play(&mut self, now: u64, stage: &mut Stage) -> Option<u64>;
}

impl<F: FnMut(u64, &mut Stage) -> Option<u64>> Part for F {
    fn play(&mut self, now: u64, stage: &mut Stage) -> Option<u64> {
        self(now, stage)
    }
}

/// Everything there is, and what is still to happen.
pub struct Stage {
    /// For everything that is left to chance.
    pub dice: Dice,
    /// The devices.
    pub actors: Vec<Actor>,
    /// The services.
    pub places: Vec<Place>,
    /// The part's events now being made belong to an attack.
    pub attacking: bool,
    keys: Keys,
    parts: Vec<Option<Box<dyn Part>>>,
    queue: BinaryHeap<Reverse<Waiting>>,
    order: u64,
    flows: u64,
    tick_us: u64,
    next_tick: u64,
}

impl Stage {
    /// An empty stage.
    pub fn new(dice: Dice) -> Self {
        Self {
            dice,
            actors: Vec::new(),
            places: Vec::new(),
            attacking: false,
            keys: Keys::new(KEYS),
            parts: Vec::new(),
            queue: BinaryHeap::new(),
            order: 0,
            flows: 0,
            tick_us: MINUTE,
            next_tick: DAWN,
        }
    }

    /// Adds a device with a TLS stack and a network of its own.
    pub fn device(&mut self, name: &str) -> Device {
        let habit = Habit {
            stack: self.keys.word(b"stack-1"),
            source: self.keys.word(name.as_bytes()),
            certificate_age_h: 24,
            resumed: false,
        };
        self.actors.push(Actor { name: name.into(), key: self.keys.device(name), habit });
        Device(last(self.actors.len()))
    }

    /// Adds a service of the mesh that policy allows.
    pub fn service(&mut self, name: &str, declared: Tongue) -> Service {
        self.place(name, 0, Carrier::Tcp, declared, Standing::Allowed, Reach::Near)
    }

    /// Adds something to reach.
    pub fn place(
        &mut self,
        name: &str,
        port: u16,
        carrier: Carrier,
        declared: Tongue,
        standing: Standing,
        reach: Reach,
    ) -> Service {
        let target = Target {
            service: self.keys.service(name, port, carrier),
            host: self.keys.host(name),
            port,
            carrier,
            declared,
            standing,
            reach,
        };
        self.places.push(Place { name: name.into(), target });
        Service(last(self.places.len()))
    }

    /// A word's key.
    pub fn word(&self, text: &str) -> u32 {
        self.keys.word(text.as_bytes())
    }

    /// Lets a part begin at `at`.
    pub fn enter(&mut self, at: u64, part: impl Part + 'static) {
        self.parts.push(Some(Box::new(part)));
        let number = self.parts.len() - 1;
        self.wait(at, What::Part(number));
    }

    /// Lets a part begin somewhere between `from` and `spread` later.
    pub fn enter_within(&mut self, from: u64, spread: u64, part: impl Part + 'static) {
        let at = from + self.dice.below(spread);
        self.enter(at, part);
    }

    /// From now on time is told this often.
    pub fn tick_every(&mut self, us: u64) {
        self.tick_us = us.max(1);
    }

    /// The next event before `until`.
    pub fn next(&mut self, until: u64) -> Option<Act> {
        loop {
            let at = self.queue.peek().map_or(u64::MAX, |Reverse(waiting)| waiting.at);
            if self.next_tick <= at.min(until) {
                let event = Event::Tick { t: Moment(self.next_tick) };
                self.next_tick += self.tick_us;
                let (device, service) = (Device(u16::MAX), Service(u16::MAX));
                return Some(Act { event, attack: false, device, service });
            }
            if at >= until {
                return None;
            }
            let Reverse(Waiting { what, .. }) = self.queue.pop()?;
            match what {
                What::Act(act) => return Some(act),
                What::Part(number) => {
                    let Some(mut part) = self.parts.get_mut(number).and_then(Option::take) else { continue };
                    let again = part.play(at, self);
                    self.attacking = false;
                    if let Some(again) = again {
                        if let Some(place) = self.parts.get_mut(number) {
                            *place = Some(part);
                        }
                        self.wait(again.max(at + 1), What::Part(number));
                    }
                }
            }
        }
    }

    /// Opens a flow at `at`.
    pub fn open(&mut self, at: u64, device: Device, service: Service) -> Line<'_> {
        let habit = self.actors.get(usize::from(device.0)).map(|a| a.habit).unwrap_or_default();
        self.open_as(at, device, service, habit)
    }

    /// Opens a flow whose caller looks like this.
    pub fn open_as(&mut self, at: u64, device: Device, service: Service, habit: Habit) -> Line<'_> {
        self.flows += 1;
        let flow = FlowKey(self.flows);
        let key = self.actors.get(usize::from(device.0)).map(|a| a.key).unwrap_or_default();
        let target = self.places.get(usize::from(service.0)).map(|p| p.target).unwrap_or_default();
        let attack = self.attacking;
        let mut line = Line { stage: self, flow, at, device, service, attack, bytes: [0; 2], chunks: [0; 2] };
        let t = Moment(at);
        line.tell(Event::Open { t, began: t, flow, device: key, target, habit });
        line
    }

    fn wait(&mut self, at: u64, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Waiting { at, order: self.order, what }));
    }
}

/// A flow as it is played: each step goes on from where the one before left off.
pub struct Line<'s> {
    stage: &'s mut Stage,
    flow: FlowKey,
    /// How far it has come.
    pub at: u64,
    device: Device,
    service: Service,
    attack: bool,
    bytes: Both<u64>,
    chunks: Both<u32>,
}

impl Line<'_> {
    /// Lets time pass.
    pub fn wait(mut self, us: u64) -> Self {
        self.at += us;
        self
    }

    /// The dice, for what is left to chance within a flow.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.stage.dice
    }

    /// Moves bytes; the first of each way look like what the service speaks.
    pub fn send(self, way: Way, len: u64) -> Self {
        let tongue =
            self.stage.places.get(usize::from(self.service.0)).map_or(Tongue::Unknown, |p| p.target.declared);
        let entropy = match tongue {
            Tongue::Http | Tongue::Text | Tongue::Redis | Tongue::Ssh => 145,
            Tongue::Tls | Tongue::Random => 225,
            _ => 120,
        };
        self.send_as(way, len, First { tongue, entropy })
    }

    /// Moves bytes that look like this if they are the first of their way.
    pub fn send_as(mut self, way: Way, len: u64, first: First) -> Self {
        if len == 0 {
            return self;
        }
        let ([bytes_out, bytes_in], [chunks_out, chunks_in]) = (&mut self.bytes, &mut self.chunks);
        let (bytes, chunks) = if way == Way::Out { (bytes_out, chunks_out) } else { (bytes_in, chunks_in) };
        *bytes += len;
        *chunks += 1;
        let first = (*chunks == 1).then_some(first);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let event = Event::Chunk { t: Moment(self.at), flow: self.flow, way, len, first };
        self.tell(event);
        self
    }

    /// Moves many bytes in chunks as a relay reads them, at `rate` bytes per second.
    pub fn bulk(mut self, way: Way, total: u64, rate: f64) -> Self {
        let mut left = total;
        while left > 0 {
            let len = left.min(RELAY_CHUNK);
            self = self.send(way, len).wait((len as f64 / rate.max(1.0) * 1e6) as u64);
            left -= len;
        }
        self
    }

    /// One HTTP exchange.
    pub fn http(self, method: &str, path: &str, status: u16, sizes: Both<u64>, latency_us: u64) -> Self {
        let (method, path) = (self.stage.word(method), self.stage.word(path));
        self.exchange(Request::Http { method, path, status }, sizes, latency_us)
    }

    /// One gRPC call.
    pub fn grpc(self, method: &str, code: u8, sizes: Both<u64>, latency_us: u64) -> Self {
        let method = self.stage.word(method);
        self.exchange(Request::Grpc { method, code }, sizes, latency_us)
    }

    /// A request, its answer, and that it was answered.
    pub fn exchange(self, request: Request, sizes: Both<u64>, latency_us: u64) -> Self {
        let [out, back] = sizes;
        let mut line = self.send(Way::Out, out).wait(latency_us).send(Way::In, back);
        line.message(request, sizes, latency_us);
        line
    }

    /// One MQTT packet, from the device or to it.
    pub fn mqtt(mut self, packet: u8, topic: &str, wildcards: u8, reason: u8, sizes: Both<u64>) -> Self {
        let topic = if topic.is_empty() { 0 } else { self.stage.word(topic) };
        let [out, back] = sizes;
        self = self.send(Way::Out, out).send(Way::In, back);
        self.message(Request::Mqtt { packet, topic, wildcards, reason }, sizes, 0);
        self
    }

    fn message(&mut self, request: Request, [out, back]: Both<u64>, latency_us: u64) {
        let short = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
        let bytes = [short(out), short(back)];
        let event = Event::Message {
            t: Moment(self.at),
            flow: self.flow,
            request,
            bytes,
            latency_us: short(latency_us),
        };
        self.tell(event);
    }

    /// Ends it; when that was.
    pub fn close(mut self, end: End) -> u64 {
        let event =
            Event::Close { t: Moment(self.at), flow: self.flow, end, bytes: self.bytes, chunks: self.chunks };
        self.tell(event);
        self.at
    }

    fn tell(&mut self, event: Event) {
        let act = Act { event, attack: self.attack, device: self.device, service: self.service };
        self.stage.wait(event.at().0, What::Act(act));
    }
}

enum What {
    Act(Act),
    Part(usize),
}

struct Waiting {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

fn last(len: usize) -> u16 {
    u16::try_from(len.saturating_sub(1)).unwrap_or(u16::MAX)
}

/// A play has no secret: its keys are the same in every run.
const KEYS: [u64; 2] = [0x636f_756e_7465_7273, 0x6967_6e2d_706c_6179];
/// How many bytes a relay moves at once, at most.
const RELAY_CHUNK: u64 = 64 * 1024;
