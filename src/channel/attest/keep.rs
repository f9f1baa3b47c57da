//! Keeps a session proven, as its client: again after a third of the shorter lease, and whenever a leaf is another.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Attester;
use crate::channel::dial::Link;
use crate::channel::session::{Session, Standing};
use crate::model::Timestamp;

/// Proves both ends again and again, and ends the session when that fails. Does not hold the connection open: ends by
/// itself when nobody does. `ours` is how long our own lease at the peer lasts.
pub(in crate::channel) async fn keep(
    attester: Attester,
    link: Weak<Link>,
    timeout: Duration,
    mut ours: Option<Duration>,
) {
    let mut renewed = attester.0.renewed.subscribe();
    let Some(session) = link.upgrade().map(|link| Arc::clone(&link.session)) else { return };
    let mut wait = pause(&session, ours, Timestamp::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // The attester is ours, so somebody can always say it.
            _ = renewed.changed() => {}
            _ = session.until_ended() => return,
        }
        let Some(link) = link.upgrade() else { return };
        match attester.exchange(&session, &link.send, timeout).await {
            Ok(lease) => {
                ours = lease;
                wait = pause(&session, ours, Timestamp::now());
            }
            // The lease lasts for a few more tries; when it is over the watchman ends the session.
            Err(e) if e.is_passing() => {
                tracing::warn!(session = %session.id, peer = %session.peer.id(), "evidence again in a moment: {e}");
                wait = RETRY_AFTER;
            }
            Err(e) => {
                tracing::warn!(session = %session.id, peer = %session.peer.id(), "evidence not renewed: {e}");
                session.forfeit(e.reason);
                attester.0.witness.lost(&session, e.reason);
                return session.end(e.reason);
            }
        }
    }
}

/// How long to wait: a third of the shorter lease, or three quarters of what is left of the peer's leaf, which the
/// peer can renew but only we can ask for.
fn pause(session: &Session, ours: Option<Duration>, now: Timestamp) -> Duration {
    let theirs = match session.standing() {
        Standing::Leased { lease, .. } => Some(lease.ttl),
        Standing::Exempt | Standing::Unproven(_) => None,
    };
    let leaf = session.proven().svid().not_after.since(now);
    next_in(ours, theirs, leaf)
}

fn next_in(ours: Option<Duration>, theirs: Option<Duration>, leaf_left: Duration) -> Duration {
    let lease = ours.into_iter().chain(theirs).min().map(|ttl| ttl / 3);
    lease.unwrap_or(Duration::MAX).min(leaf_left / 4 * 3).max(PAUSE_MIN)
}

/// Shortest pause between two exchanges.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Pause before a peer that is busy is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_proven_again_after_a_third_of_the_shorter_lease_or_before_the_leaf_ends() {
        let s = Duration::from_secs;
        assert_eq!(next_in(Some(s(900)), Some(s(60)), s(86_400)), s(20));
        assert_eq!(next_in(None, Some(s(900)), s(86_400)), s(300));
        assert_eq!(next_in(None, None, s(86_400)), s(64_800));
        assert_eq!(next_in(Some(s(900)), Some(s(900)), s(60)), s(45));
        assert_eq!(next_in(Some(s(900)), Some(s(900)), s(0)), s(1));
    }
}
