//! The hybrid key exchange against itself, against malformed shares and against another implementation.

use ml_kem::{B32, Decapsulate, KeyExport, MlKem768, Seed};

use libcrux_ml_kem::mlkem768::{decapsulate, encapsulate, generate_key_pair};
use rustls::crypto::ActiveKeyExchange;
use rustls::crypto::ring::kx_group::X25519;
use rustls::{Error, NamedGroup, PeerMisbehaved};

use super::super::hybrid::{CIPHERTEXT_LEN, ENCAPSULATION_KEY_LEN, POINT_LEN, X25519MLKEM768};

fn invalid(result: Result<impl Sized, Error>) -> bool {
    matches!(result, Err(Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare)))
}

#[test]
fn both_ends_agree_on_one_secret() {
    let client = X25519MLKEM768.start().unwrap();
    assert_eq!(client.pub_key().len(), ENCAPSULATION_KEY_LEN + POINT_LEN);
    let server = X25519MLKEM768.start_and_complete(client.pub_key()).unwrap();
    assert_eq!(server.pub_key.len(), CIPHERTEXT_LEN + POINT_LEN);
    let secret = client.complete(&server.pub_key).unwrap();
    assert_eq!(secret.secret_bytes(), server.secret.secret_bytes());
    assert_eq!(secret.secret_bytes().len(), 64);
}

#[test]
fn the_classical_half_completes_alone() {
    let client = X25519MLKEM768.start().unwrap();
    let (group, point) = client.hybrid_component().unwrap();
    assert_eq!(group, NamedGroup::X25519);
    let server = X25519.start_and_complete(point).unwrap();
    let secret = client.complete_hybrid_component(&server.pub_key).unwrap();
    assert_eq!(secret.secret_bytes(), server.secret.secret_bytes());
}

#[test]
fn a_client_share_of_another_length_is_refused() {
    let client = X25519MLKEM768.start().unwrap();
    let share = client.pub_key().to_vec();
    for len in [0, 1, 31, 32, ENCAPSULATION_KEY_LEN, share.len() - 1] {
        assert!(invalid(X25519MLKEM768.start_and_complete(&share[..len])), "{len}");
    }
    let long = [share.as_slice(), &[0]].concat();
    assert!(invalid(X25519MLKEM768.start_and_complete(&long)));
}

#[test]
fn a_server_share_of_another_length_is_refused() {
    let share =
        |client: &dyn ActiveKeyExchange| X25519MLKEM768.start_and_complete(client.pub_key()).unwrap().pub_key;
    for cut in [1, POINT_LEN, CIPHERTEXT_LEN, CIPHERTEXT_LEN + POINT_LEN] {
        let client = X25519MLKEM768.start().unwrap();
        let mut short = share(client.as_ref());
        short.truncate(short.len() - cut);
        assert!(invalid(client.complete(&short)), "{cut}");
    }
    let client = X25519MLKEM768.start().unwrap();
    let mut long = share(client.as_ref());
    long.push(0);
    assert!(invalid(client.complete(&long)));
}

#[test]
fn an_encapsulation_key_above_the_modulus_is_refused() {
    let client = X25519MLKEM768.start().unwrap();
    let mut share = client.pub_key().to_vec();
    share[..3].fill(0xff);
    assert!(invalid(X25519MLKEM768.start_and_complete(&share)));
}

#[test]
fn a_point_of_small_order_is_refused() {
    let client = X25519MLKEM768.start().unwrap();
    let mut share = client.pub_key().to_vec();
    share[ENCAPSULATION_KEY_LEN..].fill(0);
    assert!(invalid(X25519MLKEM768.start_and_complete(&share)));
    let server = X25519MLKEM768.start_and_complete(client.pub_key()).unwrap();
    let mut share = server.pub_key;
    share[CIPHERTEXT_LEN..].fill(0);
    assert!(invalid(client.complete(&share)));
}

#[test]
fn an_altered_ciphertext_gives_another_secret() {
    let client = X25519MLKEM768.start().unwrap();
    let mut server = X25519MLKEM768.start_and_complete(client.pub_key()).unwrap();
    server.pub_key[0] ^= 1;
    let secret = client.complete(&server.pub_key).unwrap();
    assert_ne!(secret.secret_bytes(), server.secret.secret_bytes());
}

#[test]
fn an_independent_implementation_gives_the_same_keys_ciphertexts_and_secrets() {
    for round in 0..8_u8 {
        let seed: [u8; 64] = std::array::from_fn(|i| round.wrapping_mul(31) ^ u8::try_from(i).unwrap());
        let coin: [u8; 32] = std::array::from_fn(|i| round.wrapping_add(u8::try_from(i * 7 % 256).unwrap()));
        let ours = generate_key_pair(seed);
        let theirs = ml_kem::DecapsulationKey::<MlKem768>::from_seed(Seed::from(seed));
        let public = theirs.encapsulation_key();
        assert_eq!(ours.pk().as_slice(), public.to_bytes().as_slice());

        let (ciphertext, secret) = encapsulate(ours.public_key(), coin);
        let (their_ciphertext, their_secret) = public.encapsulate_deterministic(&B32::from(coin));
        assert_eq!(ciphertext.as_slice().as_slice(), their_ciphertext.as_slice());
        assert_eq!(secret.as_slice(), their_secret.as_slice());
        assert_eq!(theirs.decapsulate(&their_ciphertext).as_slice(), secret.as_slice());
        assert_eq!(decapsulate(ours.private_key(), &ciphertext), secret);
    }
}
