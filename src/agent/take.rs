//! Takes what an authority distributes: judged first, written whole, and in force at once.

use std::sync::Arc;

use super::contact::Contact;
use super::records::signed_by;
use super::watch::Orders;
use crate::audit::{Entry, Kind};
use crate::channel::Standings;
use crate::flow::{self, Rooms};
use crate::identity::{CRL_FILE_MAX, Identity, Places, issuer_keys, read_file, write_file};
use crate::model::{Reason, Timestamp};

/// What was offered; `None` where there is nothing new.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer {
    pub crl: Option<Vec<u8>>,
    pub bundle: Option<Vec<u8>>,
    /// The issuing CAs, always: lists and records are held against them.
    pub issuers: Vec<u8>,
    pub standings: Option<Vec<u8>>,
    pub record: Option<String>,
}

/// Judges and writes.
pub(super) struct Taker {
    pub identity: Identity,
    pub places: Places,
    pub contact: Arc<Contact>,
    pub rooms: Arc<Rooms>,
    pub orders: Orders,
}

impl Taker {
    /// Takes what holds of `offer`; the rest changes nothing. Says what was wrong. Blocks: call it off the runtime.
    pub fn take(&self, offer: &Offer, now: Timestamp) -> Result<(), String> {
        let (mut taken, mut wrong) = (Vec::new(), Vec::new());
        let mut note = |what: &'static str, done: Result<bool, String>| match done {
            Ok(true) => taken.push(what),
            Ok(false) => {}
            Err(why) => wrong.push(why),
        };
        // Roots first: what follows is held against them.
        if let Some(bundle) = &offer.bundle {
            note("roots", self.bundle(bundle, now));
        }
        if let Some(crl) = &offer.crl {
            note("revocation lists", self.crl(crl, &offer.issuers, now));
        }
        if let Some(record) = offer.record.as_ref().filter(|r| !r.is_empty()) {
            note("own record", self.record(record, &offer.issuers, now));
        }
        if let Some(standings) = &offer.standings {
            note("standings", self.standings(standings));
        }
        if !taken.is_empty() {
            let said = format!("news of the authority: {}", taken.join(", "));
            self.tell(None, &said, now);
            // Half of it may be wrong and be told by the watchman; what was written is in force as far as it goes.
            let _ = self.orders.reload();
        }
        if wrong.is_empty() {
            self.contact.refused(None);
            return Ok(());
        }
        let why = wrong.join("; ");
        self.tell(Some(Reason::NewsInvalid), &why, now);
        self.contact.refused(Some(why.clone()));
        Err(why)
    }

    fn bundle(&self, pem: &[u8], now: Timestamp) -> Result<bool, String> {
        if self.places.read_bundle().is_ok_and(|ours| ours.as_bytes() == pem) {
            return Ok(false);
        }
        let text = std::str::from_utf8(pem).map_err(|_| "the bundle is no text".to_owned())?;
        self.identity.judge_bundle(text, now).map_err(|e| e.to_string())?;
        self.places.write_bundle(pem).map(|()| true).map_err(|e| e.to_string())
    }

    fn crl(&self, pem: &[u8], issuers: &[u8], now: Timestamp) -> Result<bool, String> {
        let ours = self.places.read_crl();
        if !self.places.has_crl() || ours == pem {
            return Ok(false);
        }
        let bundle = self.places.read_bundle().map_err(|e| e.to_string())?;
        let issuers = String::from_utf8_lossy(issuers);
        self.identity.judge_lists(&bundle, &issuers, pem, &ours, now).map_err(|e| e.to_string())?;
        self.places.write_crl(pem).map(|()| true).map_err(|e| e.to_string())
    }

    fn record(&self, text: &str, issuers: &[u8], now: Timestamp) -> Result<bool, String> {
        let bundle = self.places.read_bundle().map_err(|e| e.to_string())?;
        let keys = issuer_keys(&bundle, &String::from_utf8_lossy(issuers), now).map_err(|e| e.to_string())?;
        let bad = |why: &str| format!("the record that the authority sent of this device {why}");
        let new = signed_by(text, &keys).map_err(|e| bad(&e.to_string()))?;
        let new = new.ok_or_else(|| bad("is signed by no CA of ours"))?;
        if new.id != *self.identity.id() {
            return Err(bad("is of another device"));
        }
        if new.spki_sha256 != self.identity.signer().svid().spki_sha256 {
            // Of a renewal that is under way: it comes with its leaf.
            return Ok(false);
        }
        let ours = read_file(&self.places.record, CRL_FILE_MAX).unwrap_or_default();
        let ours = signed_by(&String::from_utf8_lossy(&ours), &keys).ok().flatten();
        match ours {
            Some(ours) if new.version < ours.version => Err(bad("is older than ours")),
            Some(ours) if new.version == ours.version => Ok(false),
            _ => write_file(&self.places.record, text.as_bytes()).map(|()| true).map_err(|e| e.to_string()),
        }
    }

    fn standings(&self, text: &[u8]) -> Result<bool, String> {
        let read = std::str::from_utf8(text).ok().and_then(|t| Standings::read(t).ok());
        let standings = read.ok_or("the list of devices in quarantine does not read")?;
        write_file(&self.places.standings, text).map_err(|e| e.to_string())?;
        self.contact.set_standings(standings);
        Ok(true)
    }

    fn tell(&self, reason: Option<Reason>, said: &str, now: Timestamp) {
        let id = flow::decision_id(now);
        let entry = Entry { reason, detail: Some(said.into()), ..Entry::new(now, Kind::Reload) };
        let device = self.contact.authority.clone();
        let _ = self.rooms.audit.append(Entry { decision: Some(id), device, ..entry });
        match reason {
            None => tracing::info!("{said}"),
            Some(reason) => {
                self.rooms.metrics.refused(reason);
                tracing::error!(decision = %id, reason = reason.code(), next = reason.next_step(), "{said}");
            }
        }
    }
}

/// What an earlier run kept; nothing when that does not read: the authority says it again.
pub(super) fn kept_standings(places: &Places) -> Standings {
    let text = read_file(&places.standings, CRL_FILE_MAX).unwrap_or_default();
    std::str::from_utf8(&text).ok().and_then(|t| Standings::read(t).ok()).unwrap_or_default()
}
