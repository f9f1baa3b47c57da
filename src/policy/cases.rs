//! Allow/deny tables: what a bundle must say, kept beside it.

use std::collections::BTreeSet;

use serde::Deserialize;
use toml::Spanned;

use super::bundle::{Bundle, Source};
use super::problem::{LoadError, Problem, Problems, Text};
use crate::model::{
    DecisionId, DeviceFacts, Direction, Facts, Risk, Score, ServiceName, SessionFacts, Tier, Timestamp,
    Transport,
};

/// Most cases of all files together.
pub const CASES_MAX: usize = 10_000;

/// Cases by file and place.
#[derive(Debug, Default)]
pub struct Cases(Vec<Case>);

/// One question and the answer it must get.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file it stands in.
    file: Box<str>,
    line: u32,
    column: u32,
    raw: RawCase,
    service: ServiceName,
}

/// A case that got another answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Where the case stands and what came instead.
    pub problem: Problem,
}

/// What came of all cases.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// How many cases there are.
    pub cases: usize,
    /// Those that failed.
    pub failures: Vec<Failure>,
    /// Ids of the rules that decided no case, in the bundle's order.
    pub untested: Vec<Box<str>>,
}

/// A case as people write it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    name: String,
    /// A SPIFFE ID, or the name of a device that `groups.toml` lists.
    device: String,
    service: String,
    expect: Expect,
    /// The rule that must decide; `-` for a default denial.
    rule: Option<String>,
    /// Both when left out: both sidecars of a flow judge it.
    direction: Option<RawDirection>,
    #[serde(default)]
    tier: u8,
    #[serde(default)]
    score: u8,
    /// `local` outbound and `h2` inbound when left out.
    transport: Option<RawTransport>,
    #[serde(default = "yes")]
    pq: bool,
    uid: Option<u32>,
    #[serde(default = "noon")]
    hour: u8,
    #[serde(default)]
    risk: u8,
    #[serde(default)]
    lease_age: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    case: Vec<Spanned<RawCase>>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawDirection {
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawTransport {
    H1,
    H2,
    H3,
    Local,
}

fn yes() -> bool {
    true
}

fn noon() -> u8 {
    12
}

impl Cases {
    /// Reads case tables.
    ///
    /// # Errors
    /// [`LoadError`] with the first mistake of every file, and every value out of its range.
    pub fn from_sources(sources: &[Source]) -> Result<Self, LoadError> {
        let mut problems = Problems::default();
        let mut cases = Vec::new();
        for source in sources {
            let file = Text::new(&source.name, &source.text);
            match toml::from_str::<RawFile>(file.text) {
                Ok(raw) => cases.extend(raw.case.into_iter().filter_map(|c| read(&file, c, &mut problems))),
                Err(e) => problems.push(file.problem(e.span().map_or(0, |s| s.start), e.message())),
            }
            if cases.len() > CASES_MAX {
                problems.push(Problem::whole(&source.name, format!("more than {CASES_MAX} cases in all")));
                break;
            }
        }
        problems.or(Self(cases))
    }

    /// Asks `bundle` every case.
    pub fn run(&self, bundle: &Bundle) -> Tally {
        let mut tally = Tally { cases: self.0.len(), ..Tally::default() };
        let mut decided = BTreeSet::new();
        for case in &self.0 {
            if let Err(message) = case.run(bundle, &mut decided) {
                let (file, line, column) = (case.file.clone(), case.line, case.column);
                let message = format!("case `{}`: {message}", case.raw.name).into();
                tally
                    .failures
                    .push(Failure { problem: Problem { file, line, column, message, hint: "".into() } });
            }
        }
        let untested = bundle.rules().iter().filter(|rule| !decided.contains(&rule.id));
        tally.untested = untested.map(|rule| rule.id.clone()).collect();
        tally
    }
}

fn read(file: &Text<'_>, raw: Spanned<RawCase>, problems: &mut Problems) -> Option<Case> {
    let start = raw.span().start;
    let raw = raw.into_inner();
    let (line, column) = file.place(start);
    let ranges =
        [("tier", raw.tier, 3), ("score", raw.score, 100), ("hour", raw.hour, 23), ("risk", raw.risk, 100)];
    let mut good = true;
    for (name, value, max) in ranges.into_iter().filter(|(_, value, max)| value > max) {
        let message = format!("case `{}`: `{name}` is {value}, expected 0..={max}", raw.name);
        problems.push(file.problem(start, message));
        good = false;
    }
    match raw.service.parse() {
        Ok(service) if good => Some(Case { file: file.name.into(), line, column, raw, service }),
        Ok(_) => None,
        Err(e) => {
            problems.push(file.problem(start, format!("case `{}`: service {e}", raw.name)));
            None
        }
    }
}

impl Case {
    fn run(&self, bundle: &Bundle, decided: &mut BTreeSet<Box<str>>) -> Result<(), String> {
        let directions: &[Direction] = match self.raw.direction {
            Some(RawDirection::Inbound) => &[Direction::Inbound],
            Some(RawDirection::Outbound) => &[Direction::Outbound],
            None => &[Direction::Inbound, Direction::Outbound],
        };
        for direction in directions {
            let facts = self.facts(bundle, *direction)?;
            let explained = bundle.explain(&facts, DecisionId::new(Timestamp::default(), [0; 10]));
            decided.extend(explained.determining.iter().map(|rule| rule.id.clone()));
            let got = if explained.verdict.is_permit() { Expect::Allow } else { Expect::Deny };
            let rules: Vec<&str> = match explained.determining.iter().map(|r| &*r.id).collect::<Vec<_>>() {
                none if none.is_empty() => vec!["-"],
                some => some,
            };
            let told = || format!("{} {} by `{}`", direction.name(), got.told(), rules.join("` `"));
            if let Some(error) = explained.errors.first() {
                return Err(format!("{}: {error}", direction.name()));
            }
            if got != self.raw.expect {
                return Err(format!("expected {}, got {}", self.raw.expect.told(), told()));
            }
            if let Some(rule) = self.raw.rule.as_deref().filter(|rule| !rules.contains(rule)) {
                return Err(format!("expected rule `{rule}` to decide, got {}", told()));
            }
        }
        Ok(())
    }

    fn facts(&self, bundle: &Bundle, direction: Direction) -> Result<Facts, String> {
        let raw = &self.raw;
        let transport = match (raw.transport, direction) {
            (Some(RawTransport::H1), _) => Transport::H1,
            (Some(RawTransport::H2), _) | (None, Direction::Inbound) => Transport::H2,
            (Some(RawTransport::H3), _) => Transport::H3,
            (Some(RawTransport::Local), _) | (None, Direction::Outbound) => Transport::Local,
        };
        let tier = [Tier::None, Tier::Software, Tier::Bound, Tier::Attested].into_iter();
        let device = DeviceFacts {
            id: bundle.find_device(&raw.device).map_err(|e| e.to_string())?,
            tier: tier.rev().find(|t| t.level() <= raw.tier).unwrap_or_default(),
            score: Score::from_percent(raw.score),
        };
        let session = SessionFacts {
            direction,
            hour: raw.hour,
            lease_age_s: raw.lease_age,
            pq: raw.pq,
            risk: Risk::new(raw.risk),
            transport,
            uid: raw.uid,
        };
        Ok(Facts { device, service: self.service.clone(), session })
    }
}

impl Expect {
    fn told(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}
