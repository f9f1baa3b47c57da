//! Every rule of the file, each by a file that breaks it.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::capture::{Listen, Mode};

/// A file with nothing wrong.
const GOOD: &str = r#"version = 1
[identity]
trust_domain = "example.org"
[peers]
listen = "127.0.0.1:15443"
[[inbound]]
name = "orders"
target = "127.0.0.1:8080"
protocol = "tcp"
[[outbound]]
name = "orders"
listen = "127.0.0.1:8081"
protocol = "tcp"
peer = "spiffe://example.org/device/server-1"
paths = ["127.0.0.1:15443"]
"#;

fn read(text: &str) -> Result<Config, Mistakes> {
    parse(text, Path::new("/etc/cs/c.toml"), &|_| false)
}

fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// The messages for `text`, each with its line and column.
fn bad(text: &str) -> String {
    read(text).map(|config| panic!("{config:?}")).unwrap_err().to_string().replace("/etc/cs/c.toml:", "")
}

/// The messages for the good file with `from` replaced by `to`.
fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    bad(&GOOD.replacen(from, to, 1))
}

/// The messages for the good file with `more` after it; its lines count from 16.
fn with(more: &str) -> String {
    bad(&format!("{GOOD}{more}"))
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = good(GOOD);
    assert_eq!(config.identity.leaf, Path::new("/etc/cs/certs/leaf.pem"));
    assert_eq!(config.identity.pq, identity::Pq::Prefer);
    assert_eq!(config.audit.key, Path::new("/etc/cs/audit.key"));
    assert_eq!(config.console.socket, Path::new("/etc/cs/countersign.sock"));
    assert_eq!(config.console.listen, None);
    assert_eq!(config.limits.flows_max, 50_000);
    assert_eq!(config.flow.drain_timeout.as_secs(), 30);
    assert_eq!(config.capture.len(), 1);
    assert!(matches!(&config.capture[0].mode, Mode::Forward(name) if name.as_str() == "orders"));
    assert_eq!(config.device.sysroot, Path::new("/"));
}

#[test]
fn five_different_mistakes_are_told_at_once_with_line_and_column() {
    let text = r#"version = 1
[identity]
trust_domain = "Example.org"
[peers]
lisen = "0.0.0.0:15443"
[[outbound]]
name = "orders"
listen = "127.0.0.1:8081"
protocol = "http"
peer = "spiffe://example.org/device/server-1"
paths = []
[limits]
flows_max = "many"
"#;
    insta::assert_snapshot!(bad(text), @r"
    3:16: `identity.trust_domain` is `Example.org`: trust domain has a forbidden byte at offset 0; allowed are `a-z 0-9 . - _`
    5:1: unknown key `lisen` in `[peers]`; did you mean `listen`?
    9:12: `outbound.protocol` is `http`, but `tcp` is the only protocol accepted now: bytes are carried as they are
    11:9: `outbound.paths` is empty, expected at least one `host:port` of the peer
    13:13: `limits.flows_max` must be a whole number of 1..=10000000, got a string
    ");
}

#[test]
fn syntax_mistakes_and_others_are_told_at_once() {
    let text = r#"version = 1
[identity]
trust_domain = example.org
[peers]
listen = "127.0.0.1:15443
[[inbound]]
name = orders"
[log]
format = "jsn"
[drain
timeout = "1w"
"#;
    insta::assert_snapshot!(bad(text), @r#"
    3:16: string values must be quoted, expected literal string
    5:26: invalid basic string, expected `"`
    7:8: missing opening quote, expected `"`
    9:10: `log.format` must be `json` or `text`, got `jsn`; did you mean `json`?
    10:7: unclosed table, expected `]`
    "#);
}

#[test]
fn the_version_must_be_one() {
    assert_eq!(changed("version = 1\n", ""), "1:1: missing `version`, for example `version = 1`");
    assert_eq!(
        changed("version = 1", "version = 2"),
        "1:11: `version` is 2, expected 1: this program reads no other version"
    );
    assert_eq!(
        changed("version = 1", "version = \"1\""),
        "1:11: `version` must be a whole number of 0..=18446744073709551615, got a string"
    );
}

#[test]
fn the_trust_domain_must_be_there() {
    assert_eq!(
        changed("trust_domain = \"example.org\"\n", ""),
        "2:1: missing `trust_domain` in `[identity]`, for example `trust_domain = \"example.org\"`"
    );
}

#[test]
fn unknown_keys_are_told_in_every_table() {
    let tables = [
        "identity",
        "device",
        "peers",
        "channel",
        "policy",
        "behaviour",
        "audit",
        "admin",
        "limits",
        "log",
        "drain",
    ];
    for table in tables {
        let header = format!("[{table}]\n");
        let text = match GOOD.contains(&header) {
            true => GOOD.replace(&header, &format!("{header}zzzz = 1\n")),
            false => format!("{GOOD}{header}zzzz = 1\n"),
        };
        assert!(bad(&text).ends_with(&format!(":1: unknown key `zzzz` in `[{table}]`")), "{table}");
    }
    for list in ["inbound", "outbound"] {
        let header = format!("[[{list}]]\n");
        let text = GOOD.replace(&header, &format!("{header}zzzz = 1\n"));
        assert!(bad(&text).ends_with(&format!(":1: unknown key `zzzz` in `[[{list}]]`")), "{list}");
    }
    assert_eq!(
        with("[[capture]]\nmode = \"socks5\"\nlisten = \"127.0.0.1:1\"\nzzzz = 1\n"),
        "19:1: unknown key `zzzz` in `[[capture]]`"
    );
}

#[test]
fn unknown_tables_are_told_with_the_nearest_name() {
    assert_eq!(with("[limit]\n"), "16:2: unknown table `[limit]`; did you mean `[limits]`?");
    assert_eq!(with("[[captures]]\n"), "16:3: unknown list `[[captures]]`; did you mean `[[capture]]`?");
    assert_eq!(with("[zebra]\n"), "16:2: unknown table `[zebra]`");
    assert_eq!(changed("version = 1", "version = 1\nzebra = 1"), "2:1: unknown key `zebra`");
}

#[test]
fn a_table_is_no_list_and_a_list_no_table() {
    assert_eq!(
        changed("[[inbound]]", "[inbound]"),
        "6:1: `inbound` must be a list of tables, each under `[[inbound]]`, got a table"
    );
    assert_eq!(with("[[log]]\n"), "16:1: `log` must be one table `[log]`, got an array");
}

#[test]
fn values_of_another_type_are_told() {
    assert_eq!(changed("\"orders\"", "7"), "7:8: `inbound.name` must be a string, got an integer");
    assert_eq!(
        with("[drain]\ntimeout = 30\n"),
        "17:11: `drain.timeout` must be a time of `0s`..=`1d` such as \"10s\", got an integer"
    );
    assert_eq!(
        with("[limits]\nmemory_max = true\n"),
        "17:14: `limits.memory_max` must be a size of `16MiB`..=`1024GiB` such as \"64MiB\", got a boolean"
    );
    assert_eq!(
        changed("[\"127.0.0.1:15443\"]", "\"127.0.0.1:15443\""),
        "15:9: `outbound.paths` must be a list `[…]`, got a string"
    );
    assert_eq!(
        changed("listen = \"127.0.0.1:8081\"", "listen = \"127.0.0.1:8081\"\nexpose = 1"),
        "13:10: `outbound.expose` must be `true` or `false`, got an integer"
    );
    assert_eq!(
        changed("[\"127.0.0.1:15443\"]", "[\"a:1\", 7, \"b\"]"),
        "15:17: `outbound.paths` must be a string, got an integer\n15:20: `outbound.paths` is `b`: authority needs a port of 1..=65535 after the last colon"
    );
}

#[test]
fn values_out_of_range_are_told() {
    assert_eq!(
        with("[limits]\nflows_max = 0\n"),
        "17:13: `limits.flows_max` must be a whole number of 1..=10000000, got `0`"
    );
    assert_eq!(
        with("[limits]\nflows_burst = -1\n"),
        "17:15: `limits.flows_burst` must be a whole number of 1..=10000000, got `-1`"
    );
    assert_eq!(
        with("[limits]\nflows_burst = 99999999999999999999999999\n"),
        "17:15: `limits.flows_burst` must be a whole number of 1..=10000000, got `99999999999999999999999999`"
    );
    assert_eq!(
        with("[channel]\nconnect_timeout = \"1ms\"\n"),
        "17:19: `channel.connect_timeout` must be a time of `10ms`..=`10m`, got `1ms`"
    );
    assert_eq!(
        with("[channel]\nconnect_timeout = \"1w\"\n"),
        "17:19: `channel.connect_timeout` must be a time of `10ms`..=`10m`: `1w` has no unit that is known here, expected one of `ms s m h d`"
    );
    assert_eq!(
        with("[audit]\nsegment_bytes_max = \"1KiB\"\n"),
        "17:21: `audit.segment_bytes_max` must be a size of `1MiB`..=`16GiB`, got `1KiB`"
    );
    assert_eq!(
        with("[audit]\non_full = \"drop\"\n"),
        "17:11: `audit.on_full` must be `block` or `drop-allow`, got `drop`"
    );
    assert_eq!(
        with("[channel]\npq = \"requier\"\n"),
        "17:6: `channel.pq` must be `off` or `prefer` or `require`, got `requier`; did you mean `require`?"
    );
    assert_eq!(with("[policy]\ndir = \"\"\n"), "17:7: `policy.dir` must not be empty");
    assert_eq!(with("[policy]\ndir = \"a\\u0000\"\n"), "17:7: `policy.dir` must not hold a NUL character");
    assert_eq!(
        with("[log]\nfilter = \"inof\"\n"),
        "17:10: `log.filter` is `inof`: expected a level (`off error warn info debug trace`) or directives such as `info,countersign::flow=debug`"
    );
}

#[test]
fn bad_addresses_are_told() {
    assert_eq!(
        changed("127.0.0.1:15443", "localhost:1"),
        "5:10: `peers.listen` must be an address and a port such as `127.0.0.1:15443` or `[::1]:15443`, got `localhost:1`"
    );
    assert_eq!(
        changed("127.0.0.1:8080", "127.0.0.1"),
        "8:10: `inbound.target` is `127.0.0.1`: authority needs a port of 1..=65535 after the last colon"
    );
    assert_eq!(
        changed("127.0.0.1:8080", "unix:"),
        "8:10: `inbound.target` is `unix:`: `unix:` needs a path of 1..=107 bytes"
    );
    assert_eq!(changed("127.0.0.1:8081", "unix:"), "12:10: `outbound.listen` needs a path after `unix:`");
    assert_eq!(
        changed("spiffe://example.org/device/server-1", "server-1"),
        "14:8: `outbound.peer` is `server-1`: SPIFFE ID must begin with `spiffe://`"
    );
}

#[test]
fn a_unix_path_is_relative_to_the_file_and_has_room_for_its_making() {
    let config =
        good(&GOOD.replace("127.0.0.1:8080", "unix:run/a.sock").replace("127.0.0.1:8081", "unix:b.sock"));
    assert_eq!(config.flow.inbound[0].target.to_string(), "unix:/etc/cs/run/a.sock");
    let Listen::Unix { path, mode } = &config.capture[0].listen else { panic!() };
    assert_eq!((path.as_path(), mode.0), (Path::new("/etc/cs/b.sock"), 0o600));

    let fits = "a".repeat(99 - "/etc/cs/".len());
    good(&GOOD.replace("127.0.0.1:8081", &format!("unix:{fits}")));
    assert!(
        changed("127.0.0.1:8081", &format!("unix:{fits}a")).ends_with("of 100 bytes, expected at most 99")
    );
    let fits = "a".repeat(107 - "/etc/cs/".len());
    good(&GOOD.replace("127.0.0.1:8080", &format!("unix:{fits}")));
    assert!(
        changed("127.0.0.1:8080", &format!("unix:{fits}a")).ends_with("of 108 bytes, expected at most 107")
    );
    assert!(with(&format!("[admin]\nsocket = \"{fits}\"\n")).contains("`admin.socket` is the socket"));
}

#[test]
fn permission_bits_are_octal_and_belong_to_unix_sockets() {
    let unix = |mode: &str| GOOD.replace("\"127.0.0.1:8081\"", &format!("\"unix:b.sock\"\nmode = {mode}"));
    let config = good(&unix("\"0660\""));
    assert!(matches!(&config.capture[0].listen, Listen::Unix { mode, .. } if mode.0 == 0o660));
    for mode in ["\"0680\"", "\"1777\"", "\"+66\"", "\"60\"", "\"\"", "\"rw-\""] {
        assert!(
            bad(&unix(mode)).starts_with("13:8: `outbound.mode` must be permission bits such as \"0660\""),
            "{mode}"
        );
    }
    assert_eq!(bad(&unix("432")), "13:8: `outbound.mode` must be a string, got an integer");
    assert_eq!(
        changed("\"127.0.0.1:8081\"", "\"127.0.0.1:8081\"\nmode = \"0600\""),
        "13:8: `outbound.mode` is of no use: `outbound.listen` is no `unix:…`"
    );
    assert_eq!(
        bad(&format!(
            "{}[[capture]]\nmode = \"connect\"\nlisten = \"127.0.0.1:1\"\n",
            GOOD.replace("listen = \"127.0.0.1:8081\"", "mode = \"0600\"")
        )),
        "12:8: `outbound.mode` is of no use without `listen`"
    );
}

#[test]
fn names_are_given_once_in_each_list() {
    let again = "[[inbound]]\nname = \"orders\"\ntarget = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n";
    assert_eq!(
        with(again),
        "17:8: `inbound.name` `orders` is taken by an earlier item; each needs a name of its own"
    );
    let again = "[[outbound]]\nname = \"orders\"\nlisten = \"127.0.0.1:1\"\nprotocol = \"tcp\"\npeer = \"spiffe://example.org/a\"\npaths = [\"a:1\"]\n";
    assert_eq!(
        with(again),
        "17:8: `outbound.name` `orders` is taken by an earlier item; each needs a name of its own"
    );
}

#[test]
fn two_doors_cannot_listen_in_one_place() {
    assert_eq!(
        changed("127.0.0.1:8081", "127.0.0.1:15443"),
        "12:10: `outbound.listen` is `127.0.0.1:15443`, where `peers.listen` listens already"
    );
    assert_eq!(
        with("[admin]\nlisten = \"127.0.0.1:8081\"\n"),
        "17:10: `admin.listen` is `127.0.0.1:8081`, where `outbound.listen` listens already"
    );
    assert_eq!(
        with(
            "[[capture]]\nmode = \"socks5\"\nlisten = \"[::1]:1\"\n[[capture]]\nmode = \"connect\"\nlisten = \"[::1]:1\"\n"
        ),
        "21:10: `capture.listen` is `[::1]:1`, where another `capture.listen` listens already"
    );
    assert_eq!(
        changed("127.0.0.1:8081", "unix:./countersign.sock"),
        "12:10: `outbound.listen` is `unix:/etc/cs/./countersign.sock`, where `admin.socket` listens already"
    );
}

#[test]
fn an_outbound_needs_a_path() {
    assert_eq!(
        changed("paths = [\"127.0.0.1:15443\"]\n", ""),
        "10:1: missing `paths` in `[[outbound]]`, for example `paths = [\"192.0.2.1:15443\"]`"
    );
    assert_eq!(
        changed("[\"127.0.0.1:15443\"]", "[]"),
        "15:9: `outbound.paths` is empty, expected at least one `host:port` of the peer"
    );
    let many = format!("[{}]", "\"a:1\",".repeat(17));
    assert_eq!(
        changed("[\"127.0.0.1:15443\"]", &many),
        "15:9: `outbound.paths` has 17 items, expected at most 16"
    );
}

#[test]
fn an_outbound_needs_a_door() {
    let text = GOOD.replace("listen = \"127.0.0.1:8081\"\n", "");
    assert_eq!(
        bad(&text),
        "10:1: no local app can reach this `[[outbound]]`: give it a `listen`, or add a `[[capture]]`"
    );
    good(&format!("{text}[[capture]]\nmode = \"socks5\"\nlisten = \"127.0.0.1:15080\"\n"));
}

#[test]
fn the_peer_is_of_our_own_trust_domain() {
    assert_eq!(
        changed("spiffe://example.org/", "spiffe://example.com/"),
        "14:8: `outbound.peer` is of the trust domain `example.com`, expected `identity.trust_domain`, which is `example.org`"
    );
}

#[test]
fn the_protocol_is_tcp_and_said() {
    for list in ["inbound", "outbound"] {
        let at = GOOD.find(&format!("[[{list}]]")).unwrap();
        let (before, after) = GOOD.split_at(at);
        let other = bad(&format!("{before}{}", after.replacen("\"tcp\"", "\"http\"", 1)));
        assert!(other.ends_with(&format!("`{list}.protocol` is `http`, but `tcp` is the only protocol accepted now: bytes are carried as they are")), "{other}");
        let none = bad(&format!("{before}{}", after.replacen("protocol = \"tcp\"\n", "", 1)));
        assert!(
            none.ends_with(&format!("missing `protocol` in `[[{list}]]`, for example `protocol = \"tcp\"`")),
            "{none}"
        );
    }
}

#[test]
fn behaviour_is_watched_unless_it_is_off_and_enforcing_needs_a_file_of_actions() {
    use crate::flow::Mode::{Enforce, Observe, Off};
    assert_eq!(good(GOOD).behaviour.mode, Observe);
    for (mode, expected) in [("off", Off), ("observe", Observe), ("enforce", Enforce)] {
        let config = good(&format!("{GOOD}[behaviour]\nmode = \"{mode}\"\n"));
        assert_eq!(config.behaviour.mode, expected);
        assert_eq!(config.policy.behaviour_needed, expected == Enforce);
    }
    let from = good(&format!("{GOOD}[behaviour]\nenforce_from = \"2026-11-25T00:00:00Z\"\n"));
    assert_eq!(from.behaviour.enforce_from.unwrap().to_string(), "2026-11-25T00:00:00.000Z");
    assert_eq!(
        with(
            "[behaviour]\nmode = \"on\"\nlearn = \"5s\"\nenforce_from = \"soon\"\nremember_every = \"0s\"\n"
        ),
        "17:8: `behaviour.mode` must be `off` or `observe` or `enforce`, got `on`\n\
         18:9: `behaviour.learn` must be a time of `1m`..=`30d`, got `5s`\n\
         19:16: `behaviour.enforce_from` must be a time such as `2026-11-25T00:00:00Z`, got `soon`\n\
         20:18: `behaviour.remember_every` must be a time of `1s`..=`1d`, got `0s`"
    );
}

#[test]
fn what_is_learnt_is_kept_beside_the_audit_log_elsewhere_or_not_at_all() {
    let kept = |more: &str| good(&format!("{GOOD}{more}")).behaviour.remember;
    assert_eq!(kept(""), Some("/etc/cs/behaviour.state".into()));
    assert_eq!(kept("[audit]\ndir = \"/var/cs/audit\"\n"), Some("/var/cs/behaviour.state".into()));
    assert_eq!(kept("[behaviour]\nremember = \"x/y\"\n"), Some("/etc/cs/x/y".into()));
    assert_eq!(kept("[behaviour]\nremember = \"\"\n"), None);
    for text in [GOOD.to_owned(), format!("{GOOD}[behaviour]\nremember = \"\"\nremember_every = \"90s\"\n")] {
        let config = good(&text);
        assert_eq!(good(&config.to_toml()).behaviour, config.behaviour);
    }
}

#[test]
fn the_device_table_says_whom_to_take_for_their_devices_and_how_long() {
    let config = good(&format!(
        "{GOOD}[device]\nrequire_tier = 1\nexempt = [\"spiffe://example.org/device/old\"]\nlease = \"5m\"\n\
         weights = {{ cpu = 50 }}\n"
    ));
    assert_eq!(config.device.require_tier, crate::model::Tier::Software);
    assert_eq!(config.device.thresholds.weights.of(device::Component::Cpu), 50);
    assert_eq!(config.device.thresholds.weights.of(device::Component::ProductUuid), 20);
    let moved = good(&GOOD.replacen("[peers]", "leaf = \"id/leaf.pem\"\n[peers]", 1));
    assert_eq!(moved.device.record, Path::new("/etc/cs/id/device.record"));
    assert_eq!(moved.device.salt, Path::new("/etc/cs/id/device.salt"));
    insta::assert_snapshot!(
        with(
            "[device]\nmatch_min = 50\nlease = \"1s\"\nexempt = [\"spiffe://other.org/device/a\", \"a\"]\n\
             weights = { cpu = 5000, hostname = 1 }\n"
        ),
        @r"
    18:9: `device.lease` must be a time of `3s`..=`1d`, got `1s`
    19:11: `device.exempt` is of the trust domain `other.org`, expected `identity.trust_domain`, which is `example.org`
    19:42: `device.exempt` is `a`: SPIFFE ID must begin with `spiffe://`
    20:19: `device.weights.cpu` must be a whole number of 0..=1000, got `5000`
    20:36: `device.weights.hostname` is no component; see `countersign device show`
    "
    );
    assert_eq!(
        with("[device]\nrequire_tier = 4\n"),
        "17:16: `device.require_tier` must be a whole number of 0..=3, got `4`"
    );
}

#[test]
fn local_doors_are_loopback_unless_an_outbound_is_exposed() {
    assert_eq!(
        changed("127.0.0.1:8081", "0.0.0.0:8081"),
        "12:10: `outbound.listen` must be a loopback address or `unix:…`: it takes anybody who reaches it for a local app; `expose = true` allows it all the same"
    );
    good(&GOOD.replace("\"127.0.0.1:8081\"", "\"0.0.0.0:8081\"\nexpose = true"));
    good(&GOOD.replace("127.0.0.1:15443", "0.0.0.0:15443"));
    assert_eq!(
        with("[[capture]]\nmode = \"socks5\"\nlisten = \"192.0.2.1:1\"\n"),
        "18:10: `capture.listen` must be a loopback address or `unix:…`: a SOCKS5 or CONNECT door leads to every outbound and is never exposed"
    );
    assert_eq!(
        with("[[capture]]\nmode = \"connect\"\nlisten = \"127.0.0.1:1\"\nexpose = true\n"),
        "19:10: `capture.expose` cannot be set here: a `[[capture]]` door leads to every outbound, so it is never exposed"
    );
    assert_eq!(
        with("[admin]\nlisten = \"0.0.0.0:15000\"\n"),
        "17:10: `admin.listen` must be a loopback address: the admin address serves this host only and is never exposed"
    );
    assert_eq!(
        with("[admin]\nexpose = true\n"),
        "17:10: `admin.expose` cannot be set here: the admin address serves this host only, so it is never exposed"
    );
    assert_eq!(
        with("[admin]\nlisten = \"unix:a.sock\"\n"),
        "17:10: `admin.listen` must be a TCP address; the Unix socket is named by `admin.socket`"
    );
}

#[test]
fn no_inbound_leads_back_to_a_door_of_this_sidecar() {
    for (target, key) in [
        ("127.0.0.1:15443", "peers.listen"),
        ("localhost:15443", "peers.listen"),
        ("127.0.0.1:8081", "outbound.listen"),
        ("127.0.0.1:15000", "admin.listen"),
        ("127.0.0.1:15080", "capture.listen"),
        ("unix:countersign.sock", "admin.socket"),
    ] {
        let text = GOOD.replace("127.0.0.1:8080", target);
        let more = "[admin]\nlisten = \"127.0.0.1:15000\"\n[[capture]]\nmode = \"socks5\"\nlisten = \"127.0.0.1:15080\"\n";
        let shown = target.replace("unix:", "unix:/etc/cs/");
        assert_eq!(
            bad(&format!("{text}{more}")),
            format!(
                "8:10: `inbound.target` is `{shown}`, this sidecar's own `{key}`: a peer would be led in a circle; expected the address of the service"
            )
        );
    }
}

#[test]
fn a_file_without_a_purpose_is_a_mistake() {
    let head = "version = 1\n[identity]\ntrust_domain = \"example.org\"\n";
    let nothing = "1:1: nothing to do: name a service of this host with `[peers] listen` and `[[inbound]]`, or one of a peer with `[[outbound]]`";
    assert_eq!(bad(head), nothing);
    assert_eq!(bad(&format!("{head}[peers]\nlisten = \"127.0.0.1:15443\"\n")), nothing);
    assert_eq!(
        changed("[peers]\nlisten = \"127.0.0.1:15443\"\n", ""),
        "4:1: `[[inbound]]` needs `[peers] listen`: no peer could knock"
    );
}

#[test]
fn a_list_has_a_bound() {
    let item =
        |i: usize| format!("[[inbound]]\nname = \"s{i}\"\ntarget = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n");
    let items = |count| (0..count).map(item).collect::<String>();
    good(&format!("{GOOD}{}", items(raw::ITEMS_MAX - 1)));
    assert_eq!(with(&items(raw::ITEMS_MAX)), "6:1: `inbound` has 257 items, expected at most 256");
}

#[test]
fn the_revocation_list_beside_the_certificates_is_used_when_it_is_there() {
    let there = |path: &Path| path == Path::new("/etc/cs/certs/crl.pem");
    let config = parse(GOOD, Path::new("/etc/cs/c.toml"), &there).unwrap();
    assert_eq!(config.identity.crl.as_deref(), Some(Path::new("/etc/cs/certs/crl.pem")));
    assert_eq!(good(GOOD).identity.crl, None);
    let named = GOOD.replace("[identity]\n", "[identity]\ncrl = \"/var/crl.pem\"\n");
    assert_eq!(good(&named).identity.crl.as_deref(), Some(Path::new("/var/crl.pem")));
}

#[test]
fn an_authority_is_named_with_its_paths_or_not_at_all() {
    let named = |lines: &str| format!("{GOOD}\n[enrolment]\n{lines}");
    let both = "authority = \"spiffe://example.org/device/authority\"\npaths = [\"192.0.2.1:15443\"]\n";
    let config = good(&named(both)).enrolment;
    assert_eq!(config.membership.unwrap().paths.len(), 1);
    assert_eq!(config.file, Path::new("/etc/cs/certs/authority.toml"));
    assert_eq!(
        good(&named("ready_before = \"7d\"")).enrolment.ready_before,
        std::time::Duration::from_secs(7 * 86_400)
    );
    let said = |lines: &str| bad(&named(lines));
    assert!(said("paths = [\"192.0.2.1:15443\"]\n").contains("needs both `authority` and `paths`"));
    assert!(said(&both.replace("[\"192.0.2.1:15443\"]", "[]")).contains("is empty"));
    assert!(said(&both.replace("example.org", "other.org")).contains("is of the trust domain `other.org`"));
}

#[test]
fn the_example_reads_and_so_do_the_defaults_in_its_comments() {
    let example = good(EXAMPLE);
    // A comment that is a key and a value is a default, except what it says it is not.
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ").filter(|rest| !rest.contains("# no default")) {
            Some(rest) if rest.contains(" = ") && !rest.starts_with("expose") && !rest.starts_with("crl") => {
                // `socket_mode` is for Unix sockets only.
                if rest.starts_with("socket_mode") { "\n".into() } else { format!("{rest}\n") }
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(format!("{:?}", good(&uncommented)), format!("{example:?}"));
}

#[test]
fn what_is_shown_reads_as_the_same_configuration() {
    for text in [GOOD, EXAMPLE, &GOOD.replace("\"127.0.0.1:8081\"", "\"0.0.0.0:8081\"\nexpose = true")] {
        let config = good(text);
        assert_eq!(format!("{:?}", good(&config.to_toml())), format!("{config:?}"));
    }
}

#[test]
fn every_key_is_shown_in_the_example_and_in_the_docs() {
    let docs = include_str!("../../docs/config.md");
    let mut table = String::new();
    for line in good(EXAMPLE).to_toml().lines() {
        if line.starts_with('[') {
            table = line.to_owned();
            assert!(docs.contains(&format!("`{table}`")), "docs lack {table}");
        } else if let Some((key, _)) = line.split_once(" = ") {
            assert!(EXAMPLE.contains(&format!("{key} = ")), "the example lacks {key}");
            assert!(docs.contains(&format!("| `{key}` |")), "docs lack {key} of {table}");
        }
    }
}

#[test]
fn a_file_is_read_up_to_its_bound_and_mistakes_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, GOOD).unwrap();
    let config = load(&file).unwrap();
    assert_eq!(config.source, file);
    assert_eq!(config.policy.dir, folder.path().join("policies"));
    std::fs::create_dir(folder.path().join("certs")).unwrap();
    std::fs::write(folder.path().join("certs/crl.pem"), "").unwrap();
    assert_eq!(load(&file).unwrap().identity.crl, Some(folder.path().join("certs/crl.pem")));

    let padded = |len: usize| format!("{GOOD}#{}", "x".repeat(len - GOOD.len() - 1));
    std::fs::write(&file, padded(FILE_LEN_MAX)).unwrap();
    assert!(load(&file).is_ok());
    std::fs::write(&file, padded(FILE_LEN_MAX + 1)).unwrap();
    let told = load(&file).unwrap_err().to_string();
    assert_eq!(told, format!("{}: is larger than 1048576 bytes", file.display()));
    assert!(read(&padded(FILE_LEN_MAX + 1)).is_err());
    // Cut within a character it is still too large, not broken.
    std::fs::write(&file, format!("{}é", padded(FILE_LEN_MAX))).unwrap();
    assert!(load(&file).unwrap_err().to_string().ends_with("is larger than 1048576 bytes"));

    std::fs::write(&file, b"version = \xFF").unwrap();
    assert!(load(&file).unwrap_err().to_string().ends_with("c.toml: is not UTF-8 text: byte 10 is none"));
    std::fs::remove_file(&file).unwrap();
    assert!(load(&file).unwrap_err().to_string().contains("c.toml: cannot be opened: "));
}

/// Text that is nearly a configuration.
fn nearly() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(EXAMPLE.lines().chain(GOOD.lines()).collect::<Vec<_>>()).prop_map(str::to_owned),
        prop::sample::select(vec![
            "[", "]", "[[", "\"", "=", "\"\"\"", "{", "}", ",", "\0", "é", "#", "\r", "'", "."
        ])
        .prop_map(str::to_owned),
        "\\PC{0,12}",
    ];
    let end = prop::sample::select(vec!["", "\n", "\r\n"]);
    prop::collection::vec((piece, end), 0..40)
        .prop_map(|pieces| pieces.iter().flat_map(|(piece, end)| [piece.as_str(), end]).collect())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        let _ = read(&text).map_err(|mistakes| mistakes.to_string());
    }

    #[test]
    fn text_that_is_nearly_a_configuration_never_panics(text in nearly()) {
        match read(&text) {
            Ok(config) => prop_assert_eq!(format!("{:?}", good(&config.to_toml())), format!("{config:?}")),
            Err(mistakes) => prop_assert!(!mistakes.list.is_empty() && !mistakes.to_string().is_empty()),
        }
    }
}

#[test]
fn waypoints_are_trusted_by_an_hbone_door_only() {
    let peers = |more: &str| GOOD.replacen("[peers]\n", &format!("[peers]\n{more}\n"), 1);
    let waypoint = "trusted_waypoints = [\"spiffe://example.org/ns/mesh/sa/waypoint\"]";
    let config = good(&peers(&format!("profile = \"hbone\"\n{waypoint}")));
    let trusted_waypoints = vec!["spiffe://example.org/ns/mesh/sa/waypoint".parse().unwrap()];
    assert_eq!(config.channel.profile, crate::channel::Profile::Hbone { trusted_waypoints });
    assert_eq!(good(GOOD).channel.profile, crate::channel::Profile::Native);
    let said = bad(&peers(waypoint));
    assert!(said.ends_with("`peers.trusted_waypoints` is of no use without `profile = \"hbone\"`"), "{said}");
    let said = bad(&peers("profile = \"hbnoe\""));
    assert!(said.ends_with("must be `native` or `hbone`, got `hbnoe`; did you mean `hbone`?"), "{said}");
}
