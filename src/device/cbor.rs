//! Reads bounded CBOR (RFC 8949): a shallow value, and maps whose keys are whole numbers, each there once.

use ciborium::value::Value;

/// Reads `bytes` as one value and nothing after it; `None` when it is none, or nested deeper than [`DEPTH_MAX`].
pub(super) fn read(bytes: &[u8]) -> Option<Value> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX).ok()?;
    rest.is_empty().then_some(value)
}

pub(super) fn write(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Into memory, and of a value that has no part which could fail: this cannot.
    let _ = ciborium::into_writer(value, &mut bytes);
    bytes
}

/// A map, taken apart key by key; what is left over at the end is foreign.
pub(super) struct Fields(Vec<(i64, Value)>);

impl Fields {
    /// `None` unless it is a map of whole numbers, each at most once.
    pub(super) fn of(value: Value) -> Option<Self> {
        let mut fields: Vec<(i64, Value)> = Vec::new();
        for (key, value) in value.into_map().ok()? {
            let key = key.into_integer().ok()?.try_into().ok()?;
            if fields.iter().any(|(k, _)| *k == key) {
                return None;
            }
            fields.push((key, value));
        }
        Some(Self(fields))
    }

    /// Takes the value of `key` out.
    pub(super) fn take(&mut self, key: i64) -> Option<Value> {
        let at = self.0.iter().position(|(k, _)| *k == key)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(super) fn bytes<const N: usize>(&mut self, key: i64) -> Option<[u8; N]> {
        bytes(self.take(key)?)
    }

    /// `Some(None)` when it is not there, `None` when it is something else.
    #[allow(clippy::option_option, reason = "broken is not the same as not there")]
    pub(super) fn maybe_bytes<const N: usize>(&mut self, key: i64) -> Option<Option<[u8; N]>> {
        match self.take(key) {
            None => Some(None),
            Some(value) => bytes(value).map(Some),
        }
    }

    pub(super) fn number(&mut self, key: i64) -> Option<u64> {
        self.take(key)?.into_integer().ok()?.try_into().ok()
    }

    /// Printable ASCII of at most `len_max` bytes: it will stand in logs.
    pub(super) fn text(&mut self, key: i64, len_max: usize) -> Option<String> {
        text(self.take(key)?, len_max)
    }

    /// `Some` when nothing is left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

pub(super) fn bytes<const N: usize>(value: Value) -> Option<[u8; N]> {
    value.into_bytes().ok()?.try_into().ok()
}

pub(super) fn text(value: Value, len_max: usize) -> Option<String> {
    let text = value.into_text().ok()?;
    let plain = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    (plain && (1..=len_max).contains(&text.len())).then_some(text)
}

/// A map as it is written: keys in the order given, which is the deterministic one (RFC 8949 §4.2.1).
pub(super) fn map(fields: Vec<(i64, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// Deepest nesting; what we write ourselves needs five.
pub(super) const DEPTH_MAX: usize = 8;
