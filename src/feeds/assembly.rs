//! Puts packets together into flows: who asked whom, how it began, how it ended, in a bounded table.

use std::collections::HashMap;
use std::net::IpAddr;

use super::FlowRecord;
use super::pcap::Packet;
use super::record::reach;
use crate::analyser::event::{
    Both, Carrier, End, First, FlowKey, Habit, Reach, Standing, Target, Tongue, Way,
};
use crate::analyser::{Event, Keys, Moment};

/// How many flows are kept at once, and how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Living flows; one more ends the one that was silent longest. At least 1.
    pub flows_max: usize,
    /// Silence that ends an answered TCP flow, in microseconds.
    pub tcp_idle_us: u64,
    /// Silence that ends a UDP flow, in microseconds.
    pub udp_idle_us: u64,
    /// How long an answer to a SYN is waited for, in microseconds.
    pub attempt_us: u64,
    /// How long an ended flow's last packets are still known as its own, in microseconds.
    pub linger_us: u64,
}

impl Default for Bounds {
    /// 131,072 flows; 5 min and 1 min of silence, as Zeek has them; 10 s for an answer; 10 s to linger.
    fn default() -> Self {
        Self {
            flows_max: 131_072,
            tcp_idle_us: 300_000_000,
            udp_idle_us: 60_000_000,
            attempt_us: 10_000_000,
            linger_us: 10_000_000,
        }
    }
}

/// Something the analyser hears; with the end of a flow comes its record.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// What happened.
    pub event: Event,
    /// The whole flow, when `event` is its [`Event::Close`].
    pub record: Option<Box<FlowRecord>>,
}

/// Says what a first payload looks like, as far as it can tell.
pub type Recognise = fn(Carrier, &[u8]) -> Option<First>;

/// The living flows of a capture.
pub struct Assembly {
    bounds: Bounds,
    keys: Keys,
    recognise: Recognise,
    places: HashMap<Pair, usize>,
    flows: Vec<Flow>,
    free: Vec<usize>,
    /// Per [`Class`], from the flow that was silent longest to the one heard last: within a class all have the same
    /// bound, so that only the first needs a look.
    lists: [List; Class::ALL.len()],
    heard: u64,
    numbered: u64,
    evicted: u64,
}

impl Assembly {
    /// An empty table.
    pub fn new(bounds: Bounds, keys: Keys, recognise: Recognise) -> Self {
        Self {
            bounds,
            keys,
            recognise,
            places: HashMap::new(),
            flows: Vec::new(),
            free: Vec::new(),
            lists: [List::default(); Class::ALL.len()],
            heard: 0,
            numbered: 0,
            evicted: 0,
        }
    }

    /// How many flows are known, those just ended included; at most [`Bounds::flows_max`].
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no flow is known.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many living flows were ended because the table was full.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Takes one packet and appends what it means to `heard`, at most [`HEARD_MAX`] things.
    pub fn push(&mut self, packet: &Packet, heard: &mut Vec<Heard>) {
        self.expire(packet.at, heard);
        let pair = Pair::of(packet);
        let mut place = self.places.get(&pair).copied();
        if let Some(known) = place
            && self.flows.get(known).is_some_and(|flow| flow.is_over_for(packet, &self.bounds))
        {
            self.end(known, packet.at, heard);
            place = None;
        }
        let place = match place {
            Some(known) => known,
            None => self.open(pair, packet, heard),
        };
        if let Some(flow) = self.flows.get_mut(place)
            && flow.take(packet, self.recognise, heard)
        {
            flow.close(packet.at, heard);
        }
        // Only now: the packet may have moved it to another class.
        self.unlink(place);
        self.append(place);
    }

    /// Ends what is still living: the capture is over. Appends to `heard` at most [`HEARD_MAX`] flows at a time; true
    /// while there are more.
    pub fn finish(&mut self, at: Moment, heard: &mut Vec<Heard>) -> bool {
        for _ in 0..EXPIRED_MAX {
            match self.stalest() {
                Some(place) => self.end(place, at, heard),
                None => return false,
            }
        }
        !self.is_empty()
    }

    /// Ends flows that were silent too long. A few at a time: a clock that jumps must not fill the memory.
    fn expire(&mut self, now: Moment, heard: &mut Vec<Heard>) {
        let mut left = EXPIRED_MAX;
        for class in Class::ALL {
            while left > 0
                && let Some(oldest) = self.list(class).oldest
                && self.flows.get(oldest).is_some_and(|flow| flow.is_stale(now, &self.bounds))
            {
                self.end(oldest, now, heard);
                left -= 1;
            }
        }
    }

    /// The flow to be missed least: one that ended, else the one that was silent longest.
    fn stalest(&self) -> Option<usize> {
        let firsts = Class::ALL.into_iter().filter_map(|class| self.list(class).oldest);
        firsts.min_by_key(|place| self.flows.get(*place).map(|f| (f.phase != Phase::Over, f.heard)))
    }

    fn open(&mut self, pair: Pair, packet: &Packet, heard: &mut Vec<Heard>) -> usize {
        if self.places.len() >= self.bounds.flows_max.max(1)
            && let Some(oldest) = self.stalest()
        {
            self.evicted += u64::from(self.flows.get(oldest).is_some_and(|f| f.phase != Phase::Over));
            self.end(oldest, packet.at, heard);
        }
        self.numbered += 1;
        let flow = Flow::begin(pair, packet, FlowKey(self.numbered));
        heard.push(Heard { event: flow.opened(&self.keys, packet.at), record: None });
        let place = match self.free.pop() {
            Some(place) => {
                if let Some(old) = self.flows.get_mut(place) {
                    *old = flow;
                }
                place
            }
            None => {
                self.flows.push(flow);
                self.flows.len() - 1
            }
        };
        self.places.insert(pair, place);
        self.append(place);
        place
    }

    /// Takes a flow out of the table, and tells its end unless that was told.
    fn end(&mut self, place: usize, now: Moment, heard: &mut Vec<Heard>) {
        self.unlink(place);
        if let Some(flow) = self.flows.get_mut(place) {
            flow.close(now, heard);
            self.places.remove(&flow.pair);
            self.free.push(place);
        }
    }

    fn list(&self, class: Class) -> List {
        self.lists.get(class as usize).copied().unwrap_or_default()
    }

    fn append(&mut self, place: usize) {
        self.heard += 1;
        let Some(flow) = self.flows.get_mut(place) else { return };
        let Some(list) = self.lists.get_mut(flow.class() as usize) else { return };
        let before = list.newest.replace(place);
        flow.listed = flow.class();
        flow.heard = self.heard;
        (flow.older, flow.newer) = (before, None);
        match before {
            Some(before) => {
                if let Some(flow) = self.flows.get_mut(before) {
                    flow.newer = Some(place);
                }
            }
            None => list.oldest = Some(place),
        }
    }

    fn unlink(&mut self, place: usize) {
        let Some(flow) = self.flows.get(place) else { return };
        let (older, newer) = (flow.older, flow.newer);
        let Some(list) = self.lists.get_mut(flow.listed as usize) else { return };
        match older {
            Some(older) => {
                if let Some(flow) = self.flows.get_mut(older) {
                    flow.newer = newer;
                }
            }
            None => list.oldest = newer,
        }
        match newer {
            Some(newer) => {
                if let Some(flow) = self.flows.get_mut(newer) {
                    flow.older = older;
                }
            }
            None => list.newest = older,
        }
    }
}

/// Flows that the same silence ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Class {
    Over = 0,
    Asked,
    Udp,
    Tcp,
}

impl Class {
    const ALL: [Self; 4] = [Self::Over, Self::Asked, Self::Udp, Self::Tcp];
}

/// The ends of a chain through the flows.
#[derive(Clone, Copy, Debug, Default)]
struct List {
    oldest: Option<usize>,
    newest: Option<usize>,
}

/// Both ends of a flow, the lesser first, so that both ways meet in one place.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Pair {
    low: (IpAddr, u16),
    high: (IpAddr, u16),
    udp: bool,
}

impl Pair {
    fn of(packet: &Packet) -> Self {
        let (low, high) = (packet.from.min(packet.to), packet.from.max(packet.to));
        Self { low, high, udp: packet.carrier == Carrier::Udp }
    }
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The device sent a SYN, or its first datagrams; nothing came back.
    Asked,
    /// Answered, or met when it was already under way.
    Open,
    /// One side has said its FIN.
    Half(Way),
    /// Ended and told; the last packets may still come.
    Over,
}

#[derive(Clone, Debug)]
struct Flow {
    pair: Pair,
    number: FlowKey,
    /// Whether the device that asked is the lesser end of the pair.
    low_asks: bool,
    phase: Phase,
    reset: Option<Way>,
    began: Moment,
    last: Moment,
    bytes: Both<u64>,
    packets: Both<u32>,
    told: Both<bool>,
    tongue: Tongue,
    /// Counts up with every packet of any flow.
    heard: u64,
    listed: Class,
    older: Option<usize>,
    newer: Option<usize>,
}

impl Flow {
    fn begin(pair: Pair, packet: &Packet, number: FlowKey) -> Self {
        let asks = asks(packet);
        // Met under way, TCP counts as answered: who knows what was before.
        let asked = packet.flags.syn && !packet.flags.ack || packet.carrier == Carrier::Udp && asks;
        let asker = if asks { packet.from } else { packet.to };
        Self {
            pair,
            number,
            low_asks: asker == pair.low,
            phase: if asked { Phase::Asked } else { Phase::Open },
            reset: None,
            began: packet.at,
            last: packet.at,
            bytes: [0, 0],
            packets: [0, 0],
            told: [false, false],
            tongue: Tongue::Unknown,
            heard: 0,
            listed: Class::Over,
            older: None,
            newer: None,
        }
    }

    fn carrier(&self) -> Carrier {
        if self.pair.udp { Carrier::Udp } else { Carrier::Tcp }
    }

    fn class(&self) -> Class {
        match self.phase {
            Phase::Over => Class::Over,
            _ if self.pair.udp => Class::Udp,
            Phase::Asked => Class::Asked,
            Phase::Open | Phase::Half(_) => Class::Tcp,
        }
    }

    /// Device and target.
    fn ends(&self) -> ((IpAddr, u16), (IpAddr, u16)) {
        if self.low_asks { (self.pair.low, self.pair.high) } else { (self.pair.high, self.pair.low) }
    }

    fn opened(&self, keys: &Keys, now: Moment) -> Event {
        let (device, (host, port)) = self.ends();
        let (device, host) = (device.0.to_string(), host.to_string());
        let target = Target {
            service: keys.service(&host, port, self.carrier()),
            host: keys.host(&host),
            port,
            carrier: self.carrier(),
            declared: Tongue::Unknown,
            standing: Standing::Unknown,
            reach: reach(&host),
        };
        Event::Open {
            t: now,
            began: self.began,
            flow: self.number,
            device: keys.device(&device),
            target,
            habit: Habit { certificate_age_h: u16::MAX, ..Habit::default() },
        }
    }

    /// Whether this packet between the same ends is of another flow.
    fn is_over_for(&self, packet: &Packet, bounds: &Bounds) -> bool {
        let anew = packet.flags.syn && !packet.flags.ack;
        match self.phase {
            Phase::Over => anew || self.is_stale(packet.at, bounds),
            // Sent again, it is still the same asking.
            Phase::Asked => self.is_stale(packet.at, bounds),
            Phase::Open | Phase::Half(_) => anew || self.is_stale(packet.at, bounds),
        }
    }

    /// Whether it was silent too long; a clock that went back as far counts as well.
    fn is_stale(&self, now: Moment, bounds: &Bounds) -> bool {
        let bound = match self.class() {
            Class::Over => bounds.linger_us,
            Class::Asked => bounds.attempt_us,
            Class::Udp => bounds.udp_idle_us,
            Class::Tcp => bounds.tcp_idle_us,
        };
        now.0.abs_diff(self.last.0) > bound
    }

    /// Takes a packet; whether the flow is over with it.
    fn take(&mut self, packet: &Packet, recognise: Recognise, heard: &mut Vec<Heard>) -> bool {
        self.last = packet.at;
        if self.phase == Phase::Over {
            return false;
        }
        let way = if (packet.from == self.pair.low) == self.low_asks { Way::Out } else { Way::In };
        let [out, back] = &mut self.packets;
        let count = if way == Way::Out { out } else { back };
        *count = count.saturating_add(1);
        if way == Way::In && self.phase == Phase::Asked && !packet.flags.rst {
            self.phase = Phase::Open;
        }
        if packet.len > 0 {
            self.chunk(packet, way, recognise, heard);
        }
        if packet.flags.rst {
            self.reset = Some(way);
            return true;
        }
        if packet.flags.fin {
            match self.phase {
                Phase::Half(first) if first != way => return true,
                _ => self.phase = Phase::Half(way),
            }
        }
        false
    }

    fn chunk(&mut self, packet: &Packet, way: Way, recognise: Recognise, heard: &mut Vec<Heard>) {
        let ([bytes_out, bytes_in], [told_out, told_in]) = (&mut self.bytes, &mut self.told);
        let (bytes, told) = match way {
            Way::Out => (bytes_out, told_out),
            Way::In => (bytes_in, told_in),
        };
        *bytes = bytes.saturating_add(u64::from(packet.len));
        let is_first = !*told && !packet.sample.is_empty();
        let first = if is_first { recognise(packet.carrier, &packet.sample) } else { None };
        *told |= is_first;
        if let Some(first) = first
            && matches!(self.tongue, Tongue::Unknown | Tongue::Text | Tongue::Binary | Tongue::Random)
        {
            self.tongue = first.tongue;
        }
        let event = Event::Chunk { t: packet.at, flow: self.number, way, len: packet.len, first };
        heard.push(Heard { event, record: None });
    }

    /// Tells the end, once.
    fn close(&mut self, now: Moment, heard: &mut Vec<Heard>) {
        if self.phase == Phase::Over {
            return;
        }
        let end = self.how();
        self.phase = Phase::Over;
        let (device, (host, port)) = self.ends();
        let record = FlowRecord {
            began: self.began,
            lasted_us: self.last.since(self.began),
            device: device.0.to_string(),
            target: host.to_string(),
            port,
            carrier: self.carrier(),
            tongue: self.tongue,
            standing: Standing::Unknown,
            bytes: self.bytes,
            chunks: self.packets,
            end,
            habit: Habit { certificate_age_h: u16::MAX, ..Habit::default() },
        };
        let event = Event::Close { t: now, flow: self.number, end, bytes: self.bytes, chunks: self.packets };
        heard.push(Heard { event, record: Some(Box::new(record)) });
    }

    fn how(&self) -> End {
        let (_, (host, _)) = self.ends();
        match (self.reset, self.phase) {
            (Some(Way::In), Phase::Asked) => End::Refused,
            (Some(_), _) => End::Reset,
            // Nobody answers a group.
            (None, Phase::Asked) if reach(&host.to_string()) == Reach::Many => End::Fin,
            (None, Phase::Asked) => End::Timeout,
            (None, _) => End::Fin,
        }
    }
}

/// Whether the sender of the first packet is the one who asks.
fn asks(packet: &Packet) -> bool {
    if packet.flags.syn {
        return !packet.flags.ack;
    }
    // Met under way, or UDP: who has the lower, well-known port answers.
    !(packet.from.1 < WELL_KNOWN && packet.to.1 >= WELL_KNOWN)
}

/// How many silent flows one packet may end.
const EXPIRED_MAX: usize = 16;
/// How many things one packet may mean: flows it finds silent, the flow of the same ends before it, the one that makes
/// room, and the opening, a chunk and the end of its own.
pub const HEARD_MAX: usize = EXPIRED_MAX + 5;
/// Ports below are given to services (RFC 6335 §6).
const WELL_KNOWN: u16 = 1024;

#[cfg(test)]
#[path = "assembly_tests.rs"]
mod tests;
