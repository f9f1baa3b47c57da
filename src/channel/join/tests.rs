//! What the joining door promises, on loopback: a real peers' door, a real CA, and callers of every kind.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::door::write_frame;
use super::*;
use crate::channel::{self, Arrival, Keeper, PeersDoor, Sessions};
use crate::identity::authority::{
    self, Admitted, Approval, Ask, Granted, InviteRequest, JoinRefused, Settings, Token,
};
use crate::identity::testing::Book;
use crate::identity::testing::{HOUR, World, id, nameless_client, raw_client};
use crate::identity::{self, Enrolment, Joined};
use crate::model::{DecisionId, Reason, Refusal, SpiffeId, Tier, Timestamp};
use crate::net::{BoxFuture, Listener};

/// An authority that listens, a token of it and a device; everything the door refused.
struct Scene {
    world: World,
    addr: SocketAddr,
    token: Token,
    device: Enrolment,
    ear: Arc<Ear>,
}

fn settings() -> channel::Settings {
    let seconds = Duration::from_secs;
    channel::Settings {
        listen: None,
        profile: crate::channel::Profile::Native,
        connections_max: 1,
        streams_max: 10,
        handshake_timeout: seconds(10),
        connect_timeout: seconds(5),
        answer_timeout: seconds(5),
        ping_interval: seconds(10),
        ping_timeout: seconds(20),
        idle_timeout: seconds(90),
        rekey_after: seconds(3600),
        resolve_interval: seconds(5),
        resolve_timeout: seconds(5),
    }
}

/// Hears what the door tells.
#[derive(Default)]
struct Ear {
    refused: Mutex<Vec<Reason>>,
    arrived: Mutex<usize>,
}

impl Keeper for Ear {
    fn knock(&self, _: IpAddr) -> Result<Box<dyn Send>, Reason> {
        Ok(Box::new(()))
    }

    fn refused(&self, _: SocketAddr, reason: Reason, _: &str) {
        self.refused.lock().unwrap().push(reason);
    }

    fn arrived(&self, arrival: Arrival) {
        *self.arrived.lock().unwrap() += 1;
        drop(arrival);
    }

    fn errand(
        &self,
        _: Arc<crate::channel::Session>,
        _: &str,
        _: Result<bytes::Bytes, Reason>,
    ) -> BoxFuture<Result<bytes::Bytes, Refusal>> {
        let id = DecisionId::new(Timestamp::now(), [0; 10]);
        Box::pin(std::future::ready(Err(Refusal::new(id, Reason::ErrandUnknown))))
    }
}

/// The clerk of tests: the CA alone, nothing written down.
struct Desk {
    settings: Settings,
    own: SpiffeId,
    /// Holds every answer back until it may be taken.
    gate: Option<Arc<tokio::sync::Semaphore>>,
}

fn record() -> authority::Recorded {
    authority::Recorded { text: "record".into(), version: 1, baseline_sha256: [0; 32] }
}

fn refusal(refused: JoinRefused) -> Refusal {
    Refusal::new(DecisionId::new(Timestamp::now(), [0; 10]), refused.reason).detail(refused.detail)
}

impl Clerk for Desk {
    fn ask(&self, ask: Ask, _: Facts) -> BoxFuture<Result<Admitted, Refusal>> {
        let recorder = |_: &authority::Recordable, _: &dyn crate::model::Sign| Ok(record());
        let admitted = authority::admit(&self.settings, &self.own, &ask, &recorder, Timestamp::now());
        let gate = self.gate.clone();
        Box::pin(async move {
            if let Some(gate) = gate {
                let _ = gate.acquire().await;
            }
            admitted.map_err(refusal)
        })
    }

    fn recover(
        &self,
        ask: authority::RecoverAsk,
        exporter: [u8; 32],
        _: SocketAddr,
    ) -> BoxFuture<Result<Granted, Refusal>> {
        let now = Timestamp::now();
        let given = authority::recover(&self.settings, &self.own, &ask, &exporter, &Book::default(), now);
        Box::pin(async move { given.map_err(refusal) })
    }

    fn acknowledge(
        &self,
        granted: Box<Granted>,
        exporter: [u8; 32],
        signature: Vec<u8>,
        _: SocketAddr,
    ) -> BoxFuture<Result<(), Refusal>> {
        let done = authority::acknowledge(&self.settings, &granted, &exporter, &signature);
        Box::pin(async move { done.map(drop).map_err(refusal) })
    }
}

impl Scene {
    async fn new() -> Self {
        Self::with("authority", Some(Approval::Auto), None).await
    }

    /// The device `name` listens at the door; it is an authority when it has an `approval`.
    async fn with(name: &str, approval: Option<Approval>, gate: Option<Arc<tokio::sync::Semaphore>>) -> Self {
        let world = World::new();
        let identity = world.device(name);
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        let ear = Arc::new(Ear::default());
        let join = approval.map(|approval| {
            let settings = Settings {
                ca: world.ca(),
                records: PathBuf::new(),
                approval,
                leaf_ttl: HOUR,
                crl_ttl: HOUR,
                record_ttl: HOUR,
                recover_grace: authority::RECOVER_GRACE_DEFAULT,
            };
            let roots = authority::roots(&world.ca(), world.now).unwrap();
            let config = identity.joining_server(roots, ALPN_JOIN).unwrap();
            JoinDoor::new(config, Arc::new(Desk { settings, own: id("authority"), gate }))
        });
        let attester = crate::channel::attest::tests::plain_attester(&identity, world.dir.path());
        let door = PeersDoor {
            identity,
            attester,
            settings: settings(),
            sessions: Sessions::default(),
            keeper: ear.clone(),
            join,
            workers: crate::net::Spread::on(tokio::runtime::Handle::current()),
        };
        let (_, drain) = watch::channel(false);
        tokio::spawn(channel::serve(Arc::new(door), listener, drain));
        let request = InviteRequest {
            name: "web-1".parse().unwrap(),
            ttl: HOUR,
            tier_max: Tier::Software,
            authority: id("authority"),
            addresses: vec!["127.0.0.1:1".parse().unwrap()],
        };
        let (token, _) = authority::invite(&world.ca(), &request, world.now).unwrap();
        let device = Enrolment::begin(&world.dir.path().join("state"), &token).unwrap();
        Self { world, addr, token, device, ear }
    }

    async fn join_at(&self, addr: SocketAddr) -> Result<JoinOutcome, JoinError> {
        join(addr, &self.token, &self.device, &Facts::default(), &mut |_, _| Ok(())).await
    }

    async fn join(&self) -> Result<Box<Joined>, JoinError> {
        match self.join_at(self.addr).await? {
            JoinOutcome::Joined(joined) => Ok(joined),
            JoinOutcome::Pending(_) => panic!("it waits"),
        }
    }

    fn state(&self) -> String {
        authority::invites(&self.world.ca()).unwrap().pop().unwrap().state.name().into()
    }

    fn serials(&self) -> usize {
        let issued = authority::show(&self.world.ca(), self.world.now).unwrap().issued;
        issued.iter().filter(|e| e.name == "web-1").count()
    }

    /// A bare connection with these ALPN names.
    async fn raw(&self, config: &ClientConfig, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = config.clone();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        let tcp = TcpStream::connect(self.addr).await?;
        TlsConnector::from(Arc::new(config)).connect(identity::server_name(), tcp).await
    }

    /// Sends raw bytes at the joining door; what comes back until the end.
    async fn shout(&self, bytes: &[u8]) -> Vec<u8> {
        let mut tls = self.raw(&nameless_client(), &[ALPN_JOIN]).await.unwrap();
        let _ = tls.write_all(bytes).await;
        let _ = tls.flush().await;
        let _ = tls.shutdown().await;
        let mut said = Vec::new();
        let _ = tls.read_to_end(&mut said).await;
        said
    }

    /// Waits until the door has refused this often; the reasons.
    async fn refused(&self, count: usize) -> Vec<Reason> {
        for _ in 0..10_000 {
            if self.ear.refused.lock().unwrap().len() >= count {
                break;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.ear.refused.lock().unwrap().clone()
    }
}

fn code(said: &[u8]) -> String {
    let Some((_, body)) = said.split_first_chunk::<4>() else { return "nothing".into() };
    match JoinReply::decode(body) {
        Ok(JoinReply::Refused { code, .. }) => code,
        other => format!("{other:?}"),
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

#[tokio::test]
async fn a_device_with_a_token_and_no_certificate_joins() {
    let scene = Scene::new().await;
    let joined = scene.join().await.unwrap();
    assert_eq!(joined.issued.id, id("web-1"));
    assert_eq!((scene.state().as_str(), scene.serials()), ("spent", 1));
    assert!(scene.ear.refused.lock().unwrap().is_empty());
    // What came is an identity that the CA's other devices believe.
    let dir = scene.world.dir.path().join("web-1");
    identity::install(&dir, &joined.issued).unwrap();
    identity::Identity::load(&scene.world.settings("web-1"), Timestamp::now()).unwrap();
}

#[tokio::test]
async fn refusals_come_with_their_reason_and_change_nothing() {
    let scene = Scene::new().await;
    let thief = Enrolment::begin(&scene.world.dir.path().join("thief"), &scene.token).unwrap();
    scene.join().await.unwrap();
    let refused =
        join(scene.addr, &scene.token, &thief, &Facts::default(), &mut |_, _| Ok(())).await.unwrap_err();
    assert!(matches!(&refused, JoinError::Refused { code, .. } if code == "join_token_spent"), "{refused}");
    assert!(refused.to_string().contains("next: make a new one"), "{refused}");
    assert_eq!(scene.serials(), 1);
}

#[tokio::test]
async fn a_device_that_poses_as_the_authority_hears_nothing_of_the_token() {
    let scene = Scene::with("web-2", Some(Approval::Auto), None).await;
    let error = scene.join().await.unwrap_err();
    assert!(matches!(error, JoinError::Dial { reason: Reason::PeerUnexpected, .. }), "{error}");
    assert_eq!(scene.state(), "open");
    assert_eq!(scene.refused(1).await.len(), 1, "the handshake ended before a message");
}

#[tokio::test]
async fn a_sidecar_without_an_authority_lets_nobody_join() {
    let scene = Scene::with("authority", None, None).await;
    let error = scene.join().await.unwrap_err();
    assert!(matches!(error, JoinError::Dial { .. }), "{error}");
    assert_eq!(scene.refused(1).await, [Reason::JoinUnavailable]);
}

#[tokio::test]
async fn without_a_certificate_every_other_door_stays_shut() {
    let scene = Scene::new().await;
    let offers: &[&[&[u8]]] =
        &[&[b"h2"], &[b"http/1.1"], &[], &[ALPN_JOIN, b"h2"], &[b"h2", ALPN_JOIN], &[b"http/1.1", ALPN_JOIN]];
    for (count, alpn) in offers.iter().enumerate() {
        // TLS 1.3 tells a client without a certificate only when it reads.
        if let Ok(mut tls) = scene.raw(&nameless_client(), alpn).await {
            let _ = tls.write_all(b"CONNECT orders:1 HTTP/1.1\r\nHost: orders:1\r\n\r\n").await;
            assert!(tls.read_to_end(&mut Vec::new()).await.is_err(), "{alpn:?}");
        }
        assert_eq!(scene.refused(count + 1).await.last(), Some(&Reason::CertificateMissing), "{alpn:?}");
    }
    assert_eq!(*scene.ear.arrived.lock().unwrap(), 0);
}

#[tokio::test]
async fn the_joining_door_reaches_nothing_but_joining() {
    let scene = Scene::new().await;
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let http1 = b"CONNECT orders:1 HTTP/1.1\r\nHost: orders:1\r\n\r\n";
    for (count, bytes) in [&http2[..], &http1[..], b"GET / HTTP/1.1\r\n\r\n"].into_iter().enumerate() {
        assert_eq!(code(&scene.shout(bytes).await), "join_door_only");
        assert_eq!(scene.refused(count + 1).await.last(), Some(&Reason::JoinDoorOnly));
    }
    // Nor does a certificate help there: it is not even asked for.
    let mut tls = scene.raw(&raw_client(&scene.world.issue("web-2")), &[ALPN_JOIN]).await.unwrap();
    tls.write_all(http1).await.unwrap();
    let mut said = Vec::new();
    let _ = tls.read_to_end(&mut said).await;
    assert_eq!(code(&said), "join_door_only");
    assert_eq!(*scene.ear.arrived.lock().unwrap(), 0);
}

#[tokio::test]
async fn messages_that_are_too_long_cut_or_out_of_place_are_refused() {
    let scene = Scene::new().await;
    let ack = JoinRequest::Ack(vec![0; 70]).encode();
    let length = |len: usize| u32::try_from(len).unwrap().to_be_bytes().to_vec();
    let more = JoinRequest::More(0).encode();
    let cases: &[(&str, Vec<u8>, &str, Reason)] = &[
        ("too long", length(MESSAGE_LEN_MAX + 1), "join_malformed", Reason::JoinMalformed),
        ("much too long", vec![0xff; 4], "join_malformed", Reason::JoinMalformed),
        ("no CBOR", framed(b"\xff"), "join_malformed", Reason::JoinMalformed),
        ("empty", framed(b""), "join_malformed", Reason::JoinMalformed),
        ("of the longest length", framed(&vec![0; MESSAGE_LEN_MAX]), "join_malformed", Reason::JoinMalformed),
        ("an Ack first", framed(&ack), "join_malformed", Reason::JoinMalformed),
        ("a More first", framed(&more), "join_malformed", Reason::JoinMalformed),
        ("cut in its length", vec![0, 0], "nothing", Reason::PeerClosed),
        ("cut in its body", length(100), "nothing", Reason::PeerClosed),
    ];
    for (count, (what, bytes, said, reason)) in cases.iter().enumerate() {
        assert_eq!(code(&scene.shout(bytes).await), *said, "{what}");
        assert_eq!(scene.refused(count + 1).await.last(), Some(reason), "{what}");
    }
    assert_eq!((scene.state().as_str(), scene.serials()), ("open", 0));
}

#[tokio::test]
async fn no_more_conversations_at_once_than_there_are_seats() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let scene = Scene::with("authority", Some(Approval::Auto), Some(Arc::clone(&gate))).await;
    let mut held = Vec::new();
    for _ in 0..JOINS_MAX {
        let mut tls = scene.raw(&nameless_client(), &[ALPN_JOIN]).await.unwrap();
        // Half a message holds the seat; the answer to a byte shows nothing, so the next handshake is the proof.
        tls.write_all(&[0]).await.unwrap();
        held.push(tls);
    }
    let mut code_of_next = String::new();
    for _ in 0..1000 {
        let error = tokio::time::timeout(Duration::from_millis(50), scene.join()).await;
        if let Ok(Err(JoinError::Refused { code, .. })) = error {
            code_of_next = code;
            break;
        }
    }
    assert_eq!(code_of_next, "join_limited");
    drop(held);
    gate.add_permits(100);
    for _ in 0..1000 {
        if scene.join().await.is_ok() {
            return;
        }
    }
    panic!("the seats do not come back");
}

#[tokio::test]
async fn a_device_in_the_queue_waits_and_then_gets_its_certificate() {
    let scene = Scene::with("authority", Some(Approval::Queue), None).await;
    assert!(matches!(scene.join_at(scene.addr).await.unwrap(), JoinOutcome::Pending(_)));
    assert!(matches!(scene.join_at(scene.addr).await.unwrap(), JoinOutcome::Pending(_)));
    authority::approve(&scene.world.ca(), "web-1").unwrap();
    scene.join().await.unwrap();
    assert_eq!(scene.state(), "spent");
}

#[tokio::test]
async fn revocation_lists_longer_than_a_message_come_in_parts() {
    let scene = Scene::new().await;
    let crl = scene.world.ca().join("crl.pem");
    let mut text = std::fs::read_to_string(&crl).unwrap();
    text.insert_str(0, &"# long\n".repeat(30_000));
    assert!(text.len() > 3 * MESSAGE_LEN_MAX);
    std::fs::write(&crl, &text).unwrap();
    assert_eq!(scene.join().await.unwrap().issued.crl_pem, text);
}

#[tokio::test]
async fn what_cannot_be_saved_is_not_acknowledged() {
    let scene = Scene::new().await;
    let mut full = |_: &Joined, _: &str| Err("full".to_owned());
    let failed = join(scene.addr, &scene.token, &scene.device, &Facts::default(), &mut full).await;
    assert!(matches!(failed, Err(JoinError::Save(_))));
    assert_eq!(scene.state(), "issued");
    scene.join().await.unwrap();
    assert_eq!((scene.state().as_str(), scene.serials()), ("spent", 1));
}

#[tokio::test]
async fn an_acknowledgement_of_another_key_is_refused() {
    let scene = Scene::new().await;
    let mut tls =
        scene.raw(&identity::joining_client(&scene.token, ALPN_JOIN).unwrap(), &[ALPN_JOIN]).await.unwrap();
    let mut exporter = [0; 32];
    tls.get_ref().1.export_keying_material(&mut exporter, EXPORTER_LABEL, None).unwrap();
    let ask = AskMessage {
        token: scene.token.id(),
        authority: scene.token.authority.clone(),
        root_spki_sha256: scene.token.root_spki_sha256,
        name: scene.token.name.clone(),
        csr: scene.device.csr().to_vec(),
        proof: scene.token.key().prove(&exporter, scene.device.csr()),
        facts: Facts::default(),
    };
    write_frame(&mut tls, &JoinRequest::Ask(Box::new(ask)).encode()).await.unwrap();
    write_frame(&mut tls, &JoinRequest::Ack(vec![1; 70]).encode()).await.unwrap();
    let mut said = Vec::new();
    let _ = tls.read_to_end(&mut said).await;
    let granted_len = u32::from_be_bytes(*said.first_chunk().unwrap()) as usize;
    assert!(matches!(JoinReply::decode(&said[4..4 + granted_len]), Ok(JoinReply::Granted { .. })));
    assert_eq!(code(&said[4 + granted_len..]), "join_ack_invalid");
    assert_eq!(scene.state(), "issued");
}

/// Which end's records are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Device,
    Authority,
}

/// Carries one connection to `to`, TLS record by TLS record, and cuts it after `count` records of one end.
async fn cut_after(to: SocketAddr, from: End, count: usize) -> (SocketAddr, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let carried = tokio::spawn(async move {
        let (device, _) = listener.accept().await.unwrap();
        let authority = TcpStream::connect(to).await.unwrap();
        let ((mut dr, mut dw), (mut ar, mut aw)) = (device.into_split(), authority.into_split());
        let up =
            async { records(&mut dr, &mut aw, if from == End::Device { count } else { usize::MAX }).await };
        let down = async {
            records(&mut ar, &mut dw, if from == End::Authority { count } else { usize::MAX }).await
        };
        // Whichever ends first ends both.
        tokio::select! { n = up => n, n = down => n }
    });
    (addr, carried)
}

/// Carries whole records (RFC 8446 §5.1) until `count` are over or the end comes; how many there were.
async fn records(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    count: usize,
) -> usize {
    for carried in 0..count {
        let mut record = vec![0; 5];
        if from.read_exact(&mut record).await.is_err() {
            return carried;
        }
        let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + len, 0);
        if from.read_exact(&mut record[5..]).await.is_err() || to.write_all(&record).await.is_err() {
            return carried;
        }
    }
    count
}

#[tokio::test]
async fn cut_after_any_record_of_either_end_the_same_token_and_key_join_again() {
    for from in [End::Device, End::Authority] {
        let mut cuts = 0;
        for count in 0..40 {
            let scene = Scene::new().await;
            let (addr, carried) = cut_after(scene.addr, from, count).await;
            let first = scene.join_at(addr).await;
            carried.await.unwrap();
            cuts += usize::from(first.is_err());
            let state = scene.state();
            let joined = scene.join().await.unwrap_or_else(|e| panic!("{from:?} {count} {state}: {e}"));
            assert_eq!((scene.state().as_str(), scene.serials()), ("spent", 1), "{from:?} {count}");
            assert_eq!(joined.issued.id, id("web-1"));
            if first.is_ok() {
                break;
            }
        }
        assert!((4..40).contains(&cuts), "{from:?} {cuts}");
    }
}

/// An authority that answers each message with these bytes, whatever was asked, and leaves.
async fn answering(scene: &Scene, answers: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let settings = scene.world.settings("authority");
    let identity = identity::Identity::load(&settings, scene.world.now).unwrap();
    let roots = authority::roots(&scene.world.ca(), scene.world.now).unwrap();
    let config = identity.joining_server(roots, ALPN_JOIN).unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await.unwrap();
        for answer in answers {
            let len = tls.read_u32().await.unwrap();
            let mut asked = vec![0; len as usize];
            tls.read_exact(&mut asked).await.unwrap();
            tls.write_all(&answer).await.unwrap();
            tls.flush().await.unwrap();
        }
        let _ = tls.shutdown().await;
    });
    addr
}

#[tokio::test]
async fn an_authority_that_says_too_much_or_too_little_is_not_believed() {
    let scene = Scene::new().await;
    let heard = async |answers: Vec<Vec<u8>>| {
        let addr = answering(&scene, answers).await;
        match scene.join_at(addr).await.map(drop).unwrap_err() {
            JoinError::Protocol(why) => why,
            other => format!("{other:?}"),
        }
    };
    let told = |len: usize| u32::try_from(len).unwrap().to_be_bytes().to_vec();
    let longest = super::message::MESSAGE_LEN_MAX;
    for len in [longest + 1, longest + 2, 1 << 31] {
        assert!(heard(vec![told(len)]).await.contains(&len.to_string()), "{len}");
    }
    let garbage = [told(longest), vec![0xff; longest]].concat();
    assert!(!heard(vec![garbage]).await.contains(&longest.to_string()), "it is read before it is judged");

    let granted = |crl_len: u64| {
        framed(
            &JoinReply::Granted {
                chain_pem: "x".into(),
                bundle_pem: "x".into(),
                record: "x".into(),
                crl_len: u32::try_from(crl_len).unwrap(),
            }
            .encode(),
        )
    };
    let most = identity::CRL_FILE_MAX;
    for len in [most + 1, most + 2] {
        assert_eq!(heard(vec![granted(len)]).await, "the revocation lists are too long");
    }
    let part = |bytes: &[u8]| framed(&JoinReply::Part(bytes.to_vec()).encode());
    let other = "the revocation lists are of another length than told";
    assert_eq!(heard(vec![granted(most), part(b"")]).await, other, "the longest is asked for");
    assert_eq!(heard(vec![granted(3), part(b"four")]).await, other);
    assert_eq!(heard(vec![granted(3), part(b"ab"), part(b"cd")]).await, other);
    assert_ne!(heard(vec![granted(4), part(b"ab"), part(b"cd")]).await, other);
}
