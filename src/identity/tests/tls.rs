//! How two right devices talk: groups, exporters, versions, hygiene.

use rustls::{NamedGroup, ProtocolVersion};

use super::super::testing::{HOUR, Side, World, handshake, id};
use super::super::*;
use crate::model::{Reason, Sign};

/// A handshake between devices with these settings; the group, or whose error it was.
fn play(client: Pq, server: Pq) -> Result<NamedGroup, (Side, Reason)> {
    let world = World::new();
    let with = |name: &str, pq| {
        world.issue(name);
        Identity::load(&Settings { pq, ..world.settings(name) }, world.now).unwrap()
    };
    let (client, server) = (with("a", client), with("b", server));
    let done = handshake(client.client_config(&id("b"), &[b"h2"]), server.server_config(&[b"h2"]));
    let (client, server) = done.map_err(|(side, error)| (side, reason_of(&error)))?;
    let mut ends = [[0_u8; 32]; 2];
    client.export_keying_material(&mut ends[0], b"EXPORTER-Channel-Binding", Some(b"")).unwrap();
    server.export_keying_material(&mut ends[1], b"EXPORTER-Channel-Binding", Some(b"")).unwrap();
    assert_eq!(ends[0], ends[1]);
    assert_ne!(ends[0], [0; 32]);
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
    let group = client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), group);
    Ok(group)
}

#[test]
fn two_that_prefer_the_hybrid_group_use_it_and_export_the_same_keys() {
    assert_eq!(play(Pq::Prefer, Pq::Prefer), Ok(NamedGroup::X25519MLKEM768));
    assert_eq!(play(Pq::Require, Pq::Prefer), Ok(NamedGroup::X25519MLKEM768));
    assert_eq!(play(Pq::Prefer, Pq::Require), Ok(NamedGroup::X25519MLKEM768));
    assert_eq!(play(Pq::Require, Pq::Require), Ok(NamedGroup::X25519MLKEM768));
}

#[test]
fn one_that_prefers_falls_back_without_another_round_trip() {
    // `play` demands a full handshake; with a HelloRetryRequest it would be `FullWithHelloRetryRequest`.
    assert_eq!(play(Pq::Prefer, Pq::Off), Ok(NamedGroup::X25519));
    assert_eq!(play(Pq::Off, Pq::Prefer), Ok(NamedGroup::X25519));
}

#[test]
fn one_that_requires_refuses_one_that_does_not_offer() {
    assert_eq!(play(Pq::Off, Pq::Require), Err((Side::Server, Reason::KeyExchangeRefused)));
    assert_eq!(play(Pq::Require, Pq::Off), Err((Side::Server, Reason::KeyExchangeRefused)));
}

#[test]
fn a_dialler_has_a_certificate_to_show() {
    let world = World::new();
    let device = world.device("a");
    assert!(device.client_config(&id("b"), &[]).client_auth_cert_resolver.has_certs());
}

#[test]
fn a_peer_hears_the_alert_that_tls_has_for_its_mistake() {
    use rustls::CertificateError as C;
    use rustls::pki_types::UnixTime;
    let path = |error| C::from(PeerError::Trust(TrustError::Path(error)));
    let (time, not_after, not_before) =
        ([9, 5, 12].map(|s| UnixTime::since_unix_epoch(std::time::Duration::from_secs(s)))).into();
    assert_eq!(path(webpki::Error::CertRevoked), C::Revoked);
    assert_eq!(path(webpki::Error::UnknownIssuer), C::UnknownIssuer);
    assert_eq!(path(webpki::Error::CertExpired { time, not_after }), C::ExpiredContext { time, not_after });
    assert_eq!(
        path(webpki::Error::CertNotValidYet { time, not_before }),
        C::NotValidYetContext { time, not_before }
    );
    assert!(matches!(path(webpki::Error::BadDer), C::Other(_)), "what TLS has no word for travels whole");
}

#[test]
fn no_ticket_is_given_and_no_second_handshake_is_shorter() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let (client, server) = (a.client_config(&id("b"), &[]), b.server_config(&[]));
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
    assert!(!server.session_storage.can_cache() && !server.ticketer.enabled());
    assert!(!client.enable_early_data && !client.enable_sni);
    for _ in 0..2 {
        let (client, server) = handshake(client.clone(), server.clone()).unwrap();
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(server.server_name(), None);
    }
}

#[test]
fn both_ends_learn_who_the_other_is() {
    let world = World::new();
    let (a, b) = (world.device("a"), world.device("b"));
    let (client, server) = handshake(a.client_config(&id("b"), &[]), b.server_config(&[])).unwrap();
    let seen = peer(server.peer_certificates().unwrap(), world.now).unwrap();
    assert_eq!((seen.id(), seen.proven_at()), (&id("a"), world.now));
    assert_eq!(seen.svid().not_after, world.now_secs().plus(24 * HOUR));
    assert_eq!(seen.chain().len(), 2);
    let seen = peer(client.peer_certificates().unwrap(), world.now).unwrap();
    assert_eq!(seen.id(), &id("b"));
}

#[test]
fn the_leafs_key_signs_for_others() {
    let world = World::new();
    let signer = world.device("a").signer();
    let signature = signer.sign(b"message").unwrap();
    let (_, spki) =
        <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(
            signer.public_key_spki(),
        )
        .unwrap();
    let key = ring::signature::UnparsedPublicKey::new(
        &ring::signature::ECDSA_P256_SHA256_ASN1,
        spki.subject_public_key.data.as_ref(),
    );
    key.verify(b"message", &signature).unwrap();
    assert!(key.verify(b"messagf", &signature).is_err());
    assert!(!format!("{signer:?}").contains("key"));
}
