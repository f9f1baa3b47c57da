//! The peers' door and the way out: one authenticated session over TLS, many flows.
//!
//! Every flow is an HTTP CONNECT request over a mutually authenticated connection (RFC 9113 §8.5, RFC 9110 §9.3.6).
//! The peers' door speaks h2 to sidecars and HTTP/1.1 to plain clients such as curl; going out is always h2.
//! Beside it stands the narrow door of `join`, where a device without a certificate gets one.

mod attest;
mod dial;
mod errand;
mod h1;
mod h2_stream;
mod join;
mod keepalive;
mod listen;
mod news;
mod session;
mod settings;

pub use attest::{
    AttestError, AttestRefused, Attester, Digests, EVIDENCE_ERRAND, Outcome, OwnStanding, Remembered, Witness,
};
pub use dial::{DialError, Dialled, Dialler, OpenError, dial};
pub use errand::{ERRAND_LEN_MAX, ERRAND_PATH, ERRANDS_MAX, ErrandError};
pub use join::{
    ALPN_JOIN, AskMessage, Baseline, COMPONENTS_MAX, Clerk, Facts, JOINS_MAX, JoinDoor, JoinError,
    JoinOutcome, JoinReply, JoinRequest, MESSAGE_LEN_MAX, MessageError, VALUES_MAX, join, recover,
};
pub use listen::{Arrival, Keeper, PeersDoor, serve};
pub use news::{
    Barred, Blob, Digests as NewsDigests, FileDigest, NEWS_ERRAND, NEWS_WAIT_MAX, NewsAnswer, NewsAsk,
    PART_ERRAND, PART_LEN, PartAsk, RENEW_ERRAND, RenewAnswer, STANDINGS_MAX, Standings, decode_renew,
    encode_renew,
};
pub use session::{Session, SessionId, Sessions, Standing};
pub use settings::*;
