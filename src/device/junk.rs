//! What makers leave in place of a value: it must count as absent, or strangers would seem the same machine.

use super::Missing;

/// Trims, joins white space and lowers what firmware says.
///
/// # Errors
/// [`Missing::Junk`] when that says nothing about this machine.
pub(super) fn meaning(text: &str) -> Result<String, Missing> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    if text.is_empty() {
        return Err(Missing::Absent);
    }
    // A value is made of other things than one digit over and over: `00000000-0000-…`, `FFFF`, `xxxx`, `.....`.
    let mut signs = text.bytes().filter(|b| !matches!(b, b'-' | b' ' | b':' | b'.' | b'_'));
    let first = signs.next();
    let monotone = first.is_none_or(|first| signs.all(|b| b == first));
    if monotone || JUNK.contains(&text.as_str()) || JUNK_PARTS.iter().any(|part| text.contains(part)) {
        return Err(Missing::Junk);
    }
    Ok(text)
}

/// A MAC address that belongs to one interface: not zero, not broadcast, no group.
///
/// # Errors
/// [`Missing::Junk`] otherwise.
pub(super) fn mac(text: &str) -> Result<String, Missing> {
    let text = text.trim().to_ascii_lowercase();
    let bytes: Option<Vec<u8>> = text.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    let bytes = bytes.ok_or(Missing::Junk)?;
    let group = bytes.first().is_none_or(|b| b & 1 == 1);
    if bytes.len() != 6 || group || bytes.iter().all(|b| *b == 0) {
        return Err(Missing::Junk);
    }
    Ok(text)
}

const JUNK: &[&str] = &[
    "01234567",
    "0123456789",
    "03000200-0400-0500-0006-000700080009",
    "123456789",
    "1234567890",
    "12345678-1234-1234-1234-123456789abc",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "base board serial number",
    "board serial number",
    "chassis serial number",
    "empty",
    "invalid",
    "n/a",
    "na",
    "none",
    "not applicable",
    "not available",
    "not defined",
    "not set",
    "not specified",
    "null",
    "oem",
    "serial number",
    "system serial number",
    "undefined",
    "unknown",
    "unspecified",
];
const JUNK_PARTS: &[&str] = &["default string", "filled by o", "o.e.m"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makers_leave_in_place_is_junk() {
        for text in [
            "To Be Filled By O.E.M.",
            "To be filled by OEM",
            "Default string",
            "System Serial Number",
            "None",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "0",
            "xxxxxxxx",
            "....",
            "  Not   Specified \n",
        ] {
            assert_eq!(meaning(text), Err(Missing::Junk), "{text}");
        }
        assert_eq!(meaning(" \n"), Err(Missing::Absent));
    }

    #[test]
    fn a_value_is_kept_whatever_its_spelling() {
        assert_eq!(meaning(" VMware-42  1e \n"), Ok("vmware-42 1e".into()));
        assert_eq!(meaning("PF1A2B3C"), Ok("pf1a2b3c".into()));
    }

    #[test]
    fn only_the_address_of_one_interface_is_a_mac() {
        assert_eq!(mac("52:54:00:AB:cd:01\n"), Ok("52:54:00:ab:cd:01".into()));
        for text in
            ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "", "52:54:00:ab:cd", "no"]
        {
            assert_eq!(mac(text), Err(Missing::Junk), "{text}");
        }
    }
}
