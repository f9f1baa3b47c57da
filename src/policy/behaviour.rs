//! `behaviour.toml`: what may be done at most when the analyser finds a device's behaviour strange.
//!
//! The analyser is a neighbour that this room does not know: its words are listed here, in its order, and whoever
//! introduces the two holds that they are the same.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problems, Text, did_you_mean};
use crate::model::ServiceName;

/// The analyser's rules.
pub const BEHAVIOUR_RULES: [&str; 13] = [
    "scan", "fan-out", "failures", "logins", "exfil", "flip", "flood", "slow", "beacon", "mismatch",
    "stranger", "generic", "prior",
];
/// How bad, from mild to bad.
pub const BEHAVIOUR_BANDS: [&str; 4] = ["low", "medium", "high", "critical"];
/// What can be done, from mild to hard.
pub const BEHAVIOUR_ACTIONS: [&str; 6] = ["allow", "throttle", "tarpit", "block", "prove", "quarantine"];
/// Most entries of the file.
pub const BEHAVIOUR_ENTRIES_MAX: usize = 1000;

/// What may be done at most, by service, rule and band: the first entry that fits decides, and where none fits nothing
/// is done.
#[derive(Debug, Default)]
pub struct Behaviour {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Empty: every service.
    services: Vec<ServiceName>,
    /// One bit for each of [`BEHAVIOUR_RULES`].
    rules: u16,
    /// From this one of [`BEHAVIOUR_BANDS`] on.
    band: usize,
    /// One of [`BEHAVIOUR_ACTIONS`].
    action: usize,
}

impl Behaviour {
    /// The place in [`BEHAVIOUR_ACTIONS`] of the hardest thing that may be done. `rule` and `band` are places in
    /// [`BEHAVIOUR_RULES`] and [`BEHAVIOUR_BANDS`].
    pub fn at_most(&self, service: &ServiceName, rule: usize, band: usize) -> usize {
        let fits = |entry: &&Entry| {
            entry.is_of(service)
                && band >= entry.band
                && entry.rules.checked_shr(rule as u32).is_some_and(|r| r & 1 == 1)
        };
        self.entries.iter().find(fits).map_or(0, |entry| entry.action)
    }

    /// Reads `behaviour.toml`; every mistake goes to `problems`.
    pub(crate) fn read(file: &Text<'_>, problems: &mut Problems) -> Self {
        let (root, errors) = DeTable::parse_recoverable(file.text);
        for error in errors {
            problems.push(file.problem(error.span().map_or(0, |s| s.start), error.message()));
        }
        let mut behaviour = Self::default();
        for (key, value) in root.get_ref() {
            let at = value.span().start;
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("behaviour", DeValue::Array(items)) if items.len() <= BEHAVIOUR_ENTRIES_MAX => {
                    behaviour.entries = items.iter().filter_map(|item| entry(file, item, problems)).collect();
                }
                ("behaviour", DeValue::Array(items)) => {
                    let message =
                        format!("{} entries, expected at most {BEHAVIOUR_ENTRIES_MAX}", items.len());
                    problems.push(file.problem(at, message));
                }
                ("behaviour", other) => {
                    let message = format!("`behaviour` is {}, expected a list of tables", other.type_str());
                    problems.push(file.problem(at, message).hint("write `[[behaviour]]`"));
                }
                (unknown, _) => {
                    let hint = did_you_mean(unknown, ["behaviour"].into_iter());
                    let message = format!("unknown key `{unknown}`");
                    problems.push(file.problem(key.span().start, message).hint(hint));
                }
            }
        }
        if behaviour.entries.is_empty() {
            let problem = file.problem(0, "no entry, so nothing would ever be done");
            problems.push(problem.hint("write at least one `[[behaviour]]`, see `docs/analyser.md`"));
        }
        behaviour
    }
}

impl Entry {
    fn is_of(&self, service: &ServiceName) -> bool {
        self.services.is_empty() || self.services.contains(service)
    }
}

fn entry(file: &Text<'_>, item: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<Entry> {
    let DeValue::Table(table) = item.get_ref() else {
        let message = format!("an entry is {}, expected a table", item.get_ref().type_str());
        problems.push(file.problem(item.span().start, message));
        return None;
    };
    let (mut services, mut rules, mut band, mut action) = (Some(Vec::new()), Some(u16::MAX), Some(2), None);
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "services" => {
                services = list(file, value, problems, |text| {
                    text.parse::<ServiceName>().map_err(|e| e.to_string())
                });
                refuse_empty(file, value, services.as_ref().is_some_and(Vec::is_empty), problems);
            }
            "rules" => {
                let named = list(file, value, problems, |text| place(text, &BEHAVIOUR_RULES, "rule"));
                refuse_empty(file, value, named.as_ref().is_some_and(Vec::is_empty), problems);
                rules = named.map(|named| named.into_iter().fold(0, |bits, at| bits | (1 << at)));
            }
            "band" => band = word(file, value, problems, |text| place(text, &BEHAVIOUR_BANDS, "band")),
            "action" => {
                // Told already when it is no action.
                action = Some(word(file, value, problems, |text| place(text, &BEHAVIOUR_ACTIONS, "action")));
            }
            unknown => {
                let hint = did_you_mean(unknown, ["services", "rules", "band", "action"].into_iter());
                problems.push(file.problem(key.span().start, format!("unknown key `{unknown}`")).hint(hint));
            }
        }
    }
    if action.is_none() {
        let problem = file.problem(item.span().start, "an entry without `action`");
        problems.push(problem.hint(format!("one of {}", BEHAVIOUR_ACTIONS.join(", "))));
    }
    Some(Entry { services: services?, rules: rules?, band: band?, action: action?? })
}

fn refuse_empty(file: &Text<'_>, value: &Spanned<DeValue<'_>>, empty: bool, problems: &mut Problems) {
    if empty {
        let problem = file.problem(value.span().start, "an empty list fits nothing");
        problems.push(problem.hint("leave the key out to mean all"));
    }
}

fn list<T>(
    file: &Text<'_>,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Problems,
    mut read: impl FnMut(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let DeValue::Array(items) = value.get_ref() else {
        let message = format!("is {}, expected a list of names", value.get_ref().type_str());
        problems.push(file.problem(value.span().start, message));
        return None;
    };
    items.iter().map(|item| word(file, item, problems, &mut read)).collect()
}

fn word<T>(
    file: &Text<'_>,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Problems,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let read = match value.get_ref() {
        DeValue::String(text) => read(text),
        other => Err(format!("is {}, expected a name", other.type_str())),
    };
    read.map_err(|message| problems.push(file.problem(value.span().start, message))).ok()
}

fn place(text: &str, names: &[&'static str], what: &str) -> Result<usize, String> {
    let found = names.iter().position(|name| *name == text);
    found.ok_or_else(|| format!("`{}` is no {what}; one of {}", text.escape_debug(), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Behaviour, String> {
        let mut problems = Problems::default();
        let behaviour = Behaviour::read(&Text::new("behaviour.toml", text), &mut problems);
        problems.or(behaviour).map_err(|e| e.to_string())
    }

    fn at_most(behaviour: &Behaviour, service: &str, rule: &str, band: &str) -> &'static str {
        let (rule, band) =
            (place(rule, &BEHAVIOUR_RULES, "").unwrap(), place(band, &BEHAVIOUR_BANDS, "").unwrap());
        BEHAVIOUR_ACTIONS[behaviour.at_most(&service.parse().unwrap(), rule, band)]
    }

    #[test]
    fn the_first_entry_that_fits_decides_and_without_one_nothing_is_done() {
        let behaviour = read(
            "[[behaviour]]\nservices = ['backup']\nrules = ['exfil', 'flood']\nband = 'low'\naction = 'allow'\n\
             [[behaviour]]\nrules = ['scan', 'flood', 'exfil']\naction = 'block'\n\
             [[behaviour]]\nservices = ['orders']\nband = 'critical'\naction = 'quarantine'\n",
        )
        .unwrap();
        assert_eq!(at_most(&behaviour, "backup", "exfil", "critical"), "allow");
        assert_eq!(at_most(&behaviour, "backup", "scan", "high"), "block");
        assert_eq!(
            at_most(&behaviour, "orders", "scan", "medium"),
            "allow",
            "`high` unless the entry says else"
        );
        assert_eq!(at_most(&behaviour, "orders", "prior", "critical"), "quarantine");
        assert_eq!(at_most(&behaviour, "web", "prior", "critical"), "allow");
        assert_eq!(behaviour.at_most(&"web".parse().unwrap(), 99, 3), 0);
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let text = "behavior = 1\n[[behaviour]]\nrules = ['scam', 3]\nband = 'worst'\nactoin = 'block'\n\
                    [[behaviour]]\nservices = []\naction = 'kill'\n";
        assert_eq!(
            read(text).unwrap_err(),
            "behaviour.toml:1:1: no entry, so nothing would ever be done (write at least one `[[behaviour]]`, see `docs/analyser.md`)\n\
             behaviour.toml:1:1: unknown key `behavior` (did you mean `behaviour`?)\n\
             behaviour.toml:2:1: an entry without `action` (one of allow, throttle, tarpit, block, prove, quarantine)\n\
             behaviour.toml:3:10: `scam` is no rule; one of scan, fan-out, failures, logins, exfil, flip, flood, slow, beacon, mismatch, stranger, generic, prior\n\
             behaviour.toml:4:8: `worst` is no band; one of low, medium, high, critical\n\
             behaviour.toml:5:1: unknown key `actoin` (did you mean `action`?)\n\
             behaviour.toml:7:12: an empty list fits nothing (leave the key out to mean all)\n\
             behaviour.toml:8:10: `kill` is no action; one of allow, throttle, tarpit, block, prove, quarantine"
        );
        assert!(
            read("behaviour = 3").unwrap_err().contains("`behaviour` is integer, expected a list of tables")
        );
        assert!(read("behaviour = [3]").unwrap_err().contains("an entry is integer"));
        assert!(read("[[behaviour]]\naction = 3").unwrap_err().contains("is integer, expected a name"));
        assert!(read("[[behaviour]]\nrules = 3\naction = 'block'").unwrap_err().contains("expected a list"));
        let many = "[[behaviour]]\naction = 'block'\n".repeat(BEHAVIOUR_ENTRIES_MAX + 1);
        assert!(read(&many).unwrap_err().contains("1001 entries, expected at most 1000"));
    }
}
