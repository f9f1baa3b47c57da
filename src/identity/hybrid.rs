//! The hybrid key exchange X25519MLKEM768 for rustls (draft-ietf-tls-ecdhe-mlkem §4).
//!
//! X25519 comes from ring through rustls, ML-KEM-768 (FIPS 203) from libcrux. Shares and secrets are
//! post-quantum first. The result is at least as strong as X25519 alone, whatever becomes of ML-KEM.

use libcrux_ml_kem::mlkem768::{
    self, MlKem768Ciphertext, MlKem768KeyPair, MlKem768PublicKey, decapsulate, encapsulate, generate_key_pair,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::ring::kx_group::X25519;
use rustls::crypto::{ActiveKeyExchange, CompletedKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, PeerMisbehaved, ProtocolVersion};

/// The group as rustls wants it.
pub(crate) static X25519MLKEM768: &dyn SupportedKxGroup = &Hybrid;

/// Length of the client's ML-KEM half: an encapsulation key (FIPS 203 §8, table 3).
pub(crate) const ENCAPSULATION_KEY_LEN: usize = 1184;
/// Length of the server's ML-KEM half: a ciphertext (FIPS 203 §8, table 3).
pub(crate) const CIPHERTEXT_LEN: usize = 1088;
/// Length of the X25519 half of either share (RFC 7748 §5).
pub(crate) const POINT_LEN: usize = 32;

#[derive(Debug)]
struct Hybrid;

impl SupportedKxGroup for Hybrid {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let classical = X25519.start()?;
        let pair = generate_key_pair(random()?);
        let share = [pair.pk().as_slice(), classical.pub_key()].concat();
        Ok(Box::new(ActiveHybrid { classical, pair: Box::new(pair), share }))
    }

    fn start_and_complete(&self, client_share: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let (key, point) = split::<ENCAPSULATION_KEY_LEN>(client_share)?;
        let key = MlKem768PublicKey::from(key);
        // FIPS 203 §7.2: the modulus check; without it two different keys would encapsulate alike.
        if !mlkem768::validate_public_key(&key) {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        let classical = X25519.start_and_complete(point)?;
        let (ciphertext, secret) = encapsulate(&key, random()?);
        Ok(CompletedKeyExchange {
            group: NamedGroup::X25519MLKEM768,
            pub_key: [ciphertext.as_slice(), classical.pub_key.as_slice()].concat(),
            secret: [secret.as_slice(), classical.secret.secret_bytes()].concat().into(),
        })
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_3
    }
}

/// A client's share is out, the server's is awaited.
struct ActiveHybrid {
    classical: Box<dyn ActiveKeyExchange>,
    // Boxed: 3.5 KiB that would otherwise be copied at every move.
    pair: Box<MlKem768KeyPair>,
    share: Vec<u8>,
}

impl ActiveKeyExchange for ActiveHybrid {
    fn complete(self: Box<Self>, server_share: &[u8]) -> Result<SharedSecret, Error> {
        let (ciphertext, point) = split::<CIPHERTEXT_LEN>(server_share)?;
        let classical = self.classical.complete(point)?;
        // An altered ciphertext gives another secret, not an error (FIPS 203 §6.3); Finished then fails.
        let secret = decapsulate(self.pair.private_key(), &MlKem768Ciphertext::from(ciphertext));
        Ok([secret.as_slice(), classical.secret_bytes()].concat().into())
    }

    // Lets rustls send X25519 beside it, so that a classical server needs no HelloRetryRequest.
    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        Some((self.classical.group(), self.classical.pub_key()))
    }

    fn complete_hybrid_component(self: Box<Self>, server_share: &[u8]) -> Result<SharedSecret, Error> {
        self.classical.complete(server_share)
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

/// Cuts a share into its ML-KEM half of `N` bytes and its X25519 half of exactly [`POINT_LEN`].
fn split<const N: usize>(share: &[u8]) -> Result<(&[u8; N], &[u8]), Error> {
    match share.split_first_chunk::<N>() {
        Some((post_quantum, point)) if point.len() == POINT_LEN => Ok((post_quantum, point)),
        _ => Err(PeerMisbehaved::InvalidKeyShare.into()),
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::FailedToGetRandomBytes)?;
    Ok(bytes)
}
