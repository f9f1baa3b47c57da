//! Countersign: a zero-trust secure-communication sidecar.
//!
//! `docs/ARCHITECTURE.md` is the map. A room imports only rooms of lower floors.

pub mod agent;
pub mod analyser;
pub mod audit;
pub mod capture;
pub mod channel;
pub mod cli;
pub mod config;
pub mod console;
pub mod device;
pub mod feeds;
pub mod flow;
pub mod identity;
pub mod limits;
pub mod model;
pub mod net;
pub mod policy;
pub mod protocols;
pub mod resilience;
pub mod telemetry;
