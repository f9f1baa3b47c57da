//! Reads times as logs write them: ISO 8601 in the form of RFC 3339.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::analyser::Moment;

/// A time such as `2023-11-14T22:13:20.123Z`; what was before 1970 is the epoch.
pub(super) fn moment(text: &str) -> Option<Moment> {
    // The longest form has nine decimals and an offset; more is no time.
    if text.len() > LEN_MAX {
        return None;
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let us = time.unix_timestamp_nanos() / 1000;
    Some(Moment(u64::try_from(us.max(0)).unwrap_or(u64::MAX)))
}

const LEN_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_microsecond_and_nonsense_is_none() {
        assert_eq!(moment("2023-11-14T22:13:20.123456Z"), Some(Moment(1_700_000_000_123_456)));
        assert_eq!(moment("2023-11-14T23:13:20+01:00"), Some(Moment(1_700_000_000_000_000)));
        assert_eq!(moment("1969-12-31T00:00:00Z"), Some(Moment(0)));
        for text in ["", "1700000000.5", "2023-11-14", "2023-13-14T22:13:20Z"] {
            assert_eq!(moment(text), None, "{text}");
        }
        let long = format!("2023-11-14T22:13:20.{}Z", "0".repeat(40));
        assert_eq!(moment(&long), None);
    }
}
