//! Issues, checks and rotates X.509 identities (SPIFFE X.509-SVID).

mod hybrid;
mod peer;
mod provider;
mod settings;
mod svid;

pub use peer::{PeerIdentity, peer};
pub use provider::provider;
pub use settings::*;
pub use svid::{LEAF_LEN_MAX, Svid, SvidError, svid};
