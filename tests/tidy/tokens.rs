//! Cuts Rust source into words and signs, without comments, and without looking into strings.

/// One word, sign or string, and the line it stands on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    pub kind: Kind,
    pub line: usize,
}

/// What a token is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An identifier, a keyword or a number.
    Word(String),
    /// One character of punctuation; `::` is two of them.
    Sign(char),
    /// The text between the quotes of a string.
    Text(String),
}

impl Token {
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(w) if w == word)
    }

    pub fn is_sign(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }

    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            Kind::Sign(_) | Kind::Text(_) => None,
        }
    }
}

/// The tokens of `source`. Total: source that does not compile gives some tokens, too.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut reader = Reader { chars: source.chars().collect(), at: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(c) = reader.peek(0) {
        let line = reader.line;
        let kind = match c {
            '/' if reader.peek(1) == Some('/') => {
                reader.until_line_end();
                continue;
            }
            '/' if reader.peek(1) == Some('*') => {
                reader.block_comment();
                continue;
            }
            '"' => Kind::Text(reader.string()),
            '\'' => {
                reader.character_or_lifetime();
                continue;
            }
            c if c.is_alphanumeric() || c == '_' => match reader.prefixed_string() {
                Some(text) => Kind::Text(text),
                None => Kind::Word(reader.word()),
            },
            c => {
                reader.bump();
                if c.is_whitespace() {
                    continue;
                }
                Kind::Sign(c)
            }
        };
        tokens.push(Token { kind, line });
    }
    tokens
}

struct Reader {
    chars: Vec<char>,
    at: usize,
    line: usize,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek(0)?;
        self.at += 1;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn until_line_end(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.bump();
        }
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.bump();
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.bump();
                }
                (None, _) => return,
                _ => {}
            }
            self.bump();
            if depth == 0 {
                return;
            }
        }
    }

    /// From the opening quote on.
    fn string(&mut self) -> String {
        let mut text = String::new();
        self.bump();
        while let Some(c) = self.bump() {
            match c {
                '"' => break,
                '\\' => text.extend(self.bump()),
                c => text.push(c),
            }
        }
        text
    }

    /// `'a'`, `'\n'` and `'lifetime`; none of them matters here.
    fn character_or_lifetime(&mut self) {
        self.bump();
        if self.peek(0) == Some('\\') {
            self.bump();
            self.bump();
            while self.peek(0).is_some_and(|c| c != '\'' && c != '\n') {
                self.bump();
            }
            self.bump();
        } else if self.peek(1) == Some('\'') {
            self.bump();
            self.bump();
        } else {
            self.word();
        }
    }

    fn word(&mut self) -> String {
        if self.peek(0) == Some('r') && self.peek(1) == Some('#') {
            self.bump();
            self.bump();
        }
        let mut word = String::new();
        while let Some(c) = self.peek(0).filter(|c| c.is_alphanumeric() || *c == '_') {
            word.push(c);
            self.bump();
        }
        word
    }

    /// `b"…"`, `c"…"`, `r"…"`, `r#"…"#`, `br#"…"#`; `None` when it is a word after all.
    fn prefixed_string(&mut self) -> Option<String> {
        let mut ahead = 0;
        while matches!(self.peek(ahead), Some('b' | 'c' | 'r')) && ahead < 2 {
            ahead += 1;
        }
        let raw = ahead > 0 && self.peek(ahead - 1) == Some('r');
        let mut hashes = 0;
        while raw && self.peek(ahead + hashes) == Some('#') {
            hashes += 1;
        }
        if ahead == 0 || self.peek(ahead + hashes) != Some('"') {
            return None;
        }
        for _ in 0..ahead + hashes {
            self.bump();
        }
        if !raw {
            return Some(self.string());
        }
        self.bump();
        let mut text = String::new();
        while let Some(c) = self.bump() {
            if c == '"' && (0..hashes).all(|i| self.peek(i) == Some('#')) {
                self.at += hashes;
                break;
            }
            text.push(c);
        }
        Some(text)
    }
}

/// The words of `source`, strings in quotes.
#[cfg(test)]
fn shown(source: &str) -> String {
    let show = |t: &Token| match &t.kind {
        Kind::Word(word) => word.clone(),
        Kind::Sign(sign) => sign.to_string(),
        Kind::Text(text) => format!("<{text}>"),
    };
    tokens(source).iter().map(show).collect::<Vec<_>>().join(" ")
}

#[test]
fn comments_vanish_and_strings_are_one_token() {
    for (source, expected) in [
        ("a // crate::b\nc", "a c"),
        ("a /* x /* crate::b */ y */ c", "a c"),
        (r#"f("crate::b \" x", 'c', '"', '\'', '\u{1F}', b'x')"#, r#"f ( <crate::b " x> , , , , , b )"#),
        (r###"r#"a " b"# br"c" b"d" r#type"###, r#"<a " b> <c> <d> type"#),
        ("fn f<'a>(x: &'a str)", "fn f < > ( x : & str )"),
        ("crate::a::b", "crate : : a : : b"),
        ("1.0_f32..=2", "1 . 0_f32 . . = 2"),
    ] {
        assert_eq!(shown(source), expected, "{source}");
    }
}

#[test]
fn lines_are_counted_through_strings_and_comments() {
    let all = tokens("a\n/* \n */ b\n\"x\ny\" c");
    let lines: Vec<_> = all.iter().map(|t| t.line).collect();
    assert_eq!(lines, [1, 3, 4, 5]);
}
