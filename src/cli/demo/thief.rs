//! Somebody who has a device's files and speaks for it by hand: right, or bent in the one way that a scene is about.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Uri};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::channel::{ERRAND_PATH, EVIDENCE_ERRAND};
use crate::device::{
    self, Answer, Claims, EXPORTER_LABEL, Message, Record, Role, Salt, Status, binder, make, verify_p256,
};
use crate::identity::{self, Identity, Pq, Settings, authority};
use crate::model::{Reason, Sign, SpiffeId, Timestamp};
use crate::protocols;

/// A device's folder of files, and the machine that it runs on.
#[derive(Clone)]
pub(super) struct Device {
    pub certs: PathBuf,
    pub machine: PathBuf,
}

impl Device {
    fn identity(&self) -> Result<Identity, String> {
        let file = |name: &str| self.certs.join(name);
        let settings = Settings {
            trust_domain: "example.org".parse().map_err(|e| format!("{e}"))?,
            leaf: file("leaf.pem"),
            key: file("leaf.key"),
            bundle: file("bundle.pem"),
            crl: None,
            pq: Pq::Prefer,
        };
        Identity::load(&settings, Timestamp::now()).map_err(|e| e.to_string())
    }

    fn record_file(&self) -> PathBuf {
        self.certs.join("device.record")
    }

    /// The text of its record, if it has one.
    fn record(&self) -> Option<String> {
        std::fs::read_to_string(self.record_file()).ok()
    }

    /// Has the CA in `ca` sign the next version of its record; gives the one before.
    pub fn next_record(&self, ca: &Path) -> Result<String, String> {
        let old = self.record().ok_or("the device has no record")?;
        let now = Timestamp::now();
        let renewed = authority::with_issuing_key(ca, now, |signer: &dyn Sign| {
            let ours =
                |message: &[u8], signature: &[u8]| verify_p256(signer.public_key_spki(), message, signature);
            let record = device::SignedRecord::open(&old, &ours).map_err(|e| e.to_string())?;
            let next =
                Record { version: record.version + 1, status: Status::Active, issued_at: now, ..record };
            next.to_signed(signer).map_err(|e| e.to_string())
        });
        let signed = renewed.map_err(|e| e.to_string())??;
        std::fs::write(self.record_file(), signed.text).map_err(|e| e.to_string())?;
        Ok(old)
    }

    /// Its evidence for the connection of `wire`, with `record`, or its own.
    pub fn evidence(&self, wire: &Wire, record: Option<String>) -> Result<Message, String> {
        let identity = self.identity()?;
        let salt = Salt::load(&self.certs.join("device.salt")).map_err(|e| e.to_string())?;
        let seen = device::collect(&self.machine).map_err(|e| e.to_string())?;
        let seen = device::fingerprint(&seen, &salt);
        let now = Timestamp::now();
        let claims = Claims {
            ueid: seen.ueid,
            issued_at: Timestamp::from_secs(i64::try_from(now.as_secs()).unwrap_or_default()),
            components: seen.values,
            boot: seen.boot,
            counter: now.as_millis(),
            program: "countersign".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            config_digest: [0; 32],
            policy_digest: [0; 32],
            new_leaf_sha256: None,
        };
        let leaf = identity.signer();
        let binder = binder(Role::Client, &leaf.svid().spki_sha256, &wire.peer_spki_sha256, &wire.exporter);
        let evidence = make(&claims, &binder, &leaf).map_err(|e| e.to_string())?;
        Ok(Message { evidence, record: record.or_else(|| self.record()), ..Message::default() })
    }

    /// Dials `peer` at `door` with this device's certificate.
    pub async fn dial(&self, door: SocketAddr, peer: &str) -> Result<Wire, String> {
        let tcp = TcpStream::connect(door).await.map_err(|e| e.to_string())?;
        self.shake(tcp, peer).await
    }

    async fn shake(&self, tcp: TcpStream, peer: &str) -> Result<Wire, String> {
        let peer: SpiffeId =
            format!("spiffe://example.org/device/{peer}").parse().map_err(|e| format!("{e}"))?;
        let (config, _) = self.identity()?.dialling(&peer, &[b"h2"]);
        let tls = TlsConnector::from(config).connect(identity::server_name(), tcp).await;
        let tls = tls.map_err(|e| e.to_string())?;
        let state = tls.get_ref().1;
        let mut exporter = [0; 32];
        state.export_keying_material(&mut exporter, EXPORTER_LABEL, Some(b"")).map_err(|e| e.to_string())?;
        let leaf =
            state.peer_certificates().and_then(|chain| chain.first()).ok_or("the peer shows nothing")?;
        let peer_spki_sha256 = identity::svid(leaf).map_err(|e| e.to_string())?.spki_sha256;
        Ok(Wire { tls, exporter, peer_spki_sha256 })
    }

    /// A connection of `victim` to this very device, which the victim takes for `own`'s service.
    pub async fn lure(&self, victim: &Self, own: &str) -> Result<Wire, String> {
        let trap = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
        let addr = trap.local_addr().map_err(|e| e.to_string())?;
        let acceptor = TlsAcceptor::from(self.identity()?.accepting(&[b"h2"]).0);
        let sprung = async {
            let (tcp, _) = trap.accept().await?;
            acceptor.accept(tcp).await
        };
        let (caught, wire) = tokio::join!(sprung, victim.dial(addr, own));
        caught.map_err(|e| e.to_string())?;
        wire
    }
}

/// A TLS connection, and what evidence for it must name.
pub(super) struct Wire {
    tls: TlsStream<TcpStream>,
    exporter: [u8; 32],
    peer_spki_sha256: [u8; 32],
}

impl Wire {
    /// Speaks h2 on it.
    pub async fn speak(self) -> Result<Line, String> {
        let (send, connection) = h2::client::handshake(self.tls).await.map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Line { send: Arc::new(send) })
    }
}

/// An h2 session.
pub(super) struct Line {
    send: Arc<SendRequest<Bytes>>,
}

/// A request was refused with this status and reason.
#[derive(Debug)]
pub(super) struct No {
    pub status: u16,
    pub reason: String,
}

impl Line {
    /// Posts evidence; gives the server's answer.
    pub async fn prove(&self, message: &Message) -> Result<Result<Answer, No>, String> {
        let body = message.to_bytes().map_err(|e| e.to_string())?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        let uri = Uri::builder().scheme("https").authority("countersign");
        let uri = uri.path_and_query(format!("{ERRAND_PATH}{EVIDENCE_ERRAND}")).build();
        *request.uri_mut() = uri.map_err(|e| e.to_string())?;
        let (said, _, mut body) = match self.ask(request, Some(body.into())).await? {
            Ok(answered) => answered,
            Err(no) => return Ok(Err(no)),
        };
        let mut whole = Vec::new();
        while let Some(chunk) = body.data().await {
            whole.extend_from_slice(&chunk.map_err(|e| e.to_string())?);
        }
        debug_assert_eq!(said, 200);
        Answer::read(&whole).map(Ok).map_err(|e| e.to_string())
    }

    /// Opens a flow.
    pub async fn connect(&self, target: &str) -> Result<Result<(SendStream<Bytes>, RecvStream), No>, String> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::builder().authority(target).build().map_err(|e| e.to_string())?;
        Ok(self.ask(request, None).await?.map(|(_, send, body)| (send, body)))
    }

    async fn ask(
        &self,
        request: Request<()>,
        body: Option<Bytes>,
    ) -> Result<Result<(u16, SendStream<Bytes>, RecvStream), No>, String> {
        let mut send = SendRequest::clone(&self.send).ready().await.map_err(|e| e.to_string())?;
        let (answer, mut upload) = send.send_request(request, false).map_err(|e| e.to_string())?;
        if let Some(body) = body {
            upload.send_data(body, true).map_err(|e| e.to_string())?;
        }
        let answer = answer.await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        if status == 200 {
            return Ok(Ok((status, upload, answer.into_body())));
        }
        let said = answer.headers().get("proxy-status").and_then(|v| v.to_str().ok());
        let said = said.and_then(protocols::parse_proxy_status).map(|s| s.reason_code.to_string());
        Ok(Err(No { status, reason: said.unwrap_or_else(|| Reason::Internal.code().into()) }))
    }
}
