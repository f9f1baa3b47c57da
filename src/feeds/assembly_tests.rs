//! Tests of flow assembly: who asked, how it ended, and that the table stays bounded.

use super::*;
use crate::feeds::pcap::Flags;

const SECOND: u64 = 1_000_000;

fn packet(at: u64, from: &str, to: &str, flags: &str, len: u32) -> Packet {
    let end = |text: &str| {
        let addr: std::net::SocketAddr = text.parse().unwrap();
        (addr.ip(), addr.port())
    };
    let has = |c| flags.contains(c);
    Packet {
        at: Moment(at),
        from: end(from),
        to: end(to),
        carrier: if has('U') { Carrier::Udp } else { Carrier::Tcp },
        flags: Flags { syn: has('S'), ack: has('A'), fin: has('F'), rst: has('R') },
        len,
        sample: vec![b'x'; len.min(3) as usize],
    }
}

fn recognise(_: Carrier, bytes: &[u8]) -> Option<First> {
    Some(First { tongue: Tongue::Text, entropy: u8::try_from(bytes.len()).unwrap() })
}

fn table(flows_max: usize) -> Assembly {
    Assembly::new(Bounds { flows_max, ..Bounds::default() }, Keys::new([1, 2]), recognise)
}

fn line(record: &FlowRecord) -> String {
    let [bytes_out, bytes_in] = record.bytes;
    let [packets_out, packets_in] = record.chunks;
    format!(
        "{}>{}:{} {:?} {bytes_out}/{bytes_in} B {packets_out}/{packets_in} {} us",
        record.device, record.target, record.port, record.end, record.lasted_us
    )
}

/// The records of these packets, in the order of their ends; what lives at the end of the capture comes last.
fn play(packets: &[(u64, &str, &str, &str, u32)]) -> Vec<String> {
    let mut table = table(100);
    let mut heard = Vec::new();
    let mut last = Moment(0);
    for (at, from, to, flags, len) in packets {
        last = Moment(*at);
        table.push(&packet(*at, from, to, flags, *len), &mut heard);
    }
    while table.finish(last, &mut heard) {}
    assert!(table.is_empty());
    heard.iter().filter_map(|h| h.record.as_deref()).map(line).collect()
}

const A: &str = "10.0.0.1:5000";
const B: &str = "10.0.0.2:443";

#[test]
fn a_whole_conversation_is_one_flow() {
    let records = play(&[
        (0, A, B, "S", 0),
        (1, B, A, "SA", 0),
        (2, A, B, "A", 0),
        (3, A, B, "A", 100),
        (4, B, A, "A", 1400),
        (5, B, A, "A", 1400),
        (6, A, B, "FA", 0),
        (7, B, A, "FA", 0),
        (8, A, B, "A", 0),
    ]);
    assert_eq!(records, ["10.0.0.1>10.0.0.2:443 Fin 100/2800 B 4/4 7 us"]);
}

#[test]
fn the_analyser_hears_it_as_it_happens() {
    let mut table = table(100);
    let mut heard = Vec::new();
    for (at, from, to, flags, len) in
        [(0, A, B, "S", 0), (1, B, A, "SA", 0), (3, A, B, "A", 9), (4, A, B, "A", 9), (5, B, A, "RA", 0)]
    {
        table.push(&packet(at, from, to, flags, len), &mut heard);
    }
    let first = Some(First { tongue: Tongue::Text, entropy: 3 });
    let (flow, way) = (FlowKey(1), Way::Out);
    let events: Vec<_> = heard.iter().map(|h| h.event).collect();
    assert!(matches!(events[0], Event::Open { t: Moment(0), began: Moment(0), flow: FlowKey(1), .. }));
    assert_eq!(events[1], Event::Chunk { t: Moment(3), flow, way, len: 9, first });
    assert_eq!(events[2], Event::Chunk { t: Moment(4), flow, way, len: 9, first: None });
    assert_eq!(
        events[3],
        Event::Close { t: Moment(5), flow, end: End::Reset, bytes: [18, 0], chunks: [3, 2] }
    );
    assert_eq!(heard[3].record.as_ref().unwrap().tongue, Tongue::Text);
    let Event::Open { device, target, .. } = events[0] else { panic!() };
    let keys = Keys::new([1, 2]);
    assert_eq!(device, keys.device("10.0.0.1"));
    assert_eq!(target.service, keys.service("10.0.0.2", 443, Carrier::Tcp));
    assert_eq!(target.reach, Reach::Near);
}

#[test]
fn each_way_to_end_is_told_apart() {
    for (packets, expected) in [
        // Refused at the door.
        (vec![(0, A, B, "S", 0), (1, B, A, "RA", 0)], "10.0.0.1>10.0.0.2:443 Refused 0/0 B 1/1 1 us"),
        // Nobody there, asked three times.
        (
            vec![(0, A, B, "S", 0), (SECOND, A, B, "S", 0), (3 * SECOND, A, B, "S", 0)],
            "10.0.0.1>10.0.0.2:443 Timeout 0/0 B 3/0 3000000 us",
        ),
        // A port scanner hangs up on who answers.
        (
            vec![(0, A, B, "S", 0), (1, B, A, "SA", 0), (2, A, B, "R", 0)],
            "10.0.0.1>10.0.0.2:443 Reset 0/0 B 2/1 2 us",
        ),
        // Still open at the end.
        (
            vec![(0, A, B, "S", 0), (1, B, A, "SA", 0), (2, A, B, "A", 5)],
            "10.0.0.1>10.0.0.2:443 Fin 5/0 B 2/1 2 us",
        ),
        (vec![(0, "10.0.0.1:9", "10.0.0.2:53", "U", 5)], "10.0.0.1>10.0.0.2:53 Timeout 5/0 B 1/0 0 us"),
        (
            vec![(0, "10.0.0.1:5353", "224.0.0.251:5353", "U", 5)],
            "10.0.0.1>224.0.0.251:5353 Fin 5/0 B 1/0 0 us",
        ),
    ] {
        assert_eq!(play(&packets), [expected]);
    }
}

#[test]
fn who_asked_is_found_even_without_the_beginning() {
    for (packets, expected) in [
        (vec![(0, B, A, "SA", 0)], "10.0.0.1>10.0.0.2:443 Fin 0/0 B 0/1 0 us"),
        (vec![(0, B, A, "A", 7)], "10.0.0.1>10.0.0.2:443 Fin 0/7 B 0/1 0 us"),
        (vec![(0, "10.0.0.9:5000", "10.0.0.2:6000", "A", 7)], "10.0.0.9>10.0.0.2:6000 Fin 7/0 B 1/0 0 us"),
        (vec![(0, "10.0.0.2:53", "10.0.0.1:4000", "U", 7)], "10.0.0.1>10.0.0.2:53 Fin 0/7 B 0/1 0 us"),
    ] {
        assert_eq!(play(&packets), [expected]);
    }
}

#[test]
fn the_same_ends_may_meet_again() {
    let records = play(&[
        (0, A, B, "S", 0),
        (1, B, A, "SA", 0),
        (2, B, A, "RA", 0),
        (3, A, B, "R", 0),
        (4, A, B, "S", 0),
        (5, B, A, "SA", 0),
        (6, A, B, "A", 3),
        // A SYN over a living flow: the port is used again.
        (7, A, B, "S", 0),
        (8, B, A, "RA", 0),
    ]);
    assert_eq!(
        records,
        [
            "10.0.0.1>10.0.0.2:443 Reset 0/0 B 1/2 2 us",
            "10.0.0.1>10.0.0.2:443 Fin 3/0 B 2/1 2 us",
            "10.0.0.1>10.0.0.2:443 Refused 0/0 B 1/1 1 us",
        ]
    );
}

#[test]
fn silence_ends_a_flow_at_its_own_bound_whoever_else_talks() {
    let mut table = table(100);
    let mut heard = Vec::new();
    table.push(&packet(0, A, B, "A", 1), &mut heard);
    table.push(&packet(1, "10.0.0.1:7", "10.0.0.2:9999", "S", 0), &mut heard);
    table.push(&packet(2, "10.0.0.1:8", "10.0.0.2:53", "U", 4), &mut heard);
    let mut ended_after = |at: u64| {
        heard.clear();
        table.push(&packet(at, "10.0.0.7:1", "10.0.0.8:2", "A", 1), &mut heard);
        heard.iter().filter_map(|h| h.record.as_deref()).map(line).collect::<Vec<_>>()
    };
    assert_eq!(ended_after(10 * SECOND + 1), [""; 0]);
    assert_eq!(ended_after(10 * SECOND + 2), ["10.0.0.1>10.0.0.2:9999 Timeout 0/0 B 1/0 0 us"]);
    assert_eq!(ended_after(60 * SECOND + 3), ["10.0.0.1>10.0.0.2:53 Timeout 4/0 B 1/0 0 us"]);
    assert_eq!(ended_after(300 * SECOND + 1), ["10.0.0.1>10.0.0.2:443 Fin 1/0 B 1/0 0 us"]);
}

#[test]
fn a_full_table_ends_the_stalest_flow_and_never_grows() {
    let mut table = table(1000);
    let mut heard = Vec::new();
    let (mut opened, mut closed) = (0, 0);
    for n in 0..100_000_u32 {
        let from = format!("10.{}.{}.{}:999", n >> 16, n >> 8 & 255, n & 255);
        heard.clear();
        table.push(&packet(u64::from(n), &from, B, "S", 0), &mut heard);
        assert!(table.len() <= 1000 && table.flows.len() <= 1000 && heard.len() <= HEARD_MAX);
        opened += heard.iter().filter(|h| matches!(h.event, Event::Open { .. })).count();
        closed += heard.iter().filter(|h| h.record.is_some()).count();
        if n >= 1000 {
            let record = heard.iter().find_map(|h| h.record.as_deref()).unwrap();
            assert_eq!(record.began, Moment(u64::from(n) - 1000), "the first in is the first out");
        }
    }
    assert_eq!((opened, closed, table.evicted()), (100_000, 99_000, 99_000));
}

#[test]
fn a_hundred_thousand_open_flows_fit_and_all_end_once() {
    let mut table = table(Bounds::default().flows_max);
    let mut heard = Vec::new();
    for n in 0..100_000_u32 {
        let from = format!("10.{}.{}.{}:999", n >> 16, n >> 8 & 255, n & 255);
        table.push(&packet(u64::from(n), &from, B, "A", 1), &mut heard);
    }
    assert_eq!((table.len(), table.evicted()), (100_000, 0));
    heard.clear();
    let mut steps = 1;
    while table.finish(Moment(100_000), &mut heard) {
        steps += 1;
    }
    assert_eq!(heard.iter().filter(|h| h.record.is_some()).count(), 100_000);
    assert!(table.is_empty() && steps >= 100_000 / HEARD_MAX);
}

#[test]
fn a_clock_that_jumps_ends_flows_a_few_at_a_time() {
    let mut table = table(10_000);
    let mut heard = Vec::new();
    let start = 1_700_000_000 * SECOND;
    for n in 0..5000_u32 {
        let from = format!("10.0.{}.{}:999", n >> 8, n & 255);
        table.push(&packet(start, &from, B, "A", 1), &mut heard);
    }
    for (step, jump) in [(0, 4_000_000_000 * SECOND), (1, 0), (2, u64::MAX), (3, start)] {
        heard.clear();
        table.push(&packet(jump, "10.9.9.9:1", "10.9.9.8:2", "A", 1), &mut heard);
        assert!(heard.len() <= HEARD_MAX, "step {step}: {}", heard.len());
        assert!(heard.iter().any(|h| h.record.is_some()), "step {step} ends something");
    }
    for record in heard.iter().filter_map(|h| h.record.as_deref()) {
        assert!(record.lasted_us < 1_000_000 * SECOND, "{record:?}");
    }
}
