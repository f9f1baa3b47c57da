//! Any bytes as a message between a device and its authority: what is accepted is bounded and reads back as it was.
#![no_main]

use countersign::channel::{
    MESSAGE_LEN_MAX, NEWS_WAIT_MAX, NewsAnswer, NewsAsk, PartAsk, RenewAnswer, STANDINGS_MAX, Standings,
    decode_renew, encode_renew,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(ask) = NewsAsk::decode(data) {
        assert!(data.len() <= MESSAGE_LEN_MAX && ask.wait <= NEWS_WAIT_MAX);
        assert_eq!(NewsAsk::decode(&ask.encode()), Ok(ask));
    }
    if let Ok(answer) = NewsAnswer::decode(data) {
        assert_eq!(NewsAnswer::decode(&answer.encode()), Ok(answer));
    }
    if let Ok(part) = PartAsk::decode(data) {
        assert_eq!(PartAsk::decode(&part.encode()), Ok(part));
    }
    if let Ok(csr) = decode_renew(data) {
        assert_eq!(decode_renew(&encode_renew(&csr)), Ok(csr));
    }
    if let Ok(answer) = RenewAnswer::decode(data) {
        assert_eq!(RenewAnswer::decode(&answer.encode()), Ok(answer));
    }
    if let Some(standings) = std::str::from_utf8(data).ok().and_then(|text| Standings::read(text).ok()) {
        assert!(standings.0.len() <= STANDINGS_MAX);
        assert_eq!(Standings::read(&standings.to_text()), Ok(standings));
    }
});
