//! What is wrong with policy files, and where: every mistake at once.

use std::fmt;

/// Most mistakes listed at once; the rest is only counted.
pub const PROBLEMS_MAX: usize = 1000;

/// One mistake and its place.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Problem {
    /// The file, as the reader can open it.
    pub file: Box<str>,
    /// Line from 1 up; 0 when the whole file is meant.
    pub line: u32,
    /// Column in characters from 1 up; 0 when the whole file is meant.
    pub column: u32,
    /// What is wrong.
    pub message: Box<str>,
    /// What to do about it; may be empty.
    pub hint: Box<str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

/// All the mistakes of a policy folder, by file, line and column; never empty.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct LoadError {
    /// At most [`PROBLEMS_MAX`] of them.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub unlisted: usize,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let gap = if at == 0 { "" } else { "\n" };
            write!(f, "{gap}{problem}")?;
        }
        if self.unlisted > 0 {
            write!(f, "\nand {} more", self.unlisted)?;
        }
        Ok(())
    }
}

impl LoadError {
    /// One mistake about a whole file or folder.
    pub(crate) fn whole(file: &str, message: impl Into<Box<str>>) -> Self {
        Self { problems: vec![Problem::whole(file, message)], unlisted: 0 }
    }

    /// With the folder before every file name; a file without a name is the folder.
    pub(crate) fn within(mut self, dir: &std::path::Path) -> Self {
        for problem in &mut self.problems {
            problem.set_within(dir);
        }
        self
    }
}

impl Problem {
    pub(crate) fn whole(file: &str, message: impl Into<Box<str>>) -> Self {
        Self { file: file.into(), line: 0, column: 0, message: message.into(), hint: "".into() }
    }

    /// With the folder before the file's name; a file without a name is the folder.
    #[must_use]
    pub fn within(mut self, dir: &std::path::Path) -> Self {
        self.set_within(dir);
        self
    }

    fn set_within(&mut self, dir: &std::path::Path) {
        let path = if self.file.is_empty() { dir.to_owned() } else { dir.join(&*self.file) };
        self.file = path.display().to_string().into();
    }

    pub(crate) fn hint(mut self, hint: impl Into<Box<str>>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// Collects mistakes up to [`PROBLEMS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Problems {
    listed: Vec<Problem>,
    unlisted: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        if self.listed.len() < PROBLEMS_MAX {
            self.listed.push(problem);
        } else {
            self.unlisted += 1;
        }
    }

    /// What was made when nothing was wrong.
    pub(crate) fn or<T>(mut self, made: T) -> Result<T, LoadError> {
        if self.listed.is_empty() {
            return Ok(made);
        }
        self.listed.sort();
        self.listed.dedup();
        Err(LoadError { problems: self.listed, unlisted: self.unlisted })
    }
}

/// A file's text that knows where its lines begin.
#[derive(Debug)]
pub(crate) struct Text<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    lines: Vec<usize>,
}

impl<'a> Text<'a> {
    pub(crate) fn new(name: &'a str, text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { name, text, lines: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// Line and column, both from 1 up, of a byte offset; past the end means the end.
    pub(crate) fn place(&self, offset: usize) -> (u32, u32) {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        // Counted without UTF-8's continuation bytes, so that an offset within a character is no special case.
        let column = before.iter().filter(|b| **b & 0xC0 != 0x80).count() + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }

    pub(crate) fn problem(&self, offset: usize, message: impl Into<Box<str>>) -> Problem {
        let (line, column) = self.place(offset);
        Problem { file: self.name.into(), line, column, message: message.into(), hint: "".into() }
    }
}

/// A hint naming the candidate that looks most like `name`, empty when none does.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let near = candidates.map(|c| (strsim::jaro_winkler(name, c), c)).filter(|(score, _)| *score > ALIKE_MIN);
    match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, best)) => format!("did you mean `{best}`?"),
        None => String::new(),
    }
}

/// Jaro-Winkler similarity from which on two names are taken for a slip of the pen.
const ALIKE_MIN: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = Text::new("a", "é x\ny\n");
        assert_eq!(
            [0, 2, 3, 5, 7, 99].map(|at| text.place(at)),
            [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 1)]
        );
    }

    #[test]
    fn mistakes_past_the_bound_are_counted_and_not_listed() {
        let mut problems = Problems::default();
        for at in 0..PROBLEMS_MAX + 7 {
            problems.push(Problem::whole(&at.to_string(), "wrong"));
        }
        let error = problems.or(()).unwrap_err();
        assert_eq!((error.problems.len(), error.unlisted), (PROBLEMS_MAX, 7));
        assert!(error.to_string().ends_with("\nand 7 more"));
    }
}
