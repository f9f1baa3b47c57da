//! Memories are kept, bent, cut, exposed and recalled.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use super::super::behaviour::Mode;
use super::*;
use crate::analyser::event::{Carrier, End, FlowKey, Habit, Target};
use crate::analyser::{Event, Moment};

const SEED: [u64; 2] = [1, 2];

/// A memory in a folder of its own.
fn memory() -> (tempfile::TempDir, Memory) {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::new(dir.path().join("behaviour.state"), &[7; 32]);
    (dir, memory)
}

/// Devices by these names that used one service, and one of them in quarantine.
fn behaviour(names: &[&str]) -> Behaviour {
    let behaviour = Behaviour::new(&Settings::default(), SEED);
    for (n, name) in (1..).zip(names) {
        let t = Moment(n * 1_000_000);
        let device = behaviour.keys().device(name);
        let service = behaviour.keys().service("orders", 0, Carrier::Tcp);
        let target = Target { service, ..Target::default() };
        let habit = Habit::default();
        let mut shard = behaviour.shard(device.0).unwrap();
        let flow = FlowKey(n);
        shard.engine().on(&Event::Open { t, began: t, flow, device, target, habit });
        shard.engine().on(&Event::Close { t, flow, end: End::Fin, bytes: [9, 9], chunks: [1, 1] });
        if n == 1 {
            shard.quarantine(device.0);
        }
    }
    behaviour
}

fn reason(memory: &Memory, bytes: &[u8]) -> &'static str {
    match memory.open(bytes, &Settings::default()) {
        Ok(_) => "believed",
        Err(e) => e.reason(),
    }
}

/// `bytes` up to the tag, changed and sealed anew.
fn sealed_anew(memory: &Memory, bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len() - TAG_LEN].to_vec();
    change(&mut bytes);
    let tag = hmac::sign(&memory.key, &bytes);
    [&bytes, tag.as_ref()].concat()
}

#[test]
fn what_was_kept_is_recalled_with_its_seed_and_who_was_in_quarantine() {
    let (dir, memory) = memory();
    let settings = Settings::default();
    assert!(memory.recall(&settings).unwrap().is_none(), "no file is no mistake");
    let was = behaviour(&["a", "b", "c"]);
    let now = Timestamp::from_secs(1_800_000_000);
    let len = memory.keep(&was, now).unwrap();
    let again = memory.recall(&settings).unwrap().unwrap();
    assert_eq!((again.restored, again.as_of), (Restored { devices: 3, dropped: 0 }, now));
    assert_eq!(again.behaviour.counted().devices, 3);
    assert_eq!(again.behaviour.counted().quarantined, 1);
    assert_eq!(memory.seal(&again.behaviour, now), memory.seal(&was, now));
    assert_eq!(fs::read(memory.path()).unwrap().len(), len);
    assert_eq!(fs::metadata(memory.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    let few = Settings { devices_max: 1, ..settings };
    let few = memory.recall(&few).unwrap().unwrap().restored;
    assert!(few.dropped <= 2 && few.devices + few.dropped == 3, "{few:?}");
}

#[test]
fn a_file_that_was_changed_or_cut_anywhere_is_refused() {
    let (_dir, memory) = memory();
    let bytes = memory.seal(&behaviour(&["a"]), Timestamp::from_secs(1_800_000_000));
    assert_eq!(reason(&memory, &bytes), "believed");
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert_eq!(reason(&memory, &changed), "bad tag", "{at}");
        let cut = if at < TAG_LEN { "truncated" } else { "bad tag" };
        assert_eq!(reason(&memory, &bytes[..at]), cut, "{at}");
    }
    assert_eq!(reason(&memory, &[&bytes[..], &[0]].concat()), "bad tag");
    let other = Memory::new(memory.path.clone(), &[8; 32]);
    assert_eq!(reason(&other, &bytes), "bad tag");
}

#[test]
fn what_is_sealed_and_yet_does_not_read_is_refused() {
    let (_dir, memory) = memory();
    let bytes = memory.seal(&behaviour(&["a"]), Timestamp::from_secs(1_800_000_000));
    let anew = |change: &dyn Fn(&mut Vec<u8>)| reason(&memory, &sealed_anew(&memory, &bytes, change));
    assert_eq!(anew(&|_| {}), "believed");
    assert_eq!(anew(&|b| b[MAGIC.len()] += 1), "newer version");
    assert_eq!(anew(&|b| b[0] = b'C'), "damaged");
    assert_eq!(anew(&|b| b.push(0)), "damaged");
    assert_eq!(anew(&|b| b.truncate(MAGIC.len() + 1)), "damaged");
    assert_eq!(anew(&|b| b.truncate(b.len() - 1)), "damaged");
    let version = &bytes[..MAGIC.len() + 2];
    let sealed = |more: &[u8]| {
        let bytes = [version, more].concat();
        reason(&memory, &[&bytes, hmac::sign(&memory.key, &bytes).as_ref()].concat())
    };
    let head = |engines: usize| postcard::to_allocvec(&(SEED, 1_u64, engines)).unwrap();
    assert_eq!(sealed(&head(ENGINES + 1)), "another version of the analyser");
    // The first engine is no engine's snapshot.
    let bad = postcard::to_allocvec(&(Vec::<u64>::new(), 3_usize)).unwrap();
    assert_eq!(sealed(&[&head(ENGINES)[..], &bad, &[1, 2, 3]].concat()), "another version of the analyser");
    let longer = postcard::to_allocvec(&(Vec::<u64>::new(), 300_usize)).unwrap();
    assert_eq!(sealed(&[&head(ENGINES)[..], &longer, &[1, 2, 3]].concat()), "damaged");
}

#[test]
fn a_file_that_others_may_use_is_too_large_or_no_file_is_refused_and_set_aside() {
    let (dir, memory) = memory();
    let refused = || memory.recall(&Settings::default()).err().map(|e| e.reason());
    memory.keep(&behaviour(&["a"]), Timestamp::from_secs(1)).unwrap();
    assert_eq!(refused(), None);
    for mode in [0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(memory.path(), Permissions::from_mode(mode)).unwrap();
        assert_eq!(refused(), Some("exposed"), "{mode:o}");
    }
    let bad = memory.set_aside().unwrap();
    assert_eq!(bad, dir.path().join("behaviour.state.bad"));
    assert!(bad.is_file() && refused().is_none() && !memory.path().exists());
    let long = fs::File::create(memory.path()).unwrap();
    long.set_len(FILE_BYTES_MAX + 1).unwrap();
    long.set_permissions(Permissions::from_mode(0o600)).unwrap();
    assert_eq!(refused(), Some("too large"));
    fs::remove_file(memory.path()).unwrap();
    fs::create_dir(memory.path()).unwrap();
    assert_eq!(refused(), Some("unreadable"));
}

#[test]
fn a_file_that_cannot_be_replaced_stays_as_it_was() {
    let (dir, memory) = memory();
    memory.keep(&behaviour(&["a"]), Timestamp::from_secs(1)).unwrap();
    let before = fs::read(memory.path()).unwrap();
    // Something that cannot go lies where the new one would be written first.
    let neighbour = dir.path().join(format!(".behaviour.state.{}.tmp", std::process::id()));
    fs::create_dir(&neighbour).unwrap();
    assert!(memory.keep(&behaviour(&["a", "b"]), Timestamp::from_secs(2)).is_err());
    assert_eq!(fs::read(memory.path()).unwrap(), before);
    fs::remove_dir(&neighbour).unwrap();
    let mut old = fs::File::open(memory.path()).unwrap();
    memory.keep(&behaviour(&["a", "b"]), Timestamp::from_secs(2)).unwrap();
    assert_eq!(memory.recall(&Settings::default()).unwrap().unwrap().restored.devices, 2);
    let mut bytes = Vec::new();
    old.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, before, "who is reading it reads on: it was not written over");
}

#[test]
fn who_is_not_known_again_is_in_no_quarantine() {
    let (_dir, memory) = memory();
    let was = behaviour(&["a"]);
    was.shard(5).unwrap().quarantine(5);
    assert_eq!(was.counted().quarantined, 2);
    memory.keep(&was, Timestamp::from_secs(1)).unwrap();
    let again = memory.recall(&Settings::default()).unwrap().unwrap().behaviour;
    assert_eq!(again.counted().quarantined, 1);
}

#[test]
fn what_is_not_watched_recalls_nothing() {
    let (_dir, memory) = memory();
    memory.keep(&behaviour(&["a"]), Timestamp::from_secs(1)).unwrap();
    let off = Settings { mode: Mode::Off, ..Settings::default() };
    assert!(memory.recall(&off).is_err());
}
