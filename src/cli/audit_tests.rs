//! Tests of `countersign audit`, on logs written by the room itself.

use std::fs;

use clap::Parser;

use super::*;
use crate::audit::{Entry, Kind, Log, OnFull, Settings, Source};
use crate::model::{Refusal, Timestamp};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.join("audit"),
        key: dir.join("audit.key"),
        on_full: OnFull::Block,
        queue_max: 100,
        commit_interval: Duration::from_millis(1),
        segment_bytes_max: 300,
        disk_reserve: 0,
    }
}

fn id(n: u8) -> DecisionId {
    DecisionId::new(NOW, [n; 10])
}

/// Two runs; in each, flow 1 is allowed and flow 2 refused.
fn two_runs(dir: &Path) -> Log {
    let log = Log::open(&settings(dir), "log", NOW).unwrap().0;
    for run in [0, 10] {
        log.append(Entry::new(NOW, Kind::Start)).unwrap();
        let device = "spiffe://example.org/device/web-1".parse().ok();
        let service = "orders".parse().ok();
        let flow = Some(FlowId(1));
        log.append(Entry {
            decision: Some(id(run + 1)),
            flow,
            device,
            service,
            ..Entry::new(NOW, Kind::Allow)
        })
        .unwrap();
        let refusal =
            Refusal::new(id(run + 2), Reason::PolicyDenied).rule("orders-ro").detail("tier\u{1b}[2J 0 < 1");
        let source = Some(Source::Uid(7));
        let target = Some("other:80".into());
        log.append(Entry { flow: Some(FlowId(2)), source, target, ..Entry::refused(NOW, &refusal) }).unwrap();
        log.flush().unwrap();
    }
    log
}

/// Runs `countersign audit` with these words; `DIR` stands for the folder.
fn play(dir: &Path, words: &str) -> (bool, String) {
    let words = words.replace("DIR", dir.to_str().unwrap());
    let cli = Cli::try_parse_from(format!("audit {words}").split(' ')).unwrap();
    let mut out = Vec::new();
    let good = execute(&cli.command, &mut out).unwrap_or_else(|error| {
        writeln!(out, "error: {error}").unwrap();
        false
    });
    (good, String::from_utf8(out).unwrap().replace(dir.to_str().unwrap(), "DIR"))
}

#[test]
fn tail_shows_one_line_for_each_entry() {
    let dir = tempfile::tempdir().unwrap();
    let _log = two_runs(dir.path());
    let (good, text) = play(dir.path(), "tail --dir DIR/audit -n 3");
    let (allowed, denied) = (id(11), id(12));
    assert!(good);
    assert_eq!(
        text,
        format!(
            "2023-11-14T22:13:20.000Z START\n\
             2023-11-14T22:13:20.000Z web-1 → orders ALLOW f1 [{allowed}]\n\
             2023-11-14T22:13:20.000Z uid:7 → other:80 DENY rule=orders-ro policy_denied \
             (tier\u{fffd}[2J 0 < 1) f2 [{denied}]\n"
        )
    );
}

#[test]
fn tail_goes_back_through_the_segments_as_far_as_needed() {
    let dir = tempfile::tempdir().unwrap();
    let _log = two_runs(dir.path());
    let lines = |words: &str| play(dir.path(), words).1.lines().count();
    assert_eq!(lines("tail --dir DIR/audit"), 6);
    assert_eq!(lines("tail --dir DIR/audit -n 5"), 5);
    assert_eq!(lines("tail --dir DIR/audit -n 0"), 0);
    assert_eq!(lines("tail --dir DIR/audit --denied"), 2);
    assert_eq!(lines("tail --dir DIR/audit -n 999999999"), 6);
    let (_, json) = play(dir.path(), "tail --dir DIR/audit --denied -n 1 --json");
    assert_eq!(crate::audit::parse_line(json.trim_end().as_bytes()).unwrap().seq, 5);
}

#[test]
fn following_goes_on_where_tail_left_off_and_into_new_segments() {
    let dir = tempfile::tempdir().unwrap();
    let log = two_runs(dir.path());
    let (_, mut place) = tail(&dir.path().join("audit"), 1, |_| true).unwrap();
    let mut seen = Vec::new();
    place.advance(|row| seen.push(row.unwrap().seq)).unwrap();
    assert!(seen.is_empty());
    for _ in 0..3 {
        (0..5).for_each(|_| log.append(Entry::new(NOW, Kind::Admin)).unwrap());
        log.flush().unwrap();
        place.advance(|row| seen.push(row.unwrap().seq)).unwrap();
    }
    assert_eq!(seen, (6..21).collect::<Vec<_>>());
}

#[test]
fn lines_that_are_no_entries_are_told_not_hidden_and_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    drop(two_runs(dir.path()));
    let file =
        fs::OpenOptions::new().append(true).open(dir.path().join("audit/entries-00000000000003.jsonl"));
    file.unwrap().write_all(b"\xff\xfe\x1b[2J\n{}\nhalf").unwrap();
    let (_, text) = play(dir.path(), "tail --dir DIR/audit -n 2");
    assert_eq!(text, "(a line of 6 bytes that is no entry)\n(a line of 2 bytes that is no entry)\n");
}

#[test]
fn verify_gives_two_verdicts() {
    let dir = tempfile::tempdir().unwrap();
    let log = two_runs(dir.path());
    let words = "verify --dir DIR/audit --key DIR/audit.pub";
    let (good, text) = play(dir.path(), words);
    assert!(good);
    assert_eq!(
        text,
        "INTEGRITY    ok: 6 entries give the signed root\nCOMPLETENESS ok: gaps: none\n\
         note: only a checkpoint kept elsewhere shows a roll back: `--checkpoint FILE`\n"
    );
    fs::write(dir.path().join("saved"), log.close().unwrap()).unwrap();
    let (good, text) = play(dir.path(), &format!("{words} --checkpoint DIR/saved"));
    assert!(good && text.lines().count() == 2);

    let segment = dir.path().join("audit/entries-00000000000003.jsonl");
    let whole = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, whole.replace("f2", "f3")).unwrap();
    let (good, text) = play(dir.path(), words);
    assert!(!good);
    assert!(
        text.starts_with(
            "INTEGRITY    broken: entry 5 (`DIR/audit/entries-00000000000003.jsonl` line 3) was changed\n\
             COMPLETENESS ok: gaps: none\n"
        ),
        "{text}"
    );
    let cut: Vec<_> = whole.lines().take(2).map(|l| format!("{l}\n")).collect();
    fs::write(&segment, cut.concat()).unwrap();
    let (good, text) = play(dir.path(), words);
    assert!(!good);
    assert!(
        text.starts_with(
            "INTEGRITY    ok: the entries that are there are unchanged\n\
             COMPLETENESS broken: entries 5 to 5 were cut off the end, the signed checkpoint covers 6 entries\n"
        ),
        "{text}"
    );
    fs::remove_file(dir.path().join("audit/checkpoint")).unwrap();
    let (good, text) = play(dir.path(), words);
    assert!(!good && text.contains("COMPLETENESS unknown"), "{text}");
}

#[test]
fn verify_without_its_key_or_with_a_broken_saved_checkpoint_is_no_ok() {
    let dir = tempfile::tempdir().unwrap();
    drop(two_runs(dir.path()));
    let (good, text) = play(dir.path(), "verify --dir DIR/audit --key DIR/none.pub");
    assert!(!good && text.contains("--key"), "{text}");
    fs::write(dir.path().join("saved"), "x").unwrap();
    let (good, text) = play(dir.path(), "verify --dir DIR/audit --key DIR/audit.pub --checkpoint DIR/saved");
    assert!(!good && text.starts_with("error: saved checkpoint"), "{text}");
}

#[test]
fn why_tells_the_reason_the_rule_and_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let _log = two_runs(dir.path());
    let (good, text) = play(dir.path(), &format!("why {} --dir DIR/audit", id(2)));
    assert!(good);
    assert!(text.contains("rule       orders-ro"), "{text}");
    assert!(
        text.contains(Reason::PolicyDenied.sentence()) && text.contains(Reason::PolicyDenied.next_step())
    );
    let (good, text) = play(dir.path(), &format!("why {} --dir DIR/audit", id(99)));
    assert!(!good && text.starts_with("nothing in the log"), "{text}");
}

#[test]
fn why_for_a_flow_looks_only_at_the_latest_run() {
    let dir = tempfile::tempdir().unwrap();
    let _log = two_runs(dir.path());
    let (good, text) = play(dir.path(), "why f1 --dir DIR/audit");
    assert!(good && text.contains(&id(11).to_string()) && !text.contains(&id(1).to_string()), "{text}");
    let (good, text) = play(dir.path(), "why f9 --dir DIR/audit");
    assert!(!good && text.contains("numbered anew"), "{text}");
    for words in ["why f --dir DIR", "why 12 --dir DIR", "why f+1 --dir DIR"] {
        let (good, text) = play(dir.path(), words);
        assert!(!good && text.contains("no decision id"), "{text}");
    }
}

#[test]
fn tail_and_why_give_no_more_than_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let line = |n| format!("{{\"seq\":{n},\"time\":\"t\",\"kind\":\"allow\",\"flow\":\"f1\"}}\n");
    let lines: String = (0..=crate::audit::TAIL_MAX).map(line).collect();
    fs::write(dir.path().join("entries-00000000000000.jsonl"), lines).unwrap();
    let (rows, _) = tail(dir.path(), usize::MAX, |_| true).unwrap();
    assert_eq!(rows.len(), crate::audit::TAIL_MAX);
    assert_eq!(rows[0].as_ref().unwrap().seq, 1, "the newest are kept");
    assert_eq!(why(dir.path(), Wanted::Flow(FlowId(1))).unwrap().len(), FOUND_MAX);
}
