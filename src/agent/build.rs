//! From a configuration to every room, ready to run; or everything that is in the way, at once.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::attest::{self, Notary};
use super::bulletin::{self, Announcer, Board};
use super::contact::Contact;
use super::remember::{self, Keeper};
use super::take;
use crate::audit::{self, Log};
use crate::capture::{self, OpenDoor};
use crate::channel::{Attester, Dialler, JoinDoor, Sessions};
use crate::config::{Config, Membership};
use crate::flow::{Rooms, Table};
use crate::identity::{Identity, Places};
use crate::limits::{self, Governor, Handshakes, Knocks, Pressure};
use crate::model::Timestamp;
use crate::net::{Listener, UnixMode};
use crate::policy::Policy;
use crate::resilience::Pool;
use crate::telemetry::Metrics;

/// Why the sidecar did not start: everything found, one finding a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct StartError(pub Vec<String>);

/// The rooms, built; nothing listens yet.
pub(super) struct Built {
    pub rooms: Arc<Rooms>,
    pub identity: Identity,
    pub attester: Attester,
    pub sessions: Sessions,
    pub knocks: Arc<Knocks>,
    pub handshakes: Handshakes,
    pub opened: audit::Opened,
    pub drain: watch::Sender<bool>,
    /// The joining door and the board with the news, when this sidecar is the authority.
    pub authority: Option<(JoinDoor, Arc<Board>, Announcer)>,
    /// How it stands with the authority of this sidecar.
    pub contact: Arc<Contact>,
    /// Keeps what the analyser learns.
    pub memory: Arc<Keeper>,
}

/// The sockets, bound; nobody is served yet.
pub(super) struct Bound {
    pub peers: Option<Listener>,
    pub local: Vec<OpenDoor>,
    pub admin_tcp: Option<Listener>,
    pub admin_unix: Listener,
}

impl Bound {
    /// What is open, and where, for the log.
    pub fn all(&self) -> Vec<(&'static str, String)> {
        let peers = self.peers.iter().map(|l| ("peers", l.name()));
        let local = self.local.iter().map(|l| ("local", l.name()));
        let admin = self.admin_tcp.iter().chain([&self.admin_unix]).map(|l| ("admin", l.name()));
        peers.chain(local).chain(admin).collect()
    }
}

/// Builds every room.
pub(super) fn build(
    config: &Config,
    membership: Option<&Membership>,
    places: &Places,
    now: Timestamp,
) -> Result<Built, StartError> {
    let mut found = Vec::new();
    let identity = Identity::load(&config.identity, now).map_err(|e| found.push(e.to_string())).ok();
    let policy = Policy::load(config.policy.clone(), now).map_err(|e| found.push(e.to_string())).ok();
    // The log comes last and only when all else is well: its start entry must not tell of a start that failed.
    let (Some(identity), Some(policy)) = (identity, policy) else { return Err(StartError(found)) };
    let first = limits::sample().map_err(|e| StartError(vec![e.to_string()]))?;
    let origin = identity.id().to_string();
    let (audit, opened) =
        Log::open(&config.audit, &origin, now).map_err(|e| StartError(vec![e.to_string()]))?;
    let sessions = Sessions::default();
    let (drain, draining) = watch::channel(false);
    let (table, metrics) = (Table::default(), Metrics::new(env!("CARGO_PKG_VERSION")));
    let contact = Contact::new(membership.map(|m| m.authority.clone()), take::kept_standings(places));
    let contact = Arc::new(contact);
    let notary = Notary {
        audit: audit.clone(),
        metrics: metrics.clone(),
        table: table.clone(),
        contact: Arc::clone(&contact),
    };
    let attester = attest::attester(config, &identity, &policy, notary, now)?;
    let dialler = Dialler {
        identity: identity.clone(),
        attester: attester.clone(),
        sessions: sessions.clone(),
        settings: config.channel.clone(),
    };
    // After the device was looked at: one that has lost its salt must not be given another.
    let (behaviour, memory) = remember::recall(&config.behaviour, &config.device.salt, &metrics, now)?;
    let rooms = Rooms {
        settings: config.flow.clone(),
        policy,
        behaviour,
        governor: Governor::new(&config.limits),
        pressure: Pressure::new(&config.limits, first),
        own_doors: own_doors(config),
        table,
        pool: Pool::new(dialler),
        audit,
        metrics,
        drain: draining,
    };
    let rooms = Arc::new(rooms);
    let authority = match super::join::door(config.authority.as_ref(), &identity, &rooms, now)? {
        Some((door, desk)) => {
            let (board, announcer) = bulletin::open(&desk, now)?;
            Some((door, board, announcer))
        }
        None => None,
    };
    Ok(Built {
        rooms,
        identity,
        authority,
        contact,
        memory: Arc::new(memory),
        attester,
        sessions,
        knocks: Arc::new(Knocks::new(&config.limits)),
        handshakes: Handshakes::new(&config.limits),
        opened,
        drain,
    })
}

/// Binds every socket; all that cannot be bound is told at once.
pub(super) fn bind(config: &Config) -> Result<Bound, StartError> {
    let mut found = Vec::new();
    let mut tcp = |what: &str, addr: Option<SocketAddr>| {
        let addr = addr?;
        Listener::tcp(addr).map_err(|e| found.push(format!("{what} cannot listen on {addr}: {e}"))).ok()
    };
    let peers = tcp("`[peers]`", config.channel.listen);
    let admin_tcp = tcp("`[admin]`", config.console.listen);
    let mut local = Vec::new();
    for door in &config.capture {
        match capture::open(door) {
            Ok(open) => local.push(open),
            Err(e) => found.push(e.to_string()),
        }
    }
    let socket = &config.console.socket;
    match Listener::unix(socket, UnixMode::default()) {
        Ok(admin_unix) if found.is_empty() => Ok(Bound { peers, local, admin_tcp, admin_unix }),
        Ok(_) => Err(StartError(found)),
        Err(e) => {
            found.push(format!("`[admin] socket` {} cannot be made: {e}", socket.display()));
            Err(StartError(found))
        }
    }
}

/// The addresses a flow must never be led back to.
fn own_doors(config: &Config) -> Vec<SocketAddr> {
    let local = config.capture.iter().filter_map(|door| match &door.listen {
        capture::Listen::Tcp(addr) => Some(*addr),
        capture::Listen::Unix { .. } => None,
    });
    config.channel.listen.into_iter().chain(config.console.listen).chain(local).collect()
}
