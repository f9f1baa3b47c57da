//! What the analyser is told of a flow's bytes: how each side begins, and of HTTP/1 what is asked and answered.
//!
//! Only the beginnings of chunks are looked at, nothing is kept of them but keyed hashes, and what does not begin a
//! chunk is not seen: a second request in one piece with the first, a head that comes in halves.

use super::behaviour::Way;
use crate::analyser::Keys;
use crate::analyser::event::{First, Request, Tongue};

/// One flow's talk.
#[derive(Debug, Default)]
pub struct Talk {
    /// Whose first bytes were heard.
    begun: [bool; 2],
    is_http: bool,
    /// Method and path of the request that waits for its answer.
    asked: Option<(u32, u32)>,
    last: Option<Way>,
}

/// What was heard in a chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Heard {
    /// How a side begins.
    First(First),
    /// A request was answered.
    Answer(Request),
}

impl Talk {
    /// Whether there may be anything to hear in a chunk that goes this way.
    pub(super) fn listens(&self, way: Way) -> bool {
        !self.has_begun(way) || (self.is_http && self.last != Some(way))
    }

    /// Hears the beginning of a chunk.
    pub(super) fn hear(&mut self, way: Way, chunk: &[u8], keys: &Keys) -> Option<Heard> {
        let turns = self.last != Some(way);
        self.last = Some(way);
        let is_first = !self.has_begun(way);
        if is_first {
            if let Some(begun) = self.begun.get_mut(way as usize) {
                *begun = true;
            }
            let first = First::of(chunk);
            self.is_http |= way == Way::Out && first.tongue == Tongue::Http;
            if way == Way::Out || !self.is_http {
                self.note_request(way, chunk, keys);
                return Some(Heard::First(first));
            }
        }
        if !self.is_http || !turns {
            return None;
        }
        match way {
            Way::Out => {
                self.note_request(way, chunk, keys);
                None
            }
            Way::In => {
                let status = status(chunk)?;
                // 100 Continue and its like are not the answer (RFC 9110 §15.2).
                if (100..200).contains(&status) && status != 101 {
                    return None;
                }
                let (method, path) = self.asked.take()?;
                Some(Heard::Answer(Request::Http { method, path, status }))
            }
        }
    }

    fn note_request(&mut self, way: Way, chunk: &[u8], keys: &Keys) {
        if way == Way::Out && self.is_http {
            self.asked = request(chunk).map(|(method, path)| (keys.word(method), keys.word(path)));
        }
    }

    fn has_begun(&self, way: Way) -> bool {
        self.begun.get(way as usize).copied().unwrap_or(true)
    }
}

/// Method and path, without its query, of a request line (RFC 9112 §3).
fn request(chunk: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = chunk.get(..REQUEST_LINE_MAX).unwrap_or(chunk).split(|b| matches!(b, b'\r' | b'\n')).next()?;
    let mut words = line.split(|b| *b == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let is_method = (1..=METHOD_MAX).contains(&method.len()) && method.iter().all(u8::is_ascii_uppercase);
    let path = target.split(|b| *b == b'?').next()?;
    (is_method && !path.is_empty()).then_some((method, path))
}

/// The code of a status line (RFC 9112 §4).
fn status(chunk: &[u8]) -> Option<u16> {
    let [a, b, c] = *chunk.strip_prefix(b"HTTP/1.")?.get(1..)?.strip_prefix(b" ")?.first_chunk::<3>()?;
    let digit = |d: u8| d.is_ascii_digit().then(|| u16::from(d - b'0'));
    Some(digit(a)? * 100 + digit(b)? * 10 + digit(c)?)
}

/// Of a longer request line only this much is looked at.
const REQUEST_LINE_MAX: usize = 2048;
const METHOD_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new([1, 2])
    }

    #[test]
    fn requests_and_their_answers_are_heard_and_nothing_is_kept_of_queries() {
        let (mut talk, keys) = (Talk::default(), keys());
        let first = talk.hear(Way::Out, b"GET /a?token=secret HTTP/1.1\r\n\r\n", &keys);
        assert!(matches!(first, Some(Heard::First(First { tongue: Tongue::Http, .. }))));
        let http = |method: &str, path: &str, status| {
            let word = |text: &str| keys.word(text.as_bytes());
            Some(Heard::Answer(Request::Http { method: word(method), path: word(path), status }))
        };
        assert_eq!(talk.hear(Way::In, b"HTTP/1.1 401 Unauthorized\r\n", &keys), http("GET", "/a", 401));
        assert!(!talk.listens(Way::In) && talk.listens(Way::Out));
        assert_eq!(talk.hear(Way::In, b"HTTP/1.1 200 a body that looks like a head", &keys), None);
        assert_eq!(talk.hear(Way::Out, b"POST /b HTTP/1.1\r\n", &keys), None);
        assert_eq!(talk.hear(Way::In, b"HTTP/1.1 100 Continue\r\n\r\n", &keys), None);
        assert_eq!(talk.hear(Way::Out, b"{}", &keys), None);
        assert_eq!(
            talk.hear(Way::In, b"HTTP/1.1 200 OK\r\n", &keys),
            None,
            "the body hid which request it was"
        );
    }

    #[test]
    fn other_tongues_are_heard_once_each_way() {
        let (mut talk, keys) = (Talk::default(), keys());
        assert!(talk.listens(Way::In));
        assert!(matches!(talk.hear(Way::In, b"SSH-2.0-x\r\n", &keys), Some(Heard::First(_))));
        assert!(matches!(talk.hear(Way::Out, b"SSH-2.0-y\r\n", &keys), Some(Heard::First(_))));
        assert!(!talk.listens(Way::In) && !talk.listens(Way::Out));
        assert_eq!(talk.hear(Way::In, b"HTTP/1.1 401 x", &keys), None);
    }

    #[test]
    fn odd_lines_are_no_requests() {
        for odd in [&b""[..], b" ", b"GET", b"GET ", b"get / HTTP/1.1", b"GET ?q HTTP/1.1", &[b'A'; 5000]] {
            assert_eq!(request(odd), None, "{odd:?}");
        }
        let long = [b"GET /".as_slice(), &[b'x'; 9000], b" HTTP/1.1"].concat();
        assert_eq!(request(&long).map(|(_, path)| path.len()), Some(REQUEST_LINE_MAX - 4));
        for odd in [&b"HTTP/1.1"[..], b"HTTP/1.1 20", b"HTTP/1.1 2x0 ", b"HTTP/2 200 ", b"HTTP/1.1200 OK"] {
            assert_eq!(status(odd), None, "{odd:?}");
        }
    }
}
