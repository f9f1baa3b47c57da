//! Appraises evidence: is this the device that was enrolled, how surely, and for how long may it be taken for it?

use std::fmt;
use std::time::Duration;

use super::record::{CLOCK_SKEW_MAX, Profile, Record, Status, digest_of};
use super::settings::Thresholds;
use super::{Claims, Class, Component};
use crate::model::{Reason, Score, SpiffeId, Tier, Timestamp};

/// Who the handshake proved the prover to be.
#[derive(Clone, Copy, Debug)]
pub struct Anchor<'a> {
    /// The SPIFFE ID of its leaf.
    pub id: &'a SpiffeId,
    /// SHA-256 of the keys proven on this session: the handshake's leaf, and a renewed one.
    pub proven: &'a [[u8; 32]],
}

/// What the verifier remembers of this device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct History {
    /// When it was last seen to have drifted.
    pub drift_last: Option<Timestamp>,
}

/// What the verifier thinks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Appraisal {
    /// The same device, or not.
    pub verdict: Verdict,
    /// What it may be taken for.
    pub tier: Tier,
    /// How much of the baseline matches.
    pub score: Score,
    /// Each component of the baseline.
    pub components: Vec<(Component, State)>,
    /// Whether the change is of the kind that the baseline may follow by itself.
    pub follows: bool,
    record_expires_at: Timestamp,
}

/// Whether it is the same device.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// It is.
    Match,
    /// It is, with changes that someone should look at: a short lease.
    Drift,
    /// Nobody can tell: no lease until someone approves it.
    Quarantine,
}

/// How one component compares with the baseline.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// As it was.
    Same,
    /// Other than it was, or a set that is not whole.
    Changed,
    /// Not presented; weighs as much as a change.
    Absent,
}

/// Compares `claims` with what the authority has on `record`.
///
/// # Errors
/// The [`Reason`] to refuse with: `RecordInvalid`, `RecordExpired`, `DeviceRevoked` or `EvidenceStale`.
pub fn appraise(
    claims: &Claims,
    record: &Record,
    anchor: &Anchor<'_>,
    thresholds: &Thresholds,
    history: &History,
    now: Timestamp,
) -> Result<Appraisal, Reason> {
    record.check(anchor.id, anchor.proven, now)?;
    if now.since(claims.issued_at).max(claims.issued_at.since(now)) > CLOCK_SKEW_MAX {
        return Err(Reason::EvidenceStale);
    }
    let mut components = Vec::new();
    let (mut same, mut whole) = (0, 0);
    for (component, baseline) in &record.baseline {
        let (state, permille) = compare(claims, *component, baseline);
        let weight = u64::from(thresholds.weights.of(*component));
        same += weight * permille;
        whole += weight * 1000;
        components.push((*component, state));
    }
    // A baseline that weighs nothing says nothing.
    let percent = (same * 100).checked_div(whole).unwrap_or(0);
    let score = Score::from_percent(u8::try_from(percent).unwrap_or(0));
    let verdict = verdict(record, thresholds, score, &components);
    Ok(Appraisal {
        verdict,
        tier: record.tier_max.min(Tier::Software),
        score,
        follows: verdict == Verdict::Drift && follows(&components, thresholds, history, now),
        components,
        record_expires_at: record.expires_at,
    })
}

/// State of a component, and how much of it is as it was, 0..=1000.
fn compare(claims: &Claims, component: Component, baseline: &[[u8; 32]]) -> (State, u64) {
    let Some(presented) = claims.components.get(&component).filter(|p| !p.is_empty()) else {
        return (State::Absent, 0);
    };
    let now: Vec<_> = presented.iter().map(|value| digest_of(value)).collect();
    let common = baseline.iter().filter(|value| now.contains(value)).count();
    let union = baseline.len() + now.len() - common.min(now.len());
    match (common == union, component) {
        (true, _) => (State::Same, 1000),
        // A set: one interface more or less is no new machine (Jaccard index).
        (false, Component::NicMacs) => (State::Changed, (common * 1000 / union) as u64),
        (false, _) => (State::Changed, 0),
    }
}

fn verdict(
    record: &Record,
    thresholds: &Thresholds,
    score: Score,
    components: &[(Component, State)],
) -> Verdict {
    let board = components.iter().filter(|(c, s)| c.class() == Class::Board && *s != State::Same).count();
    let percent = score.percent();
    if record.status != Status::Active || board > thresholds.board_changed_max {
        Verdict::Quarantine
    } else if percent >= thresholds.match_min {
        Verdict::Match
    } else if percent >= thresholds.drift_min && record.profile == Profile::Full {
        Verdict::Drift
    } else {
        Verdict::Quarantine
    }
}

/// Updates, and at most one part, of a device that has been quiet.
fn follows(
    components: &[(Component, State)],
    thresholds: &Thresholds,
    history: &History,
    now: Timestamp,
) -> bool {
    let changed = |class| components.iter().filter(|(c, s)| c.class() == class && *s != State::Same).count();
    let quiet = history.drift_last.is_none_or(|last| now.since(last) >= thresholds.drift_quiet);
    quiet && changed(Class::Board) == 0 && changed(Class::Install) == 0 && changed(Class::Hardware) <= 1
}

/// The right to be taken for a device, until it runs out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lease {
    /// It is worth nothing from then on.
    pub until: Timestamp,
    /// How long it lasts from when it was given.
    pub ttl: Duration,
    /// What the device may be taken for.
    pub tier: Tier,
    /// How much of its baseline matches.
    pub score: Score,
    given_at: Timestamp,
}

impl fmt::Display for Appraisal {
    /// In a line: verdict, score, and the names of what is not as it was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, score {}", self.verdict.name(), self.score.percent())?;
        for state in [State::Changed, State::Absent] {
            let names: Vec<_> =
                self.components.iter().filter(|(_, s)| *s == state).map(|(c, _)| c.name()).collect();
            if !names.is_empty() {
                write!(f, ", {}: {}", state.name(), names.join(" "))?;
            }
        }
        Ok(())
    }
}

impl Appraisal {
    /// Gives a lease, never longer than the record lasts.
    ///
    /// # Errors
    /// `DeviceQuarantined`, or `RecordExpired` when it has by now.
    pub fn lease(&self, thresholds: &Thresholds, now: Timestamp) -> Result<Lease, Reason> {
        let ttl = match self.verdict {
            Verdict::Match => thresholds.lease_ttl,
            Verdict::Drift => thresholds.lease_ttl_drift,
            Verdict::Quarantine => return Err(Reason::DeviceQuarantined),
        };
        let ttl = ttl.min(self.record_expires_at.since(now));
        if ttl.is_zero() {
            return Err(Reason::RecordExpired);
        }
        Ok(Lease { until: now.plus(ttl), ttl, tier: self.tier, score: self.score, given_at: now })
    }
}

impl Lease {
    /// When to prove it again: after a third of its time.
    pub fn renew_at(&self) -> Timestamp {
        self.given_at.plus(self.ttl / 3)
    }

    /// Whether it still holds.
    ///
    /// # Errors
    /// `LeaseExpired`.
    pub fn check(&self, now: Timestamp) -> Result<(), Reason> {
        if now < self.until { Ok(()) } else { Err(Reason::LeaseExpired) }
    }
}

/// What is known of an identity before it gives any evidence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// A record of it was seen, in this session or an earlier one.
    pub record_known: bool,
    /// Its certificate carries the fingerprint extension.
    pub has_extension: bool,
    /// The configuration, or its certificate, says that it need not attest.
    pub exempt: bool,
}

/// Whether this identity must give evidence. What once had a record is never tier 0 again.
pub fn must_attest(standing: Standing) -> bool {
    standing.record_known || standing.has_extension || !standing.exempt
}

macro_rules! named {
    ($type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name in audit and on the screen.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

named!(Verdict { Match => "match", Drift => "drift", Quarantine => "quarantine" });
named!(State { Same => "same", Changed => "changed", Absent => "absent" });

impl Verdict {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Match => 0,
            Self::Drift => 1,
            Self::Quarantine => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Match, Self::Drift, Self::Quarantine].into_iter().find(|v| v.number() == number)
    }
}

#[cfg(test)]
#[path = "appraise_tests.rs"]
mod tests;
