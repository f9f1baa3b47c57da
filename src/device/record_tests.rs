//! Records are taken only as the authority signed them.

use super::super::testing::{HOUR, Key, NOW, id, machine, record};
use super::*;
use crate::device::verify_p256;

/// Opens `text` with the key of `ca`.
fn open(text: &str, ca: &Key) -> Result<Record, RecordError> {
    SignedRecord::open(text, &|message, signature| verify_p256(ca.public_key_spki(), message, signature))
}

/// Opens `body` as if it were well signed.
fn open_body(body: &str) -> Result<Record, RecordError> {
    let text = format!("{body}{SIGNATURE_BEGIN}{}{SIGNATURE_END}", "0".repeat(128));
    SignedRecord::open(&text, &|_, _| true)
}

#[test]
fn what_the_authority_signed_reads_back() {
    let (ca, key) = (Key::new(), Key::new());
    let mut record = record(&machine(1, 1), &key);
    for status in [Status::Active, Status::Quarantined, Status::Revoked] {
        for profile in [Profile::Full, Profile::Thin, Profile::Container] {
            (record.status, record.profile) = (status, profile);
            let signed = record.to_signed(&ca).unwrap();
            assert_eq!(open(&signed.text, &ca).as_ref(), Ok(&record));
            assert!(signed.text.len() < 4096, "{}", signed.text.len());
        }
    }
    record.baseline.clear();
    assert_eq!(open(&record.to_signed(&ca).unwrap().text, &ca), Ok(record));
}

#[test]
fn a_record_is_toml_that_people_can_read() {
    let text = record(&machine(1, 1), &Key::new()).to_signed(&Key::new()).unwrap().text;
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["id"].as_str(), Some("spiffe://example.org/device/web-1"));
    assert_eq!(table["version"].as_integer(), Some(3));
    assert_eq!(table["baseline"]["dmi.product_uuid"].as_array().unwrap().len(), 1);
    assert_eq!(table["signature"].as_str().unwrap().len(), 128);
}

#[test]
fn a_record_with_any_byte_changed_is_refused() {
    let ca = Key::new();
    let text = record(&machine(1, 1), &Key::new()).to_signed(&ca).unwrap().text;
    for at in 0..text.len() {
        for bit in 0..7 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let bent = String::from_utf8(bytes).unwrap();
            assert!(open(&bent, &ca).is_err(), "bit {bit} of byte {at}");
        }
    }
    for len in 0..text.len() {
        assert!(open(text.get(..len).unwrap(), &ca).is_err(), "cut at {len}");
    }
    assert!(open(&format!("{text}\n"), &ca).is_err());
    assert!(open(&format!("\n{text}"), &ca).is_err());
}

#[test]
fn a_record_that_another_key_signed_is_refused() {
    let (ca, device) = (Key::new(), Key::new());
    let record = record(&machine(1, 1), &device);
    let text = record.to_signed(&device).unwrap().text;
    let error = open(&text, &ca).unwrap_err();
    assert_eq!((error.reason(), error), (Reason::RecordInvalid, RecordError::Signature));
    assert_eq!(open(&record.to_text(), &ca), Err(RecordError::Unsigned));
}

#[test]
fn a_record_longer_than_its_bound_is_refused_before_anything_else() {
    let body = record(&machine(1, 1), &Key::new()).to_text();
    let fill = |len: usize| {
        let rest = len - body.len() - 143 - 2;
        format!("{body}#{}\n", "x".repeat(rest))
    };
    let at_bound = fill(RECORD_LEN_MAX);
    let signed = format!("{at_bound}{SIGNATURE_BEGIN}{}{SIGNATURE_END}", "0".repeat(128));
    assert_eq!(signed.len(), RECORD_LEN_MAX);
    assert!(open_body(&at_bound).is_ok());
    let over = fill(RECORD_LEN_MAX + 1);
    assert_eq!(open_body(&over), Err(RecordError::TooLarge { len: RECORD_LEN_MAX + 1 }));
}

#[test]
fn what_a_record_cannot_say_is_refused() {
    let body = record(&machine(1, 1), &Key::new()).to_text();
    assert!(open_body(&body).is_ok());
    let bent = |from: &str, to: &str| {
        assert!(body.contains(from), "{from}");
        open_body(&body.replacen(from, to, 1))
    };
    let value = |key| Err(RecordError::Value { key });
    assert_eq!(bent("record/1", "record/2"), Err(RecordError::Kind));
    assert_eq!(bent("format", "# x\nformat"), Err(RecordError::Kind));
    assert_eq!(bent("\"dmi.product_uuid\"", "\"dmi.colour\""), Err(RecordError::Component));
    assert_eq!(bent("version = 3", "version = 3\nextra = 1"), Err(RecordError::Syntax { line: 4 }));
    assert_eq!(bent("version = 3", "version = 3\nversion = 4"), Err(RecordError::Syntax { line: 4 }));
    assert!(matches!(bent("version = 3", "version = -3"), Err(RecordError::Syntax { .. })));
    assert!(matches!(bent("version = 3\n", ""), Err(RecordError::Syntax { .. })));
    assert_eq!(bent("spiffe://", "https://"), value("id"));
    assert_eq!(bent("\"full\"", "\"fat\""), value("profile"));
    assert_eq!(bent("\"active\"", "\"ACTIVE\""), value("status"));
    assert_eq!(bent("tier_max = 1", "tier_max = 4"), value("tier_max"));
    assert_eq!(bent("spki_sha256 = \"", "spki_sha256 = \"00"), value("spki_sha256"));
    assert_eq!(bent(".000Z", ".0Z"), value("issued_at"));
    assert_eq!(bent("baseline.\"cpu\" = [\"", "baseline.\"cpu\" = [\"0"), value("baseline"));
    let twice = format!("{body}baseline.\"cpu\" = []\n");
    assert!(matches!(open_body(&twice), Err(RecordError::Syntax { .. })));
}

#[test]
fn a_baseline_of_no_too_many_or_equal_values_is_refused() {
    let mut record = record(&machine(1, 1), &Key::new());
    let ca = Key::new();
    let many = |n: u8| (0..n).map(|i| [i; 32]).collect::<Vec<_>>();
    for (values, right) in
        [(many(16), true), (many(17), false), (vec![], false), (vec![[1; 32], [1; 32]], false)]
    {
        record.baseline.insert(Component::NicMacs, values);
        assert_eq!(record.to_signed(&ca).is_ok(), right);
        assert_eq!(open_body(&record.to_text()).is_ok(), right);
    }
    assert_eq!(VALUES_MAX, 16);
}

#[test]
fn a_record_lasts_no_longer_than_its_bound() {
    let mut record = record(&machine(1, 1), &Key::new());
    record.expires_at = record.issued_at.plus(RECORD_TTL_MAX);
    assert!(record.to_signed(&Key::new()).is_ok());
    record.expires_at = record.expires_at.plus(Duration::from_millis(1));
    assert_eq!(record.to_signed(&Key::new()), Err(RecordError::Value { key: "expires_at" }));
    assert_eq!(open_body(&record.to_text()), Err(RecordError::Value { key: "expires_at" }));
    record.expires_at = record.issued_at;
    assert_eq!(open_body(&record.to_text()), Err(RecordError::Value { key: "expires_at" }));
}

#[test]
fn a_baseline_holds_no_presented_value_and_nothing_observed() {
    let machine = machine(1, 1);
    let baseline = Record::baseline_of(&machine.values);
    assert_eq!(baseline.len(), 13);
    assert!(machine.values.contains_key(&Component::Virtual) && !baseline.contains_key(&Component::Virtual));
    let text = record(&machine, &Key::new()).to_text();
    for value in machine.values.values().flatten() {
        assert!(!text.contains(&HEXLOWER.encode(value)));
    }
}

#[test]
fn a_record_speaks_of_one_device_one_key_and_its_time() {
    let key = Key::new();
    let proven = [[9; 32], key.spki_sha256()];
    let right = record(&machine(1, 1), &key);
    let check = |record: &Record, now| record.check(&id("web-1"), &proven, now);
    assert_eq!(check(&right, NOW), Ok(()));
    assert_eq!(right.check(&id("web-2"), &proven, NOW), Err(Reason::RecordInvalid));
    assert_eq!(right.check(&id("web-1"), &[[9; 32]], NOW), Err(Reason::RecordInvalid));
    assert_eq!(right.check(&id("web-1"), &[], NOW), Err(Reason::RecordInvalid));
    let last = Timestamp::from_millis(right.expires_at.as_millis() - 1);
    assert_eq!(check(&right, last), Ok(()));
    assert_eq!(check(&right, right.expires_at), Err(Reason::RecordExpired));
    let early = |skew: Duration| Timestamp::from_millis(NOW.as_millis() - skew.as_millis() as u64);
    assert_eq!(check(&right, early(CLOCK_SKEW_MAX)), Ok(()));
    assert_eq!(check(&right, early(HOUR)), Err(Reason::RecordInvalid));
    assert_eq!(check(&Record { status: Status::Revoked, ..right.clone() }, NOW), Err(Reason::DeviceRevoked));
    assert_eq!(check(&Record { status: Status::Quarantined, ..right }, NOW), Ok(()));
}

#[test]
fn a_record_is_good_for_ninety_days_at_most() {
    assert_eq!((RECORD_TTL_MAX, RECORD_LEN_MAX), (Duration::from_secs(7_776_000), 16_384));
}

#[test]
fn a_baseline_is_told_from_another_by_its_digest() {
    let key = Key::new();
    let digest = |machine_seed| record(&machine(machine_seed, 1), &key).baseline_sha256();
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}
