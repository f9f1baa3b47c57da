//! Any bytes as what the analyser learnt, and its own with bytes changed: nothing panics, bounds hold, and it goes on.
#![no_main]

use std::sync::LazyLock;

use countersign::analyser::event::{Carrier, End, FlowKey, Habit, Target, Way};
use countersign::analyser::{Engine, Event, Keys, Moment, SNAPSHOT_BYTES_MAX, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let honest: &[u8] = &HONEST;
    tried(bytes);
    // Behind what says that it is of this very version.
    let shape = honest.iter().position(|byte| byte & 0x80 == 0).map_or(0, |at| at + 1);
    tried(&[&honest[..shape], bytes].concat());
    // Three bytes at a time: where, and what is there instead.
    let mut changed = honest.to_vec();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        if let Some(byte) = changed.get_mut(at) {
            *byte = change[2];
        }
    }
    tried(&changed);
});

/// What is taken keeps the bounds, is written as it was read, and is played on.
fn tried(bytes: &[u8]) {
    let settings = Settings { devices_max: DEVICES_MAX, flows_max: 4, ..Settings::default() };
    let mut engine = Engine::new(settings.clone());
    match engine.restore(bytes) {
        Ok(restored) => {
            assert_eq!(engine.held(), (0, restored.devices));
            assert!(restored.devices <= DEVICES_MAX);
            let written = engine.snapshot();
            assert!(written.len() <= SNAPSHOT_BYTES_MAX);
            let mut again = Engine::new(settings);
            assert_eq!(again.restore(&written).map(|r| r.devices), Ok(restored.devices));
            assert_eq!(again.snapshot(), written);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(engine.held(), (0, 0));
        }
    }
    play(&mut engine, 100..108);
    assert!(engine.held().1 <= DEVICES_MAX);
}

/// Flows of five devices to three services, from beginning to end.
fn play(engine: &mut Engine, flows: std::ops::Range<u64>) {
    let keys = Keys::new([1, 2]);
    for n in flows {
        let (t, flow) = (Moment(1_800_000_000_000_000 + n * 30_000_000), FlowKey(n));
        let device = keys.device(&format!("d{}", n % 5));
        let service = keys.service(&format!("s{}", n % 3), 443, Carrier::Tcp);
        let target = Target { service, port: 443, ..Target::default() };
        let habit = Habit { source: 1 + n as u32 % 2, ..Habit::default() };
        engine.on(&Event::Open { t, began: t, flow, device, target, habit });
        engine.on(&Event::Chunk { t, flow, way: Way::Out, len: 400, first: None });
        let end = if n % 4 == 0 { End::Refused } else { End::Fin };
        engine.on(&Event::Close { t: t.plus(1_000_000), flow, end, bytes: [400, 4000], chunks: [1, 1] });
        engine.on(&Event::Tick { t: t.plus(2_000_000) });
    }
}

/// Of five devices.
static HONEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut learnt = Engine::new(Settings::default());
    play(&mut learnt, 0..12);
    learnt.snapshot()
});
const DEVICES_MAX: usize = 3;
