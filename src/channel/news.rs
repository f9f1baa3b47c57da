//! What a device and its authority tell each other on their session: CBOR maps (RFC 8949) with integer keys, bounded,
//! duplicate and unknown keys refused.
//!
//! ```text
//! device                                   authority
//! news   digests of what it has       ──▶  waits until something differs, at most NEWS_WAIT_MAX
//!                                     ◀──  digests and lengths of what there is, the device's own record, the clock
//! part   which, digest, offset        ──▶
//!                                     ◀──  that part
//! renew  a certificate request        ──▶  issues
//!                                     ◀──  chain, roots, record
//! ```

use std::time::Duration;

use ciborium::Value;

use super::join::{Fields, MESSAGE_LEN_MAX, MessageError, bytes, map};
use crate::device::{RECORD_LEN_MAX, Status};
use crate::identity::CRL_FILE_MAX;
use crate::identity::authority::CSR_LEN_MAX;
use crate::model::{SpiffeId, Timestamp};

/// SHA-256 of a file as it stands there; zeros for none.
pub type FileDigest = [u8; 32];

/// What a device has, and how long it will wait for anything else.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NewsAsk {
    /// Digests of what it has, or was offered last.
    pub has: Digests,
    /// Version of its own record; 0 for none.
    pub record_version: u64,
    /// At most [`NEWS_WAIT_MAX`].
    pub wait: Duration,
}

/// One digest for each file that is distributed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Digests {
    /// The revocation lists.
    pub crl: FileDigest,
    /// The roots.
    pub bundle: FileDigest,
    /// The issuing CAs, by which the lists are verified.
    pub issuers: FileDigest,
    /// Who is in quarantine or revoked ([`Standings`]).
    pub standings: FileDigest,
}

/// What there is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NewsAnswer {
    /// The authority's clock.
    pub at: Timestamp,
    /// Digests of what there is.
    pub there: Digests,
    /// Lengths in bytes, in the order of [`Digests`].
    pub lens: [u32; 4],
    /// The device's own record in force; empty when there is none.
    pub record: String,
}

/// Which file a part is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blob {
    /// The revocation lists.
    Crl,
    /// The roots.
    Bundle,
    /// The issuing CAs.
    Issuers,
    /// Who is in quarantine or revoked.
    Standings,
}

impl Blob {
    /// All, in the order of [`Digests`].
    pub const ALL: [Self; 4] = [Self::Crl, Self::Bundle, Self::Issuers, Self::Standings];

    fn number(self) -> u64 {
        match self {
            Self::Crl => 1,
            Self::Bundle => 2,
            Self::Issuers => 3,
            Self::Standings => 4,
        }
    }
}

impl Digests {
    /// That of one file.
    pub fn of(&self, blob: Blob) -> FileDigest {
        match blob {
            Blob::Crl => self.crl,
            Blob::Bundle => self.bundle,
            Blob::Issuers => self.issuers,
            Blob::Standings => self.standings,
        }
    }
}

/// Asks for a part of a file; the answer is the bare bytes, none when the file has changed since.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PartAsk {
    /// Which file.
    pub blob: Blob,
    /// Its digest.
    pub digest: FileDigest,
    /// From this byte on.
    pub offset: u32,
}

/// The next certificate, and what belongs to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RenewAnswer {
    /// The leaf and the issuing CA, PEM.
    pub chain_pem: String,
    /// The roots, PEM.
    pub bundle_pem: String,
    /// The signed device record.
    pub record: String,
}

impl NewsAsk {
    /// As it is posted.
    pub fn encode(&self) -> Vec<u8> {
        map([
            (1, bytes(&self.has.crl)),
            (2, bytes(&self.has.bundle)),
            (3, bytes(&self.has.issuers)),
            (4, bytes(&self.has.standings)),
            (5, Value::from(self.record_version)),
            (6, Value::from(self.wait.as_secs())),
        ])
    }

    /// Reads one. Fuzzed as `news_message`.
    ///
    /// # Errors
    /// [`MessageError`] when it is anything else than exactly one message.
    pub fn decode(data: &[u8]) -> Result<Self, MessageError> {
        let mut fields = Fields::read(data)?;
        let has = digests(&mut fields)?;
        let record_version = fields.uint(5)?;
        let wait = Duration::from_secs(fields.uint(6)?);
        fields.finish()?;
        if wait > NEWS_WAIT_MAX {
            return Err(MessageError::Field(6));
        }
        Ok(Self { has, record_version, wait })
    }
}

impl NewsAnswer {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let [crl, bundle, issuers, standings] = self.lens.map(Value::from);
        map([
            (1, bytes(&self.there.crl)),
            (2, bytes(&self.there.bundle)),
            (3, bytes(&self.there.issuers)),
            (4, bytes(&self.there.standings)),
            (5, Value::Array(vec![crl, bundle, issuers, standings])),
            (6, Value::from(self.record.as_str())),
            (7, Value::from(self.at.as_millis())),
        ])
    }

    /// Reads one. Fuzzed as `news_message`.
    ///
    /// # Errors
    /// [`MessageError`] when it is anything else than exactly one message.
    pub fn decode(data: &[u8]) -> Result<Self, MessageError> {
        let mut fields = Fields::read(data)?;
        let there = digests(&mut fields)?;
        let lens = fields.lens(5)?;
        let record = fields.text(6, RECORD_LEN_MAX)?;
        let at = Timestamp::from_millis(fields.uint(7)?);
        fields.finish()?;
        Ok(Self { at, there, lens, record })
    }

    /// Length of one file.
    pub fn len_of(&self, blob: Blob) -> u32 {
        let [crl, bundle, issuers, standings] = self.lens;
        match blob {
            Blob::Crl => crl,
            Blob::Bundle => bundle,
            Blob::Issuers => issuers,
            Blob::Standings => standings,
        }
    }
}

impl PartAsk {
    /// As it is posted.
    pub fn encode(&self) -> Vec<u8> {
        map([(1, Value::from(self.blob.number())), (2, bytes(&self.digest)), (3, Value::from(self.offset))])
    }

    /// Reads one. Fuzzed as `news_message`.
    ///
    /// # Errors
    /// [`MessageError`] when it is anything else than exactly one message.
    pub fn decode(data: &[u8]) -> Result<Self, MessageError> {
        let mut fields = Fields::read(data)?;
        let number = fields.uint(1)?;
        let blob = Blob::ALL.into_iter().find(|b| b.number() == number).ok_or(MessageError::Field(1))?;
        let digest = fields.digest(2)?;
        let offset = u32::try_from(fields.uint(3)?).map_err(|_| MessageError::Field(3))?;
        fields.finish()?;
        Ok(Self { blob, digest, offset })
    }
}

/// A request for the next certificate, as it is posted.
pub fn encode_renew(csr: &[u8]) -> Vec<u8> {
    map([(1, bytes(csr))])
}

/// Reads what [`encode_renew`] wrote. Fuzzed as `news_message`.
///
/// # Errors
/// [`MessageError`] when it is anything else than exactly one message.
pub fn decode_renew(data: &[u8]) -> Result<Vec<u8>, MessageError> {
    let mut fields = Fields::read(data)?;
    let csr = fields.bytes(1, CSR_LEN_MAX)?;
    fields.finish()?;
    Ok(csr)
}

impl RenewAnswer {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        map([
            (1, Value::from(self.chain_pem.as_str())),
            (2, Value::from(self.bundle_pem.as_str())),
            (3, Value::from(self.record.as_str())),
        ])
    }

    /// Reads one. Fuzzed as `news_message`.
    ///
    /// # Errors
    /// [`MessageError`] when it is anything else than exactly one message.
    pub fn decode(data: &[u8]) -> Result<Self, MessageError> {
        let mut fields = Fields::read(data)?;
        let answer = Self {
            chain_pem: fields.text(1, MESSAGE_LEN_MAX)?,
            bundle_pem: fields.text(2, MESSAGE_LEN_MAX)?,
            record: fields.text(3, RECORD_LEN_MAX)?,
        };
        fields.finish()?;
        Ok(answer)
    }
}

fn digests(fields: &mut Fields) -> Result<Digests, MessageError> {
    Ok(Digests {
        crl: fields.digest(1)?,
        bundle: fields.digest(2)?,
        issuers: fields.digest(3)?,
        standings: fields.digest(4)?,
    })
}

impl Fields {
    fn lens(&mut self, key: u64) -> Result<[u32; 4], MessageError> {
        let fail = || MessageError::Field(key);
        let lens = self.array(key)?;
        let lens: Vec<u32> = lens
            .into_iter()
            .map(|v| v.into_integer().ok().and_then(|n| u32::try_from(n).ok()).ok_or_else(fail))
            .collect::<Result<_, _>>()?;
        if lens.iter().any(|len| u64::from(*len) > CRL_FILE_MAX) {
            return Err(fail());
        }
        lens.try_into().map_err(|_| fail())
    }
}

/// Who is not active, in the words of its record: a line each, in the order of their IDs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standings(pub Vec<Barred>);

/// One device that is not active.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Barred {
    /// Who.
    pub id: SpiffeId,
    /// The version of its record that says so.
    pub version: u64,
    /// In quarantine, or revoked.
    pub status: Status,
}

impl Standings {
    /// As it is distributed.
    pub fn to_text(&self) -> String {
        let mut text = String::from(STANDINGS_HEAD);
        for Barred { id, version, status } in &self.0 {
            text.push_str(&format!("{version} {} {id}\n", status.name()));
        }
        text
    }

    /// Reads what [`Standings::to_text`] wrote. Fuzzed as `news_message`.
    ///
    /// # Errors
    /// [`MessageError::Cbor`] when a line does not read, an ID stands there twice or out of order, somebody active is
    /// named, or there are more than [`STANDINGS_MAX`].
    pub fn read(text: &str) -> Result<Self, MessageError> {
        let rows = text.strip_prefix(STANDINGS_HEAD).ok_or(MessageError::Cbor)?;
        let mut standings: Vec<Barred> = Vec::new();
        for line in rows.lines() {
            let standing = standing(line).ok_or(MessageError::Cbor)?;
            let late = standings.last().is_none_or(|last| last.id < standing.id);
            if !late || standings.len() >= STANDINGS_MAX {
                return Err(MessageError::Cbor);
            }
            standings.push(standing);
        }
        Ok(Self(standings))
    }

    /// What is said of `id`, if anything.
    pub fn of(&self, id: &SpiffeId) -> Option<&Barred> {
        let at = self.0.binary_search_by(|s| s.id.cmp(id)).ok()?;
        self.0.get(at)
    }
}

fn standing(line: &str) -> Option<Barred> {
    let mut words = line.splitn(3, ' ');
    let version = words.next()?.parse().ok()?;
    let status = words.next()?;
    let status = [Status::Quarantined, Status::Revoked].into_iter().find(|s| s.name() == status)?;
    Some(Barred { version, status, id: words.next()?.parse().ok()? })
}

/// The errand that waits for news.
pub const NEWS_ERRAND: &str = "news";
/// The errand that fetches a part of a file.
pub const PART_ERRAND: &str = "part";
/// The errand that asks for the next certificate.
pub const RENEW_ERRAND: &str = "renew";
/// Longest wait for news.
pub const NEWS_WAIT_MAX: Duration = Duration::from_secs(25);
/// Bytes of a file in one part.
pub const PART_LEN: usize = 48 * 1024;
/// Most devices that are in quarantine or revoked.
pub const STANDINGS_MAX: usize = 65_536;
const STANDINGS_HEAD: &str = "countersign-standings/1\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn digests() -> Digests {
        Digests { crl: [1; 32], bundle: [2; 32], issuers: [3; 32], standings: [4; 32] }
    }

    fn ask() -> NewsAsk {
        NewsAsk { has: digests(), record_version: 7, wait: NEWS_WAIT_MAX }
    }

    fn answer() -> NewsAnswer {
        let at = Timestamp::from_millis(1_800_000_000_123);
        NewsAnswer { at, there: digests(), lens: [1, 2, 3, 4], record: "r".into() }
    }

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://example.org/device/{name}").parse().unwrap()
    }

    #[test]
    fn messages_read_back_as_they_were() {
        assert_eq!(NewsAsk::decode(&ask().encode()), Ok(ask()));
        assert_eq!(NewsAnswer::decode(&answer().encode()), Ok(answer()));
        for blob in Blob::ALL {
            let part = PartAsk { blob, digest: [9; 32], offset: u32::MAX };
            assert_eq!(PartAsk::decode(&part.encode()), Ok(part));
        }
        assert_eq!(decode_renew(&encode_renew(&[5; 300])), Ok(vec![5; 300]));
        let renewed = RenewAnswer { chain_pem: "c".into(), bundle_pem: "b".into(), record: "r".into() };
        assert_eq!(RenewAnswer::decode(&renewed.encode()), Ok(renewed));
    }

    #[test]
    fn a_message_cut_short_or_with_something_behind_it_is_refused() {
        let check = |whole: &[u8], reads: &dyn Fn(&[u8]) -> bool| {
            assert!(reads(whole));
            for at in 0..whole.len() {
                assert!(!reads(&whole[..at]), "cut at {at}");
            }
            assert!(!reads(&[whole, &[0]].concat()));
        };
        check(&ask().encode(), &|b| NewsAsk::decode(b).is_ok());
        check(&answer().encode(), &|b| NewsAnswer::decode(b).is_ok());
        check(&encode_renew(&[1; 9]), &|b| decode_renew(b).is_ok());
    }

    #[test]
    fn unknown_and_repeated_keys_and_what_is_out_of_bounds_are_refused() {
        assert_eq!(decode_renew(&map([(1, bytes(&[1])), (2, bytes(&[1]))])), Err(MessageError::Unknown(2)));
        assert_eq!(decode_renew(&map([(1, bytes(&[1])), (1, bytes(&[1]))])), Err(MessageError::Twice(1)));
        assert!(decode_renew(&encode_renew(&[0; CSR_LEN_MAX])).is_ok());
        assert_eq!(decode_renew(&encode_renew(&[0; CSR_LEN_MAX + 1])), Err(MessageError::Field(1)));
        let late = NewsAsk { wait: NEWS_WAIT_MAX + Duration::from_secs(1), ..ask() };
        assert_eq!(NewsAsk::decode(&late.encode()), Err(MessageError::Field(6)));
        let most = u32::try_from(CRL_FILE_MAX).unwrap();
        assert!(NewsAnswer::decode(&NewsAnswer { lens: [most; 4], ..answer() }.encode()).is_ok());
        let long = NewsAnswer { lens: [0, 0, 0, most + 1], ..answer() };
        assert_eq!(NewsAnswer::decode(&long.encode()), Err(MessageError::Field(5)));
        let long = NewsAnswer { record: "r".repeat(RECORD_LEN_MAX + 1), ..answer() };
        assert_eq!(NewsAnswer::decode(&long.encode()), Err(MessageError::Field(6)));
        assert_eq!(
            PartAsk::decode(&map([(1, Value::from(5)), (2, bytes(&[0; 32])), (3, Value::from(0))])),
            Err(MessageError::Field(1))
        );
    }

    #[test]
    fn standings_name_each_device_once_in_order_and_nobody_active() {
        let standings = Standings(vec![
            Barred { id: id("web-1"), version: 3, status: Status::Quarantined },
            Barred { id: id("web-2"), version: 9, status: Status::Revoked },
        ]);
        let text = standings.to_text();
        assert_eq!(Standings::read(&text), Ok(standings.clone()));
        assert_eq!(standings.of(&id("web-2")).unwrap().version, 9);
        assert_eq!(standings.of(&id("web-3")), None);
        let rows = |rows: &str| Standings::read(&format!("{STANDINGS_HEAD}{rows}")).is_ok();
        let row = |name: &str, status: &str| format!("1 {status} spiffe://example.org/device/{name}\n");
        assert!(rows(""));
        assert!(!rows(&row("a", "active")));
        assert!(!rows(&(row("a", "revoked") + &row("a", "revoked"))));
        assert!(!rows(&(row("b", "revoked") + &row("a", "revoked"))));
        assert!(!rows("x revoked spiffe://example.org/device/a\n"));
        assert!(Standings::read("").is_err());
        let many = |n: usize| (0..n).map(|i| row(&format!("d{i:06}"), "revoked")).collect::<String>();
        assert!(rows(&many(STANDINGS_MAX)));
        assert!(!rows(&many(STANDINGS_MAX + 1)));
    }
}
