//! The tables of the traffic: peers, inbounds, outbounds and local doors.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::load::{File, PlacedTarget};
use super::mistake::Read;
use super::raw::{Table, Value, cut};
use crate::capture::{Door, Listen, Mode};
use crate::channel::{Profile, WAYPOINTS_MAX};
use crate::flow;
use crate::model::{Authority, ServiceName, SpiffeId, TrustDomain};
use crate::net::{Target, UnixMode};

impl<'n> File<'n> {
    pub fn peers(&mut self, mut table: Table<'n>) -> (Read<Option<SocketAddr>>, Read<Profile>) {
        let listen = table.get("listen").map(|value| {
            let address = value.address()?;
            self.place(&Listen::Tcp(address), "peers.listen", value.at);
            Ok(address)
        });
        let hbone = table.get_or("profile", false, |v| v.one_of(&[("native", false), ("hbone", true)]));
        let waypoints = table.get("trusted_waypoints");
        table.finish();
        (listen.transpose(), profile(hbone, waypoints))
    }

    /// The inbounds, and where they lead.
    pub fn inbound(&self, tables: Vec<Table<'n>>) -> (Vec<Read<flow::Inbound>>, Vec<PlacedTarget>) {
        let mut targets = Vec::new();
        let mut names = Vec::new();
        let mut inbounds = Vec::new();
        for mut table in tables {
            let name = service_name(&mut table, &mut names);
            let protocol = protocol(&mut table);
            let target = table.need("target", "\"127.0.0.1:8080\"").and_then(|value| {
                let target = self.target(&value)?;
                targets.push((target.clone(), value.at));
                Ok(target)
            });
            let idle_timeout = table.get_or("idle_timeout", IDLE, |v| v.duration(IDLES));
            let connect_timeout = table.get_or("connect_timeout", CONNECT, |v| v.duration(WAITS));
            let pass = table.get_or("pass", flow::Pass::Nothing, |v| v.one_of(PASSES));
            let speaks = table.get_or("speaks", flow::Tongue::Unknown, |v| v.one_of(TONGUES));
            table.finish();
            let item = || {
                protocol?;
                Ok(flow::Inbound {
                    name: name?,
                    target: target?,
                    idle_timeout: idle_timeout?,
                    connect_timeout: connect_timeout?,
                    pass: pass?,
                    speaks: speaks?,
                })
            };
            inbounds.push(item());
        }
        (inbounds, targets)
    }

    /// The outbounds, and the local doors they have of their own.
    pub fn outbound(
        &mut self,
        tables: Vec<Table<'n>>,
        domain: Option<&TrustDomain>,
        needs_door: bool,
    ) -> (Vec<Read<flow::Outbound>>, Vec<Read<Door>>) {
        let mut names = Vec::new();
        let mut outbounds = Vec::new();
        let mut doors = Vec::new();
        for mut table in tables {
            let name = service_name(&mut table, &mut names);
            let protocol = protocol(&mut table);
            let peer = table.need("peer", "\"spiffe://example.org/device/server-1\"").and_then(|value| {
                let peer = value.parse::<SpiffeId>()?;
                match domain {
                    Some(ours) if ours != peer.trust_domain() => Err(value.wrong(format!(
                        "is of the trust domain `{}`, expected `identity.trust_domain`, which is `{ours}`",
                        peer.trust_domain()
                    ))),
                    _ => Ok(peer),
                }
            });
            let paths = table.need("paths", "[\"192.0.2.1:15443\"]").and_then(|value| {
                match value.list(PATHS_MAX, |item| item.parse::<Authority>())? {
                    paths if paths.is_empty() => {
                        Err(value.wrong("is empty, expected at least one `host:port` of the peer"))
                    }
                    paths => Ok(paths),
                }
            });
            let idle_timeout = table.get_or("idle_timeout", IDLE, |v| v.duration(IDLES));
            let door = self.outbound_door(&mut table, &name);
            if door.is_none() && needs_door {
                table.absent(
                    "no local app can reach this `[[outbound]]`: give it a `listen`, or add a `[[capture]]`",
                );
            }
            table.finish();
            doors.extend(door);
            let item = || {
                protocol?;
                Ok(flow::Outbound { name: name?, peer: peer?, paths: paths?, idle_timeout: idle_timeout? })
            };
            outbounds.push(item());
        }
        (outbounds, doors)
    }

    fn outbound_door(&mut self, table: &mut Table<'n>, name: &Read<ServiceName>) -> Option<Read<Door>> {
        let mode = table.get("mode").map(|value| (unix_mode(&value), value));
        let expose = table.get_or("expose", false, |value| value.flag());
        let Some(value) = table.get("listen") else {
            if let Some((_, value)) = mode {
                value.wrong("is of no use without `listen`");
            }
            return None;
        };
        let listen = self.listen(&value, mode, "outbound.listen").and_then(|listen| {
            let exposed = expose?;
            if is_local(&listen) || exposed {
                return Ok(listen);
            }
            Err(value.wrong(
                "must be a loopback address or `unix:…`: it takes anybody who reaches it for a local app; \
                 `expose = true` allows it all the same",
            ))
        });
        Some(listen.and_then(|listen| {
            self.place(&listen, "outbound.listen", value.at);
            let name = name.as_ref().map_err(|noted| *noted)?.clone();
            Ok(Door { mode: Mode::Forward(name), listen, request_timeout: REQUEST })
        }))
    }

    pub fn capture(&mut self, tables: Vec<Table<'n>>) -> Vec<Read<Door>> {
        let mut doors = Vec::new();
        for mut table in tables {
            let mode = table
                .need("mode", "\"socks5\"")
                .and_then(|v| v.one_of(&[("socks5", Proxy::Socks5), ("connect", Proxy::Connect)]));
            let socket_mode = table.get("socket_mode").map(|value| (unix_mode(&value), value));
            never_exposed(&mut table, "a `[[capture]]` door leads to every outbound");
            let request_timeout = table.get_or("request_timeout", REQUEST, |v| v.duration(WAITS));
            let listen = table.need("listen", "\"127.0.0.1:15080\"").and_then(|value| {
                let listen = self.listen(&value, socket_mode, "capture.listen")?;
                if !is_local(&listen) {
                    return Err(value.wrong(
                        "must be a loopback address or `unix:…`: a SOCKS5 or CONNECT door leads to every outbound \
                         and is never exposed",
                    ));
                }
                self.place(&listen, "capture.listen", value.at);
                Ok(listen)
            });
            table.finish();
            let door = || {
                let mode = match mode? {
                    Proxy::Socks5 => Mode::Socks5,
                    Proxy::Connect => Mode::Connect,
                };
                Ok(Door { mode, listen: listen?, request_timeout: request_timeout? })
            };
            doors.push(door());
        }
        doors
    }

    fn target(&self, value: &Value<'n>) -> Read<Target> {
        match value.parse::<Target>()? {
            Target::Tcp(authority) => Ok(Target::Tcp(authority)),
            Target::Unix(path) => {
                let path = self.folder.join(path);
                match path.as_os_str().as_bytes().len() {
                    ..=DIAL_PATH_MAX => Ok(Target::Unix(path)),
                    len => Err(value.wrong(format!(
                        "is the socket `{}` of {len} bytes, expected at most {DIAL_PATH_MAX}",
                        path.display()
                    ))),
                }
            }
        }
    }

    /// Where a local door listens; `mode` belongs to Unix sockets.
    fn listen(
        &self,
        value: &Value<'n>,
        mode: Option<(Read<UnixMode>, Value<'n>)>,
        key: &'static str,
    ) -> Read<Listen> {
        match value.words()?.strip_prefix("unix:") {
            None => {
                let address = value.address();
                if let Some((_, mode)) = mode {
                    mode.wrong(format!("is of no use: `{key}` is no `unix:…`"));
                }
                address.map(Listen::Tcp)
            }
            Some("") => Err(value.wrong("needs a path after `unix:`")),
            Some(path) => {
                let mode = mode.map_or(Ok(UnixMode::default()), |(mode, _)| mode)?;
                self.socket(self.folder.join(path), mode, key, value.at)
            }
        }
    }

    /// A Unix socket that this sidecar can make.
    pub fn socket(&self, path: PathBuf, mode: UnixMode, key: &str, at: usize) -> Read<Listen> {
        match path.as_os_str().as_bytes().len() {
            ..=LISTEN_PATH_MAX => Ok(Listen::Unix { path, mode }),
            len => Err(self.notes.wrong(
                at,
                format!(
                    "`{key}` is the socket `{}` of {len} bytes, expected at most {LISTEN_PATH_MAX}",
                    path.display()
                ),
            )),
        }
    }
}

fn profile(hbone: Read<bool>, waypoints: Option<Value<'_>>) -> Read<Profile> {
    let listed = |value: &Value<'_>| value.list(WAYPOINTS_MAX, |item| item.parse::<SpiffeId>());
    let trusted_waypoints = waypoints.as_ref().map(listed).transpose()?.unwrap_or_default();
    match (hbone?, waypoints) {
        (true, _) => Ok(Profile::Hbone { trusted_waypoints }),
        (false, Some(value)) if !trusted_waypoints.is_empty() => {
            Err(value.wrong("is of no use without `profile = \"hbone\"`"))
        }
        (false, _) => Ok(Profile::Native),
    }
}

/// The proxies a `[[capture]]` can speak.
#[derive(Clone, Copy)]
enum Proxy {
    Socks5,
    Connect,
}

/// The name of an item; no other of its list may have it.
fn service_name(table: &mut Table<'_>, earlier: &mut Vec<ServiceName>) -> Read<ServiceName> {
    let value = table.need("name", "\"orders\"")?;
    let name = value.parse::<ServiceName>()?;
    if earlier.contains(&name) {
        return Err(
            value.wrong(format!("`{name}` is taken by an earlier item; each needs a name of its own"))
        );
    }
    earlier.push(name.clone());
    Ok(name)
}

fn protocol(table: &mut Table<'_>) -> Read<()> {
    let value = table.need("protocol", "\"tcp\"")?;
    match value.text()? {
        "tcp" => Ok(()),
        other => Err(value.wrong(format!(
            "is `{}`, but `tcp` is the only protocol accepted now: bytes are carried as they are",
            cut(other)
        ))),
    }
}

/// Three or four octal digits.
fn unix_mode(value: &Value<'_>) -> Read<UnixMode> {
    let text = value.text()?;
    let digits = text.len() == 3 || (text.len() == 4 && text.starts_with('0'));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if digits && !text.starts_with('+') => Ok(UnixMode(mode)),
        _ => Err(value.wrong(format!("must be permission bits such as \"0660\", got `{}`", cut(text)))),
    }
}

pub(super) fn never_exposed(table: &mut Table<'_>, why: &str) {
    if let Some(value) = table.get("expose") {
        value.wrong(format!("cannot be set here: {why}, so it is never exposed"));
    }
}

fn is_local(listen: &Listen) -> bool {
    match listen {
        Listen::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Listen::Unix { .. } => true,
    }
}

/// What a service can be told of the peer.
const PASSES: &[(&str, flow::Pass)] = &[("nothing", flow::Pass::Nothing), ("proxy-v2", flow::Pass::ProxyV2)];
/// What a service can be said to speak.
pub(super) const TONGUES: &[(&str, flow::Tongue)] = &[
    ("anything", flow::Tongue::Unknown),
    ("tls", flow::Tongue::Tls),
    ("http", flow::Tongue::Http),
    ("mqtt", flow::Tongue::Mqtt),
    ("ssh", flow::Tongue::Ssh),
    ("dns", flow::Tongue::Dns),
    ("postgres", flow::Tongue::Postgres),
    ("mysql", flow::Tongue::Mysql),
    ("redis", flow::Tongue::Redis),
    ("kafka", flow::Tongue::Kafka),
    ("rdp", flow::Tongue::Rdp),
];
/// Most `paths` of one outbound.
const PATHS_MAX: usize = 16;
/// Longest path of a Unix socket that is dialled (`sun_path` less its NUL).
const DIAL_PATH_MAX: usize = 107;
/// Longest path of a Unix socket of ours: while it is made, `.` and the process id follow its name.
const LISTEN_PATH_MAX: usize = DIAL_PATH_MAX - 8;
const IDLE: Duration = Duration::from_secs(3600);
pub(super) const CONNECT: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(10);
/// Waits for somebody's answer.
pub(super) const WAITS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
/// Rests between two tries.
pub(super) const RESTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// Silence.
pub(super) const IDLES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
