//! The local door: port forward, Unix socket, SOCKS5, HTTP CONNECT.

mod settings;

pub use settings::*;
