//! Reading the head of a request from a socket: bounded in bytes and in time.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

/// Reads into `buffer` until `judge` has an answer about what is in it; `judge` sees all of it, again after each read.
///
/// What the buffer holds at the start is judged before anything is read, and what follows the head stays in it: take
/// off what the answer says and use the rest as early bytes. Pure parsers stay pure: they only see slices.
/// Cancelling loses nothing, the bytes read so far are in the buffer.
///
/// # Errors
/// [`HeadError`].
pub async fn read_head<T>(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    len_max: usize,
    deadline: Instant,
    mut judge: impl FnMut(&[u8]) -> Option<T>,
) -> Result<T, HeadError> {
    loop {
        if let Some(answer) = judge(buffer) {
            return Ok(answer);
        }
        let room = len_max.saturating_sub(buffer.len());
        if room == 0 {
            return Err(HeadError::TooLarge { len_max });
        }
        buffer.reserve(room.min(READ_STEP));
        let mut part = buffer.limit(room.min(READ_STEP));
        match timeout_at(deadline, io.read_buf(&mut part)).await {
            Ok(Ok(0)) => return Err(HeadError::Closed),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(HeadError::Io(error)),
            Err(_) => return Err(HeadError::Timeout),
        }
    }
}

/// Why no head was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The other end closed before it was complete.
    #[error("closed before the request was complete")]
    Closed,
    /// The socket broke.
    #[error("socket: {0}")]
    Io(#[source] io::Error),
    /// Not complete within the bound.
    #[error("request is not complete within {len_max} bytes")]
    TooLarge {
        /// The bound.
        len_max: usize,
    },
    /// Not complete in time.
    #[error("request did not arrive in time")]
    Timeout,
}

/// Bytes read at once: a usual head fits.
const READ_STEP: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Reads up to the first `.` of at most eight bytes; returns the head and the rest.
    async fn read(
        mut io: impl AsyncRead + Unpin,
        ready: &str,
        ms: u64,
    ) -> Result<(String, String), HeadError> {
        let mut buffer = BytesMut::from(ready);
        let deadline = Instant::now() + Duration::from_millis(ms);
        let judge = |bytes: &[u8]| bytes.iter().position(|b| *b == b'.').map(|at| at + 1);
        let len = read_head(&mut io, &mut buffer, 8, deadline, judge).await?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok((text(&buffer[..len]), text(&buffer[len..])))
    }

    #[tokio::test]
    async fn a_head_is_cut_from_what_follows_it() {
        let is = |head: &str, rest: &str| (head.to_owned(), rest.to_owned());
        assert_eq!(read(&b"head.re"[..], "", 9999).await.unwrap(), is("head.", "re"));
        assert_eq!(read(&b"ad.re"[..], "he", 9999).await.unwrap(), is("head.", "re"));
        assert_eq!(read(&b""[..], "a.b.", 9999).await.unwrap(), is("a.", "b."));
        assert_eq!(read(&b"seven7.more"[..], "", 9999).await.unwrap(), is("seven7.", "m"));
    }

    #[tokio::test]
    async fn a_head_without_end_is_too_large_closed_or_late() {
        assert!(matches!(read(&b"12345678."[..], "", 9999).await, Err(HeadError::TooLarge { len_max: 8 })));
        assert!(matches!(read(&b"1234567"[..], "", 9999).await, Err(HeadError::Closed)));
        let (_open, silent) = tokio::io::duplex(8);
        assert!(matches!(read(silent, "12", 5).await, Err(HeadError::Timeout)));
    }
}
