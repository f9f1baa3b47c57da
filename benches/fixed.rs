//! Relays a fixed number of chunks and ends: what `benches/instructions` counts.
//!
//! Usage: fixed large|small|piled COUNT
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark tells by panicking")]

mod memory;

fn main() {
    // `cargo bench` and `cargo test` call every benchmark with arguments of their own.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let (Some(kind), Some(count)) = (words.next(), words.next()) else {
        println!("usage: fixed large|small|piled COUNT; see benches/instructions");
        return;
    };
    let count = count.parse().expect("COUNT is a number");
    let flow = memory::Flow::new();
    match kind.as_str() {
        // As a bulk transfer comes.
        "large" => flow.relay(count, 64 * 1024, 8),
        // As requests come.
        "small" => flow.relay(count, 64, 8),
        // As an app's small writes come when the other end takes little at a time.
        "piled" => flow.relay(count, 64, 1),
        other => panic!("`{other}` is none of large, small, piled"),
    }
}
