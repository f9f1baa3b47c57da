//! Reads who a proxy says it acts for: the header `Forwarded` (RFC 7239).
//!
//! Whoever sends it can write anything into it, so only a peer that the configuration names is asked for it.

use std::net::{IpAddr, SocketAddr};

/// The address in `for=` of the first element, port 0 where it names none (RFC 7239 §4, §6). None when there is no
/// address: the parameter is missing, `unknown`, obfuscated or malformed, or the header is longer than
/// [`FORWARDED_LEN_MAX`].
pub fn forwarded_for(value: &str) -> Option<SocketAddr> {
    if value.len() > FORWARDED_LEN_MAX {
        return None;
    }
    let first = unquoted(value, ',').next()?;
    let node = unquoted(first, ';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    })?;
    address(node.strip_prefix('"').map_or(Some(node), |quoted| quoted.strip_suffix('"'))?)
}

/// The parts between separators that stand outside of quoted strings (RFC 9110 §5.6.4).
fn unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let escapes = quoted && !escaped && c == '\\';
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = escapes;
        c == separator && !quoted
    })
}

/// An address with or without a port; IPv6 stands in brackets (RFC 7239 §6).
fn address(node: &str) -> Option<SocketAddr> {
    if let Ok(addr) = node.parse::<SocketAddr>() {
        return Some(addr);
    }
    let ip = match node.strip_prefix('[') {
        Some(bracketed) => IpAddr::V6(bracketed.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::V4(node.parse().ok()?),
    };
    Some(SocketAddr::new(ip, 0))
}

/// Longest header value that is read.
pub const FORWARDED_LEN_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_for_is_read_and_nothing_else() {
        for (value, found) in [
            ("for=192.0.2.43", "192.0.2.43:0"),
            ("for=192.0.2.43:4711", "192.0.2.43:4711"),
            ("for=\"192.0.2.43:4711\";host=orders", "192.0.2.43:4711"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "[2001:db8:cafe::17]:4711"),
            ("proto=http; FOR=\"[2001:db8:cafe::17]\" ;by=203.0.113.43", "[2001:db8:cafe::17]:0"),
            ("for=192.0.2.43, for=198.51.100.17", "192.0.2.43:0"),
            ("host=\"a,;for=9.9.9.9\";for=192.0.2.43", "192.0.2.43:0"),
            ("host=\"a\\\",for=9.9.9.9\";for=192.0.2.43", "192.0.2.43:0"),
        ] {
            assert_eq!(forwarded_for(value).map(|a| a.to_string()).as_deref(), Some(found), "{value}");
        }
    }

    #[test]
    fn what_names_no_address_is_none() {
        let long = format!("for=192.0.2.43;host={}", "a".repeat(FORWARDED_LEN_MAX));
        for value in [
            "",
            "for",
            "for=",
            "for=unknown",
            "for=_hidden",
            "for=\"_gazonk\"",
            "for=2001:db8::17",
            "for=[2001:db8::17",
            "for=\"192.0.2.43",
            "for=192.0.2.43:http",
            "host=192.0.2.43",
            "host=a, for=192.0.2.43",
            "xfor=192.0.2.43",
            "for=192.0.2.43:99999",
            &long,
        ] {
            assert_eq!(forwarded_for(value), None, "{value}");
        }
    }
}
