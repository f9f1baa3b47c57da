//! What a method and a path ask for, at which door.

use hyper::Method;

use super::Ask;
use crate::model::FlowId;

/// The console's two doors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Door {
    /// The TCP address: anybody on this host, so nothing of worth.
    Tcp,
    /// The admin socket.
    Unix,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// `/livez`.
    Live,
    /// `/readyz`.
    Ready,
    /// `/metrics`.
    Metrics,
    /// `/status`.
    Status,
    /// `/flows`.
    Flows,
    /// `/config`.
    Config,
    /// `/checkpoint`, and every POST.
    Ask(Ask),
}

/// Why nothing is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// No such path at this door.
    #[error("no such path")]
    Path,
    /// The path is asked for with another method.
    #[error("expected {allow}")]
    Method {
        /// The methods that would do.
        allow: &'static str,
    },
}

/// What `method` and `path` ask for at `door`.
///
/// # Errors
/// [`RouteError`] when they ask for nothing there.
pub fn route(door: Door, method: &Method, path: &str) -> Result<Route, RouteError> {
    let found = match (door, path) {
        (_, "/livez") => Route::Live,
        (_, "/readyz") => Route::Ready,
        (_, "/metrics") => Route::Metrics,
        (Door::Unix, "/status") => Route::Status,
        (Door::Unix, "/flows") => Route::Flows,
        (Door::Unix, "/config") => Route::Config,
        (Door::Unix, "/checkpoint") => Route::Ask(Ask::Checkpoint),
        (Door::Unix, "/reload") => Route::Ask(Ask::Reload),
        (Door::Unix, "/drain") => Route::Ask(Ask::Drain),
        (Door::Unix, "/release") => Route::Ask(Ask::Release),
        (Door::Unix, path) => Route::Ask(Ask::CloseFlow(flow_to_close(path).ok_or(RouteError::Path)?)),
        (Door::Tcp, _) => return Err(RouteError::Path),
    };
    let changes = matches!(found, Route::Ask(ask) if ask.changes());
    match (changes, method) {
        (true, &Method::POST) | (false, &Method::GET | &Method::HEAD) => Ok(found),
        (true, _) => Err(RouteError::Method { allow: "POST" }),
        (false, _) => Err(RouteError::Method { allow: "GET, HEAD" }),
    }
}

/// The flow of `/flows/f12/close`.
fn flow_to_close(path: &str) -> Option<FlowId> {
    let digits = path.strip_prefix("/flows/f")?.strip_suffix("/close")?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(FlowId)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const READS: [&str; 3] = ["/livez", "/readyz", "/metrics"];
    const SOCKET_READS: [&str; 4] = ["/status", "/flows", "/config", "/checkpoint"];
    const CHANGES: [&str; 4] = ["/reload", "/drain", "/release", "/flows/f12/close"];

    #[test]
    fn the_tcp_address_gives_health_and_metrics_and_nothing_else() {
        for path in READS {
            assert!(route(Door::Tcp, &Method::GET, path).is_ok());
            assert!(route(Door::Tcp, &Method::HEAD, path).is_ok());
        }
        for path in SOCKET_READS.iter().chain(&CHANGES).chain(&["/", "", "/livez/", "/LIVEZ", "*"]) {
            for method in [Method::GET, Method::POST] {
                assert_eq!(route(Door::Tcp, &method, path), Err(RouteError::Path), "{path}");
            }
        }
    }

    #[test]
    fn the_socket_gives_more_and_takes_asks() {
        for path in READS.iter().chain(&SOCKET_READS) {
            assert!(route(Door::Unix, &Method::GET, path).is_ok(), "{path}");
        }
        let asks = CHANGES.map(|path| route(Door::Unix, &Method::POST, path).unwrap());
        assert_eq!(asks, [Ask::Reload, Ask::Drain, Ask::Release, Ask::CloseFlow(FlowId(12))].map(Route::Ask));
    }

    #[test]
    fn each_path_has_its_method() {
        for path in READS.iter().chain(&SOCKET_READS) {
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::CONNECT] {
                let end = route(Door::Unix, &method, path);
                assert_eq!(end, Err(RouteError::Method { allow: "GET, HEAD" }), "{method} {path}");
            }
        }
        for path in CHANGES {
            for method in [Method::GET, Method::HEAD, Method::PUT] {
                let end = route(Door::Unix, &method, path);
                assert_eq!(end, Err(RouteError::Method { allow: "POST" }), "{method} {path}");
            }
        }
    }

    #[test]
    fn a_flow_is_named_by_f_and_digits() {
        for path in [
            "/flows/12/close",
            "/flows/f/close",
            "/flows/f+1/close",
            "/flows/f1/close/",
            "/flows/f1",
            "/flows/f99999999999999999999/close",
            "/flows//close",
        ] {
            assert_eq!(route(Door::Unix, &Method::POST, path), Err(RouteError::Path), "{path}");
        }
    }
}
