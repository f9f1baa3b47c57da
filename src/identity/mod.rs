//! Issues, checks and rotates X.509 identities (SPIFFE X.509-SVID).

pub mod authority;
mod distributed;
mod enrol;
mod file;
#[cfg(not(feature = "aws-lc"))]
mod hybrid;
mod install;
mod joining;
mod load;
mod material;
mod own;
mod peer;
mod problem;
mod provider;
mod reason;
mod settings;
mod svid;
mod trust;
mod verify;

pub use distributed::{NewsError, Places, issuer_keys};
pub use enrol::{EnrolError, Enrolment, Gift, Joined};
pub use file::FileError;
pub use install::{
    Installed, install, installed_id, leaf_not_after, read_file, read_secret_file, write_file,
    write_secret_file,
};
pub use joining::{joining_client, recovering_client};
pub use load::{
    CHAIN_MAX, CRL_FILE_MAX, LISTS_MAX, PEM_FILE_MAX, ROOTS_MAX, crl_next_update, parse_certificates,
};
pub use own::{CrlStatus, Identity, LeafSigner, Reloaded, Status, server_name};
pub use peer::{PeerIdentity, peer};
pub use problem::{LoadError, Problem, Unusable};
pub use provider::provider;
pub use reason::{detail_of_io, reason_of, reason_of_io};
pub use settings::*;
pub use svid::{FINGERPRINT_OID, LEAF_LEN_MAX, Svid, SvidError, svid};
pub use trust::{INTERMEDIATES_MAX, TrustError};
pub use verify::PeerError;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
