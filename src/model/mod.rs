//! The nouns every room speaks: who, what, where, how risky, why not, how much.
//!
//! Floor 0. Knows no runtime, no serialisation and no other room.

mod authority;
mod decision;
mod facts;
mod peer;
mod reason;
mod refusal;
mod sign;
mod timestamp;
pub mod units;

pub use authority::{Authority, AuthorityError, Host};
pub use decision::{DecisionId, FlowId};
pub use facts::{DeviceFacts, Direction, Facts, Risk, Score, SessionFacts, Tier, Transport};
pub use peer::{DeviceName, NameError, ServiceName, SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};
pub use reason::Reason;
pub use refusal::Refusal;
pub use sign::{Sign, SignError};
pub use timestamp::{CLOCK_SKEW_MAX, Timestamp};
