//! Tests of the Zeek reader: both forms, logs cut and joined, and fields that lie.

use proptest::prelude::*;

use super::*;

/// A line per flow or mistake.
fn play(bytes: &[u8]) -> Vec<String> {
    let mut flows = Flows::new(bytes);
    let mut r = FlowRecord::default();
    let mut seen = Vec::new();
    loop {
        match flows.advance(&mut r) {
            Ok(true) => seen.push(format!(
                "{}+{} {}>{}:{} {:?} {:?} {:?} {:?} {:?}",
                r.began.0,
                r.lasted_us,
                r.device,
                r.target,
                r.port,
                r.carrier,
                r.tongue,
                r.bytes,
                r.chunks,
                r.end
            )),
            Ok(false) => break,
            Err(error) => seen.push(error.to_string()),
        }
    }
    if flows.passed() > 0 {
        seen.push(format!("{} passed", flows.passed()));
    }
    seen
}

/// A log with a head, of these rows of `ts host host port proto service duration bytes bytes state pkts pkts`.
fn log(rows: &str) -> Vec<u8> {
    let head = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n\
        #fields\tts\tid.orig_h\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_bytes\tresp_bytes\tconn_state\
        \torig_pkts\tresp_pkts\n#types\ttime\taddr\taddr\tport\tenum\tstring\tinterval\tcount\tcount\tstring\tcount\
        \tcount\n";
    [head.as_bytes(), rows.replace(' ', "\t").as_bytes()].concat()
}

const SSL: &str = "1655071198.444458+1135424 10.0.0.1>10.0.0.2:443 Tcp Tls [1596, 4039] [14, 16] Fin";

#[test]
fn text_and_json_say_the_same() {
    let text = log("1655071198.444458 10.0.0.1 10.0.0.2 443 tcp ssl 1.135424 1596 4039 SF 14 16\n");
    let json =
        br#"{"ts":1655071198.444458,"uid":"C1","id.orig_h":"10.0.0.1","id.orig_p":9,"id.resp_h":"10.0.0.2",
"id.resp_p":443,"proto":"tcp","service":"ssl","duration":1.135424,"orig_bytes":1596,"resp_bytes":4039,
"conn_state":"SF","orig_pkts":14,"resp_pkts":16,"vlan":7}"#;
    let json: Vec<u8> = json.iter().copied().filter(|b| *b != b'\n').collect();
    let expected = SSL.replace("198.444458", "198444458");
    assert_eq!(play(&text), [expected.as_str()]);
    assert_eq!(play(&json), [expected.as_str()]);
    let iso =
        String::from_utf8(json).unwrap().replace("1655071198.444458", "\"2022-06-12T21:59:58.444458Z\"");
    assert_eq!(play(iso.as_bytes()), [expected.as_str()]);
    let ms = iso.replace("\"2022-06-12T21:59:58.444458Z\"", "1655071198444.458");
    assert_eq!(play(ms.as_bytes()), [expected.as_str()]);
    assert_eq!(play(&[ms.as_bytes(), b"\r\n\n", iso.as_bytes()].concat()).len(), 2);
}

#[test]
fn a_log_without_its_head_has_the_usual_columns() {
    let row = "1655071198.444458\tC1\t10.0.0.1\t9\t10.0.0.2\t443\ttcp\tssl\t1.135424\t1596\t4039\tSF\tT\tF\t0\t\
        Sh\t14\t1\t16\t1\t(empty)\n";
    assert_eq!(play(row.as_bytes()), [SSL.replace("198.444458", "198444458")]);
}

#[test]
fn unset_fields_are_nothing_and_states_become_ends() {
    let row = |state: &str| format!("1 10.0.0.1 10.0.0.2 22 tcp - - - - {state} 1 0\n");
    let states = ["SF", "S1", "OTH", "S0", "SH", "REJ", "RSTOS0", "RSTRH", "SHR", "RSTO", "RSTR", "-"];
    let rows: String = states.into_iter().map(row).collect();
    let ends: Vec<_> =
        play(&log(&rows)).iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(
        ends,
        [
            "Fin", "Fin", "Fin", "Timeout", "Timeout", "Refused", "Refused", "Refused", "Refused", "Reset",
            "Reset", "Fin"
        ]
    );
    let group = "1 10.0.0.1 239.255.255.250 1900 udp - 3.0 500 - S0 4 0\n";
    assert_eq!(
        play(&log(group)),
        ["1000000+3000000 10.0.0.1>239.255.255.250:1900 Udp Unknown [500, 0] [4, 0] Fin"]
    );
}

#[test]
fn known_names_of_protocols_are_taken_and_others_are_unknown() {
    for (name, expected) in [
        ("ssl", Tongue::Tls),
        ("quic,ssl", Tongue::Tls),
        ("foo,mqtt", Tongue::Mqtt),
        ("ntp", Tongue::Unknown),
        ("", Tongue::Unknown),
    ] {
        assert_eq!(tongue(name), expected, "{name}");
    }
}

#[test]
fn other_transports_and_other_logs_are_passed_over() {
    let mut bytes = log("1 10.0.0.1 10.0.0.2 8 icmp - - - - OTH 1 0\n");
    bytes.extend_from_slice(b"{\"_path\":\"dns\",\"ts\":1}\n#close\t2022-06-17-00-00-07\n");
    assert_eq!(play(&bytes), ["1 passed"]);
}

#[test]
fn every_lie_is_named_with_its_line_and_the_next_line_is_read() {
    let good = "1 10.0.0.1 10.0.0.2 80 tcp - 1 2 3 SF 1 1";
    let line = |at: usize, with: &str| {
        let mut words: Vec<_> = good.split(' ').collect();
        words[at] = with;
        words.join(" ")
    };
    for (bad, expected) in [
        (line(7, "-5"), "zeek log, line 8: `orig_bytes` is `-5`, expected a whole number, 0 or more"),
        (line(8, "99999999999999999999"), "`resp_bytes` is `99999999999999999999`"),
        (line(6, "nan"), "`duration` is `nan`, expected a decimal number, 0 or more"),
        (line(6, "-1"), "`duration` is `-1`"),
        (line(0, "inf"), "`ts` is `inf`"),
        (line(0, "-"), "`ts` is not there, expected a time"),
        (line(1, "-"), "`id.orig_h` is not there, expected an address"),
        (line(2, &"x".repeat(256)), "`id.resp_h` is `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx`"),
        (line(3, "65536"), "`id.resp_p` is `65536`, expected a port"),
        (line(3, "-"), "`id.resp_p` is not there"),
        (line(4, "-"), "`proto` is not there"),
        ("1 10.0.0.1 10.0.0.2 80 tcp".into(), "line 8: it has too few columns"),
        ("\u{1b}[31m".into(), "line 8: it has too few columns"),
    ] {
        let said = play(&log(&format!("{bad}\n{good}\n")));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("zeek log, line 8: ") && said[0].contains(expected), "{said:?}");
        assert!(said[1].contains("10.0.0.1>10.0.0.2:80"), "{said:?}");
    }
    let mut bytes = log("");
    bytes.extend_from_slice(b"\xff\xfe\n{\"ts\":\n{\"ts\":-1}\n[1]\n");
    let said = play(&bytes);
    assert!(said[0].ends_with("line 8: it is no UTF-8"), "{said:?}");
    assert!(said[1].contains("line 9: no JSON of a flow: "), "{said:?}");
    assert!(said[2].contains("line 10: `proto` is not there"), "{said:?}");
    assert!(said[3].contains("line 11: "), "{said:?}");
    let nasty = play(&log(&line(7, "\u{1b}[31m")))[0].clone();
    assert!(nasty.contains("`\\u{1b}[31m`"), "{nasty}: nothing of it reaches a terminal");
}

#[test]
fn a_line_beyond_the_bound_is_passed_over_and_a_head_that_lies_ends_it() {
    let long = "x".repeat(3 * READ_LINE_MAX);
    let said = play(&log(&format!("{long}\n1 10.0.0.1 10.0.0.2 80 tcp - 1 2 3 SF 1 1\n")));
    assert_eq!(said[0], "zeek log, line 8: it is longer than 65536 bytes");
    assert_eq!(said.len(), 2);
    let many = format!("#fields\tid.orig_h{}\n1\n", "\ta".repeat(COLUMNS_MAX));
    assert_eq!(play(many.as_bytes()), ["zeek log, line 1: `#fields` names too many columns"]);
    let other = "#fields\tts\tquery\n1\n";
    assert_eq!(
        play(other.as_bytes()),
        ["zeek log, line 1: `#fields` names no `id.orig_h`: it is no conn.log"]
    );
    assert_eq!(play(b"#path\tdns\n1\n"), ["zeek log, line 1: `#path` names another log than `conn`"]);
    assert_eq!(play(b"#separator \\x0\n1\n"), ["zeek log, line 1: `#separator` is not one byte"]);
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..500), at in 0..800_usize) {
        parse_zeek(&bytes);
        let mut log = log("1 10.0.0.1 10.0.0.2 80 tcp - 1 2 3 SF 1 1\n");
        let len = log.len();
        for (i, byte) in bytes.iter().take(4).enumerate() {
            log[(at + i) % len] = *byte;
        }
        let (good, bad) = parse_zeek(&log);
        assert!(good + bad <= 20);
    }
}
