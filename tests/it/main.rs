//! Stories of whole sidecars: real processes, real sockets, a file per story.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test tells by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod attested;
mod behaviour;
mod bounds;
mod carried;
mod covered;
mod cuts;
mod distribution;
mod doors;
mod hosts;
mod intruders;
mod life;
mod load;
mod peers;
mod recover;
mod reload;
mod renewal;
