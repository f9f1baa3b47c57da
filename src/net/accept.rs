//! Taking connections while the kernel is short of something, and complaining about it once a second.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::socket::{Accepted, Listener, SocketOptions};

/// What an accept loop remembers between two connections.
#[derive(Debug, Default)]
pub struct Patience {
    complaints: Complaints,
    failed_in_a_row: u32,
}

impl Listener {
    /// Takes the next connection, however long that takes. An accept that fails does not end the loop: out of
    /// descriptors, it pauses and leaves them to the living flows. Cancelling loses no connection.
    pub async fn accept_patiently(&self, options: SocketOptions, patience: &mut Patience) -> Accepted {
        loop {
            let error = match self.accept(options).await {
                Ok(accepted) => {
                    patience.failed_in_a_row = 0;
                    return accepted;
                }
                Err(error) => error,
            };
            patience.failed_in_a_row = patience.failed_in_a_row.saturating_add(1);
            let Some(pause) = pause_after(&error, patience.failed_in_a_row) else { continue };
            let door = self.name();
            patience.complaints.say(|unsaid| tracing::warn!(door, %error, unsaid, "cannot take connections"));
            tokio::time::sleep(pause).await;
        }
    }
}

/// How long to leave the listener alone after a failed accept: not at all when only that one connection failed,
/// else a little, for the kernel is out of something (descriptors, memory) and asking again at once would spin.
fn pause_after(error: &io::Error, failed_in_a_row: u32) -> Option<Duration> {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {
            None
        }
        _ if failed_in_a_row <= 1 => Some(PAUSE_FIRST),
        _ => Some(PAUSE_NEXT),
    }
}

/// Says a thing at most once a second, and then how many times it was not said.
#[derive(Debug, Default)]
pub struct Complaints {
    said: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    /// Says it now, with how often it was not said before; or only counts it.
    pub fn say(&mut self, say: impl FnOnce(u64)) {
        if self.may_say(Instant::now()) {
            say(std::mem::take(&mut self.unsaid));
        }
    }

    fn may_say(&mut self, now: Instant) -> bool {
        let quiet = self.said.is_none_or(|said| now.saturating_duration_since(said) >= COMPLAINT_INTERVAL);
        if quiet {
            self.said = Some(now);
        } else {
            self.unsaid = self.unsaid.saturating_add(1);
        }
        quiet
    }
}

/// Time between two complaints.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after the first accept that failed, and after each that follows it.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_NEXT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_descriptors_the_loop_pauses_and_a_lost_connection_does_not_slow_it() {
        use rustix::io::Errno;
        let pause = |errno: Errno, in_a_row| pause_after(&errno.into(), in_a_row);
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(pause(errno, 1), Some(PAUSE_FIRST));
            assert_eq!(pause(errno, 2), Some(PAUSE_NEXT));
        }
        for errno in [Errno::CONNABORTED, Errno::CONNRESET, Errno::INTR] {
            assert_eq!(pause(errno, 9), None);
        }
    }

    #[test]
    fn a_complaint_is_said_once_a_second_with_the_number_of_those_that_were_not() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let said =
            [0, 1, 999, 1000, 1001, 2000].map(|ms| complaints.may_say(start + Duration::from_millis(ms)));
        assert_eq!(said, [true, false, false, true, false, true]);
        assert_eq!(complaints.unsaid, 3);
    }
}
