//! What the tests of the log share: a log in a folder of its own, and a disk that fails on demand.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::open::lock;
use super::store::{Disk, Store, segments};
use super::{
    Entry, Findings, Kind, Log, OnFull, OpenError, Opened, Settings, Source, Verifier, VerifyError, check,
};
use crate::model::{FlowId, Timestamp};

pub(super) const ORIGIN: &str = "example.org/device/web-1";
pub(super) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A folder with a log and its key.
pub(super) struct Bench {
    _dir: tempfile::TempDir,
    pub(super) settings: Settings,
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            dir: dir.path().join("audit"),
            key: dir.path().join("audit.key"),
            on_full: OnFull::Block,
            queue_max: 1000,
            commit_interval: Duration::from_millis(1),
            segment_bytes_max: 1 << 20,
            disk_reserve: 0,
        };
        Self { _dir: dir, settings }
    }

    /// A closed log of `count` entries, five to a commit, in segments of some 700 bytes.
    pub(super) fn with_entries(count: u64) -> Self {
        let mut bench = Self::new();
        bench.settings.segment_bytes_max = 700;
        let log = bench.open().unwrap().0;
        bench.fill(&log, 0..count);
        log.close().unwrap();
        bench
    }

    pub(super) fn fill(&self, log: &Log, flows: std::ops::Range<u64>) {
        for flow in flows {
            log.append(allow(flow)).unwrap();
            if flow % 5 == 4 {
                log.flush().unwrap();
            }
        }
        log.flush().unwrap();
    }

    pub(super) fn open(&self) -> Result<(Log, Opened), OpenError> {
        Log::open(&self.settings, ORIGIN, NOW)
    }

    /// Opens it on a disk that fails on demand.
    pub(super) fn open_flaky(&self) -> (Log, Faults) {
        let faults = Faults::default();
        (self.try_open_flaky(&faults).unwrap(), faults)
    }

    pub(super) fn try_open_flaky(&self, faults: &Faults) -> Result<Log, OpenError> {
        let store = Flaky { disk: lock(&self.settings.dir)?, faults: faults.clone() };
        let retry = Duration::from_millis(1);
        Log::open_on(&self.settings, ORIGIN, NOW, Box::new(store), retry).map(|(log, _)| log)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.settings.dir
    }

    pub(super) fn verifier(&self) -> Verifier {
        let text = std::fs::read_to_string(self.settings.key.with_extension("pub")).unwrap();
        text.trim_end().parse().unwrap()
    }

    pub(super) fn check(&self) -> Result<Findings, VerifyError> {
        check(self.dir(), &self.verifier(), None)
    }

    /// Whether everything about the log is as it should be.
    pub(super) fn is_good(&self) -> bool {
        self.check().is_ok_and(|f| f.integrity.is_ok() && f.completeness.is_ok() && f.cut.is_none())
    }

    pub(super) fn segment(&self, which: usize) -> PathBuf {
        segments(self.dir()).unwrap()[which].1.clone()
    }

    /// Every line of the log.
    pub(super) fn lines(&self) -> Vec<String> {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let all: String = segments(self.dir()).unwrap().into_iter().map(|(_, path)| read(path)).collect();
        all.lines().map(str::to_owned).collect()
    }
}

pub(super) fn allow(flow: u64) -> Entry {
    Entry { flow: Some(FlowId(flow)), ..Entry::new(NOW, Kind::Allow) }
}

pub(super) fn deny(source: u32) -> Entry {
    Entry { source: Some(Source::Uid(source)), ..Entry::new(NOW, Kind::Deny) }
}

/// Changes a file's bytes.
pub(super) fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// What goes wrong with the disk now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Fault {
    #[default]
    None,
    /// Half of a group is written, then the disk is full.
    HalfWritten,
    /// Less than any reserve is free.
    NoSpace,
    /// Tiles cannot be written.
    Tiles,
    /// The checkpoint cannot be written.
    Checkpoint,
    /// A write hangs until the fault is lifted.
    Hanging,
}

/// The handle on a [`Flaky`] disk's faults.
#[derive(Clone, Default)]
pub(super) struct Faults(Arc<(Mutex<(Fault, bool)>, Condvar)>);

impl Faults {
    pub(super) fn set(&self, fault: Fault) {
        self.0.0.lock().unwrap().0 = fault;
        self.0.1.notify_all();
    }

    /// Waits until a write hangs.
    pub(super) fn wait_hanging(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |(_, hangs)| !*hangs).unwrap());
    }

    fn now(&self) -> Fault {
        let mut state = self.0.0.lock().unwrap();
        while state.0 == Fault::Hanging {
            state.1 = true;
            self.0.1.notify_all();
            state = self.0.1.wait(state).unwrap();
        }
        state.1 = false;
        state.0
    }
}

/// A disk that fails on demand.
struct Flaky {
    disk: Disk,
    faults: Faults,
}

impl Store for Flaky {
    fn append(&mut self, first: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.faults.now() == Fault::HalfWritten {
            self.disk.append(first, offset, &bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.append(first, offset, bytes)
    }

    fn truncate(&mut self, first: u64, len: u64) -> io::Result<()> {
        self.disk.truncate(first, len)
    }

    fn tile(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        if self.faults.now() == Fault::Tiles {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.tile(path, bytes)
    }

    fn forget(&mut self, path: &str) {
        self.disk.forget(path);
    }

    fn checkpoint(&mut self, text: &str) -> io::Result<()> {
        if self.faults.now() == Fault::Checkpoint {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.checkpoint(text)
    }

    fn free(&mut self) -> io::Result<u64> {
        Ok(if self.faults.now() == Fault::NoSpace { 9 } else { u64::MAX })
    }
}
