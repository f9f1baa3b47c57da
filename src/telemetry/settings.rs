//! What `telemetry` can be told.

/// `[log]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `json` or `text`.
    pub format: Format,
    /// A `tracing` filter directive. Default `info`.
    pub filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}
