//! The example that `countersign config example` prints.

/// A whole configuration with every key there is: a test reads it, and reads it again with every default uncommented.
pub const EXAMPLE: &str = include_str!("example.toml");
