//! Reads a parsed TOML tree key by key; whatever does not fit is written down with its place.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Noted, Notes, Read};
use super::show;
use crate::model::units;

/// One table. It remembers which keys were asked for: [`Table::finish`] tells the others.
pub(super) struct Table<'n> {
    notes: &'n Notes<'n>,
    name: &'static str,
    /// How people write its header.
    header: String,
    at: usize,
    /// None when the file has no such table.
    entries: Option<&'n DeTable<'n>>,
    asked: Vec<&'static str>,
}

/// One value.
pub(super) struct Value<'n> {
    notes: &'n Notes<'n>,
    key: String,
    /// Its offset in the file.
    pub at: usize,
    value: &'n DeValue<'n>,
}

impl<'n> Table<'n> {
    /// The whole file.
    pub fn root(notes: &'n Notes<'n>, entries: &'n DeTable<'n>) -> Self {
        Self { notes, name: "", header: String::new(), at: 0, entries: Some(entries), asked: Vec::new() }
    }

    /// The value of `key`, when there is one.
    pub fn get(&mut self, key: &'static str) -> Option<Value<'n>> {
        let value = self.entry(key)?;
        let key = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        Some(Value { notes: self.notes, key, at: value.span().start, value: value.get_ref() })
    }

    /// What `read` makes of the value of `key`, or `default` when there is none.
    pub fn get_or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Value<'n>) -> Read<T>,
    ) -> Read<T> {
        self.get(key).map_or(Ok(default), read)
    }

    /// The value of `key`, which must be there.
    pub fn need(&mut self, key: &'static str, example: &str) -> Read<Value<'n>> {
        self.get(key).ok_or_else(|| {
            let place = if self.header.is_empty() { String::new() } else { format!(" in `{}`", self.header) };
            self.absent(format!("missing `{key}`{place}, for example `{key} = {example}`"))
        })
    }

    /// The table of this name; an empty one when the file has none.
    pub fn table(&mut self, name: &'static str) -> Table<'n> {
        let header = format!("[{name}]");
        let found = self.entry(name);
        let entries = found.and_then(|value| {
            let entries = value.get_ref().as_table();
            if entries.is_none() {
                let got = value.get_ref().type_str();
                self.notes.wrong(
                    value.span().start,
                    format!("`{name}` must be one table `{header}`, got {}", a(got)),
                );
            }
            entries
        });
        let at = found.map_or(0, |value| value.span().start);
        Table { notes: self.notes, name, header, at, entries, asked: Vec::new() }
    }

    /// The tables of a list `[[name]]`, at most [`ITEMS_MAX`].
    pub fn tables(&mut self, name: &'static str) -> Vec<Table<'n>> {
        let header = format!("[[{name}]]");
        let Some(found) = self.entry(name) else { return Vec::new() };
        let Some(items) = found.get_ref().as_array() else {
            let got = found.get_ref().type_str();
            self.notes.wrong(
                found.span().start,
                format!("`{name}` must be a list of tables, each under `{header}`, got {}", a(got)),
            );
            return Vec::new();
        };
        if items.len() > ITEMS_MAX {
            self.notes.wrong(
                found.span().start,
                format!("`{name}` has {} items, expected at most {ITEMS_MAX}", items.len()),
            );
        }
        let mut tables = Vec::new();
        for item in items.iter().take(ITEMS_MAX) {
            let at = item.span().start;
            match item.get_ref().as_table() {
                Some(entries) => tables.push(Table {
                    notes: self.notes,
                    name,
                    header: header.clone(),
                    at,
                    entries: Some(entries),
                    asked: Vec::new(),
                }),
                None => {
                    let got = item.get_ref().type_str();
                    self.notes.wrong(at, format!("`{name}` must hold tables `{header}`, got {}", a(got)));
                }
            }
        }
        tables
    }

    /// Whether the file has it.
    pub fn is_there(&self) -> bool {
        self.entries.is_some()
    }

    /// Its offset in the file, 0 when the file does not have it.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Writes down that something is missing here.
    pub fn absent(&self, message: impl Into<String>) -> Noted {
        self.notes.absent(self.at, message)
    }

    /// Writes down every key that nobody asked for.
    pub fn finish(self) {
        for (key, value) in self.entries.into_iter().flatten() {
            if self.asked.contains(&key.get_ref().as_ref()) {
                continue;
            }
            if self.notes.full() {
                self.notes.wrong(key.span().start, "");
                continue;
            }
            let (what, open, close) = match (self.header.is_empty(), value.get_ref()) {
                (true, DeValue::Table(_)) => ("table", "[", "]"),
                (true, DeValue::Array(_)) => ("list", "[[", "]]"),
                _ => ("key", "", ""),
            };
            let place = if self.header.is_empty() { String::new() } else { format!(" in `{}`", self.header) };
            let hint = nearest(key.get_ref(), self.asked.iter().copied())
                .map_or(String::new(), |name| format!("; did you mean `{open}{name}{close}`?"));
            let message = format!("unknown {what} `{open}{}{close}`{place}{hint}", cut(key.get_ref()));
            self.notes.wrong(key.span().start, message);
        }
    }

    fn entry(&mut self, key: &'static str) -> Option<&'n Spanned<DeValue<'n>>> {
        self.asked.push(key);
        self.entries.and_then(|entries| entries.get(key))
    }
}

impl<'n> Value<'n> {
    /// Writes down what is wrong with this value; `problem` continues the sentence that its key begins.
    pub fn wrong(&self, problem: impl AsRef<str>) -> Noted {
        self.notes.wrong(self.at, format!("`{}` {}", self.key, problem.as_ref()))
    }

    /// As text.
    pub fn text(&self) -> Read<&'n str> {
        match self.value {
            DeValue::String(text) => Ok(text.as_ref()),
            other => Err(self.wrong(format!("must be a string, got {}", a(other.type_str())))),
        }
    }

    /// As text that is not empty and holds no NUL.
    pub fn words(&self) -> Read<&'n str> {
        match self.text()? {
            "" => Err(self.wrong("must not be empty")),
            text if text.contains('\0') => Err(self.wrong("must not hold a NUL character")),
            text => Ok(text),
        }
    }

    /// As anything that is read from text.
    pub fn parse<T: FromStr<Err: std::fmt::Display>>(&self) -> Read<T> {
        let text = self.text()?;
        text.parse().map_err(|e| self.wrong(format!("is `{}`: {e}", cut(text))))
    }

    /// As the address and port of a socket.
    pub fn address(&self) -> Read<SocketAddr> {
        let text = self.text()?;
        text.parse().map_err(|_| {
            let expected = "an address and a port such as `127.0.0.1:15443` or `[::1]:15443`";
            self.wrong(format!("must be {expected}, got `{}`", cut(text)))
        })
    }

    /// As yes or no.
    pub fn flag(&self) -> Read<bool> {
        let got = || self.wrong(format!("must be `true` or `false`, got {}", a(self.value.type_str())));
        self.value.as_bool().ok_or_else(got)
    }

    /// As one of a few words.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Read<T> {
        let text = self.text()?;
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let expected: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let hint = nearest(text, words.iter().map(|(word, _)| *word))
                .map_or(String::new(), |word| format!("; did you mean `{word}`?"));
            self.wrong(format!("must be {}, got `{}`{hint}", expected.join(" or "), cut(text)))
        })
    }

    /// As a whole number of this range.
    pub fn count<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Read<T> {
        let expected = format!("must be a whole number of {}..={}", range.start(), range.end());
        let DeValue::Integer(integer) = self.value else {
            return Err(self.wrong(format!("{expected}, got {}", a(self.value.type_str()))));
        };
        u64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|n| range.contains(n))
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(|| self.wrong(format!("{expected}, got `{}`", cut(&integer.to_string()))))
    }

    /// As a time of this range, `"500ms"`, `"10s"`, `"24h"`.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Read<Duration> {
        let expected = || {
            let (from, to) = (show::duration(*range.start()), show::duration(*range.end()));
            format!("must be a time of `{from}`..=`{to}`")
        };
        let DeValue::String(text) = self.value else {
            return Err(self.wrong(format!(
                "{} such as \"10s\", got {}",
                expected(),
                a(self.value.type_str())
            )));
        };
        match units::duration(text) {
            Ok(time) if range.contains(&time) => Ok(time),
            Ok(_) => Err(self.wrong(format!("{}, got `{}`", expected(), cut(text)))),
            Err(e) => Err(self.wrong(format!("{}: {e}", expected()))),
        }
    }

    /// As a size in bytes of this range, `"64MiB"` or a plain number.
    pub fn size(&self, range: RangeInclusive<u64>) -> Read<u64> {
        let expected =
            || format!("must be a size of `{}`..=`{}`", show::size(*range.start()), show::size(*range.end()));
        let text = match self.value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().to_owned(),
            other => {
                return Err(self.wrong(format!(
                    "{} such as \"64MiB\", got {}",
                    expected(),
                    a(other.type_str())
                )));
            }
        };
        match units::size(&text) {
            Ok(bytes) if range.contains(&bytes) => Ok(bytes),
            Ok(_) => Err(self.wrong(format!("{}, got `{}`", expected(), cut(&text)))),
            Err(e) => Err(self.wrong(format!("{}: {e}", expected()))),
        }
    }

    /// As a table of names and these, `{ a = 1, b = 2 }`; at most `max` of them.
    pub fn pairs<T>(&self, max: usize, read: impl Fn(&str, &Value<'n>) -> Read<T>) -> Read<Vec<T>> {
        let DeValue::Table(entries) = self.value else {
            let got = a(self.value.type_str());
            return Err(
                self.wrong(format!("must be a table of names and values `{{ name = 1 }}`, got {got}"))
            );
        };
        if entries.len() > max {
            return Err(self.wrong(format!("has {} names, expected at most {max}", entries.len())));
        }
        // Read all of them before the first mistake ends it: each mistake is told.
        let read: Vec<_> = entries
            .iter()
            .map(|(name, value)| {
                let key = format!("{}.{}", self.key, cut(name.get_ref()));
                let (at, value) = (value.span().start, value.get_ref());
                read(name.get_ref(), &Value { notes: self.notes, key, at, value })
            })
            .collect();
        read.into_iter().collect()
    }

    /// As a list of these; at most `max` items.
    pub fn list<T>(&self, max: usize, read: impl Fn(&Value<'n>) -> Read<T>) -> Read<Vec<T>> {
        let DeValue::Array(items) = self.value else {
            return Err(self.wrong(format!("must be a list `[…]`, got {}", a(self.value.type_str()))));
        };
        if items.len() > max {
            return Err(self.wrong(format!("has {} items, expected at most {max}", items.len())));
        }
        // Read all of them before the first mistake ends it: each mistake is told.
        let read: Vec<_> = items
            .iter()
            .map(|item| {
                let (at, value) = (item.span().start, item.get_ref());
                read(&Value { notes: self.notes, key: self.key.clone(), at, value })
            })
            .collect();
        read.into_iter().collect()
    }
}

/// The nearest of the known words, when one is near.
fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let word = cut(word).to_lowercase();
    let distance = |name: &&str| strsim::damerau_levenshtein(&word, name);
    let allowed = (word.chars().count() / 3).max(1);
    known.min_by_key(distance).filter(|name| distance(name) <= allowed)
}

/// Text of the file as it may stand in one line of a message.
pub(super) fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(CUT_LEN).flat_map(char::escape_debug).collect();
    if text.chars().nth(CUT_LEN).is_some() {
        shown.push('…');
    }
    shown.replace("\\\"", "\"").replace("\\'", "'")
}

fn a(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// Most items of one `[[list]]`.
pub(super) const ITEMS_MAX: usize = 256;
/// Characters of the file that a message repeats.
const CUT_LEN: usize = 80;
