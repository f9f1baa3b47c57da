//! Writes the PROXY protocol v2 header that tells a local app who is at the other end of a flow.
//!
//! The format is HAProxy's `proxy-protocol.txt` §2.2: twelve bytes of signature, addresses, then type-length-values.
//! Written with the crate `ppp`; read by nginx, HAProxy, Envoy, mosquitto and many others.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::v2::{Addresses, Builder, Command, Protocol, Type, Version, WriteToHeader, Writer};

use crate::model::{DecisionId, SpiffeId};

/// What the app is told.
#[derive(Clone, Copy, Debug)]
pub struct ProxyV2<'a> {
    /// The peer's address and the one that was connected to; none where a socket has no such address. Then the app is
    /// told `LOCAL`: it shall use the connection's own.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// What the peer asked for, as `AUTHORITY` (0x02).
    pub authority: &'a str,
    /// The decision that let the flow in, as `UNIQUE_ID` (0x05): 26 characters, the same as in the audit.
    pub decision: DecisionId,
    /// Who the peer's certificate proves it to be, as [`IDENTITY`].
    pub identity: &'a SpiffeId,
    /// The connection between the sidecars, as `SSL` (0x20).
    pub tls: Option<ProxyV2Tls<'a>>,
}

/// What the app is told of the connection between the sidecars. Its client certificate was verified.
#[derive(Clone, Copy, Debug)]
pub struct ProxyV2Tls<'a> {
    /// Common name of the peer's leaf, as `CN` (0x22).
    pub common_name: Option<&'a str>,
    /// Name of the cipher suite, as `CIPHER` (0x23).
    pub cipher: &'a str,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
#[error("PROXY protocol header: {0}")]
pub struct ProxyV2Error(#[from] io::Error);

/// Writes the whole header.
///
/// # Errors
/// [`ProxyV2Error`] when it would be longer than a header can say, 65,535 bytes after its first 16.
pub fn proxy_v2(said: &ProxyV2<'_>) -> Result<Vec<u8>, ProxyV2Error> {
    let (command, protocol, addresses) = match said.addresses {
        Some(pair) => (Command::Proxy, Protocol::Stream, Addresses::from(one_family(pair))),
        None => (Command::Local, Protocol::Unspecified, Addresses::Unspecified),
    };
    let mut builder = Builder::with_addresses(Version::Two | command, protocol, addresses)
        .write_tlv(Type::Authority, said.authority.as_bytes())?
        .write_tlv(Type::UniqueId, said.decision.to_string().as_bytes())?
        .write_tlv(IDENTITY, said.identity.as_str().as_bytes())?;
    if let Some(tls) = &said.tls {
        builder = builder.write_tlv(Type::SSL, &ssl(tls)?)?;
    }
    Ok(builder.build()?)
}

/// The value of `SSL` (§2.2.5): one byte of flags, 32 bits that are zero when the certificate was verified, then
/// type-length-values of its own.
fn ssl(tls: &ProxyV2Tls<'_>) -> io::Result<Vec<u8>> {
    let mut writer = Writer::default();
    CLIENT_FLAGS.write_to(&mut writer)?;
    VERIFIED.write_to(&mut writer)?;
    (Type::SSLVersion, TLS_VERSION).write_to(&mut writer)?;
    if let Some(name) = tls.common_name {
        (Type::SSLCommonName, name.as_bytes()).write_to(&mut writer)?;
    }
    (Type::SSLCipher, tls.cipher.as_bytes()).write_to(&mut writer)?;
    Ok(writer.finish())
}

/// Both addresses as IPv4 where both are, else both as IPv6 (RFC 4291 §2.5.5.2): a header has one family.
fn one_family((source, target): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let six = |a: SocketAddr| match a.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), a.port()),
        IpAddr::V6(_) => a,
    };
    let (source, target) = (canonical(source), canonical(target));
    match source.is_ipv4() == target.is_ipv4() {
        true => (source, target),
        false => (six(source), six(target)),
    }
}

/// Type of the peer's SPIFFE ID as text; the number that Istio's ztunnel uses for it, too.
pub const IDENTITY: u8 = 0xD0;
/// `PP2_CLIENT_SSL`, `PP2_CLIENT_CERT_CONN` and `PP2_CLIENT_CERT_SESS`: TLS, with a certificate in this very handshake.
const CLIENT_FLAGS: u8 = 0x01 | 0x02 | 0x04;
const VERIFIED: u32 = 0;
/// Nothing else is spoken between sidecars.
const TLS_VERSION: &[u8] = b"TLSv1.3";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    /// The header as hex: the first 16 bytes and the addresses; then each value as `type=text`.
    fn play(source: Option<&str>, target: &str, tls: Option<ProxyV2Tls<'_>>) -> (String, Vec<String>) {
        let identity = "spiffe://example.org/device/web-1".parse().unwrap();
        let addresses = source.map(|s| (s.parse().unwrap(), target.parse().unwrap()));
        let decision = DecisionId::new(Timestamp::from_secs(1_700_000_000), [7; 10]);
        let said = ProxyV2 { addresses, authority: "orders", decision, identity: &identity, tls };
        let header = proxy_v2(&said).unwrap();
        let addresses_len = match header[13] >> 4 {
            1 => 12,
            2 => 36,
            _ => 0,
        };
        let (head, rest) = header.split_at(16 + addresses_len);
        assert_eq!(usize::from(u16::from_be_bytes([header[14], header[15]])), header.len() - 16);
        (data_encoding::HEXLOWER.encode(head), values(rest))
    }

    fn values(mut rest: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        while let [kind, high, low, more @ ..] = rest {
            let (value, after) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            match kind {
                0x20 => {
                    all.push(format!("20={}", data_encoding::HEXLOWER.encode(&value[..5])));
                    all.extend(values(&value[5..]));
                }
                _ => all.push(format!("{kind:02x}={}", std::str::from_utf8(value).unwrap())),
            }
            rest = after;
        }
        assert!(rest.is_empty());
        all
    }

    const SIGNATURE: &str = "0d0a0d0a000d0a515549540a";

    #[test]
    fn an_ipv4_peer_is_told_as_ipv4_with_everything_known_of_it() {
        let tls = ProxyV2Tls { common_name: Some("web-1"), cipher: "TLS13_AES_256_GCM_SHA384" };
        let (head, values) = play(Some("192.0.2.7:40000"), "127.0.0.1:8080", Some(tls));
        assert_eq!(head, format!("{SIGNATURE}2111008bc00002077f0000019c401f90"));
        assert_eq!(
            values,
            [
                "02=orders",
                &format!("05={}", DecisionId::new(Timestamp::from_secs(1_700_000_000), [7; 10])),
                "d0=spiffe://example.org/device/web-1",
                "20=0700000000",
                "21=TLSv1.3",
                "22=web-1",
                "23=TLS13_AES_256_GCM_SHA384",
            ]
        );
    }

    #[test]
    fn one_family_is_found_for_any_two_addresses() {
        for (source, target, family, tail) in [
            ("[::ffff:192.0.2.7]:1", "127.0.0.1:2", "2111", "c00002077f00000100010002"),
            ("192.0.2.7:1", "[::1]:2", "2121", "00000000000000000000000000000001"),
            ("[2001:db8::7]:1", "127.0.0.1:2", "2121", "00000000000000000000ffff7f000001"),
        ] {
            let (head, _) = play(Some(source), target, None);
            assert!(head.starts_with(&format!("{SIGNATURE}{family}")), "{source} {target}: {head}");
            assert!(head.trim_end_matches("00010002").ends_with(tail.trim_end_matches("00010002")), "{head}");
        }
    }

    #[test]
    fn without_addresses_the_app_is_told_to_use_its_own() {
        let (head, values) = play(None, "", None);
        assert!(head.starts_with(&format!("{SIGNATURE}2000")) && head.len() == 32, "{head}");
        assert_eq!(values.len(), 3, "{values:?}");
    }

    #[test]
    fn a_header_longer_than_it_can_say_is_none() {
        let identity = "spiffe://example.org/device/web-1".parse().unwrap();
        let decision = DecisionId::new(Timestamp::from_secs(1), [7; 10]);
        let write = |len: usize| {
            let authority = "a".repeat(len);
            let said =
                ProxyV2 { addresses: None, authority: &authority, decision, identity: &identity, tls: None };
            proxy_v2(&said).map(|header| header.len())
        };
        // Two more values of 3 + 26 and 3 + 33 bytes, and the authority's own 3.
        let most = 65_535 - 3 - 29 - 36;
        assert_eq!(write(most).unwrap(), 65_535 + 16);
        for len in [most + 1, 65_535, 65_536] {
            assert!(write(len).is_err(), "{len}");
        }
    }
}
