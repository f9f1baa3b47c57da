//! Any text as `host:port`: bounded, and what is read reads back as written.
#![no_main]

use countersign::model::{Authority, DecisionId, SpiffeId};
use countersign::net::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(authority) = text.parse::<Authority>() {
        let shown = authority.to_string();
        assert!(text.len() <= Authority::LEN_MAX && shown.len() <= Authority::LEN_MAX && authority.port != 0);
        assert_eq!(shown.parse::<Authority>().as_ref(), Ok(&authority));
    }
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert!(text.len() <= SpiffeId::LEN_MAX);
        assert_eq!(id.as_str(), text, "a SPIFFE ID has one spelling");
    }
    if let Ok(id) = text.parse::<DecisionId>() {
        assert_eq!(id.to_string(), text.to_ascii_uppercase());
    }
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_string().parse::<Target>().as_ref(), Ok(&target));
    }
});
