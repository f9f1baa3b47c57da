//! Admits or refuses work before it costs anything.
//!
//! Before anyone is known: [`Knocks`] and [`Handshakes`]. Once a device is known: [`Governor`]. For the process as a
//! whole: [`Pressure`]. All but [`sample`] and [`raise_descriptors`] are deciders: time is an argument.

mod bucket;
mod governor;
mod knocks;
mod places;
mod pressure;
mod remembered;
mod sample;
mod settings;

pub use governor::{Governor, Slot, retry_after};
pub use knocks::{HandshakeSlot, Handshakes, Knocks};
pub use pressure::{Pressure, Sample, judge};
pub use sample::{SampleError, raise_descriptors, sample};
pub use settings::*;

#[cfg(test)]
mod tests {
    use super::Settings;
    use std::num::{NonZeroU32, NonZeroU64};

    /// Limits that no test reaches unless it sets its own.
    pub(super) fn settings() -> Settings {
        let often = NonZeroU32::new(1_000_000).unwrap();
        Settings {
            knocks_per_second: often,
            knocks_burst: often,
            sources_max: 1000,
            handshakes_max: 1000,
            flows_per_second: often,
            flows_burst: often,
            flows_per_device_max: 1000,
            flows_max: 1000,
            bytes_per_second: NonZeroU64::new(1 << 30).unwrap(),
            devices_max: 1000,
            memory_max: 1 << 30,
            descriptors_reserve: 64,
        }
    }
}
