//! What the attempts are made on: three real sidecars, the devices of a CA, and one service that counts its bytes.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use countersign::device::{Record, Status};
use countersign::identity::authority::{self, device_params, issue_raw};
use countersign::identity::{Pq, parse_certificates, provider};
use countersign::model::{SpiffeId, Tier, Timestamp};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::joins::Tokens;
use super::posers::Poser;
use crate::support::{Key, Service, Sidecar, Yard, enrol, enrol_as, free_addr, machine, on_machine};

/// Attempts of one kind under way at once. Each has a device of its own.
pub const LANES: usize = 8;

/// At which sidecar an attempt is made, and must be written down.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum At {
    Server,
    Web,
    Authority,
}

/// The whole ground.
pub struct Ground {
    pub server: Sidecar,
    pub web: Sidecar,
    pub authority: Sidecar,
    pub door: SocketAddr,
    pub join_door: SocketAddr,
    pub app: SocketAddr,
    pub posed_app: SocketAddr,
    pub socks: SocketAddr,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    /// The one service, and the bytes that ever reached it.
    pub orders: Service,
    pub bytes: Arc<AtomicU64>,
    /// Where nobody may be led.
    pub canary: Service,
    /// Enrolled devices of the intruders, one for each lane.
    pub devices: Vec<Device>,
    /// Others whose records are bent, by what is wrong, one for each lane.
    pub bent: HashMap<&'static str, Vec<Device>>,
    /// Certificates that no door may take, by what is wrong.
    pub shown: HashMap<&'static str, Shown>,
    pub tokens: Tokens,
    pub poser: Poser,
    pub honest: AtomicUsize,
    /// Goes last: everything lies in it.
    pub yard: Yard,
}

/// An enrolled device in the wrong hands: its key, its record, its machine.
pub struct Device {
    pub certs: PathBuf,
    pub machine: PathBuf,
    pub key: Key,
    pub record: String,
}

impl Device {
    fn read(yard: &Yard, name: &str, machine: &Path) -> Self {
        let certs = yard.path().join(name).join("certs");
        Self {
            key: Key::read(&certs.join("leaf.key")),
            record: std::fs::read_to_string(certs.join("device.record")).unwrap(),
            machine: machine.into(),
            certs,
        }
    }

    pub fn shown(&self) -> Shown {
        Shown::read(&self.certs.join("leaf.pem"), &self.certs.join("leaf.key"))
    }
}

/// A chain and the key that is used with it, whether it fits or not.
#[derive(Clone, Debug)]
pub struct Shown(pub Arc<CertifiedKey>);

impl Shown {
    pub fn read(chain: &Path, key: &Path) -> Self {
        Self::of(&std::fs::read(chain).unwrap(), &std::fs::read(key).unwrap())
    }

    pub fn of(chain_pem: &[u8], key_pem: &[u8]) -> Self {
        let key = PrivateKeyDer::from_pem_slice(key_pem).unwrap();
        let key = provider(Pq::Prefer).key_provider.load_private_key(key).unwrap();
        Self(Arc::new(CertifiedKey::new(parse_certificates(chain_pem).unwrap(), key)))
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Ground {
    pub async fn lay() -> Self {
        let (yard, bytes) = (Yard::new(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&bytes);
        let orders = Service::start(move |stream| count_and_echo(stream, Arc::clone(&counted))).await;
        let canary = Service::echo().await;
        let (door, join_door, app, posed_app) = (free_addr(), free_addr(), free_addr(), free_addr());
        let (socks, proxy, admin) = (free_addr(), free_addr(), free_addr());

        let mut shown = bent_certificates(&yard);
        let mut devices = Vec::new();
        let mut bent: HashMap<&'static str, Vec<Device>> = HashMap::new();
        for lane in 0..LANES {
            devices.push(enrolled(&yard, &format!("taken-{lane}"), lane, 1, |_| {}));
            bent.entry("copied").or_default().push(enrolled(
                &yard,
                &format!("copied-{lane}"),
                lane,
                1,
                |_| {},
            ));
            let old = format!("old-{lane}");
            bent.entry("old").or_default().push(enrolled(&yard, &old, lane, 4, |_| {}));
            enrol_as(&yard, &old, &machine(&yard, lane_machine(lane)), 5, |_| {});
            let newer = Device::read(&yard, &old, &machine(&yard, lane_machine(lane)));
            bent.entry("newer").or_default().push(newer);
            for (what, change) in BENT_RECORDS {
                let device = enrolled(&yard, &format!("{what}-{lane}"), lane, 4, change);
                bent.entry(what).or_default().push(device);
            }
        }
        yard.issue("plain-1");

        let knocks = "\n[limits]\nknocks_per_second = 20000\nknocks_burst = 20000\n";
        let (own, other, ca) = (machine(&yard, 1), machine(&yard, 2), machine(&yard, 3));
        let exempt = "require_tier = 1\nexempt = [\"spiffe://example.org/device/plain-1\"]";
        let server = format!(
            "[peers]\nlisten = \"{door}\"\n\n[[inbound]]\nname = \"orders\"\ntarget = \"{}\"\nprotocol = \"tcp\"\n\n\
             [[inbound]]\nname = \"ledger\"\ntarget = \"{}\"\nprotocol = \"tcp\"\n\n\
             [channel]\npq = \"require\"\nhandshake_timeout = \"3s\"\n{knocks}{}",
            orders.addr,
            canary.addr,
            on_machine(&own, exempt)
        );
        let poser = Poser::start(&yard).await;
        let outbound = |name: &str, listen: SocketAddr, path: SocketAddr| {
            format!(
                "\n[[outbound]]\nname = \"{name}\"\nlisten = \"{listen}\"\nprotocol = \"tcp\"\n\
                 peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{path}\"]\n"
            )
        };
        let web = format!(
            "[[capture]]\nmode = \"socks5\"\nlisten = \"{socks}\"\n\n[[capture]]\nmode = \"connect\"\n\
             listen = \"{proxy}\"\n\n[admin]\nlisten = \"{admin}\"\n{}{}{}",
            outbound("orders", app, door),
            outbound("posed", posed_app, poser.addr),
            on_machine(&other, "require_tier = 1")
        );
        let authority = format!(
            "[peers]\nlisten = \"{join_door}\"\n\n[authority]\nca = \"{}\"\n{knocks}{}",
            yard.path().join("ca").display(),
            on_machine(&ca, "")
        );
        let mut running = Vec::new();
        for (name, config, machine) in
            [("server-1", server, &own), ("web-1", web, &other), ("authority-1", authority, &ca)]
        {
            let dir = yard.furnish(name, &config);
            std::fs::write(dir.join("policies/20-all.cedar"), ALL).unwrap();
            enrol(&yard, name, machine, 1);
            running.push(Sidecar::start(&dir).await);
        }
        let (authority, web, server) =
            (running.pop().unwrap(), running.pop().unwrap(), running.pop().unwrap());
        poser.may_be(Device::read(&yard, "server-1", &own), Key::read(&yard.credentials("web-1").key));
        let keyless = Shown::read(&yard.credentials("server-1").leaf, &yard.credentials("other-1").key);
        shown.insert("the peer's certificate without its key", keyless);
        let tokens = Tokens::make(&yard, join_door).await;
        Self {
            server,
            web,
            authority,
            door,
            join_door,
            app,
            posed_app,
            socks,
            proxy,
            admin,
            orders,
            bytes,
            canary,
            devices,
            bent,
            shown,
            tokens,
            poser,
            honest: AtomicUsize::new(0),
            yard,
        }
    }

    pub fn sidecar(&self, at: At) -> &Sidecar {
        match at {
            At::Server => &self.server,
            At::Web => &self.web,
            At::Authority => &self.authority,
        }
    }

    /// An honest app is served as ever.
    pub async fn serve_honest(&self) {
        let mut flow = TcpStream::connect(self.app).await.unwrap();
        crate::support::echo(&mut flow).await;
        self.honest.fetch_add(1, Ordering::Relaxed);
    }
}

/// Refusals in a sidecar's audit, by reason, the sums included.
#[derive(Default)]
pub struct Ledger {
    lines: usize,
    pub reasons: BTreeMap<String, u64>,
}

impl Ledger {
    pub fn read(&mut self, sidecar: &Sidecar) -> &BTreeMap<String, u64> {
        let entries = sidecar.entries();
        for entry in &entries[self.lines..] {
            let refusal = entry["kind"] == "deny" || entry["kind"] == "admin";
            if let Some(reason) = entry["reason"].as_str().filter(|_| refusal) {
                *self.reasons.entry(reason.into()).or_default() += entry["count"].as_u64().unwrap_or(1);
            }
        }
        self.lines = entries.len();
        &self.reasons
    }
}

type Change = fn(&mut Record);

/// Records that the CA signed and that nobody may take.
const BENT_RECORDS: [(&str, Change); 5] = [
    ("expired", |r| {
        r.issued_at = Timestamp::from_secs(1_700_000_000);
        r.expires_at = Timestamp::from_secs(1_700_003_600);
    }),
    ("revoked", |r| r.status = Status::Revoked),
    ("quarantined", |r| r.status = Status::Quarantined),
    ("tierless", |r| r.tier_max = Tier::None),
    ("aged", |_| {}),
];

fn lane_machine(lane: usize) -> u8 {
    20 + u8::try_from(lane).unwrap()
}

fn enrolled(yard: &Yard, name: &str, lane: usize, version: u64, change: Change) -> Device {
    let machine = machine(yard, lane_machine(lane));
    yard.issue(name);
    enrol_as(yard, name, &machine, version, change);
    Device::read(yard, name, &machine)
}

/// Certificates with one thing wrong each.
fn bent_certificates(yard: &Yard) -> HashMap<&'static str, Shown> {
    let (ca, now) = (yard.path().join("ca"), Timestamp::now());
    let day = Duration::from_secs(24 * 3600);
    let ago = |time: Duration| Timestamp::from_millis(now.as_millis() - time.as_millis() as u64);
    let id: SpiffeId = "spiffe://example.org/device/bent-1".parse().unwrap();
    let made = |from, until, change: &dyn Fn(&mut CertificateParams)| {
        let (domain, name) = ("example.org".parse().unwrap(), "bent-1".parse().unwrap());
        let mut params = device_params(&domain, &name, from, until).unwrap();
        change(&mut params);
        let issued = issue_raw(&ca, params, id.clone(), now).unwrap();
        Shown::of(issued.leaf_pem.as_bytes(), issued.key_pem.as_bytes())
    };
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let later = now.plus(day);
    let mut shown = HashMap::from([
        ("expired", made(ago(2 * day), ago(day), &|_| {})),
        ("not yet valid", made(now.plus(day), now.plus(2 * day), &|_| {})),
        (
            "two uris",
            made(now, later, &|p| {
                p.subject_alt_names.push(uri("spiffe://example.org/device/web-1"));
            }),
        ),
        ("no uri", made(now, later, &|p| p.subject_alt_names.clear())),
        (
            "wrong eku",
            made(now, later, &|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        (
            "other domain",
            made(now, later, &|p| p.subject_alt_names = vec![uri("spiffe://example.com/device/web-1")]),
        ),
        ("ca as leaf", Shown::read(&ca.join("issuing.pem"), &ca.join("issuing.key"))),
    ]);
    let foreign = Yard::new();
    let theirs = foreign.issue("web-1");
    shown.insert("foreign ca", Shown::read(&theirs.leaf, &theirs.key));
    let mut foreign_chain = std::fs::read(yard.issue("mixed-1").leaf).unwrap();
    let own = Shown::read(&theirs.leaf, &theirs.key).0.cert[0].clone();
    foreign_chain.splice(0..0, pem_of(&own).into_bytes());
    shown.insert(
        "foreign leaf, our ca behind it",
        Shown::of(&foreign_chain, &std::fs::read(&theirs.key).unwrap()),
    );
    let stolen = yard.issue("stolen-1");
    let other = yard.issue("other-1");
    shown.insert("certificate without its key", Shown::read(&stolen.leaf, &other.key));
    shown.insert("another device", Shown::read(&other.leaf, &other.key));
    let revoked = yard.issue("revoked-1");
    shown.insert("revoked", Shown::read(&revoked.leaf, &revoked.key));
    authority::revoke(&ca, "revoked-1", now).unwrap();
    shown
}

fn pem_of(der: &CertificateDer<'_>) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

async fn count_and_echo(mut stream: TcpStream, bytes: Arc<AtomicU64>) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        bytes.fetch_add(len as u64, Ordering::Relaxed);
        if stream.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

/// Shakes hands with whatever is shown, or with nothing, and believes everybody.
pub async fn shake(
    door: SocketAddr,
    shown: Option<&Shown>,
    alpn: &[u8],
    pq: Pq,
) -> std::io::Result<TlsStream<TcpStream>> {
    let builder = ClientConfig::builder_with_provider(provider(pq))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless));
    let mut config = match shown {
        Some(shown) => builder.with_client_cert_resolver(Arc::new(shown.clone())),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(door).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(door.ip().into()), tcp).await
}

#[derive(Debug)]
struct Careless;

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
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider(Pq::Prefer).signature_verification_algorithms.supported_schemes()
    }
}

/// Random enough, and the same for the same seed (SplitMix64).
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most as u64).unwrap()
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().unwrap()
    }
}

const ALL: &str = r#"@id("orders-all")
@reason("nothing but the check under test may stop an intruder")
permit(principal, action == Action::"connect", resource == Service::"orders");

@id("posed-all")
@reason("the way to whoever poses as a peer")
permit(principal, action == Action::"connect", resource == Service::"posed");
"#;
