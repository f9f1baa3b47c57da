//! Any facts as a PROXY protocol v2 header: another reader, written from the specification alone, finds each of them.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use countersign::model::{DecisionId, SpiffeId, Timestamp};
use countersign::protocols::{IDENTITY, ProxyV2, ProxyV2Tls, proxy_v2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let decision = DecisionId::new(Timestamp::from_secs(1_700_000_000), input.take());
    let (source, target) = (input.address(), input.address());
    let addresses = source.zip(target);
    let identity = format!("spiffe://example.org/device/x{:x}", u64::from_be_bytes(input.take()));
    let identity: SpiffeId = identity.parse().expect("hex digits name a device");
    let common_name = input.text();
    let (cipher, authority) = (input.text().unwrap_or_default(), input.rest());
    let tls = input.0.first().is_none_or(|b| b % 2 == 0).then_some(ProxyV2Tls { common_name, cipher });
    let said = ProxyV2 { addresses, authority, decision, identity: &identity, tls };
    let Ok(header) = proxy_v2(&said) else {
        assert!(authority.len() + cipher.len() + common_name.unwrap_or_default().len() > 65_000);
        return;
    };

    // The peer's bytes follow at once.
    let stream = [&header[..], b"and then the peer"].concat();
    let read = read(&stream);
    assert_eq!(read.rest, b"and then the peer");
    assert_eq!(read.addresses.map(canonical), addresses.map(canonical));
    let decision = decision.to_string();
    let mut expected = vec![
        (0x02, authority.as_bytes()),
        (0x05, decision.as_bytes()),
        (IDENTITY, identity.as_str().as_bytes()),
    ];
    if tls.is_some() {
        let (_, ssl) = read.values.last().expect("there is a value for TLS");
        assert_eq!(ssl[..5], [7, 0, 0, 0, 0]);
        let mut inner = vec![(0x21, &b"TLSv1.3"[..])];
        inner.extend(common_name.map(|name| (0x22, name.as_bytes())));
        inner.push((0x23, cipher.as_bytes()));
        assert_eq!(values(&ssl[5..]), inner);
        expected.push((0x20, ssl));
    }
    assert_eq!(read.values, expected);
});

/// What a header says, by `proxy-protocol.txt` §2.2.
struct Read<'a> {
    addresses: Option<(SocketAddr, SocketAddr)>,
    values: Vec<(u8, &'a [u8])>,
    rest: &'a [u8],
}

fn read(stream: &[u8]) -> Read<'_> {
    assert_eq!(stream[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    let len = usize::from(u16::from_be_bytes([stream[14], stream[15]]));
    let (said, rest) = stream[16..].split_at(len);
    let (addresses, said) = match (stream[12], stream[13]) {
        // LOCAL, nothing said of addresses.
        (0x20, 0x00) => (None, said),
        // PROXY, TCP over IPv4.
        (0x21, 0x11) => {
            let ip = |at: usize| Ipv4Addr::new(said[at], said[at + 1], said[at + 2], said[at + 3]);
            (Some(((ip(0), port(said, 8)).into(), (ip(4), port(said, 10)).into())), &said[12..])
        }
        // PROXY, TCP over IPv6.
        (0x21, 0x21) => {
            let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&said[at..at + 16]).expect("16 bytes"));
            (Some(((ip(0), port(said, 32)).into(), (ip(16), port(said, 34)).into())), &said[36..])
        }
        other => panic!("{other:02x?} is no TCP over IP"),
    };
    Read { addresses, values: values(said), rest }
}

fn port(said: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([said[at], said[at + 1]])
}

fn values(mut said: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while !said.is_empty() {
        let len = usize::from(u16::from_be_bytes([said[1], said[2]]));
        all.push((said[0], &said[3..3 + len]));
        said = &said[3 + len..];
    }
    all
}

/// IPv4 written as IPv6 is the same address.
fn canonical((source, target): (SocketAddr, SocketAddr)) -> [(IpAddr, u16); 2] {
    [source, target].map(|a| (a.ip().to_canonical(), a.port()))
}

/// Facts out of the fuzzer's bytes; zeros when they ran out.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn slice(&mut self, len: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        first
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut all = [0; N];
        let some = self.slice(N);
        all[..some.len()].copy_from_slice(some);
        all
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let [kind] = self.take();
        let port = u16::from_be_bytes(self.take());
        match kind % 3 {
            0 => None,
            1 => Some((Ipv4Addr::from(self.take::<4>()), port).into()),
            _ => Some((Ipv6Addr::from(self.take::<16>()), port).into()),
        }
    }

    fn text(&mut self) -> Option<&'a str> {
        let [len] = self.take();
        std::str::from_utf8(self.slice(usize::from(len))).ok()
    }

    fn rest(&mut self) -> &'a str {
        match std::str::from_utf8(self.0) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(&self.0[..e.valid_up_to()]).unwrap_or_default(),
        }
    }
}
