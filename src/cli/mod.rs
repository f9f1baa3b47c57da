//! The commands.

pub mod ca;
pub mod device;
