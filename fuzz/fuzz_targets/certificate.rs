//! Any bytes as a leaf certificate: what is accepted keeps the rules of an X.509-SVID, also when it is read again.
#![no_main]

use countersign::identity::{LEAF_LEN_MAX, svid};
use countersign::model::SpiffeId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    let Ok(read) = svid(der) else { return };
    assert!(der.len() <= LEAF_LEN_MAX);
    assert_eq!(read.id.as_str().parse::<SpiffeId>().as_ref(), Ok(&read.id));
    assert_ne!(read.serial.first(), Some(&0), "no leading zeros");
    assert_eq!(read.serial_hex().len(), 2 * read.serial.len());
    assert_eq!(svid(der).as_ref(), Ok(&read));
    // Nothing may ride along, and nothing may be missing.
    let longer = [der, &[0]].concat();
    assert!(svid(&longer).is_err());
    let shorter = der.get(..der.len() - 1).unwrap_or_default();
    assert!(svid(shorter).is_err());
});
