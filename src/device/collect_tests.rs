//! What is collected from machines made of files, and that it stays in.

use std::fs;
use std::path::PathBuf;

use super::super::testing::present;
use super::*;
use crate::device::{Profile, Salt, demo_machine, fingerprint};

/// The machine of `seed`, bent by `change`.
fn machine(seed: u8, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    demo_machine(dir.path(), seed).unwrap();
    change(dir.path());
    dir
}

/// The raw value of `component` on such a machine, or why there is none.
fn look_at(component: Component, change: impl FnOnce(&Path)) -> Result<Vec<String>, Missing> {
    let dir = machine(1, change);
    let collected = collect(dir.path()).unwrap();
    match collected.missing.get(&component) {
        Some(why) => Err(*why),
        None => Ok(collected.values[&component].iter().map(|raw| raw.0.to_string()).collect()),
    }
}

fn put(dir: &Path, path: &str, text: &str) {
    let path: PathBuf = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn every_component_of_a_whole_machine_is_found() {
    let dir = machine(1, |_| ());
    let collected = collect(dir.path()).unwrap();
    assert!(collected.missing.is_empty(), "{:?}", collected.missing);
    assert_eq!(collected.values.len(), Component::ALL.len());
    assert!(!collected.container);
    assert_eq!(present(dir.path(), 1).profile, Profile::Full);
    demo_machine(dir.path(), 1).unwrap();
}

#[test]
fn two_machines_share_next_to_nothing_and_two_looks_everything() {
    let (one, two) = (machine(1, |_| ()), machine(2, |_| ()));
    assert_eq!(present(one.path(), 7), present(one.path(), 7));
    let (a, b) = (present(one.path(), 7), present(two.path(), 7));
    let same: Vec<_> = Component::ALL.iter().filter(|c| a.values[c] == b.values[c]).collect();
    let expected =
        [Component::Os, Component::Kernel, Component::Arch, Component::Container, Component::Virtual];
    assert_eq!(same, expected.iter().collect::<Vec<_>>());
    assert_ne!(a.boot, b.boot);
    assert_ne!(a.digest(), b.digest());
    // Under another salt nothing is the same: who compares two records learns nothing.
    let salted = present(one.path(), 8);
    assert!(Component::ALL.iter().all(|c| a.values[c] != salted.values[c]));
    assert!(a.boot != salted.boot && a.ueid != salted.ueid);
}

#[test]
fn no_raw_value_is_ever_shown() {
    let dir = machine(0xab, |_| ());
    let collected = collect(dir.path()).unwrap();
    let shown = fingerprint(&collected, &Salt::new([1; 32]));
    let text = format!("{collected:?}{collected:#?}{shown:?}{}", shown.digest());
    for raw in ["ab04f31323ab", "PFab", "pfab", "GenuineIntel", "naa.5000", "52:54:00", "7f2c1d0e", "debian"]
    {
        assert!(!text.contains(raw), "{raw}");
    }
    let all = collected.values.values().flatten().chain([&collected.boot]);
    for raw in all.filter(|raw| raw.0.len() > 4) {
        assert!(!text.contains(&*raw.0), "{}", raw.0);
    }
}

#[test]
fn the_machine_id_itself_is_never_kept() {
    let found = look_at(Component::MachineId, |_| ()).unwrap();
    assert_eq!(found[0].len(), 64);
    let id = "7f2c1d0e9b8a47c6a5d4e3f2a1b00101";
    assert!(!found[0].contains(id) && !found[0].contains("7f2c1d0e9b8a"));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &HEXLOWER.decode(id.as_bytes()).unwrap());
    assert_eq!(found[0], HEXLOWER.encode(hmac::sign(&key, APP_ID).as_ref()));
    for text in ["uninitialized\n", "7f2c\n", "00000000000000000000000000000000\n"] {
        assert_eq!(look_at(Component::MachineId, |d| put(d, "etc/machine-id", text)), Err(Missing::Junk));
    }
    assert_eq!(look_at(Component::MachineId, |d| put(d, "etc/machine-id", "")), Err(Missing::Absent));
}

#[test]
fn junk_of_the_maker_counts_as_absent() {
    let path = "sys/class/dmi/id/board_serial";
    assert_eq!(look_at(Component::BoardSerial, |d| put(d, path, "Default string\n")), Err(Missing::Junk));
    assert_eq!(
        look_at(Component::BoardSerial, |d| fs::remove_file(d.join(path)).unwrap()),
        Err(Missing::Absent)
    );
}

#[test]
fn only_permanent_addresses_of_hardware_are_taken() {
    let eth = |d: &Path, name: &str, mac: &str, kind: &str, device: bool| {
        put(d, &format!("sys/class/net/{name}/address"), mac);
        put(d, &format!("sys/class/net/{name}/addr_assign_type"), kind);
        if device {
            put(d, &format!("sys/class/net/{name}/device/vendor"), "x");
        }
    };
    let found = look_at(Component::NicMacs, |d| {
        eth(d, "eth1", "52:54:00:00:00:0A\n", "0\n", true);
        eth(d, "eth2", "52:54:00:00:00:02\n", "1\n", true);
        eth(d, "eth3", "52:54:00:00:00:03\n", "3\n", true);
        eth(d, "veth", "52:54:00:00:00:04\n", "0\n", false);
        eth(d, "zero", "00:00:00:00:00:00\n", "0\n", true);
        eth(d, "member", "52:54:00:00:00:05\n", "3\n", true);
        put(d, "sys/class/net/member/bonding_slave/perm_hwaddr", "52:54:00:00:00:06\n");
    });
    assert_eq!(found.unwrap(), ["52:54:00:00:00:06", "52:54:00:00:00:0a", "52:54:00:12:34:01"]);
    let many = look_at(Component::NicMacs, |d| {
        for n in 0..20 {
            eth(d, &format!("eth1{n}"), &format!("52:54:00:00:00:{n:02x}"), "0", true);
        }
    });
    assert_eq!(many.unwrap().len(), VALUES_MAX);
    let none = |d: &Path| fs::remove_file(d.join("sys/class/net/eth0")).unwrap();
    assert_eq!(look_at(Component::NicMacs, none), Err(Missing::Absent));
}

#[test]
fn the_disks_under_layers_are_found() {
    let wwid = "naa.5000c500a1b201d4";
    assert_eq!(look_at(Component::RootDisk, |_| ()).unwrap(), [wwid]);
    let layered = |d: &Path| {
        put(d, "proc/1/mountinfo", "27 1 253:0 / / rw - ext4 /dev/mapper/root rw\n");
        put(d, "sys/devices/virtual/block/dm-0/slaves/sda1/dev", "8:1\n");
        put(d, "sys/devices/virtual/block/dm-0/slaves/nvme0n1/dev", "259:0\n");
        put(d, "sys/class/block/nvme0n1/device/serial", "S4EW NX0M\n");
        let link = |target: &str, path: &str| std::os::unix::fs::symlink(target, d.join(path)).unwrap();
        link("../../devices/virtual/block/dm-0", "sys/dev/block/253:0");
        link("../../devices/virtual/block/dm-0", "sys/class/block/dm-0");
    };
    assert_eq!(look_at(Component::RootDisk, layered).unwrap(), [format!("{wwid}\ns4ew nx0m")]);
    // A stack that bites its own tail ends somewhere.
    let circle = |d: &Path| put(d, "sys/devices/pci0/block/sda/slaves/sda1/dev", "8:1\n");
    assert_eq!(look_at(Component::RootDisk, circle), Err(Missing::Absent));
    let overlay = |d: &Path| put(d, "proc/1/mountinfo", "27 1 0:31 / / rw - overlay overlay rw\n");
    assert_eq!(look_at(Component::RootDisk, overlay), Err(Missing::Absent));
    assert_eq!(look_at(Component::RootFs, overlay), Err(Missing::Absent));
}

#[test]
fn the_last_mount_on_the_root_counts() {
    let table = "1 0 0:1 / / rw - rootfs none rw\n2 1 8:1 / / rw a:1 b:2 - ext4 /dev/sda1 rw\n3 2 8:2 / /x rw - ext4 /dev/sda2 rw\n";
    assert_eq!(root_mount(table), Some(("8:1", "/dev/sda1")));
    for broken in
        ["", "a", "1 0 ../../x / / rw - ext4 /dev/sda1 rw", "1 0 8:1 / / rw ext4", "1 0 8: / / rw - a b"]
    {
        assert_eq!(root_mount(broken), None, "{broken}");
    }
}

#[test]
fn processors_memory_and_systems_are_read_in_their_spellings() {
    let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n";
    assert_eq!(cpu(arm), Ok("0x41/8/0xd0c/1".into()));
    assert_eq!(cpu("processor : 0\n"), Err(Missing::Absent));
    for (kib, fits) in [("1", "1"), ("8127344", "8388608"), ("8388608", "8388608"), ("8388609", "16777216")] {
        assert_eq!(memory(&format!("MemTotal:  {kib} kB\n")), Ok(fits.into()));
    }
    for text in ["", "MemTotal: x kB", "MemTotal: 0 kB", "MemTotal: 18446744073709551615 kB"] {
        assert!(memory(text).is_err(), "{text}");
    }
    assert_eq!(os("ID='alpine'\nVERSION_ID=3.19\n"), Ok("alpine 3.19".into()));
    assert_eq!(os("ID=arch\n"), Ok("arch".into()));
    assert_eq!(os("NAME=x\n"), Err(Missing::Absent));
}

#[test]
fn a_container_is_seen_by_its_marks() {
    let marks: [(&str, &str); 4] = [
        (".dockerenv", ""),
        ("run/.containerenv", ""),
        ("run/systemd/container", "systemd-nspawn\n"),
        ("proc/1/cgroup", "0::/kubepods.slice/pod1\n"),
    ];
    for (path, text) in marks {
        let dir = machine(1, |d| put(d, path, text));
        assert!(collect(dir.path()).unwrap().container, "{path}");
        assert_eq!(present(dir.path(), 1).profile, Profile::Container);
    }
    let dir = machine(1, |d| put(d, "proc/1/cgroup", "0::/init.scope\n"));
    assert!(!collect(dir.path()).unwrap().container);
}

#[test]
fn a_machine_that_shows_little_is_thin() {
    // What an unprivileged process in a small virtual machine sees: 10 + 3 + 5 and no board.
    let dir = machine(1, |d| {
        for path in ["sys", "etc/machine-id", "etc/ssh", "dev"] {
            let path = d.join(path);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    });
    assert_eq!(present(dir.path(), 1).profile, Profile::Thin);
    let empty = tempfile::tempdir().unwrap();
    let nothing = present(empty.path(), 1);
    assert_eq!((nothing.profile, nothing.values.len()), (Profile::Thin, 2), "architecture and no container");
    assert!(collect(&empty.path().join("none")).is_err());
}

#[test]
fn this_very_machine_can_be_collected() {
    let collected = collect(Path::new("/")).unwrap();
    assert!(collected.values.contains_key(&Component::Kernel));
    assert!(!collected.boot().is_empty());
}

#[test]
fn what_only_root_may_read_is_told_so() {
    let needs: Vec<_> = Component::ALL.iter().filter(|c| c.needs_root()).map(|c| c.name()).collect();
    assert_eq!(needs, ["dmi.product_uuid", "dmi.board_serial", "dmi.product_serial"]);
}

#[test]
fn a_hypervisor_is_told_by_its_flag() {
    let virt = |flags: &str| {
        look_at(Component::Virtual, |d| put(d, "proc/cpuinfo", &format!("flags : fpu {flags}\n")))
    };
    assert_eq!(virt("hypervisor sse2"), Ok(vec!["hypervisor".to_owned()]));
    assert_eq!(virt("sse2"), Ok(vec!["none".to_owned()]));
}

#[test]
fn what_systemd_says_of_a_container_counts_unless_it_says_nothing() {
    let told =
        |text: &'static str| look_at(Component::Container, move |d| put(d, "run/systemd/container", text));
    assert_eq!(told("lxc\n"), Ok(vec!["lxc".to_owned()]));
    assert_eq!(told(" \n"), Ok(vec!["none".to_owned()]));
}

#[test]
fn only_public_host_keys_count_for_ssh() {
    let keys = |name: &'static str| {
        look_at(Component::SshHostKeys, move |d| {
            fs::remove_dir_all(d.join("etc/ssh")).unwrap();
            put(d, "etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519 AAAA root@host");
            put(d, &format!("etc/ssh/{name}"), "ssh-rsa BBBB");
        })
    };
    let both = Ok(vec!["ssh-ed25519 AAAA\nssh-rsa BBBB".to_owned()]);
    assert_eq!(keys("ssh_host_rsa_key.pub"), both);
    for other in ["ssh_host_rsa_key", "known_key.pub", "config"] {
        assert_eq!(keys(other), Ok(vec!["ssh-ed25519 AAAA".to_owned()]), "{other}");
    }
}

#[test]
fn the_environment_tells_of_our_own_machine_only() {
    let told = |kind: &str, own| of_environment(Some(kind.into()), own);
    assert_eq!(told("podman", true).as_deref(), Some("podman"));
    assert_eq!((told("podman", false), told("", true), of_environment(None, true)), (None, None, None));
}
