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
    for (more, end) in [("\"reason\":\"policy_withdrawn\"", "Policy"), ("\"detail\":\"reset\"", "Reset")] {
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
    use crate::audit::{Aggregate, Entry, Kind};
    use crate::model::{Reason, Timestamp};
    let denial = |ms| Entry {
        reason: Some(Reason::PolicyDenied),
        service: Some("billing".parse().unwrap()),
        ..Entry::new(Timestamp::from_millis(ms), Kind::Deny)
    };
    let mut sums = Aggregate::new(1, 10);
    for _ in 0..5 {
        sums.offer(&denial(1_700_000_000_000));
    }
    let drained = sums.drain_all();
    assert_eq!(drained.iter().map(|e| e.count).collect::<Vec<_>>(), [Some(4)]);
    for code in POLICY {
        assert!(Reason::ALL.iter().any(|r| r.code() == code), "{code} is no reason");
    }
}
