//! Makes captures for tests: frames of TCP and UDP, in files of both kinds.

use std::net::SocketAddr;

use etherparse::{PacketBuilder, PacketBuilderStep};

/// One captured frame.
#[derive(Clone)]
pub struct Frame {
    /// Microseconds since the epoch.
    pub at: u64,
    /// How long it was on the wire.
    pub wire: u32,
    /// What was captured of it.
    pub bytes: Vec<u8>,
}

impl Frame {
    pub fn at(at: u64, bytes: Vec<u8>) -> Self {
        Self { at, wire: u32::try_from(bytes.len()).unwrap(), bytes }
    }
}

/// An Ethernet frame of a TCP segment; `flags` of `SAFRP`.
pub fn tcp(from: &str, to: &str, flags: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to) = ends(from, to);
    let mut step = ip(from, to).tcp(from.port(), to.port(), 1, 1000);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(1),
            'F' => step.fin(),
            'R' => step.rst(),
            _ => step.psh(),
        };
    }
    // `ack` is only a number in the header; a segment without the flag has none.
    let mut bytes = Vec::new();
    step.write(&mut bytes, payload).unwrap();
    bytes
}

/// An Ethernet frame of a UDP datagram.
pub fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to) = ends(from, to);
    let mut bytes = Vec::new();
    ip(from, to).udp(from.port(), to.port()).write(&mut bytes, payload).unwrap();
    bytes
}

/// A pcap file.
pub fn capture(link: u32, big: bool, nanos: bool, frames: &[Frame]) -> Vec<u8> {
    let magic = if nanos { 0xa1b2_3c4d_u32 } else { 0xa1b2_c3d4 };
    let mut out = word(big, magic);
    out.extend(if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
    for value in [0, 0, 262_144, link] {
        out.extend(word(big, value));
    }
    for frame in frames {
        let (secs, us) = (frame.at / 1_000_000, frame.at % 1_000_000);
        let part = if nanos { us * 1000 } else { us };
        let caplen = u32::try_from(frame.bytes.len()).unwrap();
        for value in [u32::try_from(secs).unwrap(), u32::try_from(part).unwrap(), caplen, frame.wire] {
            out.extend(word(big, value));
        }
        out.extend(&frame.bytes);
    }
    out
}

/// A pcapng file with one interface: a section header of 28 bytes, an interface of 44, then the packets.
pub fn next_generation(link: u16, big: bool, resolution: u8, offset_s: i64, frames: &[Frame]) -> Vec<u8> {
    let short = |v: u16| if big { v.to_be_bytes() } else { v.to_le_bytes() };
    let mut body = word(big, 0x1a2b_3c4d);
    body.extend(short(1));
    body.extend(short(0));
    body.extend([0xff; 8]);
    let mut out = block(big, 0x0a0d_0d0a, &body);
    let mut body = short(link).to_vec();
    body.extend([0, 0]);
    body.extend(word(big, 262_144));
    body.extend(short(9));
    body.extend(short(1));
    body.extend([resolution, 0, 0, 0]);
    body.extend(short(14));
    body.extend(short(8));
    body.extend(if big { offset_s.to_be_bytes() } else { offset_s.to_le_bytes() });
    body.extend([0; 4]);
    out.extend(block(big, 1, &body));
    for frame in frames {
        let power = u32::from(resolution & 0x7f);
        let per_second: u128 =
            if resolution & 0x80 == 0 { 10_u128.saturating_pow(power) } else { 1 << power.min(100) };
        let units = u128::from(frame.at).saturating_mul(per_second) / 1_000_000;
        let units = u64::try_from(units).unwrap_or(u64::MAX);
        let mut body = word(big, 0);
        body.extend(word(big, u32::try_from(units >> 32).unwrap()));
        body.extend(word(big, u32::try_from(units & 0xffff_ffff).unwrap()));
        body.extend(word(big, u32::try_from(frame.bytes.len()).unwrap()));
        body.extend(word(big, frame.wire));
        body.extend(&frame.bytes);
        body.extend(vec![0; frame.bytes.len().next_multiple_of(4) - frame.bytes.len()]);
        out.extend(block(big, 6, &body));
    }
    out
}

fn block(big: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 12).unwrap();
    [word(big, kind), word(big, len), body.to_vec(), word(big, len)].concat()
}

fn word(big: bool, value: u32) -> Vec<u8> {
    if big { value.to_be_bytes().to_vec() } else { value.to_le_bytes().to_vec() }
}

fn ends(from: &str, to: &str) -> (SocketAddr, SocketAddr) {
    (from.parse().unwrap(), to.parse().unwrap())
}

fn ip(from: SocketAddr, to: SocketAddr) -> PacketBuilderStep<etherparse::IpHeaders> {
    let step = PacketBuilder::ethernet2([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
    match (from, to) {
        (SocketAddr::V4(a), SocketAddr::V4(b)) => step.ipv4(a.ip().octets(), b.ip().octets(), 20),
        (SocketAddr::V6(a), SocketAddr::V6(b)) => step.ipv6(a.ip().octets(), b.ip().octets(), 20),
        _ => panic!("both ends must be of one kind"),
    }
}
