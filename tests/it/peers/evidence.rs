//! Evidence, records, certificates and revocation lists as others read them: Python's `cbor2` and `cryptography`, OpenSSL.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use countersign::device::{Binder, Claims, Record, Role, SignedRecord, binder, make, open, verify_p256};
use countersign::identity::authority;
use countersign::model::{Sign, Timestamp};
use data_encoding::HEXLOWER;
use ring::hmac;
use serde_json::{Value, json};

use super::python;
use crate::support::{Key, Yard, claims, enrol, machine};

/// One connection, without the connection: two keys, a role, and what the exporter would have given.
struct Wire {
    yard: Yard,
    own: Key,
    peer: Key,
    claims: Claims,
    record: PathBuf,
}

impl Wire {
    fn new() -> Self {
        let yard = Yard::new();
        let own = Key::read(&yard.issue("web-1").key);
        let peer = Key::read(&yard.issue("server-1").key);
        let machine = machine(&yard, 1);
        enrol(&yard, "web-1", &machine, 1);
        let certs = yard.path().join("web-1/certs");
        Self { own, peer, claims: claims(&machine, &certs), record: certs.join("device.record"), yard }
    }

    /// As the document has it: the exporter itself, or under a nonce.
    fn binder(&self, role: Role, nonce: Option<[u8; 32]>) -> Binder {
        let exporter = match nonce {
            None => EXPORTER,
            Some(nonce) => {
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &EXPORTER), &nonce);
                tag.as_ref().try_into().unwrap()
            }
        };
        binder(role, &self.own.spki_sha256(), &self.peer.spki_sha256(), &exporter)
    }

    /// The same for Python, which does the hashing by itself.
    fn parts(&self, role: Role, nonce: Option<[u8; 32]>) -> String {
        let mut parts = json!({
            "role": match role { Role::Client => 1, Role::Server => 2 },
            "own_spki": HEXLOWER.encode(self.own.public_key_spki()),
            "peer_spki": HEXLOWER.encode(self.peer.public_key_spki()),
            "exporter": HEXLOWER.encode(&EXPORTER),
        });
        if let Some(nonce) = nonce {
            parts["nonce"] = HEXLOWER.encode(&nonce).into();
        }
        parts.to_string()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.yard.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

const EXPORTER: [u8; 32] = [0x5a; 32];
/// The ways in which evidence is made.
const WAYS: [(Role, Option<[u8; 32]>); 4] = [
    (Role::Client, None),
    (Role::Client, Some([7; 32])),
    (Role::Server, Some([8; 32])),
    (Role::Server, Some([9; 32])),
];

/// Claims as Python prints and takes them.
fn told(claims: &Claims) -> Value {
    let components: BTreeMap<_, Vec<_>> = claims
        .components
        .iter()
        .map(|(c, values)| (c.name(), values.iter().map(|v| HEXLOWER.encode(v)).collect()))
        .collect();
    let mut said = json!({
        "iat": claims.issued_at.as_secs(), "name": claims.program, "version": claims.version,
        "counter": claims.counter, "components": components, "ueid": HEXLOWER.encode(&claims.ueid),
        "boot": HEXLOWER.encode(&claims.boot), "config": HEXLOWER.encode(&claims.config_digest),
        "policy": HEXLOWER.encode(&claims.policy_digest),
    });
    if let Some(digest) = claims.new_leaf_sha256 {
        said["new_leaf"] = HEXLOWER.encode(&digest).into();
    }
    said
}

#[test]
#[ignore = "needs python with cbor2 and cryptography: run `just test-peers`"]
fn python_verifies_our_evidence_from_the_document_alone() {
    let mut wire = Wire::new();
    let spki = wire.file("spki.der", wire.own.public_key_spki());
    for (n, (role, nonce)) in WAYS.into_iter().enumerate() {
        wire.claims.new_leaf_sha256 = (n % 2 == 1).then_some([3; 32]);
        let evidence = make(&wire.claims, &wire.binder(role, nonce), &wire.own).unwrap();
        let file = wire.file("evidence.cbor", &evidence);
        let read = python("evidence.py", &["verify", &file, &spki, &wire.parts(role, nonce)]);
        assert_eq!(read, told(&wire.claims), "{role:?}");
    }
    let record = wire.record.display().to_string();
    let issuing = wire.yard.path().join("ca/issuing.pem").display().to_string();
    python("evidence.py", &["record", &record, &issuing]);
}

#[test]
#[ignore = "needs python with cbor2 and cryptography: run `just test-peers`"]
fn we_take_pythons_evidence_and_no_bit_of_it_may_be_another() {
    let mut wire = Wire::new();
    let key = wire.yard.credentials("web-1").key.display().to_string();
    let out = wire.yard.path().join("theirs.cbor");
    let mut flipped = 0;
    for (n, (role, nonce)) in WAYS.into_iter().enumerate() {
        wire.claims.new_leaf_sha256 = (n % 2 == 1).then_some([3; 32]);
        let (parts, said) = (wire.parts(role, nonce), told(&wire.claims).to_string());
        python("evidence.py", &["make", &key, &parts, &said, &out.display().to_string()]);
        let (theirs, expected) = (fs::read(&out).unwrap(), wire.binder(role, nonce));
        let spki = wire.own.public_key_spki();
        assert_eq!(open(&theirs, &expected, spki).as_ref(), Ok(&wire.claims), "{role:?}");
        // But for the signature, which is random, it is what we make.
        let ours = make(&wire.claims, &expected, &wire.own).unwrap();
        assert_eq!(theirs.len(), ours.len());
        assert!(theirs[..theirs.len() - 64] == ours[..ours.len() - 64], "another encoding than ours");
        for bytes in [&theirs, &ours] {
            flipped += every_bit(bytes, |bent| open(bent, &expected, spki).is_ok());
        }
    }
    println!("evidence: {flipped} single bits flipped, none taken");
}

#[test]
#[ignore = "needs python with cbor2 and cryptography: run `just test-peers`"]
fn no_bit_of_a_signed_record_may_be_another() {
    let wire = Wire::new();
    let issuing = Key::read(&wire.yard.path().join("ca/issuing.key"));
    let text = fs::read_to_string(&wire.record).unwrap();
    let read = |bytes: &[u8]| -> Option<Record> {
        let verify = |m: &[u8], s: &[u8]| verify_p256(issuing.public_key_spki(), m, s);
        SignedRecord::open(std::str::from_utf8(bytes).ok()?, &verify).ok()
    };
    assert!(read(text.as_bytes()).is_some());
    let flipped = every_bit(text.as_bytes(), |bent| read(bent).is_some());
    println!("record: {flipped} single bits flipped, none taken");
}

/// Flips each bit of `bytes` in turn; none may be taken. Gives how many there were.
fn every_bit(bytes: &[u8], taken: impl Fn(&[u8]) -> bool) -> usize {
    let mut bent = bytes.to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bent[at] ^= 1 << bit;
            assert!(!taken(&bent), "bit {bit} of byte {at} of {}", bytes.len());
            bent[at] ^= 1 << bit;
        }
    }
    bytes.len() * 8
}

/// Runs `openssl`; every word is an argument. Gives what it printed to both.
fn openssl(args: &str) -> (bool, String) {
    let done: Output = Command::new("openssl").args(args.split(' ')).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// `openssl verify` of a device's leaf, as a client and as a server, with the revocation lists of both CAs.
fn verified(dir: &Path, crl: &Path) -> Result<(), String> {
    for purpose in ["sslclient", "sslserver"] {
        let (leaf, bundle) = (dir.join("certs/leaf.pem"), dir.join("certs/bundle.pem"));
        let (ok, said) = openssl(&format!(
            "verify -x509_strict -purpose {purpose} -crl_check_all -CAfile {} -untrusted {leaf} -CRLfile {} {leaf}",
            bundle.display(),
            crl.display(),
            leaf = leaf.display()
        ));
        if !ok {
            return Err(said);
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs openssl: run `just test-peers`"]
fn openssl_takes_our_certificates_and_lists_and_no_revoked_one() {
    let yard = Yard::new();
    let (ca, web) = (yard.path().join("ca"), yard.path().join("web-1"));
    for device in ["web-1", "web-2"] {
        yard.issue(device);
    }
    let crl = ca.join("crl.pem");
    verified(&web, &crl).unwrap();
    let (ok, text) = openssl(&format!("x509 -noout -text -in {}", web.join("certs/leaf.pem").display()));
    assert!(ok, "{text}");
    for said in [
        "Version: 3",
        "Signature Algorithm: ecdsa-with-SHA256",
        "NIST CURVE: P-256",
        "URI:spiffe://example.org/device/web-1",
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Server Authentication, TLS Web Client Authentication",
    ] {
        assert!(text.contains(said), "no `{said}` in {text}");
    }
    assert_eq!(text.matches("URI:").count(), 1, "{text}");

    lists_verify(&yard, &crl, 0);
    authority::revoke(&ca, "web-1", Timestamp::now()).unwrap();
    lists_verify(&yard, &crl, 1);
    let why = verified(&web, &crl).unwrap_err();
    assert!(why.contains("certificate revoked"), "{why}");
    verified(&yard.path().join("web-2"), &crl).unwrap();

    // One of another CA is nobody's.
    let other = Yard::new();
    other.issue("web-1");
    let bundle = yard.credentials("web-2").bundle;
    let leaf = other.credentials("web-1").leaf;
    let leaf = leaf.display();
    let (ok, said) = openssl(&format!("verify -CAfile {} -untrusted {leaf} {leaf}", bundle.display()));
    assert!(!ok, "{said}");
}

/// `openssl crl -verify` of each list, by the CA whose it is; so many certificates are on the issuing CA's.
fn lists_verify(yard: &Yard, crl: &Path, revoked: usize) {
    const END: &str = "-----END X509 CRL-----\n";
    let text = fs::read_to_string(crl).unwrap();
    let lists: Vec<_> = text.split_inclusive(END).filter(|l| l.contains("BEGIN")).collect();
    assert_eq!(lists.len(), 2, "one of each CA");
    for (ca, list) in ["issuing", "root"].into_iter().zip(lists) {
        let (file, ca_file) = (yard.path().join("list.pem"), yard.path().join(format!("ca/{ca}.pem")));
        fs::write(&file, list).unwrap();
        let verify = |by: &Path| {
            openssl(&format!("crl -verify -noout -text -in {} -CAfile {}", file.display(), by.display()))
        };
        let (_, said) = verify(&ca_file);
        assert!(said.contains("verify OK"), "{ca}: {said}");
        let expected = if ca == "issuing" { revoked } else { 0 };
        assert_eq!(said.matches("Serial Number:").count(), expected, "{ca}: {said}");
        let other = yard.path().join(if ca == "issuing" { "ca/root.pem" } else { "ca/issuing.pem" });
        let (_, said) = verify(&other);
        assert!(!said.contains("verify OK"), "{ca} verified by the other CA: {said}");
    }
}
