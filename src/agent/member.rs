//! A sidecar that has an authority: hears its news as they come, and gets its next certificate from it in time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use super::bulletin::Bulletin;
use super::take::{Offer, Taker};
use crate::audit::{Entry, Kind};
use crate::channel::{
    self, Blob, ERRAND_LEN_MAX, ErrandError, JoinError, NEWS_ERRAND, NEWS_WAIT_MAX, NewsAnswer, NewsAsk,
    NewsDigests, PART_ERRAND, PartAsk, RENEW_ERRAND, RenewAnswer, encode_renew,
};
use crate::config::Membership;
use crate::flow;
use crate::identity::authority::BACKDATE;
use crate::identity::{Enrolment, Gift, Joined, LeafSigner, Places, read_file};
use crate::model::{Reason, Timestamp};
use crate::resilience::resolve;

/// What keeps the contact.
pub(super) struct Member {
    pub whom: Membership,
    pub taker: Arc<Taker>,
    /// Thrown when this sidecar drains.
    pub drain: watch::Receiver<bool>,
}

/// Keeps hearing and renewing until the sidecar drains.
pub(super) async fn keep(member: Arc<Member>) {
    let mut drain = member.drain.clone();
    tokio::select! {
        _ = drain.wait_for(|on| *on) => {}
        () = member.listen() => {}
        () = member.renew_in_time() => {}
    }
}

impl Member {
    /// Asks for news for ever; the authority holds the answer back until there are any.
    async fn listen(&self) {
        let mut heard = Heard::default();
        (heard.has.crl, heard.has.bundle) = self.taker.places.digests();
        let mut pause = PAUSE_MIN;
        // The first answer comes at once: it shows that the authority is there.
        let mut wait = Duration::ZERO;
        loop {
            match self.ask(&mut heard, wait).await {
                Ok(()) => {
                    (pause, wait) = (PAUSE_MIN, NEWS_WAIT_MAX);
                    tokio::time::sleep(BREATH).await;
                }
                Err(problem) => {
                    tracing::debug!("no news of the authority: {}", problem.detail);
                    self.taker.contact.failed(problem.detail);
                    if problem.outdated {
                        self.recover_now().await;
                    }
                    wait = Duration::ZERO;
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn ask(&self, heard: &mut Heard, wait: Duration) -> Result<(), Problem> {
        let record_version = self.record_version();
        let ask = NewsAsk { has: heard.has, record_version: heard.record.max(record_version), wait };
        let answer = self.errand(NEWS_ERRAND, ask.encode(), wait + ANSWER_TIMEOUT).await?;
        let answer = NewsAnswer::decode(&answer).map_err(|e| Problem::new(e.to_string()))?;
        let now = Timestamp::now();
        self.taker.contact.heard(answer.at, now);
        self.taker.rooms.metrics.authority_heard(now);
        let mut offer = Offer::default();
        if answer.there.issuers != heard.has.issuers || heard.issuers.is_empty() {
            heard.issuers = self.fetch(&answer, Blob::Issuers).await?;
        }
        offer.issuers.clone_from(&heard.issuers);
        let new = |blob| (answer.there.of(blob) != heard.has.of(blob)).then_some(blob);
        if let Some(blob) = new(Blob::Bundle) {
            offer.bundle = Some(self.fetch(&answer, blob).await?);
        }
        if let Some(blob) = new(Blob::Crl) {
            offer.crl = Some(self.fetch(&answer, blob).await?);
        }
        if let Some(blob) = new(Blob::Standings) {
            offer.standings = Some(self.fetch(&answer, blob).await?);
        }
        // Whatever becomes of it: the same is not news again.
        heard.has = answer.there;
        if let Some(version) = version_of(&answer.record) {
            heard.record = version;
            offer.record = Some(answer.record);
        }
        self.take(offer).await;
        Ok(())
    }

    async fn take(&self, offer: Offer) {
        let taker = Arc::clone(&self.taker);
        // What was wrong with it is told by then.
        let _ = tokio::task::spawn_blocking(move || taker.take(&offer, Timestamp::now())).await;
    }

    /// Fetches one file, part by part; it must come out as it was told.
    async fn fetch(&self, answer: &NewsAnswer, blob: Blob) -> Result<Vec<u8>, Problem> {
        use sha2::Digest;
        let (digest, len) = (answer.there.of(blob), answer.len_of(blob));
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut whole = Vec::new();
        while whole.len() < len {
            let offset = u32::try_from(whole.len()).unwrap_or(u32::MAX);
            let ask = PartAsk { blob, digest, offset };
            let part = self.errand(PART_ERRAND, ask.encode(), ANSWER_TIMEOUT).await?;
            if part.is_empty() || part.len() > len - whole.len() {
                return Err(Problem::new("what the authority distributes changed under way".into()));
            }
            whole.extend_from_slice(&part);
        }
        if <[u8; 32]>::from(sha2::Sha256::digest(&whole)) != digest {
            return Err(Problem::new("what the authority sent is not what it told of".into()));
        }
        Ok(whole)
    }

    async fn errand(&self, name: &str, body: Vec<u8>, timeout: Duration) -> Result<Bytes, Problem> {
        let Membership { authority, paths } = &self.whom;
        let pool = &self.taker.rooms.pool;
        let done = pool.errand(authority, paths, name, body.into(), ERRAND_LEN_MAX, timeout).await;
        done.map(|(answer, _)| answer).map_err(Problem::from)
    }

    /// Renews at half of the leaf's life, with some spread, again and again until it has worked.
    async fn renew_in_time(&self) {
        let mut pause = PAUSE_MIN;
        loop {
            let (leaf, now) = (self.taker.identity.signer(), Timestamp::now());
            let svid = leaf.svid();
            if now >= svid.not_after {
                self.recover_now().await;
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
            let at = renew_at(svid.not_before, svid.not_after, fraction());
            if now < at {
                // In short steps: the leaf may be replaced by hand meanwhile, and clocks are set.
                tokio::time::sleep(at.since(now).min(LOOK_EVERY)).await;
                continue;
            }
            match self.renew(&leaf).await {
                Ok(()) => pause = PAUSE_MIN,
                Err(problem) => {
                    let left = svid.not_after.since(now);
                    tracing::warn!(
                        left_s = left.as_secs(),
                        "the certificate was not renewed: {}",
                        problem.detail
                    );
                    tokio::time::sleep(jittered(pause.min(left / 8).max(BREATH))).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn renew(&self, leaf: &LeafSigner) -> Result<(), Problem> {
        let places = &self.taker.places;
        let begun = Enrolment::renew(&places.state, leaf).map_err(|e| Problem::new(e.to_string()))?;
        let answer = self.errand(RENEW_ERRAND, encode_renew(begun.csr()), ANSWER_TIMEOUT).await?;
        let answer = RenewAnswer::decode(&answer).map_err(|e| Problem::new(e.to_string()))?;
        let RenewAnswer { chain_pem, bundle_pem, record } = answer;
        // Lists come with the news, and are in force before: a CA that is new must have told of itself first.
        let crl_pem = String::from_utf8_lossy(&places.read_crl()).into_owned();
        let gift = Gift { chain_pem, bundle_pem, crl_pem, record };
        self.install(&begun, gift, "renewed").await
    }

    /// Gets the next certificate at the narrow door, as far as the authority lets us.
    async fn recover_now(&self) {
        let places = &self.taker.places;
        let leaf = self.taker.identity.signer();
        match recover(&self.whom, places, &leaf, "recovered").await {
            Ok(told) => {
                self.tell(&told);
                let orders = self.taker.orders.clone();
                let _ = tokio::task::spawn_blocking(move || orders.reload()).await;
            }
            Err(why) => tracing::warn!("recovery: {why}"),
        }
    }

    async fn install(&self, begun: &Enrolment, gift: Gift, how: &str) -> Result<(), Problem> {
        let joined = begun.check(&gift, Timestamp::now()).map_err(|e| Problem::new(e.to_string()))?;
        let told = format!("{how}: serial {}, until {}", joined.issued.serial, joined.issued.not_after);
        let taker = Arc::clone(&self.taker);
        let done = tokio::task::spawn_blocking(move || {
            save(&taker.places, &joined, &gift.record)?;
            Enrolment::finish(&taker.places.state).map_err(|e| e.to_string())?;
            taker.orders.reload()
        });
        match done.await {
            Ok(done) => done.map_err(Problem::new)?,
            Err(e) => return Err(Problem::new(e.to_string())),
        };
        self.tell(&told);
        Ok(())
    }

    fn tell(&self, said: &str) {
        let now = Timestamp::now();
        tracing::info!("certificate {said}");
        let device = Some(self.taker.identity.id().clone());
        let entry = Entry {
            device,
            detail: Some(format!("certificate {said}").into()),
            ..Entry::new(now, Kind::Join)
        };
        let _ = self.taker.rooms.audit.append(Entry { decision: Some(flow::decision_id(now)), ..entry });
    }

    fn record_version(&self) -> u64 {
        let text = read_file(&self.taker.places.record, RECORD_FILE_MAX).unwrap_or_default();
        version_of(&String::from_utf8_lossy(&text)).unwrap_or(0)
    }
}

/// The authority's own sidecar takes what it tells others from the board itself.
pub(super) async fn keep_own(
    taker: Arc<Taker>,
    mut board: watch::Receiver<Arc<Bulletin>>,
    mut drain: watch::Receiver<bool>,
) {
    let mut has = NewsDigests::default();
    loop {
        let bulletin = Arc::clone(&board.borrow_and_update());
        let new = |blob| bulletin.digests.of(blob) != has.of(blob);
        let offer = Offer {
            crl: new(Blob::Crl).then(|| bulletin.crl.to_vec()),
            bundle: new(Blob::Bundle).then(|| bulletin.bundle.to_vec()),
            issuers: bulletin.issuers.to_vec(),
            standings: new(Blob::Standings).then(|| bulletin.standings.to_vec()),
            record: None,
        };
        has = bulletin.digests;
        let taker = Arc::clone(&taker);
        let _ = tokio::task::spawn_blocking(move || taker.take(&offer, Timestamp::now())).await;
        tokio::select! {
            _ = drain.wait_for(|on| *on) => return,
            changed = board.changed() => if changed.is_err() { return },
        }
    }
}

/// Waits until a device whose certificate has expired has its next one: it cannot do anything else.
pub(super) async fn recover_first(whom: &Membership, places: &Places, leaf: &LeafSigner) -> String {
    let mut pause = PAUSE_MIN;
    loop {
        match recover(whom, places, leaf, "recovered").await {
            Ok(told) => return told,
            Err(why) => {
                tracing::warn!(
                    not_after = %leaf.svid().not_after,
                    "the certificate of this device has expired, and its authority gave no other: {why}"
                );
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// What was heard last.
#[derive(Default)]
struct Heard {
    has: NewsDigests,
    record: u64,
    issuers: Vec<u8>,
}

/// Asks the authority, at each of its addresses in turn, for the next certificate of a device whose last one, `leaf`, is
/// of no use any more, and puts it in place. Says what came of it.
pub(super) async fn recover(
    whom: &Membership,
    places: &Places,
    leaf: &LeafSigner,
    how: &str,
) -> Result<String, String> {
    let begun = Enrolment::renew(&places.state, leaf).map_err(|e| e.to_string())?;
    let record = read_file(&places.record, RECORD_FILE_MAX).unwrap_or_default();
    let record = String::from_utf8_lossy(&record).into_owned();
    let mut save = |joined: &Joined, record: &str| save(places, joined, record);
    let mut last = "the authority has no address".to_owned();
    for path in &whom.paths {
        let addrs: Vec<SocketAddr> = match resolve(path, RESOLVE_TIMEOUT).await {
            Ok(addrs) => addrs,
            Err(e) => {
                last = e.to_string();
                continue;
            }
        };
        for addr in addrs {
            match channel::recover(addr, &whom.authority, leaf, &begun, &record, &mut save).await {
                Ok(joined) => {
                    Enrolment::finish(&places.state).map_err(|e| e.to_string())?;
                    let issued = &joined.issued;
                    return Ok(format!("{how}: serial {}, until {}", issued.serial, issued.not_after));
                }
                Err(e @ (JoinError::Dial { .. } | JoinError::Broken(_))) => last = e.to_string(),
                Err(e) => return Err(e.to_string()),
            }
        }
    }
    Err(last)
}

/// Everything on the disk, whole, and nothing of it before the record was checked as well.
fn save(places: &Places, joined: &Joined, record: &str) -> Result<(), String> {
    super::records::check_own(joined, record, Timestamp::now())?;
    places.install(&joined.issued, record).map_err(|e| e.to_string())
}

/// When to renew: at half of its life, up to a tenth of it later, so that a fleet does not come at once.
fn renew_at(not_before: Timestamp, not_after: Timestamp, fraction: f64) -> Timestamp {
    // Certificates of our own authority are valid from a minute before they were made.
    let made = Some(not_before.plus(BACKDATE)).filter(|made| *made < not_after).unwrap_or(not_before);
    let life = not_after.since(made);
    made.plus(life / 2).plus((life / 10).mul_f64(fraction.clamp(0.0, 1.0)))
}

/// The version a record says it has; nothing else of it is believed.
fn version_of(record: &str) -> Option<u64> {
    record.lines().find_map(|line| line.strip_prefix("version = ")?.parse().ok())
}

/// At random between half of it and all of it.
fn jittered(pause: Duration) -> Duration {
    pause / 2 + (pause / 2).mul_f64(fraction())
}

/// At random from 0 to 1; 1 without randomness.
fn fraction() -> f64 {
    let mut byte = [255];
    let _ = SystemRandom::new().fill(&mut byte);
    let [byte] = byte;
    f64::from(byte) / 255.0
}

/// Why an errand brought nothing.
struct Problem {
    detail: String,
    /// Our certificate or record is of no use any more at the peers' door.
    outdated: bool,
}

impl Problem {
    fn new(detail: String) -> Self {
        Self { detail, outdated: false }
    }
}

impl From<ErrandError> for Problem {
    fn from(e: ErrandError) -> Self {
        let reason = match &e {
            ErrandError::Gone { reason, .. } => Some(*reason),
            ErrandError::Refused { reason, .. } => *reason,
            _ => None,
        };
        Self { detail: e.to_string(), outdated: reason.is_some_and(|r| OUTDATED.contains(&r)) }
    }
}

/// What is helped by another certificate and record, if the authority gives them.
const OUTDATED: &[Reason] = &[
    Reason::PeerRefused,
    Reason::SessionExpired,
    Reason::CertificateExpired,
    Reason::RecordExpired,
    Reason::RecordInvalid,
    Reason::RecordRolledBack,
    Reason::DeviceQuarantined,
];
/// Shortest and longest pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Pause between two answers.
const BREATH: Duration = Duration::from_millis(50);
/// How often the leaf's dates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for an answer that is not held back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
const RECORD_FILE_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_between_half_and_two_thirds_of_its_life() {
        let made = Timestamp::from_secs(1_800_000_000);
        for life in [30, 60, 3600, 86_400, 90 * 86_400] {
            let life = Duration::from_secs(life);
            let from = Timestamp::from_millis(made.as_millis() - 60_000);
            let at = |fraction| renew_at(from, made.plus(life), fraction).since(made);
            assert_eq!(at(0.0), life / 2);
            assert!(at(1.0) > life / 2 && at(1.0) < life * 2 / 3, "{life:?}");
        }
        // Of another authority, that does not date back.
        let short = renew_at(made, made.plus(Duration::from_secs(40)), 0.0);
        assert_eq!(short.since(made), Duration::from_secs(20));
    }

    #[test]
    fn pauses_are_spread_and_bounded() {
        for _ in 0..100 {
            let pause = jittered(PAUSE_MAX);
            assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX);
        }
    }
}
