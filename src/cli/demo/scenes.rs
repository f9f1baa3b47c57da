//! The scenes, in order. Each tries something and looks at what came of it, on the wire and in the audit.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Report;
use super::intruder::{Outcome, ask, connect_from};
use super::stage::{self, Stage};
use super::thief::Line;
use crate::device::Message;
use crate::identity::authority;
use crate::model::Timestamp;

/// What a scene saw: in words, the reason code, and whether it was as expected.
struct Seen {
    got: String,
    reason: String,
    pass: bool,
}

type Scene = Result<Seen, String>;

/// Plays all scenes; `tell` hears of each as it ends.
pub(super) async fn all(stage: &mut Stage, tell: impl Fn(&Report)) -> Vec<Report> {
    let mut reports = Vec::new();
    macro_rules! scene {
        ($name:literal, $expected:literal, $play:expr) => {
            let since = Instant::now();
            let seen: Scene = $play.await;
            let seen = seen.unwrap_or_else(|e| Seen { got: e, reason: String::new(), pass: false });
            let (got, reason, pass, ms) = (seen.got, seen.reason, seen.pass, since.elapsed().as_millis());
            let report = Report { scene: $name, expected: $expected, got, reason, ms, pass };
            tell(&report);
            reports.push(report);
        };
    }
    scene!("honest request through both sidecars", "answered", honest(stage));
    scene!(
        "client without a certificate",
        "refused: certificate_missing",
        shut_out(stage, None, "certificate_missing")
    );
    scene!(
        "certificate of another CA",
        "refused: certificate_untrusted",
        shut_out(stage, Some("rogue"), "certificate_untrusted")
    );
    scene!(
        "expired certificate",
        "refused: certificate_expired",
        shut_out(stage, Some("expired"), "certificate_expired")
    );
    scene!(
        "certificate with two URI SANs",
        "refused: certificate_not_svid",
        shut_out(stage, Some("two-sans"), "certificate_not_svid")
    );
    scene!("service that policy does not allow", "403: policy_denied", not_allowed(stage));
    scene!(
        "destination that is no service (SSRF)",
        "403: service_unknown, nothing dialled",
        no_service(stage)
    );
    scene!("policy edited while a flow lives", "cut within 1 s: policy_withdrawn", policy_edited(stage));
    scene!("certificate revoked while a flow lives", "cut within 5 s: certificate_revoked", revoked(stage));
    scene!("stolen files on another device", "refused: device_quarantined", stolen(stage));
    scene!("the same thief sends no evidence", "403: evidence_missing", no_evidence(stage));
    scene!("evidence of an earlier session", "403: evidence_binding", replayed(stage));
    scene!("evidence relayed by a man in the middle", "403: evidence_binding", relayed(stage));
    scene!("evidence reflected to its maker", "403: evidence_binding", reflected(stage));
    scene!("joining token used a second time", "refused: join_token_spent", token_again(stage));
    scene!("device record of an older version", "403: record_rolled_back", rolled_back(stage));
    scene!("lease that nobody renews", "cut within 5 s of its end: lease_expired", lease_over(stage));
    scene!("handshake flood from one source", "flood refused, honest peer served", flood(stage));
    scene!("one byte of the audit log flipped", "verify names the entry", byte_flipped(stage));
    scene!("newest audit entries cut off", "the sidecar refuses to start", entries_cut(stage));
    reports
}

async fn honest(stage: &Stage) -> Scene {
    let body = get(stage).await?;
    Ok(Seen {
        got: format!("answered: {}", body.trim()),
        reason: String::new(),
        pass: body == "hello from orders\n",
    })
}

/// An HTTP request as the app beside web-1 makes it.
async fn get(stage: &Stage) -> Result<String, String> {
    let fetch = async {
        let mut app = TcpStream::connect(stage.app).await?;
        app.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await?;
        let mut answer = String::new();
        app.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, fetch).await.map_err(|_| "no answer")?;
    let answer = answer.map_err(|e| format!("no answer: {e}"))?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default())
}

/// Somebody with these credentials asks for `orders` and must be stopped in the handshake.
async fn shut_out(stage: &Stage, credentials: Option<&str>, reason: &str) -> Scene {
    let before = entries(&stage.server.audit()).len();
    let visitors = stage.orders.visitors();
    let credentials = credentials.map(|c| stage.credentials(c));
    let outcome = ask(stage.door, credentials.as_ref(), "orders:80").await;
    let said = denial(stage, before, reason).await;
    let kept_out = !matches!(outcome, Outcome::In(_)) && stage.orders.visitors() == visitors;
    Ok(Seen { got: outcome.words(), pass: kept_out && said == reason, reason: said })
}

async fn not_allowed(stage: &Stage) -> Scene {
    let outcome = ask(stage.door, Some(&stage.credentials("counter-1")), "ledger:80").await;
    refused_with(outcome, 403, "policy_denied", true)
}

async fn no_service(stage: &Stage) -> Scene {
    let target = stage.canary.addr.to_string();
    let outcome = ask(stage.door, Some(&stage.credentials("counter-1")), &target).await;
    refused_with(outcome, 403, "service_unknown", stage.canary.visitors() == 0)
}

fn refused_with(outcome: Outcome, status: u16, reason: &str, unharmed: bool) -> Scene {
    let got = outcome.words();
    match outcome {
        Outcome::Refused { status: s, reason: r } => {
            Ok(Seen { got, pass: s == status && r == reason && unharmed, reason: r })
        }
        _ => Ok(Seen { got, reason: String::new(), pass: false }),
    }
}

async fn policy_edited(stage: &Stage) -> Scene {
    let mut flow = open_flow(stage).await?;
    let before = entries(&stage.server.audit()).len();
    let rule = stage.server.dir.join("policies/90-closed.cedar");
    stage::write(&rule, CLOSED)?;
    let cut = until_broken(&mut flow, Duration::from_secs(5)).await;
    let reason = closing(stage, before, "policy_withdrawn").await;
    fs::remove_file(&rule).map_err(|e| e.to_string())?;
    until_served(stage).await?;
    let pass = cut.is_some_and(|t| t <= Duration::from_secs(1)) && reason == "policy_withdrawn";
    Ok(Seen { got: cut_words(cut), reason, pass })
}

async fn revoked(stage: &Stage) -> Scene {
    let credentials = stage.credentials("kiosk-1");
    let Outcome::In(mut flow) = ask(stage.door, Some(&credentials), "orders:80").await else {
        return Err("kiosk-1 was not let in at first".into());
    };
    echo(&mut flow).await?;
    let before = entries(&stage.server.audit()).len();
    let ca = stage.dir.join("ca");
    authority::revoke(&ca, "kiosk-1", Timestamp::now()).map_err(|e| e.to_string())?;
    publish(&ca.join("crl.pem"), &stage.server.dir.join("certs/crl.pem"))?;
    let cut = until_broken(&mut flow, Duration::from_secs(10)).await;
    let reason = closing(stage, before, "certificate_revoked").await;
    let again = ask(stage.door, Some(&credentials), "orders:80").await;
    let out = !matches!(again, Outcome::In(_));
    let pass = cut.is_some_and(|t| t <= Duration::from_secs(5)) && reason == "certificate_revoked" && out;
    Ok(Seen { got: cut_words(cut), reason, pass })
}

/// A sidecar with all of web-1's files, on another machine.
async fn stolen(stage: &Stage) -> Scene {
    let before = entries(&stage.server.audit()).len();
    let (web, thief) = (&stage.web.dir, stage.dir.join("intruders/thief"));
    for part in ["certs", "policies"] {
        copy_dir(&web.join(part), &thief.join(part))?;
    }
    let config = fs::read_to_string(web.join("countersign.toml")).map_err(|e| e.to_string())?;
    let app = stage::free_port()?;
    let elsewhere = config
        .replace("machines/web-1", "machines/elsewhere")
        .replace(&format!("listen = \"{}\"", stage.app), &format!("listen = \"{app}\""));
    let (config, _admin) = elsewhere.split_once("[admin]").ok_or("no `[admin]`")?;
    stage::write(&thief.join("countersign.toml"), config)?;
    let visitors = stage.orders.visitors();
    let mut sidecar = stage::Sidecar::start(&thief).await?;
    let mut flow = TcpStream::connect(app).await.map_err(|e| e.to_string())?;
    let cut = until_broken(&mut flow, PATIENCE).await;
    sidecar.stop().await?;
    let reason = denial(stage, before, "device_quarantined").await;
    let kept_out = cut.is_some() && stage.orders.visitors() == visitors;
    let got = if kept_out { "its sidecar reaches nothing" } else { "let in" };
    Ok(Seen { got: got.into(), pass: kept_out && reason == "device_quarantined", reason })
}

/// The same files without a sidecar.
async fn no_evidence(stage: &Stage) -> Scene {
    let outcome = ask(stage.door, Some(&stage.credentials("web-1")), "orders:80").await;
    refused_with(outcome, 403, "evidence_missing", true)
}

/// What came of evidence that must not be taken: refused, and no flow is opened on that session either.
async fn must_fail(line: &Line, message: &Message, expected: &str) -> Scene {
    let no = match line.prove(message).await? {
        Ok(_) => return Ok(Seen { got: "taken".into(), reason: String::new(), pass: false }),
        Err(no) => no,
    };
    let flow = line.connect("orders:80").await;
    let shut = !matches!(flow, Ok(Ok(_)));
    let got = format!("refused with {}{}", no.status, if shut { "" } else { ", but a flow was opened" });
    Ok(Seen { got, pass: shut && no.status == 403 && no.reason == expected, reason: no.reason })
}

async fn replayed(stage: &Stage) -> Scene {
    let tablet = stage.device("tablet-1");
    let first = tablet.dial(stage.door, "server-1").await?;
    let message = tablet.evidence(&first, None)?;
    let taken = first.speak().await?.prove(&message).await?;
    taken.map_err(|no| format!("the first time it was refused: {}", no.reason))?;
    let second = tablet.dial(stage.door, "server-1").await?.speak().await?;
    must_fail(&second, &message, "evidence_binding").await
}

async fn relayed(stage: &Stage) -> Scene {
    let (tablet, mallory) = (stage.device("tablet-1"), stage.intruder("counter-1"));
    // The tablet believes to speak with a service of counter-1, which passes on what it hears.
    let overheard = tablet.evidence(&mallory.lure(&tablet, "counter-1").await?, None)?;
    let onward = mallory.dial(stage.door, "server-1").await?.speak().await?;
    must_fail(&onward, &overheard, "evidence_binding").await
}

async fn reflected(stage: &Stage) -> Scene {
    let tablet = stage.device("tablet-1");
    let wire = tablet.dial(stage.door, "server-1").await?;
    let message = tablet.evidence(&wire, None)?;
    let line = wire.speak().await?;
    let answer = line.prove(&message).await?.map_err(|no| format!("its own was refused: {}", no.reason))?;
    let mirrored = Message { evidence: answer.message.evidence, record: answer.message.record, ..message };
    must_fail(&line, &mirrored, "evidence_binding").await
}

/// The token that web-1 joined with, used again with another key.
async fn token_again(stage: &Stage) -> Scene {
    let token = stage.dir.join("tokens/web-1.token");
    let out = stage.dir.join("intruders/joiner");
    let joined = stage::join(&stage.dir, "elsewhere", &token, &out).await?;
    let reason = reason_of(&stage.authority.audit(), 0, "deny", "join_token_spent").await;
    let kept_out = !joined.status.success() && !out.join("leaf.pem").exists();
    let got = if kept_out { "got no certificate" } else { "got a certificate" };
    Ok(Seen { got: got.into(), pass: kept_out && reason == "join_token_spent", reason })
}

async fn rolled_back(stage: &Stage) -> Scene {
    let tablet = stage.device("tablet-1");
    let older = tablet.next_record(&stage.dir.join("ca"))?;
    let wire = tablet.dial(stage.door, "server-1").await?;
    let newer = tablet.evidence(&wire, None)?;
    let taken = wire.speak().await?.prove(&newer).await?;
    taken.map_err(|no| format!("the newer one was refused: {}", no.reason))?;
    let wire = tablet.dial(stage.door, "server-1").await?;
    let message = tablet.evidence(&wire, Some(older))?;
    must_fail(&wire.speak().await?, &message, "record_rolled_back").await
}

async fn lease_over(stage: &Stage) -> Scene {
    let tablet = stage.device("tablet-1");
    let before = entries(&stage.server.audit()).len();
    let wire = tablet.dial(stage.door, "server-1").await?;
    let message = tablet.evidence(&wire, None)?;
    let line = wire.speak().await?;
    let since = Instant::now();
    let answer = line.prove(&message).await?.map_err(|no| format!("refused: {}", no.reason))?;
    let lease = Duration::from_secs(answer.lease_ttl_s.into());
    let flow = line.connect("orders:80").await?;
    let (mut send, mut flow) = flow.map_err(|no| format!("no flow: {}", no.reason))?;
    send.send_data("alive".into(), false).map_err(|e| e.to_string())?;
    let heard = tokio::time::timeout(PATIENCE, flow.data()).await.is_ok_and(|d| matches!(d, Some(Ok(_))));
    let ended = tokio::time::timeout(lease + 2 * PATIENCE, flow.data()).await.is_ok();
    let late = since.elapsed().saturating_sub(lease);
    let reason = closing(stage, before, "lease_expired").await;
    let pass = heard && ended && late <= Duration::from_secs(5) && reason == "lease_expired";
    let got = if ended { format!("cut {} ms after its end", late.as_millis()) } else { "not cut".into() };
    Ok(Seen { got, reason, pass })
}

async fn flood(stage: &Stage) -> Scene {
    let before = entries(&stage.server.audit()).len();
    let (attacker, door) = (IpAddr::from([127, 0, 0, 2]), stage.door);
    let knocks = tokio::spawn(async move {
        let mut turned_away = 0;
        let mut knocking = Vec::new();
        for _ in 0..FLOOD {
            match connect_from(attacker, door).await {
                Ok(tcp) => knocking.push(tcp),
                Err(_) => turned_away += 1,
            }
        }
        // Who was let in to a handshake hears nothing yet; who was turned away sees the reset.
        tokio::time::sleep(RESET_PATIENCE).await;
        for tcp in knocking {
            let heard = tcp.try_read(&mut [0u8; 1]);
            turned_away += usize::from(!heard.is_err_and(|e| e.kind() == ErrorKind::WouldBlock));
        }
        turned_away
    });
    let honest = ask(stage.door, Some(&stage.credentials("counter-1")), "orders:80").await;
    let honest = matches!(honest, Outcome::In(_)) && get(stage).await.is_ok();
    let turned_away = knocks.await.map_err(|e| e.to_string())?;
    let reason = denial(stage, before, "knock_limited").await;
    Ok(Seen {
        got: format!(
            "{turned_away} of {FLOOD} refused, honest {}",
            if honest { "served" } else { "NOT served" }
        ),
        pass: turned_away > FLOOD / 2 && honest && reason == "knock_limited",
        reason,
    })
}

/// The server's log, stopped and copied, with one byte of an entry in its middle flipped.
async fn byte_flipped(stage: &mut Stage) -> Scene {
    stage.server.stop().await?;
    let copy = stage.dir.join("audit-flipped");
    copy_dir(&stage.server.audit(), &copy)?;
    let segment = first_segment(&copy)?;
    let mut bytes = fs::read(&segment).map_err(|e| e.to_string())?;
    let lines = bytes.iter().filter(|b| **b == b'\n').count();
    let entry = lines / 2;
    let start =
        bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(entry - 1).map_or(0, |(at, _)| at + 1);
    let byte = bytes.get_mut(start + 40).ok_or("the log is too short")?;
    *byte ^= 1;
    fs::write(&segment, bytes).map_err(|e| e.to_string())?;
    let verified = stage::own_binary()?
        .args(["audit", "verify", "--dir"])
        .arg(&copy)
        .arg("--key")
        .arg(stage.server.dir.join("audit.pub"))
        .output()
        .await
        .map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    let named = said.contains(&format!("entry {entry}"));
    let got = if named {
        format!("verify names entry {entry}")
    } else {
        said.lines().take(2).collect::<Vec<_>>().join("; ")
    };
    Ok(Seen { got, reason: String::new(), pass: named && verified.status.code() == Some(1) })
}

/// The server started again on a log whose newest entries are missing.
async fn entries_cut(stage: &mut Stage) -> Scene {
    let dir = &stage.server.dir;
    let (audit, whole) = (stage.server.audit(), stage.dir.join("audit-whole"));
    copy_dir(&audit, &whole)?;
    let segment = first_segment(&audit)?;
    let text = fs::read_to_string(&segment).map_err(|e| e.to_string())?;
    let lines: Vec<_> = text.lines().collect();
    let kept = lines.get(..lines.len().saturating_sub(3)).unwrap_or_default().join("\n") + "\n";
    fs::write(&segment, kept).map_err(|e| e.to_string())?;
    let started = tokio::time::timeout(PATIENCE, stage::command(dir)?.output()).await;
    let (refused, said) = match started {
        Ok(Ok(output)) => (!output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()),
        Ok(Err(e)) => return Err(e.to_string()),
        Err(_) => (false, "it started".into()),
    };
    fs::remove_dir_all(&audit).and_then(|()| fs::rename(&whole, &audit)).map_err(|e| e.to_string())?;
    let first = lines.len().saturating_sub(3);
    let named = refused && said.contains(&format!("entries {first} to {}", lines.len().saturating_sub(1)));
    let got = match named {
        true => format!("refused to start, missing from entry {first} on"),
        false => said.lines().last().unwrap_or_default().to_string(),
    };
    stage.server = stage::Sidecar::start(&stage.server.dir.clone()).await?;
    Ok(Seen { got, reason: String::new(), pass: named })
}

/// A flow from the app through both sidecars, proven alive.
async fn open_flow(stage: &Stage) -> Result<TcpStream, String> {
    let mut flow = TcpStream::connect(stage.app).await.map_err(|e| e.to_string())?;
    echo(&mut flow).await?;
    Ok(flow)
}

async fn echo<S: AsyncReadExt + AsyncWriteExt + Unpin>(flow: &mut S) -> Result<(), String> {
    let round = async {
        flow.write_all(b"alive").await?;
        flow.read_exact(&mut [0u8; 5]).await.map(drop)
    };
    let went = tokio::time::timeout(PATIENCE, round).await.map_err(|_| "the flow does not answer")?;
    went.map_err(|e| format!("the flow does not answer: {e}"))
}

/// Time until a quiet flow is broken off, `None` when it outlives `most`.
async fn until_broken<S: AsyncReadExt + Unpin>(flow: &mut S, most: Duration) -> Option<Duration> {
    let since = Instant::now();
    let mut byte = [0u8; 1];
    match tokio::time::timeout(most, flow.read(&mut byte)).await {
        Ok(Ok(0) | Err(_)) => Some(since.elapsed()),
        Ok(Ok(_)) | Err(_) => None,
    }
}

async fn until_served(stage: &Stage) -> Result<(), String> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if get(stage).await.is_ok_and(|body| !body.is_empty()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the policy did not come back".into())
}

fn cut_words(cut: Option<Duration>) -> String {
    cut.map_or("not cut".into(), |t| format!("cut after {} ms", t.as_millis()))
}

/// The reason of the newest denial after the first `before` entries of the server's log.
async fn denial(stage: &Stage, before: usize, expected: &str) -> String {
    reason_of(&stage.server.audit(), before, "deny", expected).await
}

/// The reason with which the newest flow was closed.
async fn closing(stage: &Stage, before: usize, expected: &str) -> String {
    reason_of(&stage.server.audit(), before, "close", expected).await
}

/// The expected reason when an entry of that kind has it, else the newest other one.
async fn reason_of(audit: &Path, before: usize, kind: &str, expected: &str) -> String {
    let mut newest = String::new();
    // Entries are written in groups: give the one that counts its time.
    for _ in 0..40 {
        for entry in entries(audit).iter().skip(before).filter(|e| text(e, "kind") == Some(kind)) {
            match text(entry, "reason") {
                Some(reason) if reason == expected => return reason.to_string(),
                Some(reason) => newest = reason.to_string(),
                None => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    newest
}

fn text<'e>(entry: &'e Value, key: &str) -> Option<&'e str> {
    entry.get(key).and_then(Value::as_str)
}

/// Every entry of a log, as JSON.
fn entries(audit: &Path) -> Vec<Value> {
    let text = first_segment(audit).and_then(|s| fs::read_to_string(s).map_err(|e| e.to_string()));
    text.unwrap_or_default().lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

fn first_segment(audit: &Path) -> Result<std::path::PathBuf, String> {
    let names = fs::read_dir(audit).map_err(|e| format!("{}: {e}", audit.display()))?;
    let mut segments: Vec<_> = names
        .filter_map(|n| n.ok().map(|n| n.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    segments.sort();
    segments.into_iter().next().ok_or_else(|| "the log has no segment".into())
}

fn copy_dir(from: &Path, to: &Path) -> Result<(), String> {
    let copy = || -> std::io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                copy_dir(&entry.path(), &target).map_err(std::io::Error::other)?;
            } else {
                fs::copy(entry.path(), target)?;
            }
        }
        Ok(())
    };
    copy().map_err(|e| format!("{}: {e}", from.display()))
}

/// Puts a file in another's place in one step, as a careful operator does.
fn publish(from: &Path, to: &Path) -> Result<(), String> {
    let new = to.with_extension("new");
    fs::copy(from, &new).and_then(|_| fs::rename(&new, to)).map_err(|e| format!("{}: {e}", to.display()))
}

const CLOSED: &str = r#"@id("orders-closed")
@reason("orders is closed for today")
forbid(principal, action, resource == Service::"orders");
"#;

/// Time for the resets of a flood to arrive.
const RESET_PATIENCE: Duration = Duration::from_millis(300);
/// Connections of the flood.
const FLOOD: usize = 300;
/// Longest wait for anything that should come at once.
const PATIENCE: Duration = Duration::from_secs(5);
