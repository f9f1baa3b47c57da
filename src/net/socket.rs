//! Sockets: listening, connecting and their options, in one constructor each.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};

use super::stream::{BoxStream, Chunks, EndKind, ReadHalf, SLICES_MAX, StreamError, WriteHalf};

/// Where a local socket is: `127.0.0.1:8080`, `[::1]:8080`, `name:8080` or `unix:/run/app.sock`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Target {
    /// A host and a port; names are resolved at each use.
    Tcp(crate::model::Authority),
    /// The path of a Unix socket, absolute or relative to the configuration file.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(TargetError::Path),
            Some(path) if path.len() > UNIX_PATH_MAX || path.contains('\0') => Err(TargetError::Path),
            Some(path) => Ok(Self::Unix(path.into())),
            // `UNIX:1` is no host called unix: written back it would be a path.
            None if text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("unix:")) => {
                Err(TargetError::Path)
            }
            None => Ok(Self::Tcp(text.parse()?)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => authority.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a text names no socket.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not `host:port`.
    #[error(transparent)]
    Authority(#[from] crate::model::AuthorityError),
    /// Not a path a Unix socket can have.
    #[error("`unix:` needs a path of 1..=107 bytes")]
    Path,
}

/// The permission bits of a Unix socket this sidecar makes, `0o600` unless set.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct UnixMode(pub u32);

impl Default for UnixMode {
    fn default() -> Self {
        Self(0o600)
    }
}

/// What every TCP socket of ours gets; there is no other constructor.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Idle time before the first keep-alive probe.
    pub keepalive: Duration,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { keepalive: Duration::from_secs(60) }
    }
}

impl SocketOptions {
    /// NODELAY and keep-alive on a connected socket.
    ///
    /// # Errors
    /// The kernel's, when the socket is gone already.
    pub fn apply(self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let probes = socket2::TcpKeepalive::new()
            .with_time(self.keepalive)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
    }
}

/// A listening socket.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix; the path is removed when the last that shares it is dropped.
    Unix(UnixListener, Arc<UnixPath>),
}

/// A connection a [`Listener`] took.
pub enum Accepted {
    /// From a TCP peer.
    Tcp(TcpStream, SocketAddr),
    /// From a local process with this user id.
    Unix(UnixStream, u32),
}

impl Listener {
    /// Listens on TCP.
    ///
    /// # Errors
    /// The kernel's: address in use, not permitted.
    pub fn tcp(addr: SocketAddr) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(addr);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self::Tcp(TcpListener::from_std(socket.into())?))
    }

    /// Listens on a Unix socket; a dead socket of an earlier run is replaced, anything else in its place is an error.
    ///
    /// # Errors
    /// The kernel's; `AddrInUse` when another process answers there or the path is no socket.
    pub fn unix(path: &Path, mode: UnixMode) -> io::Result<Self> {
        if let Ok(meta) = std::fs::symlink_metadata(path) {
            let alive = std::os::unix::net::UnixStream::connect(path).is_ok();
            if !meta.file_type().is_socket() || alive {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        // Made under a private name first, so that nobody can connect before the mode is set.
        let mut private = path.as_os_str().to_owned();
        private.push(format!(".{}", std::process::id()));
        let private = PathBuf::from(private);
        let _ = std::fs::remove_file(&private);
        let listener = UnixListener::bind(&private)?;
        let made = std::fs::set_permissions(&private, std::fs::Permissions::from_mode(mode.0))
            .and_then(|()| std::fs::rename(&private, path));
        if let Err(e) = made {
            let _ = std::fs::remove_file(&private);
            return Err(e);
        }
        Ok(Self::Unix(listener, Arc::new(UnixPath(path.to_owned()))))
    }

    /// Where it listens, for logs.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp(l) => l.local_addr().map_or_else(|_| "tcp".into(), |a| a.to_string()),
            Self::Unix(_, path) => format!("unix:{}", path.0.display()),
        }
    }

    /// The bound TCP address, `None` on a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(l) => l.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// The same listening socket for the runtime that runs now: whoever is free takes the next connection.
    ///
    /// # Errors
    /// The kernel's, when descriptors ran out.
    pub fn share(&self) -> io::Result<Self> {
        use std::os::fd::AsFd;
        match self {
            Self::Tcp(l) => {
                let same = std::net::TcpListener::from(l.as_fd().try_clone_to_owned()?);
                Ok(Self::Tcp(TcpListener::from_std(same)?))
            }
            Self::Unix(l, path) => {
                let same = std::os::unix::net::UnixListener::from(l.as_fd().try_clone_to_owned()?);
                Ok(Self::Unix(UnixListener::from_std(same)?, Arc::clone(path)))
            }
        }
    }

    /// Takes one connection, its options set.
    ///
    /// # Errors
    /// The kernel's; `EMFILE` and `ENFILE` mean that descriptors ran out.
    pub async fn accept(&self, options: SocketOptions) -> io::Result<Accepted> {
        match self {
            Self::Tcp(l) => {
                let (stream, addr) = l.accept().await?;
                // A client that left again already makes this fail; the next read will tell.
                let _ = options.apply(&stream);
                Ok(Accepted::Tcp(stream, addr))
            }
            Self::Unix(l, _) => {
                let (stream, _) = l.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok(Accepted::Unix(stream, uid))
            }
        }
    }
}

/// Removes a Unix socket's path when dropped.
pub struct UnixPath(PathBuf);

impl Drop for UnixPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Accepted {
    /// The address of a TCP peer, `None` on a Unix socket.
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        match self {
            Self::Tcp(_, addr) => Some(addr.ip()),
            Self::Unix(..) => None,
        }
    }

    /// The stream of a plain connection.
    pub fn into_stream(self) -> BoxStream {
        match self {
            Self::Tcp(stream, _) => BoxStream::from(stream),
            Self::Unix(stream, _) => BoxStream::from(stream),
        }
    }
}

/// Connects to one resolved TCP address, options set.
///
/// # Errors
/// The kernel's; `TimedOut` after `timeout`.
pub async fn connect(addr: SocketAddr, options: SocketOptions, timeout: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(addr))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    options.apply(&stream)?;
    Ok(stream)
}

/// Connects to a Unix socket.
///
/// # Errors
/// The kernel's; `TimedOut` after `timeout`.
pub async fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let connected = tokio::time::timeout(timeout, UnixStream::connect(path)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl From<TcpStream> for BoxStream {
    fn from(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read: Box::new(SocketRead::new(read)), write: Box::new(SocketWrite(Some(write))) }
    }
}

impl From<UnixStream> for BoxStream {
    fn from(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read: Box::new(SocketRead::new(read)), write: Box::new(SocketWrite(Some(write))) }
    }
}

/// What TCP and Unix read halves share.
trait ReadSocket: Send {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>>;
}

/// What TCP and Unix write halves share.
trait WriteSocket: Send {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn try_write(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize>;
    fn shut_down(self);
    fn break_off(self);
}

macro_rules! sockets {
    ($read:ty, $write:ty, $stream:ty, $linger:expr) => {
        impl ReadSocket for $read {
            fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                AsRef::<$stream>::as_ref(self).poll_read_ready(cx)
            }
            // Not `try_read_buf`: that takes a read that did not fill the buffer for one of many, and asks the kernel
            // again only to hear that there is nothing.
            fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
                std::pin::pin!(self.read_buf(buffer)).poll(cx)
            }
        }
        impl WriteSocket for $write {
            fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                AsRef::<$stream>::as_ref(self).poll_write_ready(cx)
            }
            fn try_write(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
                AsRef::<$stream>::as_ref(self).try_write_vectored(slices)
            }
            // Dropping an owned write half sends FIN.
            fn shut_down(self) {
                drop(self);
            }
            fn break_off(self) {
                let linger: fn(&$stream) = $linger;
                linger(AsRef::<$stream>::as_ref(&self));
                self.forget();
            }
        }
    };
}

sockets!(tcp::OwnedReadHalf, tcp::OwnedWriteHalf, TcpStream, |s| {
    // Closing with linger 0 sends RST (RFC 9293 §3.10.4 ABORT).
    let _ = socket2::SockRef::from(s).set_linger(Some(Duration::ZERO));
});
sockets!(unix::OwnedReadHalf, unix::OwnedWriteHalf, UnixStream, |_| {});

struct SocketRead<R> {
    socket: R,
    buffer: BytesMut,
    /// Bytes to ask for next: grows while the socket fills what it is given, falls back when it runs dry.
    ask: usize,
}

impl<R> SocketRead<R> {
    fn new(socket: R) -> Self {
        Self { socket, buffer: BytesMut::new(), ask: READ_MIN }
    }
}

impl<R: ReadSocket> ReadHalf for SocketRead<R> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        loop {
            // No buffer is held while the socket has nothing: an idle flow costs no memory.
            if self.socket.poll_ready(cx)?.is_pending() {
                self.buffer = BytesMut::new();
                self.ask = READ_MIN.max(self.ask / 2);
                return Poll::Pending;
            }
            if self.buffer.capacity() < READ_MIN {
                self.buffer = BytesMut::with_capacity(self.ask + STAGGER);
                self.buffer.resize(STAGGER, 0);
                self.buffer.advance(STAGGER);
            }
            let room = self.buffer.capacity();
            match self.socket.poll_read(cx, &mut self.buffer)? {
                Poll::Ready(0) => return Poll::Ready(Ok(None)),
                Poll::Ready(len) => {
                    if len == room {
                        self.ask = READ_MAX.min(self.ask * 4);
                    }
                    return Poll::Ready(Ok(Some(self.buffer.split().freeze())));
                }
                Poll::Pending => {}
            }
        }
    }

    fn release(&mut self, _len: usize) {}

    fn undelivered_max(&self) -> usize {
        READ_MAX
    }
}

/// `None` once it was shut down or broken off.
struct SocketWrite<W>(Option<W>);

impl<W: WriteSocket> WriteHalf for SocketWrite<W> {
    fn poll_send(&mut self, cx: &mut Context<'_>, chunks: &mut Chunks) -> Poll<Result<usize, StreamError>> {
        let Some(socket) = &self.0 else { return Poll::Ready(Err(StreamError::Reset)) };
        let mut slices = [io::IoSlice::new(&[]); SLICES_MAX];
        let count = chunks.io_slices(&mut slices);
        let Some(slices) = slices.get(..count) else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(socket.poll_ready(cx))?;
            match socket.try_write(slices) {
                Ok(0) => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
                Ok(sent) => {
                    chunks.advance(sent);
                    return Poll::Ready(Ok(sent));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e.into())),
            }
        }
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if let Some(socket) = self.0.take() {
            socket.shut_down();
        }
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, _kind: EndKind) {
        if let Some(socket) = self.0.take() {
            socket.break_off();
        }
    }
}

/// Connections the kernel may hold for us before they are accepted.
const BACKLOG: i32 = 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;
/// Bytes read from a socket at once: at first, and at most.
const READ_MIN: usize = 4 * 1024;
const READ_MAX: usize = 64 * 1024;
/// Bytes left out at the head of a buffer, so that what is read lies half a page off where the records made of it lie.
/// Copies between places a few bytes apart modulo 4 KiB are several times slower on some processors (`rep movsb` of
/// AMD's Zen 3 and 4).
const STAGGER: usize = 2048;
/// Longest path of a Unix socket (`sun_path` less its NUL).
const UNIX_PATH_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_tcp_or_unix() {
        assert!(matches!("127.0.0.1:80".parse(), Ok(Target::Tcp(_))));
        assert!(matches!("unix:/run/a.sock".parse(), Ok(Target::Unix(_))));
        for text in ["", "unix:", "orders", &format!("unix:/{}", "a".repeat(UNIX_PATH_MAX))] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    /// Found by the fuzz target `authority`: `UNIX:1` was the host `unix`, and the path `1` once written and read again.
    #[test]
    fn a_host_is_never_taken_for_a_scheme() {
        for text in ["UNIX:1", "Unix:8080", "uNIX:/run/a.sock"] {
            assert_eq!(text.parse::<Target>(), Err(TargetError::Path), "{text}");
        }
        assert!(matches!("unix.example.org:1".parse(), Ok(Target::Tcp(_))));
    }

    #[tokio::test]
    async fn a_unix_socket_gets_its_mode_and_a_living_one_is_not_taken_over() {
        let dir = std::env::temp_dir().join(format!("countersign-net-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.sock");
        let listener = Listener::unix(&path, UnixMode(0o640)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(Listener::unix(&path, UnixMode::default()).is_err());
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(Listener::unix(&path, UnixMode::default()).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn half_close_and_reset_are_told_apart() {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        for reset in [false, true] {
            let client = connect(addr, SocketOptions::default(), Duration::from_secs(5)).await.unwrap();
            let server = listener.accept(SocketOptions::default()).await.unwrap().into_stream();
            let BoxStream { read, mut write } = server;
            if reset {
                write.reset(EndKind::Cut);
                drop((read, write));
            } else {
                std::future::poll_fn(|cx| write.poll_finish(cx)).await.unwrap();
            }
            let mut client = BoxStream::from(client);
            let end = std::future::poll_fn(|cx| client.read.poll_chunk(cx)).await;
            match reset {
                true => assert!(matches!(end, Err(StreamError::Reset)), "{end:?}"),
                false => assert!(matches!(end, Ok(None)), "{end:?}"),
            }
        }
    }
}
