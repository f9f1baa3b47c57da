//! The answer: a permit that only this room can make, or a denial that says why.

use std::sync::Arc;

use crate::model::{DecisionId, Reason, Refusal};

/// What policy says.
#[derive(Debug)]
pub enum Verdict {
    /// Allowed.
    Permit(Permit),
    /// Refused.
    Denial(Denial),
}

/// The right to move a flow's bytes. Not cloned: one decision, one right.
#[derive(Debug)]
pub struct Permit {
    id: DecisionId,
    rules: Arc<[Box<str>]>,
    digest: Arc<str>,
}

impl Permit {
    pub(crate) fn new(id: DecisionId, rules: Arc<[Box<str>]>, digest: Arc<str>) -> Self {
        Self { id, rules, digest }
    }

    /// The decision that made it.
    pub fn id(&self) -> DecisionId {
        self.id
    }

    /// The ids of the permit rules that hold, in the bundle's order; never empty.
    pub fn rules(&self) -> &Arc<[Box<str>]> {
        &self.rules
    }

    /// Names the bundle that was asked.
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }
}

/// A refusal by policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    /// The decision.
    pub id: DecisionId,
    /// [`Reason::PolicyDenied`] or [`Reason::PolicyError`].
    pub reason: Reason,
    /// The first forbid that holds or rule that errs; `-` when simply no permit matches.
    pub rule: Box<str>,
    /// Why: the forbid's `@reason`, or a plain sentence.
    pub why: Box<str>,
    /// What would have been needed; may be empty.
    pub missing: Box<str>,
    /// Names the bundle that was asked.
    pub digest: Box<str>,
}

impl Denial {
    /// The refusal as every wire, the log and the audit tell it.
    pub fn refusal(&self) -> Refusal {
        let detail = match &*self.missing {
            "" => self.why.to_string(),
            missing => format!("{}; {missing}", self.why),
        };
        Refusal::new(self.id, self.reason).rule(self.rule.clone()).detail(detail)
    }
}

impl Verdict {
    /// Whether it allows.
    pub fn is_permit(&self) -> bool {
        matches!(self, Self::Permit(_))
    }

    /// The permit, or the denial as error, for use with `?`.
    ///
    /// # Errors
    /// The [`Denial`].
    pub fn into_result(self) -> Result<Permit, Denial> {
        match self {
            Self::Permit(permit) => Ok(permit),
            Self::Denial(denial) => Err(denial),
        }
    }
}
