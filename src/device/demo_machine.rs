//! A machine made of files, for the demo and the tests: another seed is another machine.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Writes the root folder of a made-up machine: every component can be collected from it. For the demo and tests.
///
/// # Errors
/// When a file cannot be written, or is there already as something else.
pub fn demo_machine(dir: &Path, seed: u8) -> io::Result<()> {
    let s = format!("{seed:02x}");
    let n = u32::from(seed);
    let files = [
        ("sys/class/dmi/id/product_uuid", format!("4c4c4544-0031-4a10-8053-b{s}04f31323{s}\n")),
        ("sys/class/dmi/id/board_serial", format!("/PF{s}7A/CNFCW00{s}/\n")),
        ("sys/class/dmi/id/product_serial", format!("PF{s}7A3K\n")),
        (
            "proc/cpuinfo",
            format!(
                "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: {n}\nstepping\t: 1\nflags\t\t: fpu vme\n\nprocessor\t: 1\n"
            ),
        ),
        ("proc/meminfo", format!("MemTotal:       {} kB\nMemFree: 1 kB\n", 3_900_000_u64 << (seed % 4))),
        (
            "proc/1/mountinfo",
            "22 27 0:21 / /proc rw - proc proc rw\n27 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n".into(),
        ),
        ("sys/devices/pci0/block/sda/device/wwid", format!("naa.5000c500a1b2{s}d4\n")),
        ("sys/devices/pci0/block/sda/sda1/partition", "1\n".into()),
        ("sys/devices/pci0/net/eth0/address", format!("52:54:00:12:34:{s}\n")),
        ("sys/devices/pci0/net/eth0/addr_assign_type", "0\n".into()),
        ("sys/devices/pci0/net/eth0/device/vendor", "0x8086\n".into()),
        ("etc/machine-id", format!("7f2c1d0e9b8a47c6a5d4e3f2a1b0{s}{s}\n")),
        (
            "etc/os-release",
            "NAME=\"Debian\"\nID=debian\nVERSION=\"12 (bookworm)\"\nVERSION_ID=\"12\"\n".into(),
        ),
        ("etc/ssh/ssh_host_ed25519_key.pub", format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{s} root@demo\n")),
        ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n".into()),
        ("proc/sys/kernel/arch", "x86_64\n".into()),
        ("proc/sys/kernel/random/boot_id", format!("1b2c3d4e-5f60-4711-8899-aabbccddee{s}\n")),
    ];
    for (path, text) in files {
        write(dir, path, &text)?;
    }
    for (path, target) in [
        ("sys/class/block/sda", "../../devices/pci0/block/sda".to_owned()),
        ("sys/class/block/sda1", "../../devices/pci0/block/sda/sda1".to_owned()),
        ("sys/dev/block/8:1", "../../devices/pci0/block/sda/sda1".to_owned()),
        ("sys/class/net/eth0", "../../devices/pci0/net/eth0".to_owned()),
        (&format!("dev/disk/by-uuid/0b5c7e2a-93d1-4f60-8a17-c2d9e4f6{s}{s}"), "../../sda1".to_owned()),
    ] {
        link(dir, path, &target)?;
    }
    Ok(())
}

fn write(dir: &Path, path: &str, text: &str) -> io::Result<()> {
    let path = dir.join(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}

fn link(dir: &Path, path: &str, target: &str) -> io::Result<()> {
    let path = dir.join(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match symlink(target, &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::read_link(&path).is_ok() => Ok(()),
        linked => linked,
    }
}
