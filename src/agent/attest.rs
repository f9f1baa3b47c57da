//! What attestation needs of the house: its words in the audit, the flows it ends, the versions it remembers.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::build::StartError;
use super::contact::Contact;
use crate::audit::{Entry, Kind, Log, Source};
use crate::channel::{AttestError, Attester, Digests, Outcome, Remembered, Session, Standing, Witness};
use crate::config::Config;
use crate::device::Verdict;
use crate::flow::{self, Table};
use crate::identity::{FileError, Identity, read_file, write_file};
use crate::model::{DecisionId, Reason, Timestamp};
use crate::policy::Policy;
use crate::telemetry::Metrics;

/// Writes down what came of evidence, and ends the flows of who is no longer taken for its device.
pub(super) struct Notary {
    pub audit: Log,
    pub metrics: Metrics,
    pub table: Table,
    /// What the authority says of others.
    pub contact: std::sync::Arc<Contact>,
}

impl Witness for Notary {
    fn attested(&self, session: &Session, outcome: &Outcome, now: Timestamp) -> Result<(), Reason> {
        let version = match outcome.standing {
            Standing::Leased { record_version, .. } => Some(record_version),
            Standing::Exempt | Standing::Unproven(_) => None,
        };
        self.contact.admits(session.peer.id(), version)?;
        let newest = session.proven();
        let leaf = outcome.renewed.as_ref().unwrap_or(&newest).svid();
        let standing = match outcome.standing {
            Standing::Leased { lease, record_version, .. } => {
                let until = lease.until;
                format!("tier {}, record {record_version}, lease until {until}", lease.tier.level())
            }
            Standing::Exempt | Standing::Unproven(_) => "tier 0".to_string(),
        };
        let appraisal = outcome.appraisal.as_ref().map(|a| format!("; {a}")).unwrap_or_default();
        let renewed = if outcome.renewed.is_some() { "renewed certificate" } else { "certificate" };
        let detail =
            format!("{standing}; {renewed} {} until {}{appraisal}", leaf.serial_hex(), leaf.not_after);
        if outcome.appraisal.as_ref().is_some_and(|a| a.verdict == Verdict::Drift) {
            tracing::warn!(session = %session.id, peer = %session.peer.id(), "the device has drifted: {detail}");
        }
        self.metrics.attested();
        let entry = Entry { detail: Some(detail.into()), ..about(session, now, Kind::Attest) };
        self.audit.append(entry).map_err(|_| Reason::AuditUnavailable)
    }

    fn refused(&self, session: &Session, reason: Reason, detail: &str, now: Timestamp) -> DecisionId {
        let id = flow::decision_id(now);
        self.metrics.refused(reason);
        let entry = about(session, now, Kind::Deny);
        let _ = self.audit.append(Entry {
            decision: Some(id),
            reason: Some(reason),
            detail: (!detail.is_empty()).then(|| detail.into()),
            ..entry
        });
        let flows = self.lost(session, reason);
        tracing::warn!(
            decision = %id, reason = reason.code(), peer = %session.peer.id(), session = %session.id, detail, flows,
            next = reason.next_step(), "evidence refused: {}", reason.sentence()
        );
        id
    }

    fn lost(&self, session: &Session, reason: Reason) -> usize {
        match session.standing() {
            Standing::Unproven(_) => self.table.cut_session(session.id, reason),
            Standing::Exempt | Standing::Leased { .. } => 0,
        }
    }
}

fn about(session: &Session, now: Timestamp, kind: Kind) -> Entry {
    Entry {
        decision: Some(flow::decision_id(now)),
        device: Some(session.peer.id().clone()),
        source: Some(Source::Ip(session.remote.ip())),
        session: Some(session.id.to_string().into()),
        transport: Some(session.transport),
        group: Some(session.group.into()),
        cipher: Some(session.cipher.into()),
        key_age_s: Some(now.since(session.since).as_secs()),
        ..Entry::new(now, kind)
    }
}

/// Makes the attester; what it remembers of earlier runs lies in `[device] records`.
pub(super) fn attester(
    config: &Config,
    identity: &Identity,
    policy: &Policy,
    notary: Notary,
    now: Timestamp,
) -> Result<Attester, StartError> {
    let failed = |what: String| StartError(vec![format!("`[device]`: {what}")]);
    let path = versions_file(&config.device.records);
    let text = match read_file(&path, VERSIONS_LEN_MAX) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e.to_string())),
    };
    let remembered = Remembered::read(text.as_deref(), config.device.devices_max).map_err(|e| {
        failed(format!("`{}`: {e}; with it moved aside old records are taken again", path.display()))
    })?;
    let digests = Digests { config: digest(&config.to_toml()), policy: policy_digest(policy) };
    let witness = std::sync::Arc::new(notary);
    Attester::new(identity.clone(), config.device.clone(), digests, witness, remembered, now)
        .map_err(|e: AttestError| failed(e.to_string()))
}

/// Names the policy in force in our evidence.
pub(super) fn policy_digest(policy: &Policy) -> [u8; 32] {
    digest(policy.current().digest())
}

/// Names the configuration in force in our evidence.
pub(super) fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Writes down which record versions were seen, when there are new ones. Blocks: call it off the runtime.
pub(super) fn save_versions(attester: &Attester, records: &Path) {
    let Some(text) = attester.unsaved() else { return };
    let path = versions_file(records);
    if let Err(e) = write_file(&path, text.as_bytes()) {
        attester.not_saved();
        tracing::error!("which record versions were seen cannot be kept, a restart would forget them: {e}");
    }
}

fn versions_file(records: &Path) -> PathBuf {
    records.join("seen.versions")
}

/// Longest file of record versions: as many lines as devices are remembered at most, each as long as can be.
const VERSIONS_LEN_MAX: u64 = 1 << 32;
