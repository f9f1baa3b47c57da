//! Two thousand attempts to get in, of every kind that somebody without the right could make: `just test-intruders`.
//!
//! Each is made at a real sidecar. None may reach the service; each must stand in the audit of the sidecar that it was
//! made at, with its reason, and nothing else may stand there.

mod asks;
mod evidence;
mod ground;
mod handshake;
mod joins;
mod posers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use countersign::net::BoxFuture;
use tokio::task::JoinSet;

use crate::support::PATIENCE;
use evidence::{bent, forge, forged};
use ground::{At, Ground, LANES, Ledger, Rng};
use joins::asked;
use posers::Manner;

/// A kind of attempt.
struct Kind {
    name: &'static str,
    at: At,
    /// What it may be refused with.
    reasons: &'static [&'static str],
    /// The entries it leaves, where it is not told itself.
    entries: usize,
    play: fn(Arc<Ground>, Rng, usize) -> BoxFuture<Vec<String>>,
}

/// `name, where, [reasons] => play`: what the play hears is what must stand in the audit; where it hears nothing, one
/// entry (or so many: `* n`) with the one reason.
macro_rules! kinds {
    ($($name:literal, $at:ident, [$($reason:literal),+] $(* $entries:literal)? => |$g:ident, $rng:ident, $lane:ident| $play:expr;)+) => {
        vec![$(Kind {
            name: $name,
            at: At::$at,
            reasons: &[$($reason),+],
            entries: [$($entries,)? 1][0],
            play: |$g, $rng, $lane| {
                let _ = $lane;
                Box::pin($play)
            },
        }),+]
    };
}

fn kinds() -> Vec<Kind> {
    kinds! {
        "no certificate", Server, ["certificate_missing"] => |g, r, _l| handshake::nothing(g, r);
        "certificate of another CA", Server, ["certificate_untrusted"] => |g, r, _l| handshake::shown(g, r, "foreign ca");
        "leaf of another CA, our CA behind it", Server, ["certificate_untrusted"] => |g, r, _l| handshake::shown(g, r, "foreign leaf, our ca behind it");
        "expired certificate", Server, ["certificate_expired"] => |g, r, _l| handshake::shown(g, r, "expired");
        "certificate of tomorrow", Server, ["certificate_not_yet_valid"] => |g, r, _l| handshake::shown(g, r, "not yet valid");
        "certificate with two URIs", Server, ["certificate_not_svid"] => |g, r, _l| handshake::shown(g, r, "two uris");
        "certificate without a URI", Server, ["certificate_not_svid"] => |g, r, _l| handshake::shown(g, r, "no uri");
        "CA certificate as a leaf", Server, ["certificate_not_svid"] => |g, r, _l| handshake::shown(g, r, "ca as leaf");
        "certificate for servers only", Server, ["certificate_not_svid"] => |g, r, _l| handshake::shown(g, r, "wrong eku");
        "certificate of another trust domain", Server, ["trust_domain_foreign"] => |g, r, _l| handshake::shown(g, r, "other domain");
        "revoked certificate", Server, ["certificate_revoked"] => |g, r, _l| handshake::shown(g, r, "revoked");
        "certificate without its key", Server, ["certificate_invalid"] => |g, r, _l| handshake::shown(g, r, "certificate without its key");
        "TLS 1.2 only", Server, ["tls_failed"] => |g, r, _l| handshake::tls_1_2(g, r);
        "classical key exchange only", Server, ["key_exchange_refused"] => |g, r, l| handshake::classical(g, r, l);
        "another protocol (ALPN)", Server, ["tls_failed"] => |g, r, l| handshake::other_alpn(g, r, l);
        "no TLS", Server, ["tls_failed"] => |g, r, _l| handshake::no_tls(g, r);
        "half a hello", Server, ["peer_closed"] => |g, r, _l| handshake::gone(g, r);
        "silence", Server, ["tls_timeout"] => |g, _r, _l| handshake::silent(g);

        "stolen key, no evidence", Server, ["evidence_missing"] => |g, r, l| evidence::nothing_said(g, r, l);
        "empty evidence", Server, ["evidence_missing"] => |g, r, l| forged(g, r, l, forge::empty);
        "message cut short", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::cut);
        "message of noise", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::junk);
        "evidence cut short", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::evidence_cut);
        "a bit of the evidence flipped", Server, ["evidence_malformed", "evidence_signature", "evidence_binding"] => |g, r, l| forged(g, r, l, forge::any_bit);
        "a bit of the signature flipped", Server, ["evidence_signature"] => |g, r, l| forged(g, r, l, forge::signature_bit);
        "a bit of the record flipped", Server, ["record_invalid"] => |g, r, l| forged(g, r, l, forge::record_bit);
        "message too long", Server, ["request_too_large", "evidence_missing"] => |g, r, l| evidence::oversized(g, r, l);
        "evidence too long", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::evidence_too_long);
        "a key of the message twice", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::twice);
        "an unknown key in the message", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::foreign_key);
        "a claim twice", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::claim_twice);
        "an unknown component", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::unknown_component);
        "another profile", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::other_profile);
        "a new leaf announced, not shown", Server, ["evidence_malformed"] => |g, r, l| forged(g, r, l, forge::new_leaf_unproven);
        "replayed evidence", Server, ["evidence_binding"] => |g, r, l| forged(g, r, l, forge::replayed);
        "evidence relayed from elsewhere", Server, ["evidence_binding"] => |g, r, l| forged(g, r, l, forge::relayed_elsewhere);
        "evidence relayed by who stands between", Server, ["evidence_binding"] => |g, r, l| forged(g, r, l, forge::relayed);
        "another's evidence for this exporter", Server, ["evidence_binding"] => |g, r, l| forged(g, r, l, forge::relayed_exactly);
        "reflected evidence", Server, ["evidence_binding"] => |g, r, l| evidence::reflected(g, r, l);
        "evidence of the other role", Server, ["evidence_binding"] => |g, r, l| forged(g, r, l, forge::other_role);
        "evidence for another nonce", Server, ["evidence_binding"] => |g, r, l| evidence::other_nonce(g, r, l);
        "signed by another key", Server, ["evidence_signature"] => |g, r, l| forged(g, r, l, forge::other_key);
        "evidence of another time", Server, ["evidence_stale"] => |g, r, l| forged(g, r, l, forge::stale);
        "no record", Server, ["record_missing"] => |g, r, l| forged(g, r, l, forge::no_record);
        "record of another CA", Server, ["record_invalid"] => |g, r, l| forged(g, r, l, forge::foreign_record);
        "record of another device", Server, ["record_invalid"] => |g, r, l| forged(g, r, l, forge::record_of_another);
        "older record", Server, ["record_rolled_back"] => |g, r, l| evidence::rolled_back(g, r, l);
        "expired record", Server, ["record_expired"] => |g, r, l| bent(g, r, l, "expired");
        "revoked device", Server, ["device_revoked"] => |g, r, l| bent(g, r, l, "revoked");
        "quarantined device", Server, ["device_quarantined"] => |g, r, l| bent(g, r, l, "quarantined");
        "device without a tier", Server, ["tier_too_low"] => |g, r, l| bent(g, r, l, "tierless");
        "stolen key on another machine", Server, ["device_quarantined"] => |g, r, l| forged(g, r, l, forge::wrong_machine);
        "stolen key, another salt", Server, ["device_quarantined"] => |g, r, l| forged(g, r, l, forge::wrong_salt);
        "the board not told", Server, ["device_quarantined"] => |g, r, l| forged(g, r, l, forge::board_hidden);
        "copied device (spent token)", Server, ["clone_suspected"] => |g, r, l| evidence::copied(g, r, l);
        "unknown errand", Server, ["errand_unknown"] => |g, r, l| evidence::unknown_errand(g, r, l);
        "flood of errands", Server, ["errands_limited", "errand_unknown"] => |g, r, l| evidence::errand_flood(g, r, l);

        "plain client to no service (SSRF)", Server, ["service_unknown"] => |g, r, _l| asks::no_service(g, r);
        "proven device to no service (SSRF)", Server, ["service_unknown"] => |g, r, l| evidence::no_service(g, r, l);
        "plain client against policy", Server, ["policy_denied"] => |g, r, _l| asks::not_allowed(g, r);
        "proven device against policy", Server, ["policy_denied"] => |g, r, l| evidence::not_allowed(g, r, l);
        "malformed CONNECT", Server, ["request_malformed", "method_not_allowed", "request_too_large"] => |g, r, _l| asks::malformed(g, r);
        "joining where no authority is", Server, ["join_unavailable"] => |g, _r, _l| joins::nobody_there(g);

        "made-up token", Authority, ["join_token_unknown"] => |g, r, _l| asked(g, r, joins::forge::made_up);
        "token without its secret", Authority, ["join_token_unknown"] => |g, r, _l| asked(g, r, joins::forge::no_secret);
        "replayed proof of a token", Authority, ["join_token_unknown"] => |g, r, _l| asked(g, r, joins::forge::replayed);
        "request swapped under a proof", Authority, ["join_token_unknown"] => |g, r, _l| asked(g, r, joins::forge::swapped);
        "spent token", Authority, ["join_token_spent"] => |g, r, _l| asked(g, r, joins::forge::spent);
        "expired token", Authority, ["join_token_expired"] => |g, r, _l| asked(g, r, joins::forge::expired);
        "denied token", Authority, ["join_denied"] => |g, r, _l| asked(g, r, joins::forge::denied);
        "token of another authority", Authority, ["join_token_foreign"] => |g, r, _l| asked(g, r, joins::forge::foreign);
        "request for another name", Authority, ["join_name_mismatch"] => |g, r, _l| asked(g, r, joins::forge::other_name);
        "broken certificate request", Authority, ["join_csr_invalid"] => |g, r, _l| asked(g, r, joins::forge::broken_request);
        "joining with an unknown component", Authority, ["join_malformed"] => |g, r, _l| asked(g, r, joins::forge::unknown_component);
        "second key for a token", Authority, ["join_csr_changed"] => |g, r, _l| asked(g, r, joins::forge::second_key);
        "acknowledged by another key", Authority, ["join_ack_invalid"] => |g, r, _l| joins::wrong_ack(g, r);
        "no message of joining", Authority, ["join_malformed"] => |g, r, _l| joins::no_message(g, r);
        "services through the joining door", Authority, ["join_door_only"] => |g, r, _l| joins::no_join(g, r);

        "another device poses as the peer", Web, ["peer_unexpected"] => |g, r, _l| posers::shows(g, r, "another device");
        "another CA's device poses as the peer", Web, ["certificate_untrusted"] => |g, r, _l| posers::shows(g, r, "foreign ca");
        "an expired peer", Web, ["certificate_expired"] => |g, r, _l| posers::shows(g, r, "expired");
        "a revoked peer", Web, ["certificate_revoked"] => |g, r, _l| posers::shows(g, r, "revoked");
        "a peer without its key", Web, ["certificate_invalid"] => |g, r, _l| posers::shows(g, r, "the peer's certificate without its key");
        "the peer's key, no errands", Web, ["evidence_missing"] * 2 => |g, r, _l| posers::answers(g, r, Manner::NotFound);
        "the peer's key, empty evidence", Web, ["evidence_missing"] * 2 => |g, r, _l| posers::answers(g, r, Manner::Empty);
        "the peer's key, noise as evidence", Web, ["evidence_malformed"] * 2 => |g, r, _l| posers::answers(g, r, Manner::Junk);
        "the peer's key, our evidence back", Web, ["evidence_binding"] * 2 => |g, r, _l| posers::answers(g, r, Manner::Reflected);
        "the peer's key on another machine", Web, ["device_quarantined"] * 2 => |g, r, _l| posers::answers(g, r, Manner::OtherMachine);
        "no SOCKS5 of ours", Web, ["request_malformed", "method_not_allowed", "outbound_unknown"] => |g, r, _l| asks::socks(g, r);
        "no CONNECT of ours at the apps' door", Web, ["request_malformed", "method_not_allowed", "request_too_large", "outbound_unknown"] => |g, r, _l| asks::proxy(g, r);
        "stranger at the admin address", Web, ["admin_host_foreign", "request_malformed", "admin_path_unknown", "admin_method_not_allowed"] => |g, r, _l| asks::admin(g, r);
        "wishes at the admin socket", Web, ["admin_path_unknown", "admin_method_not_allowed"] => |g, r, _l| asks::admin_socket(g, r);
        "another user at the admin socket", Web, ["caller_forbidden"] => |g, r, _l| asks::other_user(g, r);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs curl and some minutes: run `just test-intruders`"]
async fn two_thousand_intruders_are_refused_and_each_stands_in_the_audit() {
    let seed = std::env::var("COUNTERSIGN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let mut rng = Rng(seed);
    let since = Instant::now();
    let ground = Arc::new(Ground::lay().await);
    ground.serve_honest().await;
    evidence::control(&ground).await;
    evidence::see_newer(&ground).await;
    joins::wrong_ack(Arc::clone(&ground), Rng(seed)).await;
    joins::posing_authority(&ground).await;
    // What the tools did to see that they work.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let ats = [At::Server, At::Web, At::Authority];
    let mut ledgers: BTreeMap<At, Ledger> = ats.map(|at| (at, Ledger::default())).into();
    for (at, ledger) in &mut ledgers {
        ledger.read(ground.sidecar(*at));
    }
    let before = ledgers.iter().map(|(at, l)| (*at, l.reasons.clone())).collect::<BTreeMap<_, _>>();
    let issued = joins::issued(&ground.yard.path().join("ca"));
    let memory = ats.map(|at| ground.sidecar(at).resident_kib());

    let mut kinds = kinds();
    if !asks::loosen(&ground) {
        println!("not root: nobody can be another user");
        kinds.retain(|k| k.name != "another user at the admin socket");
    }
    // In an order of its own, and no kind fewer than others may get.
    let mut counts = vec![ATTEMPTS / kinds.len() / 2; kinds.len()];
    while counts.iter().sum::<usize>() < ATTEMPTS {
        counts[rng.below(kinds.len())] += 1;
    }
    let mut order: Vec<_> = (0..kinds.len()).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, rng.below(at + 1));
    }
    println!(
        "seed {seed}, {} kinds, {LANES} at once; ready after {:.1} s",
        kinds.len(),
        since.elapsed().as_secs_f32()
    );
    println!("| kind | at | attempts | reasons: entries expected | audited |\n|---|---|---:|---|---:|");
    let mut all: BTreeMap<At, BTreeMap<String, u64>> = BTreeMap::new();
    for n in order {
        let (kind, attempts) = (&kinds[n], counts[n]);
        let expected = attempt(&ground, kind, attempts, &mut rng).await;
        let ledger = ledgers.get_mut(&kind.at).unwrap();
        let start = ledger.reasons.clone();
        let whole: u64 = expected.values().sum();
        let seen = written(&ground, kind, ledger, &start, whole).await;
        let words: Vec<_> = expected.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        let audited: u64 = seen.values().sum();
        println!("| {} | {:?} | {attempts} | {} | {audited} |", kind.name, kind.at, words.join(", "));
        assert_eq!(seen, expected, "{}: the audit is another than what was refused", kind.name);
        for (reason, count) in expected {
            *all.entry(kind.at).or_default().entry(reason).or_default() += count;
        }
        ground.serve_honest().await;
    }

    // Late entries would be entries too many.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let mut audited = 0;
    for (at, ledger) in &mut ledgers {
        let mut seen = ledger.read(ground.sidecar(*at)).clone();
        subtract(&mut seen, &before[at]);
        assert_eq!(seen, all.remove(at).unwrap_or_default(), "{at:?}: all in all");
        audited += seen.values().sum::<u64>();
        assert_eq!(
            ground.sidecar(*at).status().await["audit"]["refused"],
            0,
            "{at:?}: the log could not take all"
        );
    }
    let (bytes, honest) = (ground.bytes.load(Ordering::Relaxed), ground.honest.load(Ordering::Relaxed));
    assert_eq!(bytes, 5 * honest as u64, "bytes at the service that no honest app sent");
    assert_eq!(ground.orders.visitors(), honest, "connections to the service that no honest app made");
    assert_eq!(ground.canary.visitors(), 0, "somebody was led elsewhere");
    assert_eq!(joins::issued(&ground.yard.path().join("ca")), issued, "the CA issued something");
    let now = ats.map(|at| ground.sidecar(at).resident_kib());
    for ((at, before), now) in ats.iter().zip(memory).zip(now) {
        println!("{at:?}: {before} KiB before, {now} KiB after");
        assert!(now < before + MEMORY_MORE_KIB, "{at:?} grew from {before} to {now} KiB");
    }
    println!(
        "{} attempts of {} kinds: 0 through, {audited} refusals audited, exactly; {honest} honest flows served; {:.0} s",
        counts.iter().sum::<usize>(),
        kinds.len(),
        since.elapsed().as_secs_f32()
    );
}

/// Makes so many attempts; gives the entries that must stand in the audit.
async fn attempt(ground: &Arc<Ground>, kind: &Kind, attempts: usize, rng: &mut Rng) -> BTreeMap<String, u64> {
    // Who shares the outcome of another's dial leaves fewer entries: one at a time.
    let lanes = if kind.entries > 1 { 1 } else { LANES };
    let mut running = JoinSet::new();
    for lane in 0..lanes {
        let mine = (lane..attempts).step_by(lanes).map(|_| Rng(rng.next())).collect::<Vec<_>>();
        let (ground, play) = (Arc::clone(ground), kind.play);
        running.spawn(async move {
            let mut heard = Vec::new();
            for rng in mine {
                heard.push(play(Arc::clone(&ground), rng, lane).await);
            }
            heard
        });
    }
    let mut expected = BTreeMap::new();
    while let Some(heard) = running.join_next().await {
        for mut reasons in heard.unwrap_or_else(|e| panic!("{}: {e}", kind.name)) {
            if reasons.is_empty() {
                assert_eq!(kind.reasons.len(), 1, "{}: which of them?", kind.name);
                reasons = vec![kind.reasons[0].to_owned(); kind.entries];
            }
            for reason in reasons {
                assert!(kind.reasons.contains(&&*reason), "{}: refused with `{reason}`", kind.name);
                *expected.entry(reason).or_default() += 1;
            }
        }
    }
    expected
}

/// Waits until as many entries stand in the audit as must; gives what came since `start`.
async fn written(
    ground: &Ground,
    kind: &Kind,
    ledger: &mut Ledger,
    start: &BTreeMap<String, u64>,
    whole: u64,
) -> BTreeMap<String, u64> {
    let since = Instant::now();
    loop {
        let mut seen = ledger.read(ground.sidecar(kind.at)).clone();
        subtract(&mut seen, start);
        if seen.values().sum::<u64>() >= whole || since.elapsed() > PATIENCE {
            return seen;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

fn subtract(from: &mut BTreeMap<String, u64>, what: &BTreeMap<String, u64>) {
    for (reason, count) in what {
        if let Some(left) = from.get_mut(reason) {
            *left -= count;
        }
    }
    from.retain(|_, left| *left > 0);
}

/// All together.
const ATTEMPTS: usize = 2000;
/// How much more memory a sidecar may hold after them.
const MEMORY_MORE_KIB: u64 = 64 * 1024;
