//! What is allowed in a bundle but looks like a slip.

use super::bundle::{Bundle, GROUPS_FILE};
use super::index::{What, Who, scope};
use super::problem::Problem;
use super::rules::{Effect, Rule};

impl Bundle {
    /// Warnings by file and place: permits that a forbid shadows wholly or that allow everything, groups that are
    /// empty but named or that no rule names.
    pub fn lints(&self) -> Vec<Problem> {
        let mut found: Vec<_> = self.rules.iter().filter_map(|rule| self.lint_rule(rule)).collect();
        let named: Vec<_> = self.rules.iter().flat_map(|r| r.policy.entity_literals()).collect();
        let is_named = |name: &str| {
            named.iter().any(|uid| {
                uid.type_name().to_string() == super::schema::GROUP && uid.id().unescaped() == name
            })
        };
        for (name, members) in self.groups.each() {
            match (is_named(name), members.is_empty()) {
                (false, _) => {
                    found.push(Problem::whole(GROUPS_FILE, format!("no rule names group `{name}`")))
                }
                (true, true) => {
                    found.push(Problem::whole(GROUPS_FILE, format!("group `{name}` has no member")))
                }
                (true, false) => {}
            }
        }
        found
    }

    fn lint_rule(&self, rule: &Rule) -> Option<Problem> {
        if rule.effect == Effect::Forbid {
            return None;
        }
        let (who, what) = scope(rule);
        let shadows = |forbid: &&Rule| {
            let (forbidden_who, forbidden_what) = scope(forbid);
            forbid.effect == Effect::Forbid
                && !forbid.conditional
                && self.covers(&forbidden_who, &who)
                && covers_service(&forbidden_what, &what)
        };
        if let Some(forbid) = self.rules.iter().find(shadows) {
            let message =
                format!("permit `{}` never takes effect: forbid `{}` covers it", rule.id, forbid.id);
            return Some(at(rule, message));
        }
        let boundless = who == Who::Any && what.is_none() && !rule.conditional;
        boundless.then(|| at(rule, format!("permit `{}` lets every device reach every service", rule.id)))
    }

    /// Whether everyone `narrow` names is named by `wide`.
    fn covers(&self, wide: &Who, narrow: &Who) -> bool {
        match (wide, narrow) {
            (Who::Any, _) => true,
            (Who::Group(group), Who::Device(id)) => {
                id.parse().is_ok_and(|id| self.groups.of(&id).iter().any(|g| g == group))
            }
            (wide, narrow) => wide == narrow,
        }
    }
}

fn covers_service(wide: &What, narrow: &What) -> bool {
    wide.is_none() || wide == narrow
}

fn at(rule: &Rule, message: String) -> Problem {
    let (file, line, column) = (rule.file.clone(), rule.line, rule.column);
    Problem { file, line, column, message: message.into(), hint: "".into() }
}
