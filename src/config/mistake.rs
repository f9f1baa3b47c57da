//! Every mistake of a configuration file, with its place.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// All the mistakes of one configuration file, in the order of the file; never empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mistakes {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The mistakes, at most [`Mistakes::SHOWN_MAX`].
    pub list: Vec<Mistake>,
    /// How many more there are.
    pub more: usize,
}

/// One mistake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mistake {
    /// Where it is; none when it concerns the file as a whole.
    pub at: Option<Position>,
    /// What is wrong: the key, what was expected and what was found.
    pub message: String,
}

/// A place in a text.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// From 1 up.
    pub line: usize,
    /// In characters, from 1 up.
    pub column: usize,
}

impl Mistakes {
    /// Most mistakes told at once; the others are counted.
    pub const SHOWN_MAX: usize = 100;

    /// One mistake that concerns the file as a whole.
    pub(super) fn of_file(file: &Path, message: String) -> Self {
        Self { file: file.to_owned(), list: vec![Mistake { at: None, message }], more: 0 }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (i, mistake) in self.list.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            match mistake.at {
                Some(at) => write!(f, "{newline}{file}:{}:{}: {}", at.line, at.column, mistake.message)?,
                None => write!(f, "{newline}{file}: {}", mistake.message)?,
            }
        }
        if self.more > 0 {
            write!(f, "\n{file}: and {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// What is written down while a text is read.
pub(super) struct Notes<'t> {
    text: &'t str,
    list: Cell<Vec<Note>>,
    /// Notes past [`NOTES_MAX`].
    more: Cell<usize>,
}

/// Proof that a mistake was written down: whoever fails to read a value holds one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted(());

/// A value, or the proof that its mistake was written down.
pub(super) type Read<T> = Result<T, Noted>;

struct Note {
    at: usize,
    kind: Kind,
    message: String,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    /// The text is no TOML here.
    Syntax,
    /// A key or value that cannot be.
    Value,
    /// Something that should be there is not.
    Absent,
}

impl<'t> Notes<'t> {
    /// No mistakes yet.
    pub fn new(text: &'t str) -> Self {
        Self { text, list: Cell::default(), more: Cell::new(0) }
    }

    /// The text is no TOML at this offset.
    pub fn syntax(&self, at: usize, message: impl Into<String>) -> Noted {
        self.note(at, Kind::Syntax, message.into())
    }

    /// The key or value at this offset cannot be.
    pub fn wrong(&self, at: usize, message: impl Into<String>) -> Noted {
        self.note(at, Kind::Value, message.into())
    }

    /// Something is missing from what begins at this offset.
    pub fn absent(&self, at: usize, message: impl Into<String>) -> Noted {
        self.note(at, Kind::Absent, message.into())
    }

    /// So many are written down that more are only counted: a message need not be composed.
    pub fn full(&self) -> bool {
        self.more.get() > 0
    }

    fn note(&self, at: usize, kind: Kind, message: String) -> Noted {
        let mut list = self.list.take();
        if list.len() < NOTES_MAX {
            list.push(Note { at, kind, message });
        } else {
            self.more.set(self.more.get().saturating_add(1));
        }
        self.list.set(list);
        Noted(())
    }

    /// What was read, when nothing was written down.
    pub fn close<T>(self, file: &Path, read: Read<T>) -> Result<T, Mistakes> {
        let mut notes = self.list.take();
        if let (Ok(value), true) = (read, notes.is_empty()) {
            return Ok(value);
        }
        notes.sort_by_key(|note| note.at);
        let lines = Lines::of(self.text);
        let syntax = notes.iter().filter(|note| note.kind == Kind::Syntax);
        let broken: Vec<_> = syntax.map(|note| lines.hidden_by(lines.position(note.at).line)).collect();
        let mut list = Vec::new();
        let mut more = self.more.get();
        let mut syntax_line = 0;
        for note in notes {
            let at = lines.position(note.at);
            // A broken line is told once, and what follows from it is not: the key it hides is not "missing".
            let told = match note.kind {
                Kind::Syntax => std::mem::replace(&mut syntax_line, at.line) != at.line,
                Kind::Value => !broken.iter().any(|hidden| hidden.contains(&at.line)),
                Kind::Absent => broken.is_empty(),
            };
            if !told {
                continue;
            }
            match list.len() < Mistakes::SHOWN_MAX {
                true => list.push(Mistake { at: Some(at), message: note.message }),
                false => more = more.saturating_add(1),
            }
        }
        Err(Mistakes { file: file.to_owned(), list, more })
    }
}

/// Where the lines of a text begin, and which of them are the headers of tables.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
    /// Counted from 1.
    headers: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn of(text: &'t str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(i, _)| i + 1);
        let starts = std::iter::once(0).chain(after_newlines).collect();
        let is_header = |line: &str| line.trim_start_matches([' ', '\t']).starts_with('[');
        let numbered = text.split('\n').zip(1..);
        let headers = numbered.filter(|(line, _)| is_header(line)).map(|(_, number)| number).collect();
        Self { text, starts, headers }
    }

    /// The lines that cannot be trusted when this one is broken: a broken header hides whose the next keys are.
    fn hidden_by(&self, line: usize) -> Range<usize> {
        match self.headers.binary_search(&line) {
            Ok(i) => line..self.headers.get(i + 1).copied().unwrap_or(usize::MAX),
            Err(_) => line..line + 1,
        }
    }

    fn position(&self, at: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= at).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let end = at.min(self.text.len());
        // An offset within a character counts as the character's.
        let end = (start..=end).rev().find(|i| self.text.is_char_boundary(*i)).unwrap_or(start);
        let column = self.text.get(start..end).map_or(0, |before| before.chars().count());
        Position { line, column: column + 1 }
    }
}

/// Most notes kept while a file is read; the others are only counted.
const NOTES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_lines_and_characters_from_one() {
        let lines = Lines::of("ab\nä = 1\n");
        let at = |offset| {
            let p = lines.position(offset);
            (p.line, p.column)
        };
        assert_eq!(
            [at(0), at(2), at(3), at(5), at(4), at(9), at(999)],
            [(1, 1), (1, 3), (2, 1), (2, 2), (2, 1), (2, 6), (3, 1)]
        );
    }

    #[test]
    fn past_the_bound_mistakes_are_counted_and_not_told() {
        let notes = Notes::new("x");
        for i in 0..NOTES_MAX + 50 {
            notes.wrong(0, format!("mistake {i}"));
        }
        assert!(notes.full());
        let mistakes = notes.close(Path::new("a.toml"), Ok(())).unwrap_err();
        assert_eq!(mistakes.list.len(), Mistakes::SHOWN_MAX);
        assert_eq!(mistakes.more, NOTES_MAX + 50 - Mistakes::SHOWN_MAX);
        assert!(mistakes.to_string().ends_with("\na.toml: and 950 more"));
    }

    #[test]
    fn what_follows_from_a_broken_line_is_not_told() {
        let notes = Notes::new("a\nb\nc");
        notes.syntax(0, "broken");
        notes.syntax(0, "broken again");
        notes.wrong(0, "of the broken line");
        notes.wrong(2, "of another line");
        notes.absent(4, "hidden by the broken line");
        let mistakes = notes.close(Path::new("f"), Ok(())).unwrap_err();
        assert_eq!(mistakes.to_string(), "f:1:1: broken\nf:2:1: of another line");
    }

    #[test]
    fn a_value_is_given_out_only_when_nothing_was_noted() {
        assert_eq!(Notes::new("").close(Path::new("f"), Ok(1)), Ok(1));
        let notes = Notes::new("");
        notes.wrong(0, "no");
        assert!(notes.close(Path::new("f"), Ok(1)).is_err());
    }
}
