//! `countersign demo`: real sidecars, an authority, honest traffic, and intruders that are stopped.

mod intruder;
mod scenes;
mod service;
mod stage;
mod thief;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use stage::Stage;

/// What `demo` can be told.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Print one JSON object a scene.
    #[arg(long)]
    json: bool,
    /// Leave the set-up in this folder (new or empty) and print what to try next.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// One scene as it went, and the shape of a line of `--json`.
#[derive(serde::Serialize)]
struct Report {
    scene: &'static str,
    expected: &'static str,
    got: String,
    reason: String,
    ms: u128,
    pass: bool,
}

/// Plays every scene; succeeds when each went as expected.
pub fn run(args: &DemoArgs) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&format!("the runtime did not start: {e}")),
    };
    match runtime.block_on(play(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => failed(&e),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("countersign demo: {why}");
    ExitCode::FAILURE
}

async fn play(args: &DemoArgs) -> Result<bool, String> {
    let folder = Folder::new(args.keep.as_deref())?;
    tokio::select! {
        played = play_in(&folder.path, args) => played,
        // So that the sidecars are stopped and a temporary folder goes.
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    }
}

async fn play_in(dir: &Path, args: &DemoArgs) -> Result<bool, String> {
    if !args.json {
        say(
            "An authority, two sidecars that joined at it, web-1 and server-1, and the service `orders` behind server-1.",
        );
        say(&format!("Set-up: {}\n", dir.display()));
    }
    let since = Instant::now();
    let mut stage = Stage::set(dir).await?;
    let reports = scenes::all(&mut stage, |report| tell(report, args.json)).await;
    stage.web.stop().await?;
    stage.server.stop().await?;
    stage.authority.stop().await?;
    let passed = reports.iter().filter(|r| r.pass).count();
    if !args.json {
        let (all, took) = (reports.len(), since.elapsed().as_secs_f32());
        say(&format!("\n{passed} of {all} scenes went as expected, in {took:.1} s."));
    }
    if args.keep.is_some() {
        let text = next_steps(&stage.dir, stage.app, stage.orders.addr);
        if args.json { eprintln!("{text}") } else { say(&text) }
    }
    Ok(passed == reports.len())
}

fn tell(report: &Report, json: bool) {
    say(&if json { json_line(report) } else { table_line(report) });
}

/// A line on stdout. When nobody reads it any more the scenes are played all the same: the exit code tells.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn json_line(report: &Report) -> String {
    serde_json::to_string(report).unwrap_or_default()
}

/// One line of at most 120 columns; a scene that failed tells everything on lines of its own.
fn table_line(report: &Report) -> String {
    let mark = if report.pass { "ok" } else { "FAIL" };
    let reason = if report.reason.is_empty() { "-" } else { &report.reason };
    let Report { scene, expected, got, ms, .. } = report;
    let line = format!("{mark:<4} {scene:<39} {:<43} {reason:<22} {ms:>5} ms", short(got, 43));
    if report.pass { line } else { format!("{line}\n     expected: {expected}\n     got:      {got}") }
}

/// The first line of a text, with an ellipsis where something is left out.
fn short(text: &str, width: usize) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.len() == text.len() && first.chars().count() <= width {
        return first.to_string();
    }
    let head: String = first.chars().take(width - 1).collect();
    format!("{}\u{2026}", head.trim_end())
}

/// What to paste next, in this order, into one shell. The services ended with the demo, so that one comes first.
fn next_steps(dir: &Path, app: SocketAddr, orders: SocketAddr) -> String {
    let bin = std::env::current_exe().ok().and_then(|exe| exe.parent().map(quoted)).unwrap_or_default();
    let start = |sidecar: &str| {
        let config = format!("--config {sidecar}/countersign.toml");
        format!(
            "countersign run {config} 2> {sidecar}/again.log &\n  \
             until countersign status {config} > {sidecar}/status 2>&1; do sleep 0.1; done"
        )
    };
    format!(
        "
The set-up stays. Try next, in one shell:

  cd {dir}
  export PATH={bin}:\"$PATH\"
  countersign audit tail --config server/countersign.toml --denied -n 100 | grep -v peer_closed
  countersign audit verify --config server/countersign.toml
  countersign policy explain --dir server/policies --device web-1 --service ledger

A service of your own behind the two sidecars (whatever listens on {orders} will do), and a request:

  python3 -m http.server {port} --bind {host} > http.log 2>&1 & service=$!
  {server}
  {web}
  curl -sS --retry 5 --retry-all-errors -o answer -w '%{{http_code}}\\n' http://{app}/
  countersign status --config web/countersign.toml
  countersign audit tail --config server/countersign.toml -n 5

The demo revoked kiosk-1. Give it a new certificate, then stop everything:

  countersign device issue --name kiosk-1 --out intruders/kiosk-1
  countersign drain --config web/countersign.toml
  countersign drain --config server/countersign.toml
  kill $service; wait",
        dir = quoted(dir),
        port = orders.port(),
        host = orders.ip(),
        server = start("server"),
        web = start("web"),
    )
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The set-up's folder; a temporary one is removed at the end.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(keep: Option<&Path>) -> Result<Self, String> {
        let path = match keep {
            Some(dir) => dir.to_owned(),
            None => std::env::temp_dir().join(format!("countersign-demo-{}", std::process::id())),
        };
        let empty = std::fs::read_dir(&path).map_or(true, |mut entries| entries.next().is_none());
        if !empty {
            return Err(format!("{} is not empty; name a new folder with --keep", path.display()));
        }
        std::fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let path = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { path, keep: keep.is_some() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(got: &str, pass: bool) -> Report {
        let reason = "certificate_untrusted".to_string();
        Report {
            scene: "certificate of another CA",
            expected: "refused",
            got: got.into(),
            reason,
            ms: 7,
            pass,
        }
    }

    #[test]
    fn a_scene_is_one_json_object_with_six_fields() {
        assert_eq!(
            json_line(&report("a \"b\"\nc", true)),
            r#"{"scene":"certificate of another CA","expected":"refused","got":"a \"b\"\nc","reason":"certificate_untrusted","ms":7,"pass":true}"#
        );
    }

    #[test]
    fn a_line_of_the_table_is_120_columns_whatever_came_out() {
        let long = "x".repeat(300);
        for got in ["", "let in", &long, "two\nlines", &"\u{e4}".repeat(200)] {
            assert_eq!(table_line(&report(got, true)).chars().count(), 120, "{got}");
        }
        let failed = table_line(&report("two\nlines", false));
        assert!(failed.starts_with("FAIL ") && failed.contains("two\u{2026}"), "{failed}");
        assert!(failed.ends_with("expected: refused\n     got:      two\nlines"), "{failed}");
    }

    #[test]
    fn a_path_is_quoted_where_a_shell_would_split_it() {
        for (path, shown) in [("/a/b-1.x", "/a/b-1.x"), ("/a b", "'/a b'"), ("/it's", r"'/it'\''s'")] {
            assert_eq!(quoted(Path::new(path)), shown);
        }
    }
}
