//! A checked set of rules and groups, made whole or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{Authorizer, PolicyId, PolicySet, ValidationMode, Validator};
use sha2::{Digest, Sha256};

use super::behaviour::Behaviour;
use super::cache::Cache;
use super::engine::Outcome;
use super::groups::Groups;
use super::index::Index;
use super::problem::{LoadError, Problem, Problems, Text};
use super::request::Vocabulary;
use super::rules::{self, Rule};
use super::scan::{Piece, cut};
use crate::model::{Facts, SpiffeId, Timestamp};

/// Most rules of one bundle.
pub const RULES_MAX: usize = 10_000;

/// The file of groups.
pub(crate) const GROUPS_FILE: &str = "groups.toml";
/// The file of what is done about behaviour.
pub(crate) const BEHAVIOUR_FILE: &str = "behaviour.toml";
/// How a file of rules ends.
pub(crate) const RULES_SUFFIX: &str = ".cedar";

/// One policy file: `*.cedar`, `groups.toml` or `behaviour.toml`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// Its name without the folder.
    pub name: Box<str>,
    /// Its text.
    pub text: Box<str>,
}

impl Source {
    /// A file of this name and text.
    pub fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// Rules and groups, parsed, validated strictly against [`SCHEMA`](super::SCHEMA), and indexed; with the answers it
/// gave lately. It never changes: a new policy is a new bundle.
#[derive(Debug)]
pub struct Bundle {
    pub(crate) rules: Vec<Rule>,
    pub(crate) numbers: HashMap<PolicyId, usize>,
    pub(crate) groups: Groups,
    behaviour: Option<Behaviour>,
    pub(crate) index: Index,
    pub(crate) vocabulary: Vocabulary,
    pub(crate) authorizer: Authorizer,
    pub(crate) cache: Cache<Facts, Arc<Outcome>>,
    pub(crate) digest: Arc<str>,
    pub(crate) files: usize,
    loaded_at: Timestamp,
}

impl Bundle {
    /// Makes a bundle that remembers at most `cache_max` answers. Takes the text of the files as it is: their sizes
    /// and number are bounded where they are read.
    ///
    /// # Errors
    /// [`LoadError`] with every mistake of every file.
    pub fn from_sources(sources: &[Source], cache_max: usize, now: Timestamp) -> Result<Self, LoadError> {
        let vocabulary = Vocabulary::new().map_err(|e| LoadError::whole("schema", e))?;
        let mut problems = Problems::default();
        let mut sorted: Vec<&Source> = sources.iter().collect();
        sorted.sort_by_key(|s| &s.name);
        let groups = read_groups(&sorted, &mut problems);
        let behaviour = read_behaviour(&sorted, &mut problems);
        let rules = read_rules(&sorted, &groups, &vocabulary, &mut problems);
        let bundle = Self {
            numbers: rules.iter().enumerate().map(|(at, rule)| (rule.policy.id().clone(), at)).collect(),
            index: Index::new(&rules),
            rules,
            groups,
            behaviour,
            vocabulary,
            authorizer: Authorizer::new(),
            cache: Cache::new(cache_max),
            digest: digest(&sorted),
            files: sorted.len(),
            loaded_at: now,
        };
        problems.or(bundle)
    }

    /// The first 128 bits of SHA-256 over names and texts of all files, as 32 hex digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The rules by file and place.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule with this `@id`.
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.numbers.get(&PolicyId::new(id)).and_then(|at| self.rules.get(*at))
    }

    /// The names of the defined groups, sorted.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.names()
    }

    /// The names of the groups a device belongs to, sorted.
    pub fn groups_of(&self, device: &SpiffeId) -> &[Box<str>] {
        self.groups.of(device)
    }

    /// What may be done about behaviour, when there is a `behaviour.toml`.
    pub fn behaviour(&self) -> Option<&Behaviour> {
        self.behaviour.as_ref()
    }

    /// How many files it was made of.
    pub fn files(&self) -> usize {
        self.files
    }

    /// When it was made.
    pub fn loaded_at(&self) -> Timestamp {
        self.loaded_at
    }

    /// The device a person means: a whole SPIFFE ID, or the last part of one that `groups.toml` lists.
    ///
    /// # Errors
    /// [`FindDeviceError`] when no or more than one listed device has this name.
    pub fn find_device(&self, text: &str) -> Result<SpiffeId, FindDeviceError> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        let listed = self.groups.each().flat_map(|(_, members)| members);
        let mut named: Vec<_> = listed.filter(|id| id.device_name() == Some(text)).collect();
        named.sort_unstable();
        named.dedup();
        match named.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(FindDeviceError::Unknown { name: text.into() }),
            [first, second, ..] => {
                let name = text.into();
                Err(FindDeviceError::Ambiguous { name, first: (*first).clone(), second: (*second).clone() })
            }
        }
    }
}

/// Why a name means no device.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FindDeviceError {
    /// Two trust domains have one.
    #[error("`{name}` could be `{first}` or `{second}`, write the whole SPIFFE ID")]
    Ambiguous {
        /// The name.
        name: Box<str>,
        /// One device.
        first: SpiffeId,
        /// Another.
        second: SpiffeId,
    },
    /// Not listed.
    #[error("no group lists a device `{name}`, write the whole SPIFFE ID")]
    Unknown {
        /// The name.
        name: Box<str>,
    },
}

fn read_groups(sources: &[&Source], problems: &mut Problems) -> Groups {
    match sources.iter().find(|s| *s.name == *GROUPS_FILE) {
        Some(source) => Groups::read(&Text::new(&source.name, &source.text), problems),
        None => Groups::default(),
    }
}

fn read_behaviour(sources: &[&Source], problems: &mut Problems) -> Option<Behaviour> {
    let source = sources.iter().find(|s| *s.name == *BEHAVIOUR_FILE)?;
    Some(Behaviour::read(&Text::new(&source.name, &source.text), problems))
}

/// A rule as it stands in its file.
struct Found<'a> {
    file: &'a Text<'a>,
    piece: Piece,
    rule: Rule,
}

fn read_rules(
    sources: &[&Source],
    groups: &Groups,
    vocabulary: &Vocabulary,
    problems: &mut Problems,
) -> Vec<Rule> {
    let is_rules = |s: &&Source| s.name.ends_with(RULES_SUFFIX);
    for other in sources.iter().copied().filter(|s| !is_rules(s)) {
        if *other.name != *GROUPS_FILE && *other.name != *BEHAVIOUR_FILE {
            let message = "policy files are `*.cedar`, `groups.toml` and `behaviour.toml`";
            problems.push(Problem::whole(&other.name, message));
        }
    }
    let files: Vec<_> =
        sources.iter().copied().filter(is_rules).map(|s| Text::new(&s.name, &s.text)).collect();
    if files.is_empty() {
        let problem = Problem::whole("", "no `*.cedar` file, so nothing could ever be allowed");
        problems.push(problem.hint("write one permit: see `docs/policy.md`"));
    }
    let mut pieces = Vec::new();
    for file in &files {
        pieces.extend(cut(file.text).into_iter().map(|piece| (file, piece)));
        if pieces.len() > RULES_MAX {
            problems.push(Problem::whole(file.name, format!("more than {RULES_MAX} rules in all")));
            return Vec::new();
        }
    }
    let mut found: Vec<Found<'_>> = Vec::new();
    for (file, piece) in pieces {
        if let Some(rule) = rules::read(file, &piece, problems) {
            rules::check_names(file, &piece, &rule, groups, problems);
            found.push(Found { file, piece, rule });
        }
    }
    check_unique(&mut found, problems);
    validate(&found, vocabulary, problems);
    found.into_iter().map(|f| f.rule).collect()
}

/// Names a second rule of the same id, and gives it one of its own so that both can be validated.
fn check_unique(found: &mut [Found<'_>], problems: &mut Problems) {
    let mut places: HashMap<Box<str>, (Box<str>, u32)> = HashMap::new();
    for Found { file, piece, rule } in found {
        match places.get(&rule.id) {
            None => {
                places.insert(rule.id.clone(), (rule.file.clone(), rule.line));
            }
            Some((first, line)) => {
                let message = format!("rule id `{}` is already taken at {first}:{line}", rule.id);
                problems.push(file.problem(piece.start(), message));
                let id = format!("{}:{}:{}", rule.file, rule.line, rule.column);
                rule.policy = rule.policy.new_id(PolicyId::new(id));
            }
        }
    }
}

/// Strict validation at dereference level 1 (Cedar RFC 76): only the asking device's attributes and groups are known
/// when a flow is judged, so a rule that looks into another entity is refused now and not then.
fn validate(found: &[Found<'_>], vocabulary: &Vocabulary, problems: &mut Problems) {
    let mut set = PolicySet::new();
    for Found { file, rule, .. } in found {
        if let Err(e) = set.add(rule.policy.clone()) {
            problems.push(file.problem(rule.start, e.to_string()));
        }
    }
    let by_id: HashMap<_, _> = found.iter().map(|f| (f.rule.policy.id(), f)).collect();
    let mut tell = |id: &PolicyId, error: &dyn miette::Diagnostic| match by_id.get(id) {
        Some(Found { file, rule, .. }) => problems.push(rules::from_cedar(file, rule.start, error)),
        None => problems.push(Problem::whole("", error.to_string())),
    };
    let result =
        Validator::new(vocabulary.schema.clone()).validate_with_level(&set, ValidationMode::Strict, 1);
    for error in result.validation_errors() {
        tell(error.policy_id(), error);
    }
    // A rule that can never hold, or that reads differently from what it says, is no matter of taste: a forbid of
    // that kind would leave a door open.
    for warning in result.validation_warnings() {
        tell(warning.policy_id(), warning);
    }
}

fn digest(sources: &[&Source]) -> Arc<str> {
    let mut hash = Sha256::new();
    for part in sources.iter().flat_map(|s| [&s.name, &s.text]) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let full = hash.finalize();
    data_encoding::HEXLOWER.encode(full.get(..DIGEST_LEN).unwrap_or(&full)).into()
}

const DIGEST_LEN: usize = 16;
