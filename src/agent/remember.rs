//! When what the analyser learnt is recalled and kept, and what is said of it.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use super::build::StartError;
use crate::device::Salt;
use crate::flow::{Behaviour, BehaviourSettings, Memory, Mode, Rooms};
use crate::model::Timestamp;
use crate::telemetry::{Metrics, Snapshot};

/// Keeps what was learnt, and knows how that stands.
pub(super) struct Keeper {
    /// None when nothing is kept.
    memory: Option<Memory>,
    every: Duration,
    /// How it began: recalled, anew, or not kept at all.
    begun: String,
    state: Mutex<State>,
}

/// How keeping stands.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// When it was written last.
    pub kept_at: Option<Timestamp>,
    /// Why it could not be written at the last try.
    pub problem: Option<String>,
}

/// What the analyser learnt in an earlier life, or nothing; it never is in the way of a start. `salt` is the file of the
/// secret that the file is sealed under: made when there is none.
pub(super) fn recall(
    settings: &BehaviourSettings,
    salt: &Path,
    metrics: &Metrics,
    now: Timestamp,
) -> Result<(Behaviour, Keeper), StartError> {
    let anew = |memory, begun| {
        let every = settings.remember_every;
        Ok((Behaviour::new(settings, seed()?), Keeper { memory, every, begun, state: Mutex::default() }))
    };
    let path = match (&settings.remember, settings.mode) {
        (Some(path), Mode::Observe | Mode::Enforce) => path,
        (None, Mode::Observe | Mode::Enforce) => {
            return anew(None, "off, a stop forgets what was learnt".into());
        }
        (_, Mode::Off) => return anew(None, "off".into()),
    };
    let salt = match Salt::load_or_make(salt) {
        Ok(salt) => salt,
        Err(e) => {
            tracing::warn!(
                "what the analyser learns will be forgotten at the next stop, it cannot be sealed: {e}"
            );
            return anew(None, format!("off, it cannot be sealed: {e}"));
        }
    };
    let memory = Memory::new(path.clone(), &salt.derive(PURPOSE));
    let refused = match memory.recall(settings) {
        Ok(None) => return anew(Some(memory), format!("learning since {now}")),
        Ok(Some(recalled)) => {
            let (known, dropped) = (recalled.restored.devices, recalled.restored.dropped);
            let more = if dropped > 0 { format!(", no room for {dropped} more") } else { String::new() };
            let begun = format!("{known} devices known from before, as of {}{more}", recalled.as_of);
            tracing::info!(path = %path.display(), "what the analyser learnt is recalled: {begun}");
            let (every, state) = (settings.remember_every, Mutex::default());
            return Ok((recalled.behaviour, Keeper { memory: Some(memory), every, begun, state }));
        }
        Err(refused) => refused,
    };
    metrics.behaviour_snapshot(Snapshot::Refused);
    let reason = refused.reason();
    let begun = format!("learning anew since {now}, the snapshot was refused: {reason}");
    let (memory, aside) = match memory.set_aside() {
        Ok(aside) => (Some(memory), format!("the file is kept as `{}`", aside.display())),
        // It must not be overwritten: somebody may want to know what happened.
        Err(e) => (None, format!("the file stays and nothing is kept: it cannot be moved away: {e}")),
    };
    tracing::warn!(
        path = %path.display(), reason,
        "what the analyser learnt is refused: {refused}; learning starts anew, {aside}"
    );
    anew(memory, begun)
}

impl Keeper {
    /// How it began, for people.
    pub fn begun(&self) -> &str {
        &self.begun
    }

    /// How keeping stands.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, memory: &Memory, rooms: &Rooms, now: Timestamp) {
        let kept = memory.keep(&rooms.behaviour, now);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match kept {
            Ok(bytes) => {
                rooms.metrics.behaviour_snapshot(Snapshot::Written);
                tracing::debug!(bytes, "what the analyser learnt is kept");
                *state = State { kept_at: Some(now), problem: None };
            }
            Err(e) => {
                rooms.metrics.behaviour_snapshot(Snapshot::Failed);
                // Once is enough, until it changes.
                let problem = e.to_string();
                if state.problem.as_ref() != Some(&problem) {
                    tracing::warn!(
                        "what the analyser learnt cannot be kept, a stop would forget it: {problem}"
                    );
                }
                state.problem = Some(problem);
            }
        }
    }
}

/// Keeps what is learnt from now on, every while and when it is told to stop; `None` where nothing is kept.
pub(super) fn start(rooms: Arc<Rooms>, keeper: Arc<Keeper>) -> std::io::Result<Option<Keeping>> {
    if keeper.memory.is_none() {
        return Ok(None);
    }
    let (stop, stopped) = sync_channel::<()>(1);
    let thread = std::thread::Builder::new().name("memory".into()).spawn(move || {
        let Some(memory) = &keeper.memory else { return };
        loop {
            let woken = stopped.recv_timeout(keeper.every);
            keeper.keep(memory, &rooms, Timestamp::now());
            if woken != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    })?;
    Ok(Some(Keeping { stop, thread }))
}

/// The thread that keeps.
pub(super) struct Keeping {
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Keeping {
    /// Keeps once more and ends. Blocks: call it off the runtime.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// What strangers must not know of the analyser's tables.
fn seed() -> Result<[u64; 2], StartError> {
    let mut bytes = [[0; 8]; 2];
    for half in &mut bytes {
        let random = SystemRandom::new().fill(half);
        random.map_err(|_| StartError(vec!["the system gives no random bytes".into()]))?;
    }
    Ok(bytes.map(u64::from_le_bytes))
}

/// What the secret that seals is for.
const PURPOSE: &str = "countersign analyser snapshot v1";
