//! What an engine learnt, as bytes, and back: every device, what is usual for a role, what the devices have in common.
//!
//! Not kept: living flows, and what was counted. Whoever reads must know by other means that the bytes are its own: here
//! they are only held against everything that the engine relies on.

use serde::{Deserialize, Serialize};

use super::decay::Counters;
use super::device::Device;
use super::engine::Engine;
use super::event::Moment;
use super::evidence::Evidence;
use super::features::{NAMES, Offset};
use super::ladder::{Ladder, TTL_MAX_S};
use super::limits::{TABLE, Usual};
use super::loda::Model;
use super::relation::Relation;
use super::sketch::mix;
use super::table::Table;
use super::tail::{Fit, REFIT, Tail};
use super::usage::Usage;

/// The longest snapshot of one engine, in bytes. 800 devices of the largest size fit, and some 5,000 of the usual.
pub const SNAPSHOT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What was read back.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Restored {
    /// Devices that are known again.
    pub devices: usize,
    /// Devices for which there is no room.
    pub dropped: usize,
}

/// Why a snapshot is of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The bytes say nothing, end too early or too late.
    #[error("it is damaged")]
    Broken,
    /// Written by an analyser that counts or measures something else.
    #[error("it is of another version of the analyser")]
    Foreign,
    /// Longer than [`SNAPSHOT_BYTES_MAX`].
    #[error("it is {len} bytes, expected at most {SNAPSHOT_BYTES_MAX}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// A figure that no engine comes to, such as an infinite one.
    #[error("it holds an impossible figure")]
    Unsound,
}

/// What comes before roles and devices.
#[derive(Deserialize, Serialize)]
struct Head {
    /// Devices in quarantine, as last counted, and when that was.
    quarantined: u32,
    counted: Moment,
    /// Where the hand of the devices' table stands.
    hand: u32,
}

impl Engine {
    /// What was learnt so far, at most [`SNAPSHOT_BYTES_MAX`] bytes: the same engine gives the same bytes. Devices that do
    /// not fit are left out, and so is one whose figures no engine would take back.
    pub fn snapshot(&self) -> Vec<u8> {
        let sound = self.devices.iter().filter(|(_, device)| device.is_sound());
        self.written(sound.map(|(key, device)| (key, &**device)), SNAPSHOT_BYTES_MAX)
    }

    fn written<'a>(&self, devices: impl Iterator<Item = (u64, &'a Device)>, most: usize) -> Vec<u8> {
        let quarantined = self.meters.quarantined;
        let head = Head { quarantined, counted: self.counted, hand: self.devices.hand() };
        let mut bytes = Vec::new();
        put(&mut bytes, &shape());
        put(&mut bytes, &head);
        put(&mut bytes, &self.usage);
        put(&mut bytes, &self.roles.len());
        self.roles.iter().for_each(|role| put(&mut bytes, role));
        for device in devices {
            let before = bytes.len();
            put(&mut bytes, &Some(device));
            // One byte is left for the end.
            if bytes.len() >= most {
                bytes.truncate(before);
                break;
            }
        }
        put(&mut bytes, &None::<(u64, &Device)>);
        bytes
    }

    /// Knows again what a snapshot holds, instead of what was known of devices before. At the bound on devices the
    /// least suspicious and longest silent are dropped.
    ///
    /// # Errors
    /// [`SnapshotError`]; the engine is then as it was.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<Restored, SnapshotError> {
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotError::TooLarge { len: bytes.len() });
        }
        let mut rest = bytes;
        if take::<u64>(&mut rest)? != shape() {
            return Err(SnapshotError::Foreign);
        }
        let head: Head = take(&mut rest)?;
        let usage: Usage = take(&mut rest)?;
        if take::<usize>(&mut rest)? != self.roles.len() {
            return Err(SnapshotError::Foreign);
        }
        let roles = self.roles.iter().map(|_| take(&mut rest)).collect::<Result<Vec<Model>, _>>()?;
        if !roles.iter().all(Sound::is_sound) {
            return Err(SnapshotError::Unsound);
        }
        let mut devices: Table<Box<Device>> = Table::new(self.settings.devices_max);
        let mut dropped = 0;
        while let Some((key, device)) = take::<Option<(u64, Box<Device>)>>(&mut rest)? {
            if !device.is_sound() || devices.get(key).is_some() {
                return Err(SnapshotError::Unsound);
            }
            let out = devices.insert(key, device, |d| (d.evidence.log, d.counters.at));
            dropped += usize::from(out.is_some());
        }
        if !rest.is_empty() {
            return Err(SnapshotError::Broken);
        }
        devices.turn(head.hand);
        let restored = Restored { devices: devices.len(), dropped };
        self.meters.quarantined = head.quarantined.min(u32::try_from(devices.len()).unwrap_or(u32::MAX));
        self.counted = head.counted;
        (self.devices, self.usage, self.roles) = (devices, usage, roles);
        Ok(restored)
    }
}

fn put(bytes: &mut Vec<u8>, value: &impl Serialize) {
    // Nothing here is of a kind that cannot be written; if it were, the snapshot would not be read back.
    if let Ok(more) = postcard::to_allocvec(value) {
        bytes.extend_from_slice(&more);
    }
}

fn take<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Result<T, SnapshotError> {
    let (value, after) = postcard::take_from_bytes(rest).map_err(|_| SnapshotError::Broken)?;
    *rest = after;
    Ok(value)
}

/// Differs when figures would be taken for others: the version, what is counted, in which order, and how large it all is.
fn shape() -> u64 {
    let limits = TABLE.iter().map(|l| (l.measure, [l.count as u8, l.over as u8]));
    let features = NAMES.iter().map(|name| (*name, [0, 0]));
    let mut shape = mix(VERSION ^ size_of::<Device>() as u64);
    for (name, more) in limits.chain(features) {
        for byte in name.bytes().chain(more) {
            shape = mix(shape.rotate_left(8) ^ u64::from(byte));
        }
    }
    shape
}

/// Whether figures are such as an engine comes to. Each names every field, so that none that is added is forgotten.
trait Sound {
    fn is_sound(&self) -> bool;
}

impl Sound for Device {
    fn is_sound(&self) -> bool {
        let Self {
            stage: _,
            role: _,
            born: _,
            checkpoints: _,
            judged,
            would,
            strange,
            halved: _,
            hours: _,
            settled: _,
            counters,
            usual,
            services: _,
            hosts: _,
            ports: _,
            words: _,
            relations,
            last_open: _,
            stack: _,
            source: _,
            last_source: _,
            at_home: _,
            reborn: _,
            offsets,
            generic,
            prior,
            evidence,
            ladder,
        } = self;
        [judged, would, strange].into_iter().all(is_amount)
            && counters.is_sound()
            && usual.is_sound()
            && relations.iter().all(Sound::is_sound)
            && offsets.iter().all(Sound::is_sound)
            && generic.is_sound()
            && prior.is_sound()
            && evidence.is_sound()
            && ladder.is_sound()
    }
}

impl Sound for Counters {
    fn is_sound(&self) -> bool {
        let Self { at: _, counts, added } = self;
        counts.as_flattened().iter().chain(added).all(is_amount)
    }
}

impl Sound for Usual {
    fn is_sound(&self) -> bool {
        let Self { now, anchors, taken_h: _, raised_h: _ } = self;
        now.iter().chain(anchors.as_flattened()).all(is_amount)
    }
}

impl Sound for Relation {
    fn is_sound(&self) -> bool {
        let Self {
            service: _,
            port: _,
            spoken: _,
            count: _,
            last: _,
            gaps: _,
            sizes: _,
            out_share,
            learnt: _,
            usual_out,
            raised_h: _,
            recent: [out, back],
            mean,
        } = self;
        [out_share, usual_out, out, back].into_iter().all(is_amount) && mean.is_finite()
    }
}

impl Sound for Offset {
    fn is_sound(&self) -> bool {
        let Self { middle, spread } = self;
        middle.is_finite() && spread.is_finite()
    }
}

impl Sound for Tail {
    fn is_sound(&self) -> bool {
        let Self { bins, total, due, fit: Fit { from, share, shape, scale } } = self;
        let all: u32 = bins.iter().map(|bin| u32::from(*bin)).sum();
        all == *total
            && (1..=REFIT).contains(due)
            && [from, share, shape].into_iter().all(is_amount)
            && scale.is_finite()
            && *scale > 0.0
            && *share > 0.0
    }
}

impl Sound for Evidence {
    fn is_sound(&self) -> bool {
        let Self { log, signs: _, at: _ } = self;
        is_amount(log)
    }
}

impl Sound for Ladder {
    fn is_sound(&self) -> bool {
        let Self { strikes, at: _, until: _, ttl_s } = self;
        is_amount(strikes) && *ttl_s <= TTL_MAX_S
    }
}

impl Sound for Model {
    fn is_sound(&self) -> bool {
        let Self { bins: _, total } = self;
        *total < u32::from(u16::MAX)
    }
}

fn is_amount(figure: &f32) -> bool {
    figure.is_finite() && *figure >= 0.0
}

/// Raised when what is kept comes to mean something else and neither sizes nor names tell.
const VERSION: u64 = 1;

#[cfg(test)]
mod tests;
