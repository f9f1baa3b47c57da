//! What joining promises.
