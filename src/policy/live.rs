//! The bundle in force, and how another takes its place.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::bundle::Bundle;
use super::problem::LoadError;
use super::settings::Settings;
use crate::model::Timestamp;

/// Holds the bundle in force. Reading it never waits.
#[derive(Debug)]
pub struct Policy {
    settings: Settings,
    bundle: ArcSwap<Bundle>,
    /// One reload at a time, or a slow one would put an older bundle back.
    reloading: Mutex<()>,
}

/// What a reload did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reloaded {
    /// Digest of the bundle that was in force.
    pub old: Box<str>,
    /// Digest of the bundle in force now.
    pub new: Box<str>,
    /// Whether they differ: every living flow is then judged again.
    pub changed: bool,
}

impl Policy {
    /// Reads the folder for the first time.
    ///
    /// # Errors
    /// [`LoadError`] with every mistake.
    pub fn load(settings: Settings, now: Timestamp) -> Result<Self, LoadError> {
        let bundle = ArcSwap::from_pointee(Bundle::load(&settings, now)?);
        Ok(Self { settings, bundle, reloading: Mutex::new(()) })
    }

    /// The bundle in force. It stays whole while it is held, however often policy is reloaded.
    pub fn current(&self) -> Arc<Bundle> {
        self.bundle.load_full()
    }

    /// Reads the folder again. Unchanged files keep the old bundle and the answers it remembers. Touches the disk:
    /// call it off the async threads.
    ///
    /// # Errors
    /// [`LoadError`] with every mistake; the old bundle then stays in force.
    pub fn reload(&self, now: Timestamp) -> Result<Reloaded, LoadError> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Bundle::load(&self.settings, now)?;
        let old = self.current();
        let changed = old.digest() != fresh.digest();
        let told = Reloaded { old: old.digest().into(), new: fresh.digest().into(), changed };
        if changed {
            self.bundle.store(Arc::new(fresh));
        }
        Ok(told)
    }
}
