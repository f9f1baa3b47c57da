//! Tests of the simulator: it says the same again, in order, and what it says is well formed.

use std::collections::HashMap;

use super::*;
use crate::analyser::Event;
use crate::analyser::event::{End, FlowKey, Standing, Way};

/// Every act of one attack and the hours before it.
fn acts(scenario: &Scenario, strength: attacks::Strength, seed: u64) -> Vec<stage::Act> {
    let mut stage = Stage::new(Dice::new(seed, "test"));
    let company = company(&mut stage, Variety::Test);
    let at = DAWN + 3 * HOUR;
    let mut acts: Vec<_> = std::iter::from_fn(|| stage.next(at)).collect();
    let variety = Variety::Test;
    let mut scene = Scene { stage: &mut stage, company: &company, at, strength, variety, pace: 2.0 };
    scenario.start(&mut scene);
    acts.extend(std::iter::from_fn(|| stage.next(at + scenario.lasts(strength))).take(200_000));
    acts
}

fn emitted(name: &str, seed: u64) -> String {
    emitted_as(name, seed, false, false)
}

fn emitted_as(name: &str, seed: u64, train: bool, site: bool) -> String {
    let mut out = Vec::new();
    let args = SimulateArgs {
        suite: false,
        each_off: false,
        evasion: false,
        emit: Some(name.into()),
        list: false,
        only: Vec::new(),
        without: Vec::new(),
        seeds: 1,
        seed,
        strength: Strength::Medium,
        train,
        site,
    };
    run(&args, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
    let first = emitted("scan", 7);
    assert_eq!(first, emitted("scan", 7));
    assert_ne!(first, emitted("scan", 8));
    assert!(first.starts_with(emit::COLUMNS) && first.lines().count() > 1000);
    assert!(first.lines().any(|line| line.ends_with(",1,scan")));
    let site = emitted_as("scan", 7, true, true);
    assert!(site.lines().skip(1).all(|line| line.split(',').nth(2) == Some("10.0.0.7")));
    assert!(site.lines().any(|line| line.ends_with(",1,scan")));
}

#[test]
fn what_there_is_not_is_named() {
    let args = SimulateArgs {
        suite: true,
        each_off: false,
        evasion: false,
        emit: None,
        list: false,
        only: vec!["wonder".into()],
        without: Vec::new(),
        seeds: 1,
        seed: 1,
        strength: Strength::Easy,
        train: false,
        site: false,
    };
    let said = run(&args, &mut Vec::new()).unwrap_err().to_string();
    assert_eq!(
        said,
        "`wonder` is no attack and no honest day; `countersign analyse simulate --list` names them"
    );
}

#[test]
fn events_come_in_order_and_every_flow_is_whole() {
    for scenario in &SCENARIOS {
        for strength in attacks::Strength::ALL {
            let mut last = 0;
            let mut open: HashMap<FlowKey, [u64; 2]> = HashMap::new();
            let mut attack = 0;
            for act in acts(scenario, strength, 1) {
                let now = act.event.at().0;
                assert!(now >= last, "{scenario:?} {strength:?}: time goes back");
                last = now;
                attack += u32::from(act.attack);
                match act.event {
                    Event::Open { flow, .. } => assert!(open.insert(flow, [0, 0]).is_none()),
                    Event::Chunk { flow, way, len, .. } => {
                        open.get_mut(&flow).unwrap()[way as usize] += u64::from(len);
                    }
                    Event::Message { flow, .. } => assert!(open.contains_key(&flow)),
                    Event::Close { flow, bytes, .. } => assert_eq!(open.remove(&flow), Some(bytes)),
                    Event::Tick { .. } => {}
                }
            }
            assert!(attack > 0, "{scenario:?} {strength:?} has no attack");
        }
    }
}

#[test]
fn each_attack_reaches_its_bound_while_it_lasts() {
    for scenario in &SCENARIOS {
        for strength in attacks::Strength::ALL {
            let mut gauge = attacks::Gauge::default();
            for act in acts(scenario, strength, 2) {
                gauge.count(&act);
            }
            let used = gauge.used(scenario.bound(strength));
            assert!(used >= 1.0, "{scenario:?} {strength:?} ends at {used} of its bound");
        }
    }
}

#[test]
fn attacks_are_what_they_say() {
    let scan = acts(&SCENARIOS[0], attacks::Strength::Easy, 3);
    let refused = |a: &&stage::Act| {
        a.attack && matches!(a.event, Event::Open { target, .. } if target.standing == Standing::Refused)
    };
    assert!(scan.iter().filter(refused).count() > 50);
    assert!(scan.iter().any(|a| matches!(a.event, Event::Close { end: End::Policy, .. })));
    let out: u64 = acts(&SCENARIOS[1], attacks::Strength::Medium, 3)
        .iter()
        .filter(|a| a.attack)
        .map(|a| match a.event {
            Event::Chunk { way: Way::Out, len, .. } => u64::from(len),
            _ => 0,
        })
        .sum();
    assert_eq!(out, 50_000_000);
}

#[test]
fn what_trains_is_not_what_tests() {
    let opens = |variety| {
        let mut stage = Stage::new(Dice::new(1, if variety == Variety::Test { "test" } else { "train" }));
        company(&mut stage, variety);
        std::iter::from_fn(|| stage.next(DAWN + HOUR)).map(|a| a.event.at()).collect::<Vec<_>>()
    };
    assert_ne!(opens(Variety::Test), opens(Variety::Train));
}

#[test]
#[ignore = "needs half a minute: `just test-analyser`"]
fn every_honest_day_has_its_flows() {
    let mut few = Vec::new();
    for mix in &MIXES {
        let mut stage = Stage::new(Dice::new(1, "test-mix"));
        mix.start(&mut stage);
        let (mut flows, learned) = (0, DAWN + mix.learns);
        while let Some(act) = stage.next(learned + mix.lasts) {
            let counts = act.event.at().0 >= learned && matches!(act.event, Event::Open { .. });
            flows += u64::from(counts);
            assert!(!act.attack);
            if flows >= ENOUGH {
                break;
            }
        }
        if flows < ENOUGH {
            few.push(format!("{}: {flows}", mix.name));
        }
    }
    assert_eq!(few, [""; 0]);
}

/// Flows that every honest day has, whatever its seed: 10,000 and some to spare.
const ENOUGH: u64 = 11_000;
