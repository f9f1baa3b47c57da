//! No record comes back once a newer one was seen.

use std::time::Duration;

use super::super::testing::{Key, NOW, id, machine, record};
use super::*;

/// A record of this device and version, issued at `issued_at`.
fn version(name: &str, version: u64, issued_at: Timestamp) -> Record {
    thread_local! { static RECORD: Record = record(&machine(1, 1), &Key::new()); }
    let record = RECORD.with(Clone::clone);
    Record { id: id(name), version, issued_at, expires_at: issued_at.plus(Duration::from_secs(60)), ..record }
}

#[test]
fn an_older_version_is_refused() {
    let mut versions = Versions::new(10);
    assert!(!versions.knows(&id("web-1")));
    assert_eq!(versions.admit(&version("web-1", 3, NOW), NOW), Ok(true));
    assert_eq!(versions.admit(&version("web-1", 3, NOW), NOW), Ok(false));
    assert_eq!(versions.admit(&version("web-1", 5, NOW), NOW), Ok(true));
    assert_eq!(versions.admit(&version("web-1", 4, NOW), NOW), Err(Reason::RecordRolledBack));
    assert_eq!(versions.admit(&version("web-2", 1, NOW), NOW), Ok(true));
    assert!(versions.knows(&id("web-1")));
}

#[test]
fn at_the_bound_only_what_cannot_come_back_is_forgotten() {
    let mut versions = Versions::new(2);
    versions.admit(&version("a", 1, NOW), NOW).unwrap();
    versions.admit(&version("b", 1, NOW.plus(Duration::from_secs(1))), NOW).unwrap();
    let newcomer = |now| version("c", 1, now);
    assert_eq!(versions.admit(&newcomer(NOW), NOW), Err(Reason::MemoryExhausted));
    assert_eq!(versions.admit(&version("a", 2, NOW), NOW), Ok(true), "who is known has a place");
    let gone = NOW.plus(RECORD_TTL_MAX);
    let almost = Timestamp::from_millis(gone.as_millis() - 1);
    assert_eq!(versions.admit(&newcomer(almost), almost), Err(Reason::MemoryExhausted));
    assert_eq!(versions.admit(&newcomer(gone), gone), Ok(true));
    assert!(!versions.knows(&id("a")) && versions.knows(&id("b")));
}

#[test]
fn an_earlier_issue_of_a_newer_version_does_not_shorten_the_memory() {
    let mut versions = Versions::new(1);
    let later = NOW.plus(Duration::from_secs(100));
    versions.admit(&version("a", 1, later), NOW).unwrap();
    versions.admit(&version("a", 2, NOW), NOW).unwrap();
    assert_eq!(versions.seen[&id("a")].forget_at, later.plus(RECORD_TTL_MAX));
}

#[test]
fn what_is_kept_on_disk_reads_back_and_nothing_else() {
    let mut versions = Versions::new(10);
    versions.admit(&version("web-1", 3, NOW), NOW).unwrap();
    versions.admit(&version("web-2", u64::MAX, NOW), NOW).unwrap();
    let text = versions.to_text();
    assert_eq!(Versions::read(&text, 10).unwrap().seen, versions.seen);
    assert!(Versions::read(&text, 2).is_ok());
    assert_eq!(Versions::read(&text, 1).unwrap_err(), VersionsError { line: 3 });
    let again = format!("{text}1 2 spiffe://example.org/device/web-1\n");
    assert_eq!(Versions::read(&again, 10).unwrap_err().line, 4);
    for broken in ["", "x", "countersign-record-versions/2\n", &format!("{HEAD}1 2\n"), &format!("{HEAD}\n")]
    {
        assert!(Versions::read(broken, 10).is_err(), "{broken}");
    }
}
