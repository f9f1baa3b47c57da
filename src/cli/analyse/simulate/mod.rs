//! `countersign analyse simulate`: attacks and honest days from a seed, before the analyser or as flow records.

mod attacks;
mod dice;
mod emit;
mod evasion;
mod honest;
mod mixes;
mod stage;
pub(super) mod suite;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::{Args, ValueEnum};

use crate::analyser::Rule;
use attacks::{SCENARIOS, Scenario, Scene};
use dice::Dice;
use emit::Rows;
use evasion::EVASIONS;
use honest::{Variety, company, site};
use mixes::{MIXES, Mix};
use stage::{DAWN, DAY, HOUR, Stage};
use suite::{Attack, Call, Outcome, play_attack, play_mix};
use tables::{Table, listed, show_days, show_growth};

/// `countersign analyse simulate`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct SimulateArgs {
    /// Play all attacks and honest days before the analyser, and print what it did
    #[arg(long, group = "what")]
    suite: bool,
    /// Switch each detector off in turn, and print which attacks are then blocked later or not at all
    #[arg(long, group = "what")]
    each_off: bool,
    /// Play the attackers who know the analyser
    #[arg(long, group = "what")]
    evasion: bool,
    /// Write an attack or an honest day as flow records (CSV)
    #[arg(long, group = "what", value_name = "NAME")]
    emit: Option<String>,
    /// Print the names of attacks and honest days
    #[arg(long, group = "what")]
    list: bool,
    /// Only these attacks and honest days, by name
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Switch this detector off: what it alone blocks is lost
    #[arg(long, value_name = "RULE")]
    without: Vec<Detector>,
    /// How many seeds of each
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=SEEDS_MAX))]
    seeds: u64,
    /// The first seed, or the one to emit
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How loud the emitted attack is
    #[arg(long, value_enum, default_value_t = Strength::Medium)]
    strength: Strength,
    /// Emit it with the parameters kept for training, which no suite plays
    #[arg(long)]
    train: bool,
    /// Emit it at a site without a mesh: addresses, a workstation, no policy
    #[arg(long)]
    site: bool,
}

/// How loud an attack is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Strength {
    Easy,
    Medium,
    Hard,
}

/// A detector, by its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Detector(Rule);

impl std::str::FromStr for Detector {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Rule::ALL.map(Rule::name).join(", ");
        Rule::from_name(name).map(Self).ok_or_else(|| format!("no detector; there are {}", names()))
    }
}

/// Why nothing is played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// No attack and no honest day of this name.
    #[error("`{0}` is no attack and no honest day; `countersign analyse simulate --list` names them")]
    Name(String),
    /// The output is gone.
    #[error("cannot be written: {0}")]
    Write(#[from] io::Error),
}

/// Runs the command.
///
/// # Errors
/// [`SimulateError`] when something is asked for that there is not, or the output is gone.
pub fn run(args: &SimulateArgs, out: &mut dyn Write) -> Result<(), SimulateError> {
    for name in &args.only {
        if Scenario::find(name).is_none() && !MIXES.iter().any(|m| m.name == name) {
            return Err(SimulateError::Name(name.clone()));
        }
    }
    if args.list {
        for scenario in &SCENARIOS {
            writeln!(out, "attack  {:2} {}", scenario.number, scenario.name)?;
        }
        for mix in &MIXES {
            writeln!(out, "honest     {}", mix.name)?;
        }
        return Ok(());
    }
    if let Some(name) = &args.emit {
        return emit(name, args, out);
    }
    let without: Vec<Rule> = args.without.iter().map(|d| d.0).collect();
    let call = super::judge::caller(&without, None);
    if args.each_off {
        return show_each_off(args, out);
    }
    if args.evasion { show_evasions(args, &call, out) } else { show_suite(args, &call, out) }
}

/// Writes one play as flow records: the days before, and the attack.
fn emit(name: &str, args: &SimulateArgs, out: &mut dyn Write) -> Result<(), SimulateError> {
    let strength = match args.strength {
        Strength::Easy => attacks::Strength::Easy,
        Strength::Medium => attacks::Strength::Medium,
        Strength::Hard => attacks::Strength::Hard,
    };
    if let Some(mix) = MIXES.iter().find(|m| m.name == name) {
        let mut stage = Stage::new(Dice::new(args.seed, "test-mix"));
        mix.start(&mut stage);
        let mut rows = Rows::new(out, "benign")?;
        while let Some(mut act) = stage.next(DAWN + mix.learns + mix.lasts) {
            act.event = mix.clocked(act.event);
            rows.take(&act, &stage)?;
        }
        return Ok(());
    }
    let scenario = Scenario::find(name).ok_or_else(|| SimulateError::Name(name.into()))?;
    let (variety, word) = if args.train { (Variety::Train, "train") } else { (Variety::Test, "test") };
    let mut stage = Stage::new(Dice::new(args.seed, word));
    let company = if args.site { site(&mut stage, variety) } else { company(&mut stage, variety) };
    let mut rows = Rows::new(out, scenario.name)?;
    let at = DAWN + DAY + 2 * HOUR;
    while let Some(act) = stage.next(at) {
        rows.take(&act, &stage)?;
    }
    let mut scene = Scene { stage: &mut stage, company: &company, at, strength, variety, pace: PACE };
    scenario.start(&mut scene);
    // What is still open when the attack is over is cut off: a row is written when a flow ends.
    while let Some(act) = stage.next(at + scenario.lasts(strength)) {
        rows.take(&act, &stage)?;
    }
    Ok(())
}

/// One line of the suite: an attack in one strength, or an honest day.
enum Task {
    Attack(&'static Scenario, attacks::Strength),
    Mix(&'static Mix),
}

fn show_suite(args: &SimulateArgs, call: Call<'_>, out: &mut dyn Write) -> Result<(), SimulateError> {
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let numbered = |s: &Scenario| wanted(s.name) || wanted(&s.number.to_string());
    let scenarios: Vec<_> = SCENARIOS.iter().filter(|s| numbered(s)).collect();
    let mixes: Vec<_> = MIXES.iter().filter(|m| wanted(m.name)).collect();
    let mut tasks = Vec::new();
    for scenario in &scenarios {
        tasks.extend(attacks::Strength::ALL.map(|strength| Task::Attack(scenario, strength)));
    }
    tasks.extend(mixes.iter().map(|mix| Task::Mix(mix)));
    let seeds: Vec<u64> = (args.seed..).take(usize::try_from(args.seeds).unwrap_or(1)).collect();
    let switched: Vec<_> = args.without.iter().map(|d| d.0.name()).collect();
    writeln!(out, "{} seeds from {}; switched off: {}\n", args.seeds, args.seed, listed(&switched))?;

    let mut attacks = Table::default();
    let mut limits = BTreeMap::new();
    let mut days = Vec::new();
    let plays: Vec<(usize, u64)> =
        (0..tasks.len()).flat_map(|task| seeds.iter().map(move |seed| (task, *seed))).collect();
    let played = in_parallel(&plays, |(task, seed)| match tasks.get(*task) {
        Some(Task::Attack(scenario, strength)) => {
            let start = |scene: &mut Scene<'_>| scenario.start(scene);
            let attack = Attack::of(scenario, *strength, &start);
            Played::Attack(play_attack(&attack, Variety::Test, *seed, call))
        }
        Some(Task::Mix(mix)) => Played::Day(play_mix(mix, Variety::Test, *seed, call)),
        None => Played::Day(suite::Day::default()),
    });
    for ((task, seed), played) in plays.iter().zip(&played) {
        match (tasks.get(*task), played) {
            (Some(Task::Attack(scenario, strength)), Played::Attack(outcome)) => {
                let hard = *strength == attacks::Strength::Hard;
                let marked = !(hard && scenario.hard_is_reported);
                let name = format!("{} {}", scenario.number, scenario.name);
                attacks.add(&name, strength.name(), *seed, outcome, marked);
                limits.insert((scenario.number, strength.name(), *seed), (outcome.measure, outcome.limit));
            }
            (Some(Task::Mix(mix)), Played::Day(day)) => days.push((*mix, *seed, day.clone())),
            _ => {}
        }
    }
    if !scenarios.is_empty() {
        attacks.show(out)?;
        show_growth(&limits, out)?;
    }
    if !mixes.is_empty() {
        show_days(&days, out)?;
    }
    Ok(())
}

enum Played {
    Attack(Outcome),
    Day(suite::Day),
}

/// Plays on all cores; the answers come in the order of the questions, whoever was first.
fn in_parallel<Q: Sync, A: Send>(questions: &[Q], play: impl Fn(&Q) -> A + Sync) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX);
    let mut answers: Vec<(usize, A)> = std::thread::scope(|scope| {
        let work = || {
            let mut own = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                match questions.get(at) {
                    Some(question) => own.push((at, play(question))),
                    None => return own,
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // A play that panicked is missing from the table; the panic was shown.
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Plays the attacks with all detectors, and again without each of them: what is lost, and what is blocked later.
fn show_each_off(args: &SimulateArgs, out: &mut dyn Write) -> Result<(), SimulateError> {
    let wanted = |s: &&Scenario| args.only.is_empty() || args.only.iter().any(|only| only == s.name);
    let plays: Vec<(&Scenario, attacks::Strength, u64)> = SCENARIOS
        .iter()
        .filter(wanted)
        .flat_map(|s| attacks::Strength::ALL.map(move |strength| (s, strength)))
        .flat_map(|(s, strength)| {
            (args.seed..).take(usize::try_from(args.seeds).unwrap_or(1)).map(move |seed| (s, strength, seed))
        })
        .collect();
    let play = |without: &[Rule]| {
        let call = super::judge::caller(without, None);
        in_parallel(&plays, |(scenario, strength, seed)| {
            let start = |scene: &mut Scene<'_>| scenario.start(scene);
            play_attack(&Attack::of(scenario, *strength, &start), Variety::Test, *seed, &call)
        })
    };
    let whole = play(&[]);
    writeln!(out, "{} seeds from {}\n", args.seeds, args.seed)?;
    writeln!(out, "| without | blocked in time | lost (plays) | blocked by another (plays) |")?;
    writeln!(out, "|---|---|---|---|")?;
    let in_time = |outcomes: &[Outcome]| outcomes.iter().filter(|o| o.is_in_time()).count();
    writeln!(out, "| - | {}/{} | - | - |", in_time(&whole), plays.len())?;
    for rule in Rule::ALL {
        let apart = play(&[rule]);
        let (mut lost, mut taken) = (BTreeMap::<_, u32>::new(), BTreeMap::<_, u32>::new());
        for (((scenario, strength, _), with), without) in plays.iter().zip(&whole).zip(&apart) {
            let name = (scenario.number, *strength as u8, format!("{} {}", scenario.name, strength.name()));
            if with.is_in_time() && !without.is_in_time() {
                *lost.entry(name).or_default() += 1;
            } else if with.rule == Some(rule) && without.is_in_time() {
                *taken.entry(name).or_default() += 1;
            }
        }
        let words = |of: &BTreeMap<(u8, u8, String), u32>| {
            listed(&of.iter().map(|((_, _, name), n)| format!("{name} ({n})")).collect::<Vec<_>>())
        };
        let blocked = in_time(&apart);
        writeln!(out, "| {rule} | {blocked}/{} | {} | {} |", plays.len(), words(&lost), words(&taken))?;
    }
    Ok(())
}

fn show_evasions(args: &SimulateArgs, call: Call<'_>, out: &mut dyn Write) -> Result<(), SimulateError> {
    let plays: Vec<(usize, u64)> = (0..EVASIONS.len())
        .flat_map(|n| (args.seed..).take(usize::try_from(args.seeds).unwrap_or(1)).map(move |s| (n, s)))
        .collect();
    let played =
        in_parallel(&plays, |(n, seed)| EVASIONS.get(*n).map(|e| e.play(*seed, call)).unwrap_or_default());
    let mut table = Table::default();
    for ((n, seed), outcome) in plays.iter().zip(&played) {
        let Some(evasion) = EVASIONS.get(*n) else { continue };
        table.add(evasion.name, if evasion.must { "must" } else { "shown" }, *seed, outcome, evasion.must);
    }
    table.show_lines("evasion", "floor", out)?;
    Ok(())
}

const SEEDS_MAX: u64 = 1000;
const THREADS_MAX: usize = 64;
/// Flows and requests per second of an emitted attack's device in a busy moment; the suite measures it.
const PACE: f64 = 2.0;
