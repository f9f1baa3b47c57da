//! Writes a refusal as HTTP tells it, and reads the one a peer sent.
//!
//! The same three facts everywhere: the reason's code, the rule that decided, the decision's id.

use std::fmt::Write as _;

use crate::model::{DecisionId, Reason, Refusal};

/// How this proxy names itself in `Proxy-Status` (RFC 9209 §2).
pub const NAME: &str = "countersign";

/// The value of `Proxy-Status` (RFC 9209 §2.1):
/// `countersign; error=http_request_denied; details="reason=policy_denied; rule=orders-ro; id=01J..."`.
pub fn proxy_status(refusal: &Refusal) -> String {
    let reason = refusal.reason;
    let details = format!("reason={}; rule={}; id={}", reason.code(), plain(&refusal.rule), refusal.id);
    // `plain` leaves nothing that a structured string cannot hold; without details the error still is told.
    match sfv::StringRef::from_str(&details) {
        Ok(text) => {
            let details = sfv::ItemSerializer::new().bare_item(text).finish();
            format!("{NAME}; error={}; details={details}", reason.proxy_error())
        }
        Err(_) => format!("{NAME}; error={}", reason.proxy_error()),
    }
}

/// The body that explains it (RFC 9457 §3): `application/problem+json`, one line.
pub fn problem_json(refusal: &Refusal) -> String {
    let reason = refusal.reason;
    let problem = Problem {
        r#type: format!("urn:{NAME}:reason:{}", reason.code()),
        title: reason.sentence(),
        status: reason.http_status(),
        detail: (!refusal.detail.is_empty()).then_some(&refusal.detail),
        reason: reason.code(),
        rule: &refusal.rule,
        id: refusal.id.to_string(),
        next: reason.next_step(),
    };
    // Text and numbers only: this cannot fail, and an empty body would still leave status and Proxy-Status.
    serde_json::to_string(&problem).unwrap_or_default()
}

/// The value of `Retry-After` in whole seconds, at least 1 (RFC 9110 §10.2.3), on 429 and 503 only.
pub fn retry_after_seconds(refusal: &Refusal) -> Option<u64> {
    let wait = refusal.retry_after?;
    let whole = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    matches!(refusal.reason.http_status(), 429 | 503).then_some(whole.max(1))
}

/// A whole HTTP/1.1 response (RFC 9112 §4); the connection ends after it.
pub fn http1_refusal(refusal: &Refusal) -> Vec<u8> {
    let status = refusal.reason.http_status();
    let phrase =
        http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Refused");
    let body = problem_json(refusal);
    let mut head = format!(
        "HTTP/1.1 {status} {phrase}\r\nProxy-Status: {}\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n",
        proxy_status(refusal),
        body.len()
    );
    if let Some(seconds) = retry_after_seconds(refusal) {
        // Writing to a string does not fail.
        let _ = write!(head, "Retry-After: {seconds}\r\n");
    }
    if refusal.reason == Reason::MethodNotAllowed {
        head.push_str("Allow: CONNECT\r\n");
    }
    head.push_str("\r\n");
    head.push_str(&body);
    head.into_bytes()
}

/// Why the sidecar at the other end refused, in its own words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerRefusal {
    /// The code of its reason, 1..=64 bytes of `a-z 0-9 _`; a newer peer may know more than [`Reason::from_code`].
    pub reason_code: Box<str>,
    /// Its rule, at most 128 printable ASCII characters.
    pub rule: Box<str>,
    /// Names the decision in its audit log.
    pub id: DecisionId,
}

/// Reads what [`proxy_status`] wrote out of a peer's `Proxy-Status`; `None` when no member of the list is of that
/// shape, or the value is longer than 4 KiB.
pub fn parse_proxy_status(value: &str) -> Option<PeerRefusal> {
    if value.len() > VALUE_LEN_MAX {
        return None;
    }
    let list = sfv::Parser::new(value).parse::<sfv::List>().ok()?;
    list.iter().find_map(|entry| {
        let sfv::ListEntry::Item(item) = entry else { return None };
        let ours = item.bare_item.as_token().is_some_and(|name| name.as_str() == NAME);
        let details = item.params.get("details")?.as_string()?;
        if ours { parse_details(details.as_str()) } else { None }
    })
}

fn parse_details(details: &str) -> Option<PeerRefusal> {
    let mut parts = details.split("; ");
    let mut part = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
    let (code, rule, id) = (part("reason")?, part("rule")?, part("id")?.parse().ok()?);
    let code_ok = code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let fits = (1..=CODE_LEN_MAX).contains(&code.len()) && rule.len() <= RULE_LEN_MAX;
    let refusal = PeerRefusal { reason_code: code.into(), rule: rule.into(), id };
    (code_ok && fits && parts.next().is_none()).then_some(refusal)
}

/// A rule's name as it can stand in `details`: printable ASCII without the separator, at most 128 characters.
fn plain(rule: &str) -> String {
    let allowed = |c: char| c == ' ' || (c.is_ascii_graphic() && c != ';');
    rule.chars().take(RULE_LEN_MAX).map(|c| if allowed(c) { c } else { '?' }).collect()
}

/// The wire shape of [`problem_json`].
#[derive(serde::Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    reason: &'a str,
    rule: &'a str,
    id: String,
    next: &'a str,
}

const CODE_LEN_MAX: usize = 64;
const RULE_LEN_MAX: usize = 128;
const VALUE_LEN_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use proptest::prelude::*;
    use std::time::Duration;

    fn refusal(reason: Reason) -> Refusal {
        Refusal::new(DecisionId::new(Timestamp::from_millis(1_700_000_000_000), [7; 10]), reason)
    }

    #[test]
    fn a_denial_tells_reason_rule_and_id_in_head_and_body() {
        let denial = refusal(Reason::PolicyDenied).rule("orders-ro").detail("device.tier is 0, needs 2");
        insta::assert_snapshot!(String::from_utf8(http1_refusal(&denial)).unwrap().replace('\r', ""), @r#"
        HTTP/1.1 403 Forbidden
        Proxy-Status: countersign; error=http_request_denied; details="reason=policy_denied; rule=orders-ro; id=01HF7YAT000W3GE1R70W3GE1R7"
        Content-Type: application/problem+json
        Content-Length: 291
        Cache-Control: no-store
        Connection: close

        {"type":"urn:countersign:reason:policy_denied","title":"no policy rule allows this","status":403,"detail":"device.tier is 0, needs 2","reason":"policy_denied","rule":"orders-ro","id":"01HF7YAT000W3GE1R70W3GE1R7","next":"ask why: `countersign audit why ID`, then add a permit to `policies/`"}
        "#);
    }

    #[test]
    fn every_reason_is_told_and_read_back() {
        for reason in Reason::ALL {
            let value = proxy_status(&refusal(*reason).rule("a \"quoted\\ rule"));
            let peer = parse_proxy_status(&value).unwrap();
            assert_eq!(Reason::from_code(&peer.reason_code), Some(*reason));
            assert_eq!(&*peer.rule, "a \"quoted\\ rule");
            assert_eq!(peer.id, refusal(*reason).id);
        }
    }

    #[test]
    fn the_error_is_a_token_that_other_proxies_understand() {
        for reason in Reason::ALL {
            let list = sfv::Parser::new(&proxy_status(&refusal(*reason))).parse::<sfv::List>().unwrap();
            let sfv::ListEntry::Item(item) = &list[0] else { panic!() };
            assert_eq!(item.params["error"].as_token().unwrap().as_str(), reason.proxy_error());
        }
    }

    #[test]
    fn a_rule_cannot_forge_a_part_of_the_details_nor_a_header() {
        let forged = refusal(Reason::PolicyDenied).rule("x; id=0\r\nSet-Cookie: a=\u{e4}");
        let peer = parse_proxy_status(&proxy_status(&forged)).unwrap();
        assert_eq!(&*peer.rule, "x? id=0??Set-Cookie: a=?");
        assert_eq!(peer.id, forged.id);
        let long = refusal(Reason::PolicyDenied).rule("a".repeat(1000));
        assert_eq!(parse_proxy_status(&proxy_status(&long)).unwrap().rule.len(), RULE_LEN_MAX);
    }

    #[test]
    fn retry_after_is_whole_seconds_and_only_where_http_knows_it() {
        let told = |reason, ms| {
            let wait = Some(Duration::from_millis(ms));
            retry_after_seconds(&Refusal { retry_after: wait, ..refusal(reason) })
        };
        assert_eq!(told(Reason::RateLimited, 0), Some(1));
        assert_eq!(told(Reason::RateLimited, 1001), Some(2));
        assert_eq!(told(Reason::FlowsExhausted, 5000), Some(5));
        assert_eq!(told(Reason::PolicyDenied, 5000), None);
        assert_eq!(retry_after_seconds(&refusal(Reason::RateLimited)), None);
        let limited = Refusal { retry_after: Some(Duration::from_secs(3)), ..refusal(Reason::RateLimited) };
        assert!(String::from_utf8(http1_refusal(&limited)).unwrap().contains("\r\nRetry-After: 3\r\n"));
    }

    #[test]
    fn a_wrong_method_is_told_which_one_is_right() {
        let text = String::from_utf8(http1_refusal(&refusal(Reason::MethodNotAllowed))).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n")
                && text.contains("\r\nAllow: CONNECT\r\n")
        );
    }

    #[test]
    fn a_peer_among_other_proxies_is_found() {
        let ours = proxy_status(&refusal(Reason::RateLimited));
        let value = format!("edge; error=dns_error; details=\"x\", (a b), {NAME}, {ours}");
        assert_eq!(&*parse_proxy_status(&value).unwrap().reason_code, "rate_limited");
    }

    #[test]
    fn what_is_not_our_shape_tells_nothing() {
        let id = "01HF7YAT00".to_owned() + &"0".repeat(16);
        let details = |text: &str| format!("{NAME}; error=http_request_denied; details=\"{text}\"");
        assert!(parse_proxy_status(&details(&format!("reason=a; rule=b; id={id}"))).is_some());
        for value in [
            String::new(),
            "countersign".into(),
            "countersign; details=7".into(),
            details(""),
            details(&format!("reason=; rule=b; id={id}")),
            details(&format!("reason=A; rule=b; id={id}")),
            details(&format!("reason={}; rule=b; id={id}", "a".repeat(CODE_LEN_MAX + 1))),
            details(&format!("reason=a; rule={}; id={id}", "b".repeat(RULE_LEN_MAX + 1))),
            details(&format!("rule=b; reason=a; id={id}")),
            details(&format!("reason=a; rule=b; id={id}; more=c")),
            details("reason=a; rule=b; id=7"),
            format!("other; details=\"reason=a; rule=b; id={id}\""),
            format!("{}{}", details(&format!("reason=a; rule=b; id={id}")), " ".repeat(VALUE_LEN_MAX)),
        ] {
            assert_eq!(parse_proxy_status(&value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_answered(start in prop_oneof![Just(""), Just("countersign;details=\"reason=")], value in ".*") {
            let _ = parse_proxy_status(&format!("{start}{value}"));
        }

        #[test]
        fn any_rule_and_detail_keep_head_and_body_in_shape(rule in ".{0,200}", detail in ".{0,200}") {
            let bytes = http1_refusal(&refusal(Reason::PolicyDenied).rule(rule.clone()).detail(detail));
            let text = String::from_utf8(bytes).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = format!("Content-Length: {}\r\n", body.len());
            prop_assert!(head.contains(&length));
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            prop_assert_eq!(problem["rule"].as_str(), Some(rule.as_str()));
        }
    }
}
