//! What doors have to do with each other: two in one place, and a target that leads back to one of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use crate::capture::Listen;
use crate::model::Host;
use crate::net::Target;

/// Whether both cannot be listened on at once.
///
/// `0.0.0.0` takes a port on every IPv4 address, `[::]` on every address (Linux listens on both families there).
/// Port 0 never clashes: the system picks a free one.
pub(super) fn clash(one: &Listen, other: &Listen) -> bool {
    match (one, other) {
        (Listen::Tcp(a), Listen::Tcp(b)) => {
            let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
            a.port() == b.port()
                && a.port() != 0
                && (ip_a == ip_b || covers(ip_a, ip_b) || covers(ip_b, ip_a))
        }
        (Listen::Unix { path: a, .. }, Listen::Unix { path: b, .. }) => plain(a) == plain(b),
        (Listen::Tcp(_), Listen::Unix { .. }) | (Listen::Unix { .. }, Listen::Tcp(_)) => false,
    }
}

/// Whether a connection to `target` would arrive at `door`, as far as the file can tell.
///
/// A name other than `localhost` is resolved later: `flow` looks again before it connects.
pub(super) fn leads_to(target: &Target, door: &Listen) -> bool {
    match (target, door) {
        (Target::Unix(target), Listen::Unix { path, .. }) => plain(target) == plain(path),
        (Target::Tcp(target), Listen::Tcp(door)) => {
            let reached = |ip| arrives(SocketAddr::new(ip, target.port), *door);
            match &target.host {
                Host::Ip(ip) => reached(*ip),
                Host::Name(name) if name.trim_end_matches('.') == "localhost" => {
                    reached(Ipv4Addr::LOCALHOST.into()) || reached(Ipv6Addr::LOCALHOST.into())
                }
                Host::Name(_) => false,
            }
        }
        (Target::Tcp(_), Listen::Unix { .. }) | (Target::Unix(_), Listen::Tcp(_)) => false,
    }
}

fn arrives(target: SocketAddr, door: SocketAddr) -> bool {
    // Connecting to the unspecified address reaches this very host.
    let ip = match target.ip().to_canonical() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let door_ip = door.ip().to_canonical();
    target.port() == door.port() && (ip == door_ip || (ip.is_loopback() && covers(door_ip, ip)))
}

/// Whether listening on `all` takes what arrives for `one`.
fn covers(all: IpAddr, one: IpAddr) -> bool {
    all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
}

/// The path without `.` and `..`, as far as that can be told without looking.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::UnixMode;

    fn door(text: &str) -> Listen {
        match text.strip_prefix("unix:") {
            Some(path) => Listen::Unix { path: path.into(), mode: UnixMode::default() },
            None => Listen::Tcp(text.parse().unwrap()),
        }
    }

    #[test]
    fn doors_clash_when_one_takes_what_the_other_wants() {
        for (one, other, clashes) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("[::1]:1", "[::]:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("[::1]:1", "0.0.0.0:1", false),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:/a/b", "unix:/a/./c/../b", true),
            ("unix:/a/b", "unix:/a/c", false),
            ("unix:/a/b", "127.0.0.1:1", false),
        ] {
            assert_eq!(clash(&door(one), &door(other)), clashes, "{one} {other}");
            assert_eq!(clash(&door(other), &door(one)), clashes, "{other} {one}");
        }
    }

    #[test]
    fn a_target_leads_to_a_door_that_takes_its_connection() {
        for (target, at, leads) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:2", "127.0.0.1:1", false),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("localhost:1", "127.0.0.1:1", true),
            ("LocalHost.:1", "[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            // Another host may have it: only the resolver and the interfaces can tell.
            ("192.0.2.1:1", "0.0.0.0:1", false),
            ("orders:1", "0.0.0.0:1", false),
            ("unix:/a/../b", "unix:/b", true),
            ("unix:/a", "127.0.0.1:1", false),
        ] {
            assert_eq!(leads_to(&target.parse().unwrap(), &door(at)), leads, "{target} {at}");
        }
    }
}
