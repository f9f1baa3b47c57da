//! The ids a stranger may quote: of a decision, and of a flow in this process.

use std::fmt;
use std::str::FromStr;

use super::Timestamp;

/// Names one decision on the wire, in the log and in the audit: a ULID (48 bits of ms, 80 random bits), 26 characters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DecisionId(u128);

impl DecisionId {
    /// Length as text.
    pub const LEN: usize = 26;

    /// Made at `now` from ten random bytes.
    pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
        let tail = random.iter().fold(0u128, |sum, b| (sum << 8) | u128::from(*b));
        Self((u128::from(now.as_millis() & 0xFFFF_FFFF_FFFF) << 80) | tail)
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; Self::LEN];
        let mut rest = self.0;
        for slot in text.iter_mut().rev() {
            let digit = usize::try_from(rest & 31).unwrap_or_default();
            *slot = CROCKFORD.get(digit).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for DecisionId {
    type Err = DecisionIdError;

    fn from_str(text: &str) -> Result<Self, DecisionIdError> {
        if text.len() != Self::LEN || text.as_bytes().first().is_some_and(|b| *b > b'7') {
            return Err(DecisionIdError);
        }
        text.bytes()
            .try_fold(0u128, |sum, b| {
                let digit = CROCKFORD.iter().position(|c| *c == b.to_ascii_uppercase());
                digit.map(|d| (sum << 5) | d as u128)
            })
            .map(Self)
            .ok_or(DecisionIdError)
    }
}

/// Not 26 characters of Crockford's base 32.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a decision id is {} characters of `0-9 A-Z` without `I L O U`", DecisionId::LEN)]
pub struct DecisionIdError;

/// Numbers a flow within this process, from 1 up.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowId(pub u64);

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f{}", self.0)
    }
}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_id_reads_back_and_sorts_by_time() {
        let early = DecisionId::new(Timestamp::from_millis(1), [255; 10]);
        let late = DecisionId::new(Timestamp::from_millis(2), [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse(), Ok(early));
        assert_eq!(early.to_string().len(), DecisionId::LEN);
        for text in ["", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "0000000000000000000000000U"] {
            assert!(text.parse::<DecisionId>().is_err());
        }
    }
}
