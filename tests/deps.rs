//! Holds `deny.toml`: no banned crate, no licence off the list, no source but crates.io.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test tells by panicking"
)]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use toml::Table;

/// A package that this one is built from.
#[derive(Clone, Debug)]
struct Package {
    name: String,
    version: String,
    /// An SPDX expression; empty when the package names none.
    license: String,
    /// `None` for a folder of this repository.
    source: Option<String>,
}

/// What `deny.toml` says, as far as it is held here.
struct Lists {
    banned: BTreeSet<String>,
    /// Those of the banned that a feature may bring: they name who may lean on them.
    optional: BTreeSet<String>,
    licenses: BTreeSet<String>,
    registries: BTreeSet<String>,
}

#[test]
fn every_dependency_is_one_we_want() {
    let packages = packages(&[]);
    assert!(packages.len() > 100, "only {} packages", packages.len());
    let complaints = complaints(&packages, &lists());
    assert!(complaints.is_empty(), "\n\n{}\n", complaints.join("\n"));
}

#[test]
fn features_bring_what_they_are_for_and_nothing_else() {
    let mut lists = lists();
    let optional = std::mem::take(&mut lists.optional);
    assert!(optional.contains("aws-lc-sys"), "{optional:?}");
    lists.banned.retain(|name| !optional.contains(name));
    let packages = packages(&["--all-features"]);
    let complaints = complaints(&packages, &lists);
    assert!(complaints.is_empty(), "\n\n{}\n", complaints.join("\n"));
    assert!(packages.iter().any(|p| p.name == "aws-lc-sys"), "the feature `aws-lc` does not bring AWS-LC");
}

fn complaints(packages: &[Package], lists: &Lists) -> Vec<String> {
    let mut all = Vec::new();
    for package in packages {
        let named = format!("{} {}", package.name, package.version);
        if lists.banned.contains(&package.name) {
            all.push(format!(
                "{named}: banned by deny.toml; `cargo tree -i {}` says who brings it",
                package.name
            ));
        }
        if !allowed(&package.license, &lists.licenses) {
            all.push(format!("{named}: licence `{}` is not on the list of deny.toml", package.license));
        }
        let source = package.source.as_deref().map(|s| s.trim_start_matches("registry+"));
        if source.is_some_and(|s| !lists.registries.contains(s)) {
            all.push(format!("{named}: comes from `{}`", source.unwrap_or_default()));
        }
    }
    all
}

/// Whether an SPDX expression (annex D.4) can be met from the list. `/` is the old way to write OR.
fn allowed(expression: &str, licenses: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, at: 0, licenses };
    let met = reader.any();
    met && reader.at == words.len()
}

struct Reader<'a> {
    words: &'a [&'a str],
    at: usize,
    licenses: &'a BTreeSet<String>,
}

impl Reader<'_> {
    fn next(&mut self) -> &str {
        self.at += 1;
        self.words.get(self.at - 1).copied().unwrap_or_default()
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> bool {
        let mut met = self.all();
        while self.takes("OR") {
            met |= self.all();
        }
        met
    }

    fn all(&mut self) -> bool {
        let mut met = self.one();
        while self.takes("AND") {
            met &= self.one();
        }
        met
    }

    fn one(&mut self) -> bool {
        if self.takes("(") {
            let met = self.any();
            return self.takes(")") && met;
        }
        let mut license = self.next().to_owned();
        if self.takes("WITH") {
            license = format!("{license} WITH {}", self.next());
        }
        self.licenses.contains(&license)
    }
}

/// What `cargo metadata` says for the platform we build on. The lock file is taken as it is.
fn packages(features: &[&str]) -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(features)
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("cargo lists packages");
    packages
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            license: text(&package["license"]),
            source: package["source"].as_str().map(str::to_owned),
        })
        .collect()
}

fn lists() -> Lists {
    let deny: Table = include_str!("../deny.toml").parse().expect("deny.toml is TOML");
    let words = |table: &str, key: &str| -> BTreeSet<String> {
        let items = deny[table][key].as_array().expect("a list");
        items.iter().map(|item| item.as_str().expect("a word").to_owned()).collect()
    };
    let named = |item: &toml::Value| item["crate"].as_str().expect("a name").to_owned();
    let bans = deny["bans"]["deny"].as_array().expect("a list");
    Lists {
        banned: bans.iter().map(named).collect(),
        optional: bans.iter().filter(|item| item.get("wrappers").is_some()).map(named).collect(),
        licenses: words("licenses", "allow"),
        registries: words("sources", "allow-registry"),
    }
}

#[test]
fn a_crate_we_do_not_want_is_told() {
    let good = Package {
        name: "fine".into(),
        version: "1.0.0".into(),
        license: "MIT OR Apache-2.0".into(),
        source: Some("registry+https://github.com/rust-lang/crates.io-index".into()),
    };
    let lists = lists();
    assert_eq!(complaints(std::slice::from_ref(&good), &lists), [""; 0]);
    assert_eq!(complaints(&[Package { source: None, ..good.clone() }], &lists), [""; 0]);
    for (package, words) in [
        (Package { name: "openssl-sys".into(), ..good.clone() }, "banned by deny.toml"),
        (Package { name: "aws-lc-sys".into(), ..good.clone() }, "banned by deny.toml"),
        (Package { license: "GPL-3.0-only".into(), ..good.clone() }, "licence `GPL-3.0-only`"),
        (Package { license: String::new(), ..good.clone() }, "licence ``"),
        (Package { source: Some("git+https://example.org/x".into()), ..good.clone() }, "comes from"),
    ] {
        let said = complaints(&[package], &lists);
        assert!(said.len() == 1 && said.iter().all(|s| s.contains(words)), "{words}: {said:?}");
    }
}

#[test]
fn licence_expressions_are_read() {
    let list = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(String::from).into();
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("Unlicense/MIT", true),
        ("Apache-2.0 / MIT", true),
        ("MIT AND GPL-3.0-only", false),
        ("MIT AND Zlib", true),
        ("(MIT OR GPL-3.0-only) AND Zlib", true),
        ("(MIT OR Zlib) AND GPL-3.0-only", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("", false),
        ("MIT Zlib", false),
        ("(MIT", false),
    ] {
        assert_eq!(allowed(expression, &list), met, "{expression}");
    }
}
