//! Signed checkpoints: C2SP signed-note and tlog-checkpoint, with Ed25519 by ring. Pure.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::chain::{HASH_LEN, Hash};

/// What the log has promised: so many entries, under this root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: Box<str>,
    /// How many entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed: origin, size and root, a line each (tlog-checkpoint, "Note text").
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root))
    }
}

impl FromStr for Checkpoint {
    type Err = NoteError;

    /// Reads the note text. Lines after the third are extensions and are passed over.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.strip_suffix('\n').ok_or(NoteError::Checkpoint)?.split('\n');
        let origin = lines.next().filter(|o| !o.is_empty()).ok_or(NoteError::Checkpoint)?;
        let size = lines.next().ok_or(NoteError::Checkpoint)?;
        let root = lines.next().ok_or(NoteError::Checkpoint)?;
        if lines.any(str::is_empty) {
            return Err(NoteError::Checkpoint);
        }
        let plain = size.bytes().all(|b| b.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
        let size = size.parse().ok().filter(|_| plain).ok_or(NoteError::Checkpoint)?;
        let root = BASE64.decode(root.as_bytes()).map_err(|_| NoteError::Checkpoint)?;
        let root = root.try_into().map_err(|_| NoteError::Checkpoint)?;
        Ok(Self { origin: origin.into(), size, root })
    }
}

/// Checks signatures: the public half of the log's key, under the log's name.
///
/// As text: `name+hash+base64` (signed-note, "Verifier keys").
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verifier {
    name: Box<str>,
    public: [u8; PUBLIC_LEN],
}

impl Verifier {
    fn new(name: &str, public: &[u8]) -> Result<Self, NoteError> {
        // signed-note: not empty, no Unicode space, no plus.
        let name_ok = !name.is_empty()
            && name.len() <= NAME_LEN_MAX
            && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+');
        if !name_ok {
            return Err(NoteError::Name);
        }
        Ok(Self { name: name.into(), public: public.try_into().map_err(|_| NoteError::Key)? })
    }

    /// The log's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's short id: the first four bytes of SHA-256 over name, newline, 0x01 and key (signed-note).
    fn id(&self) -> [u8; ID_LEN] {
        let hash = Sha256::new()
            .chain_update(self.name.as_bytes())
            .chain_update([b'\n', ED25519_TYPE])
            .chain_update(self.public)
            .finalize();
        let mut id = [0; ID_LEN];
        id.iter_mut().zip(hash.iter()).for_each(|(to, from)| *to = *from);
        id
    }

    /// Reads a signed checkpoint of this very log. Fuzzed as `audit_checkpoint`.
    ///
    /// # Errors
    /// [`NoteError`] when it is no note, has no signature of this key, a wrong one, or is of another log.
    pub fn open(&self, note: &[u8]) -> Result<Checkpoint, NoteError> {
        let note = parse_note(note)?;
        let mut signed = false;
        for (name, id, signature) in &note.signatures {
            if *name != &*self.name || *id != self.id() {
                continue;
            }
            let key = UnparsedPublicKey::new(&ED25519, &self.public);
            key.verify(note.text.as_bytes(), signature).map_err(|_| NoteError::Signature)?;
            signed = true;
        }
        if !signed {
            return Err(NoteError::Unsigned);
        }
        let checkpoint: Checkpoint = note.text.parse()?;
        if checkpoint.origin != self.name { Err(NoteError::Origin) } else { Ok(checkpoint) }
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key: Vec<u8> = std::iter::once(ED25519_TYPE).chain(self.public).collect();
        write!(f, "{}+{}+{}", self.name, HEXLOWER.encode(&self.id()), BASE64.encode(&key))
    }
}

impl FromStr for Verifier {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key);
        };
        let key = BASE64.decode(key.as_bytes()).map_err(|_| NoteError::Key)?;
        let (kind, public) = key.split_first().ok_or(NoteError::Key)?;
        let verifier = Self::new(name, public)?;
        if *kind == ED25519_TYPE && id == HEXLOWER.encode(&verifier.id()) {
            Ok(verifier)
        } else {
            Err(NoteError::Key)
        }
    }
}

/// Signs checkpoints.
pub(super) struct Signer {
    pair: Ed25519KeyPair,
    verifier: Verifier,
}

impl Signer {
    /// A signer for the log `origin`.
    pub(super) fn new(pair: Ed25519KeyPair, origin: &str) -> Result<Self, NoteError> {
        let verifier = Verifier::new(origin, pair.public_key().as_ref())?;
        Ok(Self { pair, verifier })
    }

    /// The public half.
    pub(super) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The signed note over `size` entries under `root`.
    pub(super) fn sign(&self, size: u64, root: Hash) -> String {
        let text = Checkpoint { origin: self.verifier.name.clone(), size, root }.text();
        let mut signature = self.verifier.id().to_vec();
        signature.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n{SIGNATURE_MARK}{} {}\n", self.verifier.name, BASE64.encode(&signature))
    }
}

struct Note<'a> {
    text: &'a str,
    signatures: Vec<(&'a str, [u8; ID_LEN], Vec<u8>)>,
}

/// Splits a note into its text and its signatures (signed-note, "Format").
fn parse_note(bytes: &[u8]) -> Result<Note<'_>, NoteError> {
    if bytes.len() > NOTE_LEN_MAX {
        return Err(NoteError::Length { len: bytes.len() });
    }
    let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::Format)?;
    if whole.bytes().any(|b| b < 0x20 && b != b'\n') {
        return Err(NoteError::Format);
    }
    let split = whole.rfind("\n\n").ok_or(NoteError::Format)?;
    let text = whole.get(..=split).ok_or(NoteError::Format)?;
    let rest = whole.get(split + 2..).and_then(|r| r.strip_suffix('\n')).ok_or(NoteError::Format)?;
    let signatures = rest.split('\n').map(|line| {
        let (name, body) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
        let body = BASE64.decode(body.as_bytes()).ok()?;
        let (id, signature) = body.split_first_chunk::<ID_LEN>()?;
        (!signature.is_empty()).then(|| (name, *id, signature.to_vec()))
    });
    let signatures: Option<Vec<_>> = signatures.collect();
    Ok(Note { text, signatures: signatures.ok_or(NoteError::Format)? })
}

/// Why bytes are no checkpoint of this log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The note text is no checkpoint.
    #[error("the note is no checkpoint: expected origin, size and root, a line each")]
    Checkpoint,
    /// No note.
    #[error("not a signed note: expected text, an empty line and signature lines")]
    Format,
    /// No verifier key.
    #[error("not a verifier key: expected `name+hash+base64` of an Ed25519 key")]
    Key,
    /// Longer than a note may be.
    #[error("the note is {len} bytes, expected at most {NOTE_LEN_MAX}")]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// No name for a log.
    #[error("a log's name is 1..={NAME_LEN_MAX} bytes without spaces and `+`")]
    Name,
    /// The name in the checkpoint is not that of the key.
    #[error("the checkpoint is of another log than the key")]
    Origin,
    /// Signed by the right key, but the text was changed.
    #[error("the signature does not fit the checkpoint")]
    Signature,
    /// No signature of the expected key.
    #[error("the checkpoint carries no signature of this log's key")]
    Unsigned,
}

/// Longest signed note in bytes.
pub const NOTE_LEN_MAX: usize = 16 * 1024;
/// Longest name of a log in bytes.
pub const NAME_LEN_MAX: usize = 2048;
const ED25519_TYPE: u8 = 0x01;
const ID_LEN: usize = 4;
const PUBLIC_LEN: usize = HASH_LEN;
const SIGNATURE_MARK: &str = "— ";

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        Signer::new(pair, "example.org/device/web-1").unwrap()
    }

    #[test]
    fn a_checkpoint_reads_back_under_its_key() {
        let signer = signer();
        let note = signer.sign(42, [5; 32]);
        let checkpoint = signer.verifier().open(note.as_bytes()).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (42, [5; 32]));
        assert_eq!(signer.verifier().to_string().parse(), Ok(signer.verifier().clone()));
    }

    #[test]
    fn another_implementation_accepts_note_key_and_checkpoint() {
        use signed_note::{Note, StandardVerifier, VerifierList};
        let signer = signer();
        let text = signer.sign(42, [5; 32]);
        let verifier = StandardVerifier::new(&signer.verifier().to_string()).unwrap();
        let note = Note::from_bytes(text.as_bytes()).unwrap();
        let (known, unknown) = note.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
        assert_eq!((known.len(), unknown.len()), (1, 0));
        let checkpoint = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
        assert_eq!((checkpoint.size(), checkpoint.hash().0), (42, [5; 32]));
        assert_eq!(checkpoint.origin(), "example.org/device/web-1");
    }

    #[test]
    fn every_changed_byte_of_a_checkpoint_is_noticed() {
        let signer = signer();
        let note = signer.sign(42, [5; 32]).into_bytes();
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut bent = note.clone();
                bent[at] ^= 1 << bit;
                assert!(signer.verifier().open(&bent).is_err(), "byte {at} bit {bit}");
            }
            assert!(signer.verifier().open(&note[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_signature_of_another_key_is_refused_and_a_stranger_beside_ours_is_ignored() {
        let (ours, note) = (signer(), signer().sign(1, [1; 32]));
        let theirs = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
        let theirs = Signer::new(theirs, "example.org/device/web-1").unwrap();
        let forged = theirs.sign(1, [1; 32]);
        assert_eq!(ours.verifier().open(forged.as_bytes()), Err(NoteError::Unsigned));
        let witness = forged.lines().last().unwrap();
        assert!(ours.verifier().open(format!("{note}{witness}\n").as_bytes()).is_ok());
    }

    #[test]
    fn a_checkpoint_of_another_log_is_refused() {
        // Signed by our key under our key's name, but about another log.
        let ours = signer();
        let text = Checkpoint { origin: "elsewhere".into(), size: 1, root: [0; 32] }.text();
        let mut body = ours.verifier.id().to_vec();
        body.extend_from_slice(ours.pair.sign(text.as_bytes()).as_ref());
        let note = format!("{text}\n— {} {}\n", ours.verifier.name, BASE64.encode(&body));
        assert_eq!(ours.verifier().open(note.as_bytes()), Err(NoteError::Origin));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        for text in ["", "a\n", "a\n1\n", "\n1\nAAAA\n", "a\n01\n", "a\n+1\n", "a\n-1\n", "a\n1\nAAAA\n"] {
            assert!(text.parse::<Checkpoint>().is_err(), "{text:?}");
        }
        let root = BASE64.encode(&[0; 32]);
        for size in ["01", "+1", "-1", "", "1 ", "18446744073709551616"] {
            assert!(format!("a\n{size}\n{root}\n").parse::<Checkpoint>().is_err(), "{size:?}");
        }
        assert!(format!("a\n1\n{root}\nextension\n").parse::<Checkpoint>().is_ok());
        assert!(format!("a\n1\n{root}\n\n").parse::<Checkpoint>().is_err());
    }

    #[test]
    fn a_note_longer_than_its_bound_is_refused() {
        let long = vec![b'a'; NOTE_LEN_MAX + 1];
        assert_eq!(signer().verifier().open(&long), Err(NoteError::Length { len: NOTE_LEN_MAX + 1 }));
    }

    #[test]
    fn what_is_no_verifier_key_or_name_is_refused() {
        let good = signer().verifier().to_string();
        for text in ["", "a", "a+b", "a+b+c", &good.replace("web-1", "web-2"), &format!("{good}AAAA")] {
            assert!(text.parse::<Verifier>().is_err(), "{text}");
        }
        for name in ["", "a b", "a+b", "a\nb", &"a".repeat(NAME_LEN_MAX + 1)] {
            assert_eq!(Verifier::new(name, &[0; 32]), Err(NoteError::Name));
        }
    }
}
