//! Judges facts against a checked bundle and hands out permits.
//!
//! A folder of Cedar rules, one `groups.toml` and one `behaviour.toml` become a [`Bundle`], or *all* the mistakes at once with file, line
//! and column. A bundle answers [`Facts`](crate::model::Facts) with a [`Verdict`]; only here is a [`Permit`] made.
//! [`Policy`] holds the bundle in force and swaps it for a better one; a broken one never replaces it.
//!
//! Everything but `files` is plain functions: no clock, no socket, no folder. What errs while it is judged denies:
//! Cedar itself would skip an erring `forbid` and so open the door.

mod behaviour;
mod bundle;
mod cache;
mod cases;
mod engine;
mod files;
mod groups;
mod index;
mod lint;
mod live;
mod problem;
mod request;
mod rules;
mod scan;
mod schema;
mod settings;
mod verdict;

#[cfg(test)]
mod tests;

pub use behaviour::{BEHAVIOUR_ACTIONS, BEHAVIOUR_BANDS, BEHAVIOUR_ENTRIES_MAX, BEHAVIOUR_RULES, Behaviour};
pub use bundle::{Bundle, FindDeviceError, RULES_MAX, Source};
pub use cases::{CASES_MAX, Case, Cases, Failure, Tally};
pub use engine::Explanation;
pub use files::{FILE_LEN_MAX, FILES_MAX, Stamp, fingerprint, load_cases, misnamed};
pub use groups::GROUPS_MAX;
pub use live::{Policy, Reloaded};
pub use problem::{LoadError, PROBLEMS_MAX, Problem};
pub use request::AGE_STEP_S;
pub use rules::{Effect, Rule};
pub use scan::{RULE_DEPTH_MAX, RULE_LEN_MAX};
pub use schema::SCHEMA;
pub use settings::*;
pub use verdict::{Denial, Permit, Verdict};
