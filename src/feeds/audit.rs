//! Reads the audit log of a sidecar: its openings, endings and refusals of flows, as what the analyser hears.
//!
//! The log tells no chunks and no requests, only how much a flow moved; what a live analyser heard was more. Refusals
//! that come before a device and its service are known are no behaviour of a device: they are counted and passed over.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use super::iso::moment;
use super::{FlowRecord, Heard};
use crate::analyser::event::{Carrier, End, FlowKey, Habit, Reach, Standing, Target, Tongue};
use crate::analyser::{Event, Keys, Moment};
use crate::audit::{Ending, Line, Lines, READ_LINE_MAX, parse_line};

/// How many open flows are kept; one more ends the one that was opened first.
pub const OPEN_MAX: usize = 131_072;
/// How many refusals one entry that sums them up is heard as.
pub const SUMMED_MAX: u64 = 256;

/// Why a log cannot be read on (the first), or why one line of it is no entry. Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The file cannot be read.
    #[error("audit log, line {line}: {error}")]
    Read {
        /// The line it was in.
        line: u64,
        /// Why it ends there.
        error: io::Error,
    },
    /// Longer than [`READ_LINE_MAX`], or its newline is missing.
    #[error("audit log, line {line}: it is cut, or longer than {READ_LINE_MAX} bytes")]
    Cut {
        /// Its number.
        line: u64,
    },
    /// No entry.
    #[error("audit log, line {line}: {what}")]
    Line {
        /// Its number.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

impl AuditError {
    /// Whether nothing more can be read after it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Read { .. })
    }
}

/// Reads the flows of a log.
pub struct Entries<R> {
    lines: Lines<R>,
    keys: Keys,
    /// By the number that the log gives them, which begins anew with each run of the sidecar.
    open: BTreeMap<u64, Open>,
    numbered: u64,
    last: Moment,
    evicted: u64,
    passed: u64,
    done: bool,
}

/// A flow whose end was not yet read.
struct Open {
    number: FlowKey,
    record: FlowRecord,
}

impl<R: BufRead> Entries<R> {
    /// From the start of a log.
    pub fn new(input: R, keys: Keys) -> Self {
        Self {
            lines: Lines::new(input),
            keys,
            open: BTreeMap::new(),
            numbered: 0,
            last: Moment(0),
            evicted: 0,
            passed: 0,
            done: false,
        }
    }

    /// Reads on to the next entry about a flow and appends what it means to `heard`; false at the end. After an error
    /// that is not final the next line can be read.
    ///
    /// # Errors
    /// [`AuditError`] with the number of the line.
    pub fn advance(&mut self, heard: &mut Vec<Heard>) -> Result<bool, AuditError> {
        while !self.done {
            let before = heard.len();
            let ending = self.lines.advance();
            let line = self.lines.number();
            match ending {
                Err(error) => {
                    self.done = true;
                    return Err(AuditError::Read { line: line + 1, error });
                }
                Ok(None) => {
                    self.done = !self.finish(heard);
                    return Ok(heard.len() > before);
                }
                Ok(Some(Ending::Torn | Ending::TooLong)) => return Err(AuditError::Cut { line }),
                Ok(Some(Ending::Whole)) => {
                    let what = |e: crate::audit::LineError| AuditError::Line { line, what: e.to_string() };
                    let entry = parse_line(self.lines.line()).map_err(what)?;
                    let Some(at) = moment(&entry.time) else {
                        return Err(AuditError::Line { line, what: "`time` is no time".into() });
                    };
                    self.last = at;
                    self.take(&entry, at, heard);
                }
            }
            if heard.len() > before {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many bytes were read so far.
    pub fn offset(&self) -> u64 {
        self.lines.offset()
    }

    /// How many open flows were ended because there were too many.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// How many refusals were passed over: of nobody known, or for want of room.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    fn take(&mut self, entry: &Line<'_>, at: Moment, heard: &mut Vec<Heard>) {
        match &*entry.kind {
            "open" => {
                let Some(id) = flow_id(entry) else { return };
                self.end(id, at, None, heard);
                if self.open.len() >= OPEN_MAX
                    && let Some(first) = self.open.keys().next().copied()
                {
                    self.evicted += 1;
                    self.end(first, at, None, heard);
                }
                self.begin(id, entry, at, heard);
            }
            "close" => {
                let Some(id) = flow_id(entry) else { return };
                if !self.open.contains_key(&id) {
                    // Its opening is in an older segment.
                    let began = Moment(at.0.saturating_sub(entry.ms.unwrap_or(0).saturating_mul(1000)));
                    self.begin(id, entry, began, heard);
                }
                self.end(id, at, Some(entry), heard);
            }
            "deny" => self.refuse(entry, at, heard),
            // Flow numbers begin anew; what was open ended with the run before.
            "start" => while self.finish(heard) {},
            _ => {}
        }
    }

    fn begin(&mut self, id: u64, entry: &Line<'_>, at: Moment, heard: &mut Vec<Heard>) {
        let number = self.number();
        let record = self.asked(entry, at, Standing::Allowed, number, heard);
        self.open.insert(id, Open { number, record });
    }

    fn end(&mut self, id: u64, at: Moment, entry: Option<&Line<'_>>, heard: &mut Vec<Heard>) {
        let Some(Open { number, mut record }) = self.open.remove(&id) else { return };
        record.lasted_us = at.since(record.began);
        if let Some(entry) = entry {
            // The log's `in` is from the source to the target: out of the device that asked.
            record.bytes = [entry.bytes_in.unwrap_or(0), entry.bytes_out.unwrap_or(0)];
            record.end = how(entry);
        }
        heard.push(closed(record, number, at));
    }

    /// Ends some of what is still open; true while there is more.
    fn finish(&mut self, heard: &mut Vec<Heard>) -> bool {
        for _ in 0..SUMMED_MAX {
            let Some(first) = self.open.keys().next().copied() else { return false };
            self.end(first, self.last, None, heard);
        }
        !self.open.is_empty()
    }

    fn refuse(&mut self, entry: &Line<'_>, at: Moment, heard: &mut Vec<Heard>) {
        let reason = entry.reason.as_deref().unwrap_or_default();
        let (by_policy, by_analyser) = (POLICY.contains(&reason), ANALYSER.contains(&reason));
        let count = entry.count.unwrap_or(1);
        if entry.device.is_none() || !(by_policy || by_analyser || entry.service.is_some()) {
            self.passed = self.passed.saturating_add(count);
            return;
        }
        self.passed = self.passed.saturating_add(count.saturating_sub(SUMMED_MAX));
        let standing = if by_policy { Standing::Refused } else { Standing::Unknown };
        for _ in 0..count.min(SUMMED_MAX) {
            let number = self.number();
            let mut record = self.asked(entry, at, standing, number, heard);
            record.end = if by_policy { End::Policy } else { End::Refused };
            heard.push(closed(record, number, at));
        }
    }

    /// Tells that a flow is asked for, and begins its record.
    fn asked(
        &self,
        entry: &Line<'_>,
        at: Moment,
        standing: Standing,
        flow: FlowKey,
        heard: &mut Vec<Heard>,
    ) -> FlowRecord {
        let device = entry.device.as_deref().unwrap_or("-");
        let name = entry.service.as_deref().or(entry.target.as_deref()).unwrap_or("-");
        let source = entry.source.as_deref().map_or(0, |source| self.keys.word(source.as_bytes()));
        let habit = Habit { source, certificate_age_h: u16::MAX, ..Habit::default() };
        let target = Target {
            service: self.keys.service(name, 0, Carrier::Tcp),
            host: self.keys.host(name),
            port: 0,
            carrier: Carrier::Tcp,
            declared: Tongue::Unknown,
            standing,
            reach: Reach::Near,
        };
        let device_key = self.keys.device(device);
        let event = Event::Open { t: at, began: at, flow, device: device_key, target, habit };
        heard.push(Heard { event, record: None });
        FlowRecord {
            began: at,
            device: shown(device),
            target: shown(name),
            standing,
            habit,
            ..FlowRecord::default()
        }
    }

    fn number(&mut self) -> FlowKey {
        self.numbered += 1;
        FlowKey(self.numbered)
    }
}

/// How a flow ended, in the words in which a living one is told.
fn how(entry: &Line<'_>) -> End {
    match entry.reason.as_deref() {
        // Idle for long, it has ended as it should.
        Some("idle_timeout") => End::Fin,
        Some("policy_withdrawn") => End::Policy,
        Some(_) => End::Reset,
        None if entry.detail.is_some() => End::Reset,
        None => End::Fin,
    }
}

/// Reads every line of `bytes`: how many flows ended, how many lines are no entries.
pub fn parse_audit(bytes: &[u8]) -> (u64, u64) {
    let mut entries = Entries::new(bytes, Keys::new([0, 0]));
    let (mut good, mut bad) = (0, 0);
    let mut heard = Vec::new();
    loop {
        match entries.advance(&mut heard) {
            Ok(false) => return (good, bad),
            Ok(true) => good += heard.drain(..).filter(|h| h.record.is_some()).count() as u64,
            Err(_) => bad += 1,
        }
    }
}

/// `f` and a number.
fn flow_id(entry: &Line<'_>) -> Option<u64> {
    entry.flow.as_deref()?.strip_prefix('f')?.parse().ok()
}

/// At most [`FlowRecord::NAME_MAX`] bytes of a name; keys are made of the whole.
fn shown(name: &str) -> String {
    name.get(..name.floor_char_boundary(FlowRecord::NAME_MAX)).unwrap_or_default().to_owned()
}

fn closed(record: FlowRecord, flow: FlowKey, t: Moment) -> Heard {
    let event = Event::Close { t, flow, end: record.end, bytes: record.bytes, chunks: record.chunks };
    Heard { event, record: Some(Box::new(record)) }
}

/// Refusals of what the device may not have, or of what is not there.
const POLICY: [&str; 5] =
    ["policy_denied", "policy_error", "policy_withdrawn", "service_unknown", "outbound_unknown"];
/// Refusals that the analyser itself asked for.
const ANALYSER: [&str; 2] = ["behaviour_blocked", "behaviour_quarantined"];

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
