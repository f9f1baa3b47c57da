//! Turns captures and logs into what the analyser hears.
//!
//! Every reader gives either [`Event`](crate::analyser::Event)s in the order in which things happened (a capture), or
//! [`FlowRecord`]s in the order in which flows ended (a log). Readers decide nothing.

mod assembly;
mod flow_csv;
mod pcap;
mod record;
#[cfg(test)]
pub(crate) mod support;

pub use assembly::{Assembly, Bounds, HEARD_MAX, Heard, Recognise};
pub use flow_csv::{FlowCsv, FlowCsvError, RECORD_MAX};
pub use pcap::{Flags, Packet, Packets, Passed, PcapError};
pub use record::FlowRecord;
