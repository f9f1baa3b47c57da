//! `countersign status`, `reload` and `drain`: ask a running sidecar through its admin socket.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use super::config::ConfigFile;
use crate::console::client::{self, ClientError};

/// Which sidecar to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct SidecarArgs {
    /// Its admin socket; else the one its configuration names.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    file: ConfigFile,
}

/// Show what a running sidecar is and does.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    sidecar: SidecarArgs,
    /// Print the JSON as it came.
    #[arg(long)]
    json: bool,
}

/// What to ask of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wish {
    Status { json: bool },
    Reload,
    Drain,
    Release,
}

/// Runs `countersign status`: exit code 0, 1 when there is no answer, 2 when it is a refusal.
pub fn status(args: &StatusArgs) -> ExitCode {
    run(&args.sidecar, Wish::Status { json: args.json })
}

/// Runs `countersign reload`: exit code 0, 1 when there is no answer, 2 when what is there cannot be loaded.
pub fn reload(args: &SidecarArgs) -> ExitCode {
    run(args, Wish::Reload)
}

/// Runs `countersign drain`: exit code as of [`status`].
pub fn drain(args: &SidecarArgs) -> ExitCode {
    run(args, Wish::Drain)
}

/// Runs `countersign release`: exit code as of [`status`].
pub fn release(args: &SidecarArgs) -> ExitCode {
    run(args, Wish::Release)
}

fn run(args: &SidecarArgs, wish: Wish) -> ExitCode {
    play(args, wish, &mut io::stdout().lock(), &mut io::stderr().lock()).into()
}

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] crate::config::Mistakes),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

fn play(args: &SidecarArgs, wish: Wish, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let (printed, code) = match ask(args, wish) {
        Ok((200, body)) => match wish {
            Wish::Status { json: false } => (out.write_all(table(&body).as_bytes()), 0),
            Wish::Status { json: true } | Wish::Reload | Wish::Drain | Wish::Release => {
                (out.write_all(body.as_bytes()), 0)
            }
        },
        Ok((status, body)) => (writeln!(err, "{}", refusal(status, &body)), REFUSED),
        Err(error) => (writeln!(err, "{error}"), UNANSWERED),
    };
    if printed.is_ok() { code } else { UNANSWERED }
}

fn ask(args: &SidecarArgs, wish: Wish) -> Result<(u16, String), StatusError> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => args.file.load()?.console.socket,
    };
    let (method, path) = match wish {
        Wish::Status { .. } => (Method::GET, "/status"),
        Wish::Reload => (Method::POST, "/reload"),
        Wish::Drain => (Method::POST, "/drain"),
        Wish::Release => (Method::POST, "/release"),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StatusError::Runtime)?;
    Ok(runtime.block_on(client::ask(&socket, method, path))?)
}

/// A problem (RFC 9457) in one line for people.
fn refusal(status: u16, body: &str) -> String {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |key: &str| plain(problem.get(key).and_then(Value::as_str).unwrap_or_default());
    let mut line = format!("refused with {status}: {}", text("title"));
    if !text("detail").is_empty() {
        line.push_str(&format!(" ({})", text("detail")));
    }
    if !text("next").is_empty() {
        line.push_str(&format!("; next: {}", text("next")));
    }
    line
}

/// JSON as indented keys and values; what is no JSON stays as it is.
fn table(body: &str) -> String {
    let mut text = String::new();
    match serde_json::from_str::<Value>(body) {
        Ok(value) => rows(&value, 0, &mut text),
        Err(_) => text.push_str(&plain(body)),
    }
    text
}

fn rows(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(pairs) => {
            let width = pairs.iter().filter(|(_, v)| is_leaf(v)).map(|(k, _)| k.chars().count()).max();
            for (key, value) in pairs {
                let (key, width) = (plain(key), width.unwrap_or(0));
                if is_leaf(value) {
                    text.push_str(&format!("{indent}{key:width$}  {}\n", leaf(value)));
                } else {
                    text.push_str(&format!("{indent}{key}\n"));
                    rows(value, depth + 1, text);
                }
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                if is_leaf(item) {
                    text.push_str(&format!("{indent}{}\n", leaf(item)));
                } else {
                    if i > 0 {
                        text.push('\n');
                    }
                    rows(item, depth, text);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text.push_str(&format!("{indent}{}\n", leaf(value)));
        }
    }
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(pairs) => pairs.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::Null | Value::Object(_) | Value::Array(_) => "-".to_owned(),
        Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => plain(text),
    }
}

/// Without characters that would steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{FFFD}' } else { c }).collect()
}

const UNANSWERED: u8 = 1;
const REFUSED: u8 = 2;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        sidecar: SidecarArgs,
    }

    #[test]
    fn a_status_is_shown_as_keys_and_values() {
        let body = r#"{"version":"0.1","ready":true,"flows":{"active":2,"refused":null},
            "peers":[{"id":"a","up":false},{"id":"b\u001b[31m","up":true}],"names":["x","y"],"none":[]}"#;
        insta::assert_snapshot!(table(body), @r"
        version  0.1
        ready    yes
        flows
          active   2
          refused  -
        peers
          id  a
          up  no

          id  b�[31m
          up  yes
        names
          x
          y
        none     -
        ");
    }

    #[test]
    fn a_refusal_is_told_with_its_next_step() {
        let body = r#"{"title":"no","detail":"a.cedar:1:1","next":"mend it"}"#;
        assert_eq!(refusal(403, body), "refused with 403: no (a.cedar:1:1); next: mend it");
        assert_eq!(refusal(500, "x"), "refused with 500: ");
    }

    #[test]
    fn a_sidecar_that_does_not_run_is_told_by_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, crate::config::EXAMPLE).unwrap();
        for args in [
            ["status", "--socket", folder.path().join("countersign.sock").to_str().unwrap()],
            ["status", "--config", file.to_str().unwrap()],
        ] {
            let cli = Cli::try_parse_from(args).unwrap_or_else(|e| panic!("{e}"));
            let (mut out, mut err) = (Vec::new(), Vec::new());
            assert_eq!(play(&cli.sidecar, Wish::Reload, &mut out, &mut err), UNANSWERED);
            let err = String::from_utf8(err).unwrap();
            assert!(err.starts_with("admin socket `") && err.contains("countersign.sock`: "), "{err}");
        }
    }
}
