//! The tables of the rooms: identity, device, authority, channel, policy, audit, admin, limits, log and drain.

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::enrolment::{Enrolment, Membership, PATHS_MAX};
use super::load::File;
use super::mistake::Read;
use super::raw::{Table, Value, cut};
use super::services::{CONNECT, IDLES, RESTS, WAITS, never_exposed};
use crate::capture::Listen;
use crate::device::{self, Component, Thresholds, Weights};
use crate::identity::authority;
use crate::model::{Authority, SpiffeId, Tier, Timestamp, TrustDomain};
use crate::net::UnixMode;
use crate::{audit, channel, console, flow, identity, limits, policy, telemetry};

impl<'n> File<'n> {
    pub fn identity(&self, mut table: Table<'n>) -> Read<identity::Settings> {
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

    /// `leaf` is where our certificate lies: joining writes record and salt beside it.
    pub fn device(
        &self,
        mut table: Table<'n>,
        leaf: Option<&Path>,
        domain: Option<&TrustDomain>,
    ) -> Read<device::Settings> {
        let certs = leaf.and_then(Path::parent).map_or_else(|| self.folder.join("certs"), Path::to_owned);
        let beside = |table: &mut Table<'n>, key: &'static str, file: &str| {
            table.get_or(key, certs.join(file), |value| self.path(&value))
        };
        let sysroot = self.path_or(&mut table, "sysroot", "/");
        let salt = beside(&mut table, "salt", "device.salt");
        let record = beside(&mut table, "record", "device.record");
        let records = self.path_or(&mut table, "records", "devices");
        let require_tier = table.get_or("require_tier", Tier::None, |value| {
            let level = value.count::<u8>(0..=3)?;
            TIERS.into_iter().find(|t| t.level() == level).ok_or_else(|| value.wrong("is no tier"))
        });
        let exempt = table.get_or("exempt", Vec::new(), |value| {
            value.list(EXEMPT_MAX, |item| {
                let id = item.parse::<SpiffeId>()?;
                match domain {
                    Some(ours) if ours != id.trust_domain() => Err(item.wrong(format!(
                        "is of the trust domain `{}`, expected `identity.trust_domain`, which is `{ours}`",
                        id.trust_domain()
                    ))),
                    _ => Ok(id),
                }
            })
        });
        let default = Thresholds::default();
        let match_min = table.get_or("match_min", default.match_min, |v| v.count(1..=100));
        let drift_min = table.get_or("drift_min", default.drift_min, |value| {
            let least = value.count::<u8>(1..=100)?;
            match &match_min {
                Ok(most) if least > *most => {
                    Err(value.wrong(format!("is {least}, expected at most `match_min`, which is {most}")))
                }
                _ => Ok(least),
            }
        });
        let board_changed_max =
            table.get_or("board_changed_max", default.board_changed_max, |v| v.count(0..=3));
        let drift_quiet =
            table.get_or("drift_quiet", default.drift_quiet, |v| v.duration(Duration::ZERO..=YEAR));
        let lease = table.get_or("lease", default.lease_ttl, |v| v.duration(LEASES));
        let lease_drift = table.get_or("lease_drift", default.lease_ttl_drift, |v| v.duration(LEASES));
        let lease_drain =
            table.get_or("lease_drain", Duration::from_secs(3), |v| v.duration(Duration::ZERO..=WAIT_MAX));
        let look_interval = table.get_or("look_interval", Duration::from_secs(60), |v| v.duration(LOOKS));
        let devices_max = table.get_or("devices_max", 65_536, |v| v.count(1..=COUNT_MAX));
        let weights = table.get_or("weights", Weights::default(), |value| {
            value
                .pairs(COMPONENTS_MAX, |name, item| match Component::from_name(name) {
                    Some(component) => Ok((component, item.count::<u16>(0..=1000)?)),
                    None => Err(item.wrong("is no component; see `countersign device show`")),
                })
                .map(Weights::with)
        });
        table.finish();
        Ok(device::Settings {
            sysroot: sysroot?,
            salt: salt?,
            record: record?,
            records: records?,
            require_tier: require_tier?,
            exempt: exempt?,
            devices_max: devices_max?,
            look_interval: look_interval?,
            lease_drain: lease_drain?,
            thresholds: Thresholds {
                weights: weights?,
                match_min: match_min?,
                drift_min: drift_min?,
                board_changed_max: board_changed_max?,
                drift_quiet: drift_quiet?,
                lease_ttl: lease?,
                lease_ttl_drift: lease_drift?,
            },
        })
    }

    pub fn policy(&self, mut table: Table<'n>) -> Read<policy::Settings> {
        let dir = self.path_or(&mut table, "dir", "policies");
        let cache_max = table.get_or("cache_max", 4096, |v| v.count(1..=COUNT_MAX));
        table.finish();
        // `[behaviour]` has the last word.
        Ok(policy::Settings { dir: dir?, cache_max: cache_max?, behaviour_needed: false })
    }

    pub fn audit(&self, mut table: Table<'n>) -> Read<audit::Settings> {
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

    pub fn admin(&mut self, mut table: Table<'n>) -> Read<console::Settings> {
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

    /// `None` when the file has no `[authority]`.
    pub fn authority(&self, mut table: Table<'n>) -> Read<Option<authority::Settings>> {
        use authority::Approval::{Auto, Queue};
        let there = table.is_there();
        let ca = self.path_or(&mut table, "ca", "ca");
        let records = self.path_or(&mut table, "records", "devices");
        let approval = table.get_or("approval", Auto, |v| v.one_of(&[("auto", Auto), ("queue", Queue)]));
        let mut ttl = |key, default, most| table.get_or(key, default, |v| v.duration(SHORTEST_TTL..=most));
        let leaf_ttl = ttl("leaf_ttl", authority::TTL_DEFAULT, authority::TTL_MAX);
        let crl_ttl = ttl("crl_ttl", authority::CRL_TTL_DEFAULT, authority::CRL_TTL_MAX);
        let record_ttl = ttl("record_ttl", Duration::from_secs(30 * 86_400), RECORD_TTL_MAX);
        let recover_grace = table.get_or("recover_grace", authority::RECOVER_GRACE_DEFAULT, |v| {
            v.duration(Duration::ZERO..=authority::RECOVER_GRACE_MAX)
        });
        table.finish();
        let settings = authority::Settings {
            ca: ca?,
            records: records?,
            approval: approval?,
            leaf_ttl: leaf_ttl?,
            crl_ttl: crl_ttl?,
            record_ttl: record_ttl?,
            recover_grace: recover_grace?,
        };
        Ok(there.then_some(settings))
    }

    pub fn enrolment(
        &self,
        mut table: Table<'n>,
        leaf: Option<&Path>,
        domain: Option<&TrustDomain>,
    ) -> Read<Enrolment> {
        let at = table.at();
        let authority = table.get("authority").map(|value| {
            let id = value.parse::<SpiffeId>()?;
            match domain {
                Some(ours) if ours != id.trust_domain() => Err(value.wrong(format!(
                    "is of the trust domain `{}`, expected `identity.trust_domain`, which is `{ours}`",
                    id.trust_domain()
                ))),
                _ => Ok(id),
            }
        });
        let paths = table.get("paths").map(|value| {
            match value.list(PATHS_MAX, |item| item.parse::<Authority>())? {
                paths if paths.is_empty() => {
                    Err(value.wrong("is empty, expected at least one `host:port` of the authority"))
                }
                paths => Ok(paths),
            }
        });
        let ready_before =
            table.get_or("ready_before", Duration::ZERO, |v| v.duration(Duration::ZERO..=authority::TTL_MAX));
        table.finish();
        let (authority, paths) = (authority.transpose()?, paths.transpose()?);
        let membership = match (authority, paths) {
            (Some(authority), Some(paths)) => Some(Membership { authority, paths }),
            (None, None) => None,
            _ => {
                let why = "`[enrolment]` needs both `authority` and `paths`, or neither";
                return Err(self.notes.absent(at, why));
            }
        };
        let folder = leaf.and_then(Path::parent).unwrap_or(self.folder);
        Ok(Enrolment { membership, file: folder.join("authority.toml"), ready_before: ready_before? })
    }

    /// A path, relative to the file's folder.
    pub fn path(&self, value: &Value<'n>) -> Read<PathBuf> {
        value.words().map(|text| self.folder.join(text))
    }

    fn path_or(&self, table: &mut Table<'n>, key: &'static str, default: &str) -> Read<PathBuf> {
        table.get_or(key, self.folder.join(default), |value| self.path(&value))
    }
}

pub(super) fn channel(mut table: Table<'_>) -> Read<(identity::Pq, channel::Settings)> {
    use identity::Pq::{Off, Prefer, Require};
    let seconds = Duration::from_secs;
    let pq =
        table.get_or("pq", Prefer, |v| v.one_of(&[("off", Off), ("prefer", Prefer), ("require", Require)]));
    let connections_max = table.get_or("connections_max", 16, |v| v.count(1..=1024));
    let streams_max = table.get_or("streams_max", 1000, |v| v.count(1..=10_000));
    let handshake_timeout = table.get_or("handshake_timeout", seconds(10), |v| v.duration(WAITS));
    let connect_timeout = table.get_or("connect_timeout", CONNECT, |v| v.duration(WAITS));
    let answer_timeout = table.get_or("answer_timeout", seconds(15), |v| v.duration(WAITS));
    let ping_interval = table.get_or("ping_interval", seconds(10), |v| v.duration(RESTS));
    let ping_timeout = table.get_or("ping_timeout", seconds(20), |v| v.duration(WAITS));
    let idle_timeout = table.get_or("idle_timeout", seconds(90), |v| v.duration(IDLES));
    let rekey_after = table.get_or("rekey_after", seconds(3600), |v| v.duration(IDLES));
    let resolve_interval = table.get_or("resolve_interval", seconds(5), |v| v.duration(RESTS));
    let resolve_timeout = table.get_or("resolve_timeout", seconds(5), |v| v.duration(WAITS));
    table.finish();
    let settings = channel::Settings {
        // `[peers]` has the last word.
        listen: None,
        profile: channel::Profile::Native,
        connections_max: connections_max?,
        streams_max: streams_max?,
        handshake_timeout: handshake_timeout?,
        connect_timeout: connect_timeout?,
        answer_timeout: answer_timeout?,
        ping_interval: ping_interval?,
        ping_timeout: ping_timeout?,
        idle_timeout: idle_timeout?,
        rekey_after: rekey_after?,
        resolve_interval: resolve_interval?,
        resolve_timeout: resolve_timeout?,
    };
    Ok((pq?, settings))
}

/// `state`: the folder that what is learnt goes to.
pub(super) fn behaviour(mut table: Table<'_>, folder: &Path, state: &Path) -> Read<flow::BehaviourSettings> {
    use flow::Mode::{Enforce, Observe, Off};
    let default = flow::BehaviourSettings::default();
    let mode = table.get_or("mode", default.mode, |value| {
        value.one_of(&[Off, Observe, Enforce].map(|mode| (mode.name(), mode)))
    });
    let enforce_from = table.get("enforce_from").map(|value| {
        let text = value.text()?;
        let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        parsed.map(|at| Timestamp::from_secs(at.unix_timestamp())).map_err(|_| {
            value.wrong(format!("must be a time such as `2026-11-25T00:00:00Z`, got `{}`", cut(text)))
        })
    });
    let learn = table.get_or("learn", default.learn, |v| v.duration(LEARNING));
    let flows_max = table.get_or("flows_max", default.flows_max, |v| v.count(1..=COUNT_MAX));
    let devices_max = table.get_or("devices_max", default.devices_max, |v| v.count(1..=COUNT_MAX));
    let remember = table.get_or("remember", Some(state.join(STATE)), |value| match value.text()? {
        "" => Ok(None),
        _ => value.words().map(|text| Some(folder.join(text))),
    });
    let remember_every = table.get_or("remember_every", default.remember_every, |v| v.duration(REMEMBERING));
    table.finish();
    Ok(flow::BehaviourSettings {
        mode: mode?,
        enforce_from: enforce_from.transpose()?,
        learn: learn?,
        flows_max: flows_max?,
        devices_max: devices_max?,
        remember: remember?,
        remember_every: remember_every?,
    })
}

pub(super) fn limits(mut table: Table<'_>) -> Read<limits::Settings> {
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

pub(super) fn log(mut table: Table<'_>) -> Read<telemetry::Settings> {
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

pub(super) fn drain(mut table: Table<'_>) -> Read<Duration> {
    let longest = Duration::from_secs(24 * 3600);
    let timeout = table.get_or("timeout", Duration::from_secs(30), |v| v.duration(Duration::ZERO..=longest));
    table.finish();
    timeout
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Most of anything that is counted.
const COUNT_MAX: u64 = 10_000_000;
/// Most names in `[admin] hosts`.
const HOSTS_MAX: usize = 64;
/// Shortest life of what the authority signs: below it clocks alone would end it.
const SHORTEST_TTL: Duration = Duration::from_secs(30);
/// Longest life of a device record.
const RECORD_TTL_MAX: Duration = Duration::from_secs(90 * 86_400);
const TIERS: [Tier; 4] = [Tier::None, Tier::Software, Tier::Bound, Tier::Attested];
/// Most devices in `[device] exempt`.
const EXEMPT_MAX: usize = 1024;
/// Most components in `[device] weights`.
const COMPONENTS_MAX: usize = 64;
const LEASES: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(24 * 3600);
const LOOKS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a device may have to be learnt.
const LEARNING: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(30 * 86_400);
/// How often what was learnt may be written.
const REMEMBERING: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const STATE: &str = "behaviour.state";
const SOCKET: &str = "countersign.sock";
