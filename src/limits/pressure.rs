//! Refuses new flows while the process runs out of descriptors or memory.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Settings;
use crate::model::Reason;

/// What the process uses, read at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sample {
    /// Open file descriptors.
    pub descriptors_used: u64,
    /// The soft limit on them (`RLIMIT_NOFILE`); `u64::MAX` without one.
    pub descriptors_limit: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

/// Judges one sample: whether a new flow may start.
///
/// # Errors
/// - [`Reason::DescriptorsExhausted`] when fewer than [`Settings::descriptors_reserve`] are left.
/// - [`Reason::MemoryExhausted`] above [`Settings::memory_max`].
pub fn judge(sample: Sample, settings: &Settings) -> Result<(), Reason> {
    let left = sample.descriptors_limit.saturating_sub(sample.descriptors_used);
    if left < settings.descriptors_reserve {
        return Err(Reason::DescriptorsExhausted);
    }
    if sample.resident_bytes > settings.memory_max {
        return Err(Reason::MemoryExhausted);
    }
    Ok(())
}

/// The latest sample, judged for every new flow without a lock.
#[derive(Debug)]
pub struct Pressure {
    settings: Settings,
    descriptors_used: AtomicU64,
    descriptors_limit: AtomicU64,
    resident_bytes: AtomicU64,
}

impl Pressure {
    /// Begins with a first sample: without one nothing could be admitted.
    pub fn new(settings: &Settings, first: Sample) -> Self {
        Self {
            settings: *settings,
            descriptors_used: first.descriptors_used.into(),
            descriptors_limit: first.descriptors_limit.into(),
            resident_bytes: first.resident_bytes.into(),
        }
    }

    /// Replaces the sample; `agent` calls it once a second.
    pub fn update(&self, sample: Sample) {
        // A reader may see half of the old sample: off by one second, as every reading is.
        self.descriptors_used.store(sample.descriptors_used, Ordering::Relaxed);
        self.descriptors_limit.store(sample.descriptors_limit, Ordering::Relaxed);
        self.resident_bytes.store(sample.resident_bytes, Ordering::Relaxed);
    }

    /// Says that no sample could be taken (opening `/proc` needs a descriptor, too): nothing new is admitted until
    /// the next [`Pressure::update`].
    pub fn unknown(&self) {
        self.descriptors_used.store(u64::MAX, Ordering::Relaxed);
        self.descriptors_limit.store(0, Ordering::Relaxed);
    }

    /// The latest sample, for the meters.
    pub fn latest(&self) -> Sample {
        Sample {
            descriptors_used: self.descriptors_used.load(Ordering::Relaxed),
            descriptors_limit: self.descriptors_limit.load(Ordering::Relaxed),
            resident_bytes: self.resident_bytes.load(Ordering::Relaxed),
        }
    }

    /// Whether a new flow may start.
    ///
    /// # Errors
    /// As [`judge`] for the latest sample.
    pub fn admit(&self) -> Result<(), Reason> {
        let sample = self.latest();
        if sample.descriptors_used > sample.descriptors_limit {
            // Also what `unknown` leaves behind, whatever the reserve is.
            return Err(Reason::DescriptorsExhausted);
        }
        judge(sample, &self.settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::tests::settings;

    /// With 1000 descriptors, 64 kept back, and 2000 bytes.
    fn check(descriptors_used: u64, resident_bytes: u64) -> Result<(), Reason> {
        let limits = Settings { memory_max: 2000, descriptors_reserve: 64, ..settings() };
        let sample = Sample { descriptors_used, descriptors_limit: 1000, resident_bytes };
        let pressure = Pressure::new(&limits, Sample { descriptors_used: 0, resident_bytes: 0, ..sample });
        assert_eq!(pressure.admit(), Ok(()));
        pressure.update(sample);
        assert_eq!(pressure.latest(), sample);
        assert_eq!(pressure.admit(), judge(sample, &limits));
        pressure.admit()
    }

    #[test]
    fn descriptors_are_kept_back_for_the_living() {
        assert_eq!(check(936, 0), Ok(()));
        assert_eq!(check(937, 0), Err(Reason::DescriptorsExhausted));
        assert_eq!(check(1001, 0), Err(Reason::DescriptorsExhausted));
    }

    #[test]
    fn memory_above_the_budget_refuses_new_flows() {
        assert_eq!(check(0, 2000), Ok(()));
        assert_eq!(check(0, 2001), Err(Reason::MemoryExhausted));
    }

    #[test]
    fn without_a_sample_nothing_is_admitted_until_the_next() {
        for descriptors_reserve in [0, 64] {
            let limits = Settings { descriptors_reserve, ..settings() };
            let fine = Sample { descriptors_used: 10, descriptors_limit: 1000, resident_bytes: 0 };
            let pressure = Pressure::new(&limits, fine);
            pressure.unknown();
            assert_eq!(pressure.admit(), Err(Reason::DescriptorsExhausted));
            pressure.update(fine);
            assert_eq!(pressure.admit(), Ok(()));
        }
    }
}
