//! The commands.

pub mod audit;
pub mod ca;
pub mod config;
pub mod device;
pub mod status;
