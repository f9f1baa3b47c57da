//! The authority's clerk: introduces the joining door to the CA and to device records, and writes everything down.

use std::net::SocketAddr;
use std::sync::Arc;

use super::build::StartError;
use super::records;
use crate::audit::{Entry, Kind, Source};
use crate::channel::{ALPN_JOIN, Clerk, Facts, JoinDoor, Session};
use crate::flow::{self, Rooms};
use crate::identity::authority::{self, Admitted, Ask, Granted, JoinRefused, RecoverAsk, RenewAsk, Settings};
use crate::identity::{Identity, svid};
use crate::model::{Reason, Refusal, SpiffeId, Timestamp};
use crate::net::BoxFuture;

/// The joining door of an authority, and the desk behind it; `None` when this sidecar is none.
pub(super) fn door(
    settings: Option<&Settings>,
    identity: &Identity,
    rooms: &Arc<Rooms>,
    now: Timestamp,
) -> Result<Option<(JoinDoor, Arc<Desk>)>, StartError> {
    let Some(settings) = settings else { return Ok(None) };
    let failed = |what: String| StartError(vec![format!("`[authority]` cannot be opened: {what}")]);
    let roots = authority::roots(&settings.ca, now).map_err(|e| failed(e.to_string()))?;
    let config = identity.joining_server(roots, ALPN_JOIN).map_err(|e| failed(e.to_string()))?;
    let desk =
        Arc::new(Desk { settings: settings.clone(), own: identity.id().clone(), rooms: Arc::clone(rooms) });
    Ok(Some((JoinDoor::new(config, Arc::new(JoinClerk(Arc::clone(&desk)))), desk)))
}

/// Decides with the CA's files, off the runtime.
struct JoinClerk(Arc<Desk>);

/// The CA's folder, and what is written down of its use.
pub(super) struct Desk {
    pub(super) settings: Settings,
    own: SpiffeId,
    pub(super) rooms: Arc<Rooms>,
}

impl Clerk for JoinClerk {
    fn ask(&self, ask: Ask, facts: Facts) -> BoxFuture<Result<Admitted, Refusal>> {
        let desk = Arc::clone(&self.0);
        off_the_runtime(move |now| desk.ask(&ask, &facts, now))
    }

    fn recover(
        &self,
        ask: RecoverAsk,
        exporter: [u8; 32],
        source: SocketAddr,
    ) -> BoxFuture<Result<Granted, Refusal>> {
        let desk = Arc::clone(&self.0);
        off_the_runtime(move |now| desk.recover(&ask, &exporter, source, now))
    }

    fn acknowledge(
        &self,
        granted: Box<Granted>,
        exporter: [u8; 32],
        signature: Vec<u8>,
        source: SocketAddr,
    ) -> BoxFuture<Result<(), Refusal>> {
        let desk = Arc::clone(&self.0);
        off_the_runtime(move |now| desk.acknowledge(&granted, &exporter, &signature, source, now))
    }
}

/// Who asks on a session, as it is proven there now.
pub(super) struct Asker {
    id: SpiffeId,
    spki_sha256: [u8; 32],
    source: std::net::IpAddr,
    session: String,
}

impl Asker {
    pub(super) fn of(session: &Session) -> Self {
        Self {
            id: session.peer.id().clone(),
            spki_sha256: session.proven().svid().spki_sha256,
            source: session.remote.ip(),
            session: session.id.to_string(),
        }
    }
}

/// Files are locked and synced: nothing of that may hold up the runtime.
pub(super) fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce(Timestamp) -> Result<T, Refusal> + Send + 'static,
) -> BoxFuture<Result<T, Refusal>> {
    Box::pin(async move {
        let now = Timestamp::now();
        let broken = |_| Err(Refusal::new(flow::decision_id(now), Reason::Internal));
        tokio::task::spawn_blocking(move || work(now)).await.unwrap_or_else(broken)
    })
}

impl Desk {
    fn ask(&self, ask: &Ask, facts: &Facts, now: Timestamp) -> Result<Admitted, Refusal> {
        let source = ask.source.parse().ok().map(Source::Ip);
        let about = Entry {
            source,
            device: Some(SpiffeId::device(self.own.trust_domain(), &ask.name)),
            target: Some(format!("token {}", ask.token).into()),
            ..Entry::new(now, Kind::Join)
        };
        let folder = &self.settings.records;
        let recorder = |whom: &authority::Recordable, signer: &dyn crate::model::Sign| {
            records::make(folder, whom, facts, self.settings.record_ttl, signer, now)
        };
        let admitted = match authority::admit(&self.settings, &self.own, ask, &recorder, now) {
            Ok(admitted) => admitted,
            Err(refused) => return Err(self.refuse(about, refused)),
        };
        match &admitted {
            Admitted::Pending { first } => {
                let detail = if *first { "waits for approval" } else { "still waits for approval" };
                // A device asks every few seconds while it waits; as a refusal the log sums that up.
                let kind = if *first { Kind::Join } else { Kind::Deny };
                let reason = Some(Reason::JoinPending);
                self.write(Entry { kind, reason, detail: Some(detail.into()), ..about })?;
            }
            Admitted::Granted(granted) => {
                let done = if granted.again { "handed out again" } else { "issued" };
                let detail = format!("{done}: serial {}, until {}", granted.serial, granted.not_after);
                // No entry, no certificate: it stays in the CA's folder until the device asks again.
                self.write(Entry { detail: Some(detail.into()), ..about })?;
            }
        }
        Ok(admitted)
    }

    fn recover(
        &self,
        ask: &RecoverAsk,
        exporter: &[u8; 32],
        source: SocketAddr,
        now: Timestamp,
    ) -> Result<Granted, Refusal> {
        // Whose it says it is: for the audit, whatever comes of it.
        let device = ask.chain.first().and_then(|der| svid(der).ok()).map(|s| s.id);
        let about = Entry { source: Some(Source::Ip(source.ip())), device, ..Entry::new(now, Kind::Join) };
        let records = self.records(now);
        match authority::recover(&self.settings, &self.own, ask, exporter, &records, now) {
            Ok(granted) => {
                let done = if granted.again { "handed out again" } else { "issued" };
                let detail =
                    format!("recovery, {done}: serial {}, until {}", granted.serial, granted.not_after);
                self.write(Entry { detail: Some(detail.into()), ..about })?;
                Ok(granted)
            }
            Err(refused) => Err(self.refuse(about, refused)),
        }
    }

    /// Gives the next certificate to the device that a session proved.
    pub(super) fn renew(&self, asker: &Asker, csr: Vec<u8>, now: Timestamp) -> Result<Granted, Refusal> {
        let about = Entry {
            source: Some(Source::Ip(asker.source)),
            device: Some(asker.id.clone()),
            session: Some(asker.session.as_str().into()),
            ..Entry::new(now, Kind::Join)
        };
        let ask = RenewAsk { id: asker.id.clone(), spki_sha256: asker.spki_sha256, csr };
        match authority::renew(&self.settings, &self.own, &ask, &self.records(now), now) {
            Ok(granted) => {
                let done = if granted.again { "handed out again" } else { "issued" };
                let detail =
                    format!("renewal, {done}: serial {}, until {}", granted.serial, granted.not_after);
                self.write(Entry { detail: Some(detail.into()), ..about })?;
                Ok(granted)
            }
            Err(refused) => Err(self.refuse(about, refused)),
        }
    }

    fn records(&self, now: Timestamp) -> records::Desk<'_> {
        records::Desk { folder: &self.settings.records, ttl: self.settings.record_ttl, now }
    }

    fn acknowledge(
        &self,
        granted: &Granted,
        exporter: &[u8; 32],
        signature: &[u8],
        source: SocketAddr,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let about = Entry {
            source: Some(Source::Ip(source.ip())),
            device: Some(granted.id.clone()),
            ..Entry::new(now, Kind::Join)
        };
        match authority::acknowledge(&self.settings, granted, exporter, signature) {
            Ok(()) => {
                let spent = if granted.spends_a_token() { ", the token is spent" } else { "" };
                let detail = format!("acknowledged{spent}: serial {}", granted.serial);
                self.write(Entry { detail: Some(detail.into()), ..about })
            }
            Err(refused) => Err(self.refuse(about, refused)),
        }
    }

    /// Writes a refusal down and says what the device may hear of it.
    fn refuse(&self, about: Entry, refused: JoinRefused) -> Refusal {
        let refusal = Refusal::new(flow::decision_id(about.at), refused.reason).detail(refused.detail);
        self.rooms.metrics.refused(refusal.reason);
        tracing::warn!(
            decision = %refusal.id, reason = refusal.reason.code(), detail = &*refusal.detail,
            next = refusal.reason.next_step(), "join refused: {}", refusal.reason.sentence()
        );
        let Entry { source, device, target, .. } = about;
        let _ =
            self.rooms.audit.append(Entry { source, device, target, ..Entry::refused(about.at, &refusal) });
        refusal
    }

    fn write(&self, entry: Entry) -> Result<(), Refusal> {
        let id = flow::decision_id(entry.at);
        let device = entry.device.as_ref().map(SpiffeId::to_string).unwrap_or_default();
        let detail = entry.detail.clone().unwrap_or_default();
        let written = self.rooms.audit.append(Entry { decision: Some(id), ..entry });
        written.map_err(|_| Refusal::new(id, Reason::AuditUnavailable))?;
        tracing::info!(decision = %id, device, "join: {detail}");
        Ok(())
    }
}
