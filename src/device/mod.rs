//! What a machine is: collected, made into evidence for one connection, and appraised by the other end.
//!
//! Components never authenticate by themselves: whoever is root can forge each of them. They show change and copying
//! of a key that does. Values leave the machine only as HMACs under a salt that no other machine knows.

mod component;
mod p256;
mod record;

pub use component::{Class, Component, Weights};
pub use p256::{SIGNATURE_LEN, verify_p256};
pub use record::*;

/// What a machine presents of one component: HMACs under its salt, one or a sorted set.
pub type Presented = Vec<[u8; 16]>;
