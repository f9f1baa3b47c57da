//! The commands. Each reads its arguments, asks the rooms and prints; none decides.

pub mod policy;
