//! Reads a whole log and says whether it is what the signed checkpoint promises, and if not, where.
//!
//! One pass, bounded memory. Integrity: what is there is unchanged. Completeness: nothing is missing.
//! Cutting entries off *and* rolling checkpoint and tiles back to an older state of the same log leaves a log
//! that is whole in itself: only a checkpoint seen elsewhere shows it, so [`check`] takes one.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::chain::{HASH_LEN, Hash, TILE_WIDTH, Tile, Tree, leaf_hash, tile_path, tile_width};
use super::entry::{parse_line, seq_of};
use super::note::{Checkpoint, NOTE_LEN_MAX, NoteError, Verifier};
use super::segment::{Ending, Lines};
use super::store::{CHECKPOINT, segments};

/// What a pass over the log found.
#[derive(Debug)]
pub struct Findings {
    /// The signed checkpoint it was held against.
    pub checkpoint: Checkpoint,
    /// What is there is unchanged.
    pub integrity: Result<(), Tampering>,
    /// Nothing is missing.
    pub completeness: Result<(), Gap>,
    /// Well-formed entries after the checkpoint, which no signature covers yet.
    pub newer: u64,
    /// What follows them and is no entry.
    pub cut: Option<Cut>,
    /// Tiles that are missing though the entries under them are whole.
    pub tiles_missing: u64,
    /// The tree over checkpoint and newer entries; of use only when both verdicts are good.
    pub(super) tree: Tree,
    /// The tiles that became full with the newer entries.
    pub(super) tiles: Vec<Tile>,
    /// The last segment: first entry and length in bytes without what is to be cut.
    pub(super) last: Option<(u64, u64)>,
}

/// Where an entry stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Its number.
    pub entry: u64,
    /// Its file.
    pub file: PathBuf,
    /// Its line in that file, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} (`{}` line {})", self.entry, self.file.display(), self.line)
    }
}

/// Bytes after the last entry that are no entry: a torn write, or something put there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cut {
    /// The file.
    pub file: PathBuf,
    /// The first line that is no entry, from 1.
    pub line: u64,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How many bytes from there to the end of the file.
    pub bytes: u64,
}

/// What was changed below the checkpoint.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Tampering {
    /// This entry, and surely this one first.
    #[error("{0} was changed")]
    Entry(Place),
    /// An entry that was moved here, or stands twice.
    #[error("`{}` line {line} is out of place", file.display())]
    OutOfPlace {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
    },
    /// Entries and tiles, so that the place is only where they first disagree.
    #[error(
        "the entries do not give the signed root, and the tiles were changed too; they first disagree at {0}"
    )]
    EntryAndTiles(Place),
    /// Entries and the lowest tiles alike, but not the tiles above them.
    #[error("one of the entries {from} to {to} was changed, and its tile too")]
    Range {
        /// The first it may be.
        from: u64,
        /// The last it may be.
        to: u64,
    },
    /// The tiles are gone, so that the place cannot be named.
    #[error("the entries do not give the signed root; without the tiles the changed one cannot be named")]
    Unplaced,
    /// Entries and tiles alike.
    #[error(
        "the entries do not give the signed root, and the tiles agree with the entries: both were rewritten"
    )]
    Rewritten,
    /// Only a tile.
    #[error(
        "tile `{path}` was changed, the entries are whole; remove the tile and start again to have it rebuilt"
    )]
    Tile {
        /// The tile's file below the log's folder.
        path: String,
    },
    /// Entries are missing and the tiles do not give the signed root, so the rest cannot be checked.
    #[error(
        "entries are out of place and the tiles do not give the signed root, so the rest cannot be checked"
    )]
    Unchecked,
    /// Another history than the one a saved checkpoint promised.
    #[error(
        "the first {size} entries are not those that the saved checkpoint promised: history was rewritten"
    )]
    Forked {
        /// The saved checkpoint's size.
        size: u64,
    },
}

/// What is missing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Gap {
    /// The newest entries.
    #[error("entries {from} to {to} were cut off the end, the signed checkpoint covers {} entries", to + 1)]
    End {
        /// The first missing one.
        from: u64,
        /// The last missing one.
        to: u64,
    },
    /// Entries in the middle.
    #[error("entries {from} to {to} are missing before `{}` line {line}", file.display())]
    Middle {
        /// The first missing one.
        from: u64,
        /// The last missing one.
        to: u64,
        /// Where the log goes on.
        file: PathBuf,
        /// The line there, from 1.
        line: u64,
    },
    /// The number in a line is not its place.
    #[error("{place} carries the number {found}")]
    Number {
        /// The entry by its place.
        place: Place,
        /// The number it carries.
        found: u64,
    },
    /// The log is older than a checkpoint seen elsewhere.
    #[error("the saved checkpoint covers {saved} entries, the log only {size}: it was rolled back")]
    RolledBack {
        /// Entries in the saved checkpoint.
        saved: u64,
        /// Entries in the log's own checkpoint.
        size: u64,
    },
}

/// Why a log cannot be checked at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The checkpoint is missing.
    #[error("`{path}` is missing; the log cannot be trusted without its signed checkpoint, restore it")]
    CheckpointMissing {
        /// The checkpoint's file.
        path: PathBuf,
    },
    /// The checkpoint is broken, or signed by another key.
    #[error("`{path}`: {error}")]
    Checkpoint {
        /// The checkpoint's file.
        path: PathBuf,
        /// Why.
        error: NoteError,
    },
    /// A file cannot be read.
    #[error("`{path}`: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A segment begins with another entry than comes next, or follows one that ends in a broken line.
    #[error("`{path}` does not continue the segment before it, which leaves off before entry {expected}")]
    Stray {
        /// The segment that should not be there.
        path: PathBuf,
        /// The entry that should come next.
        expected: u64,
    },
}

impl VerifyError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}

/// Reads a signed checkpoint from a file.
///
/// # Errors
/// [`VerifyError`] when it is missing, unreadable or not signed by this key.
pub fn read_checkpoint(path: &Path, key: &Verifier) -> Result<Checkpoint, VerifyError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => VerifyError::CheckpointMissing { path: path.into() },
        _ => VerifyError::Io { path: path.into(), error },
    })?;
    let mut note = Vec::new();
    file.take(NOTE_LEN_MAX as u64 + 1).read_to_end(&mut note).map_err(VerifyError::io(path))?;
    key.open(&note).map_err(|error| VerifyError::Checkpoint { path: path.into(), error })
}

/// Holds every entry of the log in `dir` against its signed checkpoint, and against one `saved` elsewhere.
///
/// Works on a log that is being written: the checkpoint is read first, and what came after it is only counted.
///
/// # Errors
/// [`VerifyError`] when the log cannot be checked at all.
pub fn check(dir: &Path, key: &Verifier, saved: Option<&Checkpoint>) -> Result<Findings, VerifyError> {
    let checkpoint = read_checkpoint(&dir.join(CHECKPOINT), key)?;
    let size = checkpoint.size;
    let mut walk = Walk::new(dir, size, saved.map(|s| s.size));
    walk.watch()?;
    let listed = segments(dir).map_err(VerifyError::io(dir))?;
    for (first, path) in listed {
        walk.segment(first, &path)?;
    }
    if walk.next < size {
        let end = Gap::End { from: walk.next, to: size - 1 };
        walk.gap.get_or_insert(end);
        walk.whole = false;
    }
    let integrity = walk.integrity(&checkpoint, saved);
    let completeness = match saved.filter(|s| s.size > size) {
        Some(saved) if walk.gap.is_none() => Err(Gap::RolledBack { saved: saved.size, size }),
        _ => walk.gap.map_or(Ok(()), Err),
    };
    Ok(Findings {
        checkpoint,
        integrity,
        completeness,
        newer: walk.next.saturating_sub(size),
        cut: walk.cut,
        tiles_missing: walk.tiles_missing,
        tree: walk.tree,
        tiles: walk.newer_tiles,
        last: walk.last,
    })
}

/// The state of one pass.
struct Walk<'a> {
    tiles: Tiles<'a>,
    size: u64,
    /// Number of the entry expected next.
    next: u64,
    tree: Tree,
    /// Root of the tree at the checkpoint's size.
    root: Option<Hash>,
    /// A checkpoint seen elsewhere: its size, and the root this log had at that size.
    saved_size: Option<u64>,
    saved_root: Option<Hash>,
    /// Nothing was missing so far, so `tree` is the tree.
    whole: bool,
    differing: Option<Tampering>,
    tile_differing: Option<(String, Tampering)>,
    gap: Option<Gap>,
    cut: Option<Cut>,
    tiles_missing: u64,
    newer_tiles: Vec<Tile>,
    last: Option<(u64, u64)>,
}

impl<'a> Walk<'a> {
    fn new(dir: &'a Path, size: u64, saved_size: Option<u64>) -> Self {
        Self {
            tiles: Tiles { dir, size, held: None },
            size,
            next: 0,
            tree: Tree::default(),
            root: None,
            saved_size,
            saved_root: None,
            whole: true,
            differing: None,
            tile_differing: None,
            gap: None,
            cut: None,
            tiles_missing: 0,
            newer_tiles: Vec::new(),
            last: None,
        }
    }

    fn segment(&mut self, first: u64, path: &Path) -> Result<(), VerifyError> {
        if first > self.next && self.next < self.size {
            self.missing(first.min(self.size), path, 1);
            self.next = first;
        } else if first < self.next && self.differing.is_some() {
            // Lines were put in before; the name of the segment says where we are.
            self.whole = false;
            self.next = first;
        }
        if first != self.next || self.cut.is_some() {
            return Err(VerifyError::Stray { path: path.into(), expected: self.next });
        }
        let file = File::open(path).map_err(VerifyError::io(path))?;
        let len = file.metadata().map_err(VerifyError::io(path))?.len();
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER_BYTES, file));
        let mut good = 0;
        while let Some(ending) = lines.advance().map_err(VerifyError::io(path))? {
            if self.next < self.size {
                self.covered(lines.line(), ending, path, lines.number())?;
            } else if !self.newer(lines.line(), ending) {
                let bytes = len.saturating_sub(lines.start());
                self.cut =
                    Some(Cut { file: path.into(), line: lines.number(), offset: lines.start(), bytes });
                break;
            }
            good = lines.offset();
        }
        self.last = Some((first, good));
        Ok(())
    }

    /// A line that the checkpoint covers.
    fn covered(&mut self, line: &[u8], ending: Ending, path: &Path, number: u64) -> Result<(), VerifyError> {
        let hash = leaf_hash(line);
        let seq = seq_of(line);
        let mut expected = self.tiles.leaf(self.next);
        if let Some(seq) = seq.filter(|s| (self.next + 1..self.size).contains(s) && expected != Some(hash)) {
            // Not the entry expected, but one that comes later: those between were taken out.
            let there = self.tiles.leaf(seq);
            if there == Some(hash) || (there.is_none() && expected.is_none()) {
                self.missing(seq, path, number);
                self.next = seq;
                expected = there;
            }
        }
        let place = || Place { entry: self.next, file: path.into(), line: number };
        if seq.is_some_and(|s| s < self.next && expected != Some(hash) && self.tiles.leaf(s) == Some(hash)) {
            // An entry from before, moved or repeated: it takes nobody's place.
            self.whole = false;
            self.differing.get_or_insert(Tampering::OutOfPlace { file: path.into(), line: number });
            return Ok(());
        }
        if ending != Ending::Whole || expected.is_some_and(|e| e != hash) {
            self.differing.get_or_insert_with(|| Tampering::Entry(place()));
        } else if let Some(found) = seq.filter(|s| *s != self.next) {
            let number = Gap::Number { place: place(), found };
            self.gap.get_or_insert(number);
        }
        self.next += 1;
        if self.whole {
            for tile in self.tree.push(hash) {
                self.compare(&tile)?;
            }
            self.watch()?;
        }
        Ok(())
    }

    /// A line after the checkpoint: whether it is an entry, and the one expected.
    fn newer(&mut self, line: &[u8], ending: Ending) -> bool {
        let good = ending == Ending::Whole && parse_line(line).is_ok_and(|read| read.seq == self.next);
        if good {
            self.next += 1;
            self.newer_tiles.extend(self.tree.push(leaf_hash(line)));
        }
        good
    }

    fn missing(&mut self, until: u64, path: &Path, line: u64) {
        self.whole = false;
        let gap = Gap::Middle { from: self.next, to: until.saturating_sub(1), file: path.into(), line };
        self.gap.get_or_insert(gap);
    }

    /// Takes the roots that are asked for when the tree has just their size.
    fn watch(&mut self) -> Result<(), VerifyError> {
        if self.saved_size == Some(self.tree.size()) {
            self.saved_root = Some(self.tree.root());
        }
        if self.size == self.tree.size() {
            self.root = Some(self.tree.root());
            for tile in self.tree.partials() {
                self.compare(&tile)?;
            }
        }
        Ok(())
    }

    /// Holds the tile that the entries give against the one in the folder.
    fn compare(&mut self, tile: &Tile) -> Result<(), VerifyError> {
        let path = tile.path();
        let Some(bytes) = self.tiles.read(&path)? else {
            self.tiles_missing += 1;
            return Ok(());
        };
        let ours = tile.bytes();
        if ours != bytes && self.tile_differing.is_none() {
            let at = ours.chunks(HASH_LEN).zip(bytes.chunks(HASH_LEN)).position(|(a, b)| a != b).unwrap_or(0);
            let under = 1u64.checked_shl(u32::try_from(8 * tile.level).unwrap_or(64)).unwrap_or(u64::MAX);
            let from = (tile.index * TILE_WIDTH as u64 + at as u64).saturating_mul(under);
            self.tile_differing = Some((path, Tampering::Range { from, to: from.saturating_add(under - 1) }));
        }
        Ok(())
    }

    fn integrity(&mut self, signed: &Checkpoint, saved: Option<&Checkpoint>) -> Result<(), Tampering> {
        let differing = self.differing.take();
        let tile = self.tile_differing.take();
        if self.whole && self.root == Some(signed.root) {
            let forked = saved.filter(|s| s.size <= self.size && self.saved_root != Some(s.root));
            return match (forked, tile, differing) {
                (Some(saved), _, _) => Err(Tampering::Forked { size: saved.size }),
                (None, Some((path, _)), _) => Err(Tampering::Tile { path }),
                // Its content is right: only its newline can be wrong.
                (None, None, Some(what)) => Err(what),
                (None, None, None) => Ok(()),
            };
        }
        let tiles_root = self.tiles.root();
        let tiles_true = tiles_root == Some(signed.root);
        match (differing, tile) {
            (Some(what), _) if tiles_true => Err(what),
            (None, _) if tiles_true && !self.whole => Ok(()),
            (_, _) if !self.whole => Err(Tampering::Unchecked),
            (Some(Tampering::Entry(place)), _) => Err(Tampering::EntryAndTiles(place)),
            (Some(what), _) => Err(what),
            (None, Some((_, range))) => Err(range),
            (None, None) if tiles_root.is_some() => Err(Tampering::Rewritten),
            (None, None) => Err(Tampering::Unplaced),
        }
    }
}

/// The tiles in the folder, as far as a tree of `size` has them.
struct Tiles<'a> {
    dir: &'a Path,
    size: u64,
    held: Option<(u64, Vec<u8>)>,
}

impl Tiles<'_> {
    /// The hash that the tiles hold for entry `index`.
    fn leaf(&mut self, index: u64) -> Option<Hash> {
        let tile = index / TILE_WIDTH as u64;
        if self.held.as_ref().is_none_or(|(held, _)| *held != tile) {
            let width = tile_width(0, tile, self.size);
            let bytes = self.read(&tile_path(0, tile, width)).ok().flatten();
            // While the log grows, a tile that was partial a moment ago may be full by now.
            let bytes = bytes.or_else(|| self.read(&tile_path(0, tile, TILE_WIDTH)).ok().flatten());
            self.held = Some((tile, bytes.unwrap_or_default()));
        }
        let (_, bytes) = self.held.as_ref()?;
        let at = usize::try_from(index % TILE_WIDTH as u64).ok()? * HASH_LEN;
        bytes.get(at..at + HASH_LEN)?.try_into().ok()
    }

    /// The root that the lowest tiles give, `None` when one is missing.
    fn root(&mut self) -> Option<Hash> {
        let mut tree = Tree::default();
        for index in 0..self.size {
            tree.push(self.leaf(index)?);
        }
        Some(tree.root())
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, VerifyError> {
        let path = self.dir.join(path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(VerifyError::Io { path, error }),
        };
        let mut bytes = Vec::new();
        file.take(TILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(VerifyError::io(&path))?;
        Ok(Some(bytes))
    }
}

const BUFFER_BYTES: usize = 256 * 1024;
const TILE_BYTES_MAX: u64 = (TILE_WIDTH * HASH_LEN) as u64;

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
