//! `countersign analyse`: what the analyser makes of traffic.

mod progress;
pub mod replay;

use std::process::ExitCode;

use clap::{Args, Subcommand};

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
}

/// Runs it.
pub fn run(args: &AnalyseArgs) -> ExitCode {
    match &args.command {
        Command::Replay(args) => replay::run(args),
    }
}
