//! A refusal as every wire, the log and the audit tell it.

use std::time::Duration;

use super::{DecisionId, Reason};

/// One refusal: the same on the wire, in the log and in the audit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Names this decision everywhere.
    pub id: DecisionId,
    /// Why.
    pub reason: Reason,
    /// The rule that decided, `-` where none did.
    pub rule: Box<str>,
    /// What was missing or wrong, in a few plain words; may be empty.
    pub detail: Box<str>,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that no rule decided.
    pub fn new(id: DecisionId, reason: Reason) -> Self {
        Self { id, reason, rule: "-".into(), detail: "".into(), retry_after: None }
    }

    /// With the few words of what was missing or wrong.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// With the rule that decided.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<Box<str>>) -> Self {
        self.rule = rule.into();
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason.code(), self.reason.sentence())?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        write!(f, "; rule={}; id={}; next: {}", self.rule, self.id, self.reason.next_step())
    }
}
