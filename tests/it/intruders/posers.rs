//! Who poses as a peer that a sidecar dials: with another certificate, or with a stolen one and no device behind it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use countersign::device::{Answer, EXPORTER_LABEL, Message, Role, Verdict, binder, make};
use countersign::identity::{Pq, provider};
use countersign::model::{Score, Tier};
use h2::server::SendResponse;
use http::{Request, Response};
use ring::hmac;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::ground::{Device, Ground, Rng, Shown};
use crate::support::{Key, Yard, claims, within};

/// A server that is not who it should be.
pub struct Poser {
    pub addr: SocketAddr,
    role: Arc<Mutex<Part>>,
    thief: Arc<Mutex<Option<Thief>>>,
}

/// What it plays at present.
#[derive(Clone)]
enum Part {
    /// Shows this and is done.
    Shows(Shown),
    /// Has the peer's key, and answers evidence so.
    Answers(Manner),
}

/// How a thief answers when it is asked for evidence.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// With 404, as a proxy of another make would.
    NotFound,
    /// With a message that has none.
    Empty,
    /// With bytes that are no message.
    Junk,
    /// With the client's own.
    Reflected,
    /// With right evidence, of the thief's machine.
    OtherMachine,
}

/// Whose key it has, and whom it lures.
struct Thief {
    device: Device,
    shown: Shown,
    lured: Key,
    yard: std::path::PathBuf,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Poser {
    pub async fn start(yard: &Yard) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let other = yard.issue("poser-1");
        let role = Arc::new(Mutex::new(Part::Shows(Shown::read(&other.leaf, &other.key))));
        let thief = Arc::new(Mutex::new(None));
        let (part, stolen) = (Arc::clone(&role), Arc::clone(&thief));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let part = part.lock().unwrap().clone();
                tokio::spawn(play(tcp, part, Arc::clone(&stolen)));
            }
        });
        Self { addr, role, thief }
    }

    /// Shows this from now on.
    pub fn show(&self, shown: Shown) {
        *self.role.lock().unwrap() = Part::Shows(shown);
    }

    /// Whose key it has stolen.
    pub fn may_be(&self, device: Device, lured: Key) {
        let yard = device.certs.parent().unwrap().parent().unwrap().to_owned();
        *self.thief.lock().unwrap() = Some(Thief { shown: device.shown(), device, lured, yard });
    }
}

async fn play(tcp: TcpStream, part: Part, thief: Arc<Mutex<Option<Thief>>>) {
    let (shown, manner) = match part {
        Part::Shows(shown) => (shown, Manner::NotFound),
        Part::Answers(manner) => (thief.lock().unwrap().as_ref().unwrap().shown.clone(), manner),
    };
    let mut config = ServerConfig::builder_with_provider(provider(Pq::Prefer))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"h2".to_vec(), countersign::channel::ALPN_JOIN.to_vec()];
    let Ok(tls) = TlsAcceptor::from(Arc::new(config)).accept(tcp).await else { return };
    let state = tls.get_ref().1;
    let renewal = state.export_keying_material([0; 32], EXPORTER_LABEL, Some(b"renewal")).unwrap();
    let Ok(mut connection) = h2::server::handshake(tls).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, manner, renewal, Arc::clone(&thief)));
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    manner: Manner,
    renewal: [u8; 32],
    thief: Arc<Mutex<Option<Thief>>>,
) {
    let mut body = Vec::new();
    let mut stream = request.into_body();
    while let Some(Ok(chunk)) = stream.data().await {
        let _ = stream.flow_control().release_capacity(chunk.len());
        body.extend_from_slice(&chunk);
    }
    let (status, said) = match manner {
        Manner::NotFound => (404, vec![]),
        Manner::Empty => (200, answered(Message { nonce: Some([3; 32]), ..Message::default() })),
        Manner::Junk => (200, vec![0xff; 100]),
        Manner::Reflected => (200, answered(Message::read(&body).unwrap())),
        Manner::OtherMachine => {
            (200, thief.lock().unwrap().as_ref().unwrap().evidence(&Message::read(&body).unwrap(), &renewal))
        }
    };
    let head = Response::builder().status(status).body(()).unwrap();
    if let Ok(mut send) = respond.send_response(head, false) {
        let _ = send.send_data(said.into(), true);
    }
}

fn answered(message: Message) -> Vec<u8> {
    let score = Score::from_percent(100);
    let (verdict, tier) = (Verdict::Match, Tier::Software);
    Answer { message, verdict, tier, score, lease_ttl_s: 900 }.to_bytes().unwrap()
}

impl Thief {
    fn evidence(&self, asked: &Message, renewal: &[u8; 32]) -> Vec<u8> {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, renewal), &asked.nonce.unwrap());
        let (own, peer) = (self.device.key.spki_sha256(), self.lured.spki_sha256());
        let binder = binder(Role::Server, &own, &peer, tag.as_ref().try_into().unwrap());
        let claims = claims(&self.yard.join("machine-3"), &self.device.certs);
        answered(Message {
            evidence: make(&claims, &binder, &self.device.key).unwrap(),
            record: Some(self.device.record.clone()),
            nonce: Some([3; 32]),
            continuity_next: Some([4; 32]),
            ..Message::default()
        })
    }
}

/// An app is led to whoever shows what the ground has under `what`.
pub async fn shows(g: Arc<Ground>, _: Rng, what: &'static str) -> Vec<String> {
    g.poser.show(g.shown[what].clone());
    lured(&g).await;
    vec![]
}

/// An app is led to a thief of the peer's key. Both the evidence and the flow are refused.
pub async fn answers(g: Arc<Ground>, _: Rng, manner: Manner) -> Vec<String> {
    *g.poser.role.lock().unwrap() = Part::Answers(manner);
    lured(&g).await;
    vec![]
}

async fn lured(g: &Ground) {
    let mut app = TcpStream::connect(g.posed_app).await.unwrap();
    let _ = app.write_all(b"secret").await;
    let mut heard = Vec::new();
    let _ = within("the end", app.read_to_end(&mut heard)).await;
    assert!(heard.is_empty(), "an impostor was heard: {heard:?}");
}
