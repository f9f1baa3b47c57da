//! Tests of opening: what starts, what is mended, and what refuses to start.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::audit::support::{Bench, Fault, ORIGIN, allow, edit};

#[test]
fn a_log_that_was_closed_opens_again_and_goes_on() {
    let bench = Bench::new();
    let (log, opened) = bench.open().unwrap();
    assert!(opened.fresh && opened.repaired.is_none());
    bench.fill(&log, 0..7);
    let last = log.close().unwrap();
    let (log, opened) = bench.open().unwrap();
    assert_eq!((opened.fresh, opened.size, opened.repaired), (false, 7, None));
    assert_eq!(opened.checkpoint, last);
    bench.fill(&log, 7..9);
    drop(log);
    assert_eq!(bench.check().unwrap().checkpoint.size, 9);
    assert!(bench.is_good());
    assert!(bench.lines()[8].starts_with("{\"seq\":8,"));
}

#[test]
fn a_second_writer_is_refused() {
    let bench = Bench::new();
    let (_log, _) = bench.open().unwrap();
    assert!(matches!(bench.open(), Err(OpenError::Locked { .. })));
}

#[test]
fn a_flipped_byte_refuses_the_start_and_names_the_entry() {
    let bench = Bench::with_entries(20);
    edit(&bench.segment(1), |bytes| bytes[100] ^= 1);
    let first: u64 = segments(bench.dir()).unwrap()[1].0;
    let error = bench.open().err().unwrap();
    let OpenError::Tampered { what: Tampering::Entry(place), .. } = &error else { panic!("{error}") };
    assert_eq!((place.entry, place.line, &place.file), (first + 1, 2, &bench.segment(1)));
    let text = error.to_string();
    assert!(text.contains("line 2") && text.contains("keep a copy"), "{text}");
}

#[test]
fn the_newest_entries_cut_off_refuse_the_start() {
    let bench = Bench::with_entries(4);
    edit(&bench.segment(0), |bytes| {
        let end = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap();
        bytes.truncate(end + 1);
    });
    let error = bench.open().err().unwrap();
    assert!(matches!(error, OpenError::Incomplete { what: Gap::End { from: 3, to: 3 }, .. }), "{error}");
}

#[test]
fn the_newline_of_the_newest_entry_cut_off_refuses_the_start() {
    let bench = Bench::with_entries(4);
    edit(&bench.segment(0), |bytes| bytes.truncate(bytes.len() - 1));
    let error = bench.open().err().unwrap();
    assert!(
        matches!(&error, OpenError::Tampered { what: Tampering::Entry(p), .. } if p.entry == 3),
        "{error}"
    );
}

#[test]
fn a_torn_tail_is_cut_and_whole_lines_after_the_checkpoint_are_kept() {
    let bench = Bench::with_entries(3);
    edit(&bench.segment(0), |bytes| {
        bytes.extend_from_slice(b"{\"seq\":3,\"time\":\"t\",\"kind\":\"allow\"}\n{\"seq\":4,\"ti");
    });
    let (log, opened) = bench.open().unwrap();
    let words = opened.repaired.unwrap();
    assert!(words.contains("kept 1 whole entries") && words.contains("cut 12 bytes"), "{words}");
    bench.fill(&log, 5..6);
    drop(log);
    let lines = bench.lines();
    assert_eq!(lines.len(), 6);
    assert!(lines[4].contains("\"kind\":\"repair\"") && lines[4].contains("cut 12 bytes"));
    assert!(bench.is_good());
    assert!(bench.open().unwrap().1.repaired.is_none(), "mended once");
}

#[test]
fn garbage_after_the_checkpoint_is_cut() {
    // A number that is not next, an entry without its newline, and more than the next group will overwrite.
    let other = b"{\"seq\":9,\"time\":\"t\",\"kind\":\"allow\"}\n";
    let torn = b"{\"seq\":3,\"time\":\"t\",\"kind\":\"allow\"}";
    for tail in [&b"\0\0\0\0\n"[..], other, torn, b"\xff", b"\n\n", &[b'x'; 100_000], &[b'\n'; 9000]] {
        let bench = Bench::with_entries(3);
        edit(&bench.segment(0), |bytes| bytes.extend_from_slice(tail));
        let words = bench.open().unwrap().1.repaired.unwrap();
        assert!(words.contains(&format!("cut {} bytes", tail.len())), "{words}");
        assert!(bench.is_good());
    }
}

#[test]
fn a_crash_between_the_lines_and_the_checkpoint_loses_nothing() {
    for fault in [Fault::Tiles, Fault::Checkpoint] {
        let bench = Bench::new();
        let (log, faults) = bench.open_flaky();
        // Past a full tile, so that full and partial tiles are both half done.
        bench.fill(&log, 0..250);
        faults.set(fault);
        for flow in 250..260 {
            let _ = log.append(allow(flow));
        }
        let _ = log.flush();
        assert!(log.close().is_err());
        drop(log);
        let kept = bench.lines().len();
        assert!(kept > 250);
        let (log, opened) = bench.open().unwrap();
        assert!(opened.repaired.unwrap().contains(&format!("kept {} whole", kept - 250)));
        assert_eq!(opened.size, kept as u64 + 1);
        drop(log);
        assert!(bench.is_good());
        assert_eq!(bench.check().unwrap().tiles_missing, 0);
    }
}

#[test]
fn a_first_start_that_fails_leaves_no_key_behind() {
    let bench = Bench::new();
    let faults = crate::audit::support::Faults::default();
    faults.set(Fault::Checkpoint);
    assert!(bench.try_open_flaky(&faults).is_err());
    assert!(!bench.settings.key.exists());
    assert!(bench.open().unwrap().1.fresh);
}

#[test]
fn a_checkpoint_that_is_missing_or_wrongly_signed_refuses_the_start() {
    let bench = Bench::with_entries(3);
    let path = bench.dir().join(CHECKPOINT);
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replacen("\n3\n", "\n2\n", 1)).unwrap();
    assert!(matches!(bench.open(), Err(OpenError::Verify(VerifyError::Checkpoint { .. }))));
    fs::remove_file(&path).unwrap();
    assert!(matches!(bench.open(), Err(OpenError::Verify(VerifyError::CheckpointMissing { .. }))));
}

#[test]
fn a_missing_key_or_one_that_others_read_refuses_the_start() {
    let bench = Bench::with_entries(3);
    let key = &bench.settings.key;
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(bench.open(), Err(OpenError::Key(KeyError::Open { .. }))));
    fs::remove_file(key).unwrap();
    assert!(matches!(bench.open(), Err(OpenError::Key(KeyError::Missing { .. }))));
    assert!(!key.exists(), "no new key for an old log");
}

#[test]
fn a_log_taken_away_from_its_key_refuses_the_start() {
    let bench = Bench::with_entries(3);
    fs::remove_dir_all(bench.dir()).unwrap();
    assert!(matches!(bench.open(), Err(OpenError::Gone { .. })));
}

#[test]
fn a_log_under_another_name_refuses_the_start() {
    let bench = Bench::with_entries(3);
    assert!(Log::open(&bench.settings, "elsewhere", Timestamp::default()).is_err());
    assert!(bench.open().is_ok());
    assert!(Log::open(&Bench::new().settings, "a b", Timestamp::default()).is_err());
}

#[test]
fn a_log_that_cannot_be_written_refuses_the_start() {
    let mut bench = Bench::with_entries(3);
    bench.settings.disk_reserve = u64::MAX;
    assert!(matches!(bench.open(), Err(OpenError::Write { .. })));
}

#[test]
fn missing_tiles_are_rebuilt_and_a_changed_one_refuses_the_start() {
    let bench = Bench::new();
    let (log, _) = bench.open().unwrap();
    bench.fill(&log, 0..300);
    drop(log);
    fs::remove_dir_all(bench.dir().join(TILES)).unwrap();
    let (log, opened) = bench.open().unwrap();
    assert!(opened.repaired.unwrap().contains("rebuilt 3 missing tiles"));
    drop(log);
    assert_eq!(bench.check().unwrap().tiles_missing, 0);
    edit(&bench.dir().join("tile/0/000"), |bytes| bytes[5] ^= 1);
    let error = bench.open().err().unwrap();
    assert!(matches!(error, OpenError::Tampered { what: Tampering::Tile { .. }, .. }), "{error}");
}

#[test]
fn an_old_partial_tile_goes_with_the_commit_that_replaces_it() {
    let bench = Bench::with_entries(8);
    let folder = bench.dir().join("tile/0/000.p");
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, ["8"]);
    let (log, _) = bench.open().unwrap();
    bench.fill(&log, 8..256);
    drop(log);
    assert!(!folder.exists() && bench.dir().join("tile/0/000").exists());
}

#[test]
fn a_segment_is_closed_at_its_bound() {
    let bench = Bench::with_entries(40);
    let listed = segments(bench.dir()).unwrap();
    assert!(listed.len() > 2);
    for (_, path) in listed.iter().rev().skip(1) {
        // At least the bound, at most one commit of five entries more.
        let len = fs::metadata(path).unwrap().len();
        assert!((700..1200).contains(&len), "{len}");
    }
}

#[test]
fn the_public_half_is_written_beside_the_key() {
    let bench = Bench::with_entries(1);
    assert_eq!(bench.verifier().name(), ORIGIN);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_committed_and_reopened_verifies(
        runs in prop::collection::vec(prop::collection::vec(1u64..90, 0..4), 1..4), max in 1u64..20_000,
    ) {
        let mut bench = Bench::new();
        bench.settings.segment_bytes_max = max;
        let mut total = 0;
        for commits in runs {
            let (log, opened) = bench.open().unwrap();
            prop_assert_eq!((opened.size, opened.repaired), (total, None));
            for entries in commits {
                (0..entries).for_each(|flow| log.append(allow(flow)).unwrap());
                log.flush().unwrap();
                total += entries;
                prop_assert!(bench.is_good());
            }
            log.close().unwrap();
        }
        let found = bench.check().unwrap();
        prop_assert_eq!((found.checkpoint.size, found.newer, found.tiles_missing), (total, 0, 0));
        prop_assert!(bench.is_good());
    }
}

#[test]
#[ignore = "needs a quiet machine: prints rates, for `cargo test --release`"]
fn how_fast_it_is() {
    let mut bench = Bench::new();
    bench.settings.queue_max = 16_384;
    bench.settings.segment_bytes_max = 64 << 20;
    let (log, _) = bench.open().unwrap();
    let count = 300_000;
    let start = std::time::Instant::now();
    for flow in 0..count {
        let entry = Entry {
            device: "spiffe://example.org/device/web-1".parse().ok(),
            service: "orders".parse().ok(),
            rule: Some("orders-read".into()),
            decision: Some(crate::model::DecisionId::new(Timestamp::default(), [7; 10])),
            bundle: Some("sha256:0123456789abcdef0123456789abcdef".into()),
            ..allow(flow)
        };
        while log.append(entry.clone()).is_err() {
            std::thread::yield_now();
        }
    }
    log.close().unwrap();
    let wrote = start.elapsed().as_secs_f64();
    drop(log);
    let bytes: u64 = segments(bench.dir()).unwrap().iter().map(|(_, p)| fs::metadata(p).unwrap().len()).sum();
    let start = std::time::Instant::now();
    assert!(bench.open().is_ok());
    let opened = start.elapsed().as_secs_f64();
    let (rate, speed) = (f64::from(u32::try_from(count).unwrap()) / wrote, bytes as f64 / 1e6 / opened);
    eprintln!("{rate:.0} entries/s written, {speed:.0} MB/s verified at start ({bytes} bytes)");
}
