//! What the room promises, over handshakes in memory.

mod bent;
mod load;
mod renew;
mod tls;
