//! Any bytes as a capture: it ends, its table stays bounded, and every flow that opens closes once.
#![no_main]

use std::collections::HashSet;
use std::io::Cursor;

use countersign::analyser::event::First;
use countersign::analyser::{Event, Keys, Moment};
use countersign::feeds::{Assembly, Bounds, HEARD_MAX, Packets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut packets) = Packets::new(Cursor::new(bytes.to_vec())) else { return };
    let bounds = Bounds { flows_max: 8, ..Bounds::default() };
    let mut table = Assembly::new(bounds, Keys::new([0, 0]), |_, _| Some(First::default()));
    let (mut heard, mut open, mut read) = (Vec::new(), HashSet::new(), 0);
    let mut last = Moment(0);
    let mut check = |heard: &mut Vec<countersign::feeds::Heard>| {
        assert!(heard.len() <= HEARD_MAX);
        for h in heard.drain(..) {
            match h.event {
                Event::Open { flow, .. } => assert!(open.insert(flow), "a number is used twice"),
                Event::Close { flow, .. } => assert!(open.remove(&flow) && h.record.is_some()),
                event => assert!(event.flow().is_some_and(|f| open.contains(&f))),
            }
        }
        open.len()
    };
    while let Ok(Some(packet)) = packets.advance() {
        read += 1;
        // A packet is 16 bytes of header at least.
        assert!(read <= bytes.len() / 16 && packets.offset() <= bytes.len() as u64);
        assert!(packet.len <= 65_535 && packet.sample.len() <= 256);
        last = packet.at;
        table.push(&packet, &mut heard);
        assert!(check(&mut heard) <= 8 && table.len() <= 8);
    }
    while table.finish(last, &mut heard) {
        check(&mut heard);
    }
    assert_eq!(check(&mut heard), 0, "what opened has closed");
    assert!(packets.advance().is_ok_and(|p| p.is_none()), "the end is the end");
});
