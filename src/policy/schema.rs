//! The shape of what rules may speak of, in Cedar's schema language.

use cedar_policy::Schema;

/// What `countersign policy schema` prints and every rule is checked against (Cedar's human-readable schema format).
pub const SCHEMA: &str = r#"// What Countersign's rules may speak of. Printed by `countersign policy schema`; not read from the folder.

// A name for several devices. Its members are listed in `groups.toml`.
entity Group;

// Whose flow it is: the peer at the peers' door, this very device at a local door.
// Its id is the SPIFFE ID: Device::"spiffe://example.org/device/web-1".
entity Device in [Group] {
  "name": String,          // `web-1` of `spiffe://example.org/device/web-1`, otherwise empty
  "score": Long,           // matching share of the enrolled fingerprint in percent, 0..=100
  "tier": Long,            // 0 no evidence, 1 software, 2 bound, 3 attested
  "trust_domain": String,  // `example.org`
};

// What it wants to reach. Its id is the service's name: Service::"orders".
entity Service;

action connect appliesTo {
  principal: Device,
  resource: Service,
  context: {
    "direction": String,   // "inbound" from a peer, "outbound" from a local app
    "hour": Long,          // hour of the day in UTC, 0..=23
    "lease_age": Long,     // seconds since the session was last proven, rounded up to whole minutes
    "local": Bool,         // whether it is judged at a local door, before any channel
    "pq": Bool,            // whether the key exchange was post-quantum; true at a local door
    "risk": Long,          // how anomalous the traffic behaves, 0..=100
    "transport": String,   // "h1", "h2", "h3", or "local" at a local door
    "uid"?: Long,          // the local caller's user id; ask `context has uid` first
  }
};
"#;

/// What `context.direction` can be.
pub(crate) const DIRECTIONS: [&str; 2] = ["inbound", "outbound"];
/// What `context.transport` can be.
pub(crate) const TRANSPORTS: [&str; 4] = ["h1", "h2", "h3", "local"];

pub(crate) const DEVICE: &str = "Device";
pub(crate) const GROUP: &str = "Group";
pub(crate) const SERVICE: &str = "Service";

/// [`SCHEMA`], read.
///
/// # Errors
/// The text of Cedar's error; a test shows there is none.
pub(crate) fn read() -> Result<Schema, String> {
    Schema::from_cedarschema_str(SCHEMA).map(|(schema, _)| schema).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Direction, Transport};

    #[test]
    fn the_schema_reads_without_a_warning() {
        assert_eq!(Schema::from_cedarschema_str(SCHEMA).unwrap().1.count(), 0);
    }

    #[test]
    fn the_names_rules_may_compare_with_are_the_model_s() {
        assert_eq!(DIRECTIONS, [Direction::Inbound, Direction::Outbound].map(Direction::name));
        let all = [Transport::H1, Transport::H2, Transport::H3, Transport::Local];
        assert_eq!(TRANSPORTS, all.map(Transport::name));
    }
}
