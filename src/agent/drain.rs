//! The way out: no new flows, the living may finish, then the rest is cut.

use std::time::Duration;

use crate::flow::{Cut, Rooms};
use crate::model::Reason;

/// Waits until the last flow is over or `timeout` has passed, then cuts the rest. Returns how many were cut.
pub(super) async fn drain(rooms: &Rooms, timeout: Duration) -> usize {
    rooms.pool.release();
    let emptied = tokio::time::timeout(timeout, empty(rooms)).await;
    if emptied.is_ok() {
        return 0;
    }
    let cut = rooms.table.judge_again(|_| Some(Cut::new(Reason::Draining)));
    let _ = tokio::time::timeout(LAST_WORDS, empty(rooms)).await;
    cut
}

async fn empty(rooms: &Rooms) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        if rooms.table.is_empty() {
            return;
        }
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait for cut flows to write how they ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
