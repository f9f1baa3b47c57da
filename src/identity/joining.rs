//! TLS for joining: a door that asks for no certificate, and a caller who trusts one pinned root and one device.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::Token;
use super::material::Shared;
use super::own::LeafSigner;
use super::provider::ALGORITHMS;
use super::trust::{INTERMEDIATES_MAX, Revocation, Root, Stage, TrustError, check_chain};
use super::verify::{PeerError, check_leaf};
use super::{Identity, Pq, provider};
use crate::model::{SpiffeId, Timestamp};

impl Identity {
    /// TLS 1.3 for the joining door alone: asks for no certificate, shows `roots` at the end of our chain.
    ///
    /// # Errors
    /// When rustls does not take the provider.
    pub fn joining_server(
        &self,
        roots: Vec<CertificateDer<'static>>,
        alpn: &[u8],
    ) -> Result<Arc<ServerConfig>, Error> {
        let shared = Arc::clone(self.shared());
        let mut config = ServerConfig::builder_with_provider(provider(shared.settings.pq))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(WithRoots { shared, roots }));
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(config))
    }
}

/// TLS 1.3 for dialling the authority of `token`: any other device is refused. Give it `server_name()`.
///
/// # Errors
/// When rustls does not take the provider.
pub fn joining_client(token: &Token, alpn: &[u8]) -> Result<Arc<ClientConfig>, Error> {
    let pinned =
        Pinned { root_spki_sha256: token.root_spki_sha256, authority: Some(token.authority.clone()) };
    narrow_client(Arc::new(Narrow(pinned)), alpn)
}

/// TLS 1.3 for a device whose certificate has expired, dialling `authority`: as [`joining_client`], but what it trusts
/// are the roots in its bundle. Give it `server_name()`.
///
/// # Errors
/// When rustls does not take the provider.
pub fn recovering_client(
    leaf: &LeafSigner,
    authority: &SpiffeId,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, Error> {
    let known = Known { roots: leaf.own.roots.clone(), authority: authority.clone() };
    narrow_client(Arc::new(Narrow(known)), alpn)
}

fn narrow_client(verifier: Arc<dyn ServerCertVerifier>, alpn: &[u8]) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider(Pq::Prefer))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// Our leaf in force, its chain, and the roots: whoever joins knows one of them by its key alone.
struct WithRoots {
    shared: Arc<Shared>,
    roots: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for WithRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WithRoots")
    }
}

impl ResolvesServerCert for WithRoots {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let own = Arc::clone(&self.shared.material.load().own.certified);
        let mut chain = own.cert.clone();
        for root in &self.roots {
            // Nobody takes a longer one.
            if !chain.contains(root) && chain.len() <= INTERMEDIATES_MAX {
                chain.push(root.clone());
            }
        }
        Some(Arc::new(CertifiedKey::new(chain, Arc::clone(&own.key))))
    }
}

/// Trusts the root with one key, and below it one device.
#[derive(Debug)]
pub(super) struct Pinned {
    /// SHA-256 of the root's DER SubjectPublicKeyInfo.
    pub root_spki_sha256: [u8; 32],
    /// Who must be at the other end, and of whose trust domain; `None` judges the chain alone.
    pub authority: Option<SpiffeId>,
}

impl Pinned {
    /// Checks that `chain` (leaf first) holds the pinned root and leads to it at `now`, and whose leaf it is.
    ///
    /// No revocation list is at hand before joining: this rests on the pin, the dates and the name.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), PeerError> {
        let (leaf, others) = chain.split_first().ok_or(TrustError::NoCertificate)?;
        if others.len() > INTERMEDIATES_MAX {
            return Err(TrustError::TooLong.into());
        }
        let root = others
            .iter()
            .find_map(|der| self.root(der))
            .ok_or(TrustError::Path(webpki::Error::UnknownIssuer))?;
        check_chain(&[root], &Revocation::Off, chain, now, Stage::Handshake)?;
        match &self.authority {
            Some(authority) => check_leaf(leaf, authority.trust_domain(), Some(authority)),
            None => Ok(()),
        }
    }

    /// The root in `der`, if it is the pinned one. The pin is on the key, so what else the certificate says must be
    /// signed by that key, too.
    pub fn root(&self, der: &CertificateDer<'_>) -> Option<Root> {
        let (rest, parsed) = X509Certificate::from_der(der).ok()?;
        let pinned = Sha256::digest(parsed.public_key().raw).as_slice() == self.root_spki_sha256;
        if !pinned || !rest.is_empty() || !parsed.is_ca() || parsed.verify_signature(None).is_err() {
            return None;
        }
        Some(Root {
            anchor: webpki::anchor_from_trusted_cert(der).ok()?.to_owned(),
            not_before: Timestamp::from_secs(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_secs(parsed.validity().not_after.timestamp()),
        })
    }
}

/// Trusts the roots of a bundle, and below them one device. No list is asked: it may be as old as the expired leaf.
#[derive(Debug)]
struct Known {
    roots: Vec<Root>,
    authority: SpiffeId,
}

/// Lets rustls ask a [`Judge`].
#[derive(Debug)]
struct Narrow<T>(T);

/// Judges a whole chain, leaf first.
trait Judge: fmt::Debug + Send + Sync {
    fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), PeerError>;
}

impl Judge for Pinned {
    fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), PeerError> {
        Pinned::judge(self, chain, now)
    }
}

impl Judge for Known {
    fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), PeerError> {
        let leaf = chain.first().ok_or(TrustError::NoCertificate)?;
        check_chain(&self.roots, &Revocation::Off, chain, now, Stage::Handshake)?;
        check_leaf(leaf, self.authority.trust_domain(), Some(&self.authority))
    }
}

impl<T: Judge> ServerCertVerifier for Narrow<T> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = Timestamp::from_millis(now.as_secs().saturating_mul(1000));
        let mut chain = vec![leaf.clone()];
        chain.extend_from_slice(intermediates);
        self.0.judge(&chain, now).map_err(|error| Error::InvalidCertificate(error.into()))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::authority::{self, InviteRequest};
    use super::super::testing::{HOUR, Side, World, handshake, id, raw_server};
    use super::super::{reason_of, server_name};
    use super::*;
    use crate::model::{Reason, Tier};

    const ALPN: &[u8] = b"countersign-join/1";

    fn token(world: &World) -> Token {
        let request = InviteRequest {
            name: "web-1".parse().unwrap(),
            ttl: HOUR,
            tier_max: Tier::Software,
            authority: id("authority"),
            addresses: vec!["127.0.0.1:1".parse().unwrap()],
        };
        authority::invite(&world.ca(), &request, world.now).unwrap().0
    }

    fn root(world: &World) -> CertificateDer<'static> {
        authority::roots(&world.ca(), world.now).unwrap().remove(0)
    }

    fn server(world: &World, name: &str) -> Arc<ServerConfig> {
        world.device(name).joining_server(vec![root(world)], ALPN).unwrap()
    }

    /// Dials `server` with the token; the reason it was refused with.
    fn play(token: &Token, server: Arc<ServerConfig>) -> Result<(), (Side, Reason)> {
        handshake(joining_client(token, ALPN).unwrap(), server).map(drop).map_err(|(s, e)| (s, reason_of(&e)))
    }

    #[test]
    fn the_authority_is_believed_without_a_certificate_of_ours() {
        let world = World::new();
        assert_eq!(play(&token(&world), server(&world, "authority")), Ok(()));
        let _ = server_name();
    }

    #[test]
    fn an_enrolled_device_that_poses_as_the_authority_is_refused() {
        let world = World::new();
        let refused = play(&token(&world), server(&world, "web-2"));
        assert_eq!(refused, Err((Side::Client, Reason::PeerUnexpected)));
    }

    #[test]
    fn another_ca_with_the_same_names_is_refused() {
        let (world, other) = (World::new(), World::new());
        let untrusted = Err((Side::Client, Reason::CertificateUntrusted));
        assert_eq!(play(&token(&world), server(&other, "authority")), untrusted);
        // The right root at the end of a wrong chain helps nobody.
        let bent = other.device("authority").joining_server(vec![root(&world)], ALPN).unwrap();
        assert_eq!(play(&token(&world), bent), untrusted);
        // Nor does leaving the root out.
        assert_eq!(play(&token(&world), raw_server(&world.issue("authority"))), untrusted);
    }

    #[test]
    fn a_root_that_was_written_anew_around_the_pinned_key_is_refused() {
        let world = World::new();
        let pinned = Pinned { root_spki_sha256: token(&world).root_spki_sha256, authority: None };
        let good = root(&world);
        assert!(pinned.root(&good).is_some());
        let mut bent = good.to_vec();
        let last = bent.len() - 1;
        bent[last] ^= 1;
        assert!(pinned.root(&CertificateDer::from(bent)).is_none());
        let mut longer = good.to_vec();
        longer.push(0);
        assert!(pinned.root(&CertificateDer::from(longer)).is_none());
        let leaf = CertificateDer::from(world.first_list());
        assert!(pinned.root(&leaf).is_none());
    }

    #[test]
    fn a_chain_is_held_to_its_dates_and_length() {
        let world = World::new();
        let issued = world.issue("authority");
        let mut chain = super::super::parse_certificates(issued.leaf_pem.as_bytes()).unwrap();
        chain.push(root(&world));
        let pinned =
            Pinned { root_spki_sha256: token(&world).root_spki_sha256, authority: Some(id("authority")) };
        assert!(pinned.judge(&chain, world.now).is_ok());
        let late = pinned.judge(&chain, world.now.plus(25 * HOUR)).unwrap_err();
        assert_eq!(late.reason(), Reason::CertificateExpired);
        assert_eq!(pinned.judge(&[], world.now).unwrap_err().reason(), Reason::CertificateMissing);
        chain.resize(INTERMEDIATES_MAX + 2, root(&world));
        let long = pinned.judge(&chain, world.now).unwrap_err();
        assert_eq!(long, PeerError::Trust(TrustError::TooLong));
    }
}
