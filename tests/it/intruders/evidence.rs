//! Who has a device's key, and stands on another machine, another connection, or between two others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ciborium::Value;
use coset::iana::Algorithm;
use coset::{CoseSign1Builder, HeaderBuilder, TaggedCborSerializable};
use countersign::channel::{ERRAND_LEN_MAX, ERRAND_PATH};
use countersign::device::{
    Answer, Binder, Claims, Component, EVIDENCE_LEN_MAX, EXPORTER_LABEL, Message, Role, Salt, binder, make,
};
use countersign::identity::{Pq, svid};
use countersign::model::{Sign, Timestamp};
use countersign::protocols::parse_proxy_status;
use h2::client::SendRequest;
use http::{Method, Request, Uri};
use ring::hmac;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::ground::{Device, Ground, Rng, Shown, shake};
use crate::support::{Key, claims, claims_salted, within};

/// An h2 session that the handshake took; nothing is proven yet.
pub struct Wire {
    send: SendRequest<Bytes>,
    exporter: [u8; 32],
    renewal: [u8; 32],
    server: [u8; 32],
    task: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an errand led to.
struct Said {
    status: u16,
    reason: String,
    body: Bytes,
}

impl Wire {
    async fn open(g: &Ground, shown: &Shown) -> Self {
        let tls = within("a handshake", shake(g.door, Some(shown), b"h2", Pq::Prefer)).await.unwrap();
        let state = tls.get_ref().1;
        let export =
            |context: &[u8]| state.export_keying_material([0; 32], EXPORTER_LABEL, Some(context)).unwrap();
        let (exporter, renewal) = (export(b""), export(b"renewal"));
        let server = svid(&state.peer_certificates().unwrap()[0]).unwrap().spki_sha256;
        let (send, connection) = h2::client::handshake(tls).await.unwrap();
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { send, exporter, renewal, server, task }
    }

    /// What the first evidence of this key must name here.
    fn first(&self, key: &Key) -> Binder {
        binder(Role::Client, &key.spki_sha256(), &self.server, &self.exporter)
    }

    /// What later evidence must name, after this nonce.
    fn later(&self, key: &Key, nonce: &[u8]) -> Binder {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.renewal), nonce);
        binder(Role::Client, &key.spki_sha256(), &self.server, tag.as_ref().try_into().unwrap())
    }

    async fn post(&self, name: &str, body: Vec<u8>) -> Said {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        let uri =
            Uri::builder().scheme("https").authority("x").path_and_query(format!("{ERRAND_PATH}{name}"));
        *request.uri_mut() = uri.build().unwrap();
        let (answer, mut upload) =
            self.send.clone().ready().await.unwrap().send_request(request, false).unwrap();
        upload.reserve_capacity(body.len());
        // A body that is too long may be refused before it was sent.
        let _ = upload.send_data(body.into(), true);
        let answer = within("an answer", answer).await.unwrap();
        let said = said(&answer);
        let mut stream = answer.into_body();
        let mut whole = Vec::new();
        while let Some(Ok(chunk)) = within("a body", stream.data()).await {
            let _ = stream.flow_control().release_capacity(chunk.len());
            whole.extend_from_slice(&chunk);
        }
        Said { status: said.0, reason: said.1, body: whole.into() }
    }

    /// Asks for a flow; `None` when the session has ended by then.
    async fn connect(&self, target: &str) -> Option<(u16, String)> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::builder().authority(target).build().unwrap();
        let (answer, mut send) = self.send.clone().ready().await.ok()?.send_request(request, false).ok()?;
        let answer = within("an answer", answer).await.ok()?;
        if answer.status() == 200 {
            let _ = send.send_data(Bytes::from_static(b"in!"), false);
        }
        Some(said(&answer))
    }

    /// Proves the device as it should be; gives the server's answer.
    async fn prove(&self, device: &Device, record: &str, token: Option<[u8; 32]>) -> Answer {
        let claims = claims(&device.machine, &device.certs);
        let message =
            Message { continuity: token, ..message(&claims, &self.first(&device.key), &device.key, record) };
        let said = self.post("evidence", message.to_bytes().unwrap()).await;
        assert_eq!((said.status, &*said.reason), (200, ""), "what is right must be taken");
        Answer::read(&said.body).unwrap()
    }
}

fn said<B>(answer: &http::Response<B>) -> (u16, String) {
    let said = answer.headers().get("proxy-status").and_then(|v| v.to_str().ok());
    let reason = said.and_then(parse_proxy_status).map(|s| s.reason_code.to_string());
    (answer.status().as_u16(), reason.unwrap_or_default())
}

fn message(claims: &Claims, binder: &Binder, key: &Key, record: &str) -> Message {
    Message {
        evidence: make(claims, binder, key).unwrap(),
        record: Some(record.into()),
        nonce: Some([1; 32]),
        continuity_next: Some([2; 32]),
        ..Message::default()
    }
}

/// Where an attempt is made, with what it has.
pub struct Scene<'a> {
    g: &'a Ground,
    wire: &'a Wire,
    device: &'a Device,
    rng: &'a mut Rng,
}

impl Scene<'_> {
    fn claims(&self) -> Claims {
        claims(&self.device.machine, &self.device.certs)
    }

    /// The right message for this very session.
    fn right(&self) -> Message {
        message(&self.claims(), &self.wire.first(&self.device.key), &self.device.key, &self.device.record)
    }

    fn with(&self, claims: &Claims) -> Vec<u8> {
        let key = &self.device.key;
        message(claims, &self.wire.first(key), key, &self.device.record).to_bytes().unwrap()
    }

    fn with_record(&self, record: Option<String>) -> Vec<u8> {
        Message { record, ..self.right() }.to_bytes().unwrap()
    }

    fn with_binder(&self, binder: &Binder) -> Vec<u8> {
        message(&self.claims(), binder, &self.device.key, &self.device.record).to_bytes().unwrap()
    }
}

/// Posts what `forge` makes, which must be refused; sometimes asks for a flow all the same.
pub async fn forged(
    g: Arc<Ground>,
    rng: Rng,
    lane: usize,
    forge: fn(&mut Scene<'_>) -> Vec<u8>,
) -> Vec<String> {
    forged_by(&g, rng, &g.devices[lane], forge).await
}

/// The same by a device whose record is bent.
pub async fn bent(g: Arc<Ground>, rng: Rng, lane: usize, what: &'static str) -> Vec<String> {
    forged_by(&g, rng, &g.bent[what][lane], |s| s.right().to_bytes().unwrap()).await
}

async fn forged_by(
    g: &Ground,
    mut rng: Rng,
    device: &Device,
    forge: fn(&mut Scene<'_>) -> Vec<u8>,
) -> Vec<String> {
    let wire = Wire::open(g, &device.shown()).await;
    let body = forge(&mut Scene { g, wire: &wire, device, rng: &mut rng });
    let said = wire.post("evidence", body).await;
    assert_ne!(said.status, 200, "evidence was taken");
    persist(&wire, &mut rng, said.reason).await
}

/// A message longer than anybody takes. It is not evidence then, so that a flow lacks it.
pub async fn oversized(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let wire = Wire::open(&g, &g.devices[lane].shown()).await;
    let said = wire.post("evidence", vec![0x40; ERRAND_LEN_MAX + 1 + rng.below(20_000)]).await;
    assert_eq!((said.status, &*said.reason), (431, "request_too_large"));
    let mut reasons = vec![said.reason];
    if let Some((status, reason)) = wire.connect("orders:443").await {
        assert_eq!((status, &*reason), (403, "evidence_missing"));
        reasons.push(reason);
    }
    reasons
}

/// What was refused stays refused for whatever is asked next.
async fn persist(wire: &Wire, rng: &mut Rng, reason: String) -> Vec<String> {
    let mut reasons = vec![reason];
    if rng.below(3) == 0
        && let Some((status, reason)) = wire.connect("orders:443").await
    {
        assert_ne!(status, 200, "let in without evidence");
        assert_eq!(reason, reasons[0]);
        reasons.push(reason);
    }
    reasons
}

/// What a thief makes of the evidence that is taken from the rightful device.
pub mod forge {
    use super::*;

    pub fn empty(_: &mut Scene<'_>) -> Vec<u8> {
        Message { nonce: Some([1; 32]), ..Message::default() }.to_bytes().unwrap()
    }

    pub fn cut(s: &mut Scene<'_>) -> Vec<u8> {
        let whole = s.right().to_bytes().unwrap();
        whole[..s.rng.below(whole.len())].to_vec()
    }

    pub fn junk(s: &mut Scene<'_>) -> Vec<u8> {
        let len = 1 + s.rng.below(4000);
        [vec![0xff], s.rng.bytes(len)].concat()
    }

    /// Evidence cut short inside a message that is whole.
    pub fn evidence_cut(s: &mut Scene<'_>) -> Vec<u8> {
        let mut right = s.right();
        right.evidence.truncate(1 + s.rng.below(right.evidence.len() - 1));
        right.to_bytes().unwrap()
    }

    pub fn any_bit(s: &mut Scene<'_>) -> Vec<u8> {
        let mut right = s.right();
        let at = s.rng.below(right.evidence.len() * 8);
        right.evidence[at / 8] ^= 1 << (at % 8);
        right.to_bytes().unwrap()
    }

    pub fn signature_bit(s: &mut Scene<'_>) -> Vec<u8> {
        let mut right = s.right();
        let at = right.evidence.len() - 1 - s.rng.below(64);
        right.evidence[at] ^= 1 << s.rng.below(8);
        right.to_bytes().unwrap()
    }

    pub fn record_bit(s: &mut Scene<'_>) -> Vec<u8> {
        let mut record = s.device.record.clone().into_bytes();
        // One that leaves it text.
        let at = s.rng.below(record.len());
        record[at] ^= 1;
        s.with_record(Some(String::from_utf8(record).unwrap()))
    }

    pub fn evidence_too_long(s: &mut Scene<'_>) -> Vec<u8> {
        let long = vec![0xd2; EVIDENCE_LEN_MAX + 1 + s.rng.below(1000)];
        write(&Value::Map(vec![(1.into(), Value::Bytes(long))]))
    }

    /// A key of the message twice.
    pub fn twice(s: &mut Scene<'_>) -> Vec<u8> {
        let mut fields = read(&s.right().to_bytes().unwrap()).into_map().unwrap();
        let again = s.rng.pick(&fields).clone();
        fields.push(again);
        write(&Value::Map(fields))
    }

    /// A key that nobody knows.
    pub fn foreign_key(s: &mut Scene<'_>) -> Vec<u8> {
        let mut fields = read(&s.right().to_bytes().unwrap()).into_map().unwrap();
        let key = 11 + i64::try_from(s.rng.below(1000)).unwrap();
        fields.push((key.into(), Value::Null));
        write(&Value::Map(fields))
    }

    /// A claim twice, rightly signed.
    pub fn claim_twice(s: &mut Scene<'_>) -> Vec<u8> {
        let pick = s.rng.next();
        signed_with(s, |claims| {
            let at = usize::try_from(pick).unwrap_or_default() % claims.len();
            claims.push(claims[at].clone());
        })
    }

    /// A component that nobody knows, rightly signed.
    pub fn unknown_component(s: &mut Scene<'_>) -> Vec<u8> {
        signed_with(s, |claims| {
            let components = claims.iter_mut().find(|(k, _)| *k == Value::from(-70_001)).unwrap();
            let values = Value::Array(vec![Value::Bytes(vec![7; 16])]);
            components.1.as_map_mut().unwrap().push((Value::from("zz"), values));
        })
    }

    /// Evidence of another profile, rightly signed.
    pub fn other_profile(s: &mut Scene<'_>) -> Vec<u8> {
        signed_with(s, |claims| {
            claims.iter_mut().find(|(k, _)| *k == Value::from(265)).unwrap().1 = Value::from("urn:other");
        })
    }

    /// As from another connection of the same two keys.
    pub fn replayed(s: &mut Scene<'_>) -> Vec<u8> {
        let (own, peer) = (s.device.key.spki_sha256(), s.wire.server);
        let before = binder(Role::Client, &own, &peer, &s.rng.array());
        s.with_binder(&before)
    }

    /// Made for another verifier, and handed on.
    pub fn relayed_elsewhere(s: &mut Scene<'_>) -> Vec<u8> {
        let own = s.device.key.spki_sha256();
        let other = binder(Role::Client, &own, &s.rng.array(), &s.wire.exporter);
        s.with_binder(&other)
    }

    /// Of another device, made for whoever stands between, and handed on under its own certificate.
    pub fn relayed(s: &mut Scene<'_>) -> Vec<u8> {
        let other = &s.g.bent["aged"][0];
        let claims = claims(&other.machine, &other.certs);
        let middle =
            binder(Role::Client, &other.key.spki_sha256(), &s.device.key.spki_sha256(), &s.rng.array());
        message(&claims, &middle, &other.key, &other.record).to_bytes().unwrap()
    }

    /// Of another device, even for this very exporter.
    pub fn relayed_exactly(s: &mut Scene<'_>) -> Vec<u8> {
        let other = &s.g.bent["aged"][0];
        let claims = claims(&other.machine, &other.certs);
        message(&claims, &s.wire.first(&other.key), &other.key, &other.record).to_bytes().unwrap()
    }

    pub fn other_role(s: &mut Scene<'_>) -> Vec<u8> {
        let (own, peer) = (s.device.key.spki_sha256(), s.wire.server);
        let server = binder(Role::Server, &own, &peer, &s.wire.exporter);
        s.with_binder(&server)
    }

    /// Another key signs under the right name.
    pub fn other_key(s: &mut Scene<'_>) -> Vec<u8> {
        let thief = Key::new();
        let evidence = sign(&payload(&s.right().evidence), &s.device.key, &thief);
        Message { evidence, ..s.right() }.to_bytes().unwrap()
    }

    pub fn no_record(s: &mut Scene<'_>) -> Vec<u8> {
        s.with_record(None)
    }

    /// A record that another CA signed.
    pub fn foreign_record(s: &mut Scene<'_>) -> Vec<u8> {
        let body = s.device.record.rsplit_once("signature = ").unwrap().0;
        let signature = fixed(&Key::new().sign(body.as_bytes()).unwrap());
        let signed = format!("{body}signature = \"{}\"\n", data_encoding::HEXLOWER.encode(&signature));
        s.with_record(Some(signed))
    }

    pub fn record_of_another(s: &mut Scene<'_>) -> Vec<u8> {
        let other = s.rng.below(super::super::ground::LANES);
        s.with_record(Some(s.g.bent["aged"][other].record.clone()))
    }

    /// The right record in the hands of another machine that has the salt, too.
    pub fn wrong_machine(s: &mut Scene<'_>) -> Vec<u8> {
        let other = &s.g.yard.path().join("machine-3");
        s.with(&claims(other, &s.device.certs))
    }

    pub fn wrong_salt(s: &mut Scene<'_>) -> Vec<u8> {
        let salt = Salt::new(s.rng.array());
        s.with(&claims_salted(&s.device.machine, &salt))
    }

    /// The rightful machine, but what names its board is not told.
    pub fn board_hidden(s: &mut Scene<'_>) -> Vec<u8> {
        let mut claims = s.claims();
        claims.components.retain(|c, _| {
            !matches!(c, Component::ProductUuid | Component::BoardSerial | Component::RootDisk)
        });
        s.with(&claims)
    }

    pub fn stale(s: &mut Scene<'_>) -> Vec<u8> {
        let mut claims = s.claims();
        let by = i64::try_from(400 + s.rng.below(100_000)).unwrap();
        let now = i64::try_from(Timestamp::now().as_secs()).unwrap();
        claims.issued_at = Timestamp::from_secs(if s.rng.below(2) == 0 { now - by } else { now + by });
        s.with(&claims)
    }

    /// A leaf that is to take the place of the right one, without its key's signature.
    pub fn new_leaf_unproven(s: &mut Scene<'_>) -> Vec<u8> {
        let mut claims = s.claims();
        claims.new_leaf_sha256 = Some(s.rng.array());
        s.with(&claims)
    }
}

/// The right evidence with its claims bent, rightly signed.
fn signed_with(s: &Scene<'_>, change: impl FnOnce(&mut Vec<(Value, Value)>)) -> Vec<u8> {
    let right = s.right();
    let mut claims = read(&payload(&right.evidence)).into_map().unwrap();
    change(&mut claims);
    let evidence = sign(&write(&Value::Map(claims)), &s.device.key, &s.device.key);
    Message { evidence, ..right }.to_bytes().unwrap()
}

/// The payload of a COSE_Sign1.
fn payload(evidence: &[u8]) -> Vec<u8> {
    let Value::Tag(_, inner) = read(evidence) else { panic!("no tag") };
    inner.as_array().unwrap()[2].as_bytes().unwrap().clone()
}

/// A COSE_Sign1 that names one key and is signed by another, or the same.
fn sign(payload: &[u8], named: &Key, signer: &Key) -> Vec<u8> {
    let header =
        HeaderBuilder::new().algorithm(Algorithm::ES256).key_id(named.spki_sha256().to_vec()).build();
    let builder = CoseSign1Builder::new().protected(header).payload(payload.to_vec());
    let sign = |m: &[u8]| fixed(&signer.sign(m).unwrap());
    builder.create_signature(b"countersign/evidence/1", sign).build().to_tagged_vec().unwrap()
}

/// `r` and `s` of an ASN.1 signature, 32 bytes each.
fn fixed(der: &[u8]) -> Vec<u8> {
    let (mut at, mut out) = (2, Vec::new());
    for _ in 0..2 {
        let len = usize::from(der[at + 1]);
        let number = &der[at + 2..at + 2 + len];
        let digits = if number.len() > 32 { &number[number.len() - 32..] } else { number };
        out.extend(vec![0; 32 - digits.len()]);
        out.extend(digits);
        at += 2 + len;
    }
    out
}

fn read(bytes: &[u8]) -> Value {
    ciborium::from_reader(bytes).unwrap()
}

fn write(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    ciborium::into_writer(value, &mut out).unwrap();
    out
}

/// Asks for a flow without a word about the device: as a plain client, or over h2.
pub async fn nothing_said(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let shown = g.devices[lane].shown();
    if rng.below(2) == 0 {
        return super::asks::plain(&g, &shown, b"CONNECT orders:80 HTTP/1.1\r\nHost: orders\r\n\r\n").await;
    }
    let wire = Wire::open(&g, &shown).await;
    let (status, reason) = wire.connect("orders:443").await.unwrap();
    assert_ne!(status, 200, "let in without evidence");
    vec![reason]
}

/// Proves itself, then sends the server's own evidence back.
pub async fn reflected(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let device = &g.devices[lane];
    let wire = Wire::open(&g, &device.shown()).await;
    let answer = wire.prove(device, &device.record, None).await;
    let back =
        Message { evidence: answer.message.evidence, record: answer.message.record, ..Message::default() };
    let said = wire.post("evidence", back.to_bytes().unwrap()).await;
    assert_ne!(said.status, 200, "its own evidence was taken");
    persist(&wire, &mut rng, said.reason).await
}

/// Proves itself, then answers another nonce than it was given; or the first binder again.
pub async fn other_nonce(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let device = &g.devices[lane];
    let wire = Wire::open(&g, &device.shown()).await;
    let answer = wire.prove(device, &device.record, None).await;
    let binder = match rng.below(2) {
        0 => wire.later(&device.key, &rng.bytes(32)),
        _ => wire.first(&device.key),
    };
    let claims = claims(&device.machine, &device.certs);
    let later = Message {
        continuity: answer.message.continuity_next,
        ..message(&claims, &binder, &device.key, &device.record)
    };
    let said = wire.post("evidence", later.to_bytes().unwrap()).await;
    assert_ne!(said.status, 200, "evidence for another nonce was taken");
    persist(&wire, &mut rng, said.reason).await
}

/// Shows a token that was shown before: a copy of the device. From the first on, so is whoever comes.
pub async fn copied(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let device = &g.bent["copied"][lane];
    let claims = claims(&device.machine, &device.certs);
    let wire = Wire::open(&g, &device.shown()).await;
    let first = message(&claims, &wire.first(&device.key), &device.key, &device.record);
    let said = wire.post("evidence", first.to_bytes().unwrap()).await;
    if said.status != 200 {
        return persist(&wire, &mut rng, said.reason).await;
    }
    let (mut nonce, mut tokens) = (vec![], vec![]);
    let mut handed = said.body;
    for _ in 0..3 {
        let answer = Answer::read(&handed).unwrap().message;
        nonce = answer.nonce.unwrap().to_vec();
        tokens.push(answer.continuity_next);
        if tokens.len() == 3 {
            break;
        }
        let again = message(&claims, &wire.later(&device.key, &nonce), &device.key, &device.record);
        let again = Message { continuity: answer.continuity_next, ..again };
        let said = wire.post("evidence", again.to_bytes().unwrap()).await;
        assert_eq!(said.status, 200, "{}", said.reason);
        handed = said.body;
    }
    let spent = message(&claims, &wire.later(&device.key, &nonce), &device.key, &device.record);
    let said = wire.post("evidence", Message { continuity: tokens[0], ..spent }.to_bytes().unwrap()).await;
    assert_ne!(said.status, 200, "a spent token was taken");
    persist(&wire, &mut rng, said.reason).await
}

/// Shows an older record than the one that was seen.
pub async fn rolled_back(g: Arc<Ground>, rng: Rng, lane: usize) -> Vec<String> {
    forged_by(&g, rng, &g.bent["old"][lane], |s| s.right().to_bytes().unwrap()).await
}

/// Proves every `old` device once with its newer record, so that the older is known to be one.
pub async fn see_newer(g: &Ground) {
    for (old, newer) in g.bent["old"].iter().zip(&g.bent["newer"]) {
        let wire = Wire::open(g, &old.shown()).await;
        wire.prove(old, &newer.record, None).await;
    }
}

/// What an intruder's tools make of the rightful device is right in all but what it bends.
pub async fn control(g: &Ground) {
    for device in &g.devices {
        let wire = Wire::open(g, &device.shown()).await;
        wire.prove(device, &device.record, None).await;
        assert_eq!(wire.connect("nobody:443").await.unwrap(), (403, "service_unknown".into()));
    }
}

/// Wants something that is no flow and that nobody knows.
pub async fn unknown_errand(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let device = &g.devices[lane];
    let wire = Wire::open(&g, &device.shown()).await;
    if rng.below(2) == 0 {
        wire.prove(device, &device.record, None).await;
    }
    let name = *rng.pick(&["evidence2", "shell", "", "../status", "EVIDENCE", "evidence/", "join"]);
    let len = rng.below(1000);
    let said = wire.post(name, rng.bytes(len)).await;
    assert_eq!(said.status, 404);
    vec![said.reason]
}

/// A proven device that begins many errands at once and ends none.
pub async fn errand_flood(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let device = &g.devices[lane];
    let wire = Wire::open(&g, &device.shown()).await;
    wire.prove(device, &device.record, None).await;
    let count = countersign::channel::ERRANDS_MAX + 1 + rng.below(20);
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut uploads = Vec::new();
    for _ in 0..count {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        let path = format!("{ERRAND_PATH}nonsense");
        *request.uri_mut() =
            Uri::builder().scheme("https").authority("x").path_and_query(path).build().unwrap();
        let (answer, upload) = wire.send.clone().ready().await.unwrap().send_request(request, false).unwrap();
        uploads.push(upload);
        let tell = tell.clone();
        tokio::spawn(async move {
            if let Ok(answer) = answer.await {
                let _ = tell.send(said(&answer));
            }
        });
    }
    drop(tell);
    let mut reasons = Vec::new();
    for n in 0..count {
        if n == count - countersign::channel::ERRANDS_MAX {
            // As many as may be wait for their bodies; those end now.
            tokio::time::sleep(Duration::from_millis(50)).await;
            for upload in &mut uploads {
                let _ = upload.send_data(Bytes::new(), true);
            }
        }
        let (status, reason) = within("an answer", told.recv()).await.unwrap();
        assert_ne!(status, 200);
        reasons.push(reason);
    }
    let limited = reasons.iter().filter(|r| *r == "errands_limited").count();
    assert_eq!(limited, count - countersign::channel::ERRANDS_MAX, "{reasons:?}");
    reasons
}

/// A proven device that wants what is no service.
pub async fn no_service(g: Arc<Ground>, mut rng: Rng, lane: usize) -> Vec<String> {
    let device = &g.devices[lane];
    let wire = Wire::open(&g, &device.shown()).await;
    wire.prove(device, &device.record, None).await;
    let targets = super::asks::elsewhere(&g);
    let target: &String = rng.pick(&targets);
    let (status, reason) = wire.connect(target).await.unwrap();
    assert_ne!(status, 200, "led elsewhere");
    vec![reason]
}

/// A proven device that wants a service which policy does not give it.
pub async fn not_allowed(g: Arc<Ground>, _: Rng, lane: usize) -> Vec<String> {
    let device = &g.devices[lane];
    let wire = Wire::open(&g, &device.shown()).await;
    wire.prove(device, &device.record, None).await;
    let (status, reason) = wire.connect("ledger:443").await.unwrap();
    assert_ne!(status, 200, "policy did not hold");
    vec![reason]
}
