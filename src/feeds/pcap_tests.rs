//! Tests of the capture reader: whole files, cut files, and files that lie.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::feeds::support::{Frame, capture, next_generation, tcp, udp};

/// What a capture reads as: a line per packet, and how it ended.
fn play(bytes: Vec<u8>) -> (Vec<String>, String) {
    let mut packets = match Packets::new(Cursor::new(bytes)) {
        Ok(packets) => packets,
        Err(error) => return (Vec::new(), error.to_string()),
    };
    let mut seen = Vec::new();
    loop {
        match packets.advance() {
            Ok(Some(p)) => {
                let flags = [(p.flags.syn, 'S'), (p.flags.ack, 'A'), (p.flags.fin, 'F'), (p.flags.rst, 'R')];
                let flags: String = flags.iter().filter(|f| f.0).map(|f| f.1).collect();
                let sample = String::from_utf8_lossy(&p.sample).into_owned();
                seen.push(format!(
                    "{} {}:{}>{}:{} {flags} {} {sample}",
                    p.at.0, p.from.0, p.from.1, p.to.0, p.to.1, p.len
                ));
            }
            Ok(None) => break,
            Err(error) => {
                assert!(packets.advance().unwrap().is_none(), "an error is the end");
                return (seen, error.to_string());
            }
        }
    }
    let passed = packets.passed();
    (
        seen,
        format!("{} others, {} fragments, {} malformed", passed.others, passed.fragments, passed.malformed),
    )
}

fn two() -> [Frame; 2] {
    [
        Frame::at(1_500_000, tcp("10.0.0.1:5000", "10.0.0.2:443", "S", b"")),
        Frame::at(1_500_007, udp("[fd00::1]:5353", "[fd00::2]:53", b"hello")),
    ]
}

#[test]
fn every_form_of_capture_reads_the_same() {
    let expected = vec![
        "1500000 10.0.0.1:5000>10.0.0.2:443 S 0 ".to_owned(),
        "1500007 fd00::1:5353>fd00::2:53  5 hello".to_owned(),
    ];
    let end = "0 others, 0 fragments, 0 malformed".to_owned();
    for big in [false, true] {
        for nanos in [false, true] {
            assert_eq!(play(capture(1, big, nanos, &two())), (expected.clone(), end.clone()));
        }
        for resolution in [6, 9, 3, 0x80 | 20] {
            let (seen, _) = play(next_generation(1, big, resolution, 0, &two()));
            let end = |line: &String| line.split_once(' ').unwrap().1.to_owned();
            assert_eq!(
                seen.iter().map(end).collect::<Vec<_>>(),
                expected.iter().map(end).collect::<Vec<_>>()
            );
            if resolution == 9 || resolution == 6 {
                assert_eq!(seen, expected);
            }
        }
    }
}

#[test]
fn an_interface_shifts_and_scales_its_clock() {
    let (seen, _) = play(next_generation(1, true, 6, 100, &two()));
    assert!(seen[0].starts_with("101500000 "), "{seen:?}");
    let (seen, _) = play(next_generation(1, false, 0x80 | 20, -100, &two()));
    assert!(seen[0].starts_with("0 "), "{seen:?}: before the epoch is the epoch");
    for resolution in [0, 38, 39, 0x7f, 0xff] {
        assert_eq!(play(next_generation(1, false, resolution, i64::MAX, &two())).0.len(), 2);
        assert_eq!(play(next_generation(1, false, resolution, i64::MIN, &two())).0.len(), 2);
    }
}

#[test]
fn every_link_layer_leads_to_the_same_packet() {
    let ip: Vec<u8> = tcp("10.0.0.1:5000", "10.0.0.2:443", "PA", b"x")[14..].to_vec();
    let cooked = [&[0, 0, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0, 0x08, 0x00][..], &ip].concat();
    let cooked_2 = [&[0x08, 0x00, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0][..], &ip].concat();
    let tagged =
        [&tcp("10.0.0.1:5000", "10.0.0.2:443", "", b"")[..12], &[0x81, 0, 0, 7, 0x08, 0], &ip[..]].concat();
    let loopback = [&[2, 0, 0, 0][..], &ip].concat();
    for (link, bytes) in [
        (1, tagged),
        (113, cooked),
        (276, cooked_2),
        (0, loopback),
        (101, ip.clone()),
        (12, ip.clone()),
        (228, ip),
    ] {
        let (seen, _) = play(capture(link, false, false, &[Frame::at(0, bytes)]));
        assert_eq!(seen, ["0 10.0.0.1:5000>10.0.0.2:443 A 1 x"], "link type {link}");
    }
    let (_, end) = play(capture(105, false, false, &two()));
    assert_eq!(
        end,
        "capture: link type 105 is not understood; understood are Ethernet, Linux cooked, loopback and raw IP"
    );
    // One interface among several may be a stranger.
    assert_eq!(play(next_generation(105, false, 6, 0, &two())).1, "2 others, 0 fragments, 0 malformed");
}

#[test]
fn what_was_not_captured_still_counts_and_padding_does_not() {
    let whole = tcp("10.0.0.1:5000", "10.0.0.2:443", "A", &[b'a'; 1000]);
    let cut = Frame { at: 0, wire: u32::try_from(whole.len()).unwrap(), bytes: whole[..64].to_vec() };
    let (seen, _) = play(capture(1, false, false, &[cut]));
    assert_eq!(seen, [format!("0 10.0.0.1:5000>10.0.0.2:443 A 1000 {}", "a".repeat(10))]);
    let datagram = udp("10.0.0.1:5000", "10.0.0.2:53", &[b'b'; 100]);
    let cut = Frame { at: 0, wire: u32::try_from(datagram.len()).unwrap(), bytes: datagram[..50].to_vec() };
    let (seen, _) = play(capture(1, false, false, &[cut]));
    assert_eq!(seen, [format!("0 10.0.0.1:5000>10.0.0.2:53  100 {}", "b".repeat(8))]);
    let mut padded = tcp("10.0.0.1:5000", "10.0.0.2:443", "A", b"");
    padded.extend_from_slice(&[0; 6]);
    assert_eq!(
        play(capture(1, false, false, &[Frame::at(0, padded)])).0,
        ["0 10.0.0.1:5000>10.0.0.2:443 A 0 "]
    );
    // A capture that says a packet was 4 GiB long is not believed.
    let lie = Frame { at: 0, wire: u32::MAX, bytes: whole[..64].to_vec() };
    assert!(play(capture(1, false, false, &[lie])).0[0].contains(" A 65535 "));
}

#[test]
fn a_sample_is_no_longer_than_its_bound() {
    let long = tcp("10.0.0.1:5000", "10.0.0.2:443", "A", &[b'a'; 1400]);
    let mut packets = Packets::new(Cursor::new(capture(1, false, false, &[Frame::at(0, long)]))).unwrap();
    let packet = packets.advance().unwrap().unwrap();
    assert_eq!((packet.len, packet.sample.len()), (1400, SAMPLE_MAX));
}

#[test]
fn what_holds_no_flow_is_passed_over_and_counted() {
    let mut arp = vec![0xff; 12];
    arp.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend_from_slice(&[0; 20]);
    let mut fragment = udp("10.0.0.1:5000", "10.0.0.2:53", &[b'b'; 100]);
    fragment[20] = 0x20;
    let short = tcp("10.0.0.1:5000", "10.0.0.2:443", "S", b"")[..40].to_vec();
    let frames = [
        Frame::at(0, arp),
        Frame::at(0, fragment),
        Frame::at(0, short),
        Frame::at(0, Vec::new()),
        Frame::at(0, two()[0].bytes.clone()),
    ];
    let (seen, end) = play(capture(1, false, false, &frames));
    assert_eq!((seen.len(), end.as_str()), (1, "1 others, 1 fragments, 2 malformed"));
}

#[test]
fn a_cut_capture_gives_what_it_holds_and_says_where_it_ends() {
    for (whole, first) in
        [(capture(1, false, false, &two()), 24), (next_generation(1, false, 6, 0, &two()), 28 + 44)]
    {
        let (all, _) = play(whole.clone());
        assert_eq!(all.len(), 2);
        for len in 0..whole.len() {
            let (seen, end) = play(whole[..len].to_vec());
            assert!(seen.len() < 2 && all.starts_with(&seen), "{len}: {seen:?}");
            let names = ["no pcap", "in the middle of a block", "0 others"];
            assert!(names.iter().any(|n| end.contains(n)), "{len}: {end}");
        }
        let (seen, end) = play(whole[..whole.len() - 1].to_vec());
        assert_eq!(seen.len(), 1);
        assert!(end.contains("in the middle of a block"), "{end}");
        let (seen, end) = play(whole[..first + 3].to_vec());
        assert_eq!(seen.len(), 0);
        assert_eq!(
            end,
            format!(
                "capture, offset {first}: it ends in the middle of a block; everything before it was read"
            )
        );
    }
}

#[test]
fn lengths_that_lie_are_named_and_never_waited_for() {
    let mut bytes = capture(1, false, false, &two());
    bytes[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    let (_, end) = play(bytes.clone());
    assert!(end.contains("offset 24") && (end.contains("longer than") || end.contains("middle")), "{end}");
    bytes.extend(std::iter::repeat_n(0, 2 * BLOCK_MAX));
    assert_eq!(play(bytes).1, "capture, offset 24: a block is longer than 1048576 bytes");
    let mut bytes = next_generation(1, false, 6, 0, &two());
    bytes[28 + 44 + 20..28 + 44 + 24].copy_from_slice(&0x00ff_ffff_u32.to_le_bytes());
    let (_, end) = play(bytes);
    assert!(end.starts_with("capture, offset 72: "), "{end}");
    let mut bytes = next_generation(1, false, 6, 0, &two());
    bytes[28 + 44 + 8..28 + 44 + 12].copy_from_slice(&7_u32.to_le_bytes());
    assert_eq!(play(bytes).1, "capture, offset 72: a packet names an interface that was not described");
}

#[test]
fn a_block_has_a_longest_length() {
    // A frame of the wanted length with the packet at its start, padded as Ethernet may be.
    let frame = |len: usize| {
        let mut bytes = two()[0].bytes.clone();
        bytes.resize(len, 0);
        [Frame::at(0, bytes), two()[1].clone()]
    };
    for (whole, first, head) in [
        (capture as fn(u32, bool, bool, &[Frame]) -> Vec<u8>, 24, 16),
        (|_, big, _, frames| next_generation(1, big, 6, 0, frames), 28 + 44, 32),
    ] {
        let (seen, end) = play(whole(1, false, false, &frame(BLOCK_MAX - head)));
        assert_eq!((seen.len(), end.as_str()), (2, "0 others, 0 fragments, 0 malformed"));
        let (seen, end) = play(whole(1, false, false, &frame(BLOCK_MAX - head + 4)));
        assert_eq!(seen.len(), 0);
        assert_eq!(end, format!("capture, offset {first}: a block is longer than 1048576 bytes"));
    }
}

#[test]
fn a_capture_of_another_version_is_refused_by_name() {
    for (minor, major) in [(4, 3_u16), (3, 2), (0, 543)] {
        let mut bytes = capture(1, false, false, &two());
        bytes[4..6].copy_from_slice(&major.to_le_bytes());
        bytes[6] = minor;
        let said =
            format!("capture, offset 0: version {major}.{minor}; understood are pcap 2.4 and pcapng 1");
        assert_eq!(play(bytes), (Vec::new(), said));
    }
    let mut bytes = next_generation(1, true, 6, 0, &two());
    bytes[13] = 2;
    assert!(play(bytes.clone()).1.starts_with("capture, offset 0: version 2.0; "));
    bytes[13] = 1;
    bytes[15] = 2;
    assert_eq!(play(bytes).0.len(), 2, "a second number that is greater only adds blocks");
}

#[test]
fn blocks_of_a_kind_not_known_are_counted() {
    let whole = next_generation(1, false, 6, 0, &two());
    let (head, packets) = whole.split_at(28 + 44);
    // Type 2 is the packet block of old.
    let old = [2_u32, 16, 0, 16].map(u32::to_le_bytes).concat();
    let bytes = [head, &old, packets, &old].concat();
    let mut all = Packets::new(Cursor::new(bytes)).unwrap();
    let mut read = 0;
    while all.advance().unwrap().is_some() {
        read += 1;
    }
    assert_eq!((read, all.passed()), (2, Passed { strange: 2, ..Passed::default() }));
}

#[test]
fn other_files_are_no_captures() {
    assert_eq!(play(b"ts,dur,peer".to_vec()).1, "no pcap and no pcapng file: it begins with `74732c64`");
    assert_eq!(play(Vec::new()).1, "no pcap and no pcapng file: it begins with ``");
}

#[test]
fn interfaces_have_a_bound() {
    let one = next_generation(1, false, 6, 0, &[]);
    let (head, interface) = one.split_at(28);
    let bytes = [head.to_vec(), interface.repeat(INTERFACES_MAX)].concat();
    assert_eq!(play(bytes.clone()).1, "0 others, 0 fragments, 0 malformed");
    let end = play([bytes.as_slice(), interface].concat()).1;
    assert!(end.ends_with("more than 1024 interfaces in a section"), "{end}");
    // A new section starts anew.
    assert!(play([bytes.as_slice(), &one].concat()).1.starts_with("0 others"));
}

#[test]
fn a_pipe_that_gives_a_byte_at_a_time_and_a_disk_that_fails_are_both_told_right() {
    struct Drip(Cursor<Vec<u8>>, bool);
    impl Read for Drip {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            let Some(space) = space.get_mut(..1) else { return Ok(0) };
            match self.0.read(space) {
                Ok(0) if self.1 => Err(io::Error::other("the disk is gone")),
                read => read,
            }
        }
    }
    for whole in [capture(1, false, false, &two()), next_generation(1, true, 6, 0, &two())] {
        for fails in [false, true] {
            let mut packets = Packets::new(Drip(Cursor::new(whole.clone()), fails)).unwrap();
            assert!(packets.advance().unwrap().is_some());
            assert!(packets.advance().unwrap().is_some());
            assert_eq!(packets.offset(), (whole.len() - packets.pending) as u64);
            match packets.advance() {
                Ok(None) => assert!(!fails),
                Err(error) => assert!(fails && error.to_string().ends_with("the disk is gone"), "{error}"),
                Ok(Some(packet)) => panic!("{packet:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_make_a_reader_panic(
        at in 0..400_usize, with in prop::collection::vec(any::<u8>(), 1..8), big in any::<bool>()
    ) {
        for mut bytes in [capture(1, big, false, &two()), next_generation(1, big, 6, 0, &two())] {
            for (i, byte) in with.iter().enumerate() {
                let len = bytes.len();
                bytes[(at + i) % len] = *byte;
            }
            play(bytes);
        }
        play(with);
    }
}

#[test]
fn a_block_shorter_than_its_own_frame_is_refused() {
    let section = [
        &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..],
        &[0xff; 8],
        &[28, 0, 0, 0],
    ]
    .concat();
    for len in [0_u8, 8, 11] {
        let block = [0x77, 0x77, 0, 0, len, 0, 0, 0, len, 0, 0, 0, 0, 0, 0, 0];
        let mut packets = Packets::new(Cursor::new([&section[..], &block].concat())).unwrap();
        assert!(matches!(packets.advance(), Err(PcapError::Malformed { offset: 28, .. })), "{len}");
    }
}
