//! Plain clients with a device certificate at the peers' door: HTTP/1.1 CONNECT and h2.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use countersign::identity::{Pq, provider};
use countersign::protocols::parse_proxy_status;
use http::{Method, Request, Uri};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::within;

/// Where a device's certificate, key and roots lie.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub leaf: PathBuf,
    pub key: PathBuf,
    pub bundle: PathBuf,
}

/// A session with the peers' door, proven both ways; nothing is asked yet.
pub struct Client(TlsStream<TcpStream>);

/// What a CONNECT led to.
pub enum Outcome {
    /// 200: the flow.
    In(Box<TlsStream<TcpStream>>),
    /// Another status, with the reason that Proxy-Status names.
    Refused { status: u16, reason: String },
}

impl Outcome {
    /// The flow, or a panic with the refusal.
    pub fn flow(self) -> TlsStream<TcpStream> {
        match self {
            Self::In(stream) => *stream,
            Self::Refused { status, reason } => panic!("refused with {status} {reason}"),
        }
    }

    /// Status and reason; 200 without one.
    pub fn said(&self) -> (u16, &str) {
        match self {
            Self::In(_) => (200, ""),
            Self::Refused { status, reason } => (*status, reason),
        }
    }
}

impl Client {
    pub async fn connect(door: SocketAddr, credentials: &Credentials) -> Self {
        Self(connect_tls(door, credentials, b"http/1.1").await.unwrap())
    }

    /// Asks for `target` with an HTTP/1.1 CONNECT.
    pub async fn ask(self, target: &str) -> Outcome {
        let mut tls = self.0;
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("an answer", tls.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        match refusal(&head) {
            None => Outcome::In(Box::new(tls)),
            Some((status, reason)) => Outcome::Refused { status, reason },
        }
    }
}

/// Status and reason of an answer that is not 200.
pub fn refusal(head: &str) -> Option<(u16, String)> {
    let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
    let said = head.lines().find_map(|line| line.strip_prefix("Proxy-Status: "));
    let said = said.or_else(|| head.lines().find_map(|line| line.strip_prefix("proxy-status: ")));
    let reason = said.and_then(parse_proxy_status).map(|s| s.reason_code.to_string());
    (status != 200).then(|| (status, reason.unwrap_or_default()))
}

/// One h2 session with many flows, as a sidecar has it.
pub struct H2Client(h2::client::SendRequest<Bytes>);

impl H2Client {
    pub async fn connect(door: SocketAddr, credentials: &Credentials) -> Self {
        let tls = connect_tls(door, credentials, b"h2").await.unwrap();
        let (send, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self(send)
    }

    /// Posts an errand; gives the answer's status and reason.
    pub async fn post(&self, errand: &str, body: &[u8]) -> (u16, String) {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("https://countersign/.well-known/countersign/{errand}").parse().unwrap();
        let mut send = self.0.clone().ready().await.unwrap();
        let (answer, mut upload) = send.send_request(request, false).unwrap();
        upload.send_data(Bytes::copy_from_slice(body), true).unwrap();
        let answer = within("an answer", answer).await.unwrap();
        let said = answer.headers().get("proxy-status").and_then(|v| v.to_str().ok());
        let reason = said.and_then(parse_proxy_status).map(|s| s.reason_code.to_string());
        (answer.status().as_u16(), reason.unwrap_or_default())
    }

    /// Asks for `target`; gives the answer's status and reason, and the flow's two halves.
    pub async fn ask(
        &self,
        target: &str,
    ) -> Result<(u16, String, h2::SendStream<Bytes>, h2::RecvStream), h2::Error> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::builder().authority(target).build().unwrap();
        let (answer, send) = self.0.clone().ready().await?.send_request(request, false)?;
        let answer = within("an answer", answer).await?;
        let said = answer.headers().get("proxy-status").and_then(|v| v.to_str().ok());
        let reason = said.and_then(parse_proxy_status).map(|s| s.reason_code.to_string());
        Ok((answer.status().as_u16(), reason.unwrap_or_default(), send, answer.into_body()))
    }
}

/// A TLS handshake with the certificate of a device; the server must prove its address.
pub async fn connect_tls(
    door: SocketAddr,
    credentials: &Credentials,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(&credentials.bundle).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(&credentials.leaf).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&credentials.key).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider(Pq::Prefer))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(door).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(door.ip().into()), tcp).await
}
