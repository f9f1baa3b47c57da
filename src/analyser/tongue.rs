//! What is spoken, by the first bytes of one direction; and how much they look like chance.

use super::event::{First, Tongue};

impl First {
    /// Bytes that are looked at, at most.
    pub const SAMPLE: usize = 256;

    /// What a first payload looks like. `bytes` may be longer than [`First::SAMPLE`]; the rest is not looked at.
    pub fn of(bytes: &[u8]) -> Self {
        let sample = bytes.get(..Self::SAMPLE).unwrap_or(bytes);
        let bits = entropy(sample);
        let tongue = recognised(sample).unwrap_or_else(|| shape(sample, bits));
        Self { tongue, entropy: (bits * 32.0) as u8 }
    }
}

/// By the bytes that a protocol always begins with.
fn recognised(bytes: &[u8]) -> Option<Tongue> {
    let begins = |with: &[u8]| bytes.starts_with(with);
    let at = |place: usize| bytes.get(place).copied();
    let word = |place: usize| -> Option<u32> {
        bytes.get(place..)?.first_chunk::<4>().map(|four| u32::from_be_bytes(*four))
    };
    let fits = |len: u32, max: u32| (8..=max).contains(&len);
    // RFC 8446 §5.1: handshake, version 3.x; then ClientHello or ServerHello.
    if begins(&[0x16, 0x03]) && matches!(at(5), None | Some(1 | 2)) {
        return Some(Tongue::Tls);
    }
    if begins(b"PRI * HTTP/2.0\r\n") {
        return Some(Tongue::Http2);
    }
    if begins(b"HTTP/1.") || METHODS.iter().any(|m| begins(m)) {
        return Some(Tongue::Http);
    }
    if begins(b"SSH-") {
        return Some(Tongue::Ssh);
    }
    // MQTT 5.0 §3.1: CONNECT, its length, then the protocol's name; §3.2: CONNACK of two bytes or a few more.
    let is_connect =
        at(0) == Some(0x10) && bytes.windows(6).take(6).any(|w| w == b"\0\x04MQTT" || w == b"\0\x06MQIs");
    if is_connect
        || (at(0) == Some(0x20) && at(1).is_some_and(|len| len >= 2 && usize::from(len) + 2 == bytes.len()))
    {
        return Some(Tongue::Mqtt);
    }
    // PostgreSQL 55.7: a length, then version 3.0, or the codes of SSLRequest, GSSENCRequest and CancelRequest.
    if let (Some(len), Some(code)) = (word(0), word(4))
        && fits(len, 10_000)
        && matches!(code, 0x0003_0000 | 80_877_102..=80_877_104)
    {
        return Some(Tongue::Postgres);
    }
    // MySQL: a packet of up to 255 bytes with number 0 that says version 10 and a text.
    if matches!(bytes, [_, 0, 0, 0, 10, version, ..] if version.is_ascii_digit()) {
        return Some(Tongue::Mysql);
    }
    // RESP: an array of bulk strings, or a reply.
    if matches!(bytes, [b'*', digit, ..] if digit.is_ascii_digit())
        && bytes.windows(3).take(8).any(|w| w == b"\r\n$")
    {
        return Some(Tongue::Redis);
    }
    // MS-RDPBCGR 2.2.1.1: TPKT, then an X.224 connection request or confirm.
    if begins(&[3, 0]) && matches!(at(5), Some(0xe0 | 0xd0)) {
        return Some(Tongue::Rdp);
    }
    // Kafka: a length, a known API key and a version that exists.
    if let (Some(len), Some(api)) = (word(0), word(4))
        && fits(len, 1 << 20)
        && matches!((api >> 16, api & 0xffff), (0..=75, 0..=20))
        && len as usize + 4 == bytes.len()
    {
        return Some(Tongue::Kafka);
    }
    // DNS over TCP (RFC 1035 §4.2.2): a length, then a header with a question or two and no answers to them yet.
    if let Some(len) = bytes.first_chunk::<2>().map(|two| usize::from(u16::from_be_bytes(*two)))
        && len + 2 == bytes.len()
        && len >= 17
        && matches!(bytes.get(4..8), Some([flags, _, 0, 1 | 2]) if flags & 0x70 == 0)
    {
        return Some(Tongue::Dns);
    }
    None
}

/// By its looks.
fn shape(bytes: &[u8], bits: f32) -> Tongue {
    let readable = bytes.iter().filter(|b| matches!(b, 0x20..=0x7e | b'\t' | b'\r' | b'\n')).count();
    match bytes.len() {
        0 => Tongue::Unknown,
        len if readable == len => Tongue::Text,
        // 128 bytes drawn at random have 6.5 bits, 256 have 7.2; code and headers stay below.
        len if len >= RANDOM_LEN_MIN && bits >= (len as f32).log2() - RANDOM_LACKS => Tongue::Random,
        _ => Tongue::Binary,
    }
}

/// Shannon entropy in bits per byte.
fn entropy(bytes: &[u8]) -> f32 {
    let mut counts = [0_u16; 256];
    for byte in bytes {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let all = bytes.len() as f32;
    let bits = counts.iter().filter(|c| **c > 0).map(|c| {
        let share = f32::from(*c) / all;
        -share * share.log2()
    });
    bits.sum::<f32>().max(0.0)
}

const METHODS: [&[u8]; 9] =
    [b"GET /", b"POST /", b"PUT /", b"HEAD /", b"DELETE /", b"OPTIONS ", b"PATCH /", b"CONNECT ", b"TRACE /"];
const RANDOM_LEN_MIN: usize = 128;
const RANDOM_LACKS: f32 = 1.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tongue_is_told_by_its_first_bytes() {
        let told = |bytes: &[u8]| First::of(bytes).tongue;
        assert_eq!(told(b"\x16\x03\x01\x02\x00\x01\x00"), Tongue::Tls);
        assert_eq!(told(b"GET /v1/item HTTP/1.1\r\n"), Tongue::Http);
        assert_eq!(told(b"HTTP/1.1 200 OK\r\n"), Tongue::Http);
        assert_eq!(told(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Tongue::Http2);
        assert_eq!(told(b"SSH-2.0-OpenSSH_9.2p1\r\n"), Tongue::Ssh);
        assert_eq!(told(b"\x10\x1a\x00\x04MQTT\x05\x02\x00\x3c"), Tongue::Mqtt);
        assert_eq!(told(b"\x20\x02\x00\x00"), Tongue::Mqtt);
        assert_eq!(told(b"\x00\x00\x00\x08\x04\xd2\x16\x2f"), Tongue::Postgres);
        assert_eq!(told(b"\x4a\x00\x00\x00\x0a8.0.36\x00"), Tongue::Mysql);
        assert_eq!(told(b"*1\r\n$4\r\nPING\r\n"), Tongue::Redis);
        assert_eq!(told(b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00"), Tongue::Rdp);
        assert_eq!(told(b"\x00\x00\x00\x0a\x00\x12\x00\x03\x00\x00\x00\x01\xff\xff"), Tongue::Kafka);
        let mut dns =
            b"\x00\x1d\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00".to_vec();
        dns.extend(b"\x00\x01\x00\x01");
        assert_eq!(told(&dns), Tongue::Dns);
        assert_eq!(told(b"hello there\n"), Tongue::Text);
        assert_eq!(told(b"\x00\x01\x02\x03"), Tongue::Binary);
        assert_eq!(told(b""), Tongue::Unknown);
    }

    #[test]
    fn chance_is_told_from_code() {
        let mut x = 1_u64;
        let mut chance = || {
            x = super::super::sketch::mix(x.wrapping_add(0x9e37_79b9));
            (x >> 32) as u8
        };
        for len in [128, 200, 256, 4000] {
            let bytes: Vec<u8> = (0..len).map(|_| chance()).collect();
            assert_eq!(First::of(&bytes).tongue, Tongue::Random, "{len}");
            assert!(First::of(&bytes).entropy >= 200);
        }
        let code: Vec<u8> = (0..256).map(|i: u32| [0, 0x48, 0x8b, (i / 16) as u8][i as usize % 4]).collect();
        assert_eq!(First::of(&code).tongue, Tongue::Binary);
        assert_eq!(First::of(&[7; 256]).entropy, 0);
        assert_eq!(First::of(&[9]), First { tongue: Tongue::Text, entropy: 0 });
    }
}
