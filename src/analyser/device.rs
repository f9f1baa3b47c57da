//! What is kept of one device: counts, what it knows, what is usual, how far it is trusted to be known.

use serde::{Deserialize, Serialize};

use super::decay::Counters;
use super::event::{Habit, Moment, ServiceKey};
use super::evidence::Evidence;
use super::features::{FEATURES, Offset};
use super::ladder::Ladder;
use super::limits::Usual;
use super::relation::Relation;
use super::sketch::{Hll64, Known};
use super::sparse;
use super::tail::Tail;
use super::verdict::Stage;

/// How many relations are kept of each device.
pub const RELATIONS: usize = 32;

/// One device; at most 16 KiB.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Device {
    pub(super) stage: Stage,
    pub(super) role: u16,
    pub(super) born: Moment,
    pub(super) checkpoints: u32,
    /// Checkpoints since it left learning, and how many of them would have been blocked; both halved daily.
    pub(super) judged: f32,
    pub(super) would: f32,
    /// How many of them the generic scorers gave p < 0.01.
    pub(super) strange: f32,
    pub(super) halved: Moment,
    /// Hours of the day in which it was active, one bit each.
    pub(super) hours: u32,
    /// When it left learning, in the units of [`Known`]; none while it learns.
    pub(super) settled: Option<u16>,
    pub(super) counters: Counters,
    pub(super) usual: Usual,
    pub(super) services: Known<128>,
    pub(super) hosts: Known<64>,
    pub(super) ports: Known<8>,
    pub(super) words: Hll64,
    #[serde(with = "sparse")]
    pub(super) relations: [Relation; RELATIONS],
    pub(super) last_open: Moment,
    pub(super) stack: u32,
    pub(super) source: u32,
    /// Where its last flow came from, and when one last came from `source`.
    pub(super) last_source: u32,
    pub(super) at_home: Moment,
    /// When it last came back as another: with another stack or network, and a certificate made since.
    pub(super) reborn: Moment,
    pub(super) offsets: [Offset; FEATURES],
    pub(super) generic: Tail,
    pub(super) prior: Tail,
    pub(super) evidence: Evidence,
    pub(super) ladder: Ladder,
}

impl Device {
    /// A device never seen before.
    pub fn new(now: Moment, role: u16) -> Self {
        Self {
            stage: Stage::Learn,
            role,
            born: now,
            checkpoints: 0,
            judged: 0.0,
            would: 0.0,
            strange: 0.0,
            halved: now,
            hours: 0,
            settled: None,
            counters: Counters::new(now),
            usual: Usual::new(),
            services: Known::new(),
            hosts: Known::new(),
            ports: Known::new(),
            words: Hll64::new(),
            relations: [Relation::default(); RELATIONS],
            last_open: now,
            stack: 0,
            source: 0,
            last_source: 0,
            at_home: now,
            reborn: now,
            offsets: [Offset::default(); FEATURES],
            generic: Tail::new(),
            prior: Tail::new(),
            evidence: Evidence::default(),
            ladder: Ladder::default(),
        }
    }

    /// Whether the generic scorers' probabilities are what they say: of enough checkpoints no more than three times as
    /// many as should were called strange. Evidence is gathered from them only then: drift breaks it.
    pub fn is_uniform(&self) -> bool {
        self.judged >= UNIFORM_MIN && self.strange <= 0.03 * self.judged + 3.0
    }

    /// Whether it is new, or came back as another, so recently that it may follow the others.
    pub fn is_newcomer(&self, now: Moment) -> bool {
        self.stage != Stage::Learn && now.since(self.reborn) < NEWCOMER_US
    }

    /// Whether its caller is at another network than it is known from.
    pub fn is_away(&self, habit: Habit) -> bool {
        self.source != 0 && habit.source != 0 && self.source != habit.source
    }

    /// The relation to a service; the one that matters least makes room for a new one.
    pub fn relation(&mut self, service: ServiceKey, port: u16, now: Moment) -> Option<&mut Relation> {
        let known = self.relations.iter().position(|r| r.count > 0 && r.service == service);
        let at = known.or_else(|| {
            // One-off contacts go first, the oldest of them first; what has come back often stays unless it is idle.
            let worth = |r: &Relation| {
                let idle_h = (now.since(r.last) / 3_600_000_000) as u32;
                (r.count.min(WORTH_MAX) >> idle_h.min(31), r.last)
            };
            self.relations.iter().enumerate().min_by_key(|(_, r)| worth(r)).map(|(at, _)| at)
        })?;
        let relation = self.relations.get_mut(at)?;
        if known.is_none() {
            *relation = Relation { service, port, ..Relation::default() };
        }
        Some(relation)
    }
}

/// How long a device is a newcomer.
const NEWCOMER_US: u64 = 3_600_000_000;
const UNIFORM_MIN: f32 = 200.0;
const WORTH_MAX: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_fits_its_bound() {
        assert!(size_of::<Device>() <= 16 * 1024 - 64, "{}", size_of::<Device>());
    }

    #[test]
    fn one_off_contacts_make_room_and_what_comes_back_stays() {
        let mut device = Device::new(Moment(0), 0);
        for i in 0..10_000u64 {
            let now = Moment(i * 1_000_000);
            device.relation(ServiceKey(1_000 + i), 80, now).unwrap().add(now, [1, 1]);
            if i % 10 == 0 {
                device.relation(ServiceKey(7), 80, now).unwrap().add(now, [1, 1]);
            }
        }
        assert_eq!(device.relation(ServiceKey(7), 80, Moment(0)).unwrap().count, 1000);
    }
}
