//! When: wall-clock time as every room passes it on.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most that a clock may be off from ours: evidence further off is refused, and a certificate that is out of its time
/// by less may be so by the clocks alone.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// Milliseconds since 1970-01-01T00:00:00Z; shown as RFC 3339 in UTC with three decimals.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// From seconds since the epoch; what is before it becomes the epoch.
    pub fn from_secs(secs: i64) -> Self {
        Self(u64::try_from(secs).unwrap_or(0).saturating_mul(1000))
    }

    /// The clock's reading. Only doors, `agent` and `cli` call this; deciders get it as an argument.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Hour of the day in UTC, 0..=23.
    pub fn hour(self) -> u8 {
        u8::try_from(self.as_secs() / 3600 % 24).unwrap_or(0)
    }

    /// Time from `earlier` to this, zero when it is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Time between this and `other`, whichever is earlier.
    pub fn apart(self, other: Self) -> Duration {
        self.since(other).max(other.since(self))
    }

    /// [`Timestamp::apart`] for people: `42 s`, `about 3 min`, `about 2 h`.
    pub fn apart_in_words(self, other: Self) -> String {
        let secs = self.apart(other).as_secs();
        match secs {
            0..=119 => format!("{secs} s"),
            120..=7199 => format!("about {} min", (secs + 30) / 60),
            _ => format!("about {} h", secs.saturating_add(1800) / 3600),
        }
    }

    /// This plus `time`.
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let ms = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        match time::OffsetDateTime::from_unix_timestamp_nanos(nanos) {
            Ok(t) => write!(
                f,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                t.year(),
                u8::from(t.month()),
                t.day(),
                t.hour(),
                t.minute(),
                t.second(),
                t.millisecond()
            ),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_shows_as_rfc_3339() {
        assert_eq!(Timestamp::from_millis(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Timestamp::from_millis(1_700_000_000_123).hour(), 22);
    }

    #[test]
    fn two_times_are_as_far_apart_either_way() {
        let early = Timestamp::from_millis(1_700_000_000_123);
        let cases =
            [(0, "0 s"), (119, "119 s"), (120, "about 2 min"), (170, "about 3 min"), (7200, "about 2 h")];
        for (secs, words) in cases {
            let late = early.plus(Duration::from_secs(secs));
            assert_eq!(
                (late.apart(early), early.apart(late)),
                (Duration::from_secs(secs), late.since(early))
            );
            assert_eq!(
                (early.apart_in_words(late), late.apart_in_words(early)),
                (words.into(), words.into())
            );
        }
    }
}
