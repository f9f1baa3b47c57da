//! Devices with a record, each on a made-up machine of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign::device::{self, Profile, Record, Salt, Status};
use countersign::identity::{self, authority};
use countersign::model::{Sign, Tier, Timestamp};

use super::sidecar::Yard;

/// A machine made of files, below the yard.
pub fn machine(yard: &Yard, seed: u8) -> PathBuf {
    let dir = yard.path().join(format!("machine-{seed}"));
    device::demo_machine(&dir, seed).unwrap();
    dir
}

/// The `[device]` table of a sidecar on that machine.
pub fn on_machine(machine: &Path, more: &str) -> String {
    format!("\n[device]\nsysroot = \"{}\"\n{more}\n", machine.display())
}

/// Writes the record of `name` and the salt of its machine beside its certificate, as joining does.
pub fn enrol(yard: &Yard, name: &str, machine: &Path, version: u64) {
    enrol_as(yard, name, machine, version, |_| {});
}

/// The same, with the record as `change` would have it.
pub fn enrol_as(yard: &Yard, name: &str, machine: &Path, version: u64, change: impl FnOnce(&mut Record)) {
    let certs = yard.path().join(name).join("certs");
    let now = Timestamp::now();
    let salt = Salt::load_or_make(&certs.join("device.salt")).unwrap();
    let seen = device::fingerprint(&device::collect(machine).unwrap(), &salt);
    assert_eq!(seen.profile, Profile::Full);
    let pem = fs::read(certs.join("leaf.pem")).unwrap();
    let leaf = identity::parse_certificates(&pem).unwrap().remove(0);
    let svid = identity::svid(&leaf).unwrap();
    let mut record = Record {
        id: svid.id,
        version,
        profile: seen.profile,
        tier_max: Tier::Software,
        spki_sha256: svid.spki_sha256,
        baseline: Record::baseline_of(&seen.values),
        status: Status::Active,
        issued_at: now,
        expires_at: now.plus(Duration::from_secs(3600)),
    };
    change(&mut record);
    let sign = |cas: &[&dyn Sign]| record.to_signed(cas[0]).unwrap();
    let signed = authority::with_issuing_keys(&yard.path().join("ca"), now, sign).unwrap();
    // Whole or not at all: a sidecar may be looking.
    let file = certs.join("device.record");
    fs::write(file.with_extension("new"), signed.text).unwrap();
    fs::rename(file.with_extension("new"), file).unwrap();
}
