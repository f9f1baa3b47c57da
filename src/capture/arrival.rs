//! What a local door hands on: who came, what they want, and how to answer them.

use crate::model::{Authority, Reason, ServiceName};
use crate::net::Answer;

/// One local app at one local door, waiting for an answer.
pub struct Arrival {
    /// What it asked for.
    pub wanted: Wanted,
    /// The app's user id; known on Unix sockets only.
    pub uid: Option<u32>,
    /// Where it comes from: `127.0.0.1:40000` or `unix:<uid>`.
    pub source: String,
    /// Lets it in or turns it away in the door's language. Dropped unused, it closes the connection.
    pub answer: Box<dyn Answer>,
    /// What the door speaks: `forward`, `socks5` or `connect`.
    pub door: &'static str,
}

/// What a local app asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// The outbound this door forwards to.
    Outbound(ServiceName),
    /// A host it named; `flow` finds out whether that is an outbound.
    Host(Authority),
    /// Nothing that can be granted: the request itself is refused for this reason. Only `refuse` answers it.
    Nothing(Reason),
}
