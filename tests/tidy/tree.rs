//! Follows `mod` from `lib.rs` through the files of the house, and finds every path that leads to its root.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::tokens::{Kind, Token, tokens};

/// The files under `src/`, by their path within it (`flow/run.rs`), with their text.
pub type Files = BTreeMap<String, String>;

/// One file as the compiler sees it.
#[derive(Debug)]
pub struct Module {
    /// Path of the file within `src/`.
    pub file: String,
    /// Where its first line stands in the tree: `["flow", "run"]`.
    pub path: Vec<String>,
    /// The whole file is compiled for tests only.
    pub test: bool,
    /// Its tokens, with what surrounds each.
    pub tokens: Vec<Placed>,
}

/// A token and what surrounds it.
#[derive(Clone, Debug)]
pub struct Placed {
    pub token: Token,
    /// Under `#[cfg(test)]`.
    pub test: bool,
    /// How many modules deep, the file's own path included.
    pub depth: usize,
}

/// A path of the code that begins at the root of the crate.
#[derive(Debug, Eq, PartialEq)]
pub struct Reference {
    pub line: usize,
    /// The first name below the root, `*` for all of them, `self` for the root itself.
    pub name: String,
}

/// The modules reached from `root` (`lib.rs`), and the complaints about files that are missing.
pub fn modules(files: &Files, root: &str) -> (Vec<Module>, Vec<String>) {
    let mut found = Vec::new();
    let mut complaints = Vec::new();
    let mut waiting = vec![(root.to_owned(), Vec::new(), false)];
    while let Some((file, path, test)) = waiting.pop() {
        let Some(text) = files.get(&file) else {
            complaints.push(format!("src/{file}: declared by a `mod`, but there is no such file"));
            continue;
        };
        let (placed, children) = place(tokens(text), path.len(), test);
        for child in children {
            let mut below = path.clone();
            below.extend(child.inside);
            let folder = folder_of(&file, &below, child.path.is_some());
            below.push(child.name.clone());
            let file = match &child.path {
                Some(path) => join(&folder, path),
                None => {
                    let flat = join(&folder, &format!("{}.rs", child.name));
                    let nested = join(&folder, &format!("{}/mod.rs", child.name));
                    if files.contains_key(&nested) { nested } else { flat }
                }
            };
            waiting.push((file, below, child.test));
        }
        found.push(Module { file, path, test, tokens: placed });
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    (found, complaints)
}

/// The files that no `mod` reaches.
pub fn orphans(files: &Files, reached: &[&[Module]]) -> Vec<String> {
    let reached: BTreeSet<_> = reached.iter().flat_map(|m| m.iter()).map(|m| m.file.as_str()).collect();
    let lost = files.keys().filter(|f| !reached.contains(f.as_str()));
    lost.map(|f| format!("src/{f}: no `mod` leads to this file, so it is never compiled")).collect()
}

struct Child {
    name: String,
    /// Inline modules around the declaration.
    inside: Vec<String>,
    /// `#[path = "…"]`.
    path: Option<String>,
    test: bool,
}

/// Marks each token with its surroundings, and collects `mod name;`.
fn place(tokens: Vec<Token>, depth: usize, test: bool) -> (Vec<Placed>, Vec<Child>) {
    let mut placed: Vec<Placed> = Vec::new();
    let mut children = Vec::new();
    // Inline modules: name, brace depth outside it, whether it is compiled for tests only.
    let mut inside: Vec<(String, usize, bool)> = Vec::new();
    let mut braces = 0;
    let mut test_until = 0;
    let mut attributes = Attributes::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let here = |at: usize| test || at < test_until || inside.iter().any(|(_, _, t)| *t);
        let is_test = here(at);
        let end = attribute_end(&tokens, at);
        for token in tokens.get(at..end).into_iter().flatten() {
            placed.push(Placed { token: token.clone(), test: is_test, depth: depth + inside.len() });
        }
        if end > at {
            attributes.read(tokens.get(at..end).unwrap_or_default());
            at = end;
            continue;
        }
        let (next, after) = (tokens.get(at + 1), tokens.get(at + 2));
        let name = next.and_then(Token::word).filter(|_| token.is_word("mod"));
        let mut test_here = is_test;
        match (name, after) {
            (Some(name), Some(sign)) if sign.is_sign(';') => children.push(Child {
                name: name.into(),
                inside: inside.iter().map(|(n, _, _)| n.clone()).collect(),
                path: attributes.path.take(),
                test: is_test || attributes.test,
            }),
            (Some(name), Some(sign)) if sign.is_sign('{') => {
                inside.push((name.into(), braces, attributes.test));
                // The name and the brace are stepped over together, else the brace would be seen in the new module.
                for token in tokens.get(at..at + 3).into_iter().flatten() {
                    placed.push(Placed {
                        token: token.clone(),
                        test: is_test,
                        depth: depth + inside.len() - 1,
                    });
                }
                braces += 1;
                at += 3;
                attributes = Attributes::default();
                continue;
            }
            _ if attributes.test => {
                test_until = item_end(&tokens, at);
                test_here = true;
            }
            _ => {}
        }
        if !token.is_word("pub") {
            attributes = Attributes::default();
        }
        if token.is_sign('{') {
            braces += 1;
        } else if token.is_sign('}') {
            braces = braces.saturating_sub(1);
            if inside.last().is_some_and(|(_, outside, _)| *outside == braces) {
                inside.pop();
            }
        }
        placed.push(Placed { token: token.clone(), test: test_here, depth: depth + inside.len() });
        at += 1;
    }
    (placed, children)
}

#[derive(Default)]
struct Attributes {
    test: bool,
    path: Option<String>,
}

impl Attributes {
    fn read(&mut self, tokens: &[Token]) {
        let has = |word| tokens.iter().any(|t| t.is_word(word));
        self.test |= has("cfg") && has("test") && !has("not");
        if has("path") {
            let text = tokens.iter().find_map(|t| match &t.kind {
                Kind::Text(text) => Some(text.clone()),
                Kind::Word(_) | Kind::Sign(_) => None,
            });
            self.path = text;
        }
    }
}

/// One past the attribute that begins at `at`; `at` itself when none does.
fn attribute_end(tokens: &[Token], at: usize) -> usize {
    let sign = |at: usize, sign| tokens.get(at).is_some_and(|t: &Token| t.is_sign(sign));
    let open = if sign(at + 1, '!') { at + 2 } else { at + 1 };
    if !sign(at, '#') || !sign(open, '[') {
        return at;
    }
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Sign('[') => depth += 1,
            Kind::Sign(']') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// One past the item that begins at `at`: its last `}` or `;`, or where what surrounds it ends.
fn item_end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.kind {
            Kind::Sign('(' | '[' | '{') => depth += 1,
            Kind::Sign(')' | ']' | '}') => depth -= 1,
            Kind::Sign(';') if depth == 0 => return i + 1,
            _ => {}
        }
        if depth < 0 {
            return i;
        }
        if depth == 0 && token.is_sign('}') {
            return i + 1;
        }
    }
    tokens.len()
}

/// Where the child modules of a file lie (Rust reference, "Module source filenames").
fn folder_of(file: &str, path: &[String], explicit: bool) -> String {
    let parent = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    if explicit { parent.to_owned() } else { path.join("/") }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Every path of `module` that begins at the root: `crate::…`, or as many `super` as it is deep.
pub fn references(module: &Module) -> Vec<Reference> {
    let mut scan = Scan { tokens: &module.tokens, seen: HashSet::new(), found: Vec::new() };
    for at in 0..module.tokens.len() {
        scan.start(at);
    }
    scan.found
}

/// How far up a path has climbed.
#[derive(Clone, Copy)]
enum Base {
    Root,
    Up(usize),
}

struct Scan<'a> {
    tokens: &'a [Placed],
    /// Tokens that belong to a path already followed.
    seen: HashSet<usize>,
    found: Vec<Reference>,
}

impl Scan<'_> {
    fn start(&mut self, at: usize) {
        let Some(placed) = self.tokens.get(at) else { return };
        let continues = at >= 2 && self.colons(at - 2);
        if continues || self.seen.contains(&at) {
            return;
        }
        let base = match placed.token.word() {
            Some("crate") => Base::Root,
            Some("super") => Base::Up(1),
            Some("self") => Base::Up(0),
            _ => return,
        };
        if self.colons(at + 1) {
            self.follow(at + 3, base, placed.depth);
        } else if matches!(base, Base::Root) && self.is_word(at + 1, "as") {
            self.note(at, base, placed.depth, "self");
        }
    }

    /// Follows a path or a group of them from `at` on, the first token after `::`, `{` or `,`.
    fn follow(&mut self, at: usize, base: Base, depth: usize) {
        self.seen.insert(at);
        let Some(placed) = self.tokens.get(at) else { return };
        match &placed.token.kind {
            Kind::Word(word) if word == "super" && self.colons(at + 1) => {
                let up = match base {
                    Base::Up(n) => Base::Up(n + 1),
                    Base::Root => Base::Root,
                };
                self.follow(at + 3, up, depth);
            }
            Kind::Word(word) => {
                let word = word.clone();
                self.note(at, base, depth, &word);
            }
            Kind::Sign('*') => self.note(at, base, depth, "*"),
            Kind::Sign('{') => self.group(at, base, depth),
            Kind::Sign(_) | Kind::Text(_) => {}
        }
    }

    fn group(&mut self, open: usize, base: Base, depth: usize) {
        let mut level = 0;
        for at in open..self.tokens.len() {
            match self.tokens.get(at).map(|p| &p.token.kind) {
                Some(Kind::Sign('{')) => level += 1,
                Some(Kind::Sign('}')) => level -= 1,
                Some(Kind::Sign(',')) => {}
                _ => continue,
            }
            if level == 0 {
                return;
            }
            let begins = self.tokens.get(at).is_some_and(|p| p.token.is_sign(',')) || at == open;
            if level == 1 && begins && !self.is_sign(at + 1, '}') {
                self.follow(at + 1, base, depth);
            }
        }
    }

    fn note(&mut self, at: usize, base: Base, depth: usize, name: &str) {
        let at_root = match base {
            Base::Root => true,
            Base::Up(n) => n >= depth,
        };
        if let (true, Some(placed)) = (at_root, self.tokens.get(at)) {
            self.found.push(Reference { line: placed.token.line, name: name.to_owned() });
        }
    }

    fn colons(&self, at: usize) -> bool {
        self.is_sign(at, ':') && self.is_sign(at + 1, ':')
    }

    fn is_sign(&self, at: usize, sign: char) -> bool {
        self.tokens.get(at).is_some_and(|p| p.token.is_sign(sign))
    }

    fn is_word(&self, at: usize, word: &str) -> bool {
        self.tokens.get(at).is_some_and(|p| p.token.is_word(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A house of these files under the usual `lib.rs`.
    fn house(files: &[(&str, &str)]) -> Files {
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
    }

    /// The names that the code of `flow/run.rs` takes from the root, with their lines.
    fn names(source: &str) -> Vec<String> {
        let files =
            house(&[("lib.rs", "pub mod flow;"), ("flow/mod.rs", "mod run;"), ("flow/run.rs", source)]);
        let (modules, complaints) = modules(&files, "lib.rs");
        assert!(complaints.is_empty(), "{complaints:?}");
        let module = modules.iter().find(|m| m.file == "flow/run.rs").unwrap();
        references(module).into_iter().map(|r| format!("{}:{}", r.line, r.name)).collect()
    }

    #[test]
    fn every_way_to_write_a_path_from_the_root_is_found() {
        for (source, expected) in [
            ("use crate::policy::Permit;", vec!["1:policy"]),
            ("fn f() { crate::audit::x() }", vec!["1:audit"]),
            ("use crate::{a, b::{c, d}, e as f,};", vec!["1:a", "1:b", "1:e"]),
            ("use crate::{\n    a::x,\n    {b, c},\n};", vec!["2:a", "3:b", "3:c"]),
            ("use super::super::policy::X;", vec!["1:policy"]),
            ("use super::super::{policy, limits::{A, B}};", vec!["1:policy", "1:limits"]),
            ("use super::{super::policy, table};", vec!["1:policy"]),
            ("use self::super::super::policy;", vec!["1:policy"]),
            ("use self::{super::super::policy};", vec!["1:policy"]),
            ("use super::super::super::policy;", vec!["1:policy"]),
            ("pub(in crate::flow) fn f() {}", vec!["1:flow"]),
            ("m!(x, $crate::policy::Y);", vec!["1:policy"]),
            ("use {crate::a, crate::b};", vec!["1:a", "1:b"]),
            ("use crate::*;", vec!["1:*"]),
            ("use crate::{self as c};", vec!["1:self"]),
            ("use crate as c;", vec!["1:self"]),
            ("mod tests { use super::super::super::policy; }", vec!["1:policy"]),
            ("mod tests { mod deep {} use super::super::super::policy; }", vec!["1:policy"]),
        ] {
            assert_eq!(names(source), expected, "{source}");
        }
    }

    #[test]
    fn what_stays_in_the_room_is_no_path_from_the_root() {
        for source in [
            "use super::table::Seat;",
            "pub(crate) fn f() {}",
            "// crate::policy\n/// [`crate::policy`]\nfn f() { \"crate::policy\" }",
            "mod tests { use super::super::table; use super::*; }",
            "fn f() { x::crate_::y(); self::g() }",
        ] {
            assert!(names(source).is_empty(), "{source}: {:?}", names(source));
        }
    }

    #[test]
    fn files_are_followed_as_the_compiler_does() {
        let files = house(&[
            ("lib.rs", "pub mod a;\npub mod b;"),
            ("a/mod.rs", "mod x;\n#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod tests;"),
            ("a/x.rs", "mod deep;\nmod inline { mod low; }"),
            ("a/x/deep.rs", ""),
            ("a/x/inline/low.rs", ""),
            ("a/x_tests.rs", "use super::super::b;"),
            ("b.rs", "mod gone;"),
            ("a/lost.rs", ""),
        ]);
        let (modules, complaints) = modules(&files, "lib.rs");
        let paths: Vec<_> = modules.iter().map(|m| format!("{}={}", m.file, m.path.join("::"))).collect();
        assert_eq!(
            paths,
            [
                "a/mod.rs=a",
                "a/x.rs=a::x",
                "a/x/deep.rs=a::x::deep",
                "a/x/inline/low.rs=a::x::inline::low",
                "a/x_tests.rs=a::tests",
                "b.rs=b",
                "lib.rs=",
            ]
        );
        assert!(modules.iter().all(|m| m.test == (m.file == "a/x_tests.rs")));
        assert_eq!(complaints, ["src/b/gone.rs: declared by a `mod`, but there is no such file"]);
        assert_eq!(
            orphans(&files, &[&modules]),
            ["src/a/lost.rs: no `mod` leads to this file, so it is never compiled"]
        );
    }

    #[test]
    fn test_code_is_told_apart() {
        let source = "fn a() {}\n#[cfg(test)]\nfn b() { x; }\nfn c() {}\n#[cfg(test)]\npub mod t { fn d() {} }\nfn e() {}\n#[cfg(not(test))]\nfn g() {}\n#[cfg(test)]\nuse h;\nfn i() {}";
        let (placed, _) = place(tokens(source), 1, false);
        let names = |test| {
            let of = placed.iter().filter(|p| p.test == test && p.token.word().is_some_and(|w| w.len() == 1));
            of.filter_map(|p| p.token.word()).collect::<String>()
        };
        assert_eq!((names(false).as_str(), names(true).as_str()), ("acegi", "bxtdh"));
    }
}
