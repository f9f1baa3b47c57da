//! Tests of verification: every change is found, and named where it can be.

use std::fs;

use super::*;
use crate::audit::chain::leaf_hash;
use crate::audit::support::{Bench, allow, edit};

fn lines_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(|l| format!("{l}\n")).collect()
}

/// Changes one bit of every `step`th byte of every file, and of the last; how many of them were not noticed.
fn bend(bench: &Bench, tiles: &[&str], step: usize) -> (usize, Vec<String>) {
    let mut files: Vec<PathBuf> = segments(bench.dir()).unwrap().into_iter().map(|(_, path)| path).collect();
    files.extend(tiles.iter().chain(&["checkpoint"]).map(|f| bench.dir().join(f)));
    let (mut tried, mut missed) = (0, Vec::new());
    for file in files {
        let len = fs::read(&file).unwrap().len();
        for at in (0..len).step_by(step).chain([len - 1]) {
            edit(&file, |bytes| bytes[at] ^= 1 << (at % 8));
            if bench.is_good() {
                missed.push(format!("{} byte {at}", file.display()));
            }
            edit(&file, |bytes| bytes[at] ^= 1 << (at % 8));
            tried += 1;
        }
    }
    assert!(bench.is_good());
    (tried, missed)
}

#[test]
fn every_changed_byte_of_every_file_is_found() {
    let (tried, missed) = bend(&Bench::with_entries(9), &["tile/0/000.p/9"], 3);
    assert!(tried > 300 && missed.is_empty(), "{missed:?}");
    let large = Bench::new();
    let (log, _) = large.open().unwrap();
    (0..300).for_each(|flow| log.append(allow(flow)).unwrap());
    drop(log);
    let tiles = ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"];
    let (tried, missed) = bend(&large, &tiles, 331);
    assert!(tried > 80 && missed.is_empty(), "{missed:?}");
}

#[test]
fn a_changed_entry_is_named_even_when_its_tile_was_changed_with_it() {
    let bench = Bench::new();
    let (log, _) = bench.open().unwrap();
    bench.fill(&log, 0..600);
    drop(log);
    let mut lines = lines_of(&bench.segment(0));
    lines[300] = lines[300].replace("f300", "f301");
    fs::write(bench.segment(0), lines.concat()).unwrap();
    assert!(
        matches!(bench.check().unwrap().integrity, Err(Tampering::Entry(p)) if p.entry == 300 && p.line == 301)
    );
    let hash = leaf_hash(lines[300].trim_end().as_bytes());
    edit(&bench.dir().join("tile/0/001"), |bytes| bytes[44 * 32..45 * 32].copy_from_slice(&hash));
    assert_eq!(bench.check().unwrap().integrity, Err(Tampering::Range { from: 256, to: 511 }));
    // Another entry's tile hash changed too: they first disagree there.
    edit(&bench.dir().join("tile/0/000"), |bytes| bytes[7 * 32] ^= 1);
    assert!(matches!(bench.check().unwrap().integrity, Err(Tampering::EntryAndTiles(p)) if p.entry == 7));
    fs::remove_dir_all(bench.dir().join("tile")).unwrap();
    assert_eq!(bench.check().unwrap().integrity, Err(Tampering::Unplaced));
}

#[test]
fn entries_and_all_tiles_rewritten_are_found_by_the_signed_root() {
    let (ours, theirs) = (Bench::with_entries(30), Bench::new());
    let (log, _) = theirs.open().unwrap();
    (0..30).for_each(|flow| log.append(allow(flow + 1)).unwrap());
    drop(log);
    for file in segments(ours.dir()).unwrap() {
        fs::remove_file(file.1).unwrap();
    }
    fs::copy(theirs.segment(0), ours.dir().join("entries-00000000000000.jsonl")).unwrap();
    fs::copy(theirs.dir().join("tile/0/000.p/30"), ours.dir().join("tile/0/000.p/30")).unwrap();
    assert_eq!(ours.check().unwrap().integrity, Err(Tampering::Rewritten));
}

#[test]
fn an_entry_taken_out_is_missing_and_the_rest_is_unchanged() {
    let bench = Bench::with_entries(30);
    let mut lines = lines_of(&bench.segment(1));
    let first = segments(bench.dir()).unwrap()[1].0;
    lines.drain(1..3);
    fs::write(bench.segment(1), lines.concat()).unwrap();
    let found = bench.check().unwrap();
    assert_eq!(found.integrity, Ok(()));
    let Err(Gap::Middle { from, to, line, .. }) = found.completeness else {
        panic!("{:?}", found.completeness)
    };
    assert_eq!((from, to, line), (first + 1, first + 2, 2));
}

#[test]
fn a_segment_taken_out_is_missing_and_without_tiles_the_rest_cannot_be_checked() {
    let bench = Bench::with_entries(60);
    let listed = segments(bench.dir()).unwrap();
    fs::remove_file(&listed[1].1).unwrap();
    let found = bench.check().unwrap();
    let (from, to) = (listed[1].0, listed[2].0 - 1);
    assert!(matches!(found.completeness, Err(Gap::Middle { from: f, to: t, .. }) if (f, t) == (from, to)));
    assert_eq!(found.integrity, Ok(()));
    fs::remove_dir_all(bench.dir().join("tile")).unwrap();
    assert_eq!(bench.check().unwrap().integrity, Err(Tampering::Unchecked));
}

#[test]
fn an_entry_put_in_or_swapped_is_found() {
    let bench = Bench::with_entries(30);
    let good = lines_of(&bench.segment(1));
    let line_found = |lines: Vec<String>| {
        fs::write(bench.segment(1), lines.concat()).unwrap();
        let found = bench.check().unwrap();
        match found.integrity {
            Err(Tampering::OutOfPlace { line, .. }) => (line, found.completeness.is_ok()),
            other => panic!("{other:?}"),
        }
    };
    let mut more = good.clone();
    more.insert(2, good[1].clone());
    assert_eq!(line_found(more), (3, true));
    let mut swapped = good.clone();
    swapped.swap(0, 1);
    assert_eq!(line_found(swapped), (2, false));
    // A forged one is named as the entry whose place it takes.
    let mut forged = good.clone();
    forged.insert(2, good[2].replace("allow", "close"));
    fs::write(bench.segment(1), forged.concat()).unwrap();
    assert!(matches!(bench.check().unwrap().integrity, Err(Tampering::Entry(p)) if p.line == 3));
}

#[test]
fn a_segment_that_belongs_nowhere_is_refused() {
    let bench = Bench::with_entries(30);
    let stray = bench.dir().join("entries-00000000000999.jsonl");
    fs::write(&stray, "").unwrap();
    assert!(matches!(bench.check(), Err(VerifyError::Stray { path, .. }) if path == stray));
}

#[test]
fn a_wrong_number_under_a_right_root_is_a_gap() {
    // Only a faulty writer could sign such a log; completeness must still see it.
    let bench = Bench::with_entries(2);
    let mut lines = lines_of(&bench.segment(0));
    lines[1] = lines[1].replace("\"seq\":1", "\"seq\":9");
    fs::write(bench.segment(0), lines.concat()).unwrap();
    let signer = crate::audit::key::load(&bench.settings.key, crate::audit::support::ORIGIN).unwrap();
    let mut tree = Tree::default();
    lines.iter().for_each(|l| drop(tree.push(leaf_hash(l.trim_end().as_bytes()))));
    fs::write(bench.dir().join(CHECKPOINT), signer.sign(2, tree.root())).unwrap();
    fs::write(bench.dir().join("tile/0/000.p/2"), tree.partials()[0].bytes()).unwrap();
    let found = bench.check().unwrap();
    assert_eq!(found.integrity, Ok(()));
    assert!(matches!(found.completeness, Err(Gap::Number { found: 9, .. })));
}

#[test]
fn a_log_rolled_back_is_whole_in_itself_and_found_by_a_saved_checkpoint() {
    let bench = Bench::new();
    let (log, _) = bench.open().unwrap();
    bench.fill(&log, 0..5);
    let old = tempfile::tempdir().unwrap();
    for file in ["checkpoint", "entries-00000000000000.jsonl", "tile/0/000.p/5"] {
        fs::copy(bench.dir().join(file), old.path().join(file.replace('/', "-"))).unwrap();
    }
    bench.fill(&log, 5..9);
    let saved = bench.verifier().open(log.close().unwrap().as_bytes()).unwrap();
    drop(log);
    let check = || check(bench.dir(), &bench.verifier(), Some(&saved)).unwrap();
    assert!(check().integrity.is_ok() && check().completeness.is_ok());
    for file in ["checkpoint", "entries-00000000000000.jsonl", "tile/0/000.p/5"] {
        let path = bench.dir().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(old.path().join(file.replace('/', "-")), path).unwrap();
    }
    assert!(bench.is_good(), "whole in itself");
    assert_eq!(check().completeness, Err(Gap::RolledBack { saved: 9, size: 5 }));
}

#[test]
fn another_history_under_the_same_key_is_found_by_a_saved_checkpoint() {
    let bench = Bench::with_entries(5);
    let signer = crate::audit::key::load(&bench.settings.key, crate::audit::support::ORIGIN).unwrap();
    let held = |size, root| {
        let saved = signer.verifier().open(signer.sign(size, root).as_bytes()).unwrap();
        check(bench.dir(), &bench.verifier(), Some(&saved)).unwrap().integrity
    };
    assert_eq!(held(0, Tree::default().root()), Ok(()));
    for size in [0, 3, 5] {
        assert_eq!(held(size, [1; 32]), Err(Tampering::Forked { size }));
    }
}

#[test]
fn a_log_that_is_being_written_verifies() {
    let bench = Bench::new();
    let (log, faults) = bench.open_flaky();
    bench.fill(&log, 0..5);
    // Lines are on disk that no checkpoint covers yet, and one is half written.
    faults.set(crate::audit::support::Fault::Checkpoint);
    log.append(allow(5)).unwrap();
    let _ = log.flush();
    edit(&bench.segment(0), |bytes| bytes.extend_from_slice(b"{\"seq"));
    let found = bench.check().unwrap();
    assert!(found.integrity.is_ok() && found.completeness.is_ok());
    assert_eq!((found.newer, found.cut.map(|c| c.bytes)), (1, Some(5)));
}
