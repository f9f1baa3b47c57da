//! The way out: dial a peer, prove each other, then open one CONNECT stream per flow.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Uri};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::attest::{self, Attester};
use super::errand::{self, ErrandError};
use super::h2_stream::{self, *};
use super::keepalive;
use super::listen::{ALPN_H2, PROXY_STATUS};
use super::session::{Exports, Registered, Session, Sessions, Shaken};
use super::settings::Settings;
use crate::device::Role;
use crate::identity::{self, Identity};
use crate::model::{Authority, Reason, SpiffeId, Timestamp, Transport};
use crate::net::{self, BoxStream, ReadAhead, SocketOptions};
use crate::protocols;

/// A connection to a peer. It closes when dropped and its last flow is over.
///
/// TLS 1.3 lets a client finish before the server has looked at its certificate: only the answer to a CONNECT says
/// that the peer accepted us.
pub struct Dialled {
    /// What was proven of the peer.
    pub session: Arc<Session>,
    link: Arc<Link>,
    flows: Arc<AtomicUsize>,
    flows_max: usize,
    worker: ThreadId,
}

/// Holds a connection open: who dialled does, and each of its flows.
pub(super) struct Link {
    pub(super) session: Arc<Session>,
    pub(super) send: SendRequest<Bytes>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{addr}: {detail}")]
pub struct DialError {
    /// What was dialled.
    pub addr: SocketAddr,
    /// The reason a stranger may see.
    pub reason: Reason,
    /// In a few words.
    pub detail: String,
}

/// Why a flow was not opened on a living connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The connection is gone or going; another may do. Nothing of the flow was sent to a service.
    #[error("the connection is gone: {detail}")]
    Gone {
        /// Why, as far as the peer told.
        reason: Reason,
        /// In a few words.
        detail: String,
    },
    /// It carries as many flows as it may.
    #[error("the connection carries as many flows as it may")]
    Full,
    /// The peer said no.
    #[error("the peer refused: {detail}")]
    Refused {
        /// The peer's HTTP status.
        status: u16,
        /// The peer's reason, rule and decision id.
        detail: String,
    },
    /// The peer did not answer in time.
    #[error("the peer did not answer in time")]
    Timeout,
}

/// What it takes to dial.
#[derive(Clone)]
pub struct Dialler {
    /// Who we are and whom we believe.
    pub identity: Identity,
    /// Proves our device, and has the peer prove its.
    pub attester: Attester,
    /// Where living sessions are registered.
    pub sessions: Sessions,
    /// Limits and waits.
    pub settings: Settings,
}

/// Dials `peer` at `addr`; both ends have then proven their devices, as far as each must.
///
/// # Errors
/// [`DialError`] when it cannot be reached, is not who it must be, or either end does not take the other's evidence.
pub async fn dial(addr: SocketAddr, peer: &SpiffeId, dialler: &Dialler) -> Result<Dialled, DialError> {
    let Dialler { identity, attester, sessions, settings } = dialler;
    let fail = |reason, detail: String| DialError { addr, reason, detail };
    let tcp = net::connect(addr, SocketOptions::default(), settings.connect_timeout)
        .await
        .map_err(|e| fail(connect_reason(&e), e.to_string()))?;
    let (config, leaf) = identity.dialling(peer, &[ALPN_H2]);
    let connector = TlsConnector::from(config);
    // A server's name is neither sent nor believed: the verifier wants the SPIFFE ID.
    let shaken = connector.connect(identity::server_name(), ReadAhead::new(tcp));
    let shaken = tokio::time::timeout(settings.handshake_timeout, shaken);
    let mut tls = shaken
        .await
        .map_err(|_| fail(Reason::TlsTimeout, "no answer to the TLS handshake".into()))?
        .map_err(|e| fail(identity::reason_of_io(&e), identity::detail_of_io(&e)))?;
    tls.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
    let state = tls.get_ref().1;
    if state.alpn_protocol() != Some(ALPN_H2) {
        return Err(fail(Reason::TlsFailed, "the peer does not speak h2".into()));
    }
    let exports =
        Exports::take(|out, label, context| state.export_keying_material(out, label, context).map(drop))
            .map_err(|e| fail(Reason::TlsFailed, e.to_string()))?;
    let now = Timestamp::now();
    let shaken = Shaken { exports, role: Role::Client, leaf, remote: addr, transport: Transport::H2, now };
    let session = Session::new(state, shaken).map_err(|e| fail(Reason::CertificateNotSvid, e.to_string()))?;
    attester.begin(&session);
    let session = Arc::new(session);
    let registered = sessions.register(&session);
    let (send, connection) =
        client_builder(settings).handshake(tls).await.map_err(|e| fail(Reason::PeerClosed, e.to_string()))?;
    tokio::spawn(drive(connection, Arc::clone(&session), registered, settings.clone()));
    let lease = attester.exchange(&session, &send, settings.answer_timeout).await.map_err(|e| {
        session.end(e.reason);
        fail(e.reason, e.detail)
    })?;
    let link = Arc::new(Link { session, send });
    tokio::spawn(attest::keep(attester.clone(), Arc::downgrade(&link), settings.answer_timeout, lease));
    let (flows_max, worker) = (settings.streams_max as usize, std::thread::current().id());
    Ok(Dialled { session: Arc::clone(&link.session), link, flows: Arc::default(), flows_max, worker })
}

fn client_builder(settings: &Settings) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_header_list_size(HEADERS_MAX)
        .initial_max_send_streams(settings.streams_max as usize)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .reset_stream_duration(RESET_MEMORY)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES_BUDGET)
        .enable_push(false);
    builder
}

/// Moves the connection's frames until it ends or is ended.
async fn drive(
    mut connection: h2::client::Connection<TlsStream<ReadAhead<TcpStream>>, Bytes>,
    session: Arc<Session>,
    _registered: Registered,
    settings: Settings,
) {
    let ping = connection.ping_pong();
    let reason = tokio::select! {
        end = connection => {
            if let Err(e) = &end {
                tracing::debug!(session = %session.id, error = %e, "connection to the peer ended");
            }
            end.err().map_or(Reason::PeerClosed, |e| reason_inside(&e))
        }
        reason = session.until_ended() => reason,
        () = keepalive::lost(ping, settings.ping_interval, settings.ping_timeout) => Reason::PeerClosed,
    };
    session.end(reason);
}

impl Dialled {
    /// Runs the errand `name` at the peer: posts `body`, takes at most `answer_max` bytes within `timeout`.
    ///
    /// # Errors
    /// [`ErrandError`] when the peer refuses, does not answer in time, or answers too much.
    pub async fn post(
        &self,
        name: &str,
        body: Bytes,
        answer_max: usize,
        timeout: std::time::Duration,
    ) -> Result<Bytes, ErrandError> {
        errand::run(&self.link.send, name, body, answer_max, timeout).await
    }

    /// Whether the calling thread moves its frames: a flow of the same thread reaches it without waking another.
    pub fn is_near(&self) -> bool {
        self.worker == std::thread::current().id()
    }

    /// Flows it carries now.
    pub fn flows(&self) -> usize {
        self.flows.load(Ordering::Relaxed)
    }

    /// Whether it can take another flow at once: never waits for a stream to become free.
    pub fn has_room(&self) -> bool {
        let most = self.flows_max.min(self.link.send.current_max_send_streams());
        self.session.ended().is_none() && self.flows() < most
    }

    /// Takes a place for one more flow.
    ///
    /// # Errors
    /// [`OpenError::Full`] when there is none, [`OpenError::Gone`] when the session has ended.
    pub fn place(&self) -> Result<Place, OpenError> {
        if let Some(reason) = self.session.ended() {
            return Err(OpenError::Gone { reason, detail: "the session has ended".into() });
        }
        let most = self.flows_max.min(self.link.send.current_max_send_streams());
        let taken =
            self.flows.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        match taken {
            Ok(_) => Ok(Place(Arc::clone(&self.flows))),
            Err(_) => Err(OpenError::Full),
        }
    }

    /// Asks the peer for `authority` and waits for its 200.
    ///
    /// # Errors
    /// [`OpenError`] when the peer refuses, does not answer, or the connection is gone.
    pub async fn open(
        &self,
        authority: &Authority,
        place: Place,
        settings: &Settings,
    ) -> Result<BoxStream, OpenError> {
        let asked = self.ask(authority, place);
        tokio::time::timeout(settings.answer_timeout, asked).await.unwrap_or(Err(OpenError::Timeout))
    }

    async fn ask(&self, authority: &Authority, place: Place) -> Result<BoxStream, OpenError> {
        let uri = Uri::builder().authority(authority.to_string().as_str()).build();
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() =
            uri.map_err(|e| OpenError::Gone { reason: Reason::Internal, detail: e.to_string() })?;
        let mut send = self.link.send.clone().ready().await.map_err(|e| self.gone(&e))?;
        let (answer, upload) = send.send_request(request, false).map_err(|e| self.gone(&e))?;
        let answer = answer.await.map_err(|e| self.gone(&e))?;
        if answer.status() == http::StatusCode::OK {
            let hold = (place, Arc::clone(&self.link));
            return Ok(h2_stream::stream(upload, answer.into_body(), hold));
        }
        Err(OpenError::Refused { status: answer.status().as_u16(), detail: refused_detail(&answer) })
    }

    fn gone(&self, error: &h2::Error) -> OpenError {
        let reason = match self.session.ended() {
            Some(reason) => reason,
            None => reason_inside(error),
        };
        OpenError::Gone { reason, detail: error.to_string() }
    }
}

/// One flow's place on a connection, given back when dropped.
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the peer's Proxy-Status says, cut to what fits a line.
fn refused_detail<B>(answer: &http::Response<B>) -> String {
    let said = answer.headers().get(PROXY_STATUS).and_then(|v| v.to_str().ok());
    match said.and_then(protocols::parse_proxy_status) {
        Some(said) => format!("reason={}; rule={}; id={}", said.reason_code, said.rule, said.id),
        None => format!("status {}", answer.status().as_u16()),
    }
}

/// The reason in an h2 error: the peer's TLS alert when there was one.
pub(super) fn reason_inside(error: &h2::Error) -> Reason {
    match error.get_io() {
        Some(io) => match identity::reason_of_io(io) {
            Reason::TlsFailed => Reason::PeerClosed,
            reason => reason,
        },
        None => Reason::PeerClosed,
    }
}

/// The reason a TCP connection failed.
fn connect_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
        io::ErrorKind::TimedOut => Reason::ConnectTimeout,
        _ => Reason::ConnectFailed,
    }
}
