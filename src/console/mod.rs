//! Admin API: shows what is, asks for what may be.
//!
//! The TCP address answers `GET` of `/livez`, `/readyz` and `/metrics` to this host. The Unix socket answers those,
//! `/status`, `/flows`, `/checkpoint` and `/config`, and takes `POST` of `/reload`, `/drain`, `/release` and `/flows/ID/close`
//! from root and from the sidecar's own user. What is behind it all is a [`House`].

mod answer;
pub mod client;
mod guard;
mod house;
mod route;
mod serve;
mod settings;
#[cfg(test)]
mod tests;

pub use guard::{admit, host_ok};
pub use house::{AdminEvent, Ask, AskError, Caller, Check, House};
pub use route::{Door, Route, RouteError, route};
pub use serve::{CONNECTIONS_MAX, HEADER_LEN_MAX, HEADER_TIMEOUT, HEADERS_MAX, REQUEST_TIMEOUT, serve};
pub use settings::*;
