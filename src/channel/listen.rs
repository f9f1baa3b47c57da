//! The peers' door: knock, handshake, then one [`Arrival`] per CONNECT.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use super::attest::Attester;
use super::errand::{self, Caller, ERRANDS_MAX, Turnstile};
use super::h1;
use super::h2_stream::{self, *};
use super::join::{self, JoinDoor};
use super::keepalive;
use super::session::{Exports, Registered, Session, Sessions, Shaken};
use super::settings::{Profile, Settings};
use crate::device::Role;
use crate::identity::Identity;
use crate::model::{Authority, Reason, Refusal, Timestamp, Transport};
use crate::net::{
    Accepted, Answer, BoxFuture, BoxStream, Listener, Patience, ReadAhead, SocketOptions, Spread, StreamError,
};
use crate::protocols;

/// One CONNECT at the peers' door.
pub struct Arrival {
    /// The session it came on; its peer is who asks.
    pub session: Arc<Session>,
    /// Where it comes from: the session's address, or the one that a trusted waypoint names.
    pub source: SocketAddr,
    /// What it asks for, or why the request is none.
    pub wanted: Result<Authority, Reason>,
    /// Says yes or no.
    pub answer: Box<dyn Answer>,
}

/// What the door asks and tells those above it. Called on the door's tasks: must not block.
pub trait Keeper: Send + Sync + 'static {
    /// May this source try a handshake now? The value returned is held until the handshake is over.
    ///
    /// # Errors
    /// The [`Reason`] why not.
    fn knock(&self, source: IpAddr) -> Result<Box<dyn Send>, Reason>;

    /// A knock or a handshake was refused before anyone was known.
    fn refused(&self, source: SocketAddr, reason: Reason, detail: &str);

    /// A request came.
    fn arrived(&self, arrival: Arrival);

    /// The peer wants something that is no flow, see [`ERRAND_PATH`](super::ERRAND_PATH): gives the answer's body.
    fn errand(
        &self,
        session: Arc<Session>,
        name: &str,
        body: Result<Bytes, Reason>,
    ) -> BoxFuture<Result<Bytes, Refusal>>;
}

/// What the door needs to know.
pub struct PeersDoor {
    /// Who we are and whom we believe.
    pub identity: Identity,
    /// Limits and waits.
    pub settings: Settings,
    /// Says of whom evidence is asked.
    pub attester: Attester,
    /// Where living sessions are registered.
    pub sessions: Sessions,
    /// Who is asked and told.
    pub keeper: Arc<dyn Keeper>,
    /// The joining door, when this sidecar is the authority.
    pub join: Option<JoinDoor>,
    /// Who carries the sessions, each to its end.
    pub workers: Spread,
}

/// Takes connections until `drain` turns true; living sessions then get a GOAWAY and end with their last flow.
pub async fn serve(door: Arc<PeersDoor>, listener: Listener, drain: watch::Receiver<bool>) {
    let (mut stop, mut patience) = (drain.clone(), Patience::default());
    loop {
        let accepted = tokio::select! {
            () = until_true(&mut stop) => return,
            accepted = listener.accept_patiently(SocketOptions::default(), &mut patience) => accepted,
        };
        let Accepted::Tcp(tcp, remote) = accepted else { continue };
        match door.keeper.knock(remote.ip()) {
            Ok(slot) => {
                // A connection that fails here is gone already.
                let Ok(tcp) = tcp.into_std() else { continue };
                let (door, drain) = (Arc::clone(&door), drain.clone());
                let workers = door.workers.clone();
                workers.spawn(async move {
                    if let Ok(tcp) = TcpStream::from_std(tcp) {
                        greet(door, tcp, remote, slot, drain).await;
                    }
                });
            }
            Err(reason) => {
                // Reset, not FIN: nothing of this connection should linger in the kernel.
                let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                door.keeper.refused(remote, reason, "");
            }
        }
    }
}

/// Proves who knocks, then serves the session.
async fn greet(
    door: Arc<PeersDoor>,
    tcp: TcpStream,
    remote: SocketAddr,
    slot: Box<dyn Send>,
    drain: watch::Receiver<bool>,
) {
    let spoken: &[&[u8]] = match door.settings.profile {
        Profile::Native => &[ALPN_H2, ALPN_H1],
        Profile::Hbone { .. } => &[ALPN_H2],
    };
    let (config, leaf) = door.identity.accepting(spoken);
    let shaken = tokio::time::timeout(
        door.settings.handshake_timeout,
        join::shake(door.join.as_ref(), config, ReadAhead::new(tcp)),
    );
    let mut tls = match shaken.await {
        Ok(Ok(join::Shaken::Peer(tls))) => *tls,
        Ok(Ok(join::Shaken::Joiner(tls))) => {
            drop(slot);
            let Some(join) = &door.join else { return };
            return join::serve(join, &*door.keeper, *tls, remote).await;
        }
        Ok(Err((reason, detail))) => return door.keeper.refused(remote, reason, &detail),
        Err(_) => return door.keeper.refused(remote, Reason::TlsTimeout, ""),
    };
    tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
    let now = Timestamp::now();
    let transport = match tls.get_ref().1.alpn_protocol() {
        Some(ALPN_H2) => Transport::H2,
        _ => Transport::H1,
    };
    let state = tls.get_ref().1;
    let Ok(exports) =
        Exports::take(|out, label, context| state.export_keying_material(out, label, context).map(drop))
    else {
        return door.keeper.refused(remote, Reason::TlsFailed, "the exporter is not to be had");
    };
    let session =
        match Session::new(state, Shaken { exports, role: Role::Server, leaf, remote, transport, now }) {
            Ok(session) => Arc::new(session),
            Err(e) => return door.keeper.refused(remote, Reason::CertificateNotSvid, &e.to_string()),
        };
    door.attester.begin(&session);
    let registered = door.sessions.register(&session);
    match transport {
        Transport::H2 => serve_h2(&door, tls, session, registered, slot, drain).await,
        _ => serve_h1(&door, tls, session, registered, slot).await,
    }
}

async fn serve_h1(
    door: &PeersDoor,
    mut tls: TlsStream<ReadAhead<TcpStream>>,
    session: Arc<Session>,
    registered: Registered,
    slot: Box<dyn Send>,
) {
    let deadline = tokio::time::Instant::now() + door.settings.handshake_timeout;
    let (wanted, early) = h1::request(&mut tls, deadline).await;
    drop(slot);
    let answer = h1::H1Answer { io: tls, early, session: Arc::clone(&session), registered };
    door.keeper.arrived(Arrival { source: session.remote, session, wanted, answer: Box::new(answer) });
}

async fn serve_h2(
    door: &PeersDoor,
    tls: TlsStream<ReadAhead<TcpStream>>,
    session: Arc<Session>,
    registered: Registered,
    slot: Box<dyn Send>,
    mut drain: watch::Receiver<bool>,
) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_header_list_size(HEADERS_MAX)
        // Beside the flows there is always room for what keeps the session proven.
        .max_concurrent_streams(door.settings.streams_max.saturating_add(ERRANDS_MAX as u32))
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .reset_stream_duration(RESET_MEMORY)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES_BUDGET);
    let shaken = tokio::time::timeout(door.settings.handshake_timeout, builder.handshake::<_, Bytes>(tls));
    let Ok(Ok(mut connection)) = shaken.await else { return };
    drop(slot);
    let registered = Arc::new(registered);
    let lost =
        keepalive::lost(connection.ping_pong(), door.settings.ping_interval, door.settings.ping_timeout);
    tokio::pin!(lost);
    let mut draining = false;
    let errands = Arc::new(Turnstile::new());
    loop {
        tokio::select! {
            reason = session.until_ended() => {
                tracing::info!(session = %session.id, peer = %session.peer.id(), reason = reason.code(), "session ended");
                connection.abrupt_shutdown(h2::Reason::CANCEL);
                let farewell = std::future::poll_fn(|cx| connection.poll_closed(cx));
                let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
                return;
            }
            () = until_true(&mut drain), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = &mut lost => return session.end(Reason::PeerClosed),
            request = connection.accept() => match request {
                Some(Ok((request, respond))) if errand::name_of(&request).is_some() => {
                    let caller = Caller {
                        keeper: Arc::clone(&door.keeper),
                        session: Arc::clone(&session),
                        turnstile: Arc::clone(&errands),
                        timeout: door.settings.handshake_timeout,
                    };
                    tokio::spawn(caller.serve(request, respond));
                }
                Some(Ok((request, respond))) => arrived(door, &session, &registered, request, respond),
                Some(Err(e)) => {
                    tracing::debug!(session = %session.id, error = %e, "session broke");
                    return session.end(Reason::PeerClosed);
                }
                None => return session.end(Reason::PeerClosed),
            },
        }
    }
}

/// Waits for a switch to be thrown; for ever when nobody can throw it any more.
async fn until_true(switch: &mut watch::Receiver<bool>) {
    if switch.wait_for(|on| *on).await.map(drop).is_err() {
        std::future::pending().await
    }
}

fn arrived(
    door: &PeersDoor,
    session: &Arc<Session>,
    registered: &Arc<Registered>,
    request: http::Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let wanted = connect_target(&request);
    let hold = Arc::clone(registered);
    let source = source(&door.settings.profile, session, &request);
    let status = match door.settings.profile {
        Profile::Native => Reason::http_status,
        Profile::Hbone { .. } => hbone_status,
    };
    let answer = H2Answer { respond, recv: request.into_body(), hold, status };
    door.keeper.arrived(Arrival { session: Arc::clone(session), source, wanted, answer: Box::new(answer) });
}

/// Where a request comes from. `forwarded` is what anybody likes to write: it counts from a trusted waypoint only.
/// `baggage` names workloads by the sender's word alone and is never read.
fn source<B>(profile: &Profile, session: &Session, request: &http::Request<B>) -> SocketAddr {
    let believed = match profile {
        Profile::Native => false,
        Profile::Hbone { trusted_waypoints } => trusted_waypoints.contains(session.peer.id()),
    };
    let said = believed.then(|| request.headers().get(header::FORWARDED)).flatten();
    said.and_then(|value| protocols::forwarded_for(value.to_str().ok()?)).unwrap_or(session.remote)
}

/// The three statuses of HBONE: the request is none (400), it is refused (401), it cannot be carried out (503).
fn hbone_status(reason: Reason) -> u16 {
    match reason.http_status() {
        400 | 405 | 408 | 431 => 400,
        401 | 403 => 401,
        _ => 503,
    }
}

/// The target of an h2 CONNECT: `:method` and `:authority` alone (RFC 9113 §8.5).
fn connect_target<B>(request: &http::Request<B>) -> Result<Authority, Reason> {
    if request.method() != Method::CONNECT {
        return Err(Reason::MethodNotAllowed);
    }
    let uri = request.uri();
    let authority = uri.authority().ok_or(Reason::RequestMalformed)?;
    if uri.scheme().is_some() || uri.path_and_query().is_some_and(|p| !p.as_str().is_empty() && p != "/") {
        return Err(Reason::RequestMalformed);
    }
    authority.as_str().parse().map_err(|_| Reason::RequestMalformed)
}

/// Answers one h2 CONNECT.
struct H2Answer {
    respond: SendResponse<Bytes>,
    recv: h2::RecvStream,
    hold: Arc<Registered>,
    /// How a refusal is told.
    status: fn(Reason) -> u16,
}

impl Answer for H2Answer {
    fn accept(mut self: Box<Self>) -> BoxFuture<Result<BoxStream, StreamError>> {
        Box::pin(async move {
            let send =
                self.respond.send_response(Response::new(()), false).map_err(|_| StreamError::Reset)?;
            Ok(h2_stream::stream(send, self.recv, self.hold))
        })
    }

    fn refuse(mut self: Box<Self>, refusal: Refusal) -> BoxFuture<()> {
        Box::pin(async move {
            let body = Bytes::from(protocols::problem_json(&refusal));
            let mut head = refusal_head(&refusal);
            *head.status_mut() = http_status((self.status)(refusal.reason));
            // The peer may have reset the stream already; the audit has the refusal.
            if let Ok(mut send) = self.respond.send_response(head, false) {
                let _ = send.send_data(body, true);
            }
        })
    }
}

pub(super) fn refusal_head(refusal: &Refusal) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = http_status(refusal.reason.http_status());
    let headers = head.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Ok(status) = HeaderValue::from_str(&protocols::proxy_status(refusal)) {
        headers.insert(PROXY_STATUS, status);
    }
    if let Some(seconds) = protocols::retry_after_seconds(refusal) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    head
}

fn http_status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Where a refusal is told (RFC 9209 §2).
pub(super) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// ALPN protocol names (RFC 7301 §6).
pub(super) const ALPN_H2: &[u8] = b"h2";
const ALPN_H1: &[u8] = b"http/1.1";
/// Longest wait for a last GOAWAY to leave.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hbone_knows_three_statuses_for_every_reason() {
        for reason in Reason::ALL {
            assert!(matches!(hbone_status(*reason), 400 | 401 | 503), "{reason:?}");
        }
        for (reason, status) in [
            (Reason::MethodNotAllowed, 400),
            (Reason::RequestMalformed, 400),
            (Reason::PolicyDenied, 401),
            (Reason::ServiceUnknown, 401),
            (Reason::ConnectRefused, 503),
            (Reason::ConnectTimeout, 503),
            (Reason::FlowsLimited, 503),
        ] {
            assert_eq!(hbone_status(reason), status, "{reason:?}");
        }
    }
}
