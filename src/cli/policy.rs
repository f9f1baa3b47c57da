//! `countersign policy`: check the files, run their tables, explain a decision, print the schema.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};

use crate::model::{
    DecisionId, DeviceFacts, Direction, Facts, Risk, Score, ServiceName, SessionFacts, SpiffeId, Tier,
    Timestamp, Transport,
};
use crate::policy::{Bundle, Explanation, LoadError, Rule, SCHEMA, Settings, Verdict, load_cases, misnamed};

/// `countersign policy …`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check all policy files; tells every mistake with its place
    Check(Folder),
    /// Run the allow/deny tables in `tests/*.toml` of the policy folder
    Test(Folder),
    /// Say what policy would decide, by which rule, and why
    Explain(Question),
    /// Print the schema: what rules may speak of
    Schema,
}

#[derive(Debug, clap::Args)]
struct Folder {
    /// The policy folder
    #[arg(long, default_value = "policies")]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Question {
    #[command(flatten)]
    folder: Folder,
    /// Who asks: a SPIFFE ID, or the name of a device that `groups.toml` lists
    #[arg(long)]
    device: String,
    /// The service asked for
    #[arg(long)]
    service: ServiceName,
    /// Seen from which sidecar; both when left out
    #[arg(long)]
    direction: Option<Way>,
    /// What carries it; `local` outbound and `h2` inbound when left out
    #[arg(long)]
    transport: Option<Carrier>,
    /// How far the identity is bound to a device: 0 none, 1 software, 2 bound, 3 attested
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    tier: u8,
    /// Matching share of the fingerprint in percent
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    score: u8,
    /// How anomalous the traffic behaves
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    risk: u8,
    /// Hour of the day in UTC; now when left out
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=23))]
    hour: Option<u8>,
    /// Whether the key exchange was post-quantum
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pq: bool,
    /// The local caller's user id
    #[arg(long)]
    uid: Option<u32>,
    /// Seconds since the session was last proven
    #[arg(long, default_value_t = 0)]
    lease_age: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Carrier {
    H1,
    H2,
    H3,
    Local,
}

/// Exit code: all is well, or allowed.
const GOOD: u8 = 0;
/// Exit code: denied, or a case failed.
const BAD: u8 = 1;
/// Exit code: the question could not be asked.
const BROKEN: u8 = 2;

/// Runs the command; answers with the exit code: 0 well or allowed, 1 denied or a failed case, 2 mistakes in files or
/// arguments.
///
/// # Errors
/// When `out` or `err` cannot be written.
pub fn run(args: &Args, now: Timestamp, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let done = match &args.command {
        Command::Check(folder) => check(&folder.dir, now, out, err)?,
        Command::Test(folder) => test(&folder.dir, now, out)?,
        Command::Explain(question) => match load(&question.folder.dir, now) {
            Ok(bundle) => return explain(&bundle, question, now, out, err),
            Err(e) => Err(e),
        },
        Command::Schema => {
            out.write_all(SCHEMA.as_bytes())?;
            Ok(GOOD)
        }
    };
    match done {
        Ok(code) => Ok(code),
        Err(mistakes) => {
            writeln!(err, "{mistakes}")?;
            Ok(BROKEN)
        }
    }
}

fn load(dir: &Path, now: Timestamp) -> Result<Bundle, LoadError> {
    Bundle::load(&Settings { dir: dir.to_owned(), cache_max: 0, behaviour_needed: false }, now)
}

fn check(
    dir: &Path,
    now: Timestamp,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Result<u8, LoadError>> {
    let (bundle, misnamed) = match load(dir, now).and_then(|b| misnamed(dir).map(|m| (b, m))) {
        Ok(both) => both,
        Err(e) => return Ok(Err(e)),
    };
    let warnings = bundle.lints().into_iter().chain(misnamed);
    for warning in warnings.map(|w| w.within(dir)) {
        writeln!(err, "warning: {warning}")?;
    }
    let (rules, files, groups) = (bundle.rules().len(), bundle.files(), bundle.groups().count());
    writeln!(
        out,
        "{}: good: {rules} rules, {groups} groups, {files} files, digest {}",
        dir.display(),
        bundle.digest()
    )?;
    Ok(Ok(GOOD))
}

fn test(dir: &Path, now: Timestamp, out: &mut dyn Write) -> io::Result<Result<u8, LoadError>> {
    let tests = dir.join("tests");
    let (bundle, cases) = match load(dir, now).and_then(|b| load_cases(&tests).map(|c| (b, c))) {
        Ok(both) => both,
        Err(e) => return Ok(Err(e)),
    };
    let tally = cases.run(&bundle);
    for failure in &tally.failures {
        writeln!(out, "{}", failure.problem.clone().within(&tests))?;
    }
    for rule in &tally.untested {
        writeln!(out, "warning: no case is decided by rule `{rule}`")?;
    }
    let failed = tally.failures.len();
    writeln!(out, "{} cases, {failed} failed", tally.cases)?;
    Ok(Ok(if failed == 0 { GOOD } else { BAD }))
}

fn explain(
    bundle: &Bundle,
    question: &Question,
    now: Timestamp,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let device = match bundle.find_device(&question.device) {
        Ok(device) => device,
        Err(e) => {
            writeln!(err, "{e}")?;
            return Ok(BROKEN);
        }
    };
    let directions: &[Direction] = match question.direction {
        Some(Way::Inbound) => &[Direction::Inbound],
        Some(Way::Outbound) => &[Direction::Outbound],
        None => &[Direction::Outbound, Direction::Inbound],
    };
    let mut code = GOOD;
    for direction in directions {
        let facts = question.facts(device.clone(), *direction, now);
        // Nothing is recorded under this id: it is only a question.
        let explained = bundle.explain(&facts, DecisionId::new(now, [0; 10]));
        if !explained.verdict.is_permit() {
            code = BAD;
        }
        print(&facts, &explained, &question.folder.dir, out)?;
    }
    Ok(code)
}

impl Question {
    fn facts(&self, id: SpiffeId, direction: Direction, now: Timestamp) -> Facts {
        let transport = match (self.transport, direction) {
            (Some(Carrier::H1), _) => Transport::H1,
            (Some(Carrier::H2), _) | (None, Direction::Inbound) => Transport::H2,
            (Some(Carrier::H3), _) => Transport::H3,
            (Some(Carrier::Local), _) | (None, Direction::Outbound) => Transport::Local,
        };
        let tier = match self.tier {
            0 => Tier::None,
            1 => Tier::Software,
            2 => Tier::Bound,
            _ => Tier::Attested,
        };
        let session = SessionFacts {
            direction,
            hour: self.hour.unwrap_or_else(|| now.hour()),
            lease_age_s: self.lease_age,
            pq: self.pq,
            risk: Risk::new(self.risk),
            transport,
            uid: self.uid,
        };
        let device = DeviceFacts { id, tier, score: Score::from_percent(self.score) };
        Facts { device, service: self.service.clone(), session }
    }
}

fn print(facts: &Facts, explained: &Explanation<'_>, dir: &Path, out: &mut dyn Write) -> io::Result<()> {
    let told = if explained.verdict.is_permit() { "ALLOW" } else { "DENY" };
    let (device, service) = (&facts.device.id, &facts.service);
    writeln!(out, "{told} {}: {device} -> {service}", facts.session.direction.name())?;
    if !explained.groups.is_empty() {
        writeln!(out, "  groups: {}", explained.groups.join(", "))?;
    }
    for rule in &explained.determining {
        writeln!(out, "  {} `{}` at {}: {}", rule.effect, rule.id, place(dir, rule), rule.reason)?;
    }
    for error in &explained.errors {
        writeln!(out, "  error: {error}")?;
    }
    if let Verdict::Denial(denial) = &explained.verdict {
        if explained.determining.is_empty() && explained.errors.is_empty() {
            writeln!(out, "  why: {}", denial.why)?;
        }
        if !denial.missing.is_empty() {
            writeln!(out, "  missing: {}", denial.missing)?;
        }
        for rule in &explained.unmet {
            writeln!(out, "  not met: `{}` at {}", rule.id, place(dir, rule))?;
        }
    }
    Ok(())
}

fn place(dir: &Path, rule: &Rule) -> String {
    format!("{}:{}:{}", dir.join(&*rule.file).display(), rule.line, rule.column)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: Args,
    }

    /// Runs the words in a folder of these files; the exit code and all that was printed, with the folder as `DIR`.
    fn play(files: &[(&str, &str)], words: &str) -> (u8, String) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tests")).unwrap();
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
        let path = dir.path().display().to_string();
        let words = format!("policy {words}").replace("DIR", &path);
        let args = Whole::try_parse_from(words.split_whitespace()).unwrap().args;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&args, Timestamp::from_secs(1_700_000_000), &mut out, &mut err).unwrap();
        let told = String::from_utf8([out, err].concat()).unwrap();
        (code, told.replace(&path, "DIR"))
    }

    const GROUPS: (&str, &str) = ("groups.toml", "[groups]\nweb = [\"spiffe://example.org/device/web-1\"]\n");
    const RULES: (&str, &str) = (
        "a.cedar",
        "@id(\"web\") @reason(\"they order\")\n\
         permit(principal in Group::\"web\", action, resource == Service::\"orders\") when { principal.tier >= 1 };\n\
         @id(\"risky\") @reason(\"too strange\") forbid(principal, action, resource) when { context.risk >= 80 };\n\
         @id(\"late\") @reason(\"at night\") forbid(principal, action, resource)\n\
         when { context.local && context.hour * 9223372036854775807 > 0 && context.hour == 3 };\n",
    );
    const CASE: &str =
        "[[case]]\nname = 'n'\ndevice = 'web-1'\nservice = 'orders'\ntier = 1\nhour = 0\nexpect = ";

    #[test]
    fn check_sums_up_a_good_folder_and_warns() {
        let (code, told) = play(&[GROUPS, RULES, ("b.ceder", "")], "check --dir DIR");
        let (good, warnings) = told.split_once('\n').unwrap();
        assert_eq!(
            (code, good.rsplit_once(' ').unwrap().0),
            (0, "DIR: good: 3 rules, 1 groups, 2 files, digest")
        );
        assert_eq!(
            warnings,
            "warning: DIR/b.ceder: is not read: rules are in `*.cedar`, groups in `groups.toml`, actions in `behaviour.toml`\n"
        );
    }

    #[test]
    fn check_tells_every_mistake_with_file_line_and_column() {
        let (code, told) = play(&[("a.cedar", "permit"), ("b.cedar", "\n x")], "check --dir DIR");
        assert_eq!(code, 2);
        let lines: Vec<_> = told.lines().collect();
        assert!(
            lines[0].starts_with("DIR/a.cedar:1:7: ") && lines[1].starts_with("DIR/b.cedar:2:"),
            "{told}"
        );
        assert_eq!(play(&[], "check --dir DIR/none").0, 2);
    }

    #[test]
    fn test_runs_the_tables_and_names_rules_without_a_case() {
        let allow = format!("{CASE}'allow'");
        let (code, told) = play(&[GROUPS, RULES, ("tests/a.toml", &allow)], "test --dir DIR");
        let untested =
            "warning: no case is decided by rule `risky`\nwarning: no case is decided by rule `late`\n";
        assert_eq!((code, told), (0, format!("{untested}1 cases, 0 failed\n")));
        let deny = format!("{CASE}'deny'");
        let (code, told) = play(&[GROUPS, RULES, ("tests/a.toml", &deny)], "test --dir DIR");
        let failure = "DIR/tests/a.toml:1:1: case `n`: expected deny, got inbound allow by `web`\n";
        assert_eq!((code, told), (1, format!("{failure}{untested}1 cases, 1 failed\n")));
        assert_eq!(play(&[GROUPS, RULES, ("tests/a.toml", "x")], "test --dir DIR").0, 2);
    }

    #[test]
    fn explain_names_the_rules_their_places_and_what_was_missing() {
        let ask = |more: &str| {
            play(&[GROUPS, RULES], &format!("explain --dir DIR --service orders --device {more}"))
        };
        let who = "spiffe://example.org/device/web-1 -> orders\n  groups: web\n";
        let (code, told) = ask("web-1 --direction inbound --tier 1");
        assert_eq!(
            (code, told),
            (0, format!("ALLOW inbound: {who}  permit `web` at DIR/a.cedar:1:1: they order\n"))
        );
        let (code, told) = ask("web-1 --hour 0");
        let why = "  why: no permit lets device `spiffe://example.org/device/web-1` reach service `orders`\n  \
                   missing: rule `web` matched the device and service but its conditions did not hold: tier=0\n  \
                   not met: `web` at DIR/a.cedar:1:1\n";
        assert_eq!((code, told), (1, format!("DENY outbound: {who}{why}DENY inbound: {who}{why}")));
        let (code, told) = ask("web-1 --direction inbound --tier 1 --risk 80 --pq false --uid 0");
        assert_eq!(
            (code, told),
            (1, format!("DENY inbound: {who}  forbid `risky` at DIR/a.cedar:3:1: too strange\n"))
        );
        let (code, told) = ask("web-1 --direction outbound --tier 1 --hour 2");
        assert!(
            code == 1 && told.contains("  error: rule `late` could not be evaluated: integer overflow"),
            "{told}"
        );
        let (code, told) = ask("spiffe://a/b --direction inbound --hour 3");
        assert!(
            code == 1
                && told
                    .contains("missing: no permit for the service names the device, and it is in no group"),
            "{told}"
        );
        assert_eq!(
            ask("nobody"),
            (2, "no group lists a device `nobody`, write the whole SPIFFE ID\n".into())
        );
    }

    #[test]
    fn schema_prints_what_rules_are_checked_against() {
        assert_eq!(play(&[], "schema"), (0, SCHEMA.into()));
    }
}
