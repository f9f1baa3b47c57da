//! `countersign run`: runs a sidecar in the foreground, and an app beside it when one is named.

use std::process::ExitCode;

use crate::agent::{self, App, Exit};
use crate::telemetry;

use super::MISTAKEN;
use super::config::ConfigFile;

/// Run a sidecar in the foreground.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// The app to start when the sidecar is ready; the sidecar leaves with it.
    #[arg(last = true, value_name = "APP")]
    app: Vec<String>,
}

/// Runs it: exit code 0 after an orderly stop or the app's own, 1 when it cannot start, 2 when the configuration has
/// mistakes.
pub fn run(args: &RunArgs) -> ExitCode {
    let config = match args.file.load() {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(MISTAKEN);
        }
    };
    if let Err(e) = telemetry::start_logging(&config.telemetry, std::io::stderr) {
        eprintln!("countersign: {e}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("countersign: the runtime did not start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let app = (!args.app.is_empty()).then(|| App(args.app.clone()));
    match runtime.block_on(agent::run(config, app)) {
        Ok(Exit::Asked) => ExitCode::SUCCESS,
        Ok(Exit::App(code)) => ExitCode::from(code),
        Err(e) => {
            eprintln!("countersign: the sidecar did not start:\n{e}");
            ExitCode::FAILURE
        }
    }
}
