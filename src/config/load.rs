//! What the file means: each table becomes a room's `Settings`, then all of them are held against each other.

use std::io::Read as _;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::doors;
use super::mistake::{Mistakes, Notes, Read};
use super::raw::{Table, Value, cut};
use super::{Config, DeviceSettings};
use crate::capture::{Door, Listen, Mode};
use crate::model::{Authority, ServiceName, SpiffeId, TrustDomain};
use crate::net::{Target, UnixMode};
use crate::{audit, channel, console, flow, identity, limits, policy, telemetry};

/// Largest configuration file in bytes.
pub const FILE_LEN_MAX: usize = 1024 * 1024;

/// Reads the file at `path` and what it says; looks for `certs/crl.pem` beside it.
///
/// # Errors
/// [`Mistakes`], all of them; also when the file cannot be read.
pub fn load(path: &Path) -> Result<Config, Mistakes> {
    let text = read(path).map_err(|message| Mistakes::of_file(path, message))?;
    let source = std::path::absolute(path)
        .map_err(|e| Mistakes::of_file(path, format!("has no absolute path: {e}")))?;
    parse(&text, &source, &|path| path.try_exists().unwrap_or(true))
        .map_err(|mistakes| Mistakes { file: path.to_owned(), ..mistakes })
}

/// Reads what `text` says; it stands in the file `source`, whose folder all relative paths are relative to.
///
/// `exists` is asked for one path only: the revocation list that is used when the file names none.
///
/// # Errors
/// [`Mistakes`], all of them.
pub fn parse(text: &str, source: &Path, exists: &dyn Fn(&Path) -> bool) -> Result<Config, Mistakes> {
    if text.len() > FILE_LEN_MAX {
        return Err(Mistakes::of_file(source, too_large()));
    }
    let notes = Notes::new(text);
    let (tree, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        notes.syntax(error.span().map_or(0, |span| span.start), error.message());
    }
    let folder = source.parent().unwrap_or(Path::new(""));
    let mut file = File { source, folder, exists, notes: &notes, doors: Vec::new() };
    let config = file.config(Table::root(&notes, tree.get_ref()));
    notes.close(source, config)
}

fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_LEN_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() > FILE_LEN_MAX {
        return Err(too_large());
    }
    String::from_utf8(bytes)
        .map_err(|e| format!("is not UTF-8 text: byte {} is none", e.utf8_error().valid_up_to()))
}

fn too_large() -> String {
    format!("is larger than {FILE_LEN_MAX} bytes")
}

/// One file while it is read.
struct File<'n> {
    source: &'n Path,
    folder: &'n Path,
    exists: &'n dyn Fn(&Path) -> bool,
    notes: &'n Notes<'n>,
    /// Every door so far, to be held against the next.
    doors: Vec<Placed>,
}

/// A door, its key, and its offset in the file.
struct Placed {
    listen: Listen,
    key: &'static str,
    at: usize,
}

/// Where an inbound leads, and its offset in the file.
type PlacedTarget = (Target, usize);

impl<'n> File<'n> {
    fn config(&mut self, mut root: Table<'n>) -> Read<Config> {
        let version = version(&mut root);
        let trust = self.identity(root.table("identity"));
        let device = self.device(root.table("device"));
        let peers = self.peers(root.table("peers"));
        let channel = channel(root.table("channel"));
        let (inbounds, outbounds) = (root.tables("inbound"), root.tables("outbound"));
        let captures = root.tables("capture");
        purpose(&root, matches!(peers, Ok(None)), &inbounds, &outbounds);
        let (inbound, targets) = self.inbound(inbounds);
        let domain = trust.as_ref().ok().map(|identity| &identity.trust_domain);
        let (outbound, mut doors) = self.outbound(outbounds, domain, captures.is_empty());
        doors.extend(self.capture(captures));
        let policy = self.policy(root.table("policy"));
        let behaviour = behaviour(root.table("behaviour"));
        let audit = self.audit(root.table("audit"));
        let console = self.admin(root.table("admin"));
        let limits = limits(root.table("limits"));
        let telemetry = log(root.table("log"));
        let drain_timeout = drain(root.table("drain"));

        self.no_clash();
        self.no_loop(&targets);
        root.finish();

        version?;
        behaviour?;
        let (pq, channel) = channel?;
        let inbound = inbound.into_iter().collect::<Read<_>>()?;
        let outbound = outbound.into_iter().collect::<Read<_>>()?;
        Ok(Config {
            identity: identity::Settings { pq, ..trust? },
            device: device?,
            policy: policy?,
            audit: audit?,
            limits: limits?,
            channel: channel::Settings { listen: peers?, ..channel },
            capture: doors.into_iter().collect::<Read<_>>()?,
            flow: flow::Settings { inbound, outbound, drain_timeout: drain_timeout? },
            console: console?,
            telemetry: telemetry?,
            source: self.source.to_owned(),
        })
    }

    fn identity(&self, mut table: Table<'n>) -> Read<identity::Settings> {
        let trust_domain =
            table.need("trust_domain", "\"example.org\"").and_then(|v| v.parse::<TrustDomain>());
        let leaf = self.path_or(&mut table, "leaf", "certs/leaf.pem");
        let key = self.path_or(&mut table, "key", "certs/leaf.key");
        let bundle = self.path_or(&mut table, "bundle", "certs/bundle.pem");
        let crl = match table.get("crl") {
            Some(value) => self.path(&value).map(Some),
            None => Ok(Some(self.folder.join("certs/crl.pem")).filter(|path| (self.exists)(path))),
        };
        table.finish();
        Ok(identity::Settings {
            trust_domain: trust_domain?,
            leaf: leaf?,
            key: key?,
            bundle: bundle?,
            crl: crl?,
            // `[channel]` has the last word.
            pq: identity::Pq::default(),
        })
    }

    fn device(&self, mut table: Table<'n>) -> Read<DeviceSettings> {
        let sysroot = self.path_or(&mut table, "sysroot", "/");
        let records = self.path_or(&mut table, "records", "devices");
        let require_tier = table.get_or("require_tier", 0, |value| match value.count::<u8>(0..=3)? {
            0 => Ok(0),
            tier => Err(value.wrong(format!(
                "is {tier}, but device evidence is not in this version yet: no peer could reach a tier above 0, \
                 so only 0 is accepted now"
            ))),
        });
        table.finish();
        Ok(DeviceSettings { sysroot: sysroot?, records: records?, require_tier: require_tier? })
    }

    fn peers(&mut self, mut table: Table<'n>) -> Read<Option<std::net::SocketAddr>> {
        let listen = table.get("listen").map(|value| {
            let address = value.address()?;
            self.place(&Listen::Tcp(address), "peers.listen", value.at);
            Ok(address)
        });
        table.finish();
        listen.transpose()
    }

    /// The inbounds, and where they lead.
    fn inbound(&self, tables: Vec<Table<'n>>) -> (Vec<Read<flow::Inbound>>, Vec<PlacedTarget>) {
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
            table.finish();
            let item = || {
                protocol?;
                Ok(flow::Inbound {
                    name: name?,
                    target: target?,
                    idle_timeout: idle_timeout?,
                    connect_timeout: connect_timeout?,
                })
            };
            inbounds.push(item());
        }
        (inbounds, targets)
    }

    /// The outbounds, and the local doors they have of their own.
    fn outbound(
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

    fn capture(&mut self, tables: Vec<Table<'n>>) -> Vec<Read<Door>> {
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

    fn policy(&self, mut table: Table<'n>) -> Read<policy::Settings> {
        let dir = self.path_or(&mut table, "dir", "policies");
        let cache_max = table.get_or("cache_max", 4096, |v| v.count(1..=COUNT_MAX));
        table.finish();
        Ok(policy::Settings { dir: dir?, cache_max: cache_max? })
    }

    fn audit(&self, mut table: Table<'n>) -> Read<audit::Settings> {
        use audit::OnFull::{Block, DropAllow};
        let dir = self.path_or(&mut table, "dir", "audit");
        let key = self.path_or(&mut table, "key", "audit.key");
        let on_full =
            table.get_or("on_full", Block, |v| v.one_of(&[("block", Block), ("drop-allow", DropAllow)]));
        let queue_max = table.get_or("queue_max", 16_384, |v| v.count(1..=1 << 20));
        let commit_interval = table.get_or("commit_interval", Duration::from_millis(50), |v| {
            v.duration(Duration::from_millis(1)..=Duration::from_secs(10))
        });
        let segment = table.get_or("segment_bytes_max", 64 * MIB, |v| v.size(MIB..=16 * GIB));
        let disk_reserve = table.get_or("disk_reserve", 64 * MIB, |v| v.size(0..=1024 * GIB));
        table.finish();
        Ok(audit::Settings {
            dir: dir?,
            key: key?,
            on_full: on_full?,
            queue_max: queue_max?,
            commit_interval: commit_interval?,
            segment_bytes_max: segment?,
            disk_reserve: disk_reserve?,
        })
    }

    fn admin(&mut self, mut table: Table<'n>) -> Read<console::Settings> {
        never_exposed(&mut table, "the admin address serves this host only");
        let listen = table.get("listen").map(|value| {
            if value.text().is_ok_and(|text| text.starts_with("unix:")) {
                return Err(value.wrong("must be a TCP address; the Unix socket is named by `admin.socket`"));
            }
            let address = value.address()?;
            if !address.ip().to_canonical().is_loopback() {
                return Err(value.wrong(
                    "must be a loopback address: the admin address serves this host only and is never exposed",
                ));
            }
            self.place(&Listen::Tcp(address), "admin.listen", value.at);
            Ok(address)
        });
        let hosts =
            table.get_or("hosts", Vec::new(), |v| v.list(HOSTS_MAX, |item| item.words().map(str::to_owned)));
        let (path, at) = match table.get("socket") {
            Some(value) => (self.path(&value), value.at),
            None => (Ok(self.folder.join(SOCKET)), table.at()),
        };
        table.finish();
        let socket = path.and_then(|path| {
            let listen = self.socket(path.clone(), UnixMode::default(), "admin.socket", at)?;
            self.place(&listen, "admin.socket", at);
            Ok(path)
        });
        Ok(console::Settings { listen: listen.transpose()?, hosts: hosts?, socket: socket? })
    }

    /// A path, relative to the file's folder.
    fn path(&self, value: &Value<'n>) -> Read<PathBuf> {
        value.words().map(|text| self.folder.join(text))
    }

    fn path_or(&self, table: &mut Table<'n>, key: &'static str, default: &str) -> Read<PathBuf> {
        table.get_or(key, self.folder.join(default), |value| self.path(&value))
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
    fn socket(&self, path: PathBuf, mode: UnixMode, key: &str, at: usize) -> Read<Listen> {
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

    /// Remembers a door.
    fn place(&mut self, listen: &Listen, key: &'static str, at: usize) {
        self.doors.push(Placed { listen: listen.clone(), key, at });
    }

    /// No two doors in one place.
    fn no_clash(&mut self) {
        self.doors.sort_by_key(|door| door.at);
        for (i, door) in self.doors.iter().enumerate() {
            let earlier = self.doors.iter().take(i).find(|other| doors::clash(&other.listen, &door.listen));
            if let Some(other) = earlier {
                let (key, place) = (door.key, shown(&door.listen));
                let message = match other.key == key {
                    true => format!("`{key}` is `{place}`, where another `{key}` listens already"),
                    false => format!("`{key}` is `{place}`, where `{}` listens already", other.key),
                };
                self.notes.wrong(door.at, message);
            }
        }
    }

    /// No inbound leads back to one of our own doors.
    fn no_loop(&self, targets: &[PlacedTarget]) {
        for (target, at) in targets {
            if let Some(door) = self.doors.iter().find(|door| doors::leads_to(target, &door.listen)) {
                let message = format!(
                    "`inbound.target` is `{target}`, this sidecar's own `{}`: a peer would be led in a circle; \
                     expected the address of the service",
                    door.key
                );
                self.notes.wrong(*at, message);
            }
        }
    }
}

/// The proxies a `[[capture]]` can speak.
#[derive(Clone, Copy)]
enum Proxy {
    Socks5,
    Connect,
}

fn version(root: &mut Table<'_>) -> Read<u64> {
    let value = root.need("version", "1")?;
    match value.count::<u64>(0..=u64::MAX)? {
        1 => Ok(1),
        other => Err(value.wrong(format!("is {other}, expected 1: this program reads no other version"))),
    }
}

fn channel(mut table: Table<'_>) -> Read<(identity::Pq, channel::Settings)> {
    use identity::Pq::{Off, Prefer, Require};
    let seconds = Duration::from_secs;
    let pq =
        table.get_or("pq", Prefer, |v| v.one_of(&[("off", Off), ("prefer", Prefer), ("require", Require)]));
    let connections_max = table.get_or("connections_max", 8, |v| v.count(1..=1024));
    let streams_max = table.get_or("streams_max", 100, |v| v.count(1..=10_000));
    let handshake_timeout = table.get_or("handshake_timeout", seconds(10), |v| v.duration(WAITS));
    let connect_timeout = table.get_or("connect_timeout", CONNECT, |v| v.duration(WAITS));
    let answer_timeout = table.get_or("answer_timeout", seconds(15), |v| v.duration(WAITS));
    let ping_interval = table.get_or("ping_interval", seconds(10), |v| v.duration(RESTS));
    let ping_timeout = table.get_or("ping_timeout", seconds(20), |v| v.duration(WAITS));
    let idle_timeout = table.get_or("idle_timeout", seconds(90), |v| v.duration(IDLES));
    let resolve_interval = table.get_or("resolve_interval", seconds(5), |v| v.duration(RESTS));
    let resolve_timeout = table.get_or("resolve_timeout", seconds(5), |v| v.duration(WAITS));
    table.finish();
    let settings = channel::Settings {
        // `[peers]` has the last word.
        listen: None,
        connections_max: connections_max?,
        streams_max: streams_max?,
        handshake_timeout: handshake_timeout?,
        connect_timeout: connect_timeout?,
        answer_timeout: answer_timeout?,
        ping_interval: ping_interval?,
        ping_timeout: ping_timeout?,
        idle_timeout: idle_timeout?,
        resolve_interval: resolve_interval?,
        resolve_timeout: resolve_timeout?,
    };
    Ok((pq?, settings))
}

fn behaviour(mut table: Table<'_>) -> Read<()> {
    let mode = table.get_or("mode", (), |value| match value.text()? {
        "off" => Ok(()),
        mode @ ("observe" | "enforce") => Err(value.wrong(format!(
            "is `{mode}`, but `observe` and `enforce` arrive with the analyser of a later version; \
             only `off` is accepted now"
        ))),
        other => Err(value.wrong(format!("must be `off`, got `{}`", cut(other)))),
    });
    table.finish();
    mode
}

fn limits(mut table: Table<'_>) -> Read<limits::Settings> {
    let mut rate = |key, default: u32| {
        table.get_or(key, NonZeroU32::new(default).unwrap_or(NonZeroU32::MIN), |value| {
            let count = value.count::<u32>(1..=COUNT_MAX)?;
            NonZeroU32::new(count).ok_or_else(|| value.wrong("must not be 0"))
        })
    };
    let knocks_per_second = rate("knocks_per_second", 50);
    let knocks_burst = rate("knocks_burst", 200);
    let flows_per_second = rate("flows_per_second", 20_000);
    let flows_burst = rate("flows_burst", 20_000);
    let mut count = |key, default: usize| table.get_or(key, default, |v| v.count::<usize>(1..=COUNT_MAX));
    let sources_max = count("sources_max", 65_536);
    let handshakes_max = count("handshakes_max", 512);
    let flows_per_device_max = count("flows_per_device_max", 20_000);
    let flows_max = count("flows_max", 50_000);
    let devices_max = count("devices_max", 65_536);
    let bytes = NonZeroU64::new(4 * GIB).unwrap_or(NonZeroU64::MIN);
    let bytes_per_second = table.get_or("bytes_per_second", bytes, |value| {
        let size = value.size(KIB..=1024 * GIB)?;
        NonZeroU64::new(size).ok_or_else(|| value.wrong("must not be 0"))
    });
    let memory_max = table.get_or("memory_max", 2 * GIB, |v| v.size(16 * MIB..=1024 * GIB));
    let descriptors_reserve = table.get_or("descriptors_reserve", 64, |v| v.count(0..=COUNT_MAX));
    table.finish();
    Ok(limits::Settings {
        knocks_per_second: knocks_per_second?,
        knocks_burst: knocks_burst?,
        sources_max: sources_max?,
        handshakes_max: handshakes_max?,
        flows_per_second: flows_per_second?,
        flows_burst: flows_burst?,
        flows_per_device_max: flows_per_device_max?,
        flows_max: flows_max?,
        bytes_per_second: bytes_per_second?,
        devices_max: devices_max?,
        memory_max: memory_max?,
        descriptors_reserve: descriptors_reserve?,
    })
}

fn log(mut table: Table<'_>) -> Read<telemetry::Settings> {
    use telemetry::Format::{Json, Text};
    let format = table.get_or("format", Json, |v| v.one_of(&[("json", Json), ("text", Text)]));
    let filter = table.get_or("filter", "info".to_owned(), |value| {
        let text = value.words()?;
        match telemetry::check_filter(text) {
            Ok(()) => Ok(text.to_owned()),
            Err(e) => Err(value.wrong(format!("is `{}`: {e}", cut(text)))),
        }
    });
    table.finish();
    Ok(telemetry::Settings { format: format?, filter: filter? })
}

fn drain(mut table: Table<'_>) -> Read<Duration> {
    let longest = Duration::from_secs(24 * 3600);
    let timeout = table.get_or("timeout", Duration::from_secs(30), |v| v.duration(Duration::ZERO..=longest));
    table.finish();
    timeout
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

fn never_exposed(table: &mut Table<'_>, why: &str) {
    if let Some(value) = table.get("expose") {
        value.wrong(format!("cannot be set here: {why}, so it is never exposed"));
    }
}

/// The file must give this sidecar something to do.
fn purpose(root: &Table<'_>, deaf: bool, inbounds: &[Table<'_>], outbounds: &[Table<'_>]) {
    if inbounds.is_empty() && outbounds.is_empty() {
        root.absent(
            "nothing to do: name a service of this host with `[peers] listen` and `[[inbound]]`, or one of a peer \
             with `[[outbound]]`",
        );
    }
    if let (Some(inbound), true) = (inbounds.first(), deaf) {
        inbound.absent("`[[inbound]]` needs `[peers] listen`: no peer could knock");
    }
}

fn is_local(listen: &Listen) -> bool {
    match listen {
        Listen::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Listen::Unix { .. } => true,
    }
}

fn shown(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix { path, .. } => format!("unix:{}", path.display()),
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Most of anything that is counted.
const COUNT_MAX: u64 = 10_000_000;
/// Most `paths` of one outbound.
const PATHS_MAX: usize = 16;
/// Most names in `[admin] hosts`.
const HOSTS_MAX: usize = 64;
/// Longest path of a Unix socket that is dialled (`sun_path` less its NUL).
const DIAL_PATH_MAX: usize = 107;
/// Longest path of a Unix socket of ours: while it is made, `.` and the process id follow its name.
const LISTEN_PATH_MAX: usize = DIAL_PATH_MAX - 8;
const SOCKET: &str = "countersign.sock";

const IDLE: Duration = Duration::from_secs(3600);
const CONNECT: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(10);
/// Waits for somebody's answer.
const WAITS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
/// Rests between two tries.
const RESTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// Silence.
const IDLES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
