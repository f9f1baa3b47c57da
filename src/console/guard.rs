//! Who may ask: the right user on the socket, the right name on the TCP address.

use std::net::{IpAddr, SocketAddr};

use crate::model::{Authority, Host, Reason};

/// Lets root and the sidecar's own user in.
///
/// # Errors
/// [`Reason::CallerForbidden`] for everybody else.
pub fn admit(uid: u32, own_uid: u32) -> Result<(), Reason> {
    if uid == ROOT || uid == own_uid { Ok(()) } else { Err(Reason::CallerForbidden) }
}

/// Whether `host`, a Host header or the authority of a request target, names this server.
///
/// A page of another site can have its name point at a loopback address (DNS rebinding); its requests
/// still carry that name. So only the address listened on, `localhost`, loopback literals and the
/// configured names are answered; the port of a loopback name may be that of a forwarded port.
pub fn host_ok(host: &str, listen: Option<SocketAddr>, names: &[String]) -> bool {
    if names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
        return true;
    }
    // A bare host gets a port so that one parser reads both.
    let parsed = host.parse::<Authority>().or_else(|_| format!("{host}:{}", ANY_PORT).parse());
    let Ok(Authority { host: named, port }) = parsed else { return false };
    match named {
        Host::Name(name) => {
            &*name == "localhost" || names.iter().any(|other| other.eq_ignore_ascii_case(&name))
        }
        Host::Ip(ip) => {
            let ours = listen.is_some_and(|own| own.ip() == ip && (own.port() == port || port == ANY_PORT));
            is_loopback(ip) || ours
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

const ROOT: u32 = 0;
/// The port of HTTP, which a Host header leaves out.
const ANY_PORT: u16 = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_our_own_user_are_admitted() {
        assert_eq!(admit(0, 1000), Ok(()));
        assert_eq!(admit(1000, 1000), Ok(()));
        assert_eq!(admit(1001, 1000), Err(Reason::CallerForbidden));
        assert_eq!(admit(1000, 0), Err(Reason::CallerForbidden));
    }

    #[test]
    fn only_our_own_names_are_answered() {
        let names = ["metrics.example.org".to_owned(), "scraper:9".to_owned()];
        let listen = Some("192.0.2.7:15000".parse().unwrap());
        for host in [
            "localhost",
            "LOCALHOST:15000",
            "localhost:9000",
            "127.0.0.1",
            "127.0.0.1:15000",
            "127.8.9.1:1",
            "[::1]",
            "[::1]:15000",
            "192.0.2.7:15000",
            "192.0.2.7",
            "metrics.example.org",
            "Metrics.Example.org:15000",
            "scraper:9",
        ] {
            assert!(host_ok(host, listen, &names), "{host}");
        }
        for host in [
            "",
            ":15000",
            "evil.example",
            "evil.example:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.8:15000",
            "192.0.2.7:15001",
            "192.0.2.8",
            "scraper",
            "localhost:",
            "localhost:x",
            "user@localhost",
            "localhost, evil.example",
            "0.0.0.0:15000",
        ] {
            assert!(!host_ok(host, listen, &names), "{host}");
        }
    }
}
