//! What `flow` can be told.

use std::time::Duration;

use crate::analyser::event::Tongue;
use crate::model::{Authority, ServiceName, SpiffeId};
use crate::net::Target;

/// The services this sidecar knows, both ways.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What peers may ask for.
    pub inbound: Vec<Inbound>,
    /// What local apps may ask for.
    pub outbound: Vec<Outbound>,
    /// Longest drain on SIGTERM before living flows are cut. Default 30 s.
    pub drain_timeout: Duration,
}

/// `[[inbound]]`: a local service that peers may reach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inbound {
    /// What peers ask for.
    pub name: ServiceName,
    /// Where it listens.
    pub target: Target,
    /// A flow on which nothing moves is ended after this. Default 1 h.
    pub idle_timeout: Duration,
    /// Longest wait for the target. Default 5 s.
    pub connect_timeout: Duration,
    /// What the service is told of the peer. Default nothing.
    pub pass: Pass,
    /// What is spoken with it; the analyser blocks another protocol. Default: not said.
    pub speaks: Tongue,
}

/// What a local service is told of the peer ahead of the peer's own bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Pass {
    /// Nothing: it sees the bytes as they are.
    #[default]
    Nothing,
    /// A PROXY protocol v2 header. The service must expect one: a peer could write its own where none comes.
    ProxyV2,
}

/// `[[outbound]]`: a service at a peer that local apps may reach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outbound {
    /// What is asked for at the peer.
    pub name: ServiceName,
    /// Who the peer must be.
    pub peer: SpiffeId,
    /// Where the peer's door is, in order of preference; at least one.
    pub paths: Vec<Authority>,
    /// A flow on which nothing moves is ended after this. Default 1 h.
    pub idle_timeout: Duration,
}
