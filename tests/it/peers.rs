//! Programs that nobody here wrote, unmodified, through two sidecars: `just test-peers`.

mod evidence;
mod hbone;
mod http2;
mod tls;
mod told;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::{Foreign, PATIENCE, Service, Sidecar, Yard, echoes, free_addr, nginx, postgres};

/// Two sidecars with services between them.
struct Pair {
    server: Sidecar,
    _web: Sidecar,
    /// Goes last: the sidecars' logs lie in it.
    yard: Yard,
    door: SocketAddr,
    /// Where the app finds each service, in the order they were given.
    apps: Vec<SocketAddr>,
    socks: SocketAddr,
    proxy: SocketAddr,
}

impl Pair {
    async fn start(services: &[(&str, SocketAddr)]) -> Self {
        let yard = Yard::new();
        let (door, socks, proxy) = (free_addr(), free_addr(), free_addr());
        let apps: Vec<_> = services.iter().map(|_| free_addr()).collect();
        let mut served = format!("[peers]\nlisten = \"{door}\"\n");
        let mut asked = format!(
            "[[capture]]\nmode = \"socks5\"\nlisten = \"{socks}\"\n\n\
             [[capture]]\nmode = \"connect\"\nlisten = \"{proxy}\"\n"
        );
        for ((name, target), app) in services.iter().zip(&apps) {
            served +=
                &format!("\n[[inbound]]\nname = \"{name}\"\ntarget = \"{target}\"\nprotocol = \"tcp\"\n");
            asked += &format!(
                "\n[[outbound]]\nname = \"{name}\"\nlisten = \"{app}\"\nprotocol = \"tcp\"\n\
                 peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{door}\"]\n"
            );
        }
        let (server, web) = (yard.furnish("server-1", &served), yard.furnish("web-1", &asked));
        for dir in [&server, &web] {
            std::fs::write(dir.join("policies/20-all.cedar"), ALL).unwrap();
        }
        let (server, web) = (Sidecar::start(&server).await, Sidecar::start(&web).await);
        Self { server, _web: web, yard, door, apps, socks, proxy }
    }
}

const ALL: &str = r#"@id("web-all")
@reason("web devices may reach everything here")
permit(principal in Group::"web", action == Action::"connect", resource);
"#;

/// Runs curl; every word is an argument.
fn curl(args: &str) -> Output {
    Command::new("curl").args(["-sS", "--max-time", "30"]).args(args.split(' ')).output().unwrap()
}

/// Runs a script of `tests/peers` with the Python that `.ci/peers` furnished; gives the JSON it prints.
fn python(script: &str, args: &[&str]) -> serde_json::Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("target/peers/bin/python"));
    let done = command.arg(root.join("tests/peers").join(script)).args(args).output();
    let done = done.expect("target/peers is not there: run .ci/peers");
    assert!(done.status.success(), "{script} {args:?}: {done:?}");
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{script}: {e}: {done:?}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx, postgresql, curl: run `just test-peers`"]
async fn curl_reaches_nginx_through_every_door() {
    let nginx = nginx();
    let pair = Pair::start(&[("orders", nginx.addr)]).await;
    for args in [
        format!("http://{}/", pair.apps[0]),
        format!("--socks5-hostname {} http://orders/", pair.socks),
        format!("-x http://{} --proxytunnel http://orders/", pair.proxy),
    ] {
        let answer = curl(&args);
        assert_eq!(stdout(&answer), "nginx says hello\n", "curl {args}: {answer:?}");
    }
    // Names that no outbound has: refused in the door's own language.
    let socks = curl(&format!("--socks5-hostname {} http://elsewhere/", pair.socks));
    assert_eq!(socks.status.code(), Some(97), "{socks:?}");
    let proxy = curl(&format!("-x http://{} --proxytunnel -D - http://elsewhere/", pair.proxy));
    assert_eq!(proxy.status.code(), Some(56), "{proxy:?}");
    assert!(stdout(&proxy).contains("reason=outbound_unknown"), "{proxy:?}");
    // Two requests on one connection, and a body that goes up.
    let url = format!("http://{}/", pair.apps[0]);
    let twice = curl(&format!("{url} {url} -o /dev/null -o /dev/null -w %{{num_connects}}"));
    assert_eq!(stdout(&twice), "10", "{twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx, postgresql, curl: run `just test-peers`"]
async fn curl_with_a_device_certificate_needs_no_sidecar_and_hears_why_not() {
    let nginx = nginx();
    let pair = Pair::start(&[("orders", nginx.addr)]).await;
    pair.yard.issue("kiosk-1");
    let direct = |device: &str, url: &str| {
        let (own, server) = (pair.yard.path().join(device), pair.yard.path().join("server-1"));
        curl(&format!(
            "--proxytunnel -x https://{} --proxy-cacert {}/certs/bundle.pem --proxy-cert {own}/certs/leaf.pem \
             --proxy-key {own}/certs/leaf.key -D - {url}",
            pair.door,
            server.display(),
            own = own.display()
        ))
    };
    let answer = direct("web-1", "http://orders/");
    assert!(answer.status.success() && stdout(&answer).ends_with("nginx says hello\n"), "{answer:?}");
    for (device, url, said) in [
        ("kiosk-1", "http://orders/", "error=http_request_denied; details=\"reason=policy_denied"),
        ("web-1", "http://169.254.169.254/", "details=\"reason=service_unknown"),
    ] {
        let answer = direct(device, url);
        assert!(!answer.status.success());
        let head = stdout(&answer);
        assert!(head.starts_with("HTTP/1.1 403") && head.contains(said), "{head}");
        assert!(head.to_ascii_lowercase().contains("proxy-status: countersign;"), "{head}");
        assert!(head.contains("application/problem+json"), "{head}");
    }
    let stranger = curl(&format!("--proxytunnel --proxy-insecure -x https://{} http://orders/", pair.door));
    assert!(!stranger.status.success());
    pair.server.wrote("deny", "certificate_missing").await;
}

/// Runs psql against `addr`.
fn psql(addr: SocketAddr, args: &[&str]) -> Output {
    let mut command = Command::new("psql");
    command.args([
        "-X",
        "-At",
        "-v",
        "ON_ERROR_STOP=1",
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "-d",
        "postgres",
    ]);
    let done = command.arg("-p").arg(addr.port().to_string()).args(args).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    done
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx, postgresql, curl: run `just test-peers`"]
async fn psql_queries_and_copies_both_ways() {
    let postgres = postgres();
    let pair = Pair::start(&[("ledger", postgres.addr)]).await;
    let (direct, through) = (postgres.addr, pair.apps[0]);
    assert_eq!(stdout(&psql(through, &["-c", "select 6 * 7"])), "42\n");

    let big = "select g, repeat(md5(g::text), 8) from generate_series(1, 200000) g";
    let since = Instant::now();
    let (near, far) = (psql(direct, &["-c", big]).stdout, psql(through, &["-c", big]).stdout);
    assert_eq!(far.len(), near.len());
    assert!(far == near, "the big result differs");
    println!(
        "psql: a result of {} MB, twice, in {:.1} s",
        far.len() / 1_000_000,
        since.elapsed().as_secs_f32()
    );

    let (up, down) = (pair.yard.path().join("up"), pair.yard.path().join("down"));
    std::fs::write(&up, &near).unwrap();
    let copy =
        |way: &str, file: &Path| format!("\\copy rows {way} '{}' with (delimiter '|')", file.display());
    psql(through, &["-c", "create table rows (g int, x text)"]);
    psql(through, &["-c", &copy("from", &up)]);
    assert_eq!(stdout(&psql(direct, &["-c", "select count(*) from rows"])), "200000\n");
    psql(through, &["-c", &copy("to", &down)]);
    assert!(std::fs::read(&down).unwrap() == near, "what was copied there and back differs");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx, postgresql, curl: run `just test-peers`"]
async fn a_gibibyte_arrives_whole_while_200_flows_live_and_one_of_them_stalls() {
    let nginx = nginx();
    let service = Service::start(small_talk).await;
    let pair = Pair::start(&[("orders", nginx.addr), ("talk", service.addr)]).await;
    let sum = gibibyte(&nginx);
    let (files, talk) = (pair.apps[0], pair.apps[1]);
    let stall = std::env::var("COUNTERSIGN_STALL_S").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let stall = Duration::from_secs(stall);

    let mut listener = Listener::start(talk).await;
    let others = talkers(talk, FLOWS - 1).await;
    // Straight to the service: how long a round takes on this machine at this very time.
    let straight = talkers(service.addr, STRAIGHT).await;

    let ((before, _), others, straight) = tokio::join!(
        listener.read_for(stall / 4, PATIENCE),
        measure(others, stall / 4),
        measure(straight, stall / 4)
    );
    let stalled_at = Instant::now();
    let (others_held, straight_held) = tokio::join!(measure(others.1, stall), measure(straight.1, stall));
    let since = Instant::now();
    let arrived = tokio::task::spawn_blocking(move || download(files)).await.unwrap();
    let rate = 1074.0 / since.elapsed().as_secs_f64();
    assert_eq!(arrived, sum, "the download differs");
    // It wakes up and finds everything in order. The kernel's probes of a closed window (RFC 9293 §3.8.6.1) can be as
    // far apart as the window was closed long.
    let ((heard, _), others_after, straight_after) = tokio::join!(
        listener.read_for(stall / 4, stalled_at.elapsed() + PATIENCE),
        measure(others_held.1, stall / 4),
        measure(straight_held.1, stall / 4)
    );
    assert!(heard > before, "the flow that stalled does not go on");
    assert_eq!(others_after.1.len(), FLOWS - 1, "another flow broke");

    let (calm, held) = (p99([others.0, others_after.0].concat()), p99(others_held.0));
    let machine = (p99([straight.0, straight_after.0].concat()), p99(straight_held.0));
    println!(
        "1 GiB at {rate:.0} MB/s beside {FLOWS} flows, one of them stalled; p99 of the others {:.2} ms before and \
         after, {:.2} ms in {} s of stall (ratio {:.2}); straight to the service {:.2} and {:.2} ms",
        ms(calm),
        ms(held),
        stall.as_secs(),
        ms(held) / ms(calm),
        ms(machine.0),
        ms(machine.1)
    );
    // Where the machine itself was slower meanwhile, that much is not the stalled flow's doing.
    let slower = (ms(machine.1) / ms(machine.0)).max(1.0);
    assert!(held <= calm.mul_f64(2.0 * slower).max(P99_FLOOR), "one stalled flow holds up the others");
}

/// Flows that are open at once.
const FLOWS: usize = 200;
/// Flows past the sidecars, for comparison.
const STRAIGHT: usize = 50;
/// Below this a ratio of two p99s says more about the scheduler than about the sidecars.
const P99_FLOOR: Duration = Duration::from_millis(5);
/// Time between two requests of one flow.
const PAUSE: Duration = Duration::from_millis(100);

/// First byte `e`: says everything back. `s`: sends numbers, 4000 small writes a second, for as long as it can.
async fn small_talk(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    if stream.read_exact(&mut buffer[..1]).await.is_err() {
        return;
    }
    if buffer[0] == b's' {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        for n in 0u64.. {
            if n % 8 == 0 {
                tick.tick().await;
            }
            if stream.write_all(&number(n)).await.is_err() {
                return;
            }
        }
    }
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

fn number(n: u64) -> [u8; 64] {
    let mut text = [b'.'; 64];
    text[..8].copy_from_slice(&n.to_be_bytes());
    text
}

/// An app to which the service sends numbers without end, and which reads them or does not.
struct Listener {
    flow: TcpStream,
    next: u64,
}

impl Listener {
    /// With as little room in the kernel as there may be.
    async fn start(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut flow = socket.connect(addr).await.unwrap();
        flow.write_all(b"s").await.unwrap();
        Self { flow, next: 0 }
    }

    /// Reads for so long, and waits for each number at most `patience`; gives how many numbers came so far, and how many had come before.
    async fn read_for(&mut self, time: Duration, patience: Duration) -> (u64, u64) {
        let (before, end) = (self.next, Instant::now() + time);
        let mut text = [0; 64];
        while Instant::now() < end {
            let came = tokio::time::timeout(patience, self.flow.read_exact(&mut text)).await;
            came.unwrap_or_else(|_| panic!("number {} did not come", self.next)).unwrap();
            assert!(text == number(self.next), "number {} is not what was sent", self.next);
            self.next += 1;
        }
        (self.next, before)
    }
}

/// So many flows that say small things and hear them back.
async fn talkers(addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut flows = Vec::new();
    for _ in 0..count {
        let mut flow = TcpStream::connect(addr).await.unwrap();
        flow.set_nodelay(true).unwrap();
        flow.write_all(b"e").await.unwrap();
        assert!(echoes(&mut flow).await);
        flows.push(flow);
    }
    flows
}

/// Sends a small request on every flow every [`PAUSE`] for so long; gives every round trip, and the living flows.
async fn measure(flows: Vec<TcpStream>, time: Duration) -> (Vec<Duration>, Vec<TcpStream>) {
    let stop = Arc::new(AtomicBool::new(false));
    let count = u32::try_from(flows.len()).unwrap();
    let mut talking = JoinSet::new();
    for (i, mut flow) in (0..).zip(flows) {
        let stop = Arc::clone(&stop);
        talking.spawn(async move {
            let mut took = Vec::new();
            tokio::time::sleep(PAUSE * i / count).await;
            while !stop.load(Ordering::Relaxed) {
                let since = Instant::now();
                if !echoes(&mut flow).await {
                    return (took, None);
                }
                took.push(since.elapsed());
                tokio::time::sleep(PAUSE).await;
            }
            (took, Some(flow))
        });
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let (mut took, mut living) = (Vec::new(), Vec::new());
    while let Some(done) = talking.join_next().await {
        let (times, flow) = done.unwrap();
        took.extend(times);
        living.extend(flow);
    }
    (took, living)
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Puts 1 GiB of noise before nginx; gives its SHA-256.
fn gibibyte(nginx: &Foreign) -> String {
    let noise = "openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c 1073741824";
    sha256(&format!("{noise} | tee '{}'", nginx.www().join("gibibyte").display()))
}

/// Has curl fetch it; gives the SHA-256 of what came.
fn download(addr: SocketAddr) -> String {
    sha256(&format!("curl -sS --fail --max-time 300 http://{addr}/gibibyte"))
}

/// The SHA-256 of what a shell command prints.
fn sha256(command: &str) -> String {
    let done = Command::new("sh").args(["-c", &format!("{command} | sha256sum")]).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{command}: {done:?}");
    stdout(&done)
}
