//! The far side of a flow: the local service, or the peer that has it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::ready;
use std::time::Duration;

use crate::channel::Session;
use crate::model::{Authority, Host, Reason};
use crate::net::{self, BoxStream, Chunks, SocketOptions, Target};
use crate::protocols::{ProxyV2, ProxyV2Tls, proxy_v2};
use crate::resilience::{PoolError, resolve};

use super::routes::Route;
use super::run::Rooms;
use super::settings::{Inbound, Outbound, Pass};
use super::table::Living;

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

/// Opens the far side of `route` for the flow that has `seat`.
pub(super) async fn open(rooms: &Rooms, route: &Route<'_>, seat: &Living) -> Result<Far, ExitError> {
    match route {
        Route::Service(inbound) => service(rooms, inbound, seat).await,
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

async fn service(rooms: &Rooms, inbound: &Inbound, seat: &Living) -> Result<Far, ExitError> {
    let timeout = inbound.connect_timeout;
    let (mut stream, addr) = match &inbound.target {
        Target::Tcp(authority) => {
            let (stream, addr) = tcp(authority, &rooms.own_doors, timeout).await?;
            (stream, Some(addr))
        }
        Target::Unix(path) => {
            (net::connect_unix(path, timeout).await.map_err(|e| connect_error(&e))?.into(), None)
        }
    };
    match inbound.pass {
        Pass::Nothing => {}
        // Before anything else, and whether or not the peer says a word: a service may be the first to speak.
        Pass::ProxyV2 => tell(&mut stream, header(inbound, addr, seat)?, timeout).await?,
    }
    Ok(Far { stream, session: None, target: inbound.target.to_string() })
}

/// What a service is told of the peer: its address and the service's own, its identity, the decision, the session.
fn header(inbound: &Inbound, addr: Option<SocketAddr>, seat: &Living) -> Result<Vec<u8>, ExitError> {
    let session = seat.session();
    let said = ProxyV2 {
        // A Unix socket has no address of the peer's family; the peer's is worth telling all the same.
        addresses: session.map(|s| (s.remote, addr.unwrap_or_else(|| unspecified(s.remote)))),
        authority: inbound.name.as_str(),
        decision: seat.decision,
        identity: &seat.facts.device.id,
        tls: session
            .map(|s| ProxyV2Tls { common_name: s.peer.svid().common_name.as_deref(), cipher: s.cipher }),
    };
    proxy_v2(&said).map_err(|e| ExitError { reason: Reason::Internal, detail: e.to_string() })
}

/// The address that says nothing, in the family of `like`.
fn unspecified(like: SocketAddr) -> SocketAddr {
    match like.ip().to_canonical() {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Sends `bytes` ahead of everything else.
async fn tell(stream: &mut BoxStream, bytes: Vec<u8>, timeout: Duration) -> Result<(), ExitError> {
    let mut chunks = Chunks::default();
    chunks.push(bytes.into());
    let told = std::future::poll_fn(|cx| {
        while !chunks.is_empty() {
            ready!(stream.write.poll_send(cx, &mut chunks))?;
        }
        stream.write.poll_flush(cx)
    });
    match tokio::time::timeout(timeout, told).await {
        Ok(told) => told.map_err(|e| ExitError { reason: Reason::ConnectFailed, detail: e.to_string() }),
        Err(_) => Err(ExitError {
            reason: Reason::ConnectTimeout,
            detail: "the service does not take the PROXY header".into(),
        }),
    }
}

/// Tries every address of the target until one answers; gives that address, too.
async fn tcp(
    authority: &Authority,
    own: &[SocketAddr],
    timeout: Duration,
) -> Result<(BoxStream, SocketAddr), ExitError> {
    let addrs = resolve(authority, timeout)
        .await
        .map_err(|e| ExitError { reason: e.reason(), detail: e.to_string() })?;
    let mut last = ExitError { reason: Reason::ConnectFailed, detail: "no address".into() };
    for addr in addrs {
        if own.contains(&addr) {
            return Err(ExitError { reason: Reason::LoopDetected, detail: addr.to_string() });
        }
        match net::connect(addr, SocketOptions::default(), timeout).await {
            Ok(stream) => return Ok((stream.into(), addr)),
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
