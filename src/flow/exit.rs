//! The far side of a flow: the local service, or the peer that has it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::Session;
use crate::model::{Authority, Host, Reason};
use crate::net::{self, BoxStream, SocketOptions, Target};
use crate::resilience::{PoolError, resolve};

use super::routes::Route;
use super::run::Rooms;
use super::settings::{Inbound, Outbound};

/// The far side, opened.
pub(super) struct Far {
    pub stream: BoxStream,
    /// The session, where it is a peer.
    pub session: Option<Arc<Session>>,
    /// Where it is, for people.
    pub target: String,
}

/// Why it was not opened.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {detail}")]
pub(super) struct ExitError {
    pub reason: Reason,
    pub detail: String,
}

/// Opens the far side of `route`.
pub(super) async fn open(rooms: &Rooms, route: &Route<'_>) -> Result<Far, ExitError> {
    match route {
        Route::Service(inbound) => service(rooms, inbound).await,
        Route::Peer(outbound) => peer(rooms, outbound).await,
    }
}

async fn peer(rooms: &Rooms, outbound: &Outbound) -> Result<Far, ExitError> {
    // The port says nothing to the peer, it knows the service by name; CONNECT wants one.
    let authority = Authority { host: Host::Name(outbound.name.as_str().into()), port: SERVICE_PORT };
    let opened = rooms.pool.open(&outbound.peer, &outbound.paths, &authority).await?;
    let target = format!("{} at {}", outbound.peer, opened.session.remote);
    Ok(Far { stream: opened.stream, session: Some(opened.session), target })
}

async fn service(rooms: &Rooms, inbound: &Inbound) -> Result<Far, ExitError> {
    let timeout = inbound.connect_timeout;
    let stream = match &inbound.target {
        Target::Tcp(authority) => tcp(authority, &rooms.own_doors, timeout).await?,
        Target::Unix(path) => net::connect_unix(path, timeout).await.map_err(|e| connect_error(&e))?.into(),
    };
    Ok(Far { stream, session: None, target: inbound.target.to_string() })
}

/// Tries every address of the target until one answers.
async fn tcp(authority: &Authority, own: &[SocketAddr], timeout: Duration) -> Result<BoxStream, ExitError> {
    let addrs = resolve(authority, timeout)
        .await
        .map_err(|e| ExitError { reason: e.reason(), detail: e.to_string() })?;
    let mut last = ExitError { reason: Reason::ConnectFailed, detail: "no address".into() };
    for addr in addrs {
        if own.contains(&addr) {
            return Err(ExitError { reason: Reason::LoopDetected, detail: addr.to_string() });
        }
        match net::connect(addr, SocketOptions::default(), timeout).await {
            Ok(stream) => return Ok(stream.into()),
            Err(e) => last = connect_error(&e),
        }
    }
    Err(last)
}

fn connect_error(error: &io::Error) -> ExitError {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Reason::ConnectRefused,
        io::ErrorKind::TimedOut => Reason::ConnectTimeout,
        _ => Reason::ConnectFailed,
    };
    ExitError { reason, detail: error.to_string() }
}

impl From<PoolError> for ExitError {
    fn from(e: PoolError) -> Self {
        Self { reason: e.reason, detail: e.detail }
    }
}

/// The port written into a CONNECT for a service's name.
const SERVICE_PORT: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_own_door_is_never_dialled_whatever_name_leads_there() {
        let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = door.local_addr().unwrap();
        for name in [addr.to_string(), format!("localhost:{}", addr.port())] {
            let led = tcp(&name.parse().unwrap(), &[addr], Duration::from_secs(5)).await;
            let Err(error) = led else { panic!("{name} was dialled") };
            assert_eq!(error.reason, Reason::LoopDetected, "{name}");
        }
    }
}
