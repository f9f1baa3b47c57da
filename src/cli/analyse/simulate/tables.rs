//! What the plays came to, as tables in Markdown.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::mixes::{MIXES, Mix};
use super::suite::{self, Outcome};
use crate::analyser::Rule;

/// Where limits stood: by scenario, strength and seed, what they are on and how high.
pub(super) type Limits = BTreeMap<(u8, &'static str, u64), (&'static str, f64)>;

/// How far three weeks of poison moved the limit that then stopped the exfiltration, against the same play without.
pub(super) fn show_growth(limits: &Limits, out: &mut dyn Write) -> io::Result<()> {
    let mut growth: Vec<f64> = limits
        .iter()
        .filter(|((number, _, _), (_, limit))| *number == suite::POISONING && *limit > 0.0)
        .filter_map(|((_, strength, seed), (measure, limit))| {
            let (clean_measure, clean) = limits.get(&(suite::EXFILTRATION, *strength, *seed))?;
            (clean_measure == measure && *clean > 0.0).then(|| limit / clean)
        })
        .collect();
    growth.sort_by(f64::total_cmp);
    let (Some(median), Some(most)) = (growth.get(growth.len() / 2), growth.last()) else { return Ok(()) };
    writeln!(
        out,
        "three weeks of 5 % more each day moved the limit {median:.2} times (median), {most:.2} times at most, \
         in {} plays (mark 1.3)",
        growth.len()
    )
}

/// Attacks and what became of them.
#[derive(Default)]
pub(super) struct Table {
    pub(super) lines: Vec<Line>,
    pub(super) honest: (u64, u64),
}

pub(super) struct Line {
    pub(super) name: String,
    pub(super) strength: &'static str,
    pub(super) marked: bool,
    pub(super) runs: u64,
    pub(super) in_time: u64,
    pub(super) late: Vec<u64>,
    pub(super) missed: Vec<u64>,
    pub(super) used: Vec<f64>,
    pub(super) rows: Vec<u64>,
    pub(super) rules: BTreeMap<Rule, u64>,
}

impl Table {
    pub(super) fn add(
        &mut self,
        name: &str,
        strength: &'static str,
        seed: u64,
        outcome: &Outcome,
        marked: bool,
    ) {
        self.honest.0 += outcome.honest_flows;
        self.honest.1 += outcome.false_blocks;
        let known = self.lines.iter().any(|l| l.name == name && l.strength == strength);
        if !known {
            self.lines.push(Line {
                name: name.into(),
                strength,
                marked,
                runs: 0,
                in_time: 0,
                late: Vec::new(),
                missed: Vec::new(),
                used: Vec::new(),
                rows: Vec::new(),
                rules: BTreeMap::new(),
            });
        }
        let Some(line) = self.lines.iter_mut().find(|l| l.name == name && l.strength == strength) else {
            return;
        };
        line.runs += 1;
        match outcome.rule {
            Some(rule) => {
                *line.rules.entry(rule).or_default() += 1;
                line.used.push(outcome.used);
                line.rows.push(outcome.rows);
                if outcome.is_in_time() { line.in_time += 1 } else { line.late.push(seed) }
            }
            None => line.missed.push(seed),
        }
    }

    /// A row for each line. `kind` and `degree`: what the first two columns are.
    pub(super) fn show_lines(&mut self, kind: &str, degree: &str, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "| {kind} | {degree} | blocked in time | of the bound used, median | events, median | by | late (seeds) | missed (seeds) |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|")?;
        for line in &mut self.lines {
            line.used.sort_by(f64::total_cmp);
            line.rows.sort_unstable();
            let used =
                line.used.get(line.used.len() / 2).map_or("-".into(), |u| format!("{:.0} %", u * 100.0));
            let rows = line.rows.get(line.rows.len() / 2).map_or("-".into(), u64::to_string);
            let rules: Vec<_> = line.rules.iter().map(|(rule, n)| format!("{rule} {n}")).collect();
            let note = if line.marked { "" } else { " (reported only)" };
            writeln!(
                out,
                "| {} | {}{note} | {}/{} | {used} | {rows} | {} | {} | {} |",
                line.name,
                line.strength,
                line.in_time,
                line.runs,
                listed(&rules),
                seeds(&line.late),
                seeds(&line.missed)
            )?;
        }
        Ok(())
    }

    /// The attacks, and how many of them were blocked in time.
    pub(super) fn show(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.show_lines("attack", "strength", out)?;
        let (mut easy, mut hard) = ((0, 0), (0, 0));
        for line in &self.lines {
            let counted =
                if line.strength != "hard" && is_first_ten(&line.name) { &mut easy } else { &mut hard };
            if line.marked {
                counted.0 += line.in_time;
                counted.1 += line.runs;
            }
        }
        let share = |(in_time, runs): (u64, u64)| 100.0 * in_time as f64 / runs.max(1) as f64;
        writeln!(
            out,
            "\n1-10 easy and medium: {}/{} in time ({:.1} %, mark 99 %)",
            easy.0,
            easy.1,
            share(easy)
        )?;
        writeln!(out, "hard, and 11-14: {}/{} in time ({:.1} %, mark 90 %)", hard.0, hard.1, share(hard))?;
        let (flows, blocked) = self.honest;
        writeln!(
            out,
            "honest flows of all devices beside the attacks: {blocked} blocked of {flows} ({:.2} per 100,000)",
            per_100_000(blocked, flows)
        )
    }
}

pub(super) fn is_first_ten(name: &str) -> bool {
    name.split(' ').next().and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| n <= 10)
}

pub(super) fn show_days(days: &[(&Mix, u64, suite::Day)], out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\n| honest day | seeds | flows | fewest in a run | blocked | per 100,000 | quarantined | by | seeds with blocks |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    let (mut flows, mut blocked, mut restarts) = (0, 0, 0);
    for mix in &MIXES {
        let own: Vec<_> = days.iter().filter(|(m, _, _)| m.name == mix.name).collect();
        if own.is_empty() {
            continue;
        }
        let mut sum = suite::Day::default();
        for (_, _, day) in &own {
            sum.flows += day.flows;
            sum.blocked += day.blocked;
            sum.quarantined += day.quarantined;
            for (rule, n) in &day.rules {
                *sum.rules.entry(*rule).or_default() += n;
            }
        }
        let fewest = own.iter().map(|(_, _, day)| day.flows).min().unwrap_or(0);
        let with: Vec<u64> =
            own.iter().filter(|(_, _, day)| day.blocked > 0).map(|(_, seed, _)| *seed).collect();
        let rules: Vec<_> = sum.rules.iter().map(|(rule, n)| format!("{rule} {n}")).collect();
        writeln!(
            out,
            "| {} | {} | {} | {fewest} | {} | {:.2} | {} | {} | {} |",
            mix.name,
            own.len(),
            sum.flows,
            sum.blocked,
            per_100_000(sum.blocked, sum.flows),
            sum.quarantined,
            listed(&rules),
            seeds(&with)
        )?;
        flows += sum.flows;
        blocked += sum.blocked;
        restarts += if mix.is_restart { sum.quarantined } else { 0 };
    }
    writeln!(
        out,
        "\nall honest days: {blocked} of {flows} flows blocked ({:.2} per 100,000, mark 1); devices quarantined in a deploy, failover or restart: {restarts} (mark 0)",
        per_100_000(blocked, flows)
    )
}

pub(super) fn per_100_000(part: u64, of: u64) -> f64 {
    100_000.0 * part as f64 / of.max(1) as f64
}

pub(super) fn listed<T: AsRef<str>>(words: &[T]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

pub(super) fn seeds(list: &[u64]) -> String {
    let words: Vec<_> = list.iter().map(u64::to_string).collect();
    listed(&words)
}
