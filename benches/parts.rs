//! The parts of the data path and of a decision, one by one: `cargo bench --bench parts`.
//!
//! Ratios within one run are what counts. The last group compares opening and appraising one piece of evidence with
//! the bare signature verification in it: it must be at most 1.5 times as much. Then it says what evidence adds to the
//! handshake of a session.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark tells by panicking"
)]

mod memory;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign::audit::{self, Entry, Kind, Log};
use countersign::device::{
    Anchor, Claims, History, Record, Role, Salt, Status, Thresholds, appraise, binder, collect, demo_machine,
    fingerprint, make, open, verify_p256,
};
use countersign::identity::authority::{self, IssueRequest};
use countersign::identity::{self, Identity, Pq, server_name};
use countersign::model::{DecisionId, Sign, SignError, Tier, Timestamp};
use countersign::net::Chunks;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};

use memory::{Flow, bundle, facts, now};

fn chunks(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk queue");
    for (name, len, count) in [("few large", 64 * 1024, 8), ("many small", 64, 1000)] {
        let chunk = Bytes::from(vec![7; len]);
        group.throughput(Throughput::Elements(count));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                Chunks::default,
                |queue| {
                    for _ in 0..count {
                        queue.push(chunk.clone());
                    }
                    while let Some(chunk) = queue.take_front(usize::MAX) {
                        black_box(chunk);
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn relay(c: &mut Criterion) {
    let flow = Flow::new();
    let mut group = c.benchmark_group("relay, per chunk");
    for (name, len, burst) in [("64 KiB", 64 * 1024, 8), ("64 B", 64, 8), ("64 B, slow target", 64, 1)] {
        group.throughput(Throughput::Elements(CHUNKS as u64));
        group.bench_function(name, |b| b.iter(|| flow.relay(CHUNKS, len, burst)));
    }
    group.finish();
}

fn policy(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy, 200 rules");
    let (facts, id) = (facts(), DecisionId::new(now(), [7; 10]));
    let cached = bundle(200, 4096);
    assert!(cached.decide(&facts, id).is_permit());
    group.bench_function("cached", |b| b.iter(|| cached.decide(black_box(&facts), id)));
    group
        .bench_function("uncached", |b| b.iter(|| cached.explain(black_box(&facts), id).verdict.is_permit()));
    group.finish();
}

fn audit(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let settings = audit::Settings {
        dir: dir.path().join("audit"),
        key: dir.path().join("audit.key"),
        on_full: audit::OnFull::Block,
        queue_max: 16_384,
        commit_interval: Duration::from_millis(50),
        segment_bytes_max: 64 << 20,
        disk_reserve: 64 << 20,
    };
    let (log, _) = Log::open(&settings, "example.org/bench", Timestamp::now()).unwrap();
    let mut entry = Entry::new(Timestamp::now(), Kind::Open);
    entry.device = Some(facts().device.id);
    entry.service = Some(facts().service);
    entry.decision = Some(DecisionId::new(now(), [7; 10]));
    entry.rule = Some("orders-7".into());
    let mut group = c.benchmark_group("audit");
    group.throughput(Throughput::Elements(1));
    // What a flow waits for is the push; the writer follows, and is waited for outside of the time.
    group.bench_function("append", |b| {
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds.div_ceil(APPENDS) {
                let since = Instant::now();
                for _ in 0..APPENDS {
                    log.append(entry.clone()).unwrap();
                }
                took += since.elapsed();
                log.flush().unwrap();
            }
            took.mul_f64(rounds as f64 / (rounds.div_ceil(APPENDS) * APPENDS) as f64)
        });
    });
    group.finish();
    log.close().unwrap();
}

/// A P-256 key in memory.
struct Key {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl Key {
    fn new() -> Self {
        let (rng, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_ASN1_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &rng).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &rng).unwrap();
        // SubjectPublicKeyInfo of P-256 up to the point (RFC 5480 §2).
        let head = b"3059301306072a8648ce3d020106082a8648ce3d030107034200";
        let mut spki = data_encoding::HEXLOWER.decode(head).unwrap();
        spki.extend(pair.public_key().as_ref());
        Self { pair, spki }
    }
}

impl Sign for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SignError)?;
        Ok(signature.as_ref().to_vec())
    }

    fn public_key_spki(&self) -> &[u8] {
        &self.spki
    }
}

fn evidence(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    demo_machine(dir.path(), 7).unwrap();
    let machine = fingerprint(&collect(dir.path()).unwrap(), &Salt::new([7; 32]));
    let key = Key::new();
    let spki_sha256: [u8; 32] = Sha256::digest(&key.spki).into();
    let id = facts().device.id;
    let claims = Claims {
        ueid: machine.ueid,
        issued_at: now(),
        components: machine.values.clone(),
        boot: machine.boot,
        counter: 7,
        program: "countersign".into(),
        version: "0.1.0".into(),
        config_digest: [1; 32],
        policy_digest: [2; 32],
        new_leaf_sha256: None,
    };
    let record = Record {
        id: id.clone(),
        version: 1,
        profile: machine.profile,
        tier_max: Tier::Software,
        spki_sha256,
        baseline: Record::baseline_of(&machine.values),
        status: Status::Active,
        issued_at: now(),
        expires_at: now().plus(Duration::from_secs(86_400)),
    };
    let binder = binder(Role::Client, &spki_sha256, &[3; 32], &[4; 32]);
    let bytes = make(&claims, &binder, &key).unwrap();
    let (thresholds, history) = (Thresholds::default(), History::default());
    let proven = [spki_sha256];
    let anchor = Anchor { id: &id, proven: &proven };
    let judge = || {
        let claims = open(black_box(&bytes), &binder, &key.spki).unwrap();
        appraise(&claims, &record, &anchor, &thresholds, &history, now()).unwrap()
    };
    let bare = {
        let message = bytes.clone();
        let signature = fixed(&key.sign(&message).unwrap());
        let spki = key.spki.clone();
        move || assert!(verify_p256(black_box(&spki), &message, &signature))
    };
    bare();
    judge();
    let mut group = c.benchmark_group("evidence");
    group.bench_function("make", |b| b.iter(|| make(black_box(&claims), &binder, &key).unwrap()));
    group.bench_function("open and appraise", |b| b.iter(judge));
    group.bench_function("bare P-256 verification", |b| b.iter(&bare));
    group.finish();

    // Turn by turn, so that both meet the same machine.
    let (mut judged, mut verified) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        let since = Instant::now();
        black_box(judge());
        judged += since.elapsed();
        let since = Instant::now();
        bare();
        verified += since.elapsed();
    }
    let ratio = judged.as_secs_f64() / verified.as_secs_f64();
    println!("evidence: {} bytes, open and appraise {ratio:.2} x a bare P-256 verification", bytes.len());
    assert!(ratio <= 1.5, "more than 1.5 times");

    // Both sides' work for one session, in turn: the handshake alone, and what evidence both ways adds.
    let pair = Pair::new(dir.path());
    let (mut shaken, mut proven) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..SESSIONS {
        let since = Instant::now();
        pair.shake_hands();
        shaken += since.elapsed();
        let since = Instant::now();
        for _ in 0..2 {
            black_box(make(black_box(&claims), &binder, &key).unwrap());
            black_box(judge());
        }
        proven += since.elapsed();
    }
    let (shaken, proven) = (shaken / SESSIONS, proven / SESSIONS);
    println!(
        "session: a bare mTLS handshake takes {} us of both sides' CPU, evidence both ways {} us more ({:.0} %), \
         and one more round trip",
        shaken.as_micros(),
        proven.as_micros(),
        100.0 * proven.as_secs_f64() / shaken.as_secs_f64()
    );
}

/// Two devices of one CA that shake hands in memory.
struct Pair {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Pair {
    fn new(dir: &Path) -> Self {
        let (ca, now) = (dir.join("ca"), Timestamp::now());
        authority::init(&ca, &"bench.test".parse().unwrap(), now).unwrap();
        let device = |name: &str| {
            let home = dir.join(name);
            let ttl = Duration::from_secs(3600);
            let request = IssueRequest { name: name.parse().unwrap(), dns: vec![], ip: vec![], ttl };
            identity::install(&home, &authority::issue(&ca, &request, now).unwrap()).unwrap();
            let settings = identity::Settings {
                trust_domain: "bench.test".parse().unwrap(),
                leaf: home.join("leaf.pem"),
                key: home.join("leaf.key"),
                bundle: home.join("bundle.pem"),
                crl: Some(ca.join("crl.pem")),
                pq: Pq::Prefer,
            };
            Identity::load(&settings, now).unwrap()
        };
        let (client, server) = (device("app"), device("service"));
        let expected = server.id().clone();
        Self { client: client.client_config(&expected, &[b"h2"]), server: server.server_config(&[b"h2"]) }
    }

    fn shake_hands(&self) {
        let mut client = ClientConnection::new(Arc::clone(&self.client), server_name()).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&self.server)).unwrap();
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
            wire.clear();
        }
    }
}

/// `r` and `s` of an ASN.1 signature, 32 bytes each.
fn fixed(der: &[u8]) -> Vec<u8> {
    let (mut rest, mut out) = (&der[2..], Vec::new());
    while let [2, len, more @ ..] = rest {
        let (number, after) = more.split_at(usize::from(*len));
        let digits = number.strip_prefix(&[0]).unwrap_or(number);
        out.extend(std::iter::repeat_n(0, 32 - digits.len()).chain(digits.iter().copied()));
        rest = after;
    }
    out
}

/// Chunks of one relayed flow.
const CHUNKS: usize = 1000;
/// Entries appended before the writer is waited for; fewer than its queue holds.
const APPENDS: u64 = 4096;
/// Sessions that are compared with bare handshakes.
const SESSIONS: u32 = 500;
/// Turns of the comparison.
const ROUNDS: usize = 3000;

criterion_group! {
    name = parts;
    config = Criterion::default().sample_size(30).warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = chunks, relay, policy, audit, evidence
}
criterion_main!(parts);
