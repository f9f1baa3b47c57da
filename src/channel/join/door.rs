//! The authority's side: choose by ALPN name, listen to one conversation, let the clerk decide.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::EXPORTER_LABEL;
use super::message::{ALPN_JOIN, AskMessage, Facts, JoinReply, JoinRequest, MESSAGE_LEN_MAX, MessageError};
use crate::channel::listen::Keeper;
use crate::identity;
use crate::identity::authority::{Admitted, Ask, Granted, RecoverAsk};
use crate::model::{Reason, Refusal};
use crate::net::{BoxFuture, ReadAhead};

/// Decides for the authority, and writes it down. The door only carries messages.
pub trait Clerk: Send + Sync + 'static {
    /// Judges what a device asks.
    fn ask(&self, ask: Ask, facts: Facts) -> BoxFuture<Result<Admitted, Refusal>>;

    /// Judges a device whose certificate has expired; `exporter` is that of its connection.
    fn recover(
        &self,
        ask: RecoverAsk,
        exporter: [u8; 32],
        source: SocketAddr,
    ) -> BoxFuture<Result<Granted, Refusal>>;

    /// Takes the acknowledgement of what was granted on the same connection.
    fn acknowledge(
        &self,
        granted: Box<Granted>,
        exporter: [u8; 32],
        signature: Vec<u8>,
        source: SocketAddr,
    ) -> BoxFuture<Result<(), Refusal>>;
}

/// The narrow door of a sidecar that others join at.
pub struct JoinDoor {
    config: Arc<ServerConfig>,
    clerk: Arc<dyn Clerk>,
    seats: Semaphore,
}

impl JoinDoor {
    /// A door that shakes hands with `config` (`Identity::joining_server` with [`ALPN_JOIN`]).
    pub fn new(config: Arc<ServerConfig>, clerk: Arc<dyn Clerk>) -> Self {
        Self { config, clerk, seats: Semaphore::new(JOINS_MAX) }
    }
}

/// Who came in.
pub(in crate::channel) enum Shaken {
    /// A peer that proved its certificate.
    Peer(Box<TlsStream<ReadAhead<TcpStream>>>),
    /// Somebody without one, at the joining door.
    Joiner(Box<TlsStream<ReadAhead<TcpStream>>>),
}

/// Shakes hands. Who offers [`ALPN_JOIN`] and nothing else gets the joining door, if there is one; for everybody else
/// `peers` holds, and asks for a certificate.
pub(in crate::channel) async fn shake(
    join: Option<&JoinDoor>,
    peers: Arc<ServerConfig>,
    tcp: ReadAhead<TcpStream>,
) -> Result<Shaken, (Reason, String)> {
    let failed = |e: std::io::Error| (identity::reason_of_io(&e), identity::detail_of_io(&e));
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(failed)?;
    match (wants_to_join(&start.client_hello()), join) {
        (true, Some(door)) => {
            let tls = start.into_stream(Arc::clone(&door.config)).await.map_err(failed)?;
            Ok(Shaken::Joiner(Box::new(tls)))
        }
        (true, None) => {
            // No protocol in common: the handshake itself says no.
            let refused = start.into_stream(peers).await.err().map(|e| e.to_string());
            Err((Reason::JoinUnavailable, refused.unwrap_or_default()))
        }
        (false, _) => Ok(Shaken::Peer(Box::new(start.into_stream(peers).await.map_err(failed)?))),
    }
}

fn wants_to_join(hello: &ClientHello<'_>) -> bool {
    let mut offered = hello.alpn().into_iter().flatten();
    offered.next() == Some(ALPN_JOIN) && offered.next().is_none()
}

/// Holds one conversation, at most [`JOIN_TIMEOUT`] long.
pub(in crate::channel) async fn serve(
    door: &JoinDoor,
    keeper: &dyn Keeper,
    mut io: TlsStream<ReadAhead<TcpStream>>,
    source: SocketAddr,
) {
    let mut exporter = [0; 32];
    if io.get_ref().1.export_keying_material(&mut exporter, EXPORTER_LABEL, None).is_err() {
        return keeper.refused(source, Reason::TlsFailed, "the exporter is not to be had");
    }
    let Ok(_seat) = door.seats.try_acquire() else {
        keeper.refused(source, Reason::JoinLimited, "");
        let _ =
            tokio::time::timeout(MESSAGE_TIMEOUT, refuse(&mut io, Reason::JoinLimited, String::new())).await;
        return;
    };
    let talk = Talk { door, exporter, source, io: &mut io };
    let ended = tokio::time::timeout(JOIN_TIMEOUT, talk.hold()).await;
    let broken = match ended {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(broken),
        Err(_) => {
            Some(Broken { reason: Reason::RequestTimeout, detail: "the conversation took too long".into() })
        }
    };
    if let Some(Broken { reason, detail }) = broken {
        keeper.refused(source, reason, &detail);
        if reason != Reason::PeerClosed {
            let _ = tokio::time::timeout(MESSAGE_TIMEOUT, refuse(&mut io, reason, String::new())).await;
        }
    }
    let _ = tokio::time::timeout(MESSAGE_TIMEOUT, io.shutdown()).await;
}

struct Talk<'a, S> {
    door: &'a JoinDoor,
    exporter: [u8; 32],
    source: SocketAddr,
    io: &'a mut S,
}

/// The conversation ended without an answer of the clerk.
struct Broken {
    reason: Reason,
    detail: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Talk<'_, S> {
    async fn hold(self) -> Result<(), Broken> {
        let (exporter, source) = (self.exporter, self.source);
        let granted = match receive(self.io).await? {
            JoinRequest::Ask(ask) => self.door.clerk.ask_of(*ask, exporter, source).await,
            JoinRequest::Recover(ask) => {
                let granted = self.door.clerk.recover(*ask, exporter, source).await;
                granted.map(|granted| Admitted::Granted(Box::new(granted)))
            }
            JoinRequest::More(_) | JoinRequest::Ack(_) => {
                let detail = "the first message is neither Ask nor Recover".into();
                return Err(Broken { reason: Reason::JoinMalformed, detail });
            }
        };
        let granted = match granted {
            Ok(Admitted::Granted(granted)) => granted,
            Ok(Admitted::Pending { .. }) => return send(self.io, &JoinReply::Pending(RETRY_AFTER)).await,
            Err(refusal) => return refuse(self.io, refusal.reason, refusal.id.to_string()).await,
        };
        let crl = granted.crl_pem.as_bytes();
        let reply = JoinReply::Granted {
            chain_pem: granted.chain_pem.clone(),
            bundle_pem: granted.bundle_pem.clone(),
            record: granted.record.clone(),
            crl_len: u32::try_from(crl.len()).unwrap_or(u32::MAX),
        };
        send(self.io, &reply).await?;
        loop {
            match receive(self.io).await? {
                JoinRequest::More(offset) => {
                    let rest = usize::try_from(offset).ok().and_then(|at| crl.get(at..)).unwrap_or_default();
                    let part = rest.get(..PART_LEN.min(rest.len())).unwrap_or_default();
                    send(self.io, &JoinReply::Part(part.to_vec())).await?;
                }
                JoinRequest::Ack(signature) => {
                    let done = self.door.clerk.acknowledge(granted, exporter, signature, source).await;
                    return match done {
                        Ok(()) => send(self.io, &JoinReply::Done).await,
                        Err(refusal) => refuse(self.io, refusal.reason, refusal.id.to_string()).await,
                    };
                }
                JoinRequest::Ask(_) | JoinRequest::Recover(_) => {
                    let detail = "a second Ask or Recover on one connection".into();
                    return Err(Broken { reason: Reason::JoinMalformed, detail });
                }
            }
        }
    }
}

impl dyn Clerk {
    async fn ask_of(
        &self,
        ask: AskMessage,
        exporter: [u8; 32],
        source: SocketAddr,
    ) -> Result<Admitted, Refusal> {
        let AskMessage { token, authority, root_spki_sha256, name, csr, proof, facts } = ask;
        let summary = format!("profile `{}`, {} components", facts.profile, facts.baseline.len());
        let source = source.ip().to_string();
        let ask = Ask { token, authority, root_spki_sha256, name, csr, proof, exporter, source, summary };
        self.ask(ask, facts).await
    }
}

async fn refuse(io: &mut (impl AsyncWrite + Unpin), reason: Reason, decision: String) -> Result<(), Broken> {
    send(io, &JoinReply::Refused { code: reason.code().into(), decision }).await
}

async fn receive(io: &mut (impl AsyncRead + Unpin)) -> Result<JoinRequest, Broken> {
    let frame = tokio::time::timeout(MESSAGE_TIMEOUT, read_frame(io)).await;
    let frame = frame.map_err(|_| Broken { reason: Reason::RequestTimeout, detail: String::new() })??;
    JoinRequest::decode(&frame).map_err(|e| Broken { reason: Reason::JoinMalformed, detail: e.to_string() })
}

async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Broken> {
    let gone = |e: std::io::Error| Broken { reason: Reason::PeerClosed, detail: e.to_string() };
    let mut head = [0; 4];
    io.read_exact(&mut head).await.map_err(gone)?;
    // No length that is allowed begins with a letter: this is somebody who takes us for an HTTP server.
    if head.iter().all(|b| b.is_ascii_uppercase() || *b == b' ') {
        let detail = format!("a request beginning `{}`", String::from_utf8_lossy(&head));
        return Err(Broken { reason: Reason::JoinDoorOnly, detail });
    }
    let len = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if len > MESSAGE_LEN_MAX {
        let detail = MessageError::Length { len }.to_string();
        return Err(Broken { reason: Reason::JoinMalformed, detail });
    }
    let mut frame = vec![0; len];
    io.read_exact(&mut frame).await.map_err(gone)?;
    Ok(frame)
}

async fn send(io: &mut (impl AsyncWrite + Unpin), reply: &JoinReply) -> Result<(), Broken> {
    let body = reply.encode();
    if body.len() > MESSAGE_LEN_MAX {
        let detail = format!("an answer of {} bytes does not fit into a message", body.len());
        return Err(Broken { reason: Reason::Internal, detail });
    }
    let sent = tokio::time::timeout(MESSAGE_TIMEOUT, write_frame(io, &body)).await;
    let gone = |detail: String| Broken { reason: Reason::PeerClosed, detail };
    sent.map_err(|_| gone("it does not read".into()))?.map_err(|e| gone(e.to_string()))
}

/// Writes one message with its length before it.
pub(super) async fn write_frame(io: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> std::io::Result<()> {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let framed = [&len.to_be_bytes(), body].concat();
    io.write_all(&framed).await?;
    io.flush().await
}

/// Most conversations at once.
pub const JOINS_MAX: usize = 16;
/// Longest conversation.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for one message, either way.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// When a device whose approval is pending should ask again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Bytes of the revocation lists in one message.
const PART_LEN: usize = 48 * 1024;
