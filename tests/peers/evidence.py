"""Reads and makes evidence as `docs/evidence.md` describes it, with nothing of ours (PyPI `cbor2`, `cryptography`).

Usage: evidence.py verify EVIDENCE SPKI PARTS
       evidence.py record RECORD ISSUER_PEM
       evidence.py make KEY_PEM PARTS CLAIMS OUT

PARTS is JSON with the parts of the binder: role, own_spki, peer_spki, exporter, and for a renewal nonce; bytes are hex.
CLAIMS is JSON in the shape that `verify` prints.
"""

import hashlib
import hmac
import json
import pathlib
import sys

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

LABEL = b"countersign/evidence/1"
PROFILE = "urn:x-countersign:evidence:1"
ES256 = ec.ECDSA(hashes.SHA256())
ALG, KID = 1, 4
# Our names of the claims that are bytes.
BYTES = {256: "ueid", -70004: "boot", -70006: "config", -70007: "policy", -70008: "new_leaf"}


def binder(parts):
    """SHA-256(label, role, own SPKI's digest, peer's SPKI's digest, X)."""
    x = bytes.fromhex(parts["exporter"])
    if "nonce" in parts:
        x = hmac.digest(x, bytes.fromhex(parts["nonce"]), "sha256")
    digests = [hashlib.sha256(bytes.fromhex(parts[end])).digest() for end in ("own_spki", "peer_spki")]
    return hashlib.sha256(LABEL + bytes([parts["role"]]) + b"".join(digests) + x).digest()


def raw(signature):
    """64 bytes of r and s as `cryptography` wants them."""
    assert len(signature) == 64
    return encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))


def signed(protected, payload):
    """What a COSE_Sign1 signs (RFC 9052 section 4.4)."""
    return cbor2.dumps(["Signature1", protected, LABEL, payload], canonical=True)


def verify(evidence, spki, parts):
    octets, spki = pathlib.Path(evidence).read_bytes(), pathlib.Path(spki).read_bytes()
    tag = cbor2.loads(octets)
    assert tag.tag == 18
    protected, unprotected, payload, signature = tag.value
    assert cbor2.loads(protected) == {ALG: -7, KID: hashlib.sha256(spki).digest()} and unprotected == {}
    serialization.load_der_public_key(spki).verify(raw(signature), signed(protected, payload), ES256)
    claims = cbor2.loads(payload)
    # Deterministic encoding (RFC 8949 section 4.2.1), inside and out.
    assert cbor2.dumps(claims, canonical=True) == payload
    assert cbor2.dumps(tag, canonical=True) == octets
    assert claims.pop(265) == PROFILE
    assert claims.pop(10) == binder(json.loads(parts))
    said = {"iat": claims.pop(6), "name": claims.pop(270), "counter": claims.pop(-70005)}
    (said["version"],) = claims.pop(271)
    said["components"] = {name: [v.hex() for v in values] for name, values in claims.pop(-70001).items()}
    said |= {name: claims.pop(key).hex() for key, name in BYTES.items() if key in claims}
    assert claims == {}, f"claims that the document does not name: {claims}"
    return said


def record(text, issuer):
    """The last line of a record is the signature over all before it."""
    octets = pathlib.Path(text).read_bytes()
    body, line = octets[: octets.rindex(b'signature = "')], octets.splitlines()[-1]
    signature = bytes.fromhex(line.split(b'"')[1].decode())
    certificate = x509.load_pem_x509_certificate(pathlib.Path(issuer).read_bytes())
    certificate.public_key().verify(raw(signature), body, ES256)
    return {"bytes": len(body)}


def make(key, parts, claims, out):
    key = serialization.load_pem_private_key(pathlib.Path(key).read_bytes(), None)
    der, info = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    spki, said = key.public_key().public_bytes(der, info), json.loads(claims)
    payload = {
        6: said["iat"],
        10: binder(json.loads(parts)),
        265: PROFILE,
        270: said["name"],
        271: [said["version"]],
        -70001: {name: [bytes.fromhex(v) for v in values] for name, values in said["components"].items()},
        -70005: said["counter"],
    } | {k: bytes.fromhex(said[name]) for k, name in BYTES.items() if name in said}
    payload = cbor2.dumps(payload, canonical=True)
    protected = cbor2.dumps({ALG: -7, KID: hashlib.sha256(spki).digest()}, canonical=True)
    r, s = decode_dss_signature(key.sign(signed(protected, payload), ES256))
    tag = cbor2.CBORTag(18, [protected, {}, payload, r.to_bytes(32) + s.to_bytes(32)])
    pathlib.Path(out).write_bytes(cbor2.dumps(tag, canonical=True))
    return {"spki": spki.hex(), "with": f"cbor2 {cbor2.__version__}" if hasattr(cbor2, "__version__") else "cbor2"}


if __name__ == "__main__":
    print(json.dumps({"verify": verify, "record": record, "make": make}[sys.argv[1]](*sys.argv[2:])))
