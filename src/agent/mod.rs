//! Builds the house, opens its doors, applies what changes, drains it.

mod app;
mod build;
mod doors;
mod drain;
mod house;
mod join;
mod join_record;
#[cfg(test)]
mod join_tests;
mod run;
mod watch;

pub use app::App;
pub use build::StartError;
pub use run::{Exit, run};
