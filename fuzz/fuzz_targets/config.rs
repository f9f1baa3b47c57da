//! Any text as a configuration: no panic, mistakes that stand in the file, and what is accepted is accepted again.
#![no_main]

use std::path::Path;

use countersign::config::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = Path::new("/etc/countersign/countersign.toml");
    match parse(text, source, &|_| false) {
        Ok(config) => {
            let shown = config.to_toml();
            let again = parse(&shown, source, &|_| false);
            let again = again.unwrap_or_else(|mistakes| panic!("{mistakes}\n{shown}"));
            assert_eq!(again.to_toml(), shown);
        }
        Err(mistakes) => {
            assert!(!mistakes.list.is_empty() && !mistakes.to_string().is_empty());
            let lines = text.split('\n').count();
            for at in mistakes.list.iter().filter_map(|mistake| mistake.at.as_ref()) {
                assert!((1..=lines).contains(&at.line) && at.column >= 1);
            }
        }
    }
});
