//! A CA in a temporary folder, devices of it, and handshakes in memory. For tests only.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateRevocationListDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::authority::{self, IssueRequest, Issued, device_params, issue_raw};
use super::*;
use crate::model::{SpiffeId, Timestamp};

/// The world of one test: a CA, and a folder for each device.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) now: Timestamp,
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn id(name: &str) -> SpiffeId {
    format!("spiffe://example.org/device/{name}").parse().unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of("example.org", Timestamp::now())
    }

    pub(crate) fn of(trust_domain: &str, now: Timestamp) -> Self {
        let dir = tempfile::tempdir().unwrap();
        authority::init(&dir.path().join("ca"), &trust_domain.parse().unwrap(), now).unwrap();
        Self { dir, now }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    /// Where the files of `name` are; the CRL is the CA's own, so that a revocation shows at a reload.
    pub(crate) fn settings(&self, name: &str) -> Settings {
        let dir = self.dir.path().join(name);
        Settings {
            trust_domain: "example.org".parse().unwrap(),
            leaf: dir.join("leaf.pem"),
            key: dir.join("leaf.key"),
            bundle: dir.join("bundle.pem"),
            crl: Some(self.ca().join("crl.pem")),
            pq: Pq::Prefer,
        }
    }

    pub(crate) fn issue(&self, name: &str) -> Issued {
        self.issue_for(name, 24 * HOUR)
    }

    pub(crate) fn issue_for(&self, name: &str, ttl: Duration) -> Issued {
        let request = IssueRequest { name: name.parse().unwrap(), dns: vec![], ip: vec![], ttl };
        let issued = authority::issue(&self.ca(), &request, self.now).unwrap();
        install(&self.dir.path().join(name), &issued).unwrap();
        issued
    }

    /// A right device.
    pub(crate) fn device(&self, name: &str) -> Identity {
        self.issue(name);
        Identity::load(&self.settings(name), self.now).unwrap()
    }

    /// The world's time in whole seconds, as certificates have it.
    pub(crate) fn now_secs(&self) -> Timestamp {
        Timestamp::from_millis(self.now.as_secs() * 1000)
    }

    /// A right leaf for another kind of key than the CA makes.
    pub(crate) fn with_key(&self, name: &str, key: &KeyPair) -> Issued {
        let (domain, device) = ("example.org".parse().unwrap(), name.parse().unwrap());
        let params = device_params(&domain, &device, self.now, self.now.plus(HOUR)).unwrap();
        let mut issued = self.issue(name);
        let leaf = params.signed_by(key, &self.signer("issuing")).unwrap();
        issued.leaf_pem = leaf.pem() + &std::fs::read_to_string(self.ca().join("issuing.pem")).unwrap();
        issued.key_pem = key.serialize_pem();
        issued
    }

    /// Puts the issuing CA on the root's list.
    pub(crate) fn revoke_issuing(&self) {
        let pem = std::fs::read(self.ca().join("issuing.pem")).unwrap();
        let der = super::load::parse_certificates(&pem).unwrap().remove(0);
        let (_, issuing) = x509_parser::parse_x509_certificate(&der).unwrap();
        let now = time::OffsetDateTime::from_unix_timestamp(self.now.as_secs().try_into().unwrap()).unwrap();
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::days(30),
            crl_number: 2_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from_slice(issuing.raw_serial()),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.signer("root")).unwrap().pem().unwrap();
        let crl = self.ca().join("crl.pem");
        let text = std::fs::read_to_string(&crl).unwrap();
        let issuing_list = text.split_inclusive("-----END X509 CRL-----\n").next().unwrap();
        std::fs::write(&crl, issuing_list.to_owned() + &list).unwrap();
    }

    /// Has the root certify the issuing CA again, for these purposes only.
    pub(crate) fn limit_issuing(&self, purposes: &[ExtendedKeyUsagePurpose]) {
        let path = self.ca().join("issuing.pem");
        let der = super::load::parse_certificates(&std::fs::read(&path).unwrap()).unwrap().remove(0);
        let (_, old) = x509_parser::parse_x509_certificate(&der).unwrap();
        let name = old.subject().iter_common_name().next().unwrap().as_str().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI("spiffe://example.org".try_into().unwrap())];
        params.extended_key_usages = purposes.to_vec();
        let key = std::fs::read_to_string(self.ca().join("issuing.key")).unwrap();
        let new = params.signed_by(&KeyPair::from_pem(&key).unwrap(), &self.signer("root")).unwrap();
        std::fs::write(&path, new.pem()).unwrap();
    }

    /// The first list of `crl.pem`, DER: the issuing CA's.
    pub(crate) fn first_list(&self) -> Vec<u8> {
        let pem = std::fs::read(self.ca().join("crl.pem")).unwrap();
        CertificateRevocationListDer::from_pem_slice(&pem).unwrap().to_vec()
    }

    fn signer(&self, ca: &str) -> Issuer<'static, KeyPair> {
        let text = |kind: &str| std::fs::read_to_string(self.ca().join(format!("{ca}.{kind}"))).unwrap();
        Issuer::from_ca_cert_pem(&text("pem"), KeyPair::from_pem(&text("key")).unwrap()).unwrap()
    }

    /// A certificate that `change` bent, signed by the issuing CA.
    pub(crate) fn bent(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let (domain, device) = ("example.org".parse().unwrap(), name.parse().unwrap());
        let mut params = device_params(&domain, &device, self.now, self.now.plus(HOUR)).unwrap();
        change(&mut params);
        issue_raw(&self.ca(), params, id(name), self.now).unwrap()
    }
}

/// What a handshake in memory came to: `Err` has who failed first and the reason it gives.
pub(crate) type Outcome = Result<(ClientConnection, ServerConnection), (Side, rustls::Error)>;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Runs a handshake until both are done or one fails.
pub(crate) fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Outcome {
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut read = wire.as_slice();
        while !read.is_empty() {
            server.read_tls(&mut read).unwrap();
            server.process_new_packets().map_err(|e| (Side::Server, e))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut read = wire.as_slice();
        while !read.is_empty() {
            client.read_tls(&mut read).unwrap();
            client.process_new_packets().map_err(|e| (Side::Client, e))?;
        }
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            return Ok((client, server));
        }
    }
    panic!("the handshake neither ends nor fails");
}

/// A client that shows `issued`, whatever it is, and trusts every server.
pub(crate) fn raw_client(issued: &Issued) -> Arc<ClientConfig> {
    let chain = super::load::parse_certificates(issued.leaf_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let config = trusting().with_client_auth_cert(chain, key).unwrap();
    Arc::new(config)
}

/// A client without a certificate.
pub(crate) fn nameless_client() -> Arc<ClientConfig> {
    Arc::new(trusting().with_no_client_auth())
}

fn trusting() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(provider(Pq::Off))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAll))
}

/// A server that shows `issued`, whatever it is, and asks for nothing.
pub(crate) fn raw_server(issued: &Issued) -> Arc<ServerConfig> {
    let chain = super::load::parse_certificates(issued.leaf_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider(Pq::Off))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

#[derive(Debug)]
struct TrustsAll;

impl rustls::client::danger::ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        super::provider::ALGORITHMS.supported_schemes()
    }
}

/// Device records kept in memory: what `agent` keeps in files.
#[derive(Default)]
pub(crate) struct Book(
    pub(crate) std::sync::Mutex<std::collections::BTreeMap<SpiffeId, authority::Standing>>,
);

impl Book {
    /// Enters a device with the key of its leaf.
    pub(crate) fn enter(&self, id: &SpiffeId, spki_sha256: [u8; 32]) {
        let standing = authority::Standing {
            spki_sha256,
            tier_max: crate::model::Tier::Software,
            text: "record 1".into(),
            barred: None,
        };
        self.0.lock().unwrap().insert(id.clone(), standing);
    }

    pub(crate) fn bar(&self, id: &SpiffeId, reason: Option<crate::model::Reason>) {
        self.0.lock().unwrap().get_mut(id).unwrap().barred = reason;
    }
}

impl authority::Records for Book {
    fn standing(
        &self,
        id: &SpiffeId,
        _: &str,
        _: &[&dyn crate::model::Sign],
    ) -> Result<authority::Standing, authority::JoinRefused> {
        let missing =
            || authority::JoinRefused { reason: crate::model::Reason::RecordMissing, detail: String::new() };
        self.0.lock().unwrap().get(id).cloned().ok_or_else(missing)
    }

    fn renew(
        &self,
        id: &SpiffeId,
        spki_sha256: [u8; 32],
        _: &[&dyn crate::model::Sign],
    ) -> Result<authority::Recorded, authority::JoinRefused> {
        let mut all = self.0.lock().unwrap();
        let standing = all.get_mut(id).unwrap();
        standing.spki_sha256 = spki_sha256;
        standing.text.push('+');
        Ok(authority::Recorded { text: standing.text.clone(), version: 2, baseline_sha256: [0; 32] })
    }
}
