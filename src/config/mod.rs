//! One TOML file becomes every room's `Settings`, or every mistake at once with line and column.
//!
//! `config` knows every room; no room knows `config`. [`parse`] is pure; [`load`] reads the file for it.

mod doors;
mod enrolment;
mod example;
mod load;
mod mistake;
mod raw;
mod rooms;
mod services;
mod show;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::{audit, capture, channel, console, device, flow, identity, limits, policy, telemetry};

pub use enrolment::{Enrolment, Membership};
pub use example::EXAMPLE;
pub use load::{FILE_LEN_MAX, load, parse};
pub use mistake::{Mistake, Mistakes, Position};

/// Everything the file says, its defaults filled in, its paths resolved against the file's folder.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[identity]` and `[channel] pq`.
    pub identity: identity::Settings,
    /// `[device]`.
    pub device: device::Settings,
    /// `[authority]`, on the one sidecar that others join at.
    pub authority: Option<identity::authority::Settings>,
    /// `[enrolment]`.
    pub enrolment: Enrolment,
    /// `[policy]`.
    pub policy: policy::Settings,
    /// `[behaviour]`.
    pub behaviour: flow::BehaviourSettings,
    /// `[audit]`.
    pub audit: audit::Settings,
    /// `[limits]`.
    pub limits: limits::Settings,
    /// `[channel]` and `[peers]`.
    pub channel: channel::Settings,
    /// The local doors: each `[[outbound]] listen` and each `[[capture]]`.
    pub capture: Vec<capture::Door>,
    /// `[[inbound]]`, `[[outbound]]` and `[drain]`.
    pub flow: flow::Settings,
    /// `[admin]`.
    pub console: console::Settings,
    /// `[log]`.
    pub telemetry: telemetry::Settings,
    /// The file itself.
    pub source: PathBuf,
}
