//! The app that this sidecar starts when it is ready, and leaves with.

use std::process::ExitStatus;

use tokio::process::{Child, Command};

/// A command and its arguments, at least one word.
#[derive(Clone, Debug)]
pub struct App(pub Vec<String>);

impl App {
    /// Starts it. It inherits our standard streams and environment.
    pub(super) fn start(&self) -> std::io::Result<Child> {
        let Some((program, args)) = self.0.split_first() else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        Command::new(program).args(args).kill_on_drop(true).spawn()
    }
}

/// Waits for the app's end; for ever when there is none.
pub(super) async fn ended(app: &mut Option<Child>) -> std::io::Result<ExitStatus> {
    match app {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// Asks the app to end, and makes it when it does not.
pub(super) async fn stop(app: &mut Option<Child>, patience: std::time::Duration) {
    let Some(child) = app else { return };
    if let Some(pid) =
        child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(patience, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
