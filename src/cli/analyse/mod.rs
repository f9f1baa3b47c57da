//! `countersign analyse`: what the analyser makes of traffic.

mod judge;
mod progress;
pub mod replay;
pub mod simulate;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::told;

/// Arguments of `countersign analyse`.
#[derive(Args, Debug)]
pub struct AnalyseArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Play recorded traffic before the analyser: a line of CSV for each record says what it thinks
    Replay(replay::ReplayArgs),
    /// Play attacks and honest days from a seed before the analyser, or write them as flow records
    Simulate(simulate::SimulateArgs),
}

/// Runs it.
pub fn run(args: &AnalyseArgs) -> ExitCode {
    match &args.command {
        Command::Replay(args) => replay::run(args),
        Command::Simulate(args) => told(|out| simulate::run(args, out)),
    }
}
