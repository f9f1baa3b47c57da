//! This machine as its evidence tells it: looked at when asked to, and kept until the next look.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use ring::rand::{SecureRandom, SystemRandom};

use crate::device::{
    self, Anchor, Appraisal, Claims, Fingerprint, History, RECORD_LEN_MAX, Record, Salt, SaltError, Settings,
    SignedRecord, SysrootError, Verdict, appraise, verify_p256,
};
use crate::identity::{FileError, Identity, read_file};
use crate::model::{DeviceFacts, Score, Tier, Timestamp};

/// What our evidence is made from.
pub(super) struct Machine {
    pub(super) fingerprint: Fingerprint,
    pub(super) record: Option<OwnRecord>,
    /// Why the record that lies there is not used.
    pub(super) problem: Option<String>,
    /// What we make of ourselves.
    pub(super) own: Option<Appraisal>,
}

/// Our record, as it is sent and as it reads.
#[derive(Clone)]
pub(super) struct OwnRecord {
    pub(super) text: String,
    pub(super) read: Record,
}

/// How this very device stands, by its own record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnStanding {
    /// What policy may take it for.
    pub device: DeviceFacts,
    /// `match`, `drift` or `quarantine`; `None` without a record.
    pub verdict: Option<Verdict>,
    /// Version and end of its record.
    pub record: Option<(u64, Timestamp)>,
    /// Why the record that lies there is not used.
    pub problem: Option<String>,
    /// How much of the machine could be seen.
    pub profile: &'static str,
}

/// Why this machine cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// Its record cannot be read from the disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// No randomness to be had.
    #[error("no randomness to be had from the system")]
    Random,
    /// It was enrolled with a salt that is gone.
    #[error(transparent)]
    Salt(#[from] SaltError),
    /// It was enrolled, and the salt of its fingerprint is not there.
    #[error(
        "`{}` is missing, and the record of this device was made with it: enrol the device again",
        path.display()
    )]
    SaltMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The root folder to look below.
    #[error(transparent)]
    Sysroot(#[from] SysrootError),
}

impl Machine {
    /// Looks at the machine, its salt and its record. `last` is what the last look found.
    pub(super) fn look(
        settings: &Settings,
        identity: &Identity,
        salt: &Salt,
        last: Option<&Self>,
        now: Timestamp,
    ) -> Result<Self, AttestError> {
        let fingerprint = device::fingerprint(&device::collect(&settings.sysroot)?, salt);
        let (record, problem) = match record_text(settings)? {
            None => (None, None),
            Some(text) => match read_own(&text, identity, now) {
                Ok(read) => (Some(OwnRecord { text, read }), None),
                // Half of a renewal may lie there: what was good a moment ago goes on until the other half has come.
                Err(why) => (last.and_then(|l| l.record.clone()), Some(why)),
            },
        };
        let mut machine = Self { fingerprint, record, problem, own: None };
        machine.own = machine.appraise(settings, identity, now);
        Ok(machine)
    }

    fn appraise(&self, settings: &Settings, identity: &Identity, now: Timestamp) -> Option<Appraisal> {
        let record = &self.record.as_ref()?.read;
        let leaf = identity.signer();
        let anchor = Anchor { id: identity.id(), proven: &[leaf.svid().spki_sha256, record.spki_sha256] };
        let claims = Claims {
            ueid: self.fingerprint.ueid,
            issued_at: now,
            components: self.fingerprint.values.clone(),
            boot: self.fingerprint.boot,
            counter: 0,
            program: String::new(),
            version: String::new(),
            config_digest: [0; 32],
            policy_digest: [0; 32],
            new_leaf_sha256: None,
        };
        appraise(&claims, record, &anchor, &settings.thresholds, &History::default(), now).ok()
    }

    /// How this device stands.
    pub(super) fn standing(&self, identity: &Identity) -> OwnStanding {
        OwnStanding {
            device: self.device(identity),
            verdict: self.own.as_ref().map(|a| a.verdict),
            record: self.record.as_ref().map(|r| (r.read.version, r.read.expires_at)),
            problem: self.problem.clone(),
            profile: self.fingerprint.profile.name(),
        }
    }

    /// What policy may take this device for.
    pub(super) fn device(&self, identity: &Identity) -> DeviceFacts {
        let leased = self.own.as_ref().filter(|a| a.verdict != Verdict::Quarantine);
        DeviceFacts {
            id: identity.id().clone(),
            tier: leased.map_or(Tier::None, |a| a.tier),
            score: leased.map_or(Score::default(), |a| a.score),
        }
    }

    /// What it presents.
    pub(super) fn components(&self) -> &BTreeMap<device::Component, device::Presented> {
        &self.fingerprint.values
    }
}

/// The salt of this machine's fingerprint. One that was never enrolled gets a salt that lasts as long as the process.
pub(super) fn salt(settings: &Settings) -> Result<Salt, AttestError> {
    let missing =
        |e: &SaltError| matches!(e, SaltError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
    match Salt::load(&settings.salt) {
        Ok(salt) => Ok(salt),
        Err(e) if missing(&e) => match record_text(settings)? {
            Some(_) => Err(AttestError::SaltMissing { path: settings.salt.clone() }),
            None => Ok(Salt::new(random()?)),
        },
        Err(e) => Err(e.into()),
    }
}

fn record_text(settings: &Settings) -> Result<Option<String>, AttestError> {
    let most = u64::try_from(RECORD_LEN_MAX).unwrap_or(u64::MAX);
    match read_file(&settings.record, most) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Our record, if the CA that issued our leaf signed it for that leaf's key.
fn read_own(text: &str, identity: &Identity, now: Timestamp) -> Result<Record, String> {
    let leaf = identity.signer();
    let issuer = identity.issuer_of(leaf.chain(), now).map_err(|r| r.sentence().to_owned())?;
    let verify = |message: &[u8], signature: &[u8]| verify_p256(&issuer, message, signature);
    let record = SignedRecord::open(text, &verify).map_err(|e| e.to_string())?;
    let key = leaf.svid().spki_sha256;
    record.check(identity.id(), &[key], now).map_err(|r| r.sentence().to_owned())?;
    Ok(record)
}

/// Random bytes.
pub(super) fn random() -> Result<[u8; 32], AttestError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AttestError::Random)?;
    Ok(bytes)
}
