//! Reads packet captures, pcap and pcapng, packet after packet in bounded memory.
//!
//! Frames come from `pcap-parser`, headers from `etherparse`. Understood are Ethernet (with VLAN tags), Linux cooked
//! (SLL, SLL2), loopback and raw IP; TCP and UDP in IPv4 and IPv6. Everything else is passed over and counted.

use std::cell::RefCell;
use std::io::{self, Cursor, Read};
use std::net::IpAddr;
use std::rc::Rc;

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, LegacyPcapReader, Linktype, PcapBlockOwned, PcapNGReader};

use crate::analyser::Moment;
use crate::analyser::event::Carrier;

/// Longest block a capture may hold, in bytes. Tools capture at most 256 KiB of a packet.
pub const BLOCK_MAX: usize = 1024 * 1024;
/// Shortest block of a pcapng file in bytes: its type and its length, twice (draft-ietf-opsawg-pcapng §3.1).
const BLOCK_MIN: u32 = 12;
/// How many interfaces a section of a pcapng file may describe.
pub const INTERFACES_MAX: usize = 1024;
/// How many bytes of a packet's payload are looked at.
pub const SAMPLE_MAX: usize = 256;

/// One TCP segment or UDP datagram.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    /// When it was captured.
    pub at: Moment,
    /// Address and port of the sender.
    pub from: (IpAddr, u16),
    /// Address and port of the receiver.
    pub to: (IpAddr, u16),
    /// TCP or UDP.
    pub carrier: Carrier,
    /// What TCP says with it; nothing for UDP.
    pub flags: Flags,
    /// Bytes of payload on the wire; at most 65,535, what more it says is not believed.
    pub len: u32,
    /// The first bytes of the payload, as far as they were captured; at most `SAMPLE_MAX`.
    pub sample: Vec<u8>,
}

/// The flags of TCP that open and end a flow (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags {
    /// SYN.
    pub syn: bool,
    /// ACK.
    pub ack: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
}

/// Why a capture cannot be read, or read on. Offsets are bytes from its start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PcapError {
    /// Too short for a header, or another kind of file.
    #[error("no pcap and no pcapng file: it begins with `{}`", data_encoding::HEXLOWER.encode(begin))]
    Unknown {
        /// Its first bytes, at most four.
        begin: Vec<u8>,
    },
    /// The header is there, its content is not.
    #[error("capture, offset {offset}: {what}")]
    Malformed {
        /// Where the block begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A block is longer than `BLOCK_MAX`.
    #[error("capture, offset {offset}: a block is longer than {BLOCK_MAX} bytes")]
    TooLong {
        /// Where the block begins.
        offset: u64,
    },
    /// It ends within a block.
    #[error("capture, offset {offset}: it ends in the middle of a block; everything before it was read")]
    Truncated {
        /// Where the block begins.
        offset: u64,
    },
    /// A version whose blocks may look otherwise.
    #[error("capture, offset {offset}: version {major}.{minor}; understood are pcap 2.4 and pcapng 1")]
    Version {
        /// Where the header begins.
        offset: u64,
        /// Its first number.
        major: u16,
        /// Its second.
        minor: u16,
    },
    /// A link layer that is not understood.
    #[error(
        "capture: link type {link} is not understood; understood are Ethernet, Linux cooked, loopback and raw IP"
    )]
    Link {
        /// The number of the link type.
        link: i32,
    },
    /// More interfaces than `INTERFACES_MAX`.
    #[error("capture, offset {offset}: more than {INTERFACES_MAX} interfaces in a section")]
    Interfaces {
        /// Where the block begins.
        offset: u64,
    },
    /// The file cannot be read.
    #[error("capture, offset {offset}: {error}")]
    Read {
        /// How far it was read.
        offset: u64,
        /// Why it ends there.
        error: io::Error,
    },
}

/// What was passed over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Passed {
    /// Packets that hold neither TCP nor UDP: ARP, ICMP, other link layers.
    pub others: u64,
    /// Fragments of IP packets: their ports cannot be told.
    pub fragments: u64,
    /// Packets with headers cut short or wrong.
    pub malformed: u64,
    /// Blocks of a pcapng file of a kind that is not known here; obsolete packet blocks are among them.
    pub strange: u64,
}

/// Reads the packets of a capture.
pub struct Packets {
    reader: Box<dyn PcapReaderIterator>,
    next_generation: bool,
    failure: Rc<RefCell<Option<io::Error>>>,
    section: Section,
    passed: Passed,
    pending: usize,
    done: bool,
}

impl Packets {
    /// Reads the header.
    ///
    /// # Errors
    /// [`PcapError`] when it is no capture, or of a link layer that is not understood.
    pub fn new(mut input: impl Read + 'static) -> Result<Self, PcapError> {
        let head = read_head(&mut input).map_err(|error| PcapError::Read { offset: 0, error })?;
        let unknown = || PcapError::Unknown { begin: head.iter().take(4).copied().collect() };
        let failure = Rc::default();
        let next_generation = head.starts_with(&NEXT_GENERATION);
        let source = Watched { inner: Cursor::new(head.clone()).chain(input), failure: Rc::clone(&failure) };
        let reader: Box<dyn PcapReaderIterator> = if next_generation {
            Box::new(PcapNGReader::new(BUFFER, source).map_err(|_| unknown())?)
        } else {
            Box::new(LegacyPcapReader::new(BUFFER, source).map_err(|_| unknown())?)
        };
        Ok(Self {
            reader,
            next_generation,
            failure,
            section: Section::default(),
            passed: Passed::default(),
            pending: 0,
            done: false,
        })
    }

    /// The next packet; `None` at the end. After an error there is nothing more.
    ///
    /// # Errors
    /// [`PcapError`] where it cannot be read on.
    pub fn advance(&mut self) -> Result<Option<Packet>, PcapError> {
        if self.done {
            return Ok(None);
        }
        let found = self.find();
        self.done = !matches!(found, Ok(Some(_)));
        found
    }

    /// How many bytes were read so far.
    pub fn offset(&self) -> u64 {
        self.reader.consumed() as u64
    }

    /// What was passed over so far.
    pub fn passed(&self) -> Passed {
        self.passed
    }

    fn find(&mut self) -> Result<Option<Packet>, PcapError> {
        loop {
            self.reader.consume(std::mem::take(&mut self.pending));
            let offset = self.reader.consumed() as u64;
            // The parser takes twelve from the length of a block of a kind it does not know. In the wrong order of bytes
            // a length below that is far too long.
            let told = self.reader.data().get(4..8).and_then(|four| four.first_chunk::<4>());
            let least = told.map(|four| u32::from_le_bytes(*four).min(u32::from_be_bytes(*four)));
            if self.next_generation && least.is_some_and(|len| len < BLOCK_MIN) {
                return Err(PcapError::Malformed { offset, what: "a block is shorter than its own frame" });
            }
            match self.reader.next() {
                Ok((size, block)) => {
                    self.pending = size;
                    if let Some(packet) = self.section.packet(&block, offset, &mut self.passed)? {
                        return Ok(Some(packet));
                    }
                }
                Err(pcap_parser::PcapError::Eof) => return Ok(None),
                Err(pcap_parser::PcapError::Incomplete(_)) => self.refill(offset)?,
                Err(pcap_parser::PcapError::UnexpectedEof) => return Err(PcapError::Truncated { offset }),
                Err(pcap_parser::PcapError::BufferTooSmall) => return Err(self.beyond(offset)),
                Err(_) => {
                    let what = "a block's lengths or its type are wrong";
                    return Err(PcapError::Malformed { offset, what });
                }
            }
        }
    }

    fn refill(&mut self, offset: u64) -> Result<(), PcapError> {
        let before = self.reader.data().len();
        let read = self.reader.refill().is_ok();
        if let Some(error) = self.failure.take() {
            return Err(PcapError::Read { offset, error });
        }
        // A parser that wants more of a full buffer would ask for ever.
        let stuck = self.reader.data().len() == before && !self.reader.reader_exhausted();
        if stuck || !read { Err(PcapError::TooLong { offset }) } else { Ok(()) }
    }

    /// The buffer cannot hold the block: it is too long, or the file has ended and says so only in a long length.
    fn beyond(&mut self, offset: u64) -> PcapError {
        match self.refill(offset) {
            Ok(()) if self.reader.reader_exhausted() => PcapError::Truncated { offset },
            Err(error @ PcapError::Read { .. }) => error,
            _ => PcapError::TooLong { offset },
        }
    }
}

/// What the headers of a capture, or of a section of it, say of the packets after them.
#[derive(Default)]
struct Section {
    swapped: bool,
    interfaces: Vec<Interface>,
    at: Moment,
}

#[derive(Clone, Copy)]
struct Interface {
    link: i32,
    /// As option `if_tsresol` has it: a power of ten, or of two with the highest bit set.
    resolution: u8,
    offset_s: i64,
}

impl Section {
    fn packet(
        &mut self,
        block: &PcapBlockOwned<'_>,
        offset: u64,
        passed: &mut Passed,
    ) -> Result<Option<Packet>, PcapError> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let (major, minor) = (header.version_major, header.version_minor);
                // Before 2.4 the two lengths of a packet could stand the other way round.
                if (major, minor) != (2, 4) {
                    return Err(PcapError::Version { offset, major, minor });
                }
                let link = header.network.0 & LINK_MASK;
                if !understood(link) {
                    return Err(PcapError::Link { link });
                }
                let resolution = if header.is_nanosecond_precision() { 9 } else { 6 };
                self.interfaces = vec![Interface { link, resolution, offset_s: 0 }];
                Ok(None)
            }
            PcapBlockOwned::Legacy(frame) => {
                let Some(interface) = self.interfaces.first() else { return Ok(None) };
                let part = if interface.resolution == 9 { frame.ts_usec / 1000 } else { frame.ts_usec };
                self.at = Moment(u64::from(frame.ts_sec) * 1_000_000 + u64::from(part));
                let missing = frame.origlen.saturating_sub(frame.caplen);
                Ok(dissect(interface.link, frame.data, missing, self.at, passed))
            }
            PcapBlockOwned::NG(block) => self.block(block, offset, passed),
        }
    }

    fn block(
        &mut self,
        block: &Block<'_>,
        offset: u64,
        passed: &mut Passed,
    ) -> Result<Option<Packet>, PcapError> {
        match block {
            Block::SectionHeader(header) => {
                let (major, minor) = (header.major_version, header.minor_version);
                // Another second number only adds blocks (draft-ietf-opsawg-pcapng §4.1).
                if major != 1 {
                    return Err(PcapError::Version { offset, major, minor });
                }
                self.swapped = header.big_endian();
                self.interfaces.clear();
            }
            Block::InterfaceDescription(described) => {
                if self.interfaces.len() >= INTERFACES_MAX {
                    return Err(PcapError::Interfaces { offset });
                }
                let said = described.if_tsoffset;
                self.interfaces.push(Interface {
                    link: described.linktype.0,
                    resolution: described.if_tsresol,
                    offset_s: if self.swapped { said.swap_bytes() } else { said },
                });
            }
            Block::EnhancedPacket(frame) => {
                let named = usize::try_from(frame.if_id).ok().and_then(|id| self.interfaces.get(id));
                let Some(interface) = named else {
                    let what = "a packet names an interface that was not described";
                    return Err(PcapError::Malformed { offset, what });
                };
                self.at = moment(frame.ts_high, frame.ts_low, interface);
                let missing = frame.origlen.saturating_sub(frame.caplen);
                return Ok(dissect(interface.link, frame.packet_data(), missing, self.at, passed));
            }
            Block::SimplePacket(frame) => {
                let Some(interface) = self.interfaces.first() else {
                    let what = "a packet stands before the interface it came from";
                    return Err(PcapError::Malformed { offset, what });
                };
                // It has no time of its own: it takes that of the packet before it.
                let data = frame.packet_data();
                let missing = frame.origlen.saturating_sub(u32::try_from(data.len()).unwrap_or(u32::MAX));
                return Ok(dissect(interface.link, data, missing, self.at, passed));
            }
            Block::Unknown(_) | Block::Custom(_) => passed.strange += 1,
            // Statistics, names, secrets: no packets.
            _ => {}
        }
        Ok(None)
    }
}

/// The time of a pcapng packet (draft-ietf-opsawg-pcapng §4.2 `if_tsresol`, §4.3).
fn moment(high: u32, low: u32, interface: &Interface) -> Moment {
    let units = (u128::from(high) << 32) | u128::from(low);
    let power = u32::from(interface.resolution & 0x7f);
    let per_second = if interface.resolution & 0x80 == 0 {
        10_u128.checked_pow(power).unwrap_or(u128::MAX)
    } else {
        1_u128.checked_shl(power).unwrap_or(u128::MAX)
    };
    let us = i128::try_from(units * 1_000_000 / per_second).unwrap_or(i128::MAX);
    let us = us.saturating_add(i128::from(interface.offset_s) * 1_000_000);
    Moment(u64::try_from(us.max(0)).unwrap_or(u64::MAX))
}

/// Reads the headers of one captured frame, of whose end `missing` bytes were not captured.
fn dissect(link: i32, data: &[u8], missing: u32, at: Moment, passed: &mut Passed) -> Option<Packet> {
    let Some(sliced) = slice(link, data) else {
        passed.malformed += u64::from(understood(link));
        passed.others += u64::from(!understood(link));
        return None;
    };
    let (source, target, fragmented, incomplete) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => (
            IpAddr::V4(ip.header().source_addr()),
            IpAddr::V4(ip.header().destination_addr()),
            ip.is_payload_fragmented(),
            ip.payload().incomplete,
        ),
        Some(LaxNetSlice::Ipv6(ip)) => (
            IpAddr::V6(ip.header().source_addr()),
            IpAddr::V6(ip.header().destination_addr()),
            ip.is_payload_fragmented(),
            ip.payload().incomplete,
        ),
        _ => {
            passed.others += 1;
            return None;
        }
    };
    if fragmented {
        passed.fragments += 1;
        return None;
    }
    let missing = if incomplete { missing as usize } else { 0 };
    let (ports, carrier, flags, payload, len) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = Flags { syn: tcp.syn(), ack: tcp.ack(), fin: tcp.fin(), rst: tcp.rst() };
            let ports = (tcp.source_port(), tcp.destination_port());
            let len = tcp.payload().len().saturating_add(missing);
            (ports, Carrier::Tcp, flags, tcp.payload(), len)
        }
        Some(TransportSlice::Udp(udp)) => {
            let ports = (udp.source_port(), udp.destination_port());
            let said = usize::from(udp.length()).saturating_sub(UDP_HEADER);
            let len = if incomplete { said } else { udp.payload().len() };
            (ports, Carrier::Udp, Flags::default(), udp.payload(), len)
        }
        Some(_) => {
            passed.others += 1;
            return None;
        }
        None => {
            let cut = sliced.stop_err.is_some();
            passed.malformed += u64::from(cut);
            passed.others += u64::from(!cut);
            return None;
        }
    };
    Some(Packet {
        at,
        from: (source, ports.0),
        to: (target, ports.1),
        carrier,
        flags,
        len: u32::try_from(len.min(PAYLOAD_MAX)).unwrap_or(u32::MAX),
        sample: payload.iter().take(SAMPLE_MAX).copied().collect(),
    })
}

fn slice(link: i32, data: &[u8]) -> Option<LaxSlicedPacket<'_>> {
    let tagged = |at: usize, header: usize| {
        let kind = data.get(at..)?.first_chunk::<2>()?;
        Some(LaxSlicedPacket::from_ether_type(EtherType(u16::from_be_bytes(*kind)), data.get(header..)?))
    };
    match Linktype(link) {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(data).ok(),
        Linktype::LINUX_SLL => tagged(14, 16),
        Linktype::LINUX_SLL2 => tagged(0, 20),
        Linktype::NULL | Linktype::LOOP => LaxSlicedPacket::from_ip(data.get(4..)?).ok(),
        Linktype::RAW | RAW_BSD | RAW_OPENBSD | Linktype::IPV4 | Linktype::IPV6 => {
            LaxSlicedPacket::from_ip(data).ok()
        }
        _ => None,
    }
}

fn understood(link: i32) -> bool {
    matches!(
        Linktype(link),
        Linktype::ETHERNET
            | Linktype::LINUX_SLL
            | Linktype::LINUX_SLL2
            | Linktype::NULL
            | Linktype::LOOP
            | Linktype::RAW
            | RAW_BSD
            | RAW_OPENBSD
            | Linktype::IPV4
            | Linktype::IPV6
    )
}

/// The header of a pcap file, or the first block of a pcapng file as far as it may be long: the parser wants it whole,
/// and a pipe gives what it has.
fn read_head(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    input.by_ref().take(HEADER as u64).read_to_end(&mut head)?;
    if head.starts_with(&NEXT_GENERATION)
        && let (Some(len), Some(order)) = (word(&head, 4), word(&head, 8))
    {
        let len = if order == ORDER { len } else { len.swap_bytes() };
        let rest = (len as usize).min(BLOCK_MAX / 2).saturating_sub(HEADER);
        input.by_ref().take(rest as u64).read_to_end(&mut head)?;
    }
    Ok(head)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Keeps the error that the parser would drop, and reads on after an interruption.
struct Watched<R> {
    inner: R,
    failure: Rc<RefCell<Option<io::Error>>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(space) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    *self.failure.borrow_mut() = Some(error);
                    return Err(kind.into());
                }
                read => return read,
            }
        }
    }
}

/// The parser's buffer: it takes no block that fills it.
const BUFFER: usize = BLOCK_MAX + 1;
/// First bytes of a pcapng section header, whatever its byte order.
const NEXT_GENERATION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// The byte-order magic of a section, read as little-endian.
const ORDER: u32 = 0x1a2b_3c4d;
/// Bytes of a pcap header; no pcapng section header is shorter.
const HEADER: usize = 24;
/// The link type is in the lower bits; above it a capture may say how long its checksums are.
const LINK_MASK: i32 = 0x0fff_ffff;
/// `LINKTYPE_RAW` as some systems number it.
const RAW_BSD: Linktype = Linktype(12);
const RAW_OPENBSD: Linktype = Linktype(14);
const UDP_HEADER: usize = 8;
const PAYLOAD_MAX: usize = 65_535;

#[cfg(test)]
#[path = "pcap_tests.rs"]
mod tests;
