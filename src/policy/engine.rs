//! Judges: candidates by scope, Cedar's answer, and what to tell people about it.

use std::sync::Arc;

use cedar_policy::{Decision, PolicySet, Response};

use super::bundle::Bundle;
use super::request::seen;
use super::rules::{Effect, Rule};
use super::verdict::{Denial, Permit, Verdict};
use crate::model::{DecisionId, Facts, Reason};

/// A decision before it has an id; what the cache keeps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Denial { reason: Reason, rule: Box<str>, why: Box<str>, missing: Box<str> },
    Permit(Arc<[Box<str>]>),
}

/// A decision with everything that led to it.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// The decision.
    pub verdict: Verdict,
    /// The groups the device belongs to, sorted.
    pub groups: &'a [Box<str>],
    /// The rules that decided: all permits that hold, or all forbids that hold. Empty on a default denial.
    pub determining: Vec<&'a Rule>,
    /// On a default denial: the permits for this device and service whose conditions did not hold.
    pub unmet: Vec<&'a Rule>,
    /// What could not be evaluated.
    pub errors: Vec<Box<str>>,
}

/// What Cedar said, in rule numbers.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Judgement {
    pub(crate) allowed: bool,
    pub(crate) determining: Vec<usize>,
    pub(crate) unmet: Vec<usize>,
    /// The rule, where one is to blame, and the error.
    pub(crate) errors: Vec<(Option<usize>, Box<str>)>,
}

impl Bundle {
    /// Judges `facts`; the answer, id aside, is the same for equal facts. Fails closed: whatever cannot be evaluated
    /// denies, even when everything else allows.
    pub fn decide(&self, facts: &Facts, id: DecisionId) -> Verdict {
        let facts = seen(facts);
        let outcome = match self.cache.get(&facts) {
            Some(outcome) => outcome,
            None => {
                let outcome = Arc::new(self.outcome(&facts, &self.judge(&facts)));
                self.cache.put(facts, outcome.clone());
                outcome
            }
        };
        self.verdict(&outcome, id)
    }

    /// Judges `facts` afresh and tells what led to the decision.
    pub fn explain(&self, facts: &Facts, id: DecisionId) -> Explanation<'_> {
        let facts = seen(facts);
        let judgement = self.judge(&facts);
        let rules = |numbers: &[usize]| numbers.iter().filter_map(|at| self.rules.get(*at)).collect();
        Explanation {
            verdict: self.verdict(&self.outcome(&facts, &judgement), id),
            groups: self.groups.of(&facts.device.id),
            determining: rules(&judgement.determining),
            unmet: rules(&judgement.unmet),
            errors: judgement.errors.into_iter().map(|(_, error)| error).collect(),
        }
    }

    fn verdict(&self, outcome: &Outcome, id: DecisionId) -> Verdict {
        match outcome {
            Outcome::Permit(rules) => Verdict::Permit(Permit::new(id, rules.clone(), self.digest.clone())),
            Outcome::Denial { reason, rule, why, missing } => Verdict::Denial(Denial {
                id,
                reason: *reason,
                rule: rule.clone(),
                why: why.clone(),
                missing: missing.clone(),
                digest: (&*self.digest).into(),
            }),
        }
    }

    fn judge(&self, facts: &Facts) -> Judgement {
        let groups = self.groups.of(&facts.device.id);
        let candidates = self.index.candidates(facts.device.id.as_str(), groups, facts.service.as_str());
        self.judge_by(facts, &candidates)
    }

    /// Judges by the given rules only.
    pub(crate) fn judge_by(&self, facts: &Facts, candidates: &[usize]) -> Judgement {
        match self.ask(facts, candidates) {
            Ok(response) => self.read(&response, candidates),
            Err(error) => Judgement { errors: vec![(None, error.into())], ..Judgement::default() },
        }
    }

    fn ask(&self, facts: &Facts, candidates: &[usize]) -> Result<Response, String> {
        let mut set = PolicySet::new();
        for rule in candidates.iter().filter_map(|at| self.rules.get(*at)) {
            set.add(rule.policy.clone()).map_err(|e| e.to_string())?;
        }
        let request = self.vocabulary.request(facts)?;
        let entities = self.vocabulary.entities(facts, self.groups.of(&facts.device.id))?;
        Ok(self.authorizer.is_authorized(&request, &set, &entities))
    }

    fn read(&self, response: &Response, candidates: &[usize]) -> Judgement {
        let number = |id| self.numbers.get(id).copied();
        let mut determining: Vec<_> = response.diagnostics().reason().filter_map(number).collect();
        determining.sort_unstable();
        let mut errors: Vec<_> = response.diagnostics().errors().map(|e| self.error(e)).collect();
        errors.sort_unstable();
        // An erring rule neither allows nor forbids in Cedar; a forbid that errs must not open the door.
        let allowed = response.decision() == Decision::Allow && errors.is_empty();
        let is_permit = |at: &usize| self.rules.get(*at).is_some_and(|r| r.effect == Effect::Permit);
        let by_default = !allowed && determining.is_empty() && errors.is_empty();
        let unmet = candidates.iter().copied().filter(|at| by_default && is_permit(at)).collect();
        Judgement { allowed, determining, unmet, errors }
    }

    fn error(&self, error: &cedar_policy::AuthorizationError) -> (Option<usize>, Box<str>) {
        match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(e) => {
                let number = self.numbers.get(e.policy_id()).copied();
                let rule = e.policy_id();
                (number, format!("rule `{rule}` could not be evaluated: {}", e.inner()).into())
            }
        }
    }

    fn outcome(&self, facts: &Facts, judgement: &Judgement) -> Outcome {
        let id_of = |at: &usize| self.rules.get(*at).map_or_else(|| "-".into(), |r| r.id.clone());
        if let Some((rule, error)) = judgement.errors.first() {
            let rule = rule.as_ref().map_or_else(|| "-".into(), id_of);
            return Outcome::Denial {
                reason: Reason::PolicyError,
                rule,
                why: error.clone(),
                missing: "".into(),
            };
        }
        if judgement.allowed {
            return Outcome::Permit(judgement.determining.iter().map(id_of).collect());
        }
        let reason = Reason::PolicyDenied;
        if let Some(rule) = judgement.determining.first().and_then(|at| self.rules.get(*at)) {
            let (rule, why) = (rule.id.clone(), rule.reason.clone());
            return Outcome::Denial { reason, rule, why, missing: "".into() };
        }
        let (device, service) = (&facts.device.id, &facts.service);
        let why = format!("no permit lets device `{device}` reach service `{service}`").into();
        Outcome::Denial {
            reason,
            rule: "-".into(),
            why,
            missing: self.missing(facts, &judgement.unmet).into(),
        }
    }

    /// What a default denial lacked: the conditions that did not hold, or else the groups the device is not in.
    /// Only this device's own affairs: the words may travel to it.
    fn missing(&self, facts: &Facts, unmet: &[usize]) -> String {
        let mut unmet = unmet.iter().filter_map(|at| self.rules.get(*at)).peekable();
        if unmet.peek().is_none() {
            return match self.groups.of(&facts.device.id) {
                [] => "no permit for the service names the device, and it is in no group".into(),
                [one] => format!("no permit for the service names the device or its group `{one}`"),
                many => {
                    format!("no permit for the service names the device or its groups `{}`", many.join("` `"))
                }
            };
        }
        let told: Vec<_> = unmet.by_ref().take(UNMET_TOLD_MAX).map(|rule| unmet_rule(rule, facts)).collect();
        let more = unmet.count();
        let told = told.join("; ");
        if more == 0 { told } else { format!("{told}; and {more} more") }
    }
}

fn unmet_rule(rule: &Rule, facts: &Facts) -> String {
    let shown: Vec<_> = rule.attributes.iter().map(|a| a.shown(facts)).collect();
    let shown = if shown.is_empty() { String::new() } else { format!(": {}", shown.join(", ")) };
    format!("rule `{}` matched the device and service but its conditions did not hold{shown}", rule.id)
}

/// Most rules a denial names as nearly matching.
const UNMET_TOLD_MAX: usize = 3;
