//! Looks at one machine: the only file that reads components, each from the place where Linux tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::hmac;

use super::Component;
use super::junk::{mac, meaning};
use super::record::VALUES_MAX;
use super::sysroot::{Sysroot, SysrootError};

/// What one machine showed. Its values are raw and stay in here: nothing prints them.
#[derive(Clone, Debug)]
pub struct Collected {
    values: BTreeMap<Component, Vec<Raw>>,
    /// What is missing, and why.
    pub missing: BTreeMap<Component, Missing>,
    /// Whether this is a container that sees itself only.
    pub container: bool,
    boot: Raw,
}

impl Collected {
    pub(super) fn values(&self) -> impl Iterator<Item = (Component, impl Iterator<Item = &str>)> {
        self.values.iter().map(|(c, raw)| (*c, raw.iter().map(|r| &*r.0)))
    }

    /// Empty where the kernel tells none.
    pub(super) fn boot(&self) -> &str {
        &self.boot.0
    }
}

/// A value as the machine told it.
#[derive(Clone)]
struct Raw(Box<str>);

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(raw)")
    }
}

/// Why a component has no value.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Missing {
    /// The machine has none, or does not tell it.
    Absent,
    /// The maker left something that says nothing.
    Junk,
    /// It is there, for root alone.
    NeedsRoot,
}

/// Looks at the machine whose root folder is `sysroot`: `/`, or where a container has mounted its host's.
///
/// # Errors
/// [`SysrootError`] when there is no such folder. A component that cannot be read is `missing`.
pub fn collect(sysroot: &Path) -> Result<Collected, SysrootError> {
    let root = Sysroot::open(sysroot)?;
    let container = container(&root);
    let mut values = BTreeMap::new();
    let mut missing = BTreeMap::new();
    for component in Component::ALL.iter().copied() {
        match look(&root, component, container.as_deref()) {
            Ok(raw) => {
                values.insert(component, raw.into_iter().map(|text| Raw(text.into())).collect());
            }
            Err(why) => {
                missing.insert(component, why);
            }
        }
    }
    let boot = root.text("proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = Raw(boot.trim().into());
    Ok(Collected { values, missing, container: container.is_some(), boot })
}

fn look(root: &Sysroot, component: Component, container: Option<&str>) -> Result<Vec<String>, Missing> {
    let one = |text: Result<String, Missing>| text.map(|t| vec![t]);
    let dmi = |name: &str| meaning(&root.text(&format!("sys/class/dmi/id/{name}"))?);
    match component {
        Component::ProductUuid => one(dmi("product_uuid")),
        Component::BoardSerial => one(dmi("board_serial")),
        Component::ProductSerial => one(dmi("product_serial")),
        Component::Cpu => one(root.text("proc/cpuinfo").and_then(|t| cpu(&t))),
        Component::RootDisk => one(root_disk(root)),
        Component::NicMacs => nic_macs(root),
        Component::Memory => one(root.text("proc/meminfo").and_then(|t| memory(&t))),
        Component::MachineId => one(root.text("etc/machine-id").and_then(|t| machine_id(&t))),
        Component::RootFs => one(root_fs(root)),
        Component::SshHostKeys => one(ssh_host_keys(root)),
        Component::Os => {
            let text = root.text("etc/os-release").or_else(|_| root.text("usr/lib/os-release"));
            one(text.and_then(|t| os(&t)))
        }
        Component::Kernel => one(root.text("proc/sys/kernel/osrelease").and_then(|t| meaning(&t))),
        Component::Arch => {
            // Kernels before 6.1 do not tell; the one we run on is the one we were built for.
            let told = root.text("proc/sys/kernel/arch").and_then(|t| meaning(&t));
            one(told.or_else(|_| Ok(std::env::consts::ARCH.to_owned())))
        }
        Component::Container => Ok(vec![container.unwrap_or("none").to_owned()]),
        Component::Virtual => {
            let text = root.text("proc/cpuinfo")?;
            let seen = text.split_whitespace().any(|word| word == "hypervisor");
            Ok(vec![if seen { "hypervisor" } else { "none" }.to_owned()])
        }
    }
}

/// Which kind of container this is, if any.
fn container(root: &Sysroot) -> Option<String> {
    if root.exists(".dockerenv") {
        return Some("docker".into());
    }
    if root.exists("run/.containerenv") {
        return Some("podman".into());
    }
    let told = root.text("run/systemd/container").ok().filter(|t| !t.trim().is_empty());
    let told = told.or_else(|| of_environment(std::env::var("container").ok(), root.own));
    told.map(|t| t.trim().to_owned()).or_else(|| {
        let groups = root.text("proc/1/cgroup").ok()?;
        let kinds = ["kubepods", "docker", "containerd", "libpod", "lxc"];
        kinds.into_iter().find(|kind| groups.contains(kind)).map(str::to_owned)
    })
}

/// What the environment says of our own machine; of another it says nothing.
fn of_environment(container: Option<String>, own: bool) -> Option<String> {
    container.filter(|kind| own && !kind.is_empty())
}

/// The fields of the first processor that stay as they are: x86's names, or those of ARM.
fn cpu(text: &str) -> Result<String, Missing> {
    let first = text.split("\n\n").next().unwrap_or_default();
    let field = |name: &&str| {
        let line = first.lines().find_map(|l| l.split_once(':').filter(|(key, _)| key.trim() == *name));
        line.map(|(_, value)| value.trim().to_owned())
    };
    let sets = [
        ["vendor_id", "cpu family", "model", "stepping"],
        ["CPU implementer", "CPU architecture", "CPU part", "CPU revision"],
    ];
    let found = sets.iter().find_map(|set| set.iter().map(field).collect::<Option<Vec<_>>>());
    found.map(|values| values.join("/")).ok_or(Missing::Absent)
}

/// The power of two that the memory fits in: what the kernel keeps for itself changes, this does not.
fn memory(text: &str) -> Result<String, Missing> {
    let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:")).ok_or(Missing::Absent)?;
    let kib: u64 = total.trim().trim_end_matches("kB").trim().parse().map_err(|_| Missing::Junk)?;
    let fits = kib.checked_next_power_of_two().filter(|_| kib > 0).ok_or(Missing::Junk)?;
    Ok(fits.to_string())
}

/// An HMAC in place of the ID itself, which systemd wants kept: sd_id128_get_machine_app_specific(3).
fn machine_id(text: &str) -> Result<String, Missing> {
    let text = meaning(text)?;
    let id = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().filter(|id| id.len() == 16);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &id.ok_or(Missing::Junk)?);
    Ok(HEXLOWER.encode(hmac::sign(&key, APP_ID).as_ref()))
}

fn os(text: &str) -> Result<String, Missing> {
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
    };
    let id = field("ID").ok_or(Missing::Absent)?;
    let version = field("VERSION").or_else(|| field("VERSION_ID")).unwrap_or_default();
    meaning(&format!("{id} {version}"))
}

/// Addresses that the hardware came with, of interfaces that are hardware.
fn nic_macs(root: &Sysroot) -> Result<Vec<String>, Missing> {
    let mut macs = BTreeSet::new();
    for name in root.names("sys/class/net")? {
        let file = |file: &str| root.text(&format!("sys/class/net/{name}/{file}"));
        if !root.exists(&format!("sys/class/net/{name}/device")) {
            continue;
        }
        // A bond lends its members one address; theirs is kept here.
        let permanent = file("bonding_slave/perm_hwaddr");
        let own = || file("address").ok().filter(|_| file("addr_assign_type").is_ok_and(|t| t.trim() == "0"));
        let address = permanent.ok().or_else(own);
        macs.extend(address.and_then(|text| mac(&text).ok()));
    }
    if macs.is_empty() {
        return Err(Missing::Absent);
    }
    Ok(macs.into_iter().take(VALUES_MAX).collect())
}

fn ssh_host_keys(root: &Sysroot) -> Result<String, Missing> {
    let mut keys = BTreeSet::new();
    let names = root.names("etc/ssh")?;
    let names = names.iter().filter(|n| n.starts_with("ssh_host_") && n.ends_with("_key.pub"));
    for name in names.take(VALUES_MAX) {
        let text = root.text(&format!("etc/ssh/{name}"))?;
        // Type and key; the comment is free text.
        let mut words = text.split_whitespace();
        if let (Some(kind), Some(key)) = (words.next(), words.next()) {
            keys.insert(format!("{kind} {key}"));
        }
    }
    if keys.is_empty() {
        return Err(Missing::Absent);
    }
    Ok(keys.into_iter().collect::<Vec<_>>().join("\n"))
}

fn root_fs(root: &Sysroot) -> Result<String, Missing> {
    let device = root_device(root)?;
    for uuid in root.names("dev/disk/by-uuid")? {
        if root.link(&format!("dev/disk/by-uuid/{uuid}")).is_some_and(|(_, name)| name == device) {
            return meaning(&uuid);
        }
    }
    Err(Missing::Absent)
}

fn root_disk(root: &Sysroot) -> Result<String, Missing> {
    let mut found = BTreeSet::new();
    disks(root, &root_device(root)?, STACK_MAX, &mut found);
    if found.is_empty() {
        return Err(Missing::Absent);
    }
    Ok(found.into_iter().collect::<Vec<_>>().join("\n"))
}

/// Collects the numbers of the disks that the block device `name` lies on: partitions, LVM, RAID, encryption.
fn disks(root: &Sysroot, name: &str, depth: usize, found: &mut BTreeSet<String>) {
    let Some(deeper) = depth.checked_sub(1) else { return };
    let class = format!("sys/class/block/{name}");
    if root.exists(&format!("{class}/partition")) {
        if let Some((disk, _)) = root.link(&class) {
            disks(root, &disk, deeper, found);
        }
        return;
    }
    let below = root.names(&format!("{class}/slaves")).unwrap_or_default();
    for name in below.iter().take(VALUES_MAX) {
        disks(root, name, deeper, found);
    }
    let places = ["wwid", "device/wwid", "serial", "device/serial", "device/cid"];
    let number = places.iter().find_map(|p| meaning(&root.text(&format!("{class}/{p}")).ok()?).ok());
    found.extend(number.filter(|_| below.is_empty()));
}

/// The name of the block device that the root file system is on, such as `sda1` or `dm-0`.
fn root_device(root: &Sysroot) -> Result<String, Missing> {
    // Below another root `self` would be this process, which lives elsewhere.
    let table = root.text(if root.own { "proc/self/mountinfo" } else { "proc/1/mountinfo" })?;
    let (number, source) = root_mount(&table).ok_or(Missing::Absent)?;
    let named = || {
        let path = source.strip_prefix('/').filter(|p| p.starts_with("dev/"))?;
        root.link(path).map(|(_, name)| name).or_else(|| path.rsplit('/').next().map(str::to_owned))
    };
    let by_number = root.link(&format!("sys/dev/block/{number}")).map(|(_, name)| name);
    by_number.or_else(named).ok_or(Missing::Absent)
}

/// Device number and source of what is mounted last on `/` (proc_pid_mountinfo(5)).
fn root_mount(table: &str) -> Option<(&str, &str)> {
    table.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(2);
        let number = left.next()?;
        let point = left.nth(1)?;
        let source = right.split(' ').nth(1)?;
        let plain = number.split_once(':').is_some_and(|(a, b)| {
            let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
            digits(a) && digits(b)
        });
        (point == "/" && plain).then_some((number, source))
    })
}

/// Made for this use once; another application's HMAC of the same machine ID says nothing about ours.
const APP_ID: &[u8; 16] = b"\x5e\x71\xc2\x0d\x93\x4a\x4f\x18\xa6\xbb\x0c\xe9\x2d\x57\x81\x3f";
/// The most layers of block devices that are followed.
const STACK_MAX: usize = 8;

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
