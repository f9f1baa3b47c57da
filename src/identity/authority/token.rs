//! The one-time token of joining: its text, and what is derived from its secret.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ring::hmac;
use sha2::{Digest, Sha256};

use super::{AuthorityError, random};
use crate::model::{Authority, DeviceName, SpiffeId};

/// What an administrator hands to a new device: a secret, and whom to show it to.
///
/// As text: [`Token::PREFIX`] and base64url of version, secret, root pin, authority, name, addresses and a check sum.
#[derive(Clone, Eq, PartialEq)]
pub struct Token {
    secret: [u8; 32],
    /// SHA-256 of the root's DER SubjectPublicKeyInfo: the chain of the authority must end there.
    pub root_spki_sha256: [u8; 32],
    /// Who must answer: another device of the same CA cannot stand in.
    pub authority: SpiffeId,
    /// The name the device gets.
    pub name: DeviceName,
    /// Where the authority's peers' door is: 1..=[`Token::ADDRESSES_MAX`], in order of preference.
    pub addresses: Vec<Authority>,
}

impl Token {
    /// How the text begins; secret scanners can look for it.
    pub const PREFIX: &str = "csjoin1_";
    /// Most addresses.
    pub const ADDRESSES_MAX: usize = 8;
    /// Longest text in bytes.
    pub const TEXT_LEN_MAX: usize = 8 * 1024;

    /// A token with a fresh secret.
    pub(super) fn make(
        root_spki_sha256: [u8; 32],
        authority: SpiffeId,
        name: DeviceName,
        addresses: Vec<Authority>,
    ) -> Result<Self, AuthorityError> {
        Ok(Self { secret: random()?, root_spki_sha256, authority, name, addresses })
    }

    /// Names the token without telling its secret.
    pub fn id(&self) -> TokenId {
        let digest: [u8; 32] = Sha256::new_with_prefix(ID_LABEL).chain_update(self.secret).finalize().into();
        let mut id = [0; 16];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        TokenId(id)
    }

    /// The key that both ends derive; the authority keeps it instead of the secret.
    pub fn key(&self) -> JoinKey {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.secret), KEY_LABEL);
        let mut key = [0; 32];
        key.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        JoinKey(key)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.secret);
        bytes.extend(self.root_spki_sha256);
        push_text(&mut bytes, self.authority.as_str());
        push_text(&mut bytes, self.name.as_str());
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in &self.addresses {
            push_text(&mut bytes, &address.to_string());
        }
        bytes.extend(check_sum(&bytes));
        bytes
    }
}

// The secret never shows in a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id())
            .field("authority", &self.authority)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, BASE64URL_NOPAD.encode(&self.bytes()))
    }
}

/// Reads a token; white space around it is ignored. Fuzzed as `token`.
impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > Self::TEXT_LEN_MAX {
            return Err(TokenError::Length { len: text.len() });
        }
        let body = text.strip_prefix(Self::PREFIX).ok_or(TokenError::Prefix)?;
        let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| TokenError::Broken)?;
        let (bytes, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Broken)?;
        if check_sum(bytes) != *sum {
            return Err(TokenError::Broken);
        }
        let mut rest = bytes;
        if take::<1>(&mut rest)? != [VERSION] {
            return Err(TokenError::Version);
        }
        let (secret, root_spki_sha256) = (take(&mut rest)?, take(&mut rest)?);
        let authority = take_text(&mut rest)?.parse().map_err(|_| TokenError::Broken)?;
        let name = take_text(&mut rest)?.parse().map_err(|_| TokenError::Broken)?;
        let [count] = take(&mut rest)?;
        let count = usize::from(count);
        if count == 0 || count > Self::ADDRESSES_MAX {
            return Err(TokenError::Broken);
        }
        let mut addresses = Vec::new();
        for _ in 0..count {
            addresses.push(take_text(&mut rest)?.parse().map_err(|_| TokenError::Broken)?);
        }
        if !rest.is_empty() {
            return Err(TokenError::Broken);
        }
        Ok(Self { secret, root_spki_sha256, authority, name, addresses })
    }
}

/// Names a token: 16 bytes of SHA-256 over its secret, shown as hex.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TokenId(pub [u8; 16]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// Derived from a token's secret: whoever has it can prove to hold the token, and no more.
#[derive(Clone, Eq, PartialEq)]
pub struct JoinKey(pub(super) [u8; 32]);

impl JoinKey {
    /// Proves the token on one connection for one certificate request: HMAC-SHA256 (RFC 2104) over exporter and CSR.
    pub fn prove(&self, exporter: &[u8; 32], csr: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&self.hmac(), &proved(exporter, csr));
        let mut proof = [0; 32];
        proof.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        proof
    }

    /// Whether `proof` is that of [`JoinKey::prove`]; in constant time.
    pub fn proves(&self, exporter: &[u8; 32], csr: &[u8], proof: &[u8; 32]) -> bool {
        hmac::verify(&self.hmac(), &proved(exporter, csr), proof).is_ok()
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for JoinKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinKey")
    }
}

fn proved(exporter: &[u8; 32], csr: &[u8]) -> Vec<u8> {
    [PROOF_LABEL, exporter.as_slice(), Sha256::digest(csr).as_slice()].concat()
}

fn check_sum(bytes: &[u8]) -> [u8; 4] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(text.as_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TokenError> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(TokenError::Broken)?;
    *rest = after;
    Ok(*taken)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, TokenError> {
    let len = usize::from(u16::from_be_bytes(take(rest)?));
    let (text, after) = rest.split_at_checked(len).ok_or(TokenError::Broken)?;
    *rest = after;
    std::str::from_utf8(text).map_err(|_| TokenError::Broken)
}

/// Why a text is no token. No variant repeats the text: it may be a secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Cut short, mistyped or otherwise damaged.
    #[error("the token is damaged: copy the whole line that `countersign device invite` printed")]
    Broken,
    /// Longer than [`Token::TEXT_LEN_MAX`].
    #[error("the token is {len} bytes, expected at most {}", Token::TEXT_LEN_MAX)]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// Something else.
    #[error("a token begins with `{}`", Token::PREFIX)]
    Prefix,
    /// Of a later program.
    #[error("the token is of a version that this program does not know")]
    Version,
}

const VERSION: u8 = 1;
const ID_LABEL: &[u8] = b"countersign/join-token-id/1";
const KEY_LABEL: &[u8] = b"countersign/join-key/1";
const PROOF_LABEL: &[u8] = b"countersign/join-proof/1";

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            secret: [7; 32],
            root_spki_sha256: [8; 32],
            authority: "spiffe://example.org/device/authority".parse().unwrap(),
            name: "web-1".parse().unwrap(),
            addresses: vec!["192.0.2.1:15443".parse().unwrap(), "ca.example.org:15443".parse().unwrap()],
        }
    }

    /// The text of a token whose bytes `change` bent, with a right check sum again.
    fn bent(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = token().bytes();
        bytes.truncate(bytes.len() - 4);
        change(&mut bytes);
        bytes.extend(check_sum(&bytes));
        format!("{}{}", Token::PREFIX, BASE64URL_NOPAD.encode(&bytes))
    }

    #[test]
    fn a_token_reads_back_and_hides_its_secret() {
        let text = token().to_string();
        assert_eq!(format!("\n {text} \r\n").parse(), Ok(token()));
        assert!(!format!("{:?}", token()).contains("7, 7"));
        assert!(!format!("{:?}", token().key()).contains(char::is_numeric));
    }

    #[test]
    fn every_changed_or_missing_character_is_noticed() {
        let text = token().to_string();
        for at in 0..text.len() {
            assert!(text.get(..at).unwrap().parse::<Token>().is_err(), "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(String::from_utf8(bytes).unwrap().parse::<Token>().is_err(), "changed at {at}");
        }
        assert!(format!("{text}AAAA").parse::<Token>().is_err());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert_eq!("".parse::<Token>(), Err(TokenError::Prefix));
        let long = "a".repeat(Token::TEXT_LEN_MAX + 1);
        assert_eq!(long.parse::<Token>(), Err(TokenError::Length { len: long.len() }));
        assert_eq!(bent(|b| b[0] = 2).parse::<Token>(), Err(TokenError::Version));
        assert_eq!(bent(|b| b.push(0)).parse::<Token>(), Err(TokenError::Broken));
        assert_eq!(bent(|b| b[67] = b'S').parse::<Token>(), Err(TokenError::Broken));
        assert!(bent(|_| ()).parse::<Token>().is_ok());
        for count in [0, Token::ADDRESSES_MAX + 1] {
            let address: Authority = "192.0.2.1:1".parse().unwrap();
            let token = Token { addresses: vec![address; count], ..token() };
            assert_eq!(token.to_string().parse::<Token>(), Err(TokenError::Broken), "{count}");
        }
    }

    #[test]
    fn a_proof_holds_for_its_connection_its_request_and_its_token_only() {
        let key = token().key();
        let proof = key.prove(&[1; 32], b"csr");
        assert!(key.proves(&[1; 32], b"csr", &proof));
        assert!(!key.proves(&[2; 32], b"csr", &proof));
        assert!(!key.proves(&[1; 32], b"other", &proof));
        let other = Token { secret: [9; 32], ..token() };
        assert!(!other.key().proves(&[1; 32], b"csr", &proof));
        assert_ne!(other.id(), token().id());
        assert_ne!(key.0, [7; 32], "the secret itself is not kept");
    }
}
