# The commands of this repository. `just` comes with `cargo install just`; CI (.ci/run) does without it.

# Everything quick: before every commit
check: fmt-check lint test

# cargo test holds the floors (tests/tidy.rs) and the dependencies (tests/deps.rs), too
test:
    cargo test --locked

fmt:
    cargo fmt --all

fmt-check:
    cargo fmt --all --check

lint:
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# Needs `cargo install cargo-deny` and the network: the same lists as tests/deps.rs, and advisories
deny:
    cargo deny check

# curl, nginx, PostgreSQL and others through two sidecars, Python and OpenSSL at what we sign; installs what is missing, so it wants root
test-peers:
    .ci/peers
    cargo build --locked --release
    COUNTERSIGN_BIN="$PWD/target/release/countersign" cargo test --locked --test it -- --ignored --nocapture --test-threads=1 peers::

# 10,000 idle flows and their memory; 200 flows beside a gigabyte and a stalled app: figures, in 3 minutes
test-load:
    .ci/peers
    cargo build --locked --release
    COUNTERSIGN_BIN="$PWD/target/release/countersign" cargo test --locked --test it -- --ignored --nocapture --test-threads=1 load:: stalls

# What waits for certificates to end; two minutes
test-slow:
    cargo test --locked --test it -- --ignored --nocapture half_a_minute slept_through

# Two thousand attempts to get in, of more than ninety kinds, each audited; two minutes
test-intruders:
    cargo build --locked --release
    COUNTERSIGN_BIN="$PWD/target/release/countersign" cargo test --locked --test it -- --ignored --nocapture intruders::

# Network namespaces as hosts, whose links are cut while devices join; wants root, and takes 2 minutes
test-hosts:
    .ci/hosts
    cargo build --locked --release
    COUNTERSIGN_BIN="$PWD/target/release/countersign" cargo test --locked --test it -- --ignored --nocapture --test-threads=1 hosts::

# Attacks and honest days from twenty seeds before the analyser, and who knows it; a quarter of an hour
test-analyser seeds="20":
    cargo test --locked --release --lib -- --ignored every_honest_day
    cargo build --locked --release
    target/release/countersign analyse simulate --suite --seeds {{seeds}}
    target/release/countersign analyse simulate --evasion --seeds {{seeds}}
    target/release/countersign analyse simulate --each-off --seeds 3

# How fast access ends, 50 times for each way to end it; wants root, and takes 8 minutes
test-cuts:
    .ci/hosts
    cargo build --locked --release
    COUNTERSIGN_BIN="$PWD/target/release/countersign" cargo test --locked --test it -- --ignored --nocapture --test-threads=1 cuts::

# Ten minutes on certificates that live for one, under constant traffic
test-renewal:
    cargo build --locked --release
    COUNTERSIGN_BIN="$PWD/target/release/countersign" cargo test --locked --test it -- --ignored --nocapture --test-threads=1 covered::

# Breaks the checks on purpose and sees whether a test notices; hours. `just mutants device` for one room
mutants *rooms="":
    .ci/mutants {{rooms}}

# Each target for so many seconds: `just fuzz`, `just fuzz 600 certificate`
fuzz seconds="60" *targets="":
    .ci/fuzz {{seconds}} {{targets}}

# Honest traffic and intruders on one machine
demo *args="":
    cargo run --locked --release -- demo {{args}}

# Writes the generated tables of the documents
docs:
    COUNTERSIGN_WRITE_DOCS=1 cargo test --locked --test tidy

# What CI runs
ci:
    .ci/run
