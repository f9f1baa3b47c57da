//! Reads what this process uses, and lifts its descriptor limit. The only file of this room that looks at the world.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Sample;

/// Reads `/proc/self` and the descriptor limit. Costs a directory listing: once a second is plenty.
///
/// # Errors
/// [`SampleError`]; call [`super::Pressure::unknown`] then.
pub fn sample() -> Result<Sample, SampleError> {
    let read = |path: &'static str| move |source| SampleError::Read { path, source };
    let listed = fs::read_dir(DESCRIPTORS).map_err(read(DESCRIPTORS))?.count();
    let status = fs::read_to_string(STATUS).map_err(read(STATUS))?;
    Ok(Sample {
        // The listing itself holds one.
        descriptors_used: u64::try_from(listed).unwrap_or(u64::MAX).saturating_sub(1),
        descriptors_limit: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        resident_bytes: resident_bytes(&status).ok_or(SampleError::Resident)?,
    })
}

/// Raises the soft limit on descriptors to the hard one; returns the limit now in force (`u64::MAX` without one).
///
/// # Errors
/// The kernel's; the old limit stays in force.
pub fn raise_descriptors() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Why no sample could be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A file under `/proc` cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// Which one.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not say how much memory is resident.
    #[error("`{STATUS}` has no line `VmRSS: <number> kB`")]
    Resident,
}

/// `VmRSS` of a `/proc/<pid>/status` (proc_pid_status(5)), in bytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

const DESCRIPTORS: &str = "/proc/self/fd";
const STATUS: &str = "/proc/self/status";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_sees_an_open_file_and_some_memory() {
        let before = sample().unwrap();
        let files: Vec<_> = (0..100).map(|_| fs::File::open(STATUS).unwrap()).collect();
        // Other tests of this process open and close files meanwhile.
        assert!(sample().unwrap().descriptors_used > before.descriptors_used + 20);
        assert!(before.resident_bytes > 0 && before.descriptors_limit > before.descriptors_used);
        drop(files);
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise_descriptors().unwrap();
        assert_eq!(sample().unwrap().descriptors_limit, raised);
    }

    #[test]
    fn resident_memory_is_read_in_bytes_or_not_at_all() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    12 kB\nThreads:\t1\n"), Some(12 * 1024));
        for status in ["", "VmRSS:\t12 MB", "VmRSS: kB", "VmRSS:\t99999999999999999999 kB", "VmRSS:\t-1 kB"] {
            assert_eq!(resident_bytes(status), None, "{status}");
        }
    }
}
