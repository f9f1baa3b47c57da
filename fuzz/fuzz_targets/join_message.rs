//! Any bytes as a message of joining, from either end: what is accepted is bounded and reads back as it was.
#![no_main]

use countersign::channel::{COMPONENTS_MAX, JoinReply, JoinRequest, MESSAGE_LEN_MAX, VALUES_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = JoinRequest::decode(data) {
        assert!(data.len() <= MESSAGE_LEN_MAX);
        if let JoinRequest::Ask(ask) = &request {
            assert!(ask.facts.baseline.len() <= COMPONENTS_MAX);
            assert!(ask.facts.baseline.values().all(|values| (1..=VALUES_MAX).contains(&values.len())));
        }
        assert_eq!(JoinRequest::decode(&request.encode()), Ok(request));
    }
    if let Ok(reply) = JoinReply::decode(data) {
        assert_eq!(JoinReply::decode(&reply.encode()), Ok(reply));
    }
});
