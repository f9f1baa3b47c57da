//! Holds the house: floors, names, nevers, and that the documents say what the code does.
//!
//! The table below and the table in `docs/ARCHITECTURE.md` are one and the same; a test compares them.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test tells by panicking")]

#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/tokens.rs"]
mod tokens;
#[path = "tidy/tree.rs"]
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use rules::{Room, later, room};
use tree::Files;

/// Floor, name, and the lower rooms it never knows. A new arrow up is a new design: write an ADR first.
const ROOMS: &[Room] = &[
    room(0, "model", &[]),
    room(0, "net", &[]),
    room(1, "audit", &[]),
    room(1, "device", &[]),
    room(1, "identity", &[]),
    room(1, "limits", &[]),
    room(1, "policy", &[]),
    room(1, "protocols", &[]),
    room(1, "telemetry", &[]),
    room(1, "analyser", &[]),
    later(1, "fleet", &[]),
    later(1, "scheduler", &[]),
    room(2, "capture", &["policy"]),
    room(2, "channel", &["policy"]),
    room(2, "feeds", &["policy"]),
    room(3, "resilience", &["protocols"]),
    room(4, "flow", &["fleet"]),
    room(5, "console", &[]),
    room(6, "config", &[]),
    room(7, "agent", &[]),
    room(8, "cli", &[]),
];

#[test]
fn the_house_is_tidy() {
    let mut files = Files::new();
    for path in rust_files(&root().join("src")) {
        let name = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
        files.insert(name, read(&path));
    }
    assert!(files.len() > 20, "only {} files under src/", files.len());
    tell(rules::complaints(&files, ROOMS));
}

#[test]
fn the_map_shows_the_same_rooms() {
    tell(docs::rooms_differ(&read(&root().join("docs/ARCHITECTURE.md")), ROOMS));
}

#[test]
fn tests_and_fuzz_targets_say_what_they_are() {
    let mut all = Vec::new();
    for folder in ["tests", "fuzz/fuzz_targets"] {
        for path in rust_files(&root().join(folder)) {
            let shown = path.strip_prefix(root()).unwrap().display().to_string();
            all.extend(rules::first_line(&format!("../{shown}"), &read(&path)));
        }
    }
    tell(all);
}

/// `COUNTERSIGN_WRITE_DOCS=1 cargo test --test tidy` writes the table instead of comparing it.
#[test]
fn operators_find_every_reason_in_the_documents() {
    let path = root().join("docs/operating.md");
    let text = read(&path);
    let expected =
        docs::with_table(&text, &docs::reason_table()).expect("docs/operating.md has lost its marks");
    if std::env::var_os("COUNTERSIGN_WRITE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    } else if text != expected {
        panic!(
            "docs/operating.md: run `COUNTERSIGN_WRITE_DOCS=1 cargo test --test tidy` and commit its table"
        );
    }
}

#[test]
fn every_file_that_a_document_names_exists() {
    let mut all = Vec::new();
    for path in files(&root(), "md") {
        all.extend(docs::dead_ends(&path, &read(&path), &root()));
    }
    tell(all);
}

fn tell(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n\n{}\n", complaints.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files(folder, "rs")
}

/// The files of this kind below `folder`; what is hidden or built is left out.
fn files(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || matches!(name.as_str(), "target" | "corpus" | "artifacts" | "dev-ca") {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, kind));
        } else if path.extension().is_some_and(|e| e == kind) {
            found.push(path);
        }
    }
    found.sort();
    found
}
