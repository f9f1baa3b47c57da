//! Evidence on a session, both ways, before any flow: the client posts its own, the answer holds the server's.
//!
//! `device` makes and appraises it; here it meets its connection. Nothing is taken for proven before the audit has it.

mod keep;
mod machine;
mod memory;
mod prove;
#[cfg(test)]
pub(super) mod tests;
mod verify;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub(super) use keep::keep;
use machine::Machine;
pub use machine::{AttestError, OwnStanding};
use memory::Memory;
pub use verify::Outcome;

use super::session::{Session, Standing};
use crate::device::{self, Role, Salt, Settings, VersionsError, must_attest};
use crate::identity::Identity;
use crate::model::{DecisionId, DeviceFacts, Reason, SpiffeId, Tier, Timestamp};

/// The errand that carries evidence.
pub const EVIDENCE_ERRAND: &str = "evidence";

/// Hears what came of evidence, and writes it down. Called on the door's tasks: must not block.
pub trait Witness: Send + Sync + 'static {
    /// The peer of `session` is taken for what `outcome` says.
    ///
    /// # Errors
    /// [`Reason::AuditUnavailable`] when it cannot be written down: then it is not taken for it.
    fn attested(&self, session: &Session, outcome: &Outcome, now: Timestamp) -> Result<(), Reason>;

    /// The peer's evidence was refused. Gives the id under which that is written. Its flows end, unless the session
    /// still stands.
    fn refused(&self, session: &Session, reason: Reason, detail: &str, now: Timestamp) -> DecisionId;

    /// The session was not proven again: its flows end, unless it still stands. Says how many.
    fn lost(&self, session: &Session, reason: Reason) -> usize;
}

/// What evidence says of the files in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Digests {
    /// SHA-256 of the configuration in force.
    pub config: [u8; 32],
    /// SHA-256 that names the policy in force.
    pub policy: [u8; 32],
}

/// Evidence was refused, or could not be given.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}: {detail}", reason.code())]
pub struct AttestRefused {
    /// What a stranger may know.
    pub reason: Reason,
    /// In a few words.
    pub detail: String,
}

/// Proves this device to others and appraises them. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Attester(Arc<Inner>);

struct Inner {
    identity: Identity,
    settings: Settings,
    salt: Salt,
    witness: Arc<dyn Witness>,
    machine: ArcSwap<Machine>,
    digests: ArcSwap<Digests>,
    memory: Mutex<Memory>,
    /// Moves when our own leaf or record is another: living sessions then prove it.
    renewed: watch::Sender<u64>,
}

impl Attester {
    /// Looks at this machine. `versions` is what [`Attester::unsaved`] gave in an earlier run.
    ///
    /// # Errors
    /// [`AttestError`] when this machine cannot be looked at.
    pub fn new(
        identity: Identity,
        settings: Settings,
        digests: Digests,
        witness: Arc<dyn Witness>,
        memory: Remembered,
        now: Timestamp,
    ) -> Result<Self, AttestError> {
        let salt = machine::salt(&settings)?;
        let machine = Machine::look(&settings, &identity, &salt, None, now)?;
        Ok(Self(Arc::new(Inner {
            identity,
            settings,
            salt,
            witness,
            machine: ArcSwap::from_pointee(machine),
            digests: ArcSwap::from_pointee(digests),
            memory: Mutex::new(memory.0),
            renewed: watch::Sender::new(0),
        })))
    }

    /// Looks at this machine and its record again.
    ///
    /// # Errors
    /// [`AttestError`]; what was found last stays in force then.
    pub fn look_again(&self, now: Timestamp) -> Result<(), AttestError> {
        let Inner { settings, identity, salt, machine, .. } = &*self.0;
        let last = machine.load_full();
        machine.store(Arc::new(Machine::look(settings, identity, salt, Some(&last), now)?));
        Ok(())
    }

    /// Our leaf or record changed: every living session is to prove it.
    pub fn renewed(&self) {
        self.0.renewed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What evidence says of the files in force from now on.
    pub fn set_digests(&self, digests: Digests) {
        self.0.digests.store(Arc::new(digests));
    }

    /// How this very device stands.
    pub fn own(&self) -> OwnStanding {
        self.0.machine.load().standing(&self.0.identity)
    }

    /// What policy may take this very device for.
    pub fn own_device(&self) -> DeviceFacts {
        self.0.machine.load().device(&self.0.identity)
    }

    /// Says of a new session whether its peer must prove its device before anything else.
    pub(super) fn begin(&self, session: &Session) {
        if !self.must_attest(session) {
            session.exempt();
        }
    }

    fn must_attest(&self, session: &Session) -> bool {
        let id = session.peer.id();
        let settings = &self.0.settings;
        must_attest(device::Standing {
            record_known: self.memory().has_record(id),
            has_extension: session.peer.svid().has_fingerprint_extension,
            exempt: settings.require_tier == Tier::None || settings.exempt.contains(id),
        })
    }

    /// Whether what the session's peer proved still holds.
    ///
    /// # Errors
    /// `LeaseExpired` when its lease is over, or another session of the device began anew; `CloneSuspected`.
    pub fn check(&self, session: &Session, now: Timestamp) -> Result<(), Reason> {
        let Standing::Leased { lease, generation, .. } = session.standing() else { return Ok(()) };
        lease.check(now)?;
        self.memory().check(session.peer.id(), prover(session), generation)
    }

    /// The record versions seen, as they are kept on disk, when they changed since this was asked last.
    pub fn unsaved(&self) -> Option<String> {
        self.memory().unsaved()
    }

    /// They could not be written.
    pub fn not_saved(&self) {
        self.memory().not_saved();
    }

    /// Someone has looked at a suspicion: the device may begin anew.
    pub fn reset(&self, id: &SpiffeId) {
        self.memory().reset(id);
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an earlier run remembered of the records it saw.
pub struct Remembered(Memory);

impl Remembered {
    /// Reads what [`Attester::unsaved`] gave; `None` when there was no earlier run.
    ///
    /// # Errors
    /// [`VersionsError`]: whoever starts without it would take old records again.
    pub fn read(text: Option<&str>, devices_max: usize) -> Result<Self, VersionsError> {
        Memory::new(text, devices_max).map(Self)
    }
}

/// In which role the peer proves itself.
fn prover(session: &Session) -> Role {
    match session.role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}
