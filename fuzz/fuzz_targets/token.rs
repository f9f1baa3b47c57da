//! Any text as a token of joining: what is accepted reads back as it was, and never shows its secret.
#![no_main]

use countersign::identity::authority::Token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(token) = text.parse::<Token>() else { return };
    assert!((1..=Token::ADDRESSES_MAX).contains(&token.addresses.len()));
    let again: Token = token.to_string().parse().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again, token);
    assert_eq!(again.id(), token.id());
    assert!(!format!("{token:?}").contains("secret"));
});
