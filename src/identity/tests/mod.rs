//! What the room promises, mostly over handshakes in memory.

mod bent;
mod distributed;
#[cfg(not(feature = "aws-lc"))]
mod hybrid;
mod load;
mod renew;
mod svid;
mod tls;
