//! The story of one flow, and the table of living ones. Start reading in `run.rs`.

mod behaviour;
mod exit;
mod intake;
mod record;
mod relay;
mod remembered;
mod routes;
mod run;
mod settings;
mod table;
mod talk;

pub use crate::analyser::event::Tongue;
pub use behaviour::{Behaviour, Counted, Mode, Settings as BehaviourSettings, Way, tick};
pub use intake::{Asker, Intake, Wanted};
pub use record::look_after;
pub use relay::{End, Listener, Ways, relay};
pub use remembered::{Memory, MemoryError, Recalled};
pub use run::{Rooms, decision_id, judge_again, run};
pub use settings::*;
pub use table::{Cut, Living, Seat, Table};
pub use talk::Talk;
