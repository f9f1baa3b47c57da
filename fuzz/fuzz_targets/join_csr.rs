//! Any bytes as a certificate request: no panic, and what is accepted has its very length.
#![no_main]

use countersign::identity::authority::{CSR_LEN_MAX, check_csr};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    let Ok(id) = "spiffe://example.org/device/web-1".parse() else { return };
    if check_csr(der, &id).is_ok() {
        assert!(der.len() <= CSR_LEN_MAX);
        assert!(check_csr(&[der, &[0]].concat(), &id).is_err());
        assert!(check_csr(der.get(..der.len() - 1).unwrap_or_default(), &id).is_err());
    }
});
