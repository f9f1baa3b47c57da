//! Tests of the door and the writer: bounds, a failing disk, and what is told of it afterwards.

use std::time::Duration;

use super::*;
use crate::audit::support::{Bench, Fault, Faults, NOW, allow, deny};
use crate::audit::{Line, Source, parse_line};

fn read(bench: &Bench) -> Vec<Line<'static>> {
    bench.lines().iter().map(|line| parse_line(line.as_bytes()).unwrap()).collect()
}

/// Makes the writer hang in a write, with nothing in the queue.
fn hang(log: &Log, faults: &Faults) {
    faults.set(Fault::Hanging);
    log.append(Entry::new(NOW, Kind::Admin)).unwrap();
    faults.wait_hanging();
    assert_eq!(log.status().queued, 0);
}

#[test]
fn a_failing_disk_blocks_and_recovers_and_the_log_says_how_many_were_refused() {
    for fault in [Fault::HalfWritten, Fault::NoSpace, Fault::Tiles, Fault::Checkpoint] {
        let mut bench = Bench::new();
        bench.settings.disk_reserve = 10;
        let (log, faults) = bench.open_flaky();
        bench.fill(&log, 0..3);
        faults.set(fault);
        log.append(allow(3)).unwrap();
        assert_eq!(log.flush(), Err(Refused::Failing), "{fault:?}");
        assert_eq!(log.append(allow(4)), Err(Refused::Failing));
        assert_eq!(log.append(deny(1)), Err(Refused::Failing), "block refuses all alike");
        let status = log.status();
        assert_eq!((status.refused, status.failing.is_some(), status.size), (2, true, 3));
        if fault == Fault::HalfWritten {
            // Between two tries, not in the middle of one.
            faults.set(Fault::Hanging);
            faults.wait_hanging();
            assert_eq!(bench.lines().len(), 3, "back at the last good length");
            assert!(bench.is_good());
        }
        faults.set(Fault::None);
        while log.status().failing.is_some() {
            std::thread::yield_now();
        }
        bench.fill(&log, 5..6);
        log.close().unwrap();
        drop(log);
        let lines = read(&bench);
        let kinds: Vec<_> = lines.iter().map(|l| l.kind.as_ref()).collect();
        assert_eq!(kinds, ["allow", "allow", "allow", "allow", "repair", "allow"], "{fault:?}");
        assert_eq!(lines[3].flow.as_deref(), Some("f3"), "what was taken before the fault is not lost");
        assert_eq!(lines[4].count, Some(2));
        assert!(lines[4].detail.as_deref().unwrap().contains("2 entries refused, 0 dropped"));
        assert!(bench.is_good());
    }
}

#[test]
fn closing_on_a_failing_disk_ends_and_says_so() {
    let bench = Bench::new();
    let (log, faults) = bench.open_flaky();
    faults.set(Fault::Checkpoint);
    log.append(allow(0)).unwrap();
    assert_eq!(log.close(), Err(Refused::Failing));
    assert_eq!(log.append(allow(1)), Err(Refused::Closed));
}

#[test]
fn a_full_queue_refuses_and_the_log_says_so_later() {
    let mut bench = Bench::new();
    bench.settings.queue_max = 8;
    let (log, faults) = bench.open_flaky();
    hang(&log, &faults);
    for flow in 0..8 {
        assert_eq!(log.append(allow(flow)), Ok(()));
    }
    assert_eq!(log.append(allow(8)), Err(Refused::Full));
    assert_eq!(log.append(deny(1)), Err(Refused::Full));
    assert_eq!(Reason::from(Refused::Full), Reason::AuditUnavailable);
    assert_eq!((log.status().queued, log.status().refused), (8, 2));
    faults.set(Fault::None);
    log.flush().unwrap();
    assert_eq!(log.append(allow(9)), Ok(()));
    log.0.shared.lock().tick();
    log.close().unwrap();
    let lines = read(&bench);
    let told = lines.iter().find(|l| l.kind == "repair").unwrap();
    assert_eq!((lines.len(), told.count), (11, Some(2)));
}

#[test]
fn drop_allow_drops_and_counts_what_was_allowed_and_keeps_room_for_denials() {
    let mut bench = Bench::new();
    bench.settings.queue_max = 8;
    bench.settings.on_full = OnFull::DropAllow;
    let (log, faults) = bench.open_flaky();
    hang(&log, &faults);
    for flow in 0..10 {
        assert_eq!(log.append(allow(flow)), Ok(()), "never refused");
    }
    assert_eq!((log.status().queued, log.status().dropped), (7, 3), "an eighth is kept");
    assert_eq!(log.append(deny(1)), Ok(()));
    assert_eq!(log.append(deny(1)), Err(Refused::Full), "a denial that cannot be recorded is told");
    faults.set(Fault::None);
    log.flush().unwrap();

    faults.set(Fault::Checkpoint);
    log.append(deny(1)).unwrap();
    assert_eq!(log.flush(), Err(Refused::Failing));
    assert_eq!(log.append(allow(11)), Ok(()));
    assert_eq!(log.append(deny(1)), Ok(()), "denials are still tried");
    assert_eq!((log.status().dropped, log.status().refused), (4, 1));
    faults.set(Fault::None);
    while log.status().failing.is_some() {
        std::thread::yield_now();
    }
    log.close().unwrap();
    let lines = read(&bench);
    assert_eq!(lines.iter().filter(|l| l.kind == "deny").count(), 3);
    let told: u64 = lines.iter().filter(|l| l.kind == "repair").filter_map(|l| l.count).sum();
    assert_eq!(told, 5);
}

#[test]
fn denials_above_the_rate_are_summed_and_counted_exactly() {
    let bench = Bench::new();
    let (log, _) = bench.open().unwrap();
    for _ in 0..500 {
        log.append(deny(7)).unwrap();
    }
    log.append(deny(8)).unwrap();
    log.close().unwrap();
    let lines = read(&bench);
    let passes = usize::try_from(Aggregate::PASSES_PER_SECOND).unwrap();
    assert_eq!(lines.len(), passes + 2);
    assert_eq!(lines.iter().map(|l| l.count.unwrap_or(1)).sum::<u64>(), 501);
    let sum = lines.iter().find(|l| l.count.is_some()).unwrap();
    assert_eq!((sum.kind.as_ref(), sum.source.as_deref()), ("deny", Some("uid:7")));
}

#[test]
fn a_flush_writes_the_sums_too() {
    let bench = Bench::new();
    let (log, _) = bench.open().unwrap();
    (0..30).for_each(|_| log.append(deny(7)).unwrap());
    log.flush().unwrap();
    assert_eq!(read(&bench).iter().map(|l| l.count.unwrap_or(1)).sum::<u64>(), 30);
}

#[test]
fn a_denial_does_not_wait_for_its_group() {
    let mut bench = Bench::new();
    bench.settings.commit_interval = Duration::from_secs(3600);
    let (log, _) = bench.open().unwrap();
    log.append(allow(1)).unwrap();
    log.append(deny(1)).unwrap();
    while log.status().size < 2 {
        std::thread::yield_now();
    }
}

#[test]
fn a_group_is_written_when_its_time_or_its_size_has_come() {
    let bench = Bench::new();
    let (log, _) = bench.open().unwrap();
    log.append(allow(1)).unwrap();
    while log.status().size < 1 {
        std::thread::yield_now();
    }
    drop(log);
    let mut bench = Bench::new();
    bench.settings.commit_interval = Duration::from_secs(3600);
    bench.settings.queue_max = 2 * GROUP_ENTRIES;
    let (log, _) = bench.open().unwrap();
    (0..=GROUP_ENTRIES as u64).for_each(|flow| log.append(allow(flow)).unwrap());
    while log.status().size < GROUP_ENTRIES as u64 {
        std::thread::yield_now();
    }
}

#[test]
fn a_writer_that_died_refuses_everything() {
    let bench = Bench::new();
    let (log, _) = bench.open().unwrap();
    drop(Stopped(Arc::clone(&log.0.shared)));
    assert_eq!(log.append(allow(1)), Err(Refused::Closed));
}

#[test]
fn a_long_text_cannot_make_the_queue_large() {
    let bench = Bench::new();
    let (log, _) = bench.open().unwrap();
    let detail = Some("x".repeat(1 << 20).into());
    log.append(Entry { detail, source: Some(Source::Uid(1)), ..Entry::new(NOW, Kind::Open) }).unwrap();
    log.close().unwrap();
    assert!(bench.lines()[0].len() < 2 * Entry::DETAIL_MAX);
}

#[test]
fn many_threads_append_and_every_entry_is_there_once() {
    let bench = Bench::new();
    let (log, _) = bench.open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let log = log.clone();
            scope.spawn(move || (0..200).for_each(|n| log.append(allow(thread * 200 + n)).unwrap()));
        }
    });
    log.close().unwrap();
    let mut flows: Vec<_> = read(&bench).iter().map(|l| l.flow.clone().unwrap().into_owned()).collect();
    flows.sort();
    flows.dedup();
    assert_eq!(flows.len(), 800);
    assert!(bench.is_good());
}
