//! Writes a [`Config`] down as the TOML that would make it, defaults and all.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use super::Config;
use super::services::TONGUES;
use crate::capture::{Door, Listen, Mode};
use crate::channel::Profile;
use crate::{audit, device, flow, identity, telemetry};

impl Config {
    /// Every effective value as TOML; reading it again gives the same configuration.
    pub fn to_toml(&self) -> String {
        let mut toml = Toml(String::new());
        toml.line(format_args!("# Effective configuration of {}", self.source.display()));
        toml.pair("version", 1);
        self.show_identity(&mut toml);
        self.show_services(&mut toml);
        self.show_rooms(&mut toml);
        self.show_limits(&mut toml);
        toml.0
    }

    fn show_identity(&self, toml: &mut Toml) {
        let Self { identity, channel, .. } = self;
        toml.header("[identity]");
        toml.text("trust_domain", identity.trust_domain.as_str());
        toml.path("leaf", &identity.leaf);
        toml.path("key", &identity.key);
        toml.path("bundle", &identity.bundle);
        match &identity.crl {
            Some(crl) => toml.path("crl", crl),
            None => {
                toml.line(format_args!("# crl: none named and no `certs/crl.pem`, nothing counts as revoked"))
            }
        }
        toml.header("[device]");
        self.show_device(toml);
        self.show_authority(toml);
        self.show_enrolment(toml);
        toml.header("[peers]");
        match channel.listen {
            Some(address) => toml.text("listen", address),
            None => toml.line(format_args!("# listen: off, this sidecar only dials")),
        }
        match &channel.profile {
            Profile::Native => toml.text("profile", "native"),
            Profile::Hbone { trusted_waypoints } => {
                toml.text("profile", "hbone");
                toml.list("trusted_waypoints", trusted_waypoints);
            }
        }
    }

    fn show_device(&self, toml: &mut Toml) {
        let device::Settings { thresholds, .. } = &self.device;
        toml.path("sysroot", &self.device.sysroot);
        toml.path("salt", &self.device.salt);
        toml.path("record", &self.device.record);
        toml.path("records", &self.device.records);
        toml.pair("require_tier", self.device.require_tier.level());
        toml.list("exempt", &self.device.exempt);
        toml.pair("devices_max", self.device.devices_max);
        toml.time("lease", thresholds.lease_ttl);
        toml.time("lease_drift", thresholds.lease_ttl_drift);
        toml.time("lease_drain", self.device.lease_drain);
        toml.time("look_interval", self.device.look_interval);
        toml.pair("match_min", thresholds.match_min);
        toml.pair("drift_min", thresholds.drift_min);
        toml.pair("board_changed_max", thresholds.board_changed_max);
        toml.time("drift_quiet", thresholds.drift_quiet);
        let weights = device::Component::ALL.iter().filter(|c| c.class() != device::Class::Observed);
        let weights: Vec<_> = weights.map(|c| format!("\"{c}\" = {}", thresholds.weights.of(*c))).collect();
        toml.line(format_args!("weights = {{ {} }}", weights.join(", ")));
    }

    fn show_authority(&self, toml: &mut Toml) {
        let Some(authority) = &self.authority else { return };
        toml.header("[authority]");
        toml.path("ca", &authority.ca);
        toml.path("records", &authority.records);
        toml.text(
            "approval",
            match authority.approval {
                identity::authority::Approval::Auto => "auto",
                identity::authority::Approval::Queue => "queue",
            },
        );
        toml.time("leaf_ttl", authority.leaf_ttl);
        toml.time("crl_ttl", authority.crl_ttl);
        toml.time("record_ttl", authority.record_ttl);
        toml.time("recover_grace", authority.recover_grace);
    }

    fn show_enrolment(&self, toml: &mut Toml) {
        toml.header("[enrolment]");
        match &self.enrolment.membership {
            Some(membership) => {
                toml.text("authority", &membership.authority);
                toml.list("paths", &membership.paths);
            }
            None => toml.line(format_args!(
                "# authority: as `{}` says, if it is there",
                self.enrolment.file.display()
            )),
        }
        toml.time("ready_before", self.enrolment.ready_before);
    }

    fn show_services(&self, toml: &mut Toml) {
        for inbound in &self.flow.inbound {
            toml.header("[[inbound]]");
            toml.text("name", &inbound.name);
            toml.text("target", &inbound.target);
            toml.text("protocol", "tcp");
            toml.time("idle_timeout", inbound.idle_timeout);
            toml.time("connect_timeout", inbound.connect_timeout);
            toml.text(
                "pass",
                match inbound.pass {
                    flow::Pass::Nothing => "nothing",
                    flow::Pass::ProxyV2 => "proxy-v2",
                },
            );
            let speaks = TONGUES.iter().find(|(_, tongue)| *tongue == inbound.speaks);
            toml.text("speaks", speaks.map_or("anything", |(name, _)| name));
        }
        for outbound in &self.flow.outbound {
            toml.header("[[outbound]]");
            toml.text("name", &outbound.name);
            let own = |door: &&Door| matches!(&door.mode, Mode::Forward(name) if *name == outbound.name);
            match self.capture.iter().find(own) {
                Some(door) => toml.listen(&door.listen, "mode"),
                None => toml.line(format_args!("# listen: off, reached by `[[capture]]` only")),
            }
            toml.text("protocol", "tcp");
            toml.text("peer", &outbound.peer);
            toml.list("paths", &outbound.paths);
            toml.time("idle_timeout", outbound.idle_timeout);
        }
        for door in &self.capture {
            let mode = match door.mode {
                Mode::Forward(_) => continue,
                Mode::Socks5 => "socks5",
                Mode::Connect => "connect",
            };
            toml.header("[[capture]]");
            toml.text("mode", mode);
            toml.listen(&door.listen, "socket_mode");
            toml.time("request_timeout", door.request_timeout);
        }
    }

    fn show_rooms(&self, toml: &mut Toml) {
        let Self { identity, policy, behaviour, audit, channel, flow, console, telemetry, .. } = self;
        toml.header("[channel]");
        toml.text(
            "pq",
            match identity.pq {
                identity::Pq::Off => "off",
                identity::Pq::Prefer => "prefer",
                identity::Pq::Require => "require",
            },
        );
        toml.pair("connections_max", channel.connections_max);
        toml.pair("streams_max", channel.streams_max);
        toml.time("handshake_timeout", channel.handshake_timeout);
        toml.time("connect_timeout", channel.connect_timeout);
        toml.time("answer_timeout", channel.answer_timeout);
        toml.time("ping_interval", channel.ping_interval);
        toml.time("ping_timeout", channel.ping_timeout);
        toml.time("idle_timeout", channel.idle_timeout);
        toml.time("rekey_after", channel.rekey_after);
        toml.time("resolve_interval", channel.resolve_interval);
        toml.time("resolve_timeout", channel.resolve_timeout);
        toml.header("[policy]");
        toml.path("dir", &policy.dir);
        toml.pair("cache_max", policy.cache_max);
        toml.header("[behaviour]");
        toml.text("mode", behaviour.mode.name());
        match behaviour.enforce_from {
            Some(at) => toml.text("enforce_from", at),
            None => toml.line(format_args!("# enforce_from: each device earns it")),
        }
        toml.time("learn", behaviour.learn);
        toml.pair("flows_max", behaviour.flows_max);
        toml.pair("devices_max", behaviour.devices_max);
        match &behaviour.remember {
            Some(path) => toml.path("remember", path),
            None => toml.text("remember", ""),
        }
        toml.time("remember_every", behaviour.remember_every);
        toml.header("[audit]");
        toml.path("dir", &audit.dir);
        toml.path("key", &audit.key);
        toml.text(
            "on_full",
            match audit.on_full {
                audit::OnFull::Block => "block",
                audit::OnFull::DropAllow => "drop-allow",
            },
        );
        toml.pair("queue_max", audit.queue_max);
        toml.time("commit_interval", audit.commit_interval);
        toml.text("segment_bytes_max", size(audit.segment_bytes_max));
        toml.text("disk_reserve", size(audit.disk_reserve));
        toml.header("[admin]");
        match console.listen {
            Some(address) => toml.text("listen", address),
            None => toml.line(format_args!("# listen: off, no TCP address for health and metrics")),
        }
        toml.list("hosts", &console.hosts);
        toml.path("socket", &console.socket);
        toml.header("[log]");
        toml.text(
            "format",
            match telemetry.format {
                telemetry::Format::Json => "json",
                telemetry::Format::Text => "text",
            },
        );
        toml.text("filter", &telemetry.filter);
        toml.header("[drain]");
        toml.time("timeout", flow.drain_timeout);
    }

    fn show_limits(&self, toml: &mut Toml) {
        let limits = &self.limits;
        toml.header("[limits]");
        toml.pair("knocks_per_second", limits.knocks_per_second);
        toml.pair("knocks_burst", limits.knocks_burst);
        toml.pair("sources_max", limits.sources_max);
        toml.pair("handshakes_max", limits.handshakes_max);
        toml.pair("flows_per_second", limits.flows_per_second);
        toml.pair("flows_burst", limits.flows_burst);
        toml.pair("flows_per_device_max", limits.flows_per_device_max);
        toml.pair("flows_max", limits.flows_max);
        toml.text("bytes_per_second", size(limits.bytes_per_second.get()));
        toml.pair("devices_max", limits.devices_max);
        toml.text("memory_max", size(limits.memory_max));
        toml.pair("descriptors_reserve", limits.descriptors_reserve);
    }
}

/// A duration as the file may have it: the largest unit that leaves no rest.
pub(super) fn duration(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match units.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms == 0 => "0s".to_owned(),
        None => format!("{ms}ms"),
    }
}

/// A size as the file may have it: the largest unit that leaves no rest.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// TOML under way.
struct Toml(String);

impl Toml {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn header(&mut self, header: &str) {
        self.line(format_args!("\n{header}"));
    }

    fn pair(&mut self, key: &str, value: impl fmt::Display) {
        self.line(format_args!("{key} = {value}"));
    }

    fn text(&mut self, key: &str, value: impl fmt::Display) {
        self.pair(key, quoted(&value.to_string()));
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, path.display());
    }

    fn time(&mut self, key: &str, time: Duration) {
        self.text(key, duration(time));
    }

    fn list<T: fmt::Display>(&mut self, key: &str, items: &[T]) {
        let items: Vec<_> = items.iter().map(|item| quoted(&item.to_string())).collect();
        self.line(format_args!("{key} = [{}]", items.join(", ")));
    }

    fn listen(&mut self, listen: &Listen, mode_key: &str) {
        match listen {
            Listen::Tcp(address) => {
                self.text("listen", address);
                if !address.ip().to_canonical().is_loopback() {
                    self.pair("expose", true);
                }
            }
            Listen::Unix { path, mode } => {
                self.text("listen", format_args!("unix:{}", path.display()));
                self.text(mode_key, format_args!("{:04o}", mode.0));
            }
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_take_the_largest_unit_without_a_rest() {
        let shown =
            [0, 50, 1000, 90_000, 3_600_000, 172_800_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["0s", "50ms", "1s", "90s", "1h", "2d"]);
        assert_eq!([0, 1, 1024, 3 << 20, 1 << 40].map(size), ["0B", "1B", "1KiB", "3MiB", "1024GiB"]);
    }
}
