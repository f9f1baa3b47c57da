//! Which names exist: the closed list of places a flow may go. Nothing else is ever dialled.

use crate::model::{Direction, Host, Reason, ServiceName};
use crate::net::Target;

use super::intake::Wanted;
use super::settings::{Inbound, Outbound, Settings};

/// Where a flow goes.
#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    /// To a local service.
    Service(&'a Inbound),
    /// To a service at a peer.
    Peer(&'a Outbound),
}

impl Route<'_> {
    /// The service's name.
    pub fn name(&self) -> &ServiceName {
        match self {
            Self::Service(inbound) => &inbound.name,
            Self::Peer(outbound) => &outbound.name,
        }
    }
}

/// Finds where `wanted` goes.
///
/// A peer gets an `[[inbound]]` by its name (any port) or by its target's own literal `ip:port`; a local app gets an
/// `[[outbound]]` by its name.
///
/// # Errors
/// [`Reason::ServiceUnknown`] or [`Reason::OutboundUnknown`]: a destination that is not listed is never dialled.
pub fn find<'a>(settings: &'a Settings, direction: Direction, wanted: &Wanted) -> Result<Route<'a>, Reason> {
    match direction {
        Direction::Inbound => settings
            .inbound
            .iter()
            .find(|i| is_inbound(i, wanted))
            .map(Route::Service)
            .ok_or(Reason::ServiceUnknown),
        Direction::Outbound => settings
            .outbound
            .iter()
            .find(|o| is_outbound(o, wanted))
            .map(Route::Peer)
            .ok_or(Reason::OutboundUnknown),
    }
}

fn is_inbound(inbound: &Inbound, wanted: &Wanted) -> bool {
    let Wanted::Authority(authority) = wanted else { return false };
    match (&authority.host, &inbound.target) {
        (Host::Name(name), _) => **name == *inbound.name.as_str(),
        (Host::Ip(_), Target::Tcp(target)) => authority == target,
        (Host::Ip(_), Target::Unix(_)) => false,
    }
}

fn is_outbound(outbound: &Outbound, wanted: &Wanted) -> bool {
    match wanted {
        Wanted::Outbound(name) => *name == outbound.name,
        Wanted::Authority(authority) => match &authority.host {
            Host::Name(name) => **name == *outbound.name.as_str(),
            Host::Ip(_) => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Pass;
    use super::*;
    use std::time::Duration;

    fn settings() -> Settings {
        let inbound = |name: &str, target: &str| Inbound {
            name: name.parse().unwrap(),
            target: target.parse().unwrap(),
            idle_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            pass: Pass::Nothing,
            speaks: Default::default(),
        };
        Settings {
            inbound: vec![inbound("orders", "127.0.0.1:8080"), inbound("stock", "unix:/run/stock.sock")],
            outbound: vec![Outbound {
                name: "ledger".parse().unwrap(),
                peer: "spiffe://example.org/device/server-1".parse().unwrap(),
                paths: vec!["127.0.0.1:15443".parse().unwrap()],
                idle_timeout: Duration::from_secs(1),
            }],
            drain_timeout: Duration::from_secs(1),
        }
    }

    /// The name found, or the reason's code.
    fn go(direction: Direction, authority: &str) -> String {
        let wanted = Wanted::Authority(authority.parse().unwrap());
        match find(&settings(), direction, &wanted) {
            Ok(route) => route.name().to_string(),
            Err(reason) => reason.code().to_string(),
        }
    }

    #[test]
    fn a_peer_gets_a_service_by_name_or_by_its_own_target_and_nothing_else() {
        for (authority, found) in [
            ("orders:80", "orders"),
            ("ORDERS:9", "orders"),
            ("127.0.0.1:8080", "orders"),
            ("stock:1", "stock"),
            ("127.0.0.1:8081", "service_unknown"),
            ("169.254.169.254:80", "service_unknown"),
            ("localhost:8080", "service_unknown"),
            ("orders.example.org:80", "service_unknown"),
            ("ledger:80", "service_unknown"),
        ] {
            assert_eq!(go(Direction::Inbound, authority), found, "{authority}");
        }
    }

    #[test]
    fn a_local_app_gets_an_outbound_by_name_and_nothing_else() {
        for (authority, found) in [
            ("ledger:80", "ledger"),
            ("orders:80", "outbound_unknown"),
            ("127.0.0.1:15443", "outbound_unknown"),
            ("example.org:443", "outbound_unknown"),
        ] {
            assert_eq!(go(Direction::Outbound, authority), found, "{authority}");
        }
    }
}
