//! This device's identity: loaded once, renewed while it runs, shown and checked at every handshake.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

use super::load::{load_lists, load_own};
use super::material::{Material, Own, Shared};
use super::peer::{PeerIdentity, peer};
use super::problem::{LoadError, Problem};
use super::svid::Svid;
use super::trust::{Lists, Revocation, Stage, check_chain};
use super::verify::{Door, check_leaf};
use super::{Settings, provider};
use crate::model::{Reason, Sign, SignError, SpiffeId, Timestamp};

/// This device's identity. Cheap to clone; all clones and all configurations made from it renew together.
#[derive(Clone, Debug)]
pub struct Identity {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    id: SpiffeId,
    server: ServerConfig,
    client: ClientConfig,
    // One reload at a time, or an older reading could overwrite a newer one.
    reloading: Mutex<()>,
}

impl Identity {
    /// Reads the files that `settings` names and checks that they make an identity at `now`.
    ///
    /// # Errors
    /// [`LoadError`] with every problem of every file.
    pub fn load(settings: &Settings, now: Timestamp) -> Result<Self, LoadError> {
        let (own, revocation, problems) = read_all(settings, None, now);
        let own = match own {
            Some(own) if problems.is_empty() => own,
            _ => return Err(LoadError { problems }),
        };
        let id = own.svid.id.clone();
        let material = ArcSwap::from_pointee(Material { own, revocation });
        let shared = Arc::new(Shared { settings: settings.clone(), material });
        let tls = |error| LoadError { problems: vec![Problem::Tls(error)] };
        let server = server_template(&shared).map_err(tls)?;
        let client = client_template(&shared, &id).map_err(tls)?;
        Ok(Self { inner: Arc::new(Inner { shared, id, server, client, reloading: Mutex::new(()) }) })
    }

    /// Reads the files again; the next handshake of every configuration sees the result.
    ///
    /// Leaf, key and bundle change together or not at all: while they are broken, or are of another
    /// device, the running ones stay. A configured CRL that cannot be used closes the door at once
    /// ([`Reason::CrlUnavailable`]), and a good one takes effect even when the other files are broken.
    /// So call [`Identity::recheck`] for every living session afterwards, whatever this returned.
    ///
    /// # Errors
    /// [`LoadError`] with every problem of every file.
    pub fn reload(&self, now: Timestamp) -> Result<Reloaded, LoadError> {
        let _one = self.inner.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &self.inner.shared;
        let old = shared.material.load_full();
        let (own, revocation, mut problems) = read_all(&shared.settings, Some(&old), now);
        let own = match own {
            Some(own) if own.svid.id == self.inner.id => own,
            Some(own) => {
                let (path, running) = (shared.settings.leaf.clone(), self.inner.id.clone());
                problems.push(Problem::IdChanged { path, id: own.svid.id.clone(), running });
                Arc::clone(&old.own)
            }
            None => Arc::clone(&old.own),
        };
        let changed = Reloaded {
            leaf: own.svid.fingerprint_sha256 != old.own.svid.fingerprint_sha256,
            bundle: own.bundle_digest != old.own.bundle_digest,
            crl: good(&revocation).map(|l| l.digest) != good(&old.revocation).map(|l| l.digest),
        };
        shared.material.store(Arc::new(Material { own, revocation }));
        if problems.is_empty() { Ok(changed) } else { Err(LoadError { problems }) }
    }

    /// The files to watch: a change of one is a reason to [`Identity::reload`].
    pub fn watch_paths(&self) -> Vec<PathBuf> {
        let s = &self.inner.shared.settings;
        [Some(&s.leaf), Some(&s.key), Some(&s.bundle), s.crl.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Who this device is; it stays the same as long as this lives.
    pub fn id(&self) -> &SpiffeId {
        &self.inner.id
    }

    /// When our leaf in force expires.
    pub fn not_after(&self) -> Timestamp {
        self.inner.shared.material.load().own.svid.not_after
    }

    /// The earliest nextUpdate of the lists in force; `None` when no CRL is configured or it cannot be used.
    pub fn crl_next_update(&self) -> Option<Timestamp> {
        good(&self.inner.shared.material.load().revocation).map(|l| l.next_update)
    }

    /// What is in force at `now`, for readiness and status.
    pub fn status(&self, now: Timestamp) -> Status {
        let material = self.inner.shared.material.load();
        let crl = match &material.revocation {
            Revocation::Off => CrlStatus::Off,
            Revocation::Good(l) if now >= l.next_update => CrlStatus::Expired { next_update: l.next_update },
            Revocation::Good(l) => CrlStatus::Good { next_update: l.next_update },
            Revocation::Unavailable { why, .. } => CrlStatus::Unavailable { why: why.clone() },
        };
        let svid = &material.own.svid;
        Status {
            id: svid.id.clone(),
            serial: svid.serial_hex(),
            not_before: svid.not_before,
            not_after: svid.not_after,
            roots: material.own.roots.len(),
            crl,
        }
    }

    /// TLS 1.3 for the peers' door: asks for a certificate, resumes nothing, takes no early data.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = self.inner.server.clone();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Arc::new(config)
    }

    /// TLS 1.3 for dialling the device `expected`: any other is refused. Give it [`server_name`].
    pub fn client_config(&self, expected: &SpiffeId, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = self.inner.client.clone();
        let door =
            Door { shared: Arc::clone(&self.inner.shared), expected: Some(expected.clone()), own: None };
        config.dangerous().set_certificate_verifier(Arc::new(door));
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Arc::new(config)
    }

    /// [`Identity::server_config`] for one handshake, and the leaf that it will show.
    pub fn accepting(&self, alpn: &[&[u8]]) -> (Arc<ServerConfig>, LeafSigner) {
        let (door, leaf) = self.door(None);
        let mut config = self.inner.server.clone();
        config.cert_resolver = door;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        (Arc::new(config), leaf)
    }

    /// [`Identity::client_config`] for one handshake, and the leaf that it will show.
    pub fn dialling(&self, expected: &SpiffeId, alpn: &[&[u8]]) -> (Arc<ClientConfig>, LeafSigner) {
        let (door, leaf) = self.door(Some(expected.clone()));
        let mut config = self.inner.client.clone();
        config.client_auth_cert_resolver = Arc::clone(&door) as _;
        config.dangerous().set_certificate_verifier(door);
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        (Arc::new(config), leaf)
    }

    fn door(&self, expected: Option<SpiffeId>) -> (Arc<Door>, LeafSigner) {
        let leaf = self.signer();
        let own = Some(Arc::clone(&leaf.own));
        (Arc::new(Door { shared: Arc::clone(&self.inner.shared), expected, own }), leaf)
    }

    /// Verifies a chain that a peer shows after the handshake, as a handshake would (leaf first, DER): the leaf must
    /// be `expected`'s. Whether the peer holds its key is for the caller to see.
    ///
    /// # Errors
    /// The [`Reason`] that a handshake would have been refused with.
    pub fn read_renewed(
        &self,
        chain: &[Vec<u8>],
        expected: &SpiffeId,
        now: Timestamp,
    ) -> Result<PeerIdentity, Reason> {
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let leaf = chain.first().ok_or(Reason::CertificateMissing)?;
        let material = self.inner.shared.material.load();
        check_chain(&material.own.roots, &material.revocation, &chain, now, Stage::Handshake)
            .map_err(|e| e.reason())?;
        check_leaf(leaf, &self.inner.shared.settings.trust_domain, Some(expected)).map_err(|e| e.reason())?;
        peer(&chain, now).map_err(|_| Reason::CertificateNotSvid)
    }

    /// DER SubjectPublicKeyInfo of the CA that issued a peer's leaf: it signs device records, too. Our own, for us.
    ///
    /// # Errors
    /// The [`Reason`] when the chain is not trusted now.
    pub fn issuer_of(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Box<[u8]>, Reason> {
        let material = self.inner.shared.material.load();
        check_chain(&material.own.roots, &material.revocation, chain, now, Stage::Living)
            .map_err(|e| e.reason())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Whether a living session's peer would still be let in, by the bundle, the lists and the clock of now.
    ///
    /// While a configured CRL cannot be used the last good lists judge, until their nextUpdate: a file
    /// that is replaced clumsily must not tear down everything, but nobody lives on a list that is too old.
    ///
    /// # Errors
    /// The [`Reason`] to end the session with: `SessionExpired`, `CertificateRevoked`,
    /// `CertificateUntrusted`, `CrlUnavailable` or whatever else a handshake would now say.
    pub fn recheck(&self, peer: &PeerIdentity, now: Timestamp) -> Result<(), Reason> {
        let material = self.inner.shared.material.load();
        check_chain(&material.own.roots, &material.revocation, peer.chain(), now, Stage::Living)
            .map(drop)
            .map_err(|error| match error.reason() {
                Reason::CertificateExpired => Reason::SessionExpired,
                reason => reason,
            })
    }

    /// Signs with the private key of the leaf in force now; a later renewal does not change it.
    pub fn signer(&self) -> LeafSigner {
        LeafSigner { own: Arc::clone(&self.inner.shared.material.load().own) }
    }
}

/// What rustls wants to be told of a server we know by SPIFFE ID only: it is neither sent nor compared.
pub fn server_name() -> ServerName<'static> {
    std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into()
}

/// What a reload changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reloaded {
    /// Our leaf and key.
    pub leaf: bool,
    /// The roots.
    pub bundle: bool,
    /// The revocation lists, or whether they can be used.
    pub crl: bool,
}

/// What is in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// Who this device is.
    pub id: SpiffeId,
    /// Its leaf's serial number in lower-case hex.
    pub serial: String,
    /// The leaf is valid from.
    pub not_before: Timestamp,
    /// The leaf is valid until.
    pub not_after: Timestamp,
    /// Roots in the bundle.
    pub roots: usize,
    /// The revocation lists.
    pub crl: CrlStatus,
}

/// How it stands with the revocation lists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CrlStatus {
    /// None is configured.
    Off,
    /// All are good.
    Good {
        /// The earliest nextUpdate.
        next_update: Timestamp,
    },
    /// One expired while we ran: every handshake is refused.
    Expired {
        /// The earliest nextUpdate.
        next_update: Timestamp,
    },
    /// The file became missing, broken or expired: every handshake is refused.
    Unavailable {
        /// What the last reload said.
        why: String,
    },
}

/// Signs with the leaf's key: ECDSA P-256 with SHA-256, ASN.1 (RFC 5480, RFC 3279 §2.2.3).
#[derive(Clone)]
pub struct LeafSigner {
    pub(super) own: Arc<Own>,
}

impl fmt::Debug for LeafSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafSigner").field("id", &self.own.svid.id).finish_non_exhaustive()
    }
}

impl LeafSigner {
    /// The chain that is shown with it, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.own.certified.cert
    }

    /// What the leaf says.
    pub fn svid(&self) -> &Svid {
        &self.own.svid
    }
}

impl Sign for LeafSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let scheme = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let signer = self.own.certified.key.choose_scheme(&scheme).ok_or(SignError)?;
        signer.sign(message).map_err(|_| SignError)
    }

    fn public_key_spki(&self) -> &[u8] {
        &self.own.spki
    }
}

/// Reads every file; what is good comes back even when something else is not.
fn read_all(
    settings: &Settings,
    old: Option<&Material>,
    now: Timestamp,
) -> (Option<Arc<Own>>, Revocation, Vec<Problem>) {
    let (own, mut problems) = match load_own(settings, now) {
        Ok(own) => (Some(Arc::new(own)), Vec::new()),
        Err(problems) => (None, problems),
    };
    let Some(path) = &settings.crl else {
        return (own, Revocation::Off, problems);
    };
    let lists = match load_lists(path, now) {
        Ok(lists) => lists,
        Err(problem) => {
            let last = old.and_then(|m| last(&m.revocation)).cloned();
            let revocation = Revocation::Unavailable { why: problem.to_string(), last };
            problems.push(problem);
            return (own, revocation, problems);
        }
    };
    let revocation = Revocation::Good(Arc::new(lists));
    if let Some(own) = &own
        && let Err(error) = check_chain(&own.roots, &revocation, &own.certified.cert, now, Stage::Handshake)
    {
        problems.push(Problem::OwnRefused { path: settings.leaf.clone(), crl: path.clone(), error });
    }
    (own, revocation, problems)
}

fn good(revocation: &Revocation) -> Option<&Arc<Lists>> {
    match revocation {
        Revocation::Good(lists) => Some(lists),
        Revocation::Off | Revocation::Unavailable { .. } => None,
    }
}

fn last(revocation: &Revocation) -> Option<&Arc<Lists>> {
    match revocation {
        Revocation::Good(lists) | Revocation::Unavailable { last: Some(lists), .. } => Some(lists),
        Revocation::Off | Revocation::Unavailable { last: None, .. } => None,
    }
}

fn server_template(shared: &Arc<Shared>) -> Result<ServerConfig, rustls::Error> {
    let door = Arc::new(Door { shared: Arc::clone(shared), expected: None, own: None });
    let mut config = ServerConfig::builder_with_provider(provider(shared.settings.pq))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::clone(&door) as _)
        .with_cert_resolver(door);
    // A resumed session would come past the verifier and the CRL.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

// Whoever is dialled takes the place of `id` as the one expected.
fn client_template(shared: &Arc<Shared>, id: &SpiffeId) -> Result<ClientConfig, rustls::Error> {
    let door = Arc::new(Door { shared: Arc::clone(shared), expected: Some(id.clone()), own: None });
    let mut config = ClientConfig::builder_with_provider(provider(shared.settings.pq))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&door) as _)
        .with_client_cert_resolver(door);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}
