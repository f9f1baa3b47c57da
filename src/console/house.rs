//! What the console asks of the house behind it; `agent` answers.

use std::net::IpAddr;

use crate::model::{FlowId, Reason};
use crate::net::BoxFuture;

/// The house behind the console.
pub trait House: Send + Sync + 'static {
    /// Whether the process works at all.
    fn live(&self) -> bool;

    /// What must be in order before traffic may come; with none of it checked nothing is ready.
    fn checks(&self) -> Vec<Check>;

    /// OpenMetrics text.
    fn metrics(&self) -> String;

    /// What is, in general.
    fn status(&self) -> serde_json::Value;

    /// The living flows.
    fn flows(&self) -> serde_json::Value;

    /// The effective configuration as TOML.
    fn config(&self) -> String;

    /// Does what is asked, or says what came of it, in a line for people.
    fn ask(&self, ask: Ask) -> BoxFuture<Result<String, AskError>>;

    /// Writes down what a local user wants of the socket, before it is done.
    ///
    /// Asks that change something are refused when this fails; reading goes on.
    fn saw(&self, event: AdminEvent) -> BoxFuture<Result<(), Reason>>;

    /// Counts a refusal of the console that [`House::saw`] has heard of.
    fn refused(&self, reason: Reason);

    /// Counts and writes down a refusal that [`House::saw`] does not hear of: at the TCP address, or of one connection
    /// too many. `what` is method and path, at most 128 characters, empty when nothing was read.
    fn turned_away(&self, caller: Caller, what: &str, reason: Reason);
}

/// Who asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Caller {
    /// Somebody at the TCP address.
    At(IpAddr),
    /// A user of this host at the socket.
    User(u32),
}

/// One thing that must be in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// One word: `certificate`, `policy`, `audit`.
    pub name: &'static str,
    /// In order.
    pub ok: bool,
    /// What is wrong, or worth a remark; one line.
    pub sentence: String,
}

/// What takes its time or may fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ask {
    /// The signed head of the audit log.
    Checkpoint,
    /// Read policy, certificates and revocation lists again.
    Reload,
    /// Take nothing new, let the living flows end. Answered when it has begun.
    Drain,
    /// Let every device out of the quarantine that the analyser sent it into.
    Release,
    /// End one flow.
    CloseFlow(FlowId),
}

impl Ask {
    /// Whether it changes something.
    pub fn changes(self) -> bool {
        match self {
            Self::Checkpoint => false,
            Self::Reload | Self::Drain | Self::Release | Self::CloseFlow(_) => true,
        }
    }
}

/// Why an ask came to nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// No such flow lives.
    #[error("no flow `{0}` is alive")]
    FlowUnknown(FlowId),
    /// Anything else, such as every mistake of the new policy.
    #[error("{detail}")]
    Failed {
        /// Its kind.
        reason: Reason,
        /// What is wrong, for people.
        detail: String,
    },
}

/// What a local user wanted of the admin socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AdminEvent {
    /// Who: the user id that the kernel tells.
    pub uid: u32,
    /// What: method and path, at most 128 characters.
    pub what: String,
    /// Why it was refused, when it was.
    pub refused: Option<Reason>,
}
