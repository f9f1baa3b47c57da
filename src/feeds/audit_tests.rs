//! Tests of the audit reader: the flows of a log, as it was written and as it may be found.

use super::*;

fn line(seq: u64, second: u64, rest: &str) -> String {
    format!("{{\"seq\":{seq},\"time\":\"2023-11-14T22:13:{second:02}.000Z\",{rest}}}\n")
}

const AT: u64 = 1_700_000_000_000_000 - 20_000_000;

/// A line per event or mistake.
fn play(bytes: &[u8]) -> Vec<String> {
    let mut entries = Entries::new(bytes, Keys::new([0, 0]));
    let mut seen = Vec::new();
    let mut heard = Vec::new();
    loop {
        match entries.advance(&mut heard) {
            Ok(true) => {}
            Ok(false) => return seen,
            Err(error) => seen.push(error.to_string()),
        }
        for Heard { event, record } in heard.drain(..) {
            let t = (event.at().0 - AT) / 1_000_000;
            match (event, record) {
                (Event::Open { flow, target, habit, .. }, None) => {
                    seen.push(format!(
                        "{t} open {} {:?} source={}",
                        flow.0,
                        target.standing,
                        habit.source != 0
                    ));
                }
                (Event::Close { flow, end, bytes, .. }, Some(r)) => seen.push(format!(
                    "{t} close {} {end:?} {bytes:?} {}>{} from {} for {}",
                    flow.0,
                    r.device,
                    r.target,
                    (r.began.0 - AT) / 1_000_000,
                    r.lasted_us / 1_000_000
                )),
                other => panic!("{other:?}"),
            }
        }
    }
}

const OPEN: &str =
    r#""kind":"open","flow":"f7","device":"spiffe://t/device/a","source":"10.0.0.9","service":"billing""#;

#[test]
fn flows_open_and_close_as_the_log_says() {
    let close = r#""kind":"close","flow":"f7","device":"spiffe://t/device/a","service":"billing","bytes_in":5,"bytes_out":9,"ms":3000"#;
    let log = [line(0, 1, "\"kind\":\"start\""), line(1, 2, OPEN), line(2, 5, close)].concat();
    let closed = "5 close 1 Fin [5, 9] spiffe://t/device/a>billing from 2 for 3";
    assert_eq!(play(log.as_bytes()), ["2 open 1 Allowed source=true", closed]);
    // The opening is in a segment that is not there.
    assert_eq!(play(line(2, 5, close).as_bytes()), ["2 open 1 Allowed source=false", closed]);
    for (more, end) in [
        ("\"reason\":\"policy_withdrawn\"", "Policy"),
        ("\"reason\":\"idle_timeout\"", "Fin"),
        ("\"reason\":\"draining\"", "Reset"),
        ("\"detail\":\"reset\"", "Reset"),
    ] {
        let log = [line(1, 2, OPEN), line(2, 5, &format!("{close},{more}"))].concat();
        assert!(play(log.as_bytes())[1].contains(&format!("close 1 {end}")), "{end}");
    }
}

#[test]
fn refusals_are_heard_and_only_those_of_policy_count_against_policy() {
    let deny = |reason: &str, more: &str| {
        let text = format!(r#""kind":"deny","device":"d","service":"s","reason":"{reason}"{more}"#);
        play(line(0, 4, &text).as_bytes())
    };
    assert_eq!(
        deny("policy_denied", ""),
        ["4 open 1 Refused source=false", "4 close 1 Policy [0, 0] d>s from 4 for 0"]
    );
    assert_eq!(
        deny("tls_timeout", ""),
        ["4 open 1 Unknown source=false", "4 close 1 Refused [0, 0] d>s from 4 for 0"]
    );
    assert_eq!(deny("policy_denied", ",\"count\":3").len(), 6);
    assert_eq!(deny("policy_denied", ",\"count\":1000000000").len(), 2 * SUMMED_MAX as usize);
    assert_eq!(deny("policy_denied", ",\"count\":0").len(), 0);
}

#[test]
fn refusals_that_tell_nothing_of_a_device_are_counted_and_passed_over() {
    let deny = |rest: &str| line(0, 4, &format!("\"kind\":\"deny\",{rest}"));
    let log = [
        // The door's, before anyone is known; the admin address's; the governor's, before it knows what for.
        deny(r#""source":"10.0.0.9","reason":"tls_failed""#),
        deny(r#""reason":"admin_host_foreign","count":3"#),
        deny(r#""device":"d","reason":"rate_limited""#),
        deny(r#""device":"d","service":"s","reason":"connect_refused","count":300"#),
        deny(r#""device":"d","target":"s","reason":"behaviour_quarantined""#),
    ]
    .concat();
    let mut entries = Entries::new(log.as_bytes(), Keys::new([0, 0]));
    let mut heard = Vec::new();
    while entries.advance(&mut heard).unwrap() {}
    let ends = heard.iter().filter_map(|h| h.record.as_ref()).map(|r| r.end);
    assert_eq!(ends.filter(|end| *end == End::Refused).count(), 256 + 1);
    assert_eq!(entries.passed(), 1 + 3 + 1 + (300 - SUMMED_MAX));
}

#[test]
fn bytes_below_nothing_are_no_entry() {
    let close = r#""kind":"close","flow":"f7","device":"d","service":"billing","bytes_in":-5,"bytes_out":9"#;
    let said = play(line(2, 5, close).as_bytes());
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("audit log, line 1: no entry: invalid value: integer `-5`"), "{said:?}");
}

#[test]
fn a_clock_set_back_makes_no_flow_last_for_ever() {
    let close = r#""kind":"close","flow":"f7","device":"spiffe://t/device/a","service":"billing""#;
    let log = [line(0, 30, OPEN), line(1, 10, close)].concat();
    assert_eq!(play(log.as_bytes())[1], "10 close 1 Fin [0, 0] spiffe://t/device/a>billing from 30 for 0");
}

#[test]
fn a_new_run_ends_the_flows_of_the_run_before() {
    let log = [line(0, 1, OPEN), line(1, 3, "\"kind\":\"start\""), line(2, 4, OPEN)].concat();
    let said = play(log.as_bytes());
    assert_eq!(said.len(), 4);
    assert!(said[1].starts_with("3 close 1 Fin") && said[3].starts_with("4 close 2 Fin"), "{said:?}");
}

#[test]
fn what_is_no_entry_is_named_and_the_next_is_read() {
    let log =
        ["{\"seq\":-1}\n", "nonsense\n", &line(1, 2, OPEN).replace("2023", "20x3"), &line(2, 3, OPEN), "{"]
            .concat();
    let said = play(log.as_bytes());
    assert_eq!(said.len(), 6, "{said:?}");
    assert!(said[0].starts_with("audit log, line 1: no entry: "), "{said:?}");
    assert!(said[1].starts_with("audit log, line 2: no entry: "), "{said:?}");
    assert_eq!(said[2], "audit log, line 3: `time` is no time");
    assert_eq!(said[3], "3 open 1 Allowed source=true");
    assert_eq!(said[4], "audit log, line 5: it is cut, or longer than 65536 bytes");
    assert!(said[5].starts_with("3 close 1 Fin"), "{said:?}");
}

#[test]
fn open_flows_have_a_bound_and_long_names_are_cut_whole() {
    let mut entries = Entries::new(&b""[..], Keys::new([0, 0]));
    let mut heard = Vec::new();
    for n in 0..=OPEN_MAX as u64 {
        let text = line(n, 1, &OPEN.replace("f7", &format!("f{n}")));
        let entry = parse_line(text.trim_end().as_bytes()).unwrap();
        entries.take(&entry, Moment(n), &mut heard);
        let closed = heard.drain(..).filter(|h| h.record.is_some()).count();
        assert_eq!(closed, usize::from(n == OPEN_MAX as u64));
    }
    assert_eq!((entries.open.len(), entries.evicted()), (OPEN_MAX, 1));
    let long = format!("x{}", "ä".repeat(FlowRecord::NAME_MAX));
    assert_eq!(shown(&long).len(), FlowRecord::NAME_MAX);
    assert_eq!(shown("ä").len(), 2);
}

#[test]
fn a_log_that_this_house_wrote_reads_back() {
    use crate::audit::{Entry, Kind, Log, OnFull, Settings};
    use crate::model::{FlowId, Reason, Timestamp};
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        dir: dir.path().join("audit"),
        key: dir.path().join("audit.key"),
        on_full: OnFull::Block,
        queue_max: 1000,
        commit_interval: std::time::Duration::from_millis(1),
        segment_bytes_max: 1 << 20,
        disk_reserve: 0,
    };
    let entry = |ms: u64, kind| Entry {
        device: Some("spiffe://t/device/a".parse().unwrap()),
        service: Some("billing".parse().unwrap()),
        ..Entry::new(Timestamp::from_millis(1_700_000_000_000 + ms), kind)
    };
    let log = Log::open(&settings, "t/device/b", Timestamp::from_millis(1_700_000_000_000)).unwrap().0;
    let (flow, reason) = (Some(FlowId(4)), Some(Reason::PolicyDenied));
    let all = [
        Entry { flow, ..entry(1000, Kind::Allow) },
        Entry { flow, ..entry(1000, Kind::Open) },
        Entry { reason, ..entry(2000, Kind::Deny) },
        Entry { flow, bytes_in: Some(7), bytes_out: Some(8), ..entry(5000, Kind::Close) },
    ];
    for entry in all {
        log.append(entry).unwrap();
    }
    log.close().unwrap();
    let text = std::fs::read(settings.dir.join("entries-00000000000000.jsonl")).unwrap();
    assert_eq!(
        play(&text),
        [
            "21 open 1 Allowed source=false",
            "22 open 2 Refused source=false",
            "22 close 2 Policy [0, 0] spiffe://t/device/a>billing from 22 for 0",
            "25 close 1 Fin [7, 8] spiffe://t/device/a>billing from 21 for 4",
        ]
    );
    for code in POLICY.into_iter().chain(ANALYSER).chain(["idle_timeout"]) {
        assert!(Reason::ALL.iter().any(|r| r.code() == code), "{code} is no reason");
    }
}
