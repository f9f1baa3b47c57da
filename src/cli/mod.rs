//! The commands.

pub mod analyse;
pub mod audit;
pub mod ca;
pub mod config;
pub mod demo;
pub mod device;
pub mod device_queue;
mod device_show;
pub mod doctor;
pub mod join;
pub mod policy;
pub mod run;
pub mod status;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::model::Timestamp;

/// A zero-trust sidecar: proves which device is at the other end before a byte passes.
#[derive(Parser, Debug)]
#[command(name = "countersign", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a sidecar in the foreground, and an app beside it: `countersign run -- app args`
    Run(run::RunArgs),
    /// Watch two sidecars carry honest traffic and stop intruders
    Demo(demo::DemoArgs),
    /// Make and keep a certificate authority
    Ca(ca::CaArgs),
    /// Issue device certificates, and show what a machine is recognised by
    Device(device::DeviceArgs),
    /// Join with a one-time token from `countersign device invite`
    Join(join::JoinArgs),
    /// Check the configuration, show what it comes to, or print an example
    Config(config::ConfigArgs),
    /// Check, test and explain the policy
    Policy(policy::Args),
    /// Play recorded traffic before the analyser
    Analyse(analyse::AnalyseArgs),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Check what a sidecar stands on: dates, disk, names, peers, authority
    Doctor(doctor::DoctorArgs),
    /// Show what a running sidecar is and does
    Status(status::StatusArgs),
    /// Have a running sidecar read its policy and certificates again
    Reload(status::SidecarArgs),
    /// Have a running sidecar finish its flows and stop
    Drain(status::SidecarArgs),
    /// Have a running sidecar let devices out of the quarantine that their behaviour brought them
    Release(status::SidecarArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Ca(args) => told(|out| ca::run(&args, Timestamp::now(), out)),
        Command::Device(args) => told(|out| device::run(&args, Timestamp::now(), out)),
        Command::Join(args) => told(|out| join::run(&args, Timestamp::now(), out)),
        Command::Config(args) => config::run(&args),
        Command::Policy(args) => {
            let done =
                policy::run(&args, Timestamp::now(), &mut io::stdout().lock(), &mut io::stderr().lock());
            done.map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Command::Analyse(args) => analyse::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Status(args) => status::status(&args),
        Command::Reload(args) => status::reload(&args),
        Command::Drain(args) => status::drain(&args),
        Command::Release(args) => status::release(&args),
    }
}

/// Runs a command that writes to standard output and fails with one message.
fn told<E: std::fmt::Display>(command: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> ExitCode {
    match command(&mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("countersign: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Exit code of a command that was given something wrong.
const MISTAKEN: u8 = 2;
