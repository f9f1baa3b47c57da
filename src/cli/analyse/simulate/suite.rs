//! Plays attacks and honest days before a judge, and counts what it did.

use std::collections::{BTreeMap, HashSet};

use super::attacks::{Bound, Gauge, Scenario, Scene, Strength, poison};
use super::dice::Dice;
use super::honest::{Company, Variety, company};
use super::mixes::Mix;
use super::stage::{Act, DAWN, DAY, Device, HOUR, MINUTE, SECOND, Stage};
use crate::analyser::event::DeviceKey;
use crate::analyser::{Action, Event, Moment, Rule, Verdict};

/// What is under test.
pub trait Judge {
    /// Hears one event and says what it thinks.
    fn hear(&mut self, event: &Event) -> Verdict;
}

/// Makes a judge that learns until this moment and enforces from then on.
pub type Call<'a> = &'a (dyn Fn(Moment) -> Box<dyn Judge> + Sync);

/// How one attack went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The rule that blocked it first; none when nothing did.
    pub rule: Option<Rule>,
    /// How much of its bound the attacker had used up then, or at the end.
    pub used: f64,
    /// Events of the attack that were heard until then.
    pub rows: u64,
    /// Where the limit stood that was passed, as the verdict says, in its own unit.
    pub limit: f64,
    /// What the limit is on.
    pub measure: &'static str,
    /// Flows of honest devices that something was done to, after learning.
    pub false_blocks: u64,
    /// Flows of honest devices after learning.
    pub honest_flows: u64,
}

impl Outcome {
    /// Whether it was blocked in time.
    pub fn is_in_time(&self) -> bool {
        self.rule.is_some() && self.used <= 1.0
    }
}

/// An attack to be played: one of the fourteen, or an evasion of one.
#[derive(Clone, Copy)]
pub struct Attack<'a> {
    /// Lets it begin.
    pub start: &'a dyn Fn(&mut Scene<'_>) -> Device,
    /// How loud it is.
    pub strength: Strength,
    /// By when it must be blocked.
    pub bound: Bound,
    /// How long it goes on at most, in microseconds.
    pub lasts: u64,
    /// How long the judge learns before, in microseconds.
    pub learns: u64,
    /// How much more is sent each day for three weeks before; 1 for an attack without such a beginning.
    pub poison: f64,
}

impl<'a> Attack<'a> {
    /// One of the fourteen.
    pub fn of(
        scenario: &'a Scenario,
        strength: Strength,
        start: &'a dyn Fn(&mut Scene<'_>) -> Device,
    ) -> Self {
        Self {
            start,
            strength,
            bound: scenario.bound(strength),
            lasts: scenario.lasts(strength),
            learns: LEARNS,
            poison: if scenario.number == POISONING { POISON } else { 1.0 },
        }
    }
}

/// Plays one attack in a company of its own.
pub fn play_attack(attack: &Attack<'_>, variety: Variety, seed: u64, call: Call<'_>) -> Outcome {
    let mut show = Show::new(variety, seed);
    let begin = show.learn(attack, call);
    let Show { mut stage, company, mut judge, pace, learned } = show;
    let mut seen = Seen { outcome: Outcome::default(), gauge: Gauge::default(), touched: HashSet::new() };
    // What honest devices did between learning and the attack counts, too.
    stage.tick_every(MINUTE);
    while let Some(act) = stage.next(begin) {
        seen.take(&act, judge.hear(&act.event), None, learned, attack.bound);
    }
    stage.tick_every(SECOND);
    let strength = attack.strength;
    let mut scene = Scene { stage: &mut stage, company: &company, at: begin, strength, variety, pace };
    let attacker = (attack.start)(&mut scene);
    let key = stage.actors.get(usize::from(attacker.0)).map(|a| a.key);
    while let Some(act) = stage.next(begin + attack.lasts) {
        seen.take(&act, judge.hear(&act.event), key, learned, attack.bound);
        if seen.outcome.rule.is_some() || seen.gauge.used(attack.bound) > LATE_MAX {
            break;
        }
    }
    if seen.outcome.rule.is_none() {
        seen.outcome.used = seen.gauge.used(attack.bound);
    }
    seen.outcome
}

/// A stage that was played until an attack can begin.
struct Show {
    stage: Stage,
    company: Company,
    judge: Box<dyn Judge>,
    pace: f64,
    /// When learning ended.
    learned: u64,
}

impl Show {
    fn new(variety: Variety, seed: u64) -> Self {
        let mut stage = Stage::new(Dice::new(seed, if variety == Variety::Test { "test" } else { "train" }));
        let company = company(&mut stage, variety);
        Self { stage, company, judge: Box::new(Deaf), pace: 1.0, learned: 0 }
    }

    /// Plays what comes before the attack; when that begins.
    fn learn(&mut self, attack: &Attack<'_>, call: Call<'_>) -> u64 {
        self.learned = DAWN + attack.learns;
        self.judge = call(Moment(self.learned));
        let mut meter = Meter::default();
        while let Some(act) = self.stage.next(self.learned) {
            if act.device == self.company.web {
                meter.count(&act.event);
            }
            self.judge.hear(&act.event);
        }
        self.pace = meter.per_second();
        let mut begin = self.learned;
        if attack.learns > 0 {
            begin += HOUR + self.stage.dice.below(5 * HOUR);
        }
        if attack.poison > 1.0 {
            let service = self.company.known.first().copied().unwrap_or_default();
            poison(&mut self.stage, self.company.web, service, self.learned, attack.poison);
            begin += POISONED;
        }
        begin
    }
}

struct Seen {
    outcome: Outcome,
    gauge: Gauge,
    touched: HashSet<u64>,
}

impl Seen {
    fn take(&mut self, act: &Act, verdict: Verdict, attacker: Option<DeviceKey>, learned: u64, bound: Bound) {
        self.gauge.count(act);
        self.outcome.rows += u64::from(act.attack);
        let about = verdict.why.map(|w| w.device);
        let is_attacker =
            attacker.is_some() && self.gauge.since.is_some() && (act.attack || about == attacker);
        if act.event.at().0 >= learned && !act.attack && matches!(act.event, Event::Open { .. }) {
            self.outcome.honest_flows += 1;
        }
        if verdict.action == Action::Allow {
            return;
        }
        if is_attacker {
            let why = verdict.why.unwrap_or_default();
            self.outcome.rule = Some(verdict.rule);
            self.outcome.used = self.gauge.used(bound);
            (self.outcome.limit, self.outcome.measure) = (why.limit, why.measure);
        } else if let Some(flow) = act.event.flow()
            && self.touched.insert(flow.0)
        {
            self.outcome.false_blocks += 1;
        }
    }
}

/// Counts flows and requests in windows of ten seconds.
#[derive(Default)]
struct Meter {
    window: u64,
    count: u32,
    counts: Vec<u32>,
}

impl Meter {
    fn count(&mut self, event: &Event) {
        let window = event.at().0 / (10 * SECOND);
        // Windows without anything are not the device's pace; only those at work are kept.
        if window != self.window && self.count > 0 {
            self.counts.push(std::mem::take(&mut self.count));
        }
        self.window = window;
        self.count += u32::from(matches!(event, Event::Open { .. } | Event::Message { .. }));
    }

    /// The 99.9th percentile, per second.
    fn per_second(mut self) -> f64 {
        self.counts.sort_unstable();
        let at = self.counts.len().saturating_sub(1 + self.counts.len() / 1000);
        f64::from(self.counts.get(at).copied().unwrap_or(10)) / 10.0
    }
}

/// How an honest day went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Day {
    /// Flows after learning.
    pub flows: u64,
    /// Flows that something was done to.
    pub blocked: u64,
    /// Devices that were quarantined.
    pub quarantined: u64,
    /// Which rules did it, and to how many flows.
    pub rules: BTreeMap<Rule, u64>,
}

/// Plays one honest day.
pub fn play_mix(mix: &Mix, variety: Variety, seed: u64, call: Call<'_>) -> Day {
    let mut stage =
        Stage::new(Dice::new(seed, if variety == Variety::Test { "test-mix" } else { "train-mix" }));
    mix.start(&mut stage);
    let learned = DAWN + mix.learns;
    let mut judge = call(Moment(learned));
    let mut day = Day::default();
    let (mut touched, mut quarantined) = (HashSet::new(), HashSet::new());
    while let Some(act) = stage.next(learned + mix.lasts) {
        let now = act.event.at().0;
        let event = mix.clocked(act.event);
        let verdict = judge.hear(&event);
        if now < learned {
            continue;
        }
        day.flows += u64::from(matches!(event, Event::Open { .. }));
        if verdict.action == Action::Allow {
            continue;
        }
        if let Some(flow) = event.flow()
            && touched.insert(flow.0)
        {
            day.blocked += 1;
            *day.rules.entry(verdict.rule).or_default() += 1;
        }
        if verdict.action == Action::Quarantine {
            quarantined.insert(act.device.0);
        }
    }
    day.quarantined = quarantined.len() as u64;
    day
}

/// Hears everything and says nothing.
struct Deaf;

impl Judge for Deaf {
    fn hear(&mut self, _: &Event) -> Verdict {
        Verdict::default()
    }
}

/// How long a judge learns before an attack.
pub const LEARNS: u64 = 25 * HOUR;
/// Number of the scenario that begins three weeks earlier.
pub const POISONING: u8 = 14;
/// Number of the scenario that it ends with.
pub const EXFILTRATION: u8 = 2;
const POISON: f64 = 1.05;
const POISONED: u64 = 21 * DAY;
/// An attack that has used this many times its bound was missed.
const LATE_MAX: f64 = 3.0;
