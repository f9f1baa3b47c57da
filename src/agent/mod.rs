//! Builds the house, opens its doors, applies what changes, drains it.

mod app;
mod attest;
mod build;
mod bulletin;
mod contact;
mod doors;
mod drain;
mod house;
mod join;
#[cfg(test)]
mod join_tests;
mod member;
mod records;
mod remember;
mod run;
mod take;
mod watch;

pub use app::App;
pub use build::StartError;
pub use records::{Changed, RECORDS_MAX, RecordsError, all_records, set_status};
pub use run::{Exit, run};
