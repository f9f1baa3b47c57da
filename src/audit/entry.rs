//! One entry of the log: what the house fills in, and the JSON line it becomes.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{
    DecisionId, Direction, FlowId, Reason, Refusal, ServiceName, SpiffeId, Timestamp, Transport,
};

/// One thing that happened. Fields that are not known stay `None` and are left out of the line.
///
/// Fill it with struct update syntax: `Entry { flow: Some(id), ..Entry::new(now, Kind::Open) }`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Entry {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub kind: Kind,
    /// The decision a stranger may quote.
    pub decision: Option<DecisionId>,
    /// The flow, numbered within this run of the process.
    pub flow: Option<FlowId>,
    /// Which way the flow goes.
    pub direction: Option<Direction>,
    /// Whose flow it is.
    pub device: Option<SpiffeId>,
    /// The sidecar at the other end, where that is not `device`.
    pub peer: Option<SpiffeId>,
    /// Where the bytes came from.
    pub source: Option<Source>,
    /// The service asked for.
    pub service: Option<ServiceName>,
    /// The target as text; cut to [`Entry::TARGET_MAX`] bytes.
    pub target: Option<Box<str>>,
    /// Why it was refused or ended.
    pub reason: Option<Reason>,
    /// The rule that decided; cut to [`Entry::RULE_MAX`] bytes.
    pub rule: Option<Box<str>>,
    /// A few plain words; cut to [`Entry::DETAIL_MAX`] bytes.
    pub detail: Option<Box<str>>,
    /// What carries the flow between the sidecars.
    pub transport: Option<Transport>,
    /// The key exchange group; cut to [`Entry::TEXT_MAX`] bytes.
    pub group: Option<Cow<'static, str>>,
    /// The cipher suite; cut to [`Entry::TEXT_MAX`] bytes.
    pub cipher: Option<Cow<'static, str>>,
    /// The session; cut to [`Entry::TEXT_MAX`] bytes.
    pub session: Option<Box<str>>,
    /// How old the session's keys are, in seconds.
    pub key_age_s: Option<u64>,
    /// Bytes from the source to the target.
    pub bytes_in: Option<u64>,
    /// Bytes from the target to the source.
    pub bytes_out: Option<u64>,
    /// How long it took, in milliseconds.
    pub ms: Option<u64>,
    /// Digest of the policy bundle in force; cut to [`Entry::TEXT_MAX`] bytes.
    pub bundle: Option<Box<str>>,
    /// How many like this one are summed up in this entry.
    pub count: Option<u64>,
}

impl Entry {
    /// Longest line in bytes, without its newline. The sum of the bounds below stays under it, escapes included.
    pub const LINE_MAX: usize = 16 * 1024;
    /// Longest target in bytes.
    pub const TARGET_MAX: usize = 256;
    /// Longest rule in bytes.
    pub const RULE_MAX: usize = 256;
    /// Longest detail in bytes.
    pub const DETAIL_MAX: usize = 768;
    /// Longest of the other texts in bytes.
    pub const TEXT_MAX: usize = 96;

    /// An entry that says only when and what.
    pub fn new(at: Timestamp, kind: Kind) -> Self {
        Self { at, kind, ..Self::default() }
    }

    /// A refusal, with its decision, reason, rule and detail.
    pub fn refused(at: Timestamp, refusal: &Refusal) -> Self {
        Self {
            decision: Some(refusal.id),
            reason: Some(refusal.reason),
            rule: Some(refusal.rule.clone()),
            detail: (!refusal.detail.is_empty()).then(|| refusal.detail.clone()),
            ..Self::new(at, Kind::Deny)
        }
    }

    /// Cuts every text to its bound and marks the cut, so that no caller can make the queue or a line large.
    #[must_use]
    pub(super) fn cut(mut self) -> Self {
        let cut = |text: &mut Option<Box<str>>, max: usize| {
            if let Some(long) = text.as_ref().filter(|t| t.len() > max) {
                *text = Some(shorten(long, max).into());
            }
        };
        cut(&mut self.target, Self::TARGET_MAX);
        cut(&mut self.rule, Self::RULE_MAX);
        cut(&mut self.detail, Self::DETAIL_MAX);
        cut(&mut self.session, Self::TEXT_MAX);
        cut(&mut self.bundle, Self::TEXT_MAX);
        for text in [&mut self.group, &mut self.cipher] {
            if let Some(long) = text.as_ref().filter(|t| t.len() > Self::TEXT_MAX) {
                *text = Some(shorten(long, Self::TEXT_MAX).into());
            }
        }
        self
    }

    /// Writes the line of entry `seq` at the end of `out`, newline included.
    pub(super) fn write(&self, seq: u64, out: &mut Vec<u8>) {
        fn text<T: fmt::Display>(value: &Option<T>) -> Option<Cow<'static, str>> {
            value.as_ref().map(|v| Cow::Owned(v.to_string()))
        }
        fn lent(value: Option<&str>) -> Option<Cow<'_, str>> {
            value.map(Cow::Borrowed)
        }
        let line = Line {
            seq,
            time: Cow::Owned(self.at.to_string()),
            kind: Cow::Borrowed(self.kind.name()),
            decision: text(&self.decision),
            flow: text(&self.flow),
            direction: lent(self.direction.map(Direction::name)),
            device: lent(self.device.as_ref().map(SpiffeId::as_str)),
            peer: lent(self.peer.as_ref().map(SpiffeId::as_str)),
            source: text(&self.source),
            service: lent(self.service.as_ref().map(ServiceName::as_str)),
            target: lent(self.target.as_deref()),
            reason: lent(self.reason.map(Reason::code)),
            rule: lent(self.rule.as_deref()),
            detail: lent(self.detail.as_deref()),
            transport: lent(self.transport.map(Transport::name)),
            group: lent(self.group.as_deref()),
            cipher: lent(self.cipher.as_deref()),
            session: lent(self.session.as_deref()),
            key_age_s: self.key_age_s,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            ms: self.ms,
            bundle: lent(self.bundle.as_deref()),
            count: self.count,
        };
        // Neither a `Vec` nor a struct of texts and numbers can fail; a line cut short would fail its own check.
        let _ = serde_json::to_writer(&mut *out, &line);
        out.push(b'\n');
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// The sidecar started. Flow numbers begin anew after it.
    Start,
    /// The sidecar stopped.
    Stop,
    /// A flow was allowed.
    Allow,
    /// Something was refused; with `count`, that many were refused and summed up.
    Deny,
    /// A flow was opened to its target.
    Open,
    /// A flow ended.
    Close,
    /// Policy, certificates or revocations were loaded anew.
    Reload,
    /// A living flow lost its permit.
    Revoke,
    /// The analyser blocked a peer.
    Block,
    /// The log mended itself, or says what it could not take.
    Repair,
    /// A device joins: it was given its certificate, or acknowledged it.
    Join,
    /// A peer's evidence was taken: what it is taken for, and until when.
    Attest,
    /// An operator asked for something.
    #[default]
    Admin,
}

impl Kind {
    /// The name in the line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Open => "open",
            Self::Close => "close",
            Self::Reload => "reload",
            Self::Revoke => "revoke",
            Self::Block => "block",
            Self::Repair => "repair",
            Self::Join => "join",
            Self::Attest => "attest",
            Self::Admin => "admin",
        }
    }

    /// Whether the writer syncs it at once instead of waiting for a group.
    pub(super) fn is_urgent(self) -> bool {
        !matches!(self, Self::Allow | Self::Open | Self::Close)
    }

    /// Whether `on_full = "drop-allow"` may drop it.
    pub(super) fn is_droppable(self) -> bool {
        matches!(self, Self::Allow | Self::Open | Self::Close)
    }
}

/// Where the bytes came from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// From this address.
    Ip(IpAddr),
    /// From this local user.
    Uid(u32),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Uid(uid) => write!(f, "uid:{uid}"),
        }
    }
}

/// The shape of one line. `seq` comes first: `seq_of` relies on it. Fields a reader does not know are ignored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Line<'a> {
    /// The entry's number, from 0; also its leaf index in the Merkle tree.
    pub seq: u64,
    /// When, RFC 3339 in UTC.
    pub time: Cow<'a, str>,
    /// [`Kind::name`].
    pub kind: Cow<'a, str>,
    /// The decision id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Cow<'a, str>>,
    /// The flow, `f` and a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<Cow<'a, str>>,
    /// `inbound` or `outbound`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Cow<'a, str>>,
    /// SPIFFE ID of the device asking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Cow<'a, str>>,
    /// SPIFFE ID of the other sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Cow<'a, str>>,
    /// Address, or `uid:` and a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Cow<'a, str>>,
    /// The service's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Cow<'a, str>>,
    /// The target as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Cow<'a, str>>,
    /// [`Reason::code`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Cow<'a, str>>,
    /// A few plain words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'a, str>>,
    /// `h1`, `h2`, `h3` or `local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Cow<'a, str>>,
    /// The key exchange group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Cow<'a, str>>,
    /// The cipher suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<Cow<'a, str>>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Cow<'a, str>>,
    /// Seconds since the session's handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_age_s: Option<u64>,
    /// Bytes from the source to the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Bytes from the target to the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// Milliseconds it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// Digest of the policy bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Cow<'a, str>>,
    /// How many are summed up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Why bytes are no entry.
#[derive(Debug, thiserror::Error)]
#[error("no entry: {0}")]
pub struct LineError(serde_json::Error);

/// Reads one line, without its newline. Fuzzed as part of `audit_segment`.
///
/// # Errors
/// [`LineError`] when it is no JSON object with `seq`, `time` and `kind`, or a known field has another type.
pub fn parse_line(bytes: &[u8]) -> Result<Line<'static>, LineError> {
    serde_json::from_slice(bytes).map_err(LineError)
}

/// The entry number at the start of a line, without reading the rest of it.
pub(super) fn seq_of(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(SEQ_PREFIX)?;
    let end = rest.iter().position(|b| *b == b',')?;
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

/// At most `max` bytes of `text`, the last of them the mark `…`.
fn shorten(text: &str, max: usize) -> String {
    let mut end = max.saturating_sub(CUT_MARK.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut short = text.get(..end).unwrap_or_default().to_owned();
    short.push(CUT_MARK);
    short
}

const CUT_MARK: char = '…';
const SEQ_PREFIX: &[u8] = b"{\"seq\":";

#[cfg(test)]
mod tests {
    use super::*;

    fn write(entry: Entry, seq: u64) -> String {
        let mut out = Vec::new();
        entry.cut().write(seq, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_says_what_is_known_and_leaves_out_the_rest() {
        let at = Timestamp::from_millis(1_700_000_000_123);
        let entry = Entry { flow: Some(FlowId(7)), bytes_in: Some(3), ..Entry::new(at, Kind::Close) };
        assert_eq!(
            write(entry, 5),
            "{\"seq\":5,\"time\":\"2023-11-14T22:13:20.123Z\",\"kind\":\"close\",\"flow\":\"f7\",\"bytes_in\":3}\n"
        );
    }

    #[test]
    fn a_refusal_becomes_a_denial_that_reads_back() {
        let id = DecisionId::new(Timestamp::from_millis(1), [7; 10]);
        let refusal = Refusal::new(id, Reason::PolicyDenied).rule("r1").detail("line\nbreak \"quoted\"");
        let line = write(Entry::refused(Timestamp::from_millis(9), &refusal), u64::MAX);
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(seq_of(line.as_bytes()), Some(u64::MAX));
        let read = parse_line(line.trim_end().as_bytes()).unwrap();
        assert_eq!(read.kind, "deny");
        assert_eq!(read.decision.as_deref(), Some(id.to_string().as_str()));
        assert_eq!(read.detail.as_deref(), Some("line\nbreak \"quoted\""));
        assert_eq!(read.reason.as_deref(), Some("policy_denied"));
    }

    #[test]
    fn the_longest_line_stays_under_its_bound_and_a_cut_is_marked() {
        // A control byte takes six bytes in JSON: the worst a caller can do.
        let nasty: Box<str> = "\u{1}".repeat(100_000).into();
        let id: SpiffeId = format!("spiffe://a/{}", "a".repeat(SpiffeId::LEN_MAX - 11)).parse().unwrap();
        let entry = Entry {
            device: Some(id.clone()),
            peer: Some(id),
            source: Some(Source::Ip("1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap())),
            service: Some("a".repeat(63).parse().unwrap()),
            target: Some(nasty.clone()),
            rule: Some(nasty.clone()),
            detail: Some(nasty.clone()),
            group: Some(nasty.to_string().into()),
            cipher: Some(nasty.to_string().into()),
            session: Some(nasty.clone()),
            bundle: Some(nasty),
            reason: Some(Reason::CertificateNotYetValid),
            decision: Some(DecisionId::new(Timestamp::default(), [255; 10])),
            flow: Some(FlowId(u64::MAX)),
            direction: Some(Direction::Outbound),
            transport: Some(Transport::Local),
            key_age_s: Some(u64::MAX),
            bytes_in: Some(u64::MAX),
            bytes_out: Some(u64::MAX),
            ms: Some(u64::MAX),
            count: Some(u64::MAX),
            ..Entry::new(Timestamp::default(), Kind::Repair)
        };
        let line = write(entry, u64::MAX);
        assert!(line.len() <= Entry::LINE_MAX, "{}", line.len());
        assert!(parse_line(line.as_bytes()).unwrap().detail.unwrap().ends_with('…'));
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        for text in ["ä".repeat(600), format!("x{}", "ä".repeat(600)), "🦀".repeat(300)] {
            let entry = Entry { detail: Some(text.into()), ..Entry::default() }.cut();
            assert!(entry.detail.unwrap().len() <= Entry::DETAIL_MAX);
        }
    }

    #[test]
    fn what_is_no_entry_is_refused_and_never_panics() {
        for bytes in
            [&b""[..], b"{", b"null", b"{\"seq\":-1}", b"\xff\xfe", b"{\"seq\":1}", b"[1]", b"{\"seq\":"]
        {
            assert!(parse_line(bytes).is_err());
            let _ = seq_of(bytes);
        }
        assert_eq!(seq_of(b"{\"seq\":1}"), None);
    }
}
