//! Writes a play as canonical flow CSV: a row per finished flow, in the order of completion, with its label.

use std::collections::HashMap;
use std::io::{self, Write};

use super::stage::{Act, Stage};
use crate::analyser::Event;
use crate::analyser::event::{Carrier, End, FlowKey, Tongue};

/// The head of the CSV.
pub const COLUMNS: &str = "ts,dur,peer,dst,dport,proto,service,out_b,in_b,out_p,in_p,state,label,kind";

/// Collects openings until their endings, and writes a row for each.
pub struct Rows<W> {
    out: W,
    kind: &'static str,
    open: HashMap<FlowKey, u64>,
    /// Rows written.
    pub rows: u64,
}

impl<W: Write> Rows<W> {
    /// Writes the head. `kind` is what rows of the attack are called.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(mut out: W, kind: &'static str) -> io::Result<Self> {
        writeln!(out, "{COLUMNS}")?;
        Ok(Self { out, kind, open: HashMap::new(), rows: 0 })
    }

    /// Takes one act of the play.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn take(&mut self, act: &Act, stage: &Stage) -> io::Result<()> {
        match act.event {
            Event::Open { began, flow, .. } => {
                self.open.insert(flow, began.0);
            }
            Event::Close { t, flow, end, bytes: [out_b, in_b], chunks: [out_p, in_p] } => {
                let Some(began) = self.open.remove(&flow) else { return Ok(()) };
                let Some(actor) = stage.actors.get(usize::from(act.device.0)) else { return Ok(()) };
                let Some(place) = stage.places.get(usize::from(act.service.0)) else { return Ok(()) };
                let lasted = t.0.saturating_sub(began);
                let proto = if place.target.carrier == Carrier::Udp { "udp" } else { "tcp" };
                let state = match end {
                    End::Fin => "ok",
                    End::Reset => "rst",
                    End::Timeout | End::Refused | End::Policy => "fail",
                };
                let (label, kind) = if act.attack { (1, self.kind) } else { (0, "benign") };
                writeln!(
                    self.out,
                    "{}.{:06},{}.{:06},{},{},{},{proto},{},{out_b},{in_b},{out_p},{in_p},{state},{label},{kind}",
                    began / 1_000_000,
                    began % 1_000_000,
                    lasted / 1_000_000,
                    lasted % 1_000_000,
                    actor.name,
                    place.name,
                    place.target.port,
                    spoken(place.target.declared),
                )?;
                self.rows += 1;
            }
            Event::Chunk { .. } | Event::Message { .. } | Event::Tick { .. } => {}
        }
        Ok(())
    }
}

/// As Zeek's logs name it; nothing when there is no name.
fn spoken(tongue: Tongue) -> &'static str {
    match tongue {
        Tongue::Tls => "ssl",
        Tongue::Http => "http",
        Tongue::Http2 => "http2",
        Tongue::Mqtt => "mqtt",
        Tongue::Ssh => "ssh",
        Tongue::Dns => "dns",
        Tongue::Postgres => "postgresql",
        Tongue::Mysql => "mysql",
        Tongue::Redis => "redis",
        Tongue::Kafka => "kafka",
        Tongue::Rdp => "rdp",
        Tongue::Unknown | Tongue::Text | Tongue::Binary | Tongue::Random => "",
    }
}
