//! `countersign config`: checks a file, shows what it comes to, prints an example.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::MISTAKEN;
use crate::config::{self, Config, Mistakes};

/// Check the configuration, show what it comes to, or print an example.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

/// What to do with the configuration.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Check the file and tell every mistake at once.
    Check(ConfigFile),
    /// Print every value in force as TOML, with `--effective` including the defaults.
    Show {
        /// Where it is.
        #[command(flatten)]
        file: ConfigFile,
        /// Print every value in force, defaults and resolved paths included.
        #[arg(long, required = true)]
        effective: bool,
    },
    /// Print a commented example with every key.
    Example,
}

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", default_value = "countersign.toml")]
    pub config: PathBuf,
}

impl ConfigFile {
    /// Reads the file.
    ///
    /// # Errors
    /// All its [`Mistakes`].
    pub fn load(&self) -> Result<Config, Mistakes> {
        config::load(&self.config)
    }
}

/// Runs `countersign config …`: exit code 0, or 2 when the file has mistakes.
pub fn run(args: &ConfigArgs) -> ExitCode {
    play(&args.command, &mut io::stdout().lock(), &mut io::stderr().lock()).into()
}

/// Exit code of a command that could not print.
const UNPRINTED: u8 = 1;

fn play(command: &ConfigCommand, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let text = match command {
        ConfigCommand::Check(file) => file.load().map(|config| summary(&config)),
        ConfigCommand::Show { file, effective: _ } => file.load().map(|config| config.to_toml()),
        ConfigCommand::Example => Ok(config::EXAMPLE.to_owned()),
    };
    let (printed, code) = match text {
        Ok(text) => (out.write_all(text.as_bytes()), 0),
        Err(mistakes) => (writeln!(err, "{mistakes}"), MISTAKEN),
    };
    if printed.is_ok() { code } else { UNPRINTED }
}

fn summary(config: &Config) -> String {
    format!(
        "{}: ok; {} inbound, {} outbound, {} local doors, trust domain {}\n",
        config.source.display(),
        config.flow.inbound.len(),
        config.flow.outbound.len(),
        config.capture.len(),
        config.identity.trust_domain
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: ConfigArgs,
    }

    /// Exit code, standard output and standard error.
    fn run_with(args: &[&str]) -> (u8, String, String) {
        let cli = Cli::try_parse_from([&["config"], args].concat()).unwrap_or_else(|e| panic!("{e}"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = play(&cli.config.command, &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn check_says_ok_in_one_line_or_every_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        let file = path.to_str().unwrap();
        std::fs::write(&path, config::EXAMPLE).unwrap();
        let (code, out, err) = run_with(&["check", "--config", file]);
        let told = format!("{file}: ok; 1 inbound, 2 outbound, 3 local doors, trust domain example.org\n");
        assert_eq!((code, out, err), (0, told, String::new()));

        std::fs::write(&path, "version = 2\nx = 1\n").unwrap();
        let (code, out, err) = run_with(&["check", "--config", file]);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(err.lines().count() >= 3 && err.lines().all(|line| line.starts_with(file)), "{err}");
    }

    #[test]
    fn show_prints_what_reads_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, run_with(&["example"]).1).unwrap();
        let (code, out, _) = run_with(&["show", "--effective", "--config", path.to_str().unwrap()]);
        assert_eq!(code, 0);
        std::fs::write(&path, &out).unwrap();
        assert_eq!(run_with(&["show", "--effective", "-c", path.to_str().unwrap()]).1, out);
        assert!(Cli::try_parse_from(["config", "show"]).is_err());
    }

    #[test]
    fn a_missing_file_is_a_mistake() {
        let (code, _, err) = run_with(&["check", "--config", "/nonexistent/c.toml"]);
        assert_eq!(code, 2);
        assert!(err.starts_with("/nonexistent/c.toml: cannot be opened: "), "{err}");
    }
}
