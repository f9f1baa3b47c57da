//! Pools around dialling: which connection a flow to a peer rides, and when to dial another.

mod pool;
mod resolve;

pub use pool::{Opened, Pool, PoolError};
pub use resolve::{ResolveError, resolve};
