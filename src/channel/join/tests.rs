//! What the joining door promises, on loopback.
