//! Ties evidence to one connection, its two keys and one direction.
//!
//! The TLS 1.3 exporter secret does not cover the client's certificate (RFC 8446 §7.5): without both keys evidence
//! could be relayed by whoever stands between, without the role it could be reflected.

use std::fmt;

use ring::digest::{Context, SHA256};

/// Label of the TLS exporter (RFC 8446 §7.5). First evidence: empty context; renewal: the verifier's nonce.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-countersign-device-evidence";

/// Which end of the handshake the prover was.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// It connected.
    Client,
    /// It was connected to.
    Server,
}

/// What evidence for one connection must name as its nonce.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Binder(pub(super) [u8; 32]);

impl Binder {
    /// As bytes, to sign with another key what the evidence signs.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Binder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Binder(..)")
    }
}

/// SHA-256 over label, role of the prover, digest of its leaf's SPKI, digest of the verifier's, and 32 exported bytes.
pub fn binder(
    prover: Role,
    prover_spki_sha256: &[u8; 32],
    verifier_spki_sha256: &[u8; 32],
    exporter: &[u8; 32],
) -> Binder {
    let role = match prover {
        Role::Client => [1],
        Role::Server => [2],
    };
    let mut context = Context::new(&SHA256);
    let parts: [&[u8]; 5] = [EVIDENCE_LABEL, &role, prover_spki_sha256, verifier_spki_sha256, exporter];
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Binder(out)
}

/// What everything of this format begins with that is hashed or signed.
pub(super) const EVIDENCE_LABEL: &[u8] = b"countersign/evidence/1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_makes_another_binder() {
        let one = binder(Role::Client, &[1; 32], &[2; 32], &[3; 32]);
        assert_eq!(one, binder(Role::Client, &[1; 32], &[2; 32], &[3; 32]));
        for other in [
            binder(Role::Server, &[1; 32], &[2; 32], &[3; 32]),
            binder(Role::Client, &[9; 32], &[2; 32], &[3; 32]),
            binder(Role::Client, &[1; 32], &[9; 32], &[3; 32]),
            binder(Role::Client, &[1; 32], &[2; 32], &[9; 32]),
            binder(Role::Client, &[2; 32], &[1; 32], &[3; 32]),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(format!("{one:?}"), "Binder(..)");
    }
}
