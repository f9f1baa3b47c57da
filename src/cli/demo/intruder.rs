//! A client that plays by nobody's rules: it speaks TLS with whatever certificate it has, or none.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::{Pq, provider};
use crate::protocols;

/// A certificate chain and its key.
#[derive(Clone)]
pub(super) struct Credentials {
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// What a CONNECT led to.
pub(super) enum Outcome {
    /// 200: we are in.
    In(Box<TlsStream<TcpStream>>),
    /// An HTTP answer with another status, and the reason it names.
    Refused { status: u16, reason: String },
    /// The handshake or the connection was broken off.
    Broken(String),
}

impl Outcome {
    /// In a few words, for people.
    pub fn words(&self) -> String {
        match self {
            Self::In(_) => "let in".into(),
            Self::Refused { status, .. } => format!("refused with {status}"),
            Self::Broken(why) => {
                format!("broken off: {}", why.strip_prefix("received fatal alert: ").unwrap_or(why))
            }
        }
    }
}

/// Asks the peers' door at `door` for `target`, with `credentials` or without.
pub(super) async fn ask(door: SocketAddr, credentials: Option<&Credentials>, target: &str) -> Outcome {
    ask_from(IpAddr::from([127, 0, 0, 1]), door, credentials, target).await
}

/// The same, from a source address of choice.
pub(super) async fn ask_from(
    source: IpAddr,
    door: SocketAddr,
    credentials: Option<&Credentials>,
    target: &str,
) -> Outcome {
    match tokio::time::timeout(PATIENCE, attempt(source, door, credentials, target)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(e)) => Outcome::Broken(e.to_string()),
        Err(_) => Outcome::Broken("no answer".into()),
    }
}

async fn attempt(
    source: IpAddr,
    door: SocketAddr,
    credentials: Option<&Credentials>,
    target: &str,
) -> std::io::Result<Outcome> {
    let tcp = connect_from(source, door).await?;
    let config = client_config(credentials).map_err(std::io::Error::other)?;
    let name = ServerName::IpAddress(door.ip().into());
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    tls.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX {
        head.push(tls.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    if status == 200 {
        return Ok(Outcome::In(Box::new(tls)));
    }
    let said = head.lines().find(|l| l.to_ascii_lowercase().starts_with("proxy-status:"));
    let said =
        said.and_then(|l| l.split_once(':')).and_then(|(_, v)| protocols::parse_proxy_status(v.trim()));
    Ok(Outcome::Refused { status, reason: said.map(|s| s.reason_code.to_string()).unwrap_or_default() })
}

/// A TCP connection from a loopback address of choice.
pub(super) async fn connect_from(source: IpAddr, door: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(door).await
}

fn client_config(credentials: Option<&Credentials>) -> Result<ClientConfig, String> {
    let provider = provider(Pq::Prefer);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless(provider)));
    let Some(credentials) = credentials else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = read(&credentials.chain, &credentials.key)?;
    builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())
}

fn read(chain: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|e| format!("{}: {e}", chain.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{}: {e}", key.display()))?;
    Ok((chain, key))
}

/// An intruder does not care whom it talks to.
#[derive(Debug)]
struct Careless(Arc<CryptoProvider>);

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Longest wait for an outcome.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer head read.
const HEAD_MAX: usize = 16 * 1024;
