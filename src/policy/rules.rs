//! One rule: read, named, and checked for what Cedar's own validator lets pass.

use std::fmt;

use cedar_policy::PolicyId;
use miette::Diagnostic;

use super::groups::{Groups, is_label};
use super::problem::{Problem, Problems, Text, did_you_mean};
use super::scan::{Kind, Piece, RULE_DEPTH_MAX, RULE_LEN_MAX};
use super::schema::{DEVICE, DIRECTIONS, GROUP, SERVICE, TRANSPORTS};
use crate::model::{Facts, ServiceName, SpiffeId, Transport};

/// What a rule does when it holds. A forbid wins over every permit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Refuses.
    Forbid,
    /// Allows, unless a forbid holds.
    Permit,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forbid => "forbid",
            Self::Permit => "permit",
        })
    }
}

/// One rule of a bundle.
#[derive(Debug)]
pub struct Rule {
    /// Its `@id`: 1..=64 of `a-z 0-9 -`, unique in the bundle.
    pub id: Box<str>,
    /// Its `@reason`: 1..=200 characters for people.
    pub reason: Box<str>,
    /// Permit or forbid.
    pub effect: Effect,
    /// The file it stands in.
    pub file: Box<str>,
    /// Line from 1 up.
    pub line: u32,
    /// Column in characters from 1 up.
    pub column: u32,
    /// Its text.
    pub text: Box<str>,
    /// Whether it has a `when` or `unless`.
    pub(crate) conditional: bool,
    /// The attributes its text speaks of, sorted.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) policy: cedar_policy::Policy,
    /// Where its file's text has it, for mistakes found later.
    pub(crate) start: usize,
}

/// Something a rule's condition can look at.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Attribute {
    Direction,
    Hour,
    LeaseAge,
    Local,
    Name,
    Pq,
    Risk,
    Score,
    Tier,
    Transport,
    TrustDomain,
    Uid,
}

impl Attribute {
    fn of_word(owner: &str, word: &str) -> Option<Self> {
        Some(match (owner, word) {
            ("context", "direction") => Self::Direction,
            ("context", "hour") => Self::Hour,
            ("context", "lease_age") => Self::LeaseAge,
            ("context", "local") => Self::Local,
            ("principal", "name") => Self::Name,
            ("context", "pq") => Self::Pq,
            ("context", "risk") => Self::Risk,
            ("principal", "score") => Self::Score,
            ("principal", "tier") => Self::Tier,
            ("context", "transport") => Self::Transport,
            ("principal", "trust_domain") => Self::TrustDomain,
            ("context", "uid") => Self::Uid,
            _ => return None,
        })
    }

    /// `risk=85`: its name and what the facts say.
    pub(crate) fn shown(self, facts: &Facts) -> String {
        let (device, session) = (&facts.device, &facts.session);
        match self {
            Self::Direction => format!("direction={}", session.direction.name()),
            Self::Hour => format!("hour={}", session.hour),
            Self::LeaseAge => format!("lease_age={}", session.lease_age_s),
            Self::Local => format!("local={}", session.transport == Transport::Local),
            Self::Name => format!("name={}", device.id.device_name().unwrap_or("none")),
            Self::Pq => format!("pq={}", session.pq),
            Self::Risk => format!("risk={}", session.risk.level()),
            Self::Score => format!("score={}", device.score.percent()),
            Self::Tier => format!("tier={}", device.tier.level()),
            Self::Transport => format!("transport={}", session.transport.name()),
            Self::TrustDomain => format!("trust_domain={}", device.id.trust_domain()),
            Self::Uid => session.uid.map_or("uid=none".into(), |uid| format!("uid={uid}")),
        }
    }
}

/// Reads one piece of a file as a rule. What is wrong goes to `problems`; a rule with a bad name is still returned,
/// under a name made of its place, so that the validator can look at it too.
pub(crate) fn read(file: &Text<'_>, piece: &Piece, problems: &mut Problems) -> Option<Rule> {
    let start = piece.start();
    if let Some(message) = too_big(piece) {
        problems.push(file.problem(start, message).hint("split the rule"));
        return None;
    }
    let text = file.text.get(start..piece.end()).unwrap_or_default();
    let (line, column) = file.place(start);
    let policy = match cedar_policy::Policy::parse(None, text) {
        Ok(policy) => policy,
        Err(errors) => {
            for error in errors.iter() {
                problems.push(from_cedar(file, start, error));
            }
            return None;
        }
    };
    check_annotations(file, start, &policy, problems);
    check_compared(file, piece, problems);
    let given = policy.annotation("id").filter(|id| is_label(id));
    let id = given.map_or_else(|| format!("{}:{line}:{column}", file.name), str::to_owned);
    Some(Rule {
        reason: policy.annotation("reason").unwrap_or_default().into(),
        effect: match policy.effect() {
            cedar_policy::Effect::Forbid => Effect::Forbid,
            cedar_policy::Effect::Permit => Effect::Permit,
        },
        file: file.name.into(),
        line,
        column,
        text: text.into(),
        conditional: policy.has_non_scope_constraint(),
        attributes: attributes(file, piece),
        policy: policy.new_id(PolicyId::new(&id)),
        id: id.into(),
        start,
    })
}

fn too_big(piece: &Piece) -> Option<String> {
    let len = piece.end().saturating_sub(piece.start());
    if len > RULE_LEN_MAX {
        return Some(format!("rule is {len} bytes, expected at most {RULE_LEN_MAX}"));
    }
    let deep = piece.depth > RULE_DEPTH_MAX;
    deep.then(|| format!("rule nests {} deep, expected at most {RULE_DEPTH_MAX}", piece.depth))
}

/// One of Cedar's errors at its place in the file; `start` is where the rule begins in it.
pub(crate) fn from_cedar(file: &Text<'_>, start: usize, error: &dyn Diagnostic) -> Problem {
    let label = error.labels().and_then(|mut labels| labels.next());
    let at = start + label.as_ref().map_or(0, miette::LabeledSpan::offset);
    let mut message = error.to_string();
    if let Some(says) = label.as_ref().and_then(miette::LabeledSpan::label) {
        message = format!("{message}: {says}");
    }
    let hint = error.help().map(|h| h.to_string()).unwrap_or_default();
    file.problem(at, one_line(&message)).hint(one_line(&hint))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn check_annotations(file: &Text<'_>, start: usize, policy: &cedar_policy::Policy, problems: &mut Problems) {
    // An annotation we would not heed, `@mode("shadow")` say, must not look as if we did.
    for (key, _) in policy.annotations().filter(|(key, _)| !["id", "reason"].contains(key)) {
        let hint = did_you_mean(key, ["id", "reason"].into_iter());
        problems.push(file.problem(start, format!("unknown annotation `@{key}`")).hint(hint));
    }
    match policy.annotation("id") {
        None => problems
            .push(file.problem(start, "rule has no `@id`").hint("write `@id(\"some-name\")` before it")),
        Some(id) if !is_label(id) => {
            let message = format!("`@id(\"{}\")` must be 1..=64 of `a-z 0-9 -`", id.escape_debug());
            problems.push(file.problem(start, message));
        }
        Some(_) => {}
    }
    match policy.annotation("reason") {
        None => {
            let hint = "write `@reason(\"why, for people\")` before it";
            problems.push(file.problem(start, "rule has no `@reason`").hint(hint));
        }
        Some(reason) if !is_reason(reason) => {
            let len = reason.chars().count();
            let message = format!("`@reason` must be 1..={REASON_LEN_MAX} printable characters, it is {len}");
            problems.push(file.problem(start, message));
        }
        Some(_) => {}
    }
}

/// It is shown to people on terminals, in headers and in the audit: so no line breaks and no escapes.
fn is_reason(text: &str) -> bool {
    let len = text.chars().count();
    (1..=REASON_LEN_MAX).contains(&len) && !text.trim().is_empty() && !text.chars().any(char::is_control)
}

/// Names a comparison with a text `direction` or `transport` never is; to Cedar both are any string.
fn check_compared(file: &Text<'_>, piece: &Piece, problems: &mut Problems) {
    let word =
        |at: usize| piece.tokens.get(at).and_then(|t| file.text.get(t.start..t.end)).unwrap_or_default();
    for at in 0..piece.tokens.len() {
        let known = match (word(at), word(at + 1), word(at + 2)) {
            ("context", ".", "direction") => DIRECTIONS.as_slice(),
            ("context", ".", "transport") => TRANSPORTS.as_slice(),
            _ => continue,
        };
        let other_sides = [(Some(at + 3), Some(at + 4)), (at.checked_sub(1), at.checked_sub(2))];
        for (sign, other) in other_sides.into_iter().filter_map(|(s, o)| s.zip(o)) {
            let literal = piece.tokens.get(other).filter(|t| t.kind == Kind::Quoted);
            let (Some(literal), "==" | "!=") = (literal, word(sign)) else { continue };
            let value = word(other).trim_matches('"');
            if !known.contains(&value) {
                let message = format!("`context.{}` is never `{}`", word(at + 2), value.escape_debug());
                let hint = format!("it is one of `{}`", known.join("` `"));
                problems.push(file.problem(literal.start, message).hint(hint));
            }
        }
    }
}

fn attributes(file: &Text<'_>, piece: &Piece) -> Vec<Attribute> {
    let words: Vec<_> =
        piece.tokens.iter().map(|t| file.text.get(t.start..t.end).unwrap_or_default()).collect();
    let named = |window: &[&str]| match window {
        [owner, "." | "has", attribute] => Attribute::of_word(owner, attribute),
        _ => None,
    };
    let mut found: Vec<_> = words.windows(3).filter_map(named).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Checks the names a rule speaks of: a group must be defined, a device be a SPIFFE ID, a service a service's name.
/// To Cedar each is any string, and a slip of the pen would silently never match.
pub(crate) fn check_names(
    file: &Text<'_>,
    piece: &Piece,
    rule: &Rule,
    groups: &Groups,
    problems: &mut Problems,
) {
    for uid in rule.policy.entity_literals() {
        let (kind, id) = (uid.type_name().to_string(), uid.id().unescaped());
        let (message, hint) = match kind.as_str() {
            GROUP if !groups.contains(id) => {
                let near = did_you_mean(id, groups.names());
                let hint = if near.is_empty() { "define it in `groups.toml`".into() } else { near };
                (format!("group `{}` is not defined", id.escape_debug()), hint)
            }
            DEVICE => match id.parse::<SpiffeId>() {
                Ok(_) => continue,
                Err(e) => {
                    let hint = "write it whole: `Device::\"spiffe://example.org/device/web-1\"`".to_owned();
                    (format!("device `{}`: {e}", id.escape_debug()), hint)
                }
            },
            SERVICE => match id.parse::<ServiceName>() {
                Ok(_) => continue,
                Err(e) => (format!("service {e}"), String::new()),
            },
            _ => continue,
        };
        let at = name_in(file, piece, &kind, id).unwrap_or(rule.start);
        problems.push(file.problem(at, message).hint(hint));
    }
}

/// Where a piece says `Kind::"id"`.
fn name_in(file: &Text<'_>, piece: &Piece, kind: &str, id: &str) -> Option<usize> {
    let word = |t: &super::scan::Token| file.text.get(t.start..t.end).unwrap_or_default();
    let quoted = format!("\"{id}\"");
    piece.tokens.windows(3).find_map(|window| match window {
        [a, b, c] => (word(a) == kind && word(b) == "::" && word(c) == quoted).then_some(a.start),
        _ => None,
    })
}

const REASON_LEN_MAX: usize = 200;
