//! `countersign demo`: two real sidecars, honest traffic, and intruders that are stopped.

mod intruder;
mod scenes;
mod service;
mod stage;

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

/// One scene as it went.
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
    if !args.json {
        println!("Two sidecars, web-1 and server-1, and the service `orders` behind server-1.");
        println!("Set-up: {}\n", folder.path.display());
    }
    let since = Instant::now();
    let mut stage = Stage::set(&folder.path).await?;
    let reports = scenes::all(&mut stage, |report| tell(report, args.json)).await;
    stage.web.stop().await?;
    stage.server.stop().await?;
    let passed = reports.iter().filter(|r| r.pass).count();
    if !args.json {
        println!(
            "\n{passed} of {} scenes went as expected, in {:.1} s.",
            reports.len(),
            since.elapsed().as_secs_f32()
        );
    }
    if args.keep.is_some() {
        next_steps(&folder.path, args.json);
    }
    Ok(passed == reports.len())
}

fn tell(report: &Report, json: bool) {
    if json {
        let line = serde_json::json!({
            "scene": report.scene, "expected": report.expected, "got": report.got,
            "reason": report.reason, "ms": report.ms, "pass": report.pass,
        });
        println!("{line}");
        return;
    }
    let mark = if report.pass { "ok  " } else { "FAIL" };
    let reason = if report.reason.is_empty() { "-" } else { &report.reason };
    println!("{mark} {:<58} {:<36} {:<24} {:>6} ms", report.scene, report.got, reason, report.ms);
    if !report.pass {
        println!("     expected: {}", report.expected);
    }
}

fn next_steps(dir: &Path, json: bool) {
    let say = |text: String| if json { eprintln!("{text}") } else { println!("{text}") };
    let dir = dir.display();
    say(format!("\nThe set-up stays in {dir}. Try next:"));
    for line in [
        format!("countersign run --config {dir}/server/countersign.toml &"),
        format!("countersign audit verify --dir {dir}/server/audit --key {dir}/server/audit.pub"),
        format!("countersign audit tail --dir {dir}/server/audit --denied"),
        format!("countersign policy explain --dir {dir}/server/policies --device web-1 --service ledger"),
        format!("countersign config show --effective --config {dir}/server/countersign.toml"),
    ] {
        say(format!("  {line}"));
    }
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
