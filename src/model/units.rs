//! How long and how much, as people write them: `500ms`, `24h`, `64KiB`.

use std::time::Duration;

/// Parses a duration: a whole number and one of `ms s m h d`, without a space between them.
///
/// Zero is a duration; the caller says whether it may be. A bare number is refused: of which unit?
///
/// # Errors
/// [`UnitError`] when the number or the unit is missing, unknown or too large.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text, DURATION_UNITS)?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(UnitError::Unit { text: cut(text), expected: DURATION_UNITS }),
    };
    let total = number.checked_mul(ms).ok_or_else(|| UnitError::TooLarge { text: cut(text) })?;
    Ok(Duration::from_millis(total))
}

/// Parses a size in bytes: a whole number, alone or with one of `B KiB MiB GiB` (IEC 80000-13).
///
/// # Errors
/// [`UnitError`] when the number is missing, the unit unknown or the size above `u64`.
pub fn size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text, SIZE_UNITS)?;
    let bytes = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(UnitError::Unit { text: cut(text), expected: SIZE_UNITS }),
    };
    number.checked_mul(bytes).ok_or_else(|| UnitError::TooLarge { text: cut(text) })
}

/// Why a text is no duration or size.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// Does not begin with a whole number.
    #[error("`{text}` must be a whole number followed by one of {expected}")]
    Number {
        /// The text, cut to 40 characters.
        text: String,
        /// The units that would do.
        expected: &'static str,
    },
    /// Has no unit, or one we do not know.
    #[error("`{text}` has no unit that is known here, expected one of {expected}")]
    Unit {
        /// The text, cut to 40 characters.
        text: String,
        /// The units that would do.
        expected: &'static str,
    },
    /// More than fits 64 bits.
    #[error("`{text}` is too large")]
    TooLarge {
        /// The text, cut to 40 characters.
        text: String,
    },
}

fn split<'a>(text: &'a str, expected: &'static str) -> Result<(u64, &'a str), UnitError> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(at);
    if digits.is_empty() {
        return Err(UnitError::Number { text: cut(text), expected });
    }
    let number = digits.parse().map_err(|_| UnitError::TooLarge { text: cut(text) })?;
    Ok((number, unit))
}

fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

const DURATION_UNITS: &str = "`ms s m h d`";
const SIZE_UNITS: &str = "`B KiB MiB GiB`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_five_units() {
        let ms: Vec<_> = ["0s", "500ms", "10s", "15m", "1h", "7d"]
            .iter()
            .map(|t| duration(t).unwrap().as_millis())
            .collect();
        assert_eq!(ms, [0, 500, 10_000, 900_000, 3_600_000, 604_800_000]);
    }

    #[test]
    fn sizes_are_read_in_binary_units() {
        let bytes: Vec<_> =
            ["0", "17", "17B", "64KiB", "1MiB", "2GiB"].iter().map(|t| size(t).unwrap()).collect();
        assert_eq!(bytes, [0, 17, 17, 65_536, 1_048_576, 2_147_483_648]);
    }

    #[test]
    fn what_is_no_duration_or_size_is_refused() {
        for text in ["", "h", "-1h", "+1h", "1.5h", "1 h", " 1h", "1h ", "10", "1w", "1H", "1h30m", "١s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5MiB", "1 MiB", "1KB", "1k", "1kib", "1TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in ["18446744073709551616ms", "18446744073709551615d"] {
            assert!(matches!(duration(text), Err(UnitError::TooLarge { .. })), "{text}");
        }
        assert!(matches!(size("18446744073709551615GiB"), Err(UnitError::TooLarge { .. })));
    }
}
