//! A request on a session that is no flow: a POST below [`ERRAND_PATH`] with a small body and a small answer.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use h2::RecvStream;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::dial::reason_inside;
use super::listen::{Keeper, PROXY_STATUS, refusal_head};
use super::session::Session;
use crate::model::Reason;
use crate::protocols;

/// What every errand's path begins with (RFC 8615 §3); its name follows.
pub const ERRAND_PATH: &str = "/.well-known/countersign/";
/// Longest body of an errand in bytes.
pub const ERRAND_LEN_MAX: usize = 64 * 1024;
/// Errands under way on one session; one more is refused with `errands_limited`.
pub const ERRANDS_MAX: usize = 8;
/// Errands that one session may begin in a second, and twice as many at once; likewise.
pub const ERRANDS_PER_SECOND: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// How many errands one session may have under way, and how often it may begin one: each costs signatures.
pub(super) struct Turnstile {
    places: Semaphore,
    rate: DefaultDirectRateLimiter,
}

impl Turnstile {
    pub(super) fn new() -> Self {
        let quota = Quota::per_second(ERRANDS_PER_SECOND).allow_burst(ERRANDS_PER_SECOND.saturating_add(100));
        Self { places: Semaphore::new(ERRANDS_MAX), rate: RateLimiter::direct(quota) }
    }

    fn enter(&self) -> Result<SemaphorePermit<'_>, Reason> {
        self.rate.check().map_err(|_| Reason::ErrandsLimited)?;
        self.places.try_acquire().map_err(|_| Reason::ErrandsLimited)
    }
}

/// The name of the errand that a request is, when it is one.
pub(super) fn name_of<B>(request: &Request<B>) -> Option<&str> {
    (request.method() == Method::POST).then(|| request.uri().path().strip_prefix(ERRAND_PATH)).flatten()
}

/// One errand at the peers' door.
pub(super) struct Caller {
    pub keeper: Arc<dyn Keeper>,
    pub session: Arc<Session>,
    pub turnstile: Arc<Turnstile>,
    pub timeout: Duration,
}

impl Caller {
    /// Reads the body, has the keeper do what it asks, answers.
    pub(super) async fn serve(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let name = name_of(&request).unwrap_or_default().to_owned();
        let place = self.turnstile.enter();
        let body = match &place {
            Ok(_) => read(request.into_body(), ERRAND_LEN_MAX, self.timeout).await.map_err(|e| e.reason()),
            Err(reason) => Err(*reason),
        };
        let done = self.keeper.errand(Arc::clone(&self.session), &name, body).await;
        let (head, body) = match done {
            Ok(body) => (Response::new(()), body),
            Err(refusal) => (refusal_head(&refusal), protocols::problem_json(&refusal).into()),
        };
        // A peer that left does not hear it.
        if let Ok(mut send) = respond.send_response(head, false) {
            let _ = send.send_data(body, true);
        }
    }
}

/// Why an errand brought nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrandError {
    /// The connection is gone.
    #[error("the connection is gone: {detail}")]
    Gone {
        /// Why, as far as it is known.
        reason: Reason,
        /// In a few words.
        detail: String,
    },
    /// The peer said no.
    #[error("the peer refused: {detail}")]
    Refused {
        /// The peer's HTTP status.
        status: u16,
        /// The peer's reason, as far as it told one of ours.
        reason: Option<Reason>,
        /// The peer's reason, rule and decision id.
        detail: String,
    },
    /// No answer, or no whole body, in time.
    #[error("no answer in time")]
    Timeout,
    /// More bytes than anybody takes.
    #[error("more than {most} bytes")]
    TooLarge {
        /// How many would have been taken.
        most: usize,
    },
}

impl ErrandError {
    fn reason(&self) -> Reason {
        match self {
            Self::Gone { reason, .. } => *reason,
            Self::Refused { .. } => Reason::PeerRefused,
            Self::Timeout => Reason::RequestTimeout,
            Self::TooLarge { .. } => Reason::RequestTooLarge,
        }
    }
}

/// Runs the errand `name` at the peer: posts `body`, takes at most `answer_max` bytes within `timeout`.
pub(super) async fn run(
    send: &SendRequest<Bytes>,
    name: &str,
    body: Bytes,
    answer_max: usize,
    timeout: Duration,
) -> Result<Bytes, ErrandError> {
    let asked = ask(send, name, body, answer_max, timeout);
    tokio::time::timeout(timeout, asked).await.unwrap_or(Err(ErrandError::Timeout))
}

async fn ask(
    send: &SendRequest<Bytes>,
    name: &str,
    body: Bytes,
    answer_max: usize,
    timeout: Duration,
) -> Result<Bytes, ErrandError> {
    let gone = |e: h2::Error| ErrandError::Gone { reason: reason_inside(&e), detail: e.to_string() };
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    // RFC 9113 §8.3.1 wants scheme and authority; who answers was proven by the handshake.
    let uri = Uri::builder()
        .scheme("https")
        .authority("countersign")
        .path_and_query(format!("{ERRAND_PATH}{name}"));
    *request.uri_mut() =
        uri.build().map_err(|e| ErrandError::Gone { reason: Reason::PeerClosed, detail: e.to_string() })?;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/cbor"));
    let mut send = send.clone().ready().await.map_err(gone)?;
    let (answer, mut upload) = send.send_request(request, false).map_err(gone)?;
    // Shorter than any window, and nobody else sends on this stream.
    upload.send_data(body, true).map_err(gone)?;
    let answer = answer.await.map_err(gone)?;
    let status = answer.status();
    if status == StatusCode::OK {
        return read(answer.into_body(), answer_max, timeout).await;
    }
    let said = answer.headers().get(PROXY_STATUS).and_then(|v| v.to_str().ok());
    let said = said.and_then(protocols::parse_proxy_status);
    Err(match said {
        Some(said) => ErrandError::Refused {
            status: status.as_u16(),
            reason: Reason::ALL.iter().copied().find(|r| r.code() == &*said.reason_code),
            detail: format!("reason={}; rule={}; id={}", said.reason_code, said.rule, said.id),
        },
        None => ErrandError::Refused {
            status: status.as_u16(),
            reason: None,
            detail: format!("status {}", status.as_u16()),
        },
    })
}

/// The whole body, when it is not longer than `most` and comes within `timeout`.
async fn read(body: RecvStream, most: usize, timeout: Duration) -> Result<Bytes, ErrandError> {
    tokio::time::timeout(timeout, collect(body, most)).await.unwrap_or(Err(ErrandError::Timeout))
}

async fn collect(mut body: RecvStream, most: usize) -> Result<Bytes, ErrandError> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk =
            chunk.map_err(|e| ErrandError::Gone { reason: reason_inside(&e), detail: e.to_string() })?;
        if whole.len() + chunk.len() > most {
            return Err(ErrandError::TooLarge { most });
        }
        // Fails only for more than was received.
        let _ = body.flow_control().release_capacity(chunk.len());
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}
