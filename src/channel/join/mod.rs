//! Joining: a narrow door beside the peers', chosen by its ALPN name, that asks for no certificate and reaches nothing else.
//!
//! One conversation per connection, each message a length (u32, big-endian) and a CBOR map with integer keys:
//!
//! ```text
//! device                              authority
//! Ask      token id, CSR, proof  ──▶  judges, issues, remembers what it issued
//!                                ◀──  Granted | Pending | Refused
//! More     offset                ──▶
//!                                ◀──  Part of the revocation lists
//! Ack      signed with the new key ─▶ spends the token
//!                                ◀──  Done | Refused
//! ```
//!
//! A device whose certificate has expired begins with Recover instead: its old chain, a request, and a signature by the old
//! key. The rest is the same, but that no token is spent.
//!
//! Wherever it breaks off, the same device with the same token begins again and gets the same certificate.

mod call;
mod door;
mod message;
#[cfg(test)]
mod tests;

pub use call::{JoinError, JoinOutcome, join, recover};
pub use door::{Clerk, JOINS_MAX, JoinDoor};
pub(super) use door::{Shaken, serve, shake};
pub use message::{
    ALPN_JOIN, AskMessage, Baseline, COMPONENTS_MAX, Facts, JoinReply, JoinRequest, MESSAGE_LEN_MAX,
    MessageError, VALUES_MAX,
};
pub(super) use message::{Fields, bytes, map};

/// Label of the exporter that proofs and acknowledgements cover (RFC 8446 §7.5).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-countersign-join";
