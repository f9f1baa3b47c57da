//! Turns captures and logs into what the analyser hears.
//!
//! Every reader gives either [`Event`](crate::analyser::Event)s in the order in which things happened (a capture), or
//! [`FlowRecord`]s in the order in which flows ended (a log). Readers decide nothing.

mod flow_csv;
mod record;

pub use flow_csv::{FlowCsv, FlowCsvError, RECORD_MAX};
pub use record::FlowRecord;
