//! How it stands between this sidecar and its authority, for whoever wants to know: status, metrics, every session.

use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::channel::Standings;
use crate::device::Status;
use crate::model::{Reason, SpiffeId, Timestamp};

/// What is known of the authority, and what it said last of other devices.
pub(super) struct Contact {
    /// Whom this sidecar listens to; `None` when to nobody, or to itself.
    pub authority: Option<SpiffeId>,
    standings: ArcSwap<Standings>,
    state: Mutex<State>,
}

/// When it was heard last, and what is wrong since.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct State {
    pub last: Option<Timestamp>,
    pub problem: Option<String>,
    /// How far its clock is ahead of ours, in milliseconds.
    pub skew_ms: i64,
    /// What it offered last and we did not take.
    pub refused: Option<String>,
}

impl Contact {
    /// Nothing heard yet, but what an earlier run kept.
    pub fn new(authority: Option<SpiffeId>, standings: Standings) -> Self {
        Self { authority, standings: ArcSwap::from_pointee(standings), state: Mutex::default() }
    }

    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// It was heard at `now`, and said that it was `at`.
    pub fn heard(&self, at: Timestamp, now: Timestamp) {
        let mut state = self.lock();
        let ms = |t: Timestamp| i64::try_from(t.as_millis()).unwrap_or(i64::MAX);
        state.skew_ms = ms(at).saturating_sub(ms(now));
        state.last = Some(now);
        state.problem = None;
    }

    /// It was not.
    pub fn failed(&self, problem: String) {
        self.lock().problem = Some(problem);
    }

    /// What it offers is not taken, or is again.
    pub fn refused(&self, why: Option<String>) {
        self.lock().refused = why;
    }

    pub fn set_standings(&self, standings: Standings) {
        self.standings.store(std::sync::Arc::new(standings));
    }

    /// Whether the authority lets this device take part, by a record of this version where it showed one.
    ///
    /// # Errors
    /// `DeviceRevoked` or `DeviceQuarantined`, unless its record is newer than the one that says so.
    pub fn admits(&self, id: &SpiffeId, record_version: Option<u64>) -> Result<(), Reason> {
        let standings = self.standings.load();
        let Some(barred) = standings.of(id) else { return Ok(()) };
        if record_version.is_some_and(|version| version > barred.version) {
            return Ok(());
        }
        Err(match barred.status {
            Status::Revoked => Reason::DeviceRevoked,
            Status::Quarantined | Status::Active => Reason::DeviceQuarantined,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Barred;

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://example.org/device/{name}").parse().unwrap()
    }

    #[test]
    fn who_is_barred_stays_out_until_a_newer_record_is_shown() {
        let barred = |name: &str, status| Barred { id: id(name), version: 5, status };
        let standings = Standings(vec![barred("a", Status::Quarantined), barred("b", Status::Revoked)]);
        let contact = Contact::new(None, standings);
        assert_eq!(contact.admits(&id("a"), None), Err(Reason::DeviceQuarantined));
        assert_eq!(contact.admits(&id("a"), Some(4)), Err(Reason::DeviceQuarantined));
        assert_eq!(contact.admits(&id("a"), Some(5)), Err(Reason::DeviceQuarantined));
        assert_eq!(contact.admits(&id("a"), Some(6)), Ok(()));
        assert_eq!(contact.admits(&id("b"), Some(5)), Err(Reason::DeviceRevoked));
        assert_eq!(contact.admits(&id("c"), None), Ok(()));
    }

    #[test]
    fn what_was_heard_ends_the_problem_and_tells_the_clocks_difference() {
        let contact = Contact::new(None, Standings::default());
        contact.failed("gone".into());
        assert_eq!(contact.state().problem.as_deref(), Some("gone"));
        contact.heard(Timestamp::from_millis(9_000), Timestamp::from_millis(10_000));
        let state = contact.state();
        assert_eq!(
            (state.problem, state.skew_ms, state.last),
            (None, -1000, Some(Timestamp::from_millis(10_000)))
        );
    }
}
