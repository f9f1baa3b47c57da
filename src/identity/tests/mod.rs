//! What the room promises, mostly over handshakes in memory.

mod bent;
mod distributed;
mod hybrid;
mod load;
mod renew;
mod svid;
mod tls;
