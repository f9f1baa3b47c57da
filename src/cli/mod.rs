//! The commands.

pub mod audit;
pub mod config;
pub mod status;
