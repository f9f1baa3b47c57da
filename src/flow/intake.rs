//! One shape for both doors: who asks, for what, and how to answer.

use std::sync::Arc;

use crate::capture;
use crate::channel::{self, Session};
use crate::model::{
    Authority, DeviceFacts, Direction, Facts, Reason, Risk, ServiceName, SessionFacts, SpiffeId, Timestamp,
    Transport,
};
use crate::net::Answer;

/// A flow at a door.
pub struct Intake {
    /// Who asks.
    pub asker: Asker,
    /// What for, or why the request is none.
    pub wanted: Result<Wanted, Reason>,
    /// Says yes or no in the door's language.
    pub answer: Box<dyn Answer>,
}

/// Who asks.
pub struct Asker {
    /// The peer's ID at the peers' door, this device's at a local one.
    pub id: SpiffeId,
    /// What it may be taken for, or why it must prove itself first.
    pub device: Result<DeviceFacts, Reason>,
    /// Which way the flow goes.
    pub direction: Direction,
    /// The session, at the peers' door.
    pub session: Option<Arc<Session>>,
    /// Address or `unix:<uid>`, for people.
    pub source: String,
    /// The caller's user id on a Unix socket.
    pub uid: Option<u32>,
}

/// What a flow asks for, before it is known whether it exists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// The outbound a port forward belongs to.
    Outbound(ServiceName),
    /// The target of a CONNECT or SOCKS5 request.
    Authority(Authority),
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Outbound(name) => name.fmt(f),
            Self::Authority(authority) => authority.fmt(f),
        }
    }
}

impl Intake {
    /// From a local door. A local app acts as this very device, `own`.
    pub fn local(arrival: capture::Arrival, own: DeviceFacts) -> Self {
        let wanted = match arrival.wanted {
            capture::Wanted::Outbound(name) => Ok(Wanted::Outbound(name)),
            capture::Wanted::Host(authority) => Ok(Wanted::Authority(authority)),
            capture::Wanted::Nothing(reason) => Err(reason),
        };
        Self {
            asker: Asker {
                id: own.id.clone(),
                device: Ok(own),
                direction: Direction::Outbound,
                session: None,
                source: arrival.source,
                uid: arrival.uid,
            },
            wanted,
            answer: arrival.answer,
        }
    }

    /// From the peers' door, at `now`.
    pub fn peer(arrival: channel::Arrival, now: Timestamp) -> Self {
        let session = arrival.session;
        Self {
            asker: Asker {
                id: session.peer.id().clone(),
                device: session.device(now),
                direction: Direction::Inbound,
                source: session.remote.to_string(),
                session: Some(session),
                uid: None,
            },
            wanted: arrival.wanted.map(Wanted::Authority),
            answer: arrival.answer,
        }
    }
}

impl Asker {
    /// What policy judges when this asker, taken for `device`, wants `service` at `now`.
    pub fn facts(&self, device: DeviceFacts, service: ServiceName, now: Timestamp) -> Facts {
        let age = self.session.as_ref().map_or(0, |s| now.since(s.proven_at()).as_secs());
        Facts {
            device,
            service,
            session: SessionFacts {
                direction: self.direction,
                hour: now.hour(),
                lease_age_s: u32::try_from(age).unwrap_or(u32::MAX),
                pq: self.session.as_ref().is_none_or(|s| s.pq),
                risk: Risk::default(),
                transport: self.session.as_ref().map_or(Transport::Local, |s| s.transport),
                uid: self.uid,
            },
        }
    }
}
