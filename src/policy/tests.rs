//! The room's stories: bundles from text, judged facts, broken folders, reloads.

use std::fs;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;

use super::bundle::RULES_MAX;
use super::*;
use crate::model::*;

const WEB: &str = "spiffe://example.org/device/web-1";
const GROUPS: &str =
    "[groups]\nweb = ['spiffe://example.org/device/web-1']\nops = ['spiffe://example.org/device/ops-1']\n";

fn bundle(rules: &str) -> Result<Bundle, LoadError> {
    let sources = [Source::new("a.cedar", rules), Source::new("groups.toml", GROUPS)];
    Bundle::from_sources(&sources, 64, Timestamp::default())
}

/// The mistakes of a file `a.cedar`, one a line; empty when there is none.
fn check(rules: &str) -> String {
    bundle(rules).err().map(|e| e.to_string()).unwrap_or_default()
}

fn facts() -> Facts {
    Facts {
        device: DeviceFacts {
            id: WEB.parse().unwrap(),
            tier: Tier::Software,
            score: Score::from_percent(90),
        },
        service: "orders".parse().unwrap(),
        session: SessionFacts {
            direction: Direction::Inbound,
            hour: 12,
            lease_age_s: 30,
            pq: true,
            risk: Risk::new(5),
            transport: Transport::H2,
            uid: None,
        },
    }
}

fn id() -> DecisionId {
    DecisionId::new(Timestamp::from_millis(1), [7; 10])
}

/// A rule `x` with an `@id` and `@reason`.
fn rule(id: &str, rest: &str) -> String {
    format!("@id(\"{id}\") @reason(\"because of {id}\")\n{rest}\n")
}

/// What a bundle of these rules says to `facts()`: `allow RULES`, or `reason rule why`.
fn ask(rules: &str) -> String {
    told(bundle(rules).unwrap().decide(&facts(), id()))
}

fn told(verdict: Verdict) -> String {
    match verdict {
        Verdict::Permit(permit) => format!("allow {}", permit.rules().join(" ")),
        Verdict::Denial(d) => format!("{} {} {} | {}", d.reason, d.rule, d.why, d.missing),
    }
}

const ALL: &str = "permit(principal, action, resource);";

#[test]
fn what_no_permit_allows_is_denied() {
    let other = rule("other", "permit(principal, action, resource == Service::\"ledger\");");
    assert_eq!(
        ask(&other),
        "policy_denied - no permit lets device `spiffe://example.org/device/web-1` reach service `orders` \
         | no permit for the service names the device or its group `web`"
    );
}

#[test]
fn a_permit_allows_and_names_its_rules_and_bundle() {
    let rules = rule("b", ALL) + &rule("a", "permit(principal in Group::\"web\", action, resource);");
    let bundle = bundle(&rules).unwrap();
    let Verdict::Permit(permit) = bundle.decide(&facts(), id()) else { panic!("denied") };
    assert_eq!(
        (permit.id(), permit.rules().join(" "), &**permit.digest()),
        (id(), "b a".into(), bundle.digest())
    );
    assert_eq!(bundle.digest().len(), 32);
}

#[test]
fn a_forbid_wins_over_every_permit_and_gives_its_reason() {
    let rules =
        rule("yes", ALL) + &rule("no", "forbid(principal, action, resource) when { context.risk >= 5 };");
    assert_eq!(ask(&rules), "policy_denied no because of no | ");
}

#[test]
fn a_permit_whose_conditions_failed_is_named_with_what_it_looked_at() {
    let rules =
        rule("ro", "permit(principal, action, resource) when { principal.tier >= 2 && context.risk < 50 };");
    assert!(ask(&rules).ends_with(
        "| rule `ro` matched the device and service but its conditions did not hold: risk=5, tier=1"
    ));
    let many: String = (0..5)
        .map(|n| rule(&format!("r{n}"), "permit(principal, action, resource) when { context has uid };"))
        .collect();
    assert!(ask(&many).ends_with(
        "`r2` matched the device and service but its conditions did not hold: uid=none; and 2 more"
    ));
}

#[test]
fn a_rule_that_errs_denies_whatever_else_allows() {
    let over = "{ principal.tier * 9223372036854775807 * 2 > 0 }";
    let forbid =
        rule("yes", ALL) + &rule("bad", &format!("forbid(principal, action, resource) when {over};"));
    assert!(
        ask(&forbid).starts_with("policy_error bad rule `bad` could not be evaluated: integer overflow"),
        "{}",
        ask(&forbid)
    );
    let permit =
        rule("yes", ALL) + &rule("bad", &format!("permit(principal, action, resource) when {over};"));
    assert!(ask(&permit).starts_with("policy_error bad "));
    let elsewhere = rule("yes", ALL)
        + &rule("bad", &format!("forbid(principal, action, resource == Service::\"ledger\") when {over};"));
    assert_eq!(ask(&elsewhere), "allow yes");
}

#[test]
fn a_denial_becomes_a_refusal_with_rule_and_detail() {
    let Verdict::Denial(denial) =
        bundle(&rule("no", "forbid(principal, action, resource);")).unwrap().decide(&facts(), id())
    else {
        panic!("allowed")
    };
    let refusal = denial.refusal();
    assert_eq!(
        (refusal.id, refusal.reason, &*refusal.rule, &*refusal.detail),
        (id(), Reason::PolicyDenied, "no", "because of no")
    );
}

#[test]
fn all_mistakes_of_all_files_come_at_once_with_their_places() {
    let a = "// comment\npermit(principal, action resource);\n\n@id(\"x\") @reason(\"y\")\npermit(principal, action, resource)\nwhen { principal.teir > 1 };\n";
    let b = "@id(\"x\") @reason(\"y\") permit(principal in Group::\"wep\", action, resource) when { context.risk == \"high\" };";
    let sources = [
        Source::new("b.cedar", b),
        Source::new("a.cedar", a),
        Source::new("groups.toml", "[groups]\nweb = ['web-1']\nx=1"),
    ];
    let error = Bundle::from_sources(&sources, 0, Timestamp::default()).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @r#"
    a.cedar:2:26: unexpected token `resource`: expected `!=`, `)`, `,`, `:`, `<`, `<=`, `==`, `>`, `>=`, `in`, or `is`
    a.cedar:6:8: for policy `x`, attribute `teir` on entity type `Device` not found (did you mean `tier`?)
    b.cedar:1:1: rule id `x` is already taken at a.cedar:4
    b.cedar:1:43: group `wep` is not defined (did you mean `web`?)
    b.cedar:1:82: the types Long and String are not compatible (for policy `b.cedar:1:1`, both operands to a `==` expression must have compatible types. Types must be exactly equal to be compatible)
    groups.toml:2:8: `web-1` in group `web`: SPIFFE ID must begin with `spiffe://` (write it whole: `spiffe://example.org/device/web-1`)
    groups.toml:3:3: group `x` is integer, expected a list of SPIFFE IDs
    "#);
}

#[test]
fn an_unknown_attribute_or_action_or_type_is_caught_at_load() {
    for (rest, message) in [
        ("permit(principal, action, resource) when { principal.teir > 1 };", "a.cedar:2:44: "),
        ("permit(principal, action, resource) when { context.uid == 0 };", "unable to guarantee safety"),
        ("permit(principal, action == Action::\"conect\", resource);", "unrecognized action"),
        ("permit(principal is Devise, action, resource);", "unrecognized entity type"),
        ("permit(principal, action, resource) when { context.risk == \"high\" };", "a.cedar:2:"),
        (
            "forbid(principal == Service::\"orders\", action, resource);",
            "unable to find an applicable action",
        ),
        ("forbid(principal, action, resource) when { false };", "policy is impossible"),
    ] {
        let told = check(&rule("x", rest));
        assert!(told.contains(message), "{rest}: {told}");
    }
}

#[test]
fn a_rule_may_not_look_into_another_entity() {
    let other = format!("Device::\"{WEB}\"");
    for rest in [format!("{other}.tier > 1"), format!("{other} in Group::\"web\"")] {
        let told = check(&rule("x", &format!("forbid(principal, action, resource) when {{ {rest} }};")));
        assert!(told.starts_with("a.cedar:2:"), "{rest}: {told}");
    }
}

#[test]
fn names_that_could_never_match_are_refused() {
    for (rest, message) in [
        (
            "permit(principal in Group::\"wep\", action, resource);",
            "a.cedar:2:21: group `wep` is not defined (did you mean `web`?)",
        ),
        (
            "permit(principal in Group::\"zzz\", action, resource);",
            "group `zzz` is not defined (define it in `groups.toml`)",
        ),
        (
            "permit(principal, action, resource) when { principal in Group::\"no\" };",
            "a.cedar:2:57: group `no`",
        ),
        (
            "permit(principal == Device::\"web-1\", action, resource);",
            "a.cedar:2:21: device `web-1`: SPIFFE ID must begin",
        ),
        (
            "permit(principal, action, resource == Service::\"Orders\");",
            "a.cedar:2:39: service name `Orders`",
        ),
        (
            "forbid(principal, action, resource) when { context.direction == \"inbond\" };",
            "a.cedar:2:65: `context.direction` is never `inbond`",
        ),
        (
            "forbid(principal, action, resource) when { \"tcp\" != context.transport };",
            "`context.transport` is never `tcp` (it is one of `h1` `h2` `h3` `local`)",
        ),
    ] {
        let told = check(&rule("x", rest));
        assert!(told.contains(message), "{rest}: {told}");
    }
    assert_eq!(
        check(&rule("x", "permit(principal, action, resource) when { context.direction == \"inbound\" };")),
        ""
    );
}

#[test]
fn a_rule_needs_a_name_of_its_own_and_a_reason() {
    let long = "x".repeat(201);
    for (text, message) in [
        (
            ALL.to_owned(),
            "a.cedar:1:1: rule has no `@id` (write `@id(\"some-name\")` before it)\na.cedar:1:1: rule has no `@reason`",
        ),
        (format!("@id(\"A b\") @reason(\"x\") {ALL}"), "`@id(\"A b\")` must be 1..=64 of `a-z 0-9 -`"),
        (format!("@id(\"{}\") @reason(\"x\") {ALL}", "x".repeat(65)), "must be 1..=64"),
        (
            format!("@id(\"a\") @reason(\"{long}\") {ALL}"),
            "`@reason` must be 1..=200 printable characters, it is 201",
        ),
        (format!("@id(\"a\") @reason(\" \") {ALL}"), "`@reason` must be"),
        (format!("@id(\"a\") @reason(\"x\\ny\") {ALL}"), "`@reason` must be"),
        (format!("@id(\"a\") @resaon(\"x\") {ALL}"), "unknown annotation `@resaon` (did you mean `reason`?)"),
        (rule("a", ALL) + &rule("a", ALL), "a.cedar:3:1: rule id `a` is already taken at a.cedar:1"),
    ] {
        let told = check(&text);
        assert!(told.contains(message), "{text}: {told}");
    }
    assert_eq!(check(&format!("@id(\"{}\") @reason(\"{}\") {ALL}", "x".repeat(64), "é".repeat(200))), "");
}

#[test]
fn templates_are_refused() {
    assert!(check(&rule("x", "permit(principal == ?principal, action, resource);")).contains("template"));
}

#[test]
fn a_bundle_without_rule_files_is_refused() {
    let error =
        Bundle::from_sources(&[Source::new("groups.toml", GROUPS)], 0, Timestamp::default()).unwrap_err();
    assert!(error.to_string().contains("no `*.cedar` file"));
    let error = Bundle::from_sources(&[Source::new("x.ceder", "")], 0, Timestamp::default()).unwrap_err();
    assert!(error.to_string().contains("x.ceder: policy files are"));
}

/// Conditions of depth `n` as [`RULE_DEPTH_MAX`] counts, their `when` and bracket not counted; all of them hold.
fn deep(n: usize) -> [(&'static str, String); 11] {
    let lists = format!("{}1{}", "[".repeat(n / 2), "]".repeat(n / 2));
    [
        ("brackets", "(".repeat(n / 2) + "true" + &")".repeat(n / 2)),
        ("lists", format!("{lists} == {lists}")),
        ("ifs", "if false then true else ".repeat(n / 4) + "true"),
        ("nested ifs", "if (".repeat(n / 6) + "true" + &") then true else true".repeat(n / 6)),
        ("then ifs", "if true then ".repeat(n / 4) + "true" + &" else true".repeat(n / 4)),
        ("records", format!("{} has a", "{a: ".repeat(n / 2) + "1" + &"}".repeat(n / 2))),
        ("calls", "[true].contains(".repeat(n / 3) + "true" + &")".repeat(n / 3)),
        ("ors", "(false || ".repeat(n / 3) + "true" + &")".repeat(n / 3)),
        ("links", vec!["true"; n + 1].join(" && ")),
        ("sums", vec!["1"; n].join(" + ") + " > 0"),
        ("nots", "!(".repeat(n / 3 / 2 * 2) + "true" + &")".repeat(n / 3 / 2 * 2)),
    ]
}

fn when(condition: &str) -> String {
    rule("x", &format!("permit(principal, action, resource) when {{ {condition} }};"))
}

#[test]
fn the_deepest_rule_allowed_is_loaded_and_judged_on_an_ordinary_thread() {
    for (name, condition) in deep(RULE_DEPTH_MAX - 4) {
        let text = when(&condition);
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || ask(&text)).unwrap();
        assert_eq!(thread.join().unwrap(), "allow x", "{name}");
    }
}

/// What tokio's and std's threads have, less what the caller may stand on.
const STACK: usize = (2048 - 256) * 1024;

#[test]
fn hostile_nesting_is_refused_before_cedar_sees_it() {
    let whens = |n| rule("x", &format!("permit(principal, action, resource) {};", "when { true }".repeat(n)));
    let texts = [10, 100, 1000, 10_000, 30_000].into_iter().flat_map(|n| {
        let dots = "context".to_owned() + &".a".repeat(RULE_DEPTH_MAX * n / 10);
        deep(RULE_DEPTH_MAX * n / 10)
            .map(|(_, condition)| when(&condition))
            .into_iter()
            .chain([whens(n * 4), when(&dots)])
    });
    for text in texts {
        let told = check(&text);
        let refused = told.contains(" deep, expected at most 32") || told.contains("expected at most 65536");
        assert!(refused, "{:.200} {told:.200}", &text);
    }
    for text in ["!!!!!!!!!!true", "-----1 > 0", "context.a.b[", "{a: {a: 1}}", "\"", "\u{202e}", "if if if"]
    {
        assert!(!check(&when(text)).is_empty());
    }
}

#[test]
fn a_rule_longer_than_its_bound_is_refused() {
    let text = |len: usize| when(&format!("\"{}\" == \"\"", "y".repeat(len)));
    let spare = text(0).len() - 1;
    assert!(!check(&text(RULE_LEN_MAX - spare)).contains("rule is"));
    assert!(check(&text(RULE_LEN_MAX - spare + 1)).contains("rule is 65537 bytes, expected at most 65536"));
}

#[test]
fn too_many_rules_are_refused() {
    let text = ";".repeat(RULES_MAX + 1);
    assert!(check(&text).contains("more than 10000 rules in all"));
    assert!(check(&";".repeat(RULES_MAX)).contains("a.cedar:1:1: "));
}

#[test]
fn the_digest_knows_every_file_and_not_their_order() {
    let digest = |sources: &[Source]| {
        Bundle::from_sources(sources, 0, Timestamp::default()).unwrap().digest().to_owned()
    };
    let (a, b) = (Source::new("a.cedar", &rule("a", ALL)), Source::new("b.cedar", ""));
    let one = digest(&[a.clone(), b.clone()]);
    assert_eq!(one, digest(&[b.clone(), a.clone()]));
    assert_ne!(one, digest(std::slice::from_ref(&a)));
    assert_ne!(one, digest(&[a, b, Source::new("groups.toml", "")]));
}

#[test]
fn equal_questions_are_answered_from_memory_within_its_bound() {
    let bundle =
        bundle(&rule("a", "permit(principal, action, resource) when { context.lease_age <= 60 };")).unwrap();
    let at = |age| {
        let mut facts = facts();
        facts.session.lease_age_s = age;
        told(bundle.decide(&facts, id()))
    };
    assert_eq!((at(1), at(60)), ("allow a".into(), "allow a".into()));
    assert_eq!(bundle.cache.len(), 1);
    assert!(at(61).contains("lease_age=120"), "an age counts as the next whole minute");
    (0..200).for_each(|age| drop(at(age * AGE_STEP_S)));
    assert!((32..=64).contains(&bundle.cache.len()));
}

#[test]
fn a_device_is_found_by_the_name_that_a_group_lists() {
    let bundle = bundle(&rule("a", ALL)).unwrap();
    assert_eq!(bundle.find_device("web-1"), Ok(WEB.parse().unwrap()));
    assert_eq!(bundle.find_device("spiffe://a/b"), Ok("spiffe://a/b".parse().unwrap()));
    assert!(matches!(bundle.find_device("web-2"), Err(FindDeviceError::Unknown { .. })));
    let groups = "[groups]\na = ['spiffe://a/device/x', 'spiffe://b/device/x']";
    let sources = [Source::new("a.cedar", &rule("a", ALL)), Source::new("groups.toml", groups)];
    let two = Bundle::from_sources(&sources, 0, Timestamp::default()).unwrap();
    assert!(matches!(two.find_device("x"), Err(FindDeviceError::Ambiguous { .. })));
}

#[test]
fn lints_name_shadowed_and_boundless_permits_and_idle_groups() {
    let rules = rule("web", "permit(principal in Group::\"web\", action, resource == Service::\"orders\");")
        + &rule("one", &format!("permit(principal == Device::\"{WEB}\", action, resource);"))
        + &rule("all", ALL)
        + &rule("no", "forbid(principal in Group::\"web\", action, resource);");
    let lints: Vec<_> = bundle(&rules).unwrap().lints().iter().map(ToString::to_string).collect();
    assert_eq!(
        lints,
        [
            "a.cedar:1:1: permit `web` never takes effect: forbid `no` covers it",
            "a.cedar:3:1: permit `one` never takes effect: forbid `no` covers it",
            "a.cedar:5:1: permit `all` lets every device reach every service",
            "groups.toml: no rule names group `ops`",
        ]
    );
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

fn settings(dir: &Path) -> Settings {
    Settings { dir: dir.to_owned(), cache_max: 16, behaviour_needed: false }
}

/// The mistakes of a folder, with its path cut off.
fn check_dir(dir: &Path) -> String {
    let error = Bundle::load(&settings(dir), Timestamp::default()).err();
    error.map(|e| e.to_string().replace(&dir.display().to_string(), "DIR")).unwrap_or_default()
}

#[test]
fn a_folder_is_read_sorted_and_its_mistakes_carry_its_path() {
    let dir = tempfile::tempdir().unwrap();
    assert!(check_dir(&dir.path().join("none")).starts_with("DIR: cannot read the folder"));
    assert!(check_dir(dir.path()).contains("no `*.cedar` file"));
    write(dir.path(), "a.cedar", &rule("a", ALL));
    write(dir.path(), ".#a.cedar", "an editor's");
    write(dir.path(), "README.md", "for people");
    assert_eq!(check_dir(dir.path()), "");
    write(dir.path(), "b.cedar", "permit");
    assert!(check_dir(dir.path()).starts_with("DIR/b.cedar:1:"));
    fs::write(dir.path().join("b.cedar"), b"// ok\n// \xff").unwrap();
    assert_eq!(check_dir(dir.path()), "DIR/b.cedar:2:4: is not UTF-8 from here on");
    fs::remove_file(dir.path().join("b.cedar")).unwrap();
    fs::create_dir(dir.path().join("b.cedar")).unwrap();
    assert_eq!(check_dir(dir.path()), "DIR/b.cedar: is not a regular file");
}

#[test]
fn files_whose_names_look_like_policy_are_pointed_out() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a.cedar", "groups.toml", "README.md", "limits.toml", "schema.cedarschema", ".a.cedar.swp"];
    let slips = ["10-a.ceder", "b.cedar.bak", "c.Cedar", "group.toml"];
    names.iter().chain(&slips).for_each(|name| write(dir.path(), name, ""));
    let mut found: Vec<_> = misnamed(dir.path()).unwrap().iter().map(|p| p.file.to_string()).collect();
    found.sort();
    assert_eq!(found, slips);
    assert!(misnamed(&dir.path().join("none")).is_err());
}

#[test]
fn files_too_long_or_too_many_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let max = usize::try_from(FILE_LEN_MAX).unwrap();
    write(dir.path(), "a.cedar", &(rule("a", ALL) + &" ".repeat(max)));
    assert_eq!(check_dir(dir.path()), "DIR/a.cedar: is longer than 1048576 bytes");
    write(dir.path(), "a.cedar", &(rule("a", ALL) + &" ".repeat(max - rule("a", ALL).len())));
    assert_eq!(check_dir(dir.path()), "");
    (1..FILES_MAX).for_each(|n| write(dir.path(), &format!("{n}.cedar"), ""));
    assert_eq!(check_dir(dir.path()), "");
    write(dir.path(), "z.cedar", "");
    assert!(check_dir(dir.path()).contains("more than 256 files"));
}

#[test]
fn a_reload_takes_good_files_and_keeps_the_old_bundle_over_broken_ones() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.cedar", &rule("a", ALL));
    let policy = Policy::load(settings(dir.path()), Timestamp::default()).unwrap();
    let first = policy.current();
    let before = fingerprint(dir.path());
    assert!(!policy.reload(Timestamp::default()).unwrap().changed);
    assert_eq!(fingerprint(dir.path()), before);
    write(dir.path(), "b.cedar", "broken");
    assert_ne!(fingerprint(dir.path()), before);
    assert!(policy.reload(Timestamp::default()).is_err());
    assert_eq!(policy.current().digest(), first.digest());
    assert_eq!(told(policy.current().decide(&facts(), id())), "allow a");
    write(dir.path(), "b.cedar", &rule("b", "forbid(principal, action, resource);"));
    let reloaded = policy.reload(Timestamp::default()).unwrap();
    assert!(
        reloaded.changed && *reloaded.old == *first.digest() && *reloaded.new == *policy.current().digest()
    );
    assert_eq!(told(policy.current().decide(&facts(), id())), "policy_denied b because of b | ");
    fs::remove_dir_all(dir.path()).unwrap();
    assert!(policy.reload(Timestamp::default()).is_err());
    assert_eq!(fingerprint(dir.path()), Stamp::Unreadable(std::io::ErrorKind::NotFound));
    assert_eq!(*policy.current().digest(), *reloaded.new);
}

/// The repository's own example folder.
fn example() -> (Bundle, Cases) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let cases = load_cases(&dir.join("tests")).unwrap_or_else(|e| panic!("{e}"));
    (Bundle::load(&settings(&dir), Timestamp::default()).unwrap_or_else(|e| panic!("{e}")), cases)
}

#[test]
fn the_example_policies_say_what_their_tables_expect() {
    let (bundle, cases) = example();
    let tally = cases.run(&bundle);
    assert_eq!(tally.failures, []);
    assert_eq!(tally.untested, [], "every rule decides some case");
    assert!(tally.cases > 0);
    assert_eq!(bundle.lints(), []);
}

/// Runs a case table against one permit `a` for group `web`; the failures and mistakes, one a line.
fn run_cases(table: &str) -> String {
    let bundle = bundle(&rule(
        "a",
        "permit(principal in Group::\"web\", action, resource) when { context.risk < 50 };",
    ))
    .unwrap();
    match Cases::from_sources(&[Source::new("t.toml", table)]) {
        Ok(cases) => {
            cases.run(&bundle).failures.iter().map(|f| f.problem.to_string()).collect::<Vec<_>>().join("\n")
        }
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_case_that_gets_another_answer_says_where_and_what() {
    let case = |rest: &str| format!("[[case]]\nname = 'n'\ndevice = 'web-1'\nservice = 'orders'\n{rest}");
    for (rest, told) in [
        ("expect = 'allow'\nrule = 'a'", ""),
        ("expect = 'deny'\nrisk = 50\nrule = '-'", ""),
        ("expect = 'deny'", "t.toml:1:1: case `n`: expected deny, got inbound allow by `a`"),
        (
            "expect = 'allow'\nrisk = 50\ndirection = 'outbound'",
            "t.toml:1:1: case `n`: expected allow, got outbound deny by `-`",
        ),
        (
            "expect = 'allow'\nrule = 'b'",
            "t.toml:1:1: case `n`: expected rule `b` to decide, got inbound allow by `a`",
        ),
        (
            "expect = 'allow'\ntier = 4\nhour = 24",
            "t.toml:1:1: case `n`: `hour` is 24, expected 0..=23\nt.toml:1:1: case `n`: `tier` is 4, expected 0..=3",
        ),
    ] {
        assert_eq!(run_cases(&case(rest)), told, "{rest}");
    }
    assert!(run_cases(&case("expct = 'allow'")).starts_with("t.toml:5:1: unknown field `expct`"));
    assert!(
        run_cases(&case("expect = 'allow'").replace("web-1", "web-9"))
            .contains("no group lists a device `web-9`")
    );
    assert!(
        run_cases(&case("expect = 'allow'").replace("orders", "Orders")).contains("service name `Orders`")
    );
}

#[test]
fn a_case_whose_rule_errs_fails_even_where_a_denial_is_expected() {
    let rules =
        rule("bad", "permit(principal, action, resource) when { context.hour * 9223372036854775807 > 0 };");
    let table = "[[case]]\nname = 'n'\ndevice = 'web-1'\nservice = 'orders'\nexpect = 'deny'";
    let cases = Cases::from_sources(&[Source::new("t.toml", table)]).unwrap();
    let told = cases.run(&bundle(&rules).unwrap()).failures.remove(0).problem.to_string();
    assert!(told.starts_with("t.toml:1:1: case `n`: inbound: rule `bad` could not be evaluated"), "{told}");
}

#[test]
fn too_many_cases_are_refused() {
    let case = "[[case]]\nname='n'\ndevice='web-1'\nservice='orders'\nexpect='allow'\n";
    let read = |n: usize| Cases::from_sources(&[Source::new("t.toml", &case.repeat(n))]);
    assert!(read(CASES_MAX).is_ok());
    assert!(read(CASES_MAX + 1).unwrap_err().to_string().contains("more than 10000 cases"));
}

/// A rule's scope and condition from small worlds, so that they meet the facts often.
fn any_rule() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    let who = prop_oneof![
        Just("principal"),
        Just("principal is Device"),
        Just("principal in Group::\"g0\""),
        Just("principal in Group::\"g1\""),
        Just("principal is Device in Group::\"g2\""),
        Just("principal == Device::\"spiffe://a/device/d0\""),
        Just("principal in Device::\"spiffe://a/device/d1\""),
        Just("principal is Device in Device::\"spiffe://a/device/d2\""),
    ];
    let action = prop_oneof![
        Just("action"),
        Just("action == Action::\"connect\""),
        Just("action in [Action::\"connect\"]")
    ];
    let what = prop_oneof![
        Just("resource"),
        Just("resource is Service"),
        Just("resource == Service::\"s0\""),
        Just("resource in Service::\"s1\""),
        Just("resource is Service in Service::\"s0\""),
    ];
    let when = prop_oneof![
        Just(""),
        Just("when { context.risk < 50 }"),
        Just("unless { principal in Group::\"g1\" }"),
        Just("when { principal.tier >= 2 && context.pq }"),
        Just("when { context has uid && context.uid == 0 }"),
        Just("when { principal.tier * 9223372036854775807 >= 0 }"),
        Just("when { resource == Service::\"s2\" }"),
    ];
    (effect, who, action, what, when).prop_map(|(e, p, a, r, w)| format!("{e}({p}, {a}, {r}) {w};"))
}

prop_compose! {
    fn any_facts()(device in 0..4u8, service in 0..4u8, tier in 0..4u8, risk in 0..100u8, pq: bool, uid in proptest::option::of(0..2u32)) -> Facts {
        let mut facts = facts();
        facts.device.id = format!("spiffe://a/device/d{device}").parse().unwrap();
        facts.service = format!("s{service}").parse().unwrap();
        facts.device.tier = [Tier::None, Tier::Software, Tier::Bound, Tier::Attested][usize::from(tier)];
        facts.session = SessionFacts { pq, risk: Risk::new(risk), uid, ..facts.session };
        facts
    }
}

#[test]
fn what_cannot_be_asked_is_an_error_and_no_silence() {
    let bundle = bundle(&rule("a", "permit(principal, action, resource);")).unwrap();
    assert_eq!(bundle.judge_by(&facts(), &[0]).errors, []);
    // The same rule twice is no policy set.
    let judged = bundle.judge_by(&facts(), &[0, 0]);
    assert!(!judged.allowed);
    assert_eq!(judged.errors.len(), 1, "{:?}", judged.errors);
}

#[test]
fn only_permits_of_a_denial_by_default_are_unmet() {
    let unmet = |rules: &[(&str, &str)]| {
        let text: String = rules.iter().map(|(name, rest)| rule(name, rest)).collect();
        let bundle = bundle(&text).unwrap();
        let unmet = bundle.explain(&facts(), id()).unmet.iter().map(|r| r.id.to_string()).collect::<Vec<_>>();
        unmet.join(" ")
    };
    let near = ("near", "permit(principal, action, resource) when { context.hour == 99 };");
    let no = ("no", "forbid(principal, action, resource) when { context.hour == 99 };");
    assert_eq!(unmet(&[near, no]), "near", "a forbid that does not hold is nothing that is missing");
    assert_eq!(unmet(&[near, ("yes", "permit(principal, action, resource);")]), "", "allowed");
    assert_eq!(unmet(&[near, ("never", "forbid(principal, action, resource);")]), "", "forbidden by a rule");
    let bad = "forbid(principal, action, resource) when { 9223372036854775807 + context.hour > 0 };";
    assert_eq!(unmet(&[near, ("bad", bad)]), "", "an error is told instead");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn judging_the_candidates_is_judging_all_rules(
        rules in proptest::collection::vec(any_rule(), 1..12),
        asked in proptest::collection::vec(any_facts(), 8),
    ) {
        let text: String = rules.iter().enumerate().map(|(n, rest)| rule(&format!("r{n}"), rest)).collect();
        let groups = "[groups]\ng0 = ['spiffe://a/device/d0', 'spiffe://a/device/d1']\ng1 = ['spiffe://a/device/d1']\ng2 = ['spiffe://a/device/d2']";
        let sources = [Source::new("a.cedar", &text), Source::new("groups.toml", groups)];
        let bundle = Bundle::from_sources(&sources, 64, Timestamp::default()).unwrap();
        let all: Vec<_> = (0..rules.len()).collect();
        for facts in asked {
            let whole = bundle.judge_by(&facts, &all);
            let groups = bundle.groups.of(&facts.device.id);
            let some = bundle.index.candidates(facts.device.id.as_str(), groups, facts.service.as_str());
            let sliced = bundle.judge_by(&facts, &some);
            prop_assert_eq!((whole.allowed, &whole.determining, &whole.errors), (sliced.allowed, &sliced.determining, &sliced.errors));
            prop_assert_eq!(bundle.decide(&facts, id()).is_permit(), whole.allowed);
            prop_assert_eq!(bundle.decide(&facts, id()).is_permit(), whole.allowed, "from memory");
        }
    }

    #[test]
    fn any_text_is_a_bundle_or_mistakes(text in "\\PC{0,200}") {
        let _ = check(&text);
    }
}

#[test]
#[ignore = "needs a quiet machine: prints how long a decision takes"]
fn how_long_a_decision_takes() {
    let rules: String = (0..200)
        .map(|n| rule(&format!("r{n}"), &format!("permit(principal in Group::\"web\", action, resource == Service::\"s{}\") when {{ context.risk < 50 && principal.tier >= 1 }};", n % 20)))
        .collect();
    let bundle = bundle(&rules).unwrap();
    let mut facts = facts();
    facts.service = "s3".parse().unwrap();
    let all: Vec<_> = (0..200).collect();
    let time = |name: &str, n: u32, mut run: Box<dyn FnMut() + '_>| {
        let start = Instant::now();
        (0..n).for_each(|_| run());
        println!("{name}: {:.2} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(n));
    };
    let cold = facts.clone();
    time("all 200 rules", 200, Box::new(|| drop(bundle.judge_by(&cold, &all))));
    time("10 candidates", 2000, Box::new(|| drop(bundle.explain(&cold, id()))));
    let some = bundle.index.candidates(cold.device.id.as_str(), bundle.groups.of(&cold.device.id), "s3");
    time("10 candidates, judged only", 2000, Box::new(|| drop(bundle.judge_by(&cold, &some))));
    time("no candidate", 2000, Box::new(|| drop(bundle.judge_by(&cold, &[]))));
    time("the request", 2000, Box::new(|| drop(bundle.vocabulary.request(&cold))));
    time("the entities", 2000, Box::new(|| drop(bundle.vocabulary.entities(&cold, &[]))));
    time("from memory", 20_000, Box::new(|| drop(bundle.decide(&facts, id()))));
}
