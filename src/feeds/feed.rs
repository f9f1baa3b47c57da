//! Whatever the form, one stream: a capture, a Zeek log or an audit log, as what the analyser hears.

use std::io::{BufRead, Read};

use super::pcap::{Packets, PcapError};
use super::{Assembly, AuditError, Bounds, Entries, FlowRecord, Flows, Heard, Recognise, ZeekError};
use crate::analyser::{Keys, Moment};

/// Why a stream cannot be read on, or why a piece of it was left out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// Of a capture.
    #[error(transparent)]
    Pcap(#[from] PcapError),
    /// Of a Zeek log.
    #[error(transparent)]
    Zeek(#[from] ZeekError),
    /// Of an audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl FeedError {
    /// Whether nothing more can be read after it.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Pcap(_) => true,
            Self::Zeek(error) => error.is_final(),
            Self::Audit(error) => error.is_final(),
        }
    }
}

/// A stream of things heard.
pub struct Feed {
    source: Source,
}

enum Source {
    Pcap { packets: Packets, table: Box<Assembly>, last: Moment, over: bool },
    Zeek { flows: Flows<Box<dyn BufRead>>, keys: Keys, record: Box<FlowRecord>, number: u64 },
    Audit(Entries<Box<dyn BufRead>>),
}

impl Feed {
    /// From a capture, pcap or pcapng.
    ///
    /// # Errors
    /// [`PcapError`] when it is none.
    pub fn pcap(
        input: impl Read + 'static,
        bounds: Bounds,
        keys: Keys,
        recognise: Recognise,
    ) -> Result<Self, FeedError> {
        let packets = Packets::new(input)?;
        let table = Box::new(Assembly::new(bounds, keys, recognise));
        Ok(Self { source: Source::Pcap { packets, table, last: Moment(0), over: false } })
    }

    /// From a Zeek `conn.log`, text or JSON.
    pub fn zeek(input: impl BufRead + 'static, keys: Keys) -> Self {
        let flows = Flows::new(Box::new(input) as Box<dyn BufRead>);
        Self { source: Source::Zeek { flows, keys, record: Box::default(), number: 0 } }
    }

    /// From a segment of an audit log.
    pub fn audit(input: impl BufRead + 'static, keys: Keys) -> Self {
        Self { source: Source::Audit(Entries::new(Box::new(input), keys)) }
    }

    /// Appends to `heard` what comes next; false at the end. After an error that is not final it can be read on; a
    /// capture that ends badly still gives the flows that were open.
    ///
    /// # Errors
    /// [`FeedError`] with offset or line.
    pub fn advance(&mut self, heard: &mut Vec<Heard>) -> Result<bool, FeedError> {
        match &mut self.source {
            Source::Pcap { packets, table, last, over } => {
                if !*over {
                    match packets.advance() {
                        Ok(Some(packet)) => {
                            *last = packet.at;
                            table.push(&packet, heard);
                            return Ok(true);
                        }
                        Ok(None) => *over = true,
                        Err(error) => {
                            *over = true;
                            return Err(error.into());
                        }
                    }
                }
                let before = heard.len();
                let more = table.finish(*last, heard);
                Ok(more || heard.len() > before)
            }
            Source::Zeek { flows, keys, record, number } => {
                if !flows.advance(record)? {
                    return Ok(false);
                }
                *number += 1;
                let [open, close] = record.events(keys, *number);
                heard.push(Heard { event: open, record: None });
                heard.push(Heard { event: close, record: Some(record.clone()) });
                Ok(true)
            }
            Source::Audit(entries) => Ok(entries.advance(heard)?),
        }
    }

    /// How many bytes were read so far.
    pub fn offset(&self) -> u64 {
        match &self.source {
            Source::Pcap { packets, .. } => packets.offset(),
            Source::Zeek { flows, .. } => flows.offset(),
            Source::Audit(entries) => entries.offset(),
        }
    }

    /// What was left out, in words with its count; only what there was.
    pub fn left_out(&self) -> Vec<(u64, &'static str)> {
        let mut all = match &self.source {
            Source::Pcap { packets, table, .. } => {
                let passed = packets.passed();
                vec![
                    (passed.others, "packets that hold neither TCP nor UDP"),
                    (passed.fragments, "fragments of packets"),
                    (passed.malformed, "packets with headers cut short or wrong"),
                    (passed.strange, "blocks of a kind not known"),
                    (table.evicted(), "flows ended early because too many were open"),
                ]
            }
            Source::Zeek { flows, .. } => vec![(flows.passed(), "flows of neither TCP nor UDP")],
            Source::Audit(entries) => {
                vec![
                    (entries.passed(), "refusals that tell nothing of a device"),
                    (entries.evicted(), "flows ended early because too many were open"),
                ]
            }
        };
        all.retain(|(count, _)| *count > 0);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::feeds::support::{Frame, capture, tcp};

    /// Records, mistakes that can be read over, and what ended it.
    fn play(mut feed: Feed) -> (usize, usize, Option<String>) {
        let (mut records, mut mistakes, mut end) = (0, 0, None);
        let mut heard = Vec::new();
        loop {
            match feed.advance(&mut heard) {
                Ok(true) => {}
                Ok(false) => return (records, mistakes, end),
                Err(error) if error.is_final() => end = Some(error.to_string()),
                Err(_) => mistakes += 1,
            }
            records += heard.drain(..).filter(|h| h.record.is_some()).count();
        }
    }

    fn keys() -> Keys {
        Keys::new([0, 0])
    }

    #[test]
    fn a_capture_that_is_cut_still_tells_its_flows() {
        let frame = |n: u16| Frame::at(1, tcp(&format!("10.0.0.1:{n}"), "10.0.0.2:80", "S", b""));
        let frames: Vec<_> = (1..=100).map(frame).collect();
        let whole = capture(1, false, false, &frames);
        let open =
            |bytes: Vec<u8>| Feed::pcap(Cursor::new(bytes), Bounds::default(), keys(), |_, _| None).unwrap();
        assert_eq!(play(open(whole.clone())), (100, 0, None));
        let (records, _, end) = play(open(whole[..whole.len() - 1].to_vec()));
        assert_eq!(records, 99);
        assert!(end.unwrap().contains("in the middle of a block"));
    }

    #[test]
    fn logs_are_read_over_their_mistakes() {
        let row = "1\tC\t10.0.0.1\t9\t10.0.0.2\t80\ttcp\t-\t1\t2\t3\tSF\tT\tF\t0\tS\t1\t1\t1\t1\n";
        let log = format!("{row}nonsense\n{row}");
        assert_eq!(play(Feed::zeek(Cursor::new(log.into_bytes()), keys())), (2, 1, None));
        let entry = "{\"seq\":0,\"time\":\"2023-11-14T22:13:20.000Z\",\"kind\":\"deny\",\"device\":\"d\",\"service\":\"s\"}\n";
        let log = format!("{entry}nonsense\n{entry}");
        let mut feed = Feed::audit(Cursor::new(log.clone().into_bytes()), keys());
        while feed.advance(&mut Vec::new()).unwrap_or(true) {}
        assert_eq!((feed.offset(), feed.left_out().len()), (log.len() as u64, 0));
        assert_eq!(play(Feed::audit(Cursor::new(log.into_bytes()), keys())), (2, 1, None));
    }

    #[test]
    fn a_million_services_take_no_memory_of_a_reader() {
        let mut log = String::new();
        for n in 0..50_000_u32 {
            log.push_str(&format!(
                "1\tC\t10.0.0.1\t9\t10.{}.{}.{}\t80\ttcp\t-\t1\t2\t3\tSF\tT\tF\t0\tS\t1\t1\t1\t1\n",
                n >> 16,
                n >> 8 & 255,
                n & 255
            ));
        }
        let mut feed = Feed::zeek(Cursor::new(log.into_bytes()), keys());
        let mut heard = Vec::new();
        let mut seen = 0;
        while feed.advance(&mut heard).unwrap() {
            seen += heard.len();
            assert!(heard.len() == 2 && heard.capacity() <= 8, "nothing piles up");
            heard.clear();
        }
        assert_eq!(seen, 100_000);
    }
}
