//! Which rules could apply at all: by the device, its groups and the service in their scopes.
//!
//! A rule whose scope does not match neither decides nor errs, because Cedar evaluates the scope first and stops
//! there. Leaving it out therefore changes nothing; a property test compares with all rules.

use std::collections::HashMap;

use cedar_policy::{EntityUid, PrincipalConstraint, ResourceConstraint};

use super::rules::Rule;
use super::schema::{DEVICE, GROUP, SERVICE};

/// Rule numbers by service, then by device or group.
#[derive(Debug, Default)]
pub(crate) struct Index {
    any: Lane,
    by_service: HashMap<Box<str>, Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    any: Vec<usize>,
    by_device: HashMap<Box<str>, Vec<usize>>,
    by_group: HashMap<Box<str>, Vec<usize>>,
}

/// Whom a rule's scope names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    Any,
    Device(Box<str>),
    Group(Box<str>),
}

/// What a rule's scope names; `None` is any service.
pub(crate) type What = Option<Box<str>>;

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in rules.iter().enumerate() {
            let (who, what) = scope(rule);
            let lane = match what {
                None => &mut index.any,
                Some(service) => index.by_service.entry(service).or_default(),
            };
            match who {
                Who::Any => lane.any.push(number),
                Who::Device(id) => lane.by_device.entry(id).or_default().push(number),
                Who::Group(name) => lane.by_group.entry(name).or_default().push(number),
            }
        }
        index
    }

    /// The rules whose scope may match, in the bundle's order.
    pub(crate) fn candidates(&self, device: &str, groups: &[Box<str>], service: &str) -> Vec<usize> {
        let mut found = Vec::new();
        for lane in std::iter::once(&self.any).chain(self.by_service.get(service)) {
            found.extend_from_slice(&lane.any);
            found.extend(lane.by_device.get(device).into_iter().flatten());
            found.extend(groups.iter().filter_map(|g| lane.by_group.get(g)).flatten());
        }
        found.sort_unstable();
        found
    }
}

/// The scope of a rule. What is not understood counts as any: too many candidates never change a decision.
pub(crate) fn scope(rule: &Rule) -> (Who, What) {
    let who = match rule.policy.principal_constraint() {
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => Who::Any,
        PrincipalConstraint::Eq(uid) => device(&uid).unwrap_or(Who::Any),
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
            device(&uid).or_else(|| named(&uid, GROUP).map(Who::Group)).unwrap_or(Who::Any)
        }
    };
    let what = match rule.policy.resource_constraint() {
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
        // Services have no parents: `in` is the same as `==`.
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
            named(&uid, SERVICE)
        }
    };
    (who, what)
}

fn device(uid: &EntityUid) -> Option<Who> {
    named(uid, DEVICE).map(Who::Device)
}

fn named(uid: &EntityUid, kind: &str) -> Option<Box<str>> {
    (uid.type_name().to_string() == kind).then(|| uid.id().unescaped().into())
}
