//! Cuts a `.cedar` text into rules before Cedar sees it, and measures how deep each one nests.
//!
//! Cut here, one broken rule does not hide the mistakes of the next, and every rule knows its place. Measured here,
//! because Cedar's parser recurses without asking how much stack is left. Each piece must then parse as exactly one
//! rule, so a disagreement between this scanner and Cedar's can only refuse.

/// Longest rule in bytes, comments before it aside.
pub const RULE_LEN_MAX: usize = 64 * 1024;
/// Deepest nesting of one rule: two for each bracket, four for each `if`, one for each operator, `when` or `unless` of
/// a chain.
///
/// `a && b && c` nests in Cedar's tree as brackets do in the text, so it counts; `[a, b, c]` does not. A bracket
/// counts twice because Cedar's parser takes most stack there (60 KiB unoptimised, against 40 KiB for an operator
/// when it is evaluated); the deepest rule must fit a thread of 2 MiB. An `if` counts four times because each doubles
/// the time that Cedar takes to read the rule: 28 of them took seven seconds.
pub const RULE_DEPTH_MAX: usize = 32;

/// One word, string or sign of a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// An operator, bracket or other sign.
    Sign,
    /// A string literal, quotes included.
    Quoted,
    /// An identifier, keyword or number.
    Word,
}

/// The tokens of one rule with its closing `;`; never empty.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) tokens: Vec<Token>,
    /// As [`RULE_DEPTH_MAX`] counts; never below the true one.
    pub(crate) depth: usize,
}

impl Piece {
    pub(crate) fn start(&self) -> usize {
        self.tokens.first().map_or(0, |t| t.start)
    }

    pub(crate) fn end(&self) -> usize {
        self.tokens.last().map_or(0, |t| t.end)
    }
}

/// Cuts `text` after each `;` that stands outside strings and comments. Total work is linear in the text.
pub(crate) fn cut(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut piece = Piece::default();
    let mut nest = Nest::default();
    let mut at = 0;
    while let Some(token) = next(text, &mut at) {
        piece.tokens.push(token);
        let word = text.get(token.start..token.end).unwrap_or_default();
        nest.step(word);
        if word == ";" {
            piece.depth = std::mem::take(&mut nest).depth();
            pieces.push(std::mem::take(&mut piece));
        }
    }
    if !piece.tokens.is_empty() {
        piece.depth = nest.depth();
        pieces.push(piece);
    }
    pieces
}

/// How deep a rule nests so far: the open brackets around where we are, innermost last.
#[derive(Debug, Default)]
struct Nest {
    outer: Vec<Level>,
    inner: Level,
}

/// What stands between two brackets.
#[derive(Debug, Default)]
struct Level {
    /// `&&`, `||`, `when`, `unless` once, `if` four times.
    links: usize,
    /// Other operators since the last link, and the most there were between two links.
    run: usize,
    run_max: usize,
    /// The deepest bracket within.
    within: usize,
    /// The deepest of the elements before, where commas part them.
    before: usize,
}

impl Level {
    fn depth(&self) -> usize {
        self.before.max(self.links + self.run_max + self.within)
    }
}

impl Nest {
    fn step(&mut self, word: &str) {
        let level = &mut self.inner;
        match word {
            "(" | "[" | "{" => self.outer.push(std::mem::take(level)),
            ")" | "]" | "}" => self.close(),
            "," => *level = Level { before: level.depth(), ..Level::default() },
            "&&" | "||" | "when" | "unless" => {
                level.links += 1;
                level.run = 0;
            }
            "if" => {
                level.links += IF_DEPTH;
                level.run = 0;
            }
            "then" | "else" => level.run = 0,
            "." | "==" | "!=" | "<" | "<=" | ">" | ">=" | "+" | "-" | "*" | "!" | "has" | "in" | "is"
            | "like" => {
                level.run += 1;
                level.run_max = level.run_max.max(level.run);
            }
            _ => {}
        }
    }

    fn close(&mut self) {
        if let Some(outer) = self.outer.pop() {
            let depth = self.inner.depth() + BRACKET_DEPTH;
            self.inner = outer;
            self.inner.within = self.inner.within.max(depth);
        }
    }

    fn depth(mut self) -> usize {
        while !self.outer.is_empty() {
            self.close();
        }
        self.inner.depth()
    }
}

const BRACKET_DEPTH: usize = 2;
const IF_DEPTH: usize = 4;

/// The next token from `at` on, whitespace and comments skipped as Cedar's grammar skips them.
fn next(text: &str, at: &mut usize) -> Option<Token> {
    let bytes = text.as_bytes();
    loop {
        let first = *bytes.get(*at)?;
        let start = *at;
        let second = bytes.get(start + 1).copied();
        match (first, second) {
            (b'/', Some(b'/')) => *at += count(bytes, start, |b| !matches!(b, b'\n' | b'\r')),
            (b'"', _) => {
                *at = end_of_string(bytes, start);
                return Some(Token { kind: Kind::Quoted, start, end: *at });
            }
            (b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9', _) => {
                *at += count(bytes, start, |b| b == b'_' || b.is_ascii_alphanumeric());
                return Some(Token { kind: Kind::Word, start, end: *at });
            }
            (b'=' | b'!' | b'<' | b'>', Some(b'='))
            | (b'&', Some(b'&'))
            | (b'|', Some(b'|'))
            | (b':', Some(b':')) => {
                *at += 2;
                return Some(Token { kind: Kind::Sign, start, end: *at });
            }
            (b'!'..=b'~', _) => {
                *at += 1;
                return Some(Token { kind: Kind::Sign, start, end: *at });
            }
            _ => {
                let (len, blank) = char_at(text, start);
                *at += len;
                if !blank {
                    // Nothing of Cedar's: kept, so that Cedar sees and refuses it.
                    return Some(Token { kind: Kind::Sign, start, end: *at });
                }
            }
        }
    }
}

/// Length in bytes of the character at `start`, and whether Cedar skips it as white space.
fn char_at(text: &str, start: usize) -> (usize, bool) {
    let first = text.get(start..).and_then(|rest| rest.chars().next());
    first.map_or((1, true), |c| (c.len_utf8(), c.is_whitespace()))
}

fn count(bytes: &[u8], start: usize, within: impl Fn(u8) -> bool) -> usize {
    bytes.iter().skip(start).take_while(|b| within(**b)).count()
}

fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::{Policy, PolicySet};
    use proptest::prelude::*;

    fn texts(text: &str) -> Vec<&str> {
        cut(text).iter().map(|p| text.get(p.start()..p.end()).unwrap()).collect()
    }

    #[test]
    fn semicolons_in_strings_and_comments_do_not_cut() {
        assert_eq!(texts("// a; b\na \"x;\\\";\" // ;\r; b; ; c"), ["a \"x;\\\";\" // ;\r;", "b;", ";", "c"]);
        assert_eq!(texts("  // only a comment"), Vec::<&str>::new());
        assert_eq!(texts("a \"open ; b"), ["a \"open ; b"]);
    }

    #[test]
    fn what_is_no_cedar_is_kept_for_cedar_to_refuse() {
        assert_eq!(texts("a; é"), ["a;", "é"]);
        assert_eq!(texts(" \0 \u{a0}\u{2003}"), ["\0"]);
    }

    #[test]
    fn depth_counts_brackets_twice_and_chains_by_their_links() {
        for (text, depth) in [
            ("a;", 0),
            ("(([]));", 6),
            ("a && b || c;", 2),
            ("a.b.c == d && e.f;", 4),
            ("[a.b, c.d, (e)];", 4),
            ("(a.b).c.d;", 5),
            ("if a then b else if c.d == 1 then !e else f;", 10),
            ("p(x in y) when { a } unless { b.c };", 5),
            ("))((", 4),
            ("a.b; c", 1),
        ] {
            assert_eq!(cut(text).remove(0).depth, depth, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_cut_within_its_bounds(text in "\\PC*") {
            for piece in cut(&text) {
                prop_assert!(piece.start() < piece.end() && piece.end() <= text.len());
            }
        }

        #[test]
        fn what_cedar_reads_whole_it_reads_cut(parts in proptest::collection::vec(prop_oneof![
            Just("permit(principal, action, resource);"), Just("forbid(principal, action, resource) when { true };"),
            Just("@id(\"a;//b\\\"\") permit(principal, action, resource);"), Just("// x; \"\n"), Just("//;\r"),
            Just("\""), Just(";"), Just(" \u{a0} "), Just("\n"), Just("permit(principal"), Just("é"),
        ], 0..6)) {
            let text = parts.concat();
            let whole = text.parse::<PolicySet>().ok().map(|set| set.policies().count());
            let cut: Option<usize> = texts(&text).iter().try_fold(0, |sum, t| Policy::parse(None, t).ok().map(|_| sum + 1));
            prop_assert_eq!(whole, cut);
        }
    }
}
