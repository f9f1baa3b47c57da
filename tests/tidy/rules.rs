//! The rules of the house that text can show: floors, names, and the nevers.

use crate::tokens::{Kind, Token, tokens};
use crate::tree::{Files, Module, modules, orphans, references};

/// One room of the house.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Room {
    pub floor: u8,
    pub name: &'static str,
    /// Rooms below that it must not lean on all the same.
    pub never: &'static [&'static str],
    /// Planned; has no folder yet.
    pub later: bool,
}

/// A room that stands.
pub const fn room(floor: u8, name: &'static str, never: &'static [&'static str]) -> Room {
    Room { floor, name, never, later: false }
}

/// A room to come.
pub const fn later(floor: u8, name: &'static str, never: &'static [&'static str]) -> Room {
    Room { floor, name, never, later: true }
}

/// Everything that is not as the table of `rooms` wants it, one readable line each.
pub fn complaints(files: &Files, rooms: &[Room]) -> Vec<String> {
    let (library, mut all) = modules(files, "lib.rs");
    let (program, missing) = modules(files, "main.rs");
    all.extend(missing);
    all.extend(orphans(files, &[&library, &program]));
    all.extend(files.iter().filter_map(|(file, text)| first_line(file, text)));
    all.extend(files.keys().filter_map(|file| empty_name(file)));
    all.extend(standing(files, rooms));
    all.extend(bare(files));
    for module in &library {
        all.extend(arrows(module, rooms));
        all.extend(nevers(module));
    }
    for module in &program {
        all.extend(main_leans_on_cli(module));
    }
    all.sort();
    all.dedup();
    all
}

/// Each file says in its first line what it is.
pub fn first_line(file: &str, text: &str) -> Option<String> {
    let line = text.lines().next().unwrap_or_default();
    let said = line.strip_prefix("//! ").is_some_and(|s| s.split_whitespace().count() >= 2);
    (!said)
        .then(|| format!("src/{file}:1: the first line must be a `//!` sentence that says what the file is"))
}

fn empty_name(file: &str) -> Option<String> {
    let parts = file.trim_end_matches(".rs").split('/');
    let bad = parts.into_iter().find(|part| EMPTY_NAMES.contains(part))?;
    Some(format!("src/{file}: `{bad}` says nothing; if it cannot be named it is not known yet"))
}

/// Every folder is a room of the table, and every standing room of the table has a folder.
fn standing(files: &Files, rooms: &[Room]) -> Vec<String> {
    let mut all = Vec::new();
    let found =
        |name: &str| files.keys().find(|f| **f == format!("{name}.rs") || f.starts_with(&format!("{name}/")));
    for room in rooms {
        match (found(room.name), room.later) {
            (None, false) => all.push(format!("src/{}/: in the table of rooms, but not there", room.name)),
            (Some(_), true) => {
                all.push(format!("src/{}/: stands, but the table of rooms says \"later\"", room.name));
            }
            _ => {}
        }
    }
    for file in files.keys().filter(|f| *f != "lib.rs" && *f != "main.rs") {
        let name = file.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        if !rooms.iter().any(|r| r.name == name) {
            all.push(format!("src/{file}: `{name}` is no room of docs/ARCHITECTURE.md"));
        }
    }
    all
}

/// `lib.rs` names the rooms and does nothing else.
fn bare(files: &Files) -> Vec<String> {
    let Some(text) = files.get("lib.rs") else { return vec!["src/lib.rs: missing".into()] };
    let all = tokens(text);
    let plain = |t: &Token| match &t.kind {
        Kind::Word(word) => word != "use" && word != "fn" && word != "type",
        Kind::Sign(sign) => *sign != '{',
        Kind::Text(_) => true,
    };
    let wrong = all.iter().find(|t| !plain(t));
    wrong
        .map(|t| {
            format!("src/lib.rs:{}: holds `pub mod` lines only; what does the work lives in a room", t.line)
        })
        .into_iter()
        .collect()
}

/// Arrows of one file that point up, sideways, where they never may, or nowhere.
fn arrows(module: &Module, rooms: &[Room]) -> Vec<String> {
    let Some(from) = module.path.first() else { return Vec::new() };
    let told = |line, text: String| format!("src/{}:{line}: {text}", module.file);
    let Some(from) = rooms.iter().find(|r| r.name == from) else { return Vec::new() };
    let mut all = Vec::new();
    for reference in references(module) {
        let line = reference.line;
        let Some(to) = rooms.iter().find(|r| r.name == reference.name) else {
            let what = match reference.name.as_str() {
                "self" | "*" => "takes the whole crate at once; name the rooms".to_owned(),
                name => format!("`crate::{name}` is no room of docs/ARCHITECTURE.md"),
            };
            all.push(told(line, what));
            continue;
        };
        if let Some(problem) = arrow(from, to) {
            all.push(told(line, problem));
        }
    }
    all
}

fn arrow(from: &Room, to: &Room) -> Option<String> {
    let (a, b) = (from.name, to.name);
    if a == b || NEIGHBOURS.contains(&(a, b)) {
        return None;
    }
    let floors = format!("`{a}` (floor {}) leans on `{b}` (floor {})", from.floor, to.floor);
    if from.never.contains(&b) {
        return Some(format!("{floors}, which docs/ARCHITECTURE.md forbids: {a} never knows {b}"));
    }
    match to.floor.cmp(&from.floor) {
        std::cmp::Ordering::Less => None,
        std::cmp::Ordering::Equal => {
            Some(format!("{floors}: an arrow sideways; a higher room introduces them"))
        }
        std::cmp::Ordering::Greater if b == "config" => {
            Some(format!("{floors}: nobody below knows config; take your room's `Settings` instead"))
        }
        std::cmp::Ordering::Greater => Some(format!("{floors}: an arrow up; arrows point down")),
    }
}

fn main_leans_on_cli(module: &Module) -> Vec<String> {
    let words: Vec<&Token> = module.tokens.iter().map(|p| &p.token).collect();
    let mut all = Vec::new();
    for (at, token) in words.iter().enumerate().filter(|(_, t)| t.is_word("countersign")) {
        let named = words.get(at + 3).and_then(|t| t.word());
        if named != Some("cli") {
            all.push(format!("src/{}:{}: main leans on `cli` and nothing else", module.file, token.line));
        }
    }
    all
}

/// The nevers that show in the text of one file.
fn nevers(module: &Module) -> Vec<String> {
    let Some(room) = module.path.first().map(String::as_str) else { return Vec::new() };
    let file = module.file.as_str();
    let decider = DECIDERS.contains(&room) || DECIDERS.contains(&file);
    let mut all = Vec::new();
    for (at, placed) in module.tokens.iter().enumerate() {
        let mut check = |applies: bool, signs: &[&[&str]], why: &str| {
            if let Some(found) = signs.iter().find(|s| applies && reads(module, at, s)) {
                let line = placed.token.line;
                all.push(format!("src/{file}:{line}: `{}` {why}", found.concat()));
            }
        };
        let lives = !placed.test;
        check(
            room == "model",
            &[&["tokio"], &["serde"]],
            "in `model`, which knows no runtime and no wire shape",
        );
        check(decider && lives, WAITS, "in a decider, which never waits");
        check(decider && lives, CLOCKS, "in a decider; `now` and randomness are arguments");
        let dice = decider && lives && !DICE_APART.contains(&file);
        check(dice, DICE, "in a decider; take randomness as an argument");
        check(
            decider && lives && !LOOKERS.contains(&file),
            WORLD,
            "in a decider, which never touches the world",
        );
        check(lives, DEFAULTS, "takes the process-wide crypto provider; pass `identity::provider` by value");
        check(true, BACK_DOORS, "gives a crate another name; arrows could hide behind it");
        check(true, OLD_TLS, "offers an old TLS; only TLS 1.3 is spoken");
        let seam = !matches!(room, "net" | "cli") && !SOCKETS_APART.contains(&file);
        check(lives && seam, SOCKETS, "outside `net`, the one seam to the world");
    }
    all
}

/// Whether the tokens from `at` on read like this.
fn reads(module: &Module, at: usize, signs: &[&str]) -> bool {
    signs.iter().enumerate().all(|(i, sign)| {
        module.tokens.get(at + i).is_some_and(|placed| match &placed.token.kind {
            Kind::Word(word) => word == sign,
            Kind::Sign(c) => sign.len() == 1 && sign.starts_with(*c),
            Kind::Text(_) => false,
        })
    })
}

/// Rooms and files that are pure functions of their arguments.
const DECIDERS: &[&str] =
    &["analyser", "device", "limits", "policy", "protocols", "scheduler", "audit/chain.rs"];
/// Files of deciders whose whole purpose is to look at the world for them. They may not read a clock either.
const LOOKERS: &[&str] = &[
    "device/collect.rs",
    "device/demo_machine.rs",
    "device/salt.rs",
    "device/sysroot.rs",
    "limits/sample.rs",
    "policy/files.rs",
];
/// The one file of a decider that throws dice: it makes a secret that nobody else may know, not even its caller.
const DICE_APART: &[&str] = &["device/salt.rs"];
/// Files outside `net` that connect a socket, each for a reason of its own.
const SOCKETS_APART: &[&str] = &[
    // The commands' side of the admin socket; it is no part of a running sidecar.
    "console/client.rs",
    // The local service's Unix socket; it has no option that `net` would set.
    "flow/exit.rs",
];
/// The one arrow between neighbours: a socket's target is written with the nouns of `model`.
const NEIGHBOURS: &[(&str, &str)] = &[("net", "model")];
/// Names that say nothing.
const EMPTY_NAMES: &[&str] =
    &["common", "data", "handler", "handlers", "helper", "helpers", "manager", "misc", "util", "utils"];

const WAITS: &[&[&str]] = &[&[".", "await"], &["async"]];
const CLOCKS: &[&[&str]] = &[
    &["SystemTime", ":", ":", "now"],
    &["Instant", ":", ":", "now"],
    &["Timestamp", ":", ":", "now"],
    &["now_utc"],
    &[".", "elapsed"],
    &["DefaultClock"],
    &["MonotonicClock"],
    &["QuantaClock"],
];
const DICE: &[&[&str]] = &[&["SystemRandom"]];
const WORLD: &[&[&str]] = &[
    &["tokio"],
    &["fs", ":", ":"],
    &["File"],
    &["TcpStream"],
    &["TcpListener"],
    &["UdpSocket"],
    &["UnixStream"],
    &["UnixListener"],
    &["env", ":", ":", "var"],
];
const DEFAULTS: &[&[&str]] = &[
    &["install_default"],
    &["CryptoProvider", ":", ":", "get_default"],
    &["ClientConfig", ":", ":", "builder", "("],
    &["ServerConfig", ":", ":", "builder", "("],
    &["WebPkiClientVerifier", ":", ":", "builder", "("],
    &["WebPkiServerVerifier", ":", ":", "builder", "("],
];
const BACK_DOORS: &[&[&str]] = &[&["extern"]];
const OLD_TLS: &[&[&str]] = &[&["version", ":", ":", "TLS12"]];
const SOCKETS: &[&[&str]] = &[
    &["TcpListener", ":", ":", "bind"],
    &["TcpStream", ":", ":", "connect"],
    &["TcpSocket", ":", ":"],
    &["UdpSocket", ":", ":", "bind"],
    &["UnixListener", ":", ":", "bind"],
    &["UnixStream", ":", ":", "connect"],
    &["Socket", ":", ":", "new"],
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a small house whose `place` holds `source`; its rooms are floor 0 to 2.
    fn said(place: &str, source: &str) -> Vec<String> {
        let rooms = [
            room(0, "model", &[]),
            room(0, "net", &[]),
            room(1, "policy", &[]),
            room(1, "limits", &[]),
            room(2, "channel", &["policy"]),
            room(3, "config", &[]),
            later(4, "console", &[]),
        ];
        let mut files = Files::new();
        let mut root = String::from("//! The root.\n");
        for room in rooms.iter().filter(|r| !r.later) {
            root.push_str(&format!("pub mod {};\n", room.name));
            files.insert(format!("{}/mod.rs", room.name), "//! A room.\nmod a;\n".into());
            files.insert(format!("{}/a.rs", room.name), "//! A file.\n".into());
        }
        files.insert("lib.rs".into(), root);
        files.insert("main.rs".into(), "//! The command.\nfn main() { countersign::cli::main() }\n".into());
        assert_eq!(complaints(&files, &rooms), [""; 0], "the house is tidy before anything is planted");
        files.insert(place.into(), source.into());
        complaints(&files, &rooms)
    }

    /// Asserts that planting `source` is complained about once, with these words.
    fn caught(place: &str, source: &str, words: &str) {
        let said = said(place, source);
        assert!(said.len() == 1 && said.iter().any(|s| s.contains(words)), "{source}: {said:?}");
    }

    #[test]
    fn an_arrow_down_is_fine_and_every_other_is_told_with_its_line() {
        assert_eq!(said("channel/a.rs", "//! A file.\nuse crate::{limits, model::X, net};\n"), [""; 0]);
        assert_eq!(said("net/a.rs", "//! A file.\nuse crate::model::X;\n"), [""; 0]);
        for (place, source, words) in [
            (
                "limits/a.rs",
                "use crate::channel::X;",
                "src/limits/a.rs:2: `limits` (floor 1) leans on `channel`",
            ),
            ("limits/a.rs", "use crate::{model::X, channel};", "an arrow up"),
            ("limits/a.rs", "use super::super::channel;", "an arrow up"),
            ("limits/a.rs", "#[cfg(test)]\nmod tests { use crate::channel; }", "an arrow up"),
            ("limits/a.rs", "fn f() { g(crate::channel::X) }", "an arrow up"),
            ("limits/a.rs", "use crate::policy;", "an arrow sideways"),
            ("model/a.rs", "use crate::net;", "an arrow sideways"),
            ("channel/a.rs", "use crate::config;", "nobody below knows config"),
            ("channel/a.rs", "use crate::policy;", "channel never knows policy"),
            ("channel/a.rs", "use crate::console;", "an arrow up"),
            ("channel/a.rs", "use crate::wonder;", "`crate::wonder` is no room"),
            ("channel/a.rs", "use crate::*;", "name the rooms"),
        ] {
            caught(place, &format!("//! A file.\n{source}\n"), words);
        }
    }

    #[test]
    fn files_have_a_first_line_and_a_name() {
        caught(
            "channel/a.rs",
            "use crate::model;\n//! A file.\n",
            "src/channel/a.rs:1: the first line must be",
        );
        caught("channel/a.rs", "//! File\n", "the first line must be");
        for name in EMPTY_NAMES {
            let told = said(&format!("channel/{name}.rs"), "//! A file.\n");
            assert!(told.iter().any(|s| s.contains("says nothing")), "{told:?}");
        }
    }

    #[test]
    fn rooms_stand_where_the_table_says() {
        let unknown = said("wonder/mod.rs", "//! A room.\n");
        assert!(unknown.iter().any(|s| s.contains("`wonder` is no room")), "{unknown:?}");
        let early = said("console/mod.rs", "//! A room.\n");
        assert!(early.iter().any(|s| s.contains("says \"later\"")), "{early:?}");
        let rooms = [room(0, "model", &[])];
        let files = [("lib.rs".to_owned(), "//! The root.\n".to_owned())].into();
        assert!(complaints(&files, &rooms).iter().any(|s| s.contains("src/model/: in the table of rooms")));
    }

    #[test]
    fn files_and_declarations_belong_together() {
        let lost = said("channel/b.rs", "//! A file nobody declares.\n");
        assert!(
            lost.len() == 1 && lost.iter().all(|s| s.contains("src/channel/b.rs: no `mod` leads")),
            "{lost:?}"
        );
        caught("main.rs", "//! The command.\nmod gone;\n", "src/gone.rs: declared by a `mod`");
        caught("channel/a.rs", "//! A file.\nmod gone;\n", "src/channel/a/gone.rs: declared by a `mod`");
    }

    #[test]
    fn the_root_and_main_stay_empty() {
        for line in ["pub use model::X;", "fn f();", "pub mod x { }"] {
            let told = said("lib.rs", &format!("//! The root.\n{line}\n"));
            assert!(told.iter().any(|s| s.contains("holds `pub mod` lines only")), "{told:?}");
        }
        caught(
            "main.rs",
            "//! The command.\nfn main() { countersign::flow::run() }\n",
            "main leans on `cli`",
        );
    }

    #[test]
    fn each_never_is_caught() {
        for (place, source, words) in [
            ("model/a.rs", "use tokio::sync;", "`tokio` in `model`"),
            ("model/a.rs", "#[derive(serde::Serialize)]", "`serde` in `model`"),
            ("policy/a.rs", "fn f() { x.await }", "`.await` in a decider"),
            ("policy/a.rs", "async fn f() {}", "`async` in a decider"),
            ("limits/a.rs", "fn f() { SystemRandom::new() }", "`SystemRandom` in a decider"),
            ("limits/a.rs", "fn f() { Instant::now() }", "`Instant::now` in a decider"),
            ("limits/a.rs", "fn f() { SystemTime::now() }", "`SystemTime::now` in a decider"),
            ("limits/a.rs", "fn f() { Timestamp::now() }", "`Timestamp::now` in a decider"),
            ("limits/a.rs", "fn f() { since.elapsed() }", "`.elapsed` in a decider"),
            ("limits/a.rs", "fn f() { std::fs::read(p) }", "`fs::` in a decider"),
            ("channel/a.rs", "fn f() { p.install_default() }", "`install_default` takes the process-wide"),
            ("channel/a.rs", "fn f() { ClientConfig::builder() }", "`ClientConfig::builder(` takes"),
            ("channel/a.rs", "fn f() { rustls::ServerConfig::builder() }", "`ServerConfig::builder(` takes"),
            ("channel/a.rs", "extern crate self as house;", "`extern` gives a crate another name"),
            ("channel/a.rs", "fn f() { [&version::TLS12] }", "offers an old TLS"),
            ("channel/a.rs", "fn f() { TcpStream::connect(a) }", "outside `net`"),
        ] {
            caught(place, &format!("//! A file.\n{source}\n"), words);
        }
    }

    #[test]
    fn what_is_no_never_passes() {
        for (place, source) in [
            ("limits/a.rs", "#[cfg(test)]\nmod tests { fn f() { Instant::now() } }"),
            ("limits/a.rs", "fn f(now: Instant) { \"Instant::now\" } // x.await"),
            ("channel/a.rs", "fn f() { ClientConfig::builder_with_provider(p) }"),
            ("channel/a.rs", "#[cfg(test)]\nfn f() { TcpStream::connect(a) }"),
            ("net/a.rs", "fn f() { TcpListener::bind(a) }"),
        ] {
            assert_eq!(said(place, &format!("//! A file.\n{source}\n")), [""; 0], "{source}");
        }
    }
}
