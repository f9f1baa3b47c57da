//! The device's side: dial the authority, prove the token, check and save what comes, acknowledge it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::EXPORTER_LABEL;
use super::door::write_frame;
use super::message::{ALPN_JOIN, AskMessage, Facts, JoinReply, JoinRequest, MESSAGE_LEN_MAX, MessageError};
use crate::identity::authority::{RECOVER_CHAIN_MAX, RecoverAsk, Token, recover_message};
use crate::identity::{self, CRL_FILE_MAX, EnrolError, Enrolment, Gift, Joined, LeafSigner};
use crate::model::{Reason, Sign, SpiffeId, Timestamp};
use crate::net::{self, SocketOptions};

/// How it went.
#[derive(Debug)]
pub enum JoinOutcome {
    /// The certificate is saved, and the authority knows.
    Joined(Box<Joined>),
    /// An administrator has to say yes first; ask again after this.
    Pending(Duration),
}

/// Asks the authority at `addr` once. `save` is called with everything checked, and must not return before it is on the
/// disk: only then is the certificate acknowledged, which spends the token.
///
/// Safe to repeat after any error but a refusal: the same `enrolment` gets the same certificate.
///
/// # Errors
/// [`JoinError`] when the authority is not who it must be, refused, or gave something that is wrong.
pub async fn join(
    addr: SocketAddr,
    token: &Token,
    enrolment: &Enrolment,
    facts: &Facts,
    save: &mut (dyn FnMut(&Joined, &str) -> Result<(), String> + Send),
) -> Result<JoinOutcome, JoinError> {
    let config = identity::joining_client(token, ALPN_JOIN);
    let mut wire = Wire::dial(addr, config).await?;
    let ask = AskMessage {
        token: token.id(),
        authority: token.authority.clone(),
        root_spki_sha256: token.root_spki_sha256,
        name: token.name.clone(),
        csr: enrolment.csr().to_vec(),
        proof: token.key().prove(&wire.exporter, enrolment.csr()),
        facts: facts.clone(),
    };
    let granted = wire.ask(&JoinRequest::Ask(Box::new(ask))).await?;
    if let JoinReply::Pending(after) = granted {
        return Ok(JoinOutcome::Pending(after));
    }
    wire.take(granted, enrolment, save).await.map(JoinOutcome::Joined)
}

/// Asks the authority at `addr` once for the next certificate of a device whose last one, `leaf`, has expired.
///
/// `enrolment` is that of [`Enrolment::renew`], `record` the device's own. Safe to repeat, as [`join`].
///
/// # Errors
/// [`JoinError`] when the authority is not who it must be, refused, or gave something that is wrong.
pub async fn recover(
    addr: SocketAddr,
    authority: &SpiffeId,
    leaf: &LeafSigner,
    enrolment: &Enrolment,
    record: &str,
    save: &mut (dyn FnMut(&Joined, &str) -> Result<(), String> + Send),
) -> Result<Box<Joined>, JoinError> {
    let config = identity::recovering_client(leaf, authority, ALPN_JOIN);
    let mut wire = Wire::dial(addr, config).await?;
    let message = recover_message(&wire.exporter, enrolment.csr());
    let ask = RecoverAsk {
        chain: leaf.chain().iter().take(RECOVER_CHAIN_MAX).map(|der| der.to_vec()).collect(),
        csr: enrolment.csr().to_vec(),
        signature: leaf.sign(&message).map_err(|e| JoinError::Protocol(e.to_string()))?,
        record: record.to_owned(),
    };
    let granted = wire.ask(&JoinRequest::Recover(Box::new(ask))).await?;
    wire.take(granted, enrolment, save).await
}

fn unexpected(reply: JoinReply) -> JoinError {
    match reply {
        JoinReply::Refused { code, decision } => JoinError::Refused { code, decision },
        _ => JoinError::Protocol("an answer of another kind than was asked for".into()),
    }
}

/// A connection to the authority, proven by the token's pin and name.
struct Wire {
    tls: TlsStream<TcpStream>,
    exporter: [u8; 32],
}

impl Wire {
    async fn dial(
        addr: SocketAddr,
        config: Result<Arc<ClientConfig>, rustls::Error>,
    ) -> Result<Self, JoinError> {
        let fail = |reason, detail: String| JoinError::Dial { addr, reason, detail };
        let tcp = net::connect(addr, SocketOptions::default(), CONNECT_TIMEOUT)
            .await
            .map_err(|e| fail(Reason::ConnectFailed, e.to_string()))?;
        let config = config.map_err(|e| fail(Reason::TlsFailed, e.to_string()))?;
        let shaken = TlsConnector::from(config).connect(identity::server_name(), tcp);
        let tls = tokio::time::timeout(ANSWER_TIMEOUT, shaken)
            .await
            .map_err(|_| fail(Reason::TlsTimeout, "no answer to the TLS handshake".into()))?
            .map_err(|e| fail(identity::reason_of_io(&e), identity::detail_of_io(&e)))?;
        let state = tls.get_ref().1;
        if state.alpn_protocol() != Some(ALPN_JOIN) {
            return Err(fail(Reason::JoinUnavailable, "nobody can join there".into()));
        }
        let mut exporter = [0; 32];
        state
            .export_keying_material(&mut exporter, EXPORTER_LABEL, None)
            .map_err(|e| fail(Reason::TlsFailed, e.to_string()))?;
        Ok(Self { tls, exporter })
    }

    /// Fetches what belongs to a grant, checks all of it, has it saved, and acknowledges it.
    async fn take(
        &mut self,
        granted: JoinReply,
        enrolment: &Enrolment,
        save: &mut (dyn FnMut(&Joined, &str) -> Result<(), String> + Send),
    ) -> Result<Box<Joined>, JoinError> {
        let JoinReply::Granted { chain_pem, bundle_pem, record, crl_len } = granted else {
            return Err(unexpected(granted));
        };
        let crl_pem = self.lists(crl_len).await?;
        let gift = Gift { chain_pem, bundle_pem, crl_pem, record };
        let joined = enrolment.check(&gift, Timestamp::now())?;
        save(&joined, &gift.record).map_err(JoinError::Save)?;
        let signature = enrolment.acknowledge(&self.exporter, &joined.leaf_der)?;
        match self.ask(&JoinRequest::Ack(signature)).await? {
            JoinReply::Done => Ok(Box::new(joined)),
            other => Err(unexpected(other)),
        }
    }

    /// Sends one message and reads its answer.
    async fn ask(&mut self, request: &JoinRequest) -> Result<JoinReply, JoinError> {
        tokio::time::timeout(ANSWER_TIMEOUT, async {
            // A refusal may be on its way already, and the writing end closed: the answer says more than the error.
            let written = write_frame(&mut self.tls, &request.encode()).await;
            match self.read().await {
                Err(JoinError::Broken(error)) => Err(JoinError::Broken(written.err().unwrap_or(error))),
                read => read,
            }
        })
        .await
        .map_err(|_| JoinError::Broken(std::io::ErrorKind::TimedOut.into()))?
    }

    async fn read(&mut self) -> Result<JoinReply, JoinError> {
        let mut head = [0; 4];
        self.tls.read_exact(&mut head).await.map_err(JoinError::Broken)?;
        let len = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
        if len > MESSAGE_LEN_MAX {
            return Err(JoinError::Protocol(MessageError::Length { len }.to_string()));
        }
        let mut frame = vec![0; len];
        self.tls.read_exact(&mut frame).await.map_err(JoinError::Broken)?;
        JoinReply::decode(&frame).map_err(|e| JoinError::Protocol(e.to_string()))
    }

    /// Fetches the revocation lists, part by part.
    async fn lists(&mut self, len: u32) -> Result<String, JoinError> {
        let wrong = |text: &str| JoinError::Protocol(text.into());
        if u64::from(len) > CRL_FILE_MAX {
            return Err(wrong("the revocation lists are too long"));
        }
        let len = usize::try_from(len).map_err(|_| wrong("the revocation lists are too long"))?;
        let mut lists = Vec::new();
        while lists.len() < len {
            let offset =
                u32::try_from(lists.len()).map_err(|_| wrong("the revocation lists are too long"))?;
            match self.ask(&JoinRequest::More(offset)).await? {
                JoinReply::Part(part) if !part.is_empty() && part.len() <= len - lists.len() => {
                    lists.extend(part);
                }
                JoinReply::Part(_) => {
                    return Err(wrong("the revocation lists are of another length than told"));
                }
                other => return Err(unexpected(other)),
            }
        }
        String::from_utf8(lists).map_err(|_| wrong("the revocation lists are no PEM"))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Best effort; the authority needs no farewell.
        let mut shut = std::pin::pin!(self.tls.shutdown());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let _ = std::future::Future::poll(shut.as_mut(), &mut cx);
    }
}

/// Why a device did not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The connection broke off; the same again continues.
    #[error("the connection broke off ({0}); nothing is lost, join again with the same token")]
    Broken(std::io::Error),
    /// The authority could not be reached, or is not who the token names.
    #[error("{addr}: {detail} ({reason})")]
    Dial {
        /// What was dialled.
        addr: SocketAddr,
        /// The reason.
        reason: Reason,
        /// In a few words.
        detail: String,
    },
    /// Our key or what was given.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The authority does not keep to the protocol.
    #[error("the authority answered something that is no answer: {0}")]
    Protocol(String),
    /// The authority said no.
    #[error("the authority refused: {}", said(code, decision))]
    Refused {
        /// The code of a [`Reason`].
        code: String,
        /// What to quote to the administrator.
        decision: String,
    },
    /// What came could not be saved; nothing was acknowledged.
    #[error("what the authority gave could not be saved: {0}")]
    Save(String),
}

fn said(code: &str, decision: &str) -> String {
    // A foreign text: only codes that are known and plain ids are repeated.
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let decision = if plain(decision) && !decision.is_empty() { decision } else { "-" };
    match Reason::from_code(code) {
        Some(reason) => {
            format!("{} ({code}, decision {decision})\nnext: {}", reason.sentence(), reason.next_step())
        }
        None => format!("for a reason that this program does not know (decision {decision})"),
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer: the authority's own waits are shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
