//! Responses: text, JSON, and problems (RFC 9457) with a reason's code.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};

use super::Check;
use crate::model::Reason;

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";
pub(super) const TOML: &str = "application/toml";
const PROBLEM: &str = "application/problem+json";

pub(super) fn answer(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let mut header =
        |name: HeaderName, value| answer.headers_mut().insert(name, HeaderValue::from_static(value));
    header(CONTENT_TYPE, media_type);
    header(CACHE_CONTROL, "no-store");
    header(X_CONTENT_TYPE_OPTIONS, "nosniff");
    answer
}

pub(super) fn json(value: &serde_json::Value) -> Answer {
    answer(StatusCode::OK, JSON, format!("{value}\n"))
}

/// A refusal; the HTTP status is the reason's.
pub(super) fn problem(reason: Reason, detail: &str) -> Answer {
    let status = StatusCode::from_u16(reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let problem = serde_json::json!({
        "type": "about:blank",
        "title": reason.sentence(),
        "status": status.as_u16(),
        "detail": detail,
        "reason": reason.code(),
        "next": reason.next_step(),
    });
    answer(status, PROBLEM, format!("{problem}\n"))
}

/// As [`problem`], with the methods that would do.
pub(super) fn wrong_method(allow: &'static str) -> Answer {
    let mut answer = problem(Reason::AdminMethodNotAllowed, &format!("expected {allow}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

/// Ready only when something was checked and all of it is in order.
pub(super) fn readiness(checks: &[Check], as_json: bool) -> Answer {
    let ready = !checks.is_empty() && checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if as_json {
        let checks: Vec<_> = checks
            .iter()
            .map(
                |check| serde_json::json!({ "name": check.name, "ok": check.ok, "sentence": check.sentence }),
            )
            .collect();
        let body = serde_json::json!({ "ready": ready, "checks": checks });
        return answer(status, JSON, format!("{body}\n"));
    }
    let mut text = String::new();
    for check in checks {
        match check.ok {
            true if check.sentence.is_empty() => text.push_str(&format!("{} ok\n", check.name)),
            true => text.push_str(&format!("{} ok: {}\n", check.name, check.sentence)),
            false => text.push_str(&format!("{} failing: {}\n", check.name, check.sentence)),
        }
    }
    if checks.is_empty() {
        text.push_str("nothing was checked yet\n");
    }
    answer(status, TEXT, text)
}
