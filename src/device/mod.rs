//! What a machine is: collected, made into evidence for one connection, and appraised by the other end.
//!
//! Components never authenticate by themselves: whoever is root can forge each of them. They show change and copying
//! of a key that does. Values leave the machine only as HMACs under a salt that no other machine knows.

mod appraise;
mod binder;
mod cbor;
mod collect;
mod component;
mod continuity;
mod demo_machine;
mod envelope;
mod evidence;
mod fingerprint;
mod junk;
mod p256;
mod record;
mod salt;
mod settings;
mod sysroot;
mod versions;

pub use appraise::{Anchor, Appraisal, History, Lease, Standing, State, Verdict, appraise, must_attest};
pub use binder::{Binder, EXPORTER_LABEL, Role, binder};
pub use collect::{Collected, Missing, collect};
pub use component::{Class, Component, Weights};
pub use continuity::{Arrival, Continuity, Generation, SPENT_MAX};
pub use demo_machine::demo_machine;
pub use envelope::{
    Answer, CERTIFICATE_LEN_MAX, CHAIN_MAX, EnvelopeError, MESSAGE_LEN_MAX, Message, NewLeaf,
};
pub use evidence::{Claims, EVIDENCE_LEN_MAX, EvidenceError, TEXT_LEN_MAX, make, open, parse_claims};
pub use fingerprint::{FULL_WEIGHT_MIN, Fingerprint, fingerprint};
pub use p256::{SIGNATURE_LEN, verify_p256};
pub use record::{
    Profile, RECORD_LEN_MAX, RECORD_TTL_MAX, Record, RecordError, SignedRecord, Status, VALUES_MAX,
};
pub use salt::{Salt, SaltError};
pub use settings::*;
pub use sysroot::{ENTRIES_MAX, FILE_LEN_MAX, SysrootError};
pub use versions::{Versions, VersionsError};

/// What a machine presents of one component: HMACs under its salt, one or a sorted set.
pub type Presented = Vec<[u8; 16]>;

#[cfg(test)]
pub(crate) mod testing;
