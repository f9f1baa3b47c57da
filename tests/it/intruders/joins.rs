//! Who wants to join and may not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign::channel::{
    ALPN_JOIN, AskMessage, Facts, JoinOutcome, JoinReply, JoinRequest, MESSAGE_LEN_MAX, join,
};
use countersign::identity::authority::{self, InviteRequest, Token, TokenId};
use countersign::identity::{Enrolment, Pq};
use countersign::model::{SpiffeId, Tier, Timestamp};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::ground::{Ground, Rng, Shown, shake};
use crate::support::{Yard, within};

/// A token and the request of its device.
pub struct Held {
    token: Token,
    enrolment: Enrolment,
}

/// Tokens in every state.
pub struct Tokens {
    open: Held,
    spent: Held,
    expired: Held,
    denied: Held,
    /// Its certificate was handed out and never acknowledged.
    issued: Held,
}

impl Tokens {
    pub async fn make(yard: &Yard, door: SocketAddr) -> Self {
        let now = Timestamp::now();
        let hour = Duration::from_secs(3600);
        // The CA was not valid for long before.
        let before = Timestamp::from_millis(now.as_millis() - 30_000);
        let held = |name: &str, at: Timestamp| Held::make(yard, name, door, hour, at);
        let tokens = Self {
            open: held("join-open", now),
            spent: held("join-spent", now),
            expired: Held::make(yard, "join-expired", door, Duration::from_secs(5), before),
            denied: held("join-denied", now),
            issued: held("join-issued", now),
        };
        authority::deny(&yard.path().join("ca"), "join-denied", now).unwrap();
        let Held { token, enrolment } = &tokens.spent;
        let joined = join(door, token, enrolment, &facts(), &mut |_, _| Ok(())).await;
        assert!(matches!(joined, Ok(JoinOutcome::Joined(_))), "{joined:?}");
        tokens
    }
}

impl Held {
    fn make(yard: &Yard, name: &str, door: SocketAddr, ttl: Duration, now: Timestamp) -> Self {
        let request = InviteRequest {
            name: name.parse().unwrap(),
            ttl,
            tier_max: Tier::Software,
            authority: AUTHORITY.parse().unwrap(),
            addresses: vec![door.to_string().parse().unwrap()],
        };
        let (token, _) = authority::invite(&yard.path().join("ca"), &request, now).unwrap();
        let enrolment = Enrolment::begin(&yard.path().join("joins").join(name), &token).unwrap();
        Self { token, enrolment }
    }

    /// The right ask, on a connection with this exporter.
    fn ask(&self, exporter: &[u8; 32]) -> AskMessage {
        self.ask_with(exporter, self.enrolment.csr().to_vec())
    }

    fn ask_with(&self, exporter: &[u8; 32], csr: Vec<u8>) -> AskMessage {
        AskMessage {
            token: self.token.id(),
            authority: self.token.authority.clone(),
            root_spki_sha256: self.token.root_spki_sha256,
            name: self.token.name.clone(),
            proof: self.token.key().prove(exporter, &csr),
            csr,
            facts: facts(),
        }
    }
}

fn facts() -> Facts {
    Facts { profile: "full".into(), baseline: [("cpu".to_owned(), vec![[1; 32]])].into() }
}

/// Another key's request for this name.
fn request(name: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let uri = format!("spiffe://example.org/device/{name}");
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// A conversation at the joining door.
struct Talk {
    tls: TlsStream<TcpStream>,
    exporter: [u8; 32],
}

impl Talk {
    async fn begin(door: SocketAddr) -> Self {
        let tls = within("a handshake", shake(door, None, ALPN_JOIN, Pq::Prefer)).await.unwrap();
        let exporter =
            tls.get_ref().1.export_keying_material([0; 32], b"EXPORTER-countersign-join", None).unwrap();
        Self { tls, exporter }
    }

    /// Sends bytes as they are, and reads an answer.
    async fn say(&mut self, bytes: &[u8]) -> JoinReply {
        let _ = self.tls.write_all(bytes).await;
        let answer = async {
            let len = self.tls.read_u32().await?;
            let mut body = vec![0; usize::try_from(len).unwrap()];
            self.tls.read_exact(&mut body).await.map(|_| body)
        };
        JoinReply::decode(&within("an answer", answer).await.unwrap()).unwrap()
    }

    async fn send(&mut self, request: &JoinRequest) -> JoinReply {
        self.say(&framed(&request.encode())).await
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// The reason of a refusal; anything else is a way in.
fn refused(reply: JoinReply) -> Vec<String> {
    match reply {
        JoinReply::Refused { code, .. } => vec![code],
        other => panic!("not refused: {other:?}"),
    }
}

/// Asks with what `forge` makes of the right ask.
pub async fn asked(
    g: Arc<Ground>,
    mut rng: Rng,
    forge: fn(&Tokens, &[u8; 32], &mut Rng) -> AskMessage,
) -> Vec<String> {
    let mut talk = Talk::begin(g.join_door).await;
    let ask = forge(&g.tokens, &talk.exporter, &mut rng);
    refused(talk.send(&JoinRequest::Ask(Box::new(ask))).await)
}

/// What an intruder makes of tokens.
pub mod forge {
    use super::*;

    pub fn made_up(t: &Tokens, exporter: &[u8; 32], rng: &mut Rng) -> AskMessage {
        AskMessage { token: TokenId(rng.array()), proof: rng.array(), ..t.open.ask(exporter) }
    }

    /// The id of a token that is open, without its secret.
    pub fn no_secret(t: &Tokens, exporter: &[u8; 32], rng: &mut Rng) -> AskMessage {
        AskMessage { proof: rng.array(), ..t.open.ask(exporter) }
    }

    /// The proof of another connection.
    pub fn replayed(t: &Tokens, exporter: &[u8; 32], rng: &mut Rng) -> AskMessage {
        AskMessage { proof: t.open.ask(&rng.array()).proof, ..t.open.ask(exporter) }
    }

    /// Another request under the proof of the right one.
    pub fn swapped(t: &Tokens, exporter: &[u8; 32], _: &mut Rng) -> AskMessage {
        AskMessage { csr: request("join-open"), ..t.open.ask(exporter) }
    }

    pub fn spent(t: &Tokens, exporter: &[u8; 32], _: &mut Rng) -> AskMessage {
        t.spent.ask_with(exporter, request("join-spent"))
    }

    pub fn expired(t: &Tokens, exporter: &[u8; 32], _: &mut Rng) -> AskMessage {
        t.expired.ask(exporter)
    }

    pub fn denied(t: &Tokens, exporter: &[u8; 32], _: &mut Rng) -> AskMessage {
        t.denied.ask(exporter)
    }

    pub fn foreign(t: &Tokens, exporter: &[u8; 32], rng: &mut Rng) -> AskMessage {
        let right = t.open.ask(exporter);
        match rng.below(2) {
            0 => AskMessage { authority: other_authority(), ..right },
            _ => AskMessage { root_spki_sha256: rng.array(), ..right },
        }
    }

    fn other_authority() -> SpiffeId {
        "spiffe://example.org/device/authority-2".parse().unwrap()
    }

    /// For another name, in the ask or in the request.
    pub fn other_name(t: &Tokens, exporter: &[u8; 32], rng: &mut Rng) -> AskMessage {
        match rng.below(2) {
            0 => AskMessage { name: "server-1".parse().unwrap(), ..t.open.ask(exporter) },
            _ => t.open.ask_with(exporter, request("server-1")),
        }
    }

    /// A request that its key did not sign, or that is none.
    pub fn broken_request(t: &Tokens, exporter: &[u8; 32], rng: &mut Rng) -> AskMessage {
        let mut csr = request("join-open");
        match rng.below(3) {
            0 => *csr.last_mut().unwrap() ^= 1,
            1 => csr.push(0),
            _ => csr.truncate(1 + rng.below(100)),
        }
        t.open.ask_with(exporter, csr)
    }

    /// A component that nobody knows.
    pub fn unknown_component(t: &Tokens, exporter: &[u8; 32], _: &mut Rng) -> AskMessage {
        let facts = Facts { profile: "full".into(), baseline: [("zz".to_owned(), vec![[1; 32]])].into() };
        AskMessage { facts, ..t.open.ask(exporter) }
    }

    /// Another key with the token of a device that was given its certificate.
    pub fn second_key(t: &Tokens, exporter: &[u8; 32], _: &mut Rng) -> AskMessage {
        t.issued.ask_with(exporter, request("join-issued"))
    }
}

/// Has the certificate handed out, and acknowledges it with another key.
pub async fn wrong_ack(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let mut talk = Talk::begin(g.join_door).await;
    let ask = g.tokens.issued.ask(&talk.exporter);
    let granted = talk.send(&JoinRequest::Ask(Box::new(ask))).await;
    assert!(matches!(granted, JoinReply::Granted { .. }), "{granted:?}");
    refused(talk.send(&JoinRequest::Ack(rng.bytes(70))).await)
}

/// Says what is no first message of joining.
pub async fn no_message(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let mut talk = Talk::begin(g.join_door).await;
    let ask = JoinRequest::Ask(Box::new(g.tokens.open.ask(&talk.exporter))).encode();
    let bytes = match rng.below(6) {
        0 => framed(&JoinRequest::More(0).encode()),
        1 => framed(&JoinRequest::Ack(rng.bytes(70)).encode()),
        2 => framed(&rng.bytes(200)),
        3 => u32::try_from(MESSAGE_LEN_MAX + 1 + rng.below(1 << 20)).unwrap().to_be_bytes().to_vec(),
        // A field twice: the map says one more, and has its first again.
        4 => framed(&[&[ask[0] + 1], &ask[1..], &[0, 1]].concat()),
        _ => framed(&ask[..rng.below(ask.len())]),
    };
    refused(talk.say(&bytes).await)
}

/// Takes the joining door for a way to services.
pub async fn no_join(g: Arc<Ground>, mut rng: Rng) -> Vec<String> {
    let mut talk = Talk::begin(g.join_door).await;
    let request = *rng.pick(&[
        "CONNECT orders:80 HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST / HTTP/1.1\r\n\r\n",
    ]);
    refused(talk.say(request.as_bytes()).await)
}

/// Wants to join where there is no authority.
pub async fn nobody_there(g: Arc<Ground>) -> Vec<String> {
    let refused = within("a handshake", shake(g.door, None, ALPN_JOIN, Pq::Prefer)).await;
    assert!(refused.is_err(), "joining at a sidecar that is no authority");
    vec![]
}

/// An enrolled device that poses as the authority: the one who joins tells it nothing. Not a sidecar yet, it has no
/// audit; it says why.
pub async fn posing_authority(g: &Ground) {
    // It can show the root, which is no secret.
    let other = g.yard.credentials("other-1");
    let root = std::fs::read_to_string(g.yard.path().join("ca/root.pem")).unwrap();
    let chain = std::fs::read_to_string(&other.leaf).unwrap() + &root;
    g.poser.show(Shown::of(chain.as_bytes(), &std::fs::read(&other.key).unwrap()));
    let poser = g.poser.addr;
    let held = Held::make(&g.yard, "join-lured", poser, Duration::from_secs(3600), Timestamp::now());
    let lured =
        join(poser, &held.token, &held.enrolment, &facts(), &mut |_, _| panic!("nothing to save")).await;
    let told = lured.unwrap_err().to_string();
    assert!(told.contains("peer_unexpected"), "{told}");
}

/// The folder of what the authority would hand out: nothing was issued to an intruder.
pub fn issued(ca: &Path) -> usize {
    std::fs::read_to_string(ca.join("issued.jsonl")).unwrap().lines().count()
}

const AUTHORITY: &str = "spiffe://example.org/device/authority-1";
