//! Introduces the analyser to the flows: it hears of each what it does, and what it says is carried out here, as far as
//! `behaviour.toml` allows.
//!
//! Devices are spread over engines, each behind a lock of its own, so that a busy device holds up few others. A flow
//! tells of its bytes under that lock: a few counters, and a full judgement only at checkpoints.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::relay::Listener;
use super::run::Rooms;
use super::table::{Cut, Living};
use super::talk::{Heard, Talk};
use crate::analyser::event::{Carrier, DeviceKey, Habit, Reach, Standing, Target, Tongue};
use crate::analyser::{self, Action, Engine, Event, Keys, Moment, Restored, Rule, SnapshotError, Verdict};
use crate::audit::{Entry, Kind};
use crate::model::{Direction, Facts, FlowId, Reason, Refusal, Risk, SpiffeId, Timestamp};

pub use crate::analyser::event::{End, FlowKey, Way};

/// Whether behaviour is watched, and whether anything is done about it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Not watched.
    Off,
    /// Watched; what would be done is counted and told.
    #[default]
    Observe,
    /// Watched and acted upon.
    Enforce,
}

/// `[behaviour]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Off, observe (default) or enforce.
    pub mode: Mode,
    /// Learning ends here for every device, and acting begins; without it each device earns it.
    pub enforce_from: Option<Timestamp>,
    /// The least time a device is learnt. Default 24 h.
    pub learn: Duration,
    /// Most flows watched at a time. Default 100,000.
    pub flows_max: usize,
    /// Most devices remembered. Default 10,000.
    pub devices_max: usize,
    /// Where what was learnt is kept; `None`: a stop forgets it.
    pub remember: Option<PathBuf>,
    /// How often that is written. Default 5 min.
    pub remember_every: Duration,
}

impl Mode {
    /// As the configuration says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let analyser = analyser::Settings::default();
        Self {
            mode: Mode::default(),
            enforce_from: None,
            learn: analyser.learn_min,
            flows_max: analyser.flows_max,
            devices_max: analyser.devices_max,
            remember: None,
            remember_every: REMEMBER_EVERY,
        }
    }
}

/// Watches the behaviour of every device.
pub struct Behaviour {
    mode: Mode,
    seed: [u64; 2],
    keys: Keys,
    /// None when behaviour is not watched.
    engines: Vec<Mutex<Shard>>,
}

/// One engine, and which of its devices were really sent into quarantine: what it would have done and the files did
/// not allow must not come back as a quarantine when the device does something harmless.
pub(super) struct Shard {
    engine: Engine,
    /// Those of living quarantines only, see [`Shard::tick`].
    quarantined: HashSet<u64>,
}

/// What the analyser has counted, over all devices.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// Checkpoints of devices that are past learning.
    pub judged: u64,
    /// Of these: would have been acted on.
    pub would: u64,
    /// Devices remembered.
    pub devices: usize,
    /// Devices in quarantine.
    pub quarantined: usize,
}

impl Behaviour {
    /// Watches from now on, having learnt nothing. `seed` keeps strangers from choosing names that meet in one place.
    pub fn new(settings: &Settings, seed: [u64; 2]) -> Self {
        let engine = analyser::Settings {
            flows_max: settings.flows_max.div_ceil(ENGINES),
            devices_max: settings.devices_max.div_ceil(ENGINES),
            learn_until: settings.enforce_from.map(moment),
            learn_min: settings.learn,
            ..analyser::Settings::default()
        };
        let engines = match settings.mode {
            Mode::Off => 0,
            Mode::Observe | Mode::Enforce => ENGINES,
        };
        Self {
            mode: settings.mode,
            seed,
            keys: Keys::new(seed),
            engines: (0..engines).map(|_| Mutex::new(Shard::new(engine.clone()))).collect(),
        }
    }

    /// Whether behaviour is watched, and whether anything is done about it.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How risky the device has looked of late, in steps of ten: policy remembers what it answered to each.
    pub fn risk(&self, device: &SpiffeId) -> Risk {
        let key = self.keys.device(device.as_str());
        let risk = self.shard(key.0).map_or_else(Risk::default, |shard| shard.engine.risk(key));
        Risk::new(risk.level() / RISK_STEP * RISK_STEP)
    }

    /// A person says that every device is all right: those in quarantine leave it, and their strikes are forgotten.
    /// How many there were.
    pub fn release_all(&self) -> usize {
        let mut released = 0;
        for shard in &self.engines {
            let Shard { engine, quarantined } = &mut *shard.lock().unwrap_or_else(PoisonError::into_inner);
            for key in quarantined.drain() {
                engine.release(DeviceKey(key));
                released += 1;
            }
        }
        released
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        let mut all = Counted::default();
        for shard in &self.engines {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let meters = shard.engine.meters();
            all.judged += meters.judged;
            all.would += meters.would;
            all.quarantined += shard.quarantined.len();
            all.devices += shard.engine.held().1;
        }
        all
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> Keys {
        self.keys
    }

    /// What keys are made under: with another one nothing that was learnt is found again.
    pub(super) fn seed(&self) -> [u64; 2] {
        self.seed
    }

    /// How many engines devices are spread over; none when behaviour is not watched.
    pub(super) fn engines(&self) -> usize {
        self.engines.len()
    }

    /// Of each engine, one after the other: its devices in quarantine, and what it learnt.
    pub(super) fn learnt(&self) -> impl Iterator<Item = (Vec<u64>, Vec<u8>)> {
        self.engines.iter().map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (shard.quarantined.iter().copied().collect(), shard.engine.snapshot())
        })
    }

    /// The engine of this number learns again what one of its kind had learnt.
    pub(super) fn learn_again(
        &self,
        at: usize,
        learnt: &[u8],
        quarantined: Vec<u64>,
    ) -> Result<Restored, SnapshotError> {
        let shard = self.engines.get(at).ok_or(SnapshotError::Foreign)?;
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let restored = shard.engine.restore(learnt)?;
        let known = |key: &u64| shard.engine.stage(DeviceKey(*key)).is_some();
        shard.quarantined = quarantined.into_iter().filter(known).collect();
        Ok(restored)
    }

    pub(super) fn shard(&self, key: u64) -> Option<std::sync::MutexGuard<'_, Shard>> {
        let shard = self.engines.get(key as usize % ENGINES)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shard {
    fn new(settings: analyser::Settings) -> Self {
        Self { engine: Engine::new(settings), quarantined: HashSet::new() }
    }

    /// What the engine says. A quarantine that was enacted holds whatever the device does, until it is over.
    fn on(&mut self, event: &Event, device: u64) -> Said {
        let verdict = self.engine.on(event);
        let quarantined = verdict.would == Action::Quarantine && self.quarantined.contains(&device);
        Said { verdict, quarantined }
    }

    #[cfg(test)]
    pub(super) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    #[cfg(test)]
    pub(super) fn quarantine(&mut self, device: u64) {
        self.quarantined.insert(device);
    }

    /// Time passes: quarantines that are over are forgotten, whether or not their devices ever come back.
    fn tick(&mut self, now: Timestamp) -> Verdict {
        let Self { engine, quarantined } = self;
        quarantined.retain(|key| engine.is_quarantined(DeviceKey(*key), moment(now)));
        engine.on(&Event::Tick { t: moment(now) })
    }
}

/// What the analyser says of one event.
struct Said {
    verdict: Verdict,
    /// The device was sent into quarantine, and is still there.
    quarantined: bool,
}

/// Tells the analyser of one flow, and carries out what it says. A flow that is dropped before it was closed has come
/// to nothing.
pub(super) struct Watch<'a> {
    rooms: &'a Rooms,
    device: u64,
    flow: FlowKey,
    closed: bool,
}

impl<'a> Watch<'a> {
    /// A flow is allowed, or refused by policy. What it is refused for instead, or how long it must wait.
    pub(super) fn open(
        rooms: &'a Rooms,
        living: &Living,
        refused: bool,
        now: Timestamp,
    ) -> (Self, Result<Duration, Cut>) {
        let (facts, keys) = (&living.facts, &rooms.behaviour.keys);
        if rooms.behaviour.engines.is_empty() {
            return (Self { rooms, device: 0, flow: FlowKey(living.id.0), closed: true }, Ok(Duration::ZERO));
        }
        let (device, service) = (keys.device(facts.device.id.as_str()), facts.service.as_str());
        let watch = Self { rooms, device: device.0, flow: FlowKey(living.id.0), closed: false };
        let source = living.source.parse().ok().map(|a: std::net::SocketAddr| a.ip().to_string());
        let event = Event::Open {
            t: moment(now),
            began: moment(now),
            flow: watch.flow,
            device,
            target: Target {
                service: keys.service(service, 0, Carrier::Tcp),
                host: keys.host(service),
                declared: declared(rooms, facts),
                standing: if refused { Standing::Refused } else { Standing::Allowed },
                reach: Reach::Near,
                ..Target::default()
            },
            habit: Habit {
                source: source.map_or(0, |ip| keys.word(ip.as_bytes())),
                certificate_age_h: u16::MAX,
                ..Habit::default()
            },
        };
        let said = watch.tell(&event);
        let verdict = said.verdict;
        let answer = match permitted(rooms, &said, facts) {
            Action::Allow | Action::Throttle => Ok(Duration::ZERO),
            Action::Tarpit => Ok(tarpit(verdict.risk)),
            action => Err(enact(rooms, living, device.0, action, &verdict, now)),
        };
        (watch, answer)
    }

    /// So many bytes went this way. How long the flow must wait before the next.
    pub(super) fn moved(&self, living: &Living, way: Way, len: usize) -> Option<Duration> {
        if self.rooms.behaviour.engines.is_empty() {
            return None;
        }
        let t = moment(Timestamp::now());
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let said = self.tell(&Event::Chunk { t, flow: self.flow, way, len, first: None });
        match permitted(self.rooms, &said, &living.facts) {
            Action::Allow => None,
            Action::Throttle | Action::Tarpit => {
                Some(Duration::from_secs_f64(f64::from(len) / THROTTLED_BYTES_PER_S))
            }
            action => {
                let now = Timestamp::now();
                living.cut(enact(self.rooms, living, self.device, action, &said.verdict, now));
                None
            }
        }
    }

    /// The first bytes of one way, or an answer: before they go. Whether they may.
    fn heard(&self, living: &Living, way: Way, heard: Heard) -> bool {
        let (t, flow) = (moment(Timestamp::now()), self.flow);
        let event = match heard {
            Heard::First(first) => Event::Chunk { t, flow, way, len: 0, first: Some(first) },
            // Sizes and times are told by the chunks.
            Heard::Answer(request) => Event::Message { t, flow, request, bytes: [0, 0], latency_us: 0 },
        };
        let said = self.tell(&event);
        match permitted(self.rooms, &said, &living.facts) {
            // The next chunk that moves is slowed.
            Action::Allow | Action::Throttle | Action::Tarpit => true,
            action => {
                let now = Timestamp::now();
                living.cut(enact(self.rooms, living, self.device, action, &said.verdict, now));
                false
            }
        }
    }

    /// How the flow ended.
    pub(super) fn close(mut self, living: &Living, end: End) {
        self.closed = true;
        self.tell_end(end, [living.moved.up.all(), living.moved.down.all()]);
    }

    fn tell_end(&self, end: End, bytes: [u64; 2]) {
        let t = moment(Timestamp::now());
        self.tell(&Event::Close { t, flow: self.flow, end, bytes, chunks: [0, 0] });
    }

    fn tell(&self, event: &Event) -> Said {
        let nothing = || Said { verdict: Verdict::default(), quarantined: false };
        let shard = self.rooms.behaviour.shard(self.device);
        shard.map_or_else(nothing, |mut shard| shard.on(event, self.device))
    }
}

/// A watch that hears a relay.
pub(super) struct Heeding<'a> {
    pub(super) watch: &'a Watch<'a>,
    pub(super) living: &'a Living,
}

impl Listener for Heeding<'_> {
    fn moved(&self, way: Way, len: usize) -> Option<Duration> {
        self.watch.moved(self.living, way, len)
    }

    fn may_go(&self, talk: &mut Talk, way: Way, chunk: &[u8]) -> bool {
        let rooms = self.watch.rooms;
        if rooms.behaviour.engines.is_empty() {
            return true;
        }
        let heard = talk.hear(way, chunk, &rooms.behaviour.keys);
        heard.is_none_or(|heard| self.watch.heard(self.living, way, heard))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.closed {
            self.tell_end(End::Refused, [0, 0]);
        }
    }
}

/// Time passes: finds flows that dawdle. Once a second.
pub fn tick(rooms: &Rooms, now: Timestamp) {
    for shard in &rooms.behaviour.engines {
        let verdict = shard.lock().unwrap_or_else(PoisonError::into_inner).tick(now);
        let Some(why) = verdict.why else { continue };
        let Some(living) = rooms.table.get(FlowId(why.flow.0)) else { continue };
        let action = permitted(rooms, &Said { verdict, quarantined: false }, &living.facts);
        if action >= Action::Kill {
            living.cut(enact(rooms, &living, why.device.0, action, &verdict, now));
        }
    }
}

/// What may be done: what the analyser says, or less where `behaviour.toml` allows less.
fn permitted(rooms: &Rooms, said: &Said, facts: &Facts) -> Action {
    let verdict = &said.verdict;
    if verdict.would == Action::Allow {
        return Action::Allow;
    }
    let asked = match rooms.behaviour.mode {
        Mode::Enforce => verdict.action,
        Mode::Off | Mode::Observe => Action::Allow,
    };
    let bundle = rooms.policy.current();
    let most = bundle
        .behaviour()
        .map_or(0, |map| map.at_most(&facts.service, place(verdict.rule), verdict.band() as usize));
    let most = ACTIONS.get(most).copied().unwrap_or_default();
    let action = if said.quarantined { asked } else { asked.min(most) };
    if action == Action::Allow {
        let why = verdict.why.map(|why| why.to_string()).unwrap_or_default();
        tracing::debug!(device = %facts.device.id, service = %facts.service, would = verdict.would.name(), why, "strange behaviour, nothing is done");
    } else {
        rooms.metrics.behaviour_acted();
    }
    action
}

/// What the configuration says is spoken with a service of ours.
fn declared(rooms: &Rooms, facts: &Facts) -> Tongue {
    let ours = facts.session.direction == Direction::Inbound;
    let inbound = rooms.settings.inbound.iter().find(|inbound| ours && inbound.name == facts.service);
    inbound.map(|inbound| inbound.speaks).unwrap_or_default()
}

/// Carries out what goes beyond one flow, writes it down, and says how the flow itself ends.
fn enact(rooms: &Rooms, living: &Living, key: u64, action: Action, verdict: &Verdict, now: Timestamp) -> Cut {
    let why = verdict.why.map(|why| why.to_string()).unwrap_or_default();
    let reason = match action {
        Action::Quarantine => Reason::BehaviourQuarantined,
        _ => Reason::BehaviourBlocked,
    };
    let cut = Cut { reason, rule: verdict.rule.name().into(), detail: why.into() };
    let device = &living.facts.device.id;
    let fresh = match action {
        Action::Quarantine => rooms.behaviour.shard(key).is_some_and(|mut s| s.quarantined.insert(key)),
        Action::Prove => true,
        // The refusal or the end of the flow says it all.
        _ => false,
    };
    if !fresh {
        return cut;
    }
    let ended = match (action, living.arrived_on()) {
        // Whoever dialled proves its device again on the next session, and before that nothing passes.
        (Action::Prove, Some(session)) => {
            session.end(reason);
            rooms.table.cut_session(session.id, reason)
        }
        (Action::Quarantine, _) => rooms.table.judge_again(|other| {
            (other.facts.device.id == *device && other.id != living.id).then(|| cut.clone())
        }),
        _ => 0,
    };
    let mut entry = Entry::new(now, Kind::Block);
    entry.decision = Some(living.decision);
    entry.flow = Some(living.id);
    entry.direction = Some(living.facts.session.direction);
    entry.device = Some(device.clone());
    entry.service = Some(living.facts.service.clone());
    entry.reason = Some(reason);
    entry.rule = Some(cut.rule.clone());
    let more = if ended > 0 { format!("; {ended} more flows end") } else { String::new() };
    entry.detail = Some(format!("{}: {}{more}", action.name(), cut.detail).into());
    // A block stands whether or not it can be written; the log counts what it could not take.
    let _ = rooms.audit.append(entry);
    cut
}

impl Cut {
    /// The refusal of a flow that was never opened.
    pub(super) fn refusal(self, refusal: Refusal) -> Refusal {
        let mut refusal = refusal.rule(self.rule).detail(self.detail);
        refusal.retry_after = (self.reason == Reason::BehaviourQuarantined).then_some(QUARANTINE_RETRY);
        refusal
    }
}

/// How long a new flow is held: longer the riskier its device looks.
fn tarpit(risk: Risk) -> Duration {
    TARPIT * 2_u32.pow(u32::from(risk.level() / 25).min(TARPIT_DOUBLINGS))
}

/// The place of a rule among `policy::BEHAVIOUR_RULES`.
fn place(rule: Rule) -> usize {
    Rule::ALL.iter().position(|r| *r == rule).unwrap_or(usize::MAX)
}

fn moment(at: Timestamp) -> Moment {
    Moment(at.as_millis().saturating_mul(1000))
}

/// The actions in the order of `policy::BEHAVIOUR_ACTIONS`.
const ACTIONS: [Action; 6] =
    [Action::Allow, Action::Throttle, Action::Tarpit, Action::Kill, Action::Prove, Action::Quarantine];
/// Engines that devices are spread over.
pub(super) const ENGINES: usize = 16;
/// How often what was learnt is written.
const REMEMBER_EVERY: Duration = Duration::from_secs(300);
/// Steps in which policy hears of the risk.
const RISK_STEP: u8 = 10;
/// Bytes a second of a flow that is slowed down.
const THROTTLED_BYTES_PER_S: f64 = 1024.0 * 1024.0;
/// The shortest wait of a new flow of a device in the tarpit.
const TARPIT: Duration = Duration::from_millis(250);
/// How often that doubles at most: 2 s.
const TARPIT_DOUBLINGS: u32 = 3;
/// When a device in quarantine may try again.
const QUARANTINE_RETRY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyser::Band;
    use crate::policy::{BEHAVIOUR_ACTIONS, BEHAVIOUR_BANDS, BEHAVIOUR_RULES};

    #[test]
    fn policy_and_analyser_use_the_same_words_in_the_same_order() {
        assert_eq!(BEHAVIOUR_RULES, Rule::ALL.map(Rule::name));
        assert_eq!(BEHAVIOUR_ACTIONS, ACTIONS.map(Action::name));
        let bands = [Band::Low, Band::Medium, Band::High, Band::Critical];
        assert_eq!(BEHAVIOUR_BANDS, bands.map(Band::name));
        assert_eq!([0, 1, 2, 3], bands.map(|b| b as usize));
        assert!(ACTIONS.is_sorted());
    }

    #[test]
    fn a_new_flow_waits_longer_the_riskier_its_device_and_never_long() {
        let waits = [0, 24, 25, 50, 75, 100].map(|level| tarpit(Risk::new(level)).as_millis());
        assert_eq!(waits, [250, 250, 500, 1000, 2000, 2000]);
    }

    #[test]
    fn what_is_off_holds_no_engine_and_says_nothing() {
        let off = Behaviour::new(&Settings { mode: Mode::Off, ..Settings::default() }, [1, 2]);
        assert!(off.engines.is_empty());
        let id = "spiffe://example.org/device/a".parse().unwrap();
        assert_eq!((off.risk(&id), off.counted()), (Risk::default(), Counted::default()));
    }

    #[test]
    fn a_quarantine_that_is_over_is_not_counted_whether_or_not_the_device_comes_back() {
        let behaviour = Behaviour::new(&Settings::default(), [1, 2]);
        behaviour.shard(7).unwrap().quarantined.insert(7);
        assert_eq!(behaviour.counted().quarantined, 1);
        behaviour.shard(7).unwrap().tick(Timestamp::from_secs(1_800_000_000));
        assert_eq!(behaviour.counted().quarantined, 0);
    }
}
