//! The one thread that writes: groups entries, syncs them, then their tiles, then the signed checkpoint.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::chain::{Hash, Tile, Tree, leaf_hash};
use super::entry::{Entry, Kind};
use super::log::Shared;
use super::note::Signer;
use super::store::Store;
use crate::model::Timestamp;

/// Turns groups of entries into commits.
pub(super) struct Writer {
    pub(super) store: Box<dyn Store>,
    pub(super) signer: Signer,
    pub(super) tree: Tree,
    /// Tiles that are full and not yet on disk.
    pub(super) tiles: Vec<Tile>,
    /// First entry and length in bytes of the segment that grows.
    pub(super) segment: (u64, u64),
    pub(super) segment_bytes_max: u64,
    pub(super) disk_reserve: u64,
    /// Partial tiles on disk that the next commit makes superfluous.
    pub(super) partials: Vec<String>,
    /// Lines of the commit under way. It is tried until it succeeds; nothing else is written before.
    pub(super) lines: Vec<u8>,
}

/// What a commit has made true.
pub(super) struct Sealed {
    pub(super) size: u64,
    pub(super) root: Hash,
    pub(super) checkpoint: String,
}

impl Writer {
    /// Begins a commit with `entries`. Only when none is under way: their numbers follow the tree.
    pub(super) fn format<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) {
        for (seq, entry) in (self.tree.size()..).zip(entries) {
            entry.write(seq, &mut self.lines);
        }
    }

    /// Makes the commit under way durable: lines, tiles, checkpoint, in this order.
    ///
    /// A crash after the lines leaves them above the checkpoint, where the next start finds and keeps them.
    pub(super) fn commit(&mut self) -> Result<Sealed, String> {
        self.check_space()?;
        if !self.lines.is_empty() {
            self.write_lines()?;
        }
        self.seal()
    }

    /// Whether the disk has more than the reserve.
    pub(super) fn check_space(&mut self) -> Result<(), String> {
        let free = self.store.free().map_err(|e| format!("free space of the disk is unknown: {e}"))?;
        if free < self.disk_reserve {
            return Err(format!("{free} bytes free, `disk_reserve` is {}", self.disk_reserve));
        }
        Ok(())
    }

    fn write_lines(&mut self) -> Result<(), String> {
        let (mut first, mut len) = self.segment;
        if len >= self.segment_bytes_max {
            (first, len) = (self.tree.size(), 0);
        }
        if let Err(error) = self.store.append(first, len, &self.lines) {
            // Back to the last good length: a reader must not take half a group for entries.
            let cut = self.store.truncate(first, len);
            return Err(match cut {
                Ok(()) => format!("entries cannot be written: {error}"),
                Err(cut) => format!("entries cannot be written: {error}; nor cut back: {cut}"),
            });
        }
        for line in self.lines.split_inclusive(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            self.tiles.extend(self.tree.push(leaf_hash(line)));
        }
        self.segment = (first, len + self.lines.len() as u64);
        self.lines.clear();
        self.lines.shrink_to(BUFFER_KEPT);
        Ok(())
    }

    /// Tiles and checkpoint. May be tried again: the lines stay, whatever fails here.
    fn seal(&mut self) -> Result<Sealed, String> {
        let partials = self.tree.partials();
        for tile in self.tiles.iter().chain(&partials) {
            let path = tile.path();
            // The same path is the same content: never touched again, for someone may be reading it.
            if self.partials.contains(&path) {
                continue;
            }
            self.store
                .tile(&path, &tile.bytes())
                .map_err(|e| format!("tile `{path}` cannot be written: {e}"))?;
        }
        let (size, root) = (self.tree.size(), self.tree.root());
        let checkpoint = self.signer.sign(size, root);
        self.store.checkpoint(&checkpoint).map_err(|e| format!("the checkpoint cannot be written: {e}"))?;
        let partials: Vec<_> = partials.iter().map(Tile::path).collect();
        for path in self.partials.iter().filter(|p| !partials.contains(p)) {
            self.store.forget(path);
        }
        self.partials = partials;
        self.tiles.clear();
        Ok(Sealed { size, root, checkpoint })
    }
}

/// The thread: takes entries from the queue until the log is closed.
pub(super) fn run(shared: &Shared, mut writer: Writer, retry: Duration) {
    let mut failing_since: Option<Instant> = None;
    let mut in_flight = 0;
    let mut entries = VecDeque::new();
    loop {
        let closing = match failing_since {
            Some(_) => shared.wait_to_retry(retry),
            None => shared.take(&mut entries),
        };
        in_flight += entries.len() as u64;
        let idle = entries.is_empty() && failing_since.is_none();
        writer.format(&entries);
        entries.clear();
        // A failing log is tried with a whole commit, be it an empty one: that shows that the disk works again.
        let outcome = if idle { writer.check_space().map(|()| None) } else { writer.commit().map(Some) };
        match outcome {
            Ok(sealed) => {
                let failed_for = failing_since.take().map(|since| since.elapsed());
                shared.succeeded(std::mem::take(&mut in_flight), sealed, failed_for);
            }
            Err(why) => {
                failing_since.get_or_insert_with(Instant::now);
                shared.failed(why);
            }
        }
        // Closing while the disk fails: one more try has just been made, and `close` tells its caller.
        if closing && (failing_since.is_some() || shared.is_drained()) {
            return;
        }
    }
}

/// What the log says of itself after a time in which it could not take everything.
pub(super) fn recovered(refused: u64, dropped: u64, failing: Option<(Duration, &str)>) -> Entry {
    let lost = format!("{refused} entries refused, {dropped} dropped");
    let detail = match failing {
        Some((_, why)) => format!("{lost} while the log could not be written: {why}"),
        None => format!("{lost} while the queue was full"),
    };
    let ms = failing.and_then(|(time, _)| u64::try_from(time.as_millis()).ok());
    Entry {
        detail: Some(detail.into()),
        ms,
        count: Some(refused + dropped),
        ..Entry::new(Timestamp::now(), Kind::Repair)
    }
}

const BUFFER_KEPT: usize = 1024 * 1024;
