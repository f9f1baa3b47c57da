//! The local door: port forward, Unix socket, SOCKS5, HTTP CONNECT.
//!
//! [`open`] binds, [`serve`] takes connections and finds out what each wants. What comes of it is an [`Arrival`]:
//! also a request that cannot be granted is one, so that every refusal gets its id and its audit entry in one place.
//! Who may connect is settled before: a door listens on loopback or a Unix socket only (`config` sees to it).

mod answer;
mod arrival;
mod ask;
mod door;
mod settings;

pub use arrival::{Arrival, Wanted};
pub use door::{Knock, OpenDoor, OpenError, REQUESTS_MAX, Take, TurnedAway, open, serve};
pub use settings::*;

#[cfg(test)]
mod tests;
