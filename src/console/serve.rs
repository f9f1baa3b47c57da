//! Takes connections and answers one request on each.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{ACCEPT, HOST};
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::answer::{self, Answer};
use super::{
    AdminEvent, Ask, AskError, Caller, Door, House, Route, RouteError, Settings, admit, host_ok, route,
};
use crate::model::Reason;
use crate::net::{Accepted, Listener, Patience, SocketOptions};
use crate::telemetry::Metrics;

/// Connections to one listener at once; past it they are answered 503 unread.
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request head, and of what a connection may keep waiting.
pub const HEADER_LEN_MAX: usize = 8 * 1024;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Longest wait for a whole request head.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest life of a connection: one request and its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves until `shutdown`; then the requests under way may end within five seconds.
///
/// The kind of `listener` says which door it is: TCP or the admin socket (see [`Door`]). No request may have a
/// body, and each connection carries one request.
pub async fn serve(
    listener: Listener,
    house: Arc<dyn House>,
    settings: &Settings,
    shutdown: impl Future<Output = ()> + Send,
) {
    let own_uid = rustix::process::geteuid().as_raw();
    let listen = listener.local_addr();
    let desk = Desk { house, hosts: settings.hosts.clone(), listen, own_uid, bounds: Bounds::default() };
    serve_desk(listener, Arc::new(desk), shutdown).await;
}

/// What every request is held against.
pub(super) struct Desk {
    pub house: Arc<dyn House>,
    pub hosts: Vec<String>,
    pub listen: Option<SocketAddr>,
    pub own_uid: u32,
    pub bounds: Bounds,
}

/// The named bounds; tests set smaller ones.
pub(super) struct Bounds {
    pub connections_max: usize,
    pub header_timeout: Duration,
    pub request_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            header_timeout: HEADER_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
        }
    }
}

pub(super) async fn serve_desk(
    listener: Listener,
    desk: Arc<Desk>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let room = Arc::new(Semaphore::new(desk.bounds.connections_max));
    let mut connections = JoinSet::new();
    let mut patience = Patience::default();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept_patiently(SocketOptions::default(), &mut patience) => accepted,
        };
        let caller = match &accepted {
            Accepted::Tcp(_, remote) => Caller::At(remote.ip()),
            Accepted::Unix(_, uid) => Caller::User(*uid),
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            desk.house.turned_away(caller, "", Reason::AdminLimited);
            turn_away(&accepted);
            continue;
        };
        let desk = Arc::clone(&desk);
        connections.spawn(async move {
            match accepted {
                Accepted::Tcp(stream, _) => converse(stream, caller, desk).await,
                Accepted::Unix(stream, _) => converse(stream, caller, desk).await,
            }
            drop(place);
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is still under way then is cut when the set is dropped.
    let _ = tokio::time::timeout(GRACE, ended).await;
}

/// Says no without reading anything; whether it arrives is not our worry.
fn turn_away(accepted: &Accepted) {
    let _ = match accepted {
        Accepted::Tcp(stream, _) => stream.try_write(TURNED_AWAY),
        Accepted::Unix(stream, _) => stream.try_write(TURNED_AWAY),
    };
}

/// One request and its answer. Cancelled, it leaves nothing behind but an ask that goes on in the house.
async fn converse<S>(stream: S, caller: Caller, desk: Arc<Desk>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let timeout = desk.bounds.request_timeout;
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(desk.bounds.header_timeout)
        .max_headers(HEADERS_MAX)
        // The whole head must fit the buffer; a body is never read. (This is hyper's least.)
        .max_buf_size(HEADER_LEN_MAX)
        .keep_alive(false);
    let service = service_fn(move |request: Request<Incoming>| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(caller, request).await) }
    });
    // Broken and slow clients need no word: theirs is the only loss.
    let _ = tokio::time::timeout(timeout, http.serve_connection(TokioIo::new(stream), service)).await;
}

impl Desk {
    pub async fn answer<B: Body + Sync>(&self, caller: Caller, request: Request<B>) -> Answer {
        let asked = match caller {
            Caller::At(_) => self.judge_host(&request).and_then(|()| judge(Door::Tcp, &request)),
            Caller::User(uid) => self.judge_user(uid, &request).await,
        };
        match asked {
            Ok(asked) => self.carry_out(asked, &request).await,
            Err(refused) => {
                match caller {
                    Caller::At(_) => self.house.turned_away(caller, &what(&request), refused.reason),
                    Caller::User(_) => self.house.refused(refused.reason),
                }
                match refused.allow {
                    Some(allow) => answer::wrong_method(allow),
                    None => answer::problem(refused.reason, refused.detail),
                }
            }
        }
    }

    /// The Host header and the request target must name this server (RFC 9112 §3.2, §3.2.2).
    fn judge_host<B>(&self, request: &Request<B>) -> Result<(), Refused> {
        let mut hosts = request.headers().get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Refused::detail(Reason::RequestMalformed, "expected exactly one `Host` header"));
        };
        let ok = |host: &str| host_ok(host, self.listen, &self.hosts);
        let target_ok = request.uri().authority().is_none_or(|authority| ok(authority.as_str()));
        if target_ok && host.to_str().is_ok_and(ok) { Ok(()) } else { Err(Reason::AdminHostForeign.into()) }
    }

    /// The user must be admitted, and what he wants is written down before it is done.
    async fn judge_user<B: Body + Sync>(&self, uid: u32, request: &Request<B>) -> Result<Route, Refused> {
        let asked = admit(uid, self.own_uid).map_err(Refused::from).and_then(|()| judge(Door::Unix, request));
        if matches!(asked, Ok(Route::Live | Route::Ready | Route::Metrics)) {
            return asked;
        }
        let event = AdminEvent {
            uid,
            what: what(request),
            refused: asked.as_ref().err().map(|refused| refused.reason),
        };
        let recorded = self.house.saw(event).await;
        match (&asked, recorded) {
            (Ok(Route::Ask(ask)), Err(reason)) if ask.changes() => Err(reason.into()),
            _ => asked,
        }
    }

    async fn carry_out<B: Sync>(&self, asked: Route, request: &Request<B>) -> Answer {
        match asked {
            Route::Live if self.house.live() => answer::answer(StatusCode::OK, answer::TEXT, "ok\n"),
            Route::Live => answer::answer(StatusCode::SERVICE_UNAVAILABLE, answer::TEXT, "failing\n"),
            Route::Ready => {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                let as_json = accept.is_some_and(|accept| accept.contains(answer::JSON));
                answer::readiness(&self.house.checks(), as_json)
            }
            Route::Metrics => answer::answer(StatusCode::OK, Metrics::MEDIA_TYPE, self.house.metrics()),
            Route::Status => answer::json(&self.house.status()),
            Route::Flows => answer::json(&self.house.flows()),
            Route::Config => answer::answer(StatusCode::OK, answer::TOML, self.house.config()),
            Route::Ask(ask) => self.ask(ask).await,
        }
    }

    async fn ask(&self, ask: Ask) -> Answer {
        match self.house.ask(ask).await {
            Ok(text) => answer::answer(StatusCode::OK, answer::TEXT, format!("{}\n", text.trim_end())),
            Err(error @ AskError::FlowUnknown(_)) => {
                answer::problem(Reason::AdminPathUnknown, &error.to_string())
            }
            Err(AskError::Failed { reason, detail }) => answer::problem(reason, &detail),
        }
    }
}

/// Why a request is not answered.
struct Refused {
    reason: Reason,
    detail: &'static str,
    /// The methods that would do.
    allow: Option<&'static str>,
}

impl Refused {
    fn detail(reason: Reason, detail: &'static str) -> Self {
        Self { reason, detail, allow: None }
    }
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self::detail(reason, "")
    }
}

fn judge(door: Door, request: &Request<impl Body>) -> Result<Route, Refused> {
    let asked = route(door, request.method(), request.uri().path()).map_err(|error| match error {
        RouteError::Path => Refused::from(Reason::AdminPathUnknown),
        RouteError::Method { allow } => {
            Refused { reason: Reason::AdminMethodNotAllowed, detail: "", allow: Some(allow) }
        }
    })?;
    // Nothing here takes a body, so none is ever buffered.
    if request.body().is_end_stream() {
        Ok(asked)
    } else {
        Err(Refused::detail(Reason::RequestMalformed, "no request here takes a body"))
    }
}

/// Method and path, as they are written down.
fn what<B>(request: &Request<B>) -> String {
    let what = format!("{} {}", request.method(), request.uri().path());
    what.chars().take(WHAT_LEN_MAX).collect()
}

/// Characters of a request that are written down.
const WHAT_LEN_MAX: usize = 128;
/// Longest wait for the requests under way at shutdown.
const GRACE: Duration = Duration::from_secs(5);
const TURNED_AWAY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";
