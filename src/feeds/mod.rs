//! Turns captures and logs into what the analyser hears.
//!
//! Every reader gives either [`Event`](crate::analyser::Event)s in the order in which things happened (a capture), or
//! [`FlowRecord`]s in the order in which flows ended (a log). Readers decide nothing.

mod assembly;
mod audit;
mod feed;
mod flow_csv;
mod iso;
mod pcap;
mod record;
#[cfg(test)]
pub(crate) mod support;
mod zeek;

pub use assembly::{Assembly, Bounds, HEARD_MAX, Heard, Recognise};
pub use audit::{AuditError, Entries, parse_audit};
pub use feed::{Feed, FeedError};
pub use flow_csv::{FlowCsv, FlowCsvError, RECORD_MAX};
pub use pcap::{Flags, Packet, Packets, Passed, PcapError};
pub use record::FlowRecord;
pub use zeek::{Flows, ZeekError, parse_zeek};
