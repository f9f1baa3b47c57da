//! The one place where cryptography is chosen; passed by value, never the process default.

use std::sync::Arc;

use rustls::SignatureScheme;
#[cfg(feature = "aws-lc")]
use rustls::crypto::aws_lc_rs as backend;
#[cfg(not(feature = "aws-lc"))]
use rustls::crypto::ring as backend;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
#[cfg(feature = "aws-lc")]
use webpki::aws_lc_rs as signed_with;
#[cfg(not(feature = "aws-lc"))]
use webpki::ring as signed_with;

use backend::{cipher_suite, kx_group};

use super::Pq;
#[cfg(not(feature = "aws-lc"))]
use super::hybrid::X25519MLKEM768;
#[cfg(feature = "aws-lc")]
use backend::kx_group::X25519MLKEM768;

pub(crate) use backend::sign::{any_ecdsa_type, any_eddsa_type};

/// TLS 1.3 suites and groups of ring, or of AWS-LC with the feature `aws-lc`; with X25519MLKEM768 as `pq` says.
///
/// Certificates and handshakes may be signed with P-256, P-384 or Ed25519 keys, nothing else.
pub fn provider(pq: Pq) -> Arc<CryptoProvider> {
    let classical = [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    let kx_groups = match pq {
        Pq::Off => classical.to_vec(),
        Pq::Prefer => std::iter::once(X25519MLKEM768).chain(classical).collect(),
        Pq::Require => vec![X25519MLKEM768],
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups,
        signature_verification_algorithms: ALGORITHMS,
        ..backend::default_provider()
    })
}

/// What may have signed a certificate, a CRL or a handshake.
pub(crate) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        signed_with::ECDSA_P256_SHA256,
        signed_with::ECDSA_P256_SHA384,
        signed_with::ECDSA_P384_SHA256,
        signed_with::ECDSA_P384_SHA384,
        signed_with::ED25519,
    ],
    // TLS 1.3 ties each scheme to one curve (RFC 8446 §4.2.3).
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[signed_with::ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[signed_with::ECDSA_P384_SHA384]),
        (SignatureScheme::ED25519, &[signed_with::ED25519]),
    ],
};

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::*;

    fn groups(pq: Pq) -> Vec<NamedGroup> {
        provider(pq).kx_groups.iter().map(|g| g.name()).collect()
    }

    #[test]
    fn the_setting_chooses_the_groups() {
        use NamedGroup as G;
        assert_eq!(groups(Pq::Prefer), [G::X25519MLKEM768, G::X25519, G::secp256r1, G::secp384r1]);
        assert_eq!(groups(Pq::Require), [G::X25519MLKEM768]);
        assert_eq!(groups(Pq::Off), [G::X25519, G::secp256r1, G::secp384r1]);
    }

    #[test]
    fn only_three_suites_of_tls_1_3_are_offered() {
        let suites: Vec<_> = provider(Pq::Off).cipher_suites.iter().map(|s| s.suite()).collect();
        use rustls::CipherSuite as C;
        let expected =
            [C::TLS13_AES_128_GCM_SHA256, C::TLS13_AES_256_GCM_SHA384, C::TLS13_CHACHA20_POLY1305_SHA256];
        assert_eq!(suites, expected);
    }

    #[test]
    fn nothing_is_installed_for_the_whole_process() {
        provider(Pq::Prefer);
        assert!(CryptoProvider::get_default().is_none());
    }
}
