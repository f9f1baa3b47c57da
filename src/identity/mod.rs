//! Issues, checks and rotates X.509 identities (SPIFFE X.509-SVID).

mod settings;

pub use settings::*;
