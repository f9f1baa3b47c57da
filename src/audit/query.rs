//! Answers questions about a log, also about one that is being written. Reads only, in bounded memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::entry::{Line, parse_line};
use super::segment::{Ending, Lines};
use super::store::segments;
use crate::model::{DecisionId, FlowId};

/// The last `count` lines for which `wanted` holds, oldest first; at most [`TAIL_MAX`].
///
/// A line that is no entry is given as `Err` with its bytes, so that nothing is hidden. The second value is where
/// to go on from.
///
/// # Errors
/// [`QueryError`] when a file cannot be read.
pub fn tail<F>(dir: &Path, count: usize, wanted: F) -> Result<(Vec<Row>, Follow), QueryError>
where
    F: Fn(&Line<'_>) -> bool,
{
    let count = count.min(TAIL_MAX);
    let listed = segments(dir).map_err(QueryError::io(dir))?;
    let mut follow = None;
    let mut rows = VecDeque::new();
    for (first, path) in listed.into_iter().rev() {
        let mut found = VecDeque::new();
        let end = read(&path, 0, |row| {
            if row.as_ref().is_ok_and(|line| !wanted(line)) {
                return;
            }
            found.push_back(row);
            // What is older than needed goes at once.
            if found.len() + rows.len() > count {
                found.pop_front();
            }
        })?;
        follow.get_or_insert(Follow { dir: dir.into(), first, offset: end });
        found.append(&mut rows);
        rows = found;
        if rows.len() >= count {
            break;
        }
    }
    let follow = follow.unwrap_or(Follow { dir: dir.into(), first: 0, offset: 0 });
    Ok((rows.into(), follow))
}

/// One line: an entry, or the bytes of what is none.
pub type Row = Result<Line<'static>, Vec<u8>>;

/// A place in the log from which to go on reading.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Follow {
    dir: PathBuf,
    first: u64,
    offset: u64,
}

impl Follow {
    /// The whole lines that have come since, through any new segments; at most some 64 MiB of them at a time.
    ///
    /// # Errors
    /// [`QueryError`] when a file cannot be read.
    pub fn advance(&mut self, mut each: impl FnMut(Row)) -> Result<(), QueryError> {
        for (first, path) in segments(&self.dir).map_err(QueryError::io(&self.dir))? {
            if first < self.first {
                continue;
            }
            if first > self.first {
                (self.first, self.offset) = (first, 0);
            }
            self.offset = read(&path, self.offset, &mut each)?;
        }
        Ok(())
    }
}

/// What [`why`] looks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// Everything that carries this decision.
    Decision(DecisionId),
    /// Everything of this flow since the latest start, after which flows are numbered anew.
    Flow(FlowId),
}

/// The entries of one decision or one flow, in order; at most [`FOUND_MAX`].
///
/// # Errors
/// [`QueryError`] when a file cannot be read.
pub fn why(dir: &Path, wanted: Wanted) -> Result<Vec<Line<'static>>, QueryError> {
    let text = match wanted {
        Wanted::Decision(id) => id.to_string(),
        Wanted::Flow(id) => id.to_string(),
    };
    let mut found: Vec<Line<'static>> = Vec::new();
    for (_, path) in segments(dir).map_err(QueryError::io(dir))? {
        read(&path, 0, |row| {
            let Ok(line) = row else { return };
            let matches = match wanted {
                Wanted::Decision(_) => line.decision.as_deref() == Some(&text),
                Wanted::Flow(_) => {
                    if line.kind == "start" {
                        found.clear();
                    }
                    line.flow.as_deref() == Some(&text)
                }
            };
            if matches && found.len() < FOUND_MAX {
                found.push(line);
            }
        })?;
    }
    Ok(found)
}

/// Why the log cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {error}", path.display())]
pub struct QueryError {
    /// The file.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub error: io::Error,
}

impl QueryError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { path, error }
    }
}

/// Gives each whole line from `offset` on; gives the offset after the last of them.
fn read(path: &Path, offset: u64, mut each: impl FnMut(Row)) -> Result<u64, QueryError> {
    let mut file = File::open(path).map_err(QueryError::io(path))?;
    file.seek(SeekFrom::Start(offset)).map_err(QueryError::io(path))?;
    let mut lines = Lines::new(BufReader::with_capacity(BUFFER_BYTES, file));
    let mut end = 0;
    while let Some(ending) = lines.advance().map_err(QueryError::io(path))? {
        match ending {
            // The writer is at it right now, or a crash tore it: no line yet.
            Ending::Torn => break,
            Ending::Whole => each(parse_line(lines.line()).map_err(|_| lines.line().to_vec())),
            Ending::TooLong => each(Err(lines.line().to_vec())),
        }
        end = lines.offset();
    }
    Ok(offset + end)
}

/// Most entries [`why`] gives.
pub const FOUND_MAX: usize = 1000;
/// Most lines [`tail`] gives.
pub const TAIL_MAX: usize = 10_000;
const BUFFER_BYTES: usize = 256 * 1024;
