//! Counters that forget: each kept at six time scales at once.

use serde::{Deserialize, Serialize};

use super::event::Moment;

/// The time constants in seconds: what is counted fades to 1/e after that long.
pub const HORIZONS_S: [f32; HORIZONS] = [1.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0];
/// How many time scales there are.
pub const HORIZONS: usize = 6;

/// A place in [`HORIZONS_S`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Horizon {
    /// One second.
    S1 = 0,
    /// Ten seconds.
    S10,
    /// A minute.
    M1,
    /// Ten minutes.
    M10,
    /// An hour.
    H1,
    /// A day.
    D1,
}

/// What is counted for every device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Count {
    /// Flows opened.
    Opens = 0,
    /// Flows failed; a reset counts half.
    Failures,
    /// First contacts with a service.
    Fresh,
    /// First contacts that failed or that policy refused.
    FreshFailures,
    /// Failures at services that are young to the device.
    YoungFailures,
    /// Bytes out.
    Out,
    /// Bytes in.
    In,
    /// Bytes out to services that are young to the device.
    YoungOut,
    /// Logins refused.
    Logins,
    /// Requests.
    Requests,
    /// Requests answered with an error.
    Errors,
    /// Paths and topics never asked for before.
    FreshWords,
    /// Requests kept unfinished.
    Unfinished,
    /// Contacts with young services.
    Young,
    /// First contacts with services that policy allows.
    FreshAllowed,
    /// Changes of the network that the device calls from.
    Moves,
    /// First contacts from a network that the device did not call from before.
    FreshAway,
    /// Exchanges of late in one flow, over its own two time scales ([`super::flow::BUSY_S`]) in the places of one and ten
    /// seconds. Set, not counted.
    Busy,
}

/// How many things are counted.
pub const COUNTS: usize = 18;

/// All counters of one device, all as of one moment.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Counters {
    pub(super) at: Moment,
    pub(super) counts: [[f32; HORIZONS]; COUNTS],
    /// What the present checkpoint added: only who adds to a count is to blame for it.
    pub(super) added: [f32; COUNTS],
}

impl Counters {
    /// Nothing counted yet at `t`.
    pub fn new(t: Moment) -> Self {
        Self { at: t, counts: [[0.0; HORIZONS]; COUNTS], added: [0.0; COUNTS] }
    }

    /// Lets time pass until `t`. A clock that goes back by less than [`BACK_MAX_US`] stands still; one that goes back
    /// further has been set anew, and counting goes on from there.
    pub fn advance(&mut self, t: Moment) {
        let dt = t.since(self.at);
        if dt == 0 {
            if self.at.since(t) > BACK_MAX_US {
                self.at = t;
            }
            return;
        }
        self.at = t;
        let seconds = dt as f32 / 1e6;
        let keep = HORIZONS_S.map(|tau| (-seconds / tau).exp());
        for counts in &mut self.counts {
            for (count, keep) in counts.iter_mut().zip(keep) {
                *count *= keep;
            }
        }
    }

    /// Counts `amount` now.
    pub fn add(&mut self, what: Count, amount: f32) {
        if let Some(counts) = self.counts.get_mut(what as usize) {
            for count in counts {
                *count += amount;
            }
        }
        if let Some(added) = self.added.get_mut(what as usize) {
            *added += amount;
        }
    }

    /// Says how much it is at one and at ten seconds.
    pub fn set(&mut self, what: Count, [one, ten]: [f32; 2]) {
        if let Some([first, second, ..]) = self.counts.get_mut(what as usize) {
            (*first, *second) = (one, ten);
        }
        if let Some(added) = self.added.get_mut(what as usize) {
            *added = one;
        }
    }

    /// Whether the present checkpoint added to it.
    pub fn is_added(&self, what: Count) -> bool {
        self.added.get(what as usize).is_some_and(|a| *a > 0.0)
    }

    /// Ends a checkpoint.
    pub fn settle(&mut self) {
        self.added = [0.0; COUNTS];
    }

    /// How much is remembered at that time scale.
    pub fn get(&self, what: Count, over: Horizon) -> f32 {
        self.counts.get(what as usize).and_then(|c| c.get(over as usize)).copied().unwrap_or(0.0)
    }
}

/// Logs and captures are out of order by their flows' lengths and a few seconds; more is a clock set anew.
const BACK_MAX_US: u64 = 600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn a_count_fades_with_its_time_scale() {
        let mut c = Counters::new(Moment(0));
        c.add(Count::Opens, 10.0);
        c.advance(Moment(10 * S));
        assert!(c.get(Count::Opens, Horizon::S1) < 0.01);
        assert!((c.get(Count::Opens, Horizon::S10) - 10.0 / std::f32::consts::E).abs() < 1e-3);
        assert!(c.get(Count::Opens, Horizon::H1) > 9.9);
        assert_eq!(c.get(Count::Out, Horizon::H1), 0.0);
    }

    #[test]
    fn a_clock_set_back_stands_still_or_begins_anew() {
        let mut c = Counters::new(Moment(10_000 * S));
        c.add(Count::Opens, 1.0);
        c.advance(Moment(9_990 * S));
        assert_eq!((c.at, c.get(Count::Opens, Horizon::S1)), (Moment(10_000 * S), 1.0));
        c.advance(Moment(5_000 * S));
        assert_eq!(c.at, Moment(5_000 * S));
        c.advance(Moment(5_100 * S));
        assert!(c.get(Count::Opens, Horizon::S1) < 1e-9);
    }
}
