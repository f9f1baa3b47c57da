//! Says how far a long input is read, on a terminal's standard error and nowhere else.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line that is written over again and again. Own code: it is one line, and a crate would bring six more.
pub(super) struct Progress {
    total: Option<u64>,
    begun: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// For an input of `total` bytes, where that is known.
    pub(super) fn new(total: Option<u64>) -> Self {
        Self { total, begun: Instant::now(), shown: None, terminal: io::stderr().is_terminal() }
    }

    /// So many bytes were read. Costs nothing but a look at the clock, five times a second a line.
    pub(super) fn at(&mut self, read: u64) {
        if !self.terminal {
            return;
        }
        let now = Instant::now();
        if now.duration_since(self.shown.unwrap_or(self.begun)) < PAUSE {
            return;
        }
        self.shown = Some(now);
        // A progress line that cannot be written is not missed.
        let _ = write!(io::stderr(), "\r\x1b[K{}", line(read, self.total, now.duration_since(self.begun)));
    }

    /// Wipes the line.
    pub(super) fn finish(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// `[#######             ] 37 % of 120.0 MB, 12 s left`.
fn line(read: u64, total: Option<u64>, passed: Duration) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let Some(total) = total.filter(|t| *t > 0) else {
        return format!("{:.1} MB read", megabytes(read));
    };
    let share = (read as f64 / total as f64).min(1.0);
    let full = (share * WIDTH as f64) as usize;
    let left = if share > 0.0 { passed.as_secs_f64() * (1.0 - share) / share } else { 0.0 };
    let bar = format!("{}{}", "#".repeat(full), " ".repeat(WIDTH.saturating_sub(full)));
    format!("[{bar}] {:.0} % of {:.1} MB, {left:.0} s left", share * 100.0, megabytes(total))
}

const PAUSE: Duration = Duration::from_millis(200);
const WIDTH: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let secs = Duration::from_secs;
        assert_eq!(
            line(30_000_000, Some(120_000_000), secs(4)),
            "[#######                       ] 25 % of 120.0 MB, 12 s left"
        );
        assert_eq!(line(5, Some(4), secs(1)), format!("[{}] 100 % of 0.0 MB, 0 s left", "#".repeat(30)));
        assert_eq!(line(2_500_000, None, secs(1)), "2.5 MB read");
        assert_eq!(line(0, Some(0), secs(0)), "0.0 MB read");
    }

    #[test]
    fn nothing_is_shown_where_nobody_looks() {
        let begun = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        let mut progress = Progress { total: None, begun, shown: None, terminal: false };
        progress.at(5);
        assert!(progress.shown.is_none());
    }
}
