//! The engine: events in, verdicts out; the same events give the same verdicts, on any machine.

use super::decay::Count;
use super::device::Device;
use super::event::{
    Both, Carrier, DeviceKey, End, Event, First, FlowKey, Habit, Moment, Reach, Request, Standing, Target,
    Tongue, Way,
};
use super::features::{FEATURES, Novelty, features};
use super::flow::Flow;
use super::limits::{AT_LIMIT, Reached, tail};
use super::loda::{Model, Projections};
use super::settings::Settings;
use super::sketch::Known;
use super::table::Table;
use super::usage::Usage;
use super::verdict::{Action, Band, Rule, Stage, Unit, Verdict, Why};
use crate::model::Risk;

/// All that is known of all devices.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) settings: Settings,
    pub(super) without: u16,
    pub(super) flows: Table<Flow>,
    pub(super) devices: Table<Box<Device>>,
    pub(super) roles: Vec<Model>,
    pub(super) usage: Usage,
    pub(super) projections: Projections,
    pub(super) meters: Meters,
    last_vector: [f32; FEATURES],
    /// When quarantined devices were last counted.
    pub(super) counted: Moment,
}

/// What the engine counted of itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Meters {
    /// Checkpoints of devices that are past learning.
    pub judged: u64,
    /// Of these: would have been acted on.
    pub would: u64,
    /// Of these: were acted on.
    pub acted: u64,
    /// Devices in quarantine now.
    pub quarantined: u32,
    /// Quarantines that the valve held back.
    pub held: u64,
}

impl Engine {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        let without = settings.without.iter().fold(0, |bits, r| bits | (1 << *r as u16));
        Self {
            without,
            flows: Table::new(settings.flows_max),
            devices: Table::new(settings.devices_max),
            roles: vec![Model::new()],
            usage: Usage::new(),
            projections: Projections::new(),
            meters: Meters::default(),
            last_vector: [0.0; FEATURES],
            counted: Moment(0),
            settings,
        }
    }

    /// Hears one event.
    pub fn on(&mut self, event: &Event) -> Verdict {
        match *event {
            Event::Open { t, began, flow, device, target, habit } => {
                self.open(t, began, flow, device, target, habit)
            }
            Event::Chunk { t, flow, way, len, first } => self.chunk(t, flow, way, len, first),
            Event::Message { t, flow, request, bytes, .. } => self.message(t, flow, request, bytes),
            Event::Close { t, flow, end, bytes, chunks } => self.close(t, flow, end, bytes, chunks),
            Event::Tick { t } => self.tick(t),
        }
    }

    /// What the engine counted of itself.
    pub fn meters(&self) -> Meters {
        self.meters
    }

    /// The features of the last checkpoint, for training a prior.
    pub fn last_vector(&self) -> &[f32; FEATURES] {
        &self.last_vector
    }

    /// How many flows and devices had to make room for others.
    pub fn evicted(&self) -> (u64, u64) {
        (self.flows.evicted(), self.devices.evicted())
    }

    /// How many flows and devices are held.
    pub fn held(&self) -> (usize, usize) {
        (self.flows.len(), self.devices.len())
    }

    /// How far a device is known; none if it never was heard of.
    pub fn stage(&self, device: DeviceKey) -> Option<Stage> {
        self.devices.get(device.0).map(|d| d.stage)
    }

    /// Whether the device is in quarantine at `now`.
    pub fn is_quarantined(&self, device: DeviceKey, now: Moment) -> bool {
        self.devices.get(device.0).is_some_and(|d| d.ladder.is_quarantined(now))
    }

    /// How risky the device looked when it was last judged.
    pub fn risk(&self, device: DeviceKey) -> Risk {
        self.devices.get(device.0).map_or_else(Risk::default, |d| Risk::new((d.evidence.log * 10.0) as u8))
    }

    /// A person says that the device is all right: it leaves quarantine, and its strikes and evidence are forgotten.
    pub fn release(&mut self, device: DeviceKey) {
        if let Some(device) = self.devices.get_mut(device.0) {
            device.ladder.release();
            device.evidence = Default::default();
        }
    }

    fn open(
        &mut self,
        t: Moment,
        began: Moment,
        flow_key: FlowKey,
        key: DeviceKey,
        target: Target,
        habit: Habit,
    ) -> Verdict {
        if self.devices.get(key.0).is_none() {
            let new = Box::new(Device::new(t, 0));
            self.devices.insert(key.0, new, |d| (d.evidence.log, d.counters.at));
        }
        let Some(device) = self.devices.get_mut(key.0) else { return Verdict::default() };
        device.counters.advance(t);
        promote(device, &self.settings, t);
        let reached = stranger(device, habit, t);
        let unit = unit(t);
        let since = device.services.since(target.service.0);
        let mut flow = Flow::new(key, target, began, t);
        flow.fresh = since.is_none() && target.reach != Reach::Many;
        flow.young = target.reach != Reach::Many && since.is_none_or(|s| is_young(device, s, unit));
        // A new replica, or a new version of one, goes where the others go.
        let follows = target.standing == Standing::Allowed
            && device.is_newcomer(t)
            && self.usage.has(target.service, key);
        flow.young &= !follows;
        let strictness = if device.stage == Stage::Learn { HARD } else { 1.0 };
        flow.busy_limits = device.usual.busy(self.without, strictness);
        device.counters.add(Count::Opens, 1.0);
        if flow.fresh {
            device.counters.add(Count::Fresh, 1.0);
            if target.standing == Standing::Allowed && !follows {
                device.counters.add(Count::FreshAllowed, 1.0);
            }
            if device.is_away(habit) {
                device.counters.add(Count::FreshAway, 1.0);
            }
            // What the others use is nothing young to who follows them.
            let since = if follows { unit.wrapping_sub(YOUNG_UNITS) } else { unit };
            device.services.set(target.service.0, since);
        }
        if flow.young {
            device.counters.add(Count::Young, 1.0);
        }
        let verdict = self.checkpoint(t, flow_key, &mut flow, None, reached);
        flow.worst = flow.worst.max(verdict.score);
        self.flows.insert(flow_key.0, flow, |f| (f.worst, f.last));
        verdict
    }

    fn chunk(&mut self, t: Moment, key: FlowKey, way: Way, len: u32, first: Option<First>) -> Verdict {
        let Some(flow) = self.flows.get_mut(key.0) else { return Verdict::default() };
        if let (Some(bytes), Some(chunks)) =
            (flow.bytes.get_mut(way as usize), flow.chunks.get_mut(way as usize))
        {
            *bytes = bytes.saturating_add(u64::from(len));
            *chunks = chunks.saturating_add(1);
        }
        flow.last = t;
        let mut is_over = false;
        match way {
            Way::Out => {
                flow.gap(t);
                is_over = flow.ask(t, len);
            }
            Way::In => flow.is_asking = false,
        }
        let mut reached = Reached::default();
        if let Some(first) = first {
            if let Some(place) = flow.first.get_mut(way as usize) {
                *place = Some(first);
            }
            let declared = match flow.target.declared {
                Tongue::Unknown => usual_tongue(self.devices.get(flow.device.0).map(|d| &**d), flow, way),
                declared => declared,
            };
            reached = mismatch(declared, way, first);
        }
        if !flow.is_due(t) && !is_over && reached.score == 0.0 {
            return Verdict::default();
        }
        self.revisit(t, key, None, reached)
    }

    fn message(&mut self, t: Moment, key: FlowKey, request: Request, _bytes: Both<u32>) -> Verdict {
        let Some(flow) = self.flows.get_mut(key.0) else { return Verdict::default() };
        flow.requests = flow.requests.saturating_add(1);
        if let Request::Mqtt { packet, .. } = request {
            flow.useful |= !matches!(packet, MQTT_CONNECT | MQTT_CONNACK | MQTT_DISCONNECT);
            // What is published is not answered.
            flow.exchange(t);
        }
        let Some(device) = self.devices.get_mut(flow.device.0) else { return Verdict::default() };
        device.counters.advance(t);
        device.counters.add(Count::Requests, 1.0);
        let (login, error, word) = match request {
            Request::Http { method, path, status } => {
                (matches!(status, 401 | 403 | 407), status >= 400, method ^ path)
            }
            Request::Grpc { method, code } => (matches!(code, 7 | 16), code != 0, method),
            Request::Mqtt { topic, reason, wildcards, .. } => {
                // A filter with wildcards reaches as many topics again.
                device.counters.add(Count::FreshWords, f32::from(wildcards));
                (matches!(reason, 0x84..=0x87 | 0x8c), reason >= 0x80, topic)
            }
        };
        if login {
            device.counters.add(Count::Logins, 1.0);
        }
        if error {
            device.counters.add(Count::Errors, 1.0);
        }
        if matches!(request, Request::Mqtt { reason: MQTT_MALFORMED | MQTT_PROTOCOL_ERROR, .. }) {
            device.counters.add(Count::Failures, 1.0);
        }
        if word != 0 && device.words.add(u64::from(word)) {
            device.counters.add(Count::FreshWords, 1.0);
        }
        self.revisit(t, key, None, Reached::default())
    }

    fn close(&mut self, t: Moment, key: FlowKey, end: End, bytes: Both<u64>, chunks: Both<u32>) -> Verdict {
        let Some(flow) = self.flows.get_mut(key.0) else { return Verdict::default() };
        flow.last = t;
        for (mine, all) in flow.bytes.iter_mut().zip(bytes) {
            *mine = (*mine).max(all);
        }
        for (mine, all) in flow.chunks.iter_mut().zip(chunks) {
            *mine = (*mine).max(all);
        }
        let verdict = self.revisit(t, key, Some(end), Reached::default());
        self.flows.remove(key.0);
        verdict
    }

    fn tick(&mut self, t: Moment) -> Verdict {
        let mut slow: Option<FlowKey> = None;
        let mut found = [None; SLOW_PER_TICK];
        let mut places = found.iter_mut();
        self.flows.sweep(SWEEP, |key, flow| {
            if !flow.unfinished
                && flow.is_unfinished(t)
                && let Some(place) = places.next()
            {
                flow.unfinished = true;
                *place = Some((FlowKey(key), flow.device));
            }
        });
        for (key, device) in found.into_iter().flatten() {
            if let Some(device) = self.devices.get_mut(device.0) {
                device.counters.advance(t);
                device.counters.add(Count::Unfinished, 1.0);
                slow = Some(key);
            }
        }
        if self.meters.quarantined > 0 {
            self.recount(t);
        }
        slow.map_or_else(Verdict::default, |key| self.revisit(t, key, None, Reached::default()))
    }

    /// Counts the devices that are quarantined now, at most once a second.
    fn recount(&mut self, t: Moment) {
        if t.since(self.counted) >= 1_000_000 || t < self.counted {
            self.counted = t;
            let quarantined = self.devices.iter().filter(|(_, d)| d.ladder.is_quarantined(t)).count();
            self.meters.quarantined = u32::try_from(quarantined).unwrap_or(u32::MAX);
        }
    }

    /// A checkpoint of a flow in the table.
    fn revisit(&mut self, t: Moment, key: FlowKey, end: Option<End>, reached: Reached) -> Verdict {
        let Some(flow) = self.flows.get(key.0) else { return Verdict::default() };
        let mut flow = *flow;
        let verdict = self.checkpoint(t, key, &mut flow, end, reached);
        flow.worst = flow.worst.max(verdict.score);
        if let Some(place) = self.flows.get_mut(key.0) {
            *place = flow;
        }
        verdict
    }

    fn checkpoint(
        &mut self,
        t: Moment,
        key: FlowKey,
        flow: &mut Flow,
        end: Option<End>,
        special: Reached,
    ) -> Verdict {
        let Some(device) = self.devices.get_mut(flow.device.0) else { return Verdict::default() };
        device.counters.advance(t);
        let now = device.counters.at;
        tell(device, flow, end);
        let service = flow.target.service;
        let young = flow.young;
        let novelty = Novelty {
            service: flow.fresh,
            host: device.hosts.since(u64::from(flow.target.host)).is_none(),
            port: device.ports.since(u64::from(flow.target.port)).is_none(),
        };

        // Named limits.
        let [out, _] = flow.bytes;
        let known = device.relations.iter().find(|r| r.count > 0 && r.service == service);
        let moved = out as f32 + known.map_or(0.0, |r| r.out_by(flow.began));
        let sends = known.map_or_else(Reached::default, |r| sending(r, flow, moved));
        device.counters.set(Count::Busy, flow.busiest);
        let strictness = if device.stage == Stage::Learn { HARD } else { 1.0 };
        let mut worst = device.usual.judge(&device.counters, moved, self.without, strictness);
        device.counters.settle();
        let mut consider = |reached: Reached| {
            let off = self.without & (1 << reached.rule as u16) != 0;
            if !off && reached.score > worst.score {
                worst = reached;
            }
        };
        consider(special);
        consider(rhythm(flow));
        consider(even(flow));
        consider(sends);
        let mut vector = None;
        if let Some(end) = end {
            let relation = device.relations.iter().find(|r| r.count > 0 && r.service == service).copied();
            vector = Some(features(
                flow,
                Some(end),
                &device.counters,
                relation.as_ref(),
                device.last_open,
                novelty,
                now,
            ));
            if let Some(relation) = device.relation(service, flow.target.port, now) {
                relation.add(flow.began, flow.bytes);
                let relation = *relation;
                consider(flip(&relation));
                if young && device.stage != Stage::Learn {
                    consider(beacon(device, &relation));
                }
            }
            device.last_open = device.last_open.max(flow.began);
        }
        worst.score -= LIMITS_SHARE;

        // Generic and prior.
        let model = self.roles.get_mut(usize::from(device.role));
        let mut weak = Reached::default();
        let mut normal = None;
        if let (Some(vector), Some(model)) = (&vector, &model) {
            self.last_vector = *vector;
            let mut off = [0.0; FEATURES];
            for (at, ((o, x), offset)) in off.iter_mut().zip(vector).zip(&device.offsets).enumerate() {
                *o = offset.off(*x, at);
            }
            let surprise = 3.0 * model.score(&self.projections, &off);
            let score = device.generic.score(surprise) - GENERIC_SHARE;
            let odds = self.settings.prior.as_ref().and_then(|p| p.odds(vector));
            let prior = odds.map_or(0.0, |o| device.prior.score(o)) - PRIOR_SHARE;
            let on = |rule: Rule| self.without & (1 << rule as u16) == 0;
            for (rule, score, value) in
                [(Rule::Generic, score, surprise), (Rule::Prior, prior, odds.unwrap_or(0.0))]
            {
                if on(rule) && score > weak.score {
                    weak = Reached { rule, score, value, measure: "strangeness", unit: Unit::Plain, ..weak };
                }
            }
            normal = Some(Normal { vector: *vector, off, surprise, odds });
        }

        let at_alpha = -self.settings.alpha.log10();
        let single = worst.score.max(weak.score);
        if end.is_some() && device.stage != Stage::Learn {
            device.evidence.add(single, now);
        }
        // The generic scorers do not block by one flow alone: what they say must gather.
        let mut decided = worst;
        if weak.score > worst.score && worst.score < at_alpha {
            decided = weak;
            // On known ground they only raise the risk.
            let gathered =
                if young && device.is_uniform() { device.evidence.log.min(weak.score + 3.0) } else { 0.0 };
            decided.score = weak.score.min(at_alpha - 0.5).max(gathered);
        }
        decided.score = decided.score.clamp(0.0, Verdict::SCORE_MAX);

        let would = decided.score >= at_alpha;
        let weakly = matches!(decided.rule, Rule::Generic | Rule::Prior);
        let mut verdict =
            Verdict { rule: decided.rule, score: decided.score, stage: device.stage, ..Verdict::default() };
        if device.stage == Stage::Learn {
            if !would {
                learn(device, model, &self.projections, normal, flow, hour(now));
                device.usual.learn(&device.counters, device.checkpoints);
                if end.is_some() && !young {
                    self.usage.add(service, flow.device);
                }
            }
        } else {
            self.meters.judged += 1;
            device.judged += 1.0;
            device.strange += if weak.score > GATE { 1.0 } else { 0.0 };
            if would {
                self.meters.would += 1;
                device.would += if weakly { 1.0 } else { 0.0 };
            } else if single < GATE {
                learn(device, model, &self.projections, normal, flow, hour(now));
                device.usual.drift(&device.counters, hour(now));
                if end.is_some() && !young {
                    self.usage.add(service, flow.device);
                }
            }
        }
        device.checkpoints = device.checkpoints.saturating_add(1);
        device.hosts.set_if_new(u64::from(flow.target.host), unit(now));
        device.ports.set_if_new(u64::from(flow.target.port), unit(now));
        device.hours |= 1 << (hour(now) % 24);

        if would || verdict.score > NOTABLE {
            verdict.why = Some(Why {
                rule: decided.rule,
                measure: decided.measure,
                unit: decided.unit,
                value: f64::from(decided.value),
                limit: f64::from(decided.limit),
                usual: f64::from(decided.usual),
                device: flow.device,
                flow: key,
                service,
                new_service: flow.young,
                evidence: device.evidence.signs,
                score: decided.score,
            });
        }
        if verdict.score < NOTABLE {
            verdict.rule = Rule::None;
        }
        let trusted = !weakly || device.would <= WOULD_MAX;
        if would && device.stage != Stage::Learn && trusted {
            let most = ((self.devices.len() as f32 * VALVE_SHARE) as u32).max(1);
            if self.meters.quarantined >= most {
                self.recount(now);
            }
            let Some(device) = self.devices.get_mut(flow.device.0) else { return verdict };
            let open = self.meters.quarantined < most;
            let was = device.ladder.is_quarantined(now);
            verdict.would = device.ladder.strike(decided.rule, Band::of(decided.score), now, open);
            if verdict.would == Action::Quarantine && !was {
                self.meters.quarantined += 1;
            }
            if !open {
                self.meters.held += 1;
            }
        }
        if let Some(device) = self.devices.get(flow.device.0) {
            if device.ladder.is_quarantined(now) {
                verdict.would = Action::Quarantine;
            }
            if device.stage == Stage::Enforce {
                verdict.action = verdict.would;
                self.meters.acted += u64::from(verdict.action != Action::Allow);
            }
            verdict.risk = Risk::new((decided.score.max(device.evidence.log) * 10.0) as u8);
        }
        verdict
    }
}

/// What the generic scorers made of a checkpoint.
struct Normal {
    vector: [f32; FEATURES],
    off: [f32; FEATURES],
    surprise: f32,
    odds: Option<f32>,
}

/// Tells the device's counters what a flow has moved and how it ended.
fn tell(device: &mut Device, flow: &mut Flow, end: Option<End>) {
    let [out, back] = flow.bytes;
    let [told_out, told_back] = flow.told;
    let (new_out, new_back) = (out.saturating_sub(told_out) as f32, back.saturating_sub(told_back) as f32);
    flow.told = flow.bytes;
    device.counters.add(Count::Out, new_out);
    device.counters.add(Count::In, new_back);
    if flow.young {
        device.counters.add(Count::YoungOut, new_out);
    }
    let Some(end) = end else { return };
    // Datagrams that nobody answers have failed, too; those to many never get an answer.
    let silent = flow.target.carrier == Carrier::Udp && back == 0 && out > 0;
    let failed =
        (end.failed() || (end == End::Reset && back == 0) || silent) && flow.target.reach != Reach::Many;
    if failed || end == End::Reset {
        device.counters.add(Count::Failures, if end.failed() { 1.0 } else { 0.5 });
    }
    if failed {
        if flow.fresh || flow.target.standing == Standing::Refused {
            device.counters.add(Count::FreshFailures, 1.0);
        }
        if flow.young {
            device.counters.add(Count::YoungFailures, 1.0);
        }
    }
    // A broker that answers a connect and nothing more has refused it: an accepted client goes on to subscribe or publish.
    let barren = flow.target.declared == Tongue::Mqtt
        && !flow.useful
        && (flow.requests > 0
            || (out > 0 && out <= MQTT_CONNECT_ONLY && back > 0 && back <= MQTT_CONNACK_ONLY));
    if barren {
        device.counters.add(Count::Logins, 1.0);
    }
}

fn learn(
    device: &mut Device,
    model: Option<&mut Model>,
    projections: &Projections,
    normal: Option<Normal>,
    flow: &Flow,
    hour: u32,
) {
    let (Some(Normal { vector, off, surprise, odds }), Some(model)) = (normal, model) else { return };
    // Only flows that ended: what a suspect left in the relation must not be learnt when its next one opens.
    let service = flow.target.service;
    if !flow.young
        && let Some(relation) = device.relations.iter_mut().find(|r| r.count > 0 && r.service == service)
    {
        relation.learn(device.stage == Stage::Learn, hour);
        relation.learn_tongues(flow.first);
    }
    model.add(projections, &off);
    if device.stage == Stage::Learn && model.total > MODEL_MIN {
        device.generic.add(surprise);
        if let Some(odds) = odds {
            device.prior.add(odds);
        }
    }
    for (at, (offset, x)) in device.offsets.iter_mut().zip(vector).enumerate() {
        offset.learn(x, device.checkpoints, at);
    }
}

/// Moves a device from learning to shadow to enforcing when it has earned it.
fn promote(device: &mut Device, settings: &Settings, now: Moment) {
    let next = match (device.stage, settings.learn_until) {
        (Stage::Learn, Some(until)) if now >= until => Stage::Enforce,
        (stage, Some(_)) => stage,
        (Stage::Learn, None)
            if now.since(device.born) >= settings.learn_min.as_micros() as u64
                && device.checkpoints >= settings.learn_checkpoints_min
                && device.hours.count_ones() >= 3 =>
        {
            Stage::Shadow
        }
        (Stage::Shadow, None) if device.judged >= SHADOW_MIN && device.would < device.judged * 1e-4 => {
            Stage::Enforce
        }
        (stage, None) => stage,
    };
    if device.stage == Stage::Learn && next != Stage::Learn {
        device.usual.settle(hour(now));
        device.settled = Some(unit(now));
        device.judged = 0.0;
        device.would = 0.0;
        device.strange = 0.0;
    }
    if now.since(device.halved) >= DAY_US {
        device.halved = now;
        for figure in [&mut device.judged, &mut device.would, &mut device.strange] {
            *figure /= 2.0;
        }
    }
    device.stage = next;
}

/// Whether a service first seen at `since` is young at `unit`: seen for less than four hours, and not while learning.
fn is_young(device: &Device, since: u16, unit: u16) -> bool {
    since == Known::<1>::DOUBTFUL
        || (unit.wrapping_sub(since) < YOUNG_UNITS
            && device.settled.is_none_or(|s| unit.wrapping_sub(since) <= unit.wrapping_sub(s)))
}

/// How much the caller's end differs from what is known of the device. A certificate made since the device was last heard
/// makes it the device's own doing: a new version of it, somewhere else. A thief has the old one.
fn stranger(device: &mut Device, habit: Habit, t: Moment) -> Reached {
    let differs = |known: u32, now: u32| known != 0 && now != 0 && known != now;
    let (stack, source) = (differs(device.stack, habit.stack), differs(device.source, habit.source));
    let silent_h = t.since(device.last_open) / HOUR_US;
    let is_renewed = habit.certificate_age_h != u16::MAX && u64::from(habit.certificate_age_h) <= silent_h;
    let moved_out = source && t.since(device.at_home) > MOVED_US;
    if (stack || source) && is_renewed {
        device.reborn = t;
    }
    let is_new = device.stage == Stage::Learn || (device.stack == 0 && device.source == 0);
    if is_new || is_renewed || (moved_out && !stack) {
        device.stack = habit.stack;
        device.source = habit.source;
    }
    if !device.is_away(habit) {
        device.at_home = t;
    }
    if habit.source != 0 {
        if differs(device.last_source, habit.source) && !is_renewed {
            device.counters.add(Count::Moves, 1.0);
        }
        device.last_source = habit.source;
    }
    if device.stage == Stage::Learn || is_renewed {
        return Reached::default();
    }
    let score = match (stack, source) {
        (true, true) => AT_LIMIT + 0.2,
        (true, false) | (false, true) => 2.5,
        (false, false) => 0.0,
    };
    Reached { score, rule: Rule::Stranger, measure: "changed_habits", value: score, ..Reached::default() }
}

/// What the device has always spoken with the service this way, once it has done so often enough.
fn usual_tongue(device: Option<&Device>, flow: &Flow, way: Way) -> Tongue {
    let known = device.and_then(|d| d.relations.iter().find(|r| r.service == flow.target.service));
    let learnt = known.filter(|r| r.learnt >= TONGUE_LEARNT_MIN);
    learnt.and_then(|r| r.spoken.get(way as usize)).copied().unwrap_or_default()
}

/// Another protocol than declared. HTTP/1 and HTTP/2 are one family.
fn mismatch(declared: Tongue, way: Way, first: First) -> Reached {
    use Tongue::{Binary, Http, Http2, Mysql, Random, Text, Unknown};
    let family = |t| if t == Http2 { Http } else { t };
    let vague = |t| matches!(t, Unknown | Text | Binary | Random);
    let score = match (family(declared), family(first.tongue)) {
        (d, s) if d == s || vague(d) || s == Unknown => 0.0,
        // Of most protocols only the caller's first bytes can be told; of MySQL the server's, which speaks first.
        (d, s) if vague(s) && (way == Way::In || d == Mysql) => 0.0,
        (_, s) if vague(s) => 3.5,
        _ => AT_LIMIT + 1.0,
    };
    Reached {
        score,
        rule: Rule::Mismatch,
        measure: "spoken_tongue",
        value: first.tongue as u8 as f32,
        ..Reached::default()
    }
}

/// A rhythm inside one long flow to a service that is young.
fn rhythm(flow: &Flow) -> Reached {
    if !flow.young {
        return Reached::default();
    }
    let (gaps, spread) = (flow.gaps.count, flow.gaps.deviation());
    let score = if gaps >= RHYTHM_GAPS && spread <= RHYTHM_SPREAD {
        3.0 + gaps as f32 * 0.2 * (1.0 - spread)
    } else {
        0.0
    };
    Reached {
        score,
        rule: Rule::Beacon,
        measure: "gaps_alike_in_flow",
        unit: Unit::Count,
        value: gaps as f32,
        limit: 12.0,
        usual: 0.0,
    }
}

/// Both sides of a young flow say as much as each other, in pieces of one size.
fn even(flow: &Flow) -> Reached {
    if !flow.young || flow.turns < EVEN_TURNS || !flow.is_even() {
        return Reached::default();
    }
    Reached {
        score: 3.0 + flow.turns as f32 / 10.0,
        rule: Rule::Mismatch,
        measure: "even_exchanges",
        value: flow.turns as f32,
        limit: 10.0 * (AT_LIMIT - 3.0),
        ..Reached::default()
    }
}

/// A relation that sends far more in ten minutes than it ever did. `moved`: bytes out in them, this flow's with them.
fn sending(relation: &super::relation::Relation, flow: &Flow, moved: f32) -> Reached {
    if relation.learnt < FLIP_LEARNT_MIN || flow.young {
        return Reached::default();
    }
    let scale = (SENDING_BYTES / SENDING_FACTOR).max(relation.usual_out);
    Reached {
        score: tail(moved, scale, SENDING_FACTOR),
        rule: Rule::Exfil,
        measure: "bytes_out_of_relation_10m",
        unit: Unit::Bytes,
        value: moved,
        limit: scale * SENDING_FACTOR,
        usual: relation.usual_out,
    }
}

/// A relation that used to fetch and now sends.
fn flip(relation: &super::relation::Relation) -> Reached {
    let [out, _] = relation.recent;
    let share = relation.out_share_now();
    if relation.learnt < FLIP_LEARNT_MIN || share < FLIP_SHARE || relation.out_share > share - 0.3 {
        return Reached::default();
    }
    Reached {
        score: tail(out, FLIP_BYTES / 3.0, 3.0),
        rule: Rule::Flip,
        measure: "bytes_out_of_a_fetching_relation_10m",
        unit: Unit::Bytes,
        value: out,
        limit: FLIP_BYTES,
        usual: 0.0,
    }
}

/// Regular contacts with a young service, unless an old errand merely moved.
fn beacon(device: &Device, relation: &super::relation::Relation) -> Reached {
    let regular = relation.regular();
    if regular.score < AT_LIMIT {
        return Reached {
            score: regular.score.min(4.0),
            rule: Rule::Beacon,
            measure: "period",
            unit: Unit::Seconds,
            value: regular.period_s,
            ..Reached::default()
        };
    }
    let now = unit(device.counters.at);
    let old = |r: &&super::relation::Relation| {
        r.service != relation.service
            && device.services.since(r.service.0).is_some_and(|s| !is_young(device, s, now))
    };
    if device.relations.iter().filter(old).any(|r| r.is_like(relation.port, &regular)) {
        return Reached::default();
    }
    Reached {
        score: regular.score,
        rule: Rule::Beacon,
        measure: "period",
        unit: Unit::Seconds,
        value: regular.period_s,
        limit: 0.0,
        usual: 0.0,
    }
}

/// Ten minutes since the epoch, cut to 16 bits: comes round after 455 days.
fn unit(t: Moment) -> u16 {
    (t.0 / 600_000_000) as u16
}

fn hour(t: Moment) -> u32 {
    (t.0 / 3_600_000_000) as u32
}

const YOUNG_UNITS: u16 = 24;
/// Floors are this much higher while a device is being learnt.
const HARD: f32 = 5.0;
/// −log10 of each detector's share of alpha: 50, 30 and 20 %.
const LIMITS_SHARE: f32 = 0.301;
const GENERIC_SHARE: f32 = 0.523;
const PRIOR_SHARE: f32 = 0.699;
/// Scores from which on nothing is learnt: p < 0.01.
const GATE: f32 = 2.0;
const NOTABLE: f32 = 2.0;
/// More would-blocks of the generic scorers than this in a day, and they fall back to shadow for this device.
const WOULD_MAX: f32 = 5.0;
const DAY_US: u64 = 86_400_000_000;
const SHADOW_MIN: f32 = 2000.0;
const VALVE_SHARE: f32 = 0.05;
const MODEL_MIN: u32 = 200;
const HOUR_US: u64 = 3_600_000_000;
/// After so long away from where it was known a device has moved.
const MOVED_US: u64 = HOUR_US;
const RHYTHM_GAPS: u32 = 10;
/// Standard deviation of the logarithm: jitter of 40 % has 0.24, chance gaps over 0.8.
const RHYTHM_SPREAD: f32 = 0.35;
const TONGUE_LEARNT_MIN: u32 = 20;
const EVEN_TURNS: u32 = 16;
/// What any known relation may send in ten minutes.
const SENDING_BYTES: f32 = 6e6;
const SENDING_FACTOR: f32 = 5.0;
const FLIP_LEARNT_MIN: u32 = 20;
const FLIP_SHARE: f32 = 0.8;
const FLIP_BYTES: f32 = 2e6;
/// Packet types and reason codes of MQTT 5.0 (§2.1.2, §2.4).
const MQTT_CONNECT: u8 = 1;
const MQTT_CONNACK: u8 = 2;
const MQTT_DISCONNECT: u8 = 14;
const MQTT_MALFORMED: u8 = 0x81;
const MQTT_PROTOCOL_ERROR: u8 = 0x82;
/// The longest CONNECT without a will, a long client id or a token, and the longest CONNACK without properties
/// (MQTT 3.1.1 §3.1, §3.2).
const MQTT_CONNECT_ONLY: u64 = 30;
const MQTT_CONNACK_ONLY: u64 = 5;
const SLOW_PER_TICK: usize = 64;
const SWEEP: usize = 8192;
