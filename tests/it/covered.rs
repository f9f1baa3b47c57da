//! Certificates of a short life under constant traffic: at each moment every session is covered by one that is proven
//! on it and has not expired. The audit logs of both sides say so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Fleet, Service, Sidecar, echo};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_half_a_minutes_certificates_are_covered_for_three_lives_of_them() {
    covered(Duration::from_secs(30), Duration::from_secs(90)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs 11 minutes: run `just test-renewal`"]
async fn sessions_of_one_minutes_certificates_are_covered_for_ten_minutes() {
    covered(Duration::from_secs(60), Duration::from_secs(600)).await;
}

/// Holds one flow for so long and opens others all the time, between devices whose certificates live so long.
async fn covered(life: Duration, hold: Duration) {
    let fleet = Fleet::new(&format!("leaf_ttl = \"{}s\"", life.as_secs())).await;
    let orders = Service::echo().await;
    let (server, door) = fleet.server(orders.addr).await;
    let (web, app) = fleet.web(door).await;
    let mut held = TcpStream::connect(app).await.unwrap();
    echo(&mut held).await;
    let session = web.status().await["sessions"][0]["session"].as_str().unwrap().to_owned();
    let (since, opened) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut traffic = JoinSet::new();
    for _ in 0..OPENERS {
        let opened = Arc::clone(&opened);
        traffic.spawn(async move {
            while since.elapsed() < hold {
                let mut flow = TcpStream::connect(app).await.unwrap();
                echo(&mut flow).await;
                opened.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    let mut rounds = 0;
    while since.elapsed() < hold {
        echo(&mut held).await;
        rounds += 1;
        tokio::time::sleep(PAUSE).await;
    }
    // A flow that failed has panicked.
    traffic.join_all().await;
    let held_for = since.elapsed();
    for (side, name) in [(&server, "server-1"), (&web, "web-1")] {
        let (proofs, entries) = (proofs(side), side.entries());
        let now = last_time(side);
        let mut widest = 0;
        for (session, proven) in &proofs {
            check(session, proven, &entries);
            widest = widest.max(proven.iter().map(|p| &p.serial).collect::<BTreeSet<_>>().len());
        }
        let lives = usize::try_from(hold.as_secs() / life.as_secs()).unwrap();
        assert!(widest > lives, "{name}: {widest} certificates on one session");
        assert!(proofs.values().any(|p| p.last().unwrap().until > now), "{name}: none covers now");
        println!("{name}: {} sessions, up to {widest} certificates proven on one", proofs.len());
    }
    assert!(proofs(&web).contains_key(&session), "the session of the held flow");
    for side in [&server, &web] {
        let broken: Vec<_> =
            side.entries().into_iter().filter(|e| e["kind"] == "deny" || e["kind"] == "revoke").collect();
        assert!(broken.is_empty(), "{broken:?}");
        let alive = side.status().await["sessions"].as_array().unwrap().clone();
        assert!(!alive.is_empty());
    }
    let opened = opened.load(Ordering::Relaxed);
    println!(
        "certificates of {life:?}: one flow held for {held_for:.0?} with {rounds} round trips, {opened} flows opened \
         beside it, none failed"
    );
}

/// A certificate that the peer proved on a session.
struct Proof {
    at: String,
    until: String,
    serial: String,
}

/// What each session's peer proved on it, in order.
fn proofs(side: &Sidecar) -> BTreeMap<String, Vec<Proof>> {
    let mut proofs: BTreeMap<String, Vec<Proof>> = BTreeMap::new();
    for entry in side.entries().iter().filter(|e| e["kind"] == "attest") {
        let detail = entry["detail"].as_str().unwrap();
        let part = detail.split("; ").find(|part| part.contains("certificate ")).unwrap();
        let mut words = part.trim_start_matches("renewed ").split(' ');
        let (serial, until) = (words.nth(1).unwrap().to_owned(), words.nth(1).unwrap().to_owned());
        let at = entry["time"].as_str().unwrap().to_owned();
        let session = entry["session"].as_str().unwrap().to_owned();
        proofs.entry(session).or_default().push(Proof { at, until, serial });
    }
    proofs
}

/// No gap between two proofs, and nothing happened on the session outside them. Times of one form compare as texts.
fn check(session: &str, proven: &[Proof], entries: &[Value]) {
    for pair in proven.windows(2) {
        assert!(pair[1].at < pair[0].until, "{session}: nothing covers {}..{}", pair[0].until, pair[1].at);
    }
    let (first, last) = (&proven[0].at, &proven.last().unwrap().until);
    for entry in entries.iter().filter(|e| e["session"] == session) {
        let at = entry["time"].as_str().unwrap();
        assert!(
            at >= first.as_str() && at < last.as_str(),
            "{session}: {first}..{last} does not cover {entry}"
        );
    }
}

fn last_time(side: &Sidecar) -> String {
    side.entries().last().unwrap()["time"].as_str().unwrap().to_owned()
}

/// Apps that open one flow after another.
const OPENERS: usize = 4;
/// Time between two round trips of one app.
const PAUSE: Duration = Duration::from_millis(100);

#[test]
fn a_moment_without_a_certificate_is_told() {
    let proof = |at: &str, until: &str| Proof { at: at.into(), until: until.into(), serial: String::new() };
    let told = |proofs: [Proof; 2], at: &str| {
        let entry = serde_json::json!({ "session": "s", "time": at });
        std::panic::catch_unwind(|| check("s", &proofs, &[entry])).is_err()
    };
    assert!(!told([proof("01", "05"), proof("04", "09")], "08"));
    assert!(told([proof("01", "05"), proof("06", "09")], "08"), "a gap");
    assert!(told([proof("01", "05"), proof("04", "09")], "10"), "after the last");
    assert!(told([proof("02", "05"), proof("04", "09")], "01"), "before the first");
}
