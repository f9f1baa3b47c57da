//! The one seam to the world: sockets, and the stream of chunks that a flow carries.
//!
//! A flow is two halves. Each half is boxed once per flow, so that errors stay readable and no generics leak
//! past the door. Bytes travel as [`bytes::Bytes`] from one socket to the other without being copied on the way.

mod accept;
mod ahead;
mod head;
mod socket;
mod stream;
mod workers;

pub use accept::{Complaints, Patience};
pub use ahead::ReadAhead;
pub use head::{HeadError, read_head};
pub use socket::{Accepted, Listener, SocketOptions, Target, TargetError, UnixMode, connect, connect_unix};
pub use stream::{Answer, BoxFuture, BoxStream, Chunks, EndKind, ReadHalf, StreamError, WriteHalf, from_io};
pub use workers::{Spread, Workers};
