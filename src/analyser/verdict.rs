//! What the analyser answers: how suspicious, why, and what it would do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::event::{DeviceKey, FlowKey, ServiceKey};
use crate::model::Risk;

/// What the analyser says of one event.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// What is to be done now: [`Action::Allow`] for every device that is not in [`Stage::Enforce`].
    pub action: Action,
    /// What would be done if the device were in [`Stage::Enforce`].
    pub would: Action,
    /// The rule that decided; [`Rule::None`] when nothing stands out.
    pub rule: Rule,
    /// −log10 of the probability that honest traffic looks like this, 0..=[`Verdict::SCORE_MAX`].
    pub score: f32,
    /// How the device's risk now stands.
    pub risk: Risk,
    /// How far the analyser knows the device.
    pub stage: Stage,
    /// The figures behind it, for whatever has a rule.
    pub why: Option<Why>,
}

impl Verdict {
    /// The greatest score: no probability is taken to be below 1e-12.
    pub const SCORE_MAX: f32 = 12.0;

    /// How bad it is.
    pub fn band(&self) -> Band {
        Band::of(self.score)
    }
}

/// Which detector decided. The names are part of configuration, audit and metrics.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Rule {
    /// Nothing stands out.
    #[default]
    None = 0,
    /// Many targets tried that answer nothing or that policy refuses.
    Scan,
    /// Many services used that this device never used before.
    FanOut,
    /// Many flows that failed.
    Failures,
    /// Many logins refused.
    Logins,
    /// Far more bytes out than this device ever sends.
    Exfil,
    /// A relation that used to fetch now sends.
    Flip,
    /// Far more flows or requests than this device ever makes.
    Flood,
    /// Requests kept unfinished.
    Slow,
    /// Regular small contacts with a service that is new to the device.
    Beacon,
    /// Another protocol than the service speaks.
    Mismatch,
    /// Another end of the wire than the device's usual one: its TLS stack, its network, its habits.
    Stranger,
    /// Unlike the device in general (LODA).
    Generic,
    /// Like known attacks (the shipped prior).
    Prior,
}

impl Rule {
    /// Every rule that can decide, in the order of their names' numbers.
    pub const ALL: [Self; 13] = [
        Self::Scan,
        Self::FanOut,
        Self::Failures,
        Self::Logins,
        Self::Exfil,
        Self::Flip,
        Self::Flood,
        Self::Slow,
        Self::Beacon,
        Self::Mismatch,
        Self::Stranger,
        Self::Generic,
        Self::Prior,
    ];

    /// Its name: lower case, no spaces; `-` for none.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Scan => "scan",
            Self::FanOut => "fan-out",
            Self::Failures => "failures",
            Self::Logins => "logins",
            Self::Exfil => "exfil",
            Self::Flip => "flip",
            Self::Flood => "flood",
            Self::Slow => "slow",
            Self::Beacon => "beacon",
            Self::Mismatch => "mismatch",
            Self::Stranger => "stranger",
            Self::Generic => "generic",
            Self::Prior => "prior",
        }
    }

    /// The rule of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How bad, in powers of ten of improbability.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Band {
    /// Nothing to speak of.
    #[default]
    Low = 0,
    /// Worth a look: p < 1e-3.
    Medium,
    /// Beyond the stated target: p < 1e-5.
    High,
    /// Far beyond: p < 1e-8.
    Critical,
}

impl Band {
    /// The band of a score (−log10 p).
    pub fn of(score: f32) -> Self {
        match score {
            s if s > 8.0 => Self::Critical,
            s if s > 5.0 => Self::High,
            s if s > 3.0 => Self::Medium,
            _ => Self::Low,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// What is to be done, from mild to hard. Whoever called carries it out.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Action {
    /// Nothing.
    #[default]
    Allow = 0,
    /// Let it pass no faster than the device usually is.
    Throttle,
    /// Hold its new flows for a while, longer each time.
    Tarpit,
    /// End the flow.
    Kill,
    /// End the flow and ask the device to prove itself anew.
    Prove,
    /// Refuse the device everything but health checks, for a while that doubles.
    Quarantine,
}

impl Action {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Throttle => "throttle",
            Self::Tarpit => "tarpit",
            Self::Kill => "block",
            Self::Prove => "prove",
            Self::Quarantine => "quarantine",
        }
    }
}

/// How far a device is known.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[repr(u8)]
pub enum Stage {
    /// Being watched; only what is wrong whoever does it is told.
    #[default]
    Learn = 0,
    /// Scored; what would be blocked is counted and passes.
    Shadow,
    /// Scored and acted on.
    Enforce,
}

impl Stage {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Learn => "learn",
            Self::Shadow => "shadow",
            Self::Enforce => "enforce",
        }
    }
}

/// What a figure of [`Why`] counts.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Unit {
    /// Flows, targets, requests.
    #[default]
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A share, 0..=1.
    Share,
    /// A ratio, or a score without a unit.
    Plain,
}

/// The figures behind a verdict. It holds keys; who shows it knows the names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Why {
    /// The rule.
    pub rule: Rule,
    /// What the figure is, such as `young_failures_60s`.
    pub measure: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// What was measured.
    pub value: f64,
    /// Where the limit stood.
    pub limit: f64,
    /// The most that this device usually does; 0 when it never did.
    pub usual: f64,
    /// Whose traffic.
    pub device: DeviceKey,
    /// In which flow.
    pub flow: FlowKey,
    /// To what.
    pub service: ServiceKey,
    /// Whether the device had never used that service before it got suspicious.
    pub new_service: bool,
    /// Number of suspicious events of this device that count at this moment.
    pub evidence: u32,
    /// −log10 p.
    pub score: f32,
}

/// One line for people and machines; the caller puts names before it.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule={} {}=", self.rule, self.measure)?;
        amount(f, self.value, self.unit)?;
        f.write_str(" limit=")?;
        amount(f, self.limit, self.unit)?;
        if self.usual > 0.0 {
            f.write_str(" usual=")?;
            amount(f, self.usual, self.unit)?;
            write!(f, " ({:.1}x)", self.value / self.usual)?;
        }
        let new = if self.new_service { "yes" } else { "no" };
        write!(f, " new_service={new} p=1e-{:.1} evidence={}", self.score, self.evidence)
    }
}

fn amount(f: &mut fmt::Formatter<'_>, value: f64, unit: Unit) -> fmt::Result {
    match unit {
        Unit::Bytes if value >= 1e6 => write!(f, "{:.1}MB", value / 1e6),
        Unit::Bytes if value >= 1e3 => write!(f, "{:.1}kB", value / 1e3),
        Unit::Bytes => write!(f, "{value:.0}B"),
        Unit::Seconds => write!(f, "{value:.1}s"),
        Unit::Share => write!(f, "{:.0}%", value * 100.0),
        Unit::Count | Unit::Plain => write!(f, "{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_one_name_and_comes_back_by_it() {
        for rule in Rule::ALL {
            assert_eq!(Rule::from_name(rule.name()), Some(rule));
        }
        let mut names: Vec<_> = Rule::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Rule::ALL.len());
        assert_eq!(Rule::from_name("-"), None);
    }

    #[test]
    fn bands_begin_beyond_their_bounds() {
        let of = |s| Band::of(s).name();
        assert_eq!(
            [0.0, 3.0, 3.1, 5.0, 5.1, 8.1].map(of),
            ["low", "low", "medium", "medium", "high", "critical"]
        );
        assert_eq!(Band::of(f32::NAN), Band::Low);
    }

    #[test]
    fn a_reason_reads_in_one_line() {
        let why = Why {
            rule: Rule::Exfil,
            measure: "bytes_out_10m",
            unit: Unit::Bytes,
            value: 412e6,
            limit: 33e6,
            usual: 11e6,
            score: 8.5,
            evidence: 6,
            ..Why::default()
        };
        assert_eq!(
            why.to_string(),
            "rule=exfil bytes_out_10m=412.0MB limit=33.0MB usual=11.0MB (37.5x) new_service=no p=1e-8.5 evidence=6"
        );
    }
}
