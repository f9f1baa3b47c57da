//! One GCRA bucket in eight bytes; `governor` does the arithmetic, time is an argument.

use std::cell::Cell;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// Nanoseconds since the first moment that a [`Dial`] was shown. Enough for 584 years.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Moment(u64);

/// Turns an [`Instant`], which is opaque, into a number; the first one shown becomes 0.
#[derive(Debug, Default)]
pub(super) struct Dial(OnceLock<Instant>);

impl Dial {
    pub(super) fn read(&self, now: Instant) -> Moment {
        let start = *self.0.get_or_init(|| now);
        let passed = now.saturating_duration_since(start).as_nanos();
        Moment(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// A bucket's state: when it will be full again (the theoretical arrival time of GCRA), as a [`Moment`].
///
/// Which rate it obeys is not kept here, so that a map of 65536 of them stays small.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Nothing that was taken from it is still missing: forgetting it changes no later answer.
    pub(super) fn is_full(&self, now: Moment) -> bool {
        self.0.load(Ordering::Relaxed) <= now.0
    }
}

/// So many cells per second, so many at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Takes that do not fit are refused.
    strict: Quota,
    /// The same rate with the widest burst there is, for [`Rate::book`].
    ledger: Quota,
}

impl Rate {
    pub(super) fn per_second(cells: NonZeroU32, burst: NonZeroU32) -> Self {
        Self::every(Duration::from_nanos(SECOND_NS.div_ceil(u64::from(cells.get()))), burst)
    }

    /// One cell refills in `interval`. Rounded up by the callers: a limit may be a little low, never high.
    fn every(interval: Duration, burst: NonZeroU32) -> Self {
        // `with_period` is `None` for zero only.
        let quota = Quota::with_period(interval.max(Duration::from_nanos(1)))
            .unwrap_or(Quota::per_second(NonZeroU32::MIN));
        Self { strict: quota.allow_burst(burst), ledger: quota.allow_burst(NonZeroU32::MAX) }
    }

    /// Takes one cell; `false` when none is left.
    pub(super) fn take(&self, bucket: &Bucket, now: Moment) -> bool {
        Self::limiter(self.strict, bucket, now).check().is_ok()
    }

    /// Takes `cells` in any case and says how long to wait until they conform.
    ///
    /// What does not conform is a debt that later takes wait for. A debt of 2^32 cells
    /// (over an hour of bytes) is waited for, but grows no further.
    pub(super) fn book(&self, bucket: &Bucket, cells: NonZeroU32, now: Moment) -> Result<(), Duration> {
        let ledger = Self::limiter(self.ledger, bucket, now);
        let booked = matches!(ledger.check_n(cells), Ok(Ok(())));
        let store = ledger.into_state_store();
        let full_in = if booked { store.full_in.get() } else { store.now_full_in() };
        match full_in.checked_sub(self.strict.burst_size_replenished_in()) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// A limiter whose time begins at `now`: it lives for one question, only the bucket's eight bytes stay.
    fn limiter(quota: Quota, bucket: &Bucket, now: Moment) -> Limiter<'_> {
        RateLimiter::new(quota, Seen { bucket, now, full_in: Cell::default() }, Standstill)
    }
}

/// A byte rate as cells of about a microsecond's worth, because `governor` counts in `u32` cells and whole
/// nanoseconds and 4 GiB/s is neither. A charge is rounded up to whole cells.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByteRate {
    cell_bytes: u64,
    rate: Rate,
}

impl ByteRate {
    /// The burst is one second's worth.
    pub(super) fn per_second(bytes: NonZeroU64) -> Self {
        let bytes = bytes.get();
        let cell_bytes = bytes.div_ceil(CELLS_PER_SECOND);
        let interval = (u128::from(cell_bytes) * u128::from(SECOND_NS)).div_ceil(u128::from(bytes));
        let interval = Duration::from_nanos(u64::try_from(interval).unwrap_or(u64::MAX));
        Self { cell_bytes, rate: Rate::every(interval, cells(bytes / cell_bytes)) }
    }

    pub(super) fn book(&self, bucket: &Bucket, len: usize, now: Moment) -> Result<(), Duration> {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        match len {
            0 => Ok(()),
            _ => self.rate.book(bucket, cells(len.div_ceil(self.cell_bytes)), now),
        }
    }
}

type Limiter<'a> = RateLimiter<NotKeyed, Seen<'a>, Standstill, NoOpMiddleware<Nanos>>;

/// A bucket seen from `now`, which is this view's zero.
struct Seen<'a> {
    bucket: &'a Bucket,
    now: Moment,
    /// What the last successful take left: how long until the bucket is full again.
    full_in: Cell<Duration>,
}

impl Seen<'_> {
    fn now_full_in(&self) -> Duration {
        Duration::from_nanos(self.bucket.0.load(Ordering::Relaxed).saturating_sub(self.now.0))
    }
}

impl StateStore for Seen<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // A plain counter: nothing else is published through it, so no ordering is needed.
        let mut seen = self.bucket.0.load(Ordering::Relaxed);
        loop {
            let (answer, full_in) = judge(Some(Nanos::from(seen.saturating_sub(self.now.0))))?;
            let next = self.now.0.saturating_add(full_in.as_u64());
            match self.bucket.0.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    self.full_in.set(full_in.into());
                    return Ok(answer);
                }
                Err(other) => seen = other,
            }
        }
    }
}

/// The clock of a limiter that lives for one question only.
struct Standstill;

impl Clock for Standstill {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(0)
    }
}

fn cells(count: u64) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

const SECOND_NS: u64 = 1_000_000_000;
/// Cells are rounded to whole nanoseconds: at a microsecond each that is an error of 0.1 %.
const CELLS_PER_SECOND: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn n32(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// Books `(at_ms, len)` at so many bytes per second; returns the waits in ms.
    fn book(bytes_per_second: u64, takes: &[(u64, usize)]) -> Vec<u128> {
        let rate = ByteRate::per_second(NonZeroU64::new(bytes_per_second).unwrap());
        let bucket = Bucket::default();
        let at = |ms: u64| Moment(ms * 1_000_000);
        takes
            .iter()
            .map(|(ms, len)| rate.book(&bucket, *len, at(*ms)).err().unwrap_or_default().as_millis())
            .collect()
    }

    #[test]
    fn one_second_of_bytes_passes_at_once_and_the_rest_waits() {
        assert_eq!(book(1000, &[(0, 600), (0, 400), (0, 500), (0, 500), (2000, 0)]), [0, 0, 500, 1000, 0]);
    }

    #[test]
    fn a_chunk_larger_than_the_burst_is_booked_and_waits_its_time() {
        assert_eq!(book(1000, &[(0, 5000), (0, 1), (4001, 999), (8000, 1000)]), [4000, 4001, 999, 0]);
    }

    #[test]
    fn the_rate_holds_from_one_byte_to_far_more_than_four_gibibytes_per_second() {
        for bytes in [1, 999, 1_000_001, 4 << 30, 1 << 50] {
            let second = usize::try_from(bytes).unwrap();
            let waits = book(bytes, &[(0, second), (0, second)]);
            assert!(waits[0] <= 2, "{bytes}: {waits:?}");
            assert!((998..=1003).contains(&waits[1]), "{bytes}: {waits:?}");
        }
    }

    #[test]
    fn a_debt_past_what_can_be_counted_is_waited_for_and_stops_nobody() {
        let waits = book(1, &[(0, usize::MAX), (0, usize::MAX), (0, 1)]);
        assert!(waits.iter().all(|ms| *ms > 4_000_000_000_000), "{waits:?}");
    }

    #[test]
    fn a_clock_shown_an_earlier_moment_reads_zero() {
        let dial = Dial::default();
        let start = Instant::now() + Duration::from_secs(9);
        assert_eq!(dial.read(start), Moment(0));
        assert_eq!(dial.read(start - Duration::from_secs(1)), Moment(0));
        assert_eq!(dial.read(start + Duration::from_nanos(7)), Moment(7));
    }

    proptest! {
        #[test]
        fn no_window_admits_more_than_burst_and_rate(
            rate in 1u32..5000, burst in 1u32..50, steps in prop::collection::vec(0u64..40_000_000, 1..300)
        ) {
            let bucket = Bucket::default();
            let limit = Rate::per_second(n32(rate), n32(burst));
            let (mut now, mut admitted) = (0u64, 0u128);
            for step in steps {
                now += step;
                admitted += u128::from(limit.take(&bucket, Moment(now)));
                let most = u128::from(burst) + u128::from(now) * u128::from(rate) / u128::from(SECOND_NS);
                prop_assert!(admitted <= most, "{admitted} of {most} at {now} ns");
            }
        }

        #[test]
        fn what_waits_as_told_never_passes_faster_than_burst_and_rate(
            rate in 1u64..50_000_000, lens in prop::collection::vec((1usize..600_000, 0u64..50_000_000), 1..100)
        ) {
            let bucket = Bucket::default();
            let limit = ByteRate::per_second(NonZeroU64::new(rate).unwrap());
            let (mut now, mut passed) = (0u64, 0u128);
            for (len, step) in lens {
                now += step;
                let wait = limit.book(&bucket, len, Moment(now)).err().unwrap_or_default();
                passed += len as u128;
                let until = u128::from(now) + wait.as_nanos();
                let most = u128::from(rate) + until * u128::from(rate) / u128::from(SECOND_NS) + 1;
                prop_assert!(passed <= most, "{passed} of {most} by {until} ns");
            }
        }
    }
}
