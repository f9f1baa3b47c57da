//! Introduces the doors to the flows: the doors know no flow, the flows know no door.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::audit::{Entry, Kind, Source};
use bytes::Bytes;

use super::bulletin::Board;
use crate::channel::{
    self, Attester, EVIDENCE_ERRAND, Keeper, NEWS_ERRAND, PART_ERRAND, RENEW_ERRAND, Session, Standing,
};
use crate::flow::{self, Intake, Rooms};
use crate::limits::{Handshakes, Knocks};
use crate::model::{Reason, Refusal, SpiffeId, Timestamp};
use crate::net::BoxFuture;

/// Keeps the doors: who may knock, what becomes of who came in.
pub(super) struct Doorkeeper {
    pub rooms: Arc<Rooms>,
    pub own: SpiffeId,
    pub attester: Attester,
    /// Where the news hang, when this sidecar is the authority.
    pub board: Option<Arc<Board>>,
    pub knocks: Arc<Knocks>,
    pub handshakes: Handshakes,
}

impl Keeper for Doorkeeper {
    fn knock(&self, source: IpAddr) -> Result<Box<dyn Send>, Reason> {
        self.knocks.admit(source, std::time::Instant::now())?;
        self.rooms.pressure.admit()?;
        Ok(Box::new(self.handshakes.begin()?))
    }

    fn refused(&self, source: SocketAddr, reason: Reason, detail: &str) {
        let now = Timestamp::now();
        let id = flow::decision_id(now);
        self.rooms.metrics.refused(reason);
        match reason {
            Reason::KnockLimited | Reason::HandshakesLimited => self.rooms.metrics.knock_refused(),
            other => self.rooms.metrics.handshake(Some(other)),
        }
        // The log adds up what comes too often to be told one by one; a flood must not drown it.
        let _ = self.rooms.audit.append(Entry {
            decision: Some(id),
            source: Some(Source::Ip(source.ip())),
            reason: Some(reason),
            detail: (!detail.is_empty()).then(|| detail.into()),
            ..Entry::new(now, Kind::Deny)
        });
        if reason == Reason::KnockLimited {
            tracing::debug!(decision = %id, reason = reason.code(), %source, "knock refused");
        } else {
            tracing::warn!(
                decision = %id, reason = reason.code(), %source, detail, next = reason.next_step(),
                "handshake refused: {}", reason.sentence()
            );
        }
    }

    fn arrived(&self, arrival: channel::Arrival) {
        tokio::spawn(flow::run(Arc::clone(&self.rooms), Intake::peer(arrival, Timestamp::now())));
    }

    fn errand(
        &self,
        session: Arc<Session>,
        name: &str,
        body: Result<Bytes, Reason>,
    ) -> BoxFuture<Result<Bytes, Refusal>> {
        let now = Timestamp::now();
        if let (NEWS_ERRAND | PART_ERRAND | RENEW_ERRAND, Ok(body)) = (name, &body) {
            return self.for_authority(session, name.to_owned(), body.clone(), now);
        }
        let done = match (name, body) {
            (EVIDENCE_ERRAND, Ok(body)) => self.attester.answer(&session, &body, now).map(Bytes::from),
            (_, Err(reason)) => Err(self.errand_refused(&session, name, reason, now)),
            (_, Ok(_)) => Err(self.errand_refused(&session, name, Reason::ErrandUnknown, now)),
        };
        if let (Err(_), Standing::Unproven(reason)) = (&done, session.standing()) {
            // A moment, so that the peer hears why.
            tokio::spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                session.end(reason);
            });
        }
        Box::pin(std::future::ready(done))
    }
}

impl Doorkeeper {
    /// What only an authority does, and only for who has proven its device.
    fn for_authority(
        &self,
        session: Arc<Session>,
        name: String,
        body: Bytes,
        now: Timestamp,
    ) -> BoxFuture<Result<Bytes, Refusal>> {
        let refused = match (session.standing(), &self.board) {
            (Standing::Unproven(reason), _) => Err(reason),
            (_, None) => Err(Reason::AuthorityAbsent),
            (_, Some(board)) => Ok(Arc::clone(board)),
        };
        match refused {
            Err(reason) => {
                Box::pin(std::future::ready(Err(self.errand_refused(&session, &name, reason, now))))
            }
            Ok(board) => Box::pin(async move {
                match board.errand(&session, &name, &body).await {
                    Some(done) => done,
                    None => Err(Refusal::new(flow::decision_id(now), Reason::ErrandUnknown)),
                }
            }),
        }
    }

    fn errand_refused(&self, session: &Session, name: &str, reason: Reason, now: Timestamp) -> Refusal {
        let refusal = Refusal::new(flow::decision_id(now), reason);
        self.rooms.metrics.refused(reason);
        let _ = self.rooms.audit.append(Entry {
            device: Some(session.peer.id().clone()),
            source: Some(Source::Ip(session.remote.ip())),
            session: Some(session.id.to_string().into()),
            target: Some(format!("errand {name}").into()),
            ..Entry::refused(now, &refusal)
        });
        tracing::warn!(decision = %refusal.id, reason = reason.code(), peer = %session.peer.id(), name, "errand refused");
        refusal
    }

    /// May a local app from this address come in? The kernel answers for who is local; there is no rate to spare.
    pub fn local_knock(&self, source: Option<IpAddr>) -> Result<(), Reason> {
        let admitted = self.rooms.pressure.admit();
        if let Err(reason) = admitted {
            let now = Timestamp::now();
            self.rooms.metrics.refused(reason);
            // Nobody can be told why the connection is closed, so the log must.
            let _ = self.rooms.audit.append(Entry {
                decision: Some(flow::decision_id(now)),
                device: Some(self.own.clone()),
                source: source.map(Source::Ip),
                reason: Some(reason),
                ..Entry::new(now, Kind::Deny)
            });
        }
        admitted
    }

    /// A local app came in.
    pub fn came(&self, arrival: crate::capture::Arrival) {
        tokio::spawn(flow::run(Arc::clone(&self.rooms), Intake::local(arrival, self.attester.own_device())));
    }
}

/// How long a peer whose evidence was refused may listen before its session ends.
const FAREWELL: Duration = Duration::from_millis(500);
