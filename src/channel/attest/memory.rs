//! What one sidecar remembers of the devices it met: their newest records, and the threads of continuity both ways.

use std::collections::HashMap;
use std::sync::Arc;

use crate::device::{Arrival, Continuity, Generation, History, Record, Role, Versions, VersionsError};
use crate::model::{Reason, SpiffeId, Timestamp};

/// Bounded by `devices_max`. At the bound the device that was met longest ago is forgotten, but never a suspect.
pub(super) struct Memory {
    versions: Versions,
    known: HashMap<SpiffeId, Known>,
    devices_max: usize,
    /// Whether the versions changed since they were written last.
    unsaved: bool,
}

/// One device. Client and server are threads of their own: both ends may prove themselves at once.
#[derive(Default)]
struct Known {
    as_client: Continuity,
    as_server: Continuity,
    /// What it handed us to show next, by the role in which we show it.
    shown_as_client: Option<[u8; 32]>,
    shown_as_server: Option<[u8; 32]>,
    /// What we have for it to show next as the server: it goes out with our next message.
    for_server: Option<[u8; 32]>,
    drift_last: Option<Timestamp>,
    turn: Arc<tokio::sync::Mutex<()>>,
    met_at: Timestamp,
}

impl Known {
    fn continuity(&mut self, prover: Role) -> &mut Continuity {
        match prover {
            Role::Client => &mut self.as_client,
            Role::Server => &mut self.as_server,
        }
    }

    fn token(&mut self, own: Role) -> &mut Option<[u8; 32]> {
        match own {
            Role::Client => &mut self.shown_as_client,
            Role::Server => &mut self.shown_as_server,
        }
    }

    fn suspected(&self) -> bool {
        self.as_client.suspected() || self.as_server.suspected()
    }
}

impl Memory {
    /// Begins with the versions that an earlier run wrote down.
    pub(super) fn new(versions: Option<&str>, devices_max: usize) -> Result<Self, VersionsError> {
        let versions = match versions {
            Some(text) => Versions::read(text, devices_max)?,
            None => Versions::new(devices_max),
        };
        Ok(Self { versions, known: HashMap::new(), devices_max, unsaved: false })
    }

    /// Whether a record of this device was ever seen.
    pub(super) fn has_record(&self, id: &SpiffeId) -> bool {
        self.versions.knows(id)
    }

    /// Takes a verified record, unless a newer one was seen.
    pub(super) fn admit(&mut self, record: &Record, now: Timestamp) -> Result<(), Reason> {
        if self.versions.admit(record, now)? {
            self.unsaved = true;
        }
        Ok(())
    }

    /// The versions as they are kept on disk, when they changed since they were asked for last.
    pub(super) fn unsaved(&mut self) -> Option<String> {
        std::mem::take(&mut self.unsaved).then(|| self.versions.to_text())
    }

    /// They could not be written: ask again.
    pub(super) fn not_saved(&mut self) {
        self.unsaved = true;
    }

    /// When it was last seen to have drifted.
    pub(super) fn history(&mut self, id: &SpiffeId, now: Timestamp) -> Result<History, Reason> {
        Ok(History { drift_last: self.meet(id, now)?.drift_last })
    }

    /// It has drifted.
    pub(super) fn drifted(&mut self, id: &SpiffeId, now: Timestamp) -> Result<(), Reason> {
        self.meet(id, now)?.drift_last = Some(now);
        Ok(())
    }

    /// Whoever proves us to this device does so one at a time.
    pub(super) fn turn(
        &mut self,
        id: &SpiffeId,
        now: Timestamp,
    ) -> Result<Arc<tokio::sync::Mutex<()>>, Reason> {
        Ok(Arc::clone(&self.meet(id, now)?.turn))
    }

    /// Takes what the device shows as `prover`, and hands out `next`.
    pub(super) fn show(
        &mut self,
        id: &SpiffeId,
        prover: Role,
        arrival: &Arrival,
        next: &[u8; 32],
        now: Timestamp,
    ) -> Result<Generation, Reason> {
        let known = self.meet(id, now)?;
        let generation = known.continuity(prover).show(arrival, next)?;
        if prover == Role::Server {
            known.for_server = Some(*next);
        }
        Ok(generation)
    }

    /// What this device is to show next as the server. The same until it did: a message may be lost.
    pub(super) fn for_server(&mut self, id: &SpiffeId, now: Timestamp) -> Result<Option<[u8; 32]>, Reason> {
        Ok(self.meet(id, now)?.for_server)
    }

    /// Whether a lease of this generation may go on.
    pub(super) fn check(&mut self, id: &SpiffeId, prover: Role, lease: Generation) -> Result<(), Reason> {
        match self.known.get_mut(id) {
            Some(known) => known.continuity(prover).check(lease),
            // Forgotten at the bound: it must prove itself anew.
            None => Err(Reason::LeaseExpired),
        }
    }

    /// What we are to show this device as `own`.
    pub(super) fn token(
        &mut self,
        id: &SpiffeId,
        own: Role,
        now: Timestamp,
    ) -> Result<Option<[u8; 32]>, Reason> {
        Ok(*self.meet(id, now)?.token(own))
    }

    /// What this device handed us to show next.
    pub(super) fn was_handed(&mut self, id: &SpiffeId, own: Role, token: Option<[u8; 32]>, now: Timestamp) {
        if let (Some(token), Ok(known)) = (token, self.meet(id, now)) {
            *known.token(own) = Some(token);
        }
    }

    /// Someone has looked at a suspicion: the device begins anew.
    pub(super) fn reset(&mut self, id: &SpiffeId) {
        if let Some(known) = self.known.get_mut(id) {
            known.as_client.reset();
            known.as_server.reset();
        }
    }

    fn meet(&mut self, id: &SpiffeId, now: Timestamp) -> Result<&mut Known, Reason> {
        if !self.known.contains_key(id) && self.known.len() >= self.devices_max {
            let oldest = self.known.iter().filter(|(_, k)| !k.suspected()).min_by_key(|(_, k)| k.met_at);
            let oldest = oldest.map(|(id, _)| id.clone()).ok_or(Reason::MemoryExhausted)?;
            self.known.remove(&oldest);
        }
        let known = self.known.entry(id.clone()).or_default();
        known.met_at = now;
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::id;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_secs(second)
    }

    fn show(
        memory: &mut Memory,
        name: &str,
        token: Option<[u8; 32]>,
        next: u8,
        second: i64,
    ) -> Result<Generation, Reason> {
        let arrival = Arrival { token, boot: [1; 16], renews: None };
        memory.show(&id(name), Role::Client, &arrival, &[next; 32], at(second))
    }

    #[test]
    fn at_the_bound_the_one_met_longest_ago_is_forgotten() {
        let mut memory = Memory::new(None, 2).unwrap();
        let a = show(&mut memory, "a", None, 1, 1).unwrap();
        let b = show(&mut memory, "b", None, 1, 2).unwrap();
        memory.check(&id("a"), Role::Client, a).unwrap();
        show(&mut memory, "c", None, 1, 3).unwrap();
        assert_eq!(memory.known.len(), 2);
        assert_eq!(memory.check(&id("a"), Role::Client, a), Err(Reason::LeaseExpired));
        memory.check(&id("b"), Role::Client, b).unwrap();
    }

    #[test]
    fn a_suspect_is_never_forgotten_to_make_room() {
        let mut memory = Memory::new(None, 1).unwrap();
        for (token, next) in [(None, 1), (Some([1; 32]), 2), (Some([2; 32]), 3)] {
            show(&mut memory, "a", token, next, 1).unwrap();
        }
        assert_eq!(show(&mut memory, "a", Some([1; 32]), 4, 1), Err(Reason::CloneSuspected));
        assert_eq!(show(&mut memory, "b", None, 1, 2), Err(Reason::MemoryExhausted));
        memory.reset(&id("a"));
        show(&mut memory, "b", None, 1, 3).unwrap();
    }

    #[test]
    fn client_and_server_are_threads_of_their_own() {
        let mut memory = Memory::new(None, 4).unwrap();
        memory.was_handed(&id("a"), Role::Client, Some([1; 32]), at(1));
        memory.was_handed(&id("a"), Role::Client, None, at(1));
        assert_eq!(memory.token(&id("a"), Role::Client, at(1)), Ok(Some([1; 32])));
        assert_eq!(memory.token(&id("a"), Role::Server, at(1)), Ok(None));
        let client = show(&mut memory, "a", None, 1, 1).unwrap();
        let arrival = Arrival { token: None, boot: [1; 16], renews: None };
        memory.show(&id("a"), Role::Server, &arrival, &[2; 32], at(2)).unwrap();
        memory.check(&id("a"), Role::Client, client).unwrap();
    }
}
