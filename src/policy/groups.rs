//! `groups.toml`: names for several devices.

use std::collections::{BTreeMap, HashMap};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problems, Text, did_you_mean};
use crate::model::SpiffeId;

/// Most groups of one bundle.
pub const GROUPS_MAX: usize = 1000;

/// Who belongs where.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Members by group, in the file's order.
    members: BTreeMap<Box<str>, Vec<SpiffeId>>,
    /// Groups by device, sorted.
    of: HashMap<Box<str>, Vec<Box<str>>>,
}

impl Groups {
    /// Reads `groups.toml`; every mistake goes to `problems`. Size and nesting are bounded by the file's size and by
    /// the TOML reader.
    pub(crate) fn read(file: &Text<'_>, problems: &mut Problems) -> Self {
        let (root, errors) = DeTable::parse_recoverable(file.text);
        for error in errors {
            let at = error.span().map_or(0, |s| s.start);
            problems.push(file.problem(at, error.message()));
        }
        let mut groups = Self::default();
        for (key, value) in root.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("groups", DeValue::Table(table)) => groups.read_groups(file, table, problems),
                ("groups", other) => {
                    let message = format!("`groups` is {}, expected a table", other.type_str());
                    problems.push(file.problem(value.span().start, message).hint("write `[groups]`"));
                }
                (unknown, _) => {
                    let message = format!("unknown key `{unknown}`");
                    let hint = did_you_mean(unknown, ["groups"].into_iter());
                    problems.push(file.problem(key.span().start, message).hint(hint));
                }
            }
        }
        groups
    }

    fn read_groups(&mut self, file: &Text<'_>, table: &DeTable<'_>, problems: &mut Problems) {
        if table.len() > GROUPS_MAX {
            let message = format!("{} groups, expected at most {GROUPS_MAX}", table.len());
            problems.push(file.problem(0, message));
            return;
        }
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if !is_label(name) {
                let message = format!("group name `{}` must be 1..=64 of `a-z 0-9 -`", name.escape_debug());
                problems.push(file.problem(key.span().start, message));
            }
            let DeValue::Array(array) = value.get_ref() else {
                let message = format!(
                    "group `{name}` is {}, expected a list of SPIFFE IDs",
                    value.get_ref().type_str()
                );
                problems.push(file.problem(value.span().start, message));
                continue;
            };
            let members: Vec<_> = array.iter().filter_map(|v| read_member(file, name, v, problems)).collect();
            self.add(name, members);
        }
    }

    fn add(&mut self, name: &str, members: Vec<SpiffeId>) {
        for member in &members {
            let of = self.of.entry(member.as_str().into()).or_default();
            // Groups come sorted by name, so a device listed twice in one group shows at the end.
            if of.last().is_none_or(|last| **last != *name) {
                of.push(name.into());
            }
        }
        self.members.insert(name.into(), members);
    }

    /// The groups of a device, sorted.
    pub(crate) fn of(&self, device: &SpiffeId) -> &[Box<str>] {
        self.of.get(device.as_str()).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(|name| &**name)
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = (&str, &[SpiffeId])> {
        self.members.iter().map(|(name, members)| (&**name, members.as_slice()))
    }
}

fn read_member(
    file: &Text<'_>,
    group: &str,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Problems,
) -> Option<SpiffeId> {
    let DeValue::String(text) = value.get_ref() else {
        let message =
            format!("a member of `{group}` is {}, expected a SPIFFE ID", value.get_ref().type_str());
        problems.push(file.problem(value.span().start, message));
        return None;
    };
    match text.parse() {
        Ok(id) => Some(id),
        Err(e) => {
            let problem = file
                .problem(value.span().start, format!("`{}` in group `{group}`: {e}", text.escape_debug()));
            problems.push(problem.hint("write it whole: `spiffe://example.org/device/web-1`"));
            None
        }
    }
}

/// Whether a text is a rule's or group's name: 1..=64 bytes of `a-z 0-9 -`.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mistakes of a `groups.toml`, one a line.
    fn check(text: &str) -> String {
        let mut problems = Problems::default();
        Groups::read(&Text::new("groups.toml", text), &mut problems);
        problems.or(()).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_device_knows_its_groups_sorted_and_once() {
        let text = "[groups]\nweb = ['spiffe://a/x', 'spiffe://a/x']\nall = ['spiffe://a/x', 'spiffe://a/y']\nno = []";
        let mut problems = Problems::default();
        let groups = Groups::read(&Text::new("groups.toml", text), &mut problems);
        problems.or(()).unwrap();
        assert_eq!(groups.of(&"spiffe://a/x".parse().unwrap()), ["all".into(), "web".into()]);
        assert!(groups.of(&"spiffe://a/z".parse().unwrap()).is_empty());
        assert!(groups.contains("no"));
    }

    #[test]
    fn every_mistake_of_a_groups_file_is_told_with_its_place() {
        let text = "grups = 1\n[groups]\n\"A b\" = []\nweb = ['web-1', 3]\nx = 'spiffe://a/x'\n";
        assert_eq!(
            check(text),
            "groups.toml:1:1: unknown key `grups` (did you mean `groups`?)\n\
             groups.toml:3:1: group name `A b` must be 1..=64 of `a-z 0-9 -`\n\
             groups.toml:4:8: `web-1` in group `web`: SPIFFE ID must begin with `spiffe://` \
             (write it whole: `spiffe://example.org/device/web-1`)\n\
             groups.toml:4:17: a member of `web` is integer, expected a SPIFFE ID\n\
             groups.toml:5:5: group `x` is string, expected a list of SPIFFE IDs"
        );
        assert!(check("groups = []").contains("`groups` is array, expected a table"));
        assert!(check("[groups]\nweb = [\n").starts_with("groups.toml:"));
        assert!(check("[groups]\nweb = []\nweb = []").starts_with("groups.toml:3:1: duplicate key"));
    }

    #[test]
    fn too_many_groups_are_refused() {
        let text = |n: usize| (0..n).fold("[groups]\n".to_owned(), |t, i| t + &format!("g{i} = []\n"));
        assert_eq!(check(&text(GROUPS_MAX)), "");
        assert!(check(&text(GROUPS_MAX + 1)).contains("1001 groups, expected at most 1000"));
    }
}
