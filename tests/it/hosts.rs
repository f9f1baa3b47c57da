//! An authority, a server and a client on hosts of their own: `just test-hosts`. Its figures are printed.

use std::process::Output;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::task::{JoinSet, spawn_blocking};

use crate::support::{Device, Service, Sidecar, Site, Way, done, echo, machine, on_machine};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and network namespaces: run `just test-hosts`"]
async fn from_invite_to_honest_traffic_between_two_hosts_in_under_ten_seconds() {
    let site = Site::new().await;
    let (server_host, web_host) = (site.hosts.host("server"), site.hosts.host("web"));
    let server = format!(
        "[peers]\nlisten = \"{}\"\n\n[[inbound]]\nname = \"orders\"\ntarget = \"unix:service.sock\"\nprotocol = \"tcp\"\n",
        server_host.door()
    );
    let web = format!(
        "[[outbound]]\nname = \"orders\"\nlisten = \"unix:orders.sock\"\nprotocol = \"tcp\"\n\
         peer = \"spiffe://example.org/device/server-1\"\npaths = [\"{}\"]\n",
        server_host.door()
    );
    let mut dirs = Vec::new();
    for (name, config, seed) in [("server-1", server, 1), ("web-1", web, 2)] {
        let device = on_machine(&machine(&site.yard, seed), "require_tier = 1");
        dirs.push(site.yard.furnish_without(name, &format!("{config}{device}")));
    }
    let _service = Service::echo_on(&dirs[0].join("service.sock"));

    let since = Instant::now();
    let devices = [site.device("server-1", &server_host, 1), site.device("web-1", &web_host, 2)];
    let invited = since.elapsed();
    for device in &devices {
        done(&device.join(None));
    }
    let joined = since.elapsed();
    let server = Sidecar::start_by(server_host.countersign(), &dirs[0]).await;
    let web = Sidecar::start_by(web_host.countersign(), &dirs[1]).await;
    let ready = since.elapsed();
    let mut flow = UnixStream::connect(dirs[1].join("orders.sock")).await.unwrap();
    echo(&mut flow).await;
    let carried = since.elapsed();
    println!(
        "two devices invited after {invited:.2?}, joined after {joined:.2?}, their sidecars ready after {ready:.2?}, \
         the first bytes there and back after {carried:.2?}"
    );
    assert!(carried < Duration::from_secs(10), "{carried:?}");

    // It was the network between the hosts that carried it, and both were the devices that joined.
    let open = server.wrote("open", "").await;
    assert_eq!(open["source"], web_host.ip.to_string(), "{open}");
    for side in [&server, &web] {
        let attest = side.wrote("attest", "").await;
        assert!(attest["detail"].as_str().unwrap().starts_with("tier 1, "), "{attest}");
    }
    web_host.cable(&site.hosts, false);
    assert!(UnixStream::connect(dirs[1].join("orders.sock")).await.is_ok());
    let still = tokio::time::timeout(Duration::from_secs(1), echo(&mut flow)).await;
    assert!(still.is_err(), "without a cable nothing comes through");
    web_host.cable(&site.hosts, true);
}

/// One device whose link is cut while it joins.
struct Cut {
    name: String,
    device: Device,
    way: Way,
    packets: usize,
}

/// What came of it.
struct Came {
    cut: Cut,
    /// Whether the count was reached: there is nothing left to cut otherwise.
    was_cut: bool,
    first: Output,
    /// The invite's state after the first try.
    state: String,
}

/// Has devices join whose link is cut after 0, 1, 2… packets one way, until one joins without reaching its cut.
/// `play` says what becomes of each.
async fn at_every_packet(site: &Site, play: fn(&Cut) -> Output, check: impl Fn(&Site, &Came)) -> usize {
    let mut cuts = 0;
    for way in [Way::Out, Way::In] {
        let (mut from, mut last) = (0, false);
        while !last {
            assert!(from < PACKETS_MAX, "joining takes more than {PACKETS_MAX} packets {way:?}");
            let invited: Vec<_> = (from..from + AT_ONCE)
                .map(|packets| {
                    let name = format!("{}-{packets}", format!("{way:?}").to_lowercase());
                    let host = site.hosts.host(&name);
                    host.cut_after(way, packets);
                    Cut { device: site.device(&name, &host, 1), name, way, packets }
                })
                .collect();
            let mut trying = JoinSet::new();
            for cut in invited {
                trying.spawn(spawn_blocking(move || {
                    let first = play(&cut);
                    (cut, first)
                }));
            }
            let tried = trying.join_all().await;
            for (cut, first) in tried.into_iter().map(Result::unwrap) {
                let was_cut = cut.device.host.is_cut();
                last |= !was_cut;
                cuts += usize::from(was_cut);
                let state = site.state(&cut.name);
                check(site, &Came { cut, was_cut, first, state });
            }
            from += AT_ONCE;
        }
    }
    cuts
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and network namespaces: run `just test-hosts`"]
async fn cut_at_any_packet_of_joining_the_same_token_joins_again_and_is_spent_once() {
    let site = Site::new().await;
    let joining = |cut: &Cut| cut.device.join(None);
    let seen = std::sync::Mutex::new(Vec::new());
    let cuts = at_every_packet(&site, joining, |site, came| {
        let Came { cut, was_cut, first, state } = came;
        let Cut { name, device, way, packets } = cut;
        let what = format!("{way:?} cut after {packets} packets, {state}, {}", first.status);
        println!("{what}");
        assert!(*was_cut || first.status.success(), "{what}: {}", String::from_utf8_lossy(&first.stderr));
        seen.lock().unwrap().push(state.clone());
        device.host.heal();
        done(&device.join(None));
        assert_eq!(site.state(name), "spent", "{what}");
        let told = site.told(name);
        let count = |text: &str| told.iter().filter(|d| d.starts_with(text)).count();
        let once = (count("issued: serial "), count("acknowledged, the token is spent: serial "));
        assert_eq!(once, (1, 1), "{what}: {told:?}");
        // Spent is spent: the same token leads nowhere from another folder.
        let thief = device.join(Some(device.certs.with_file_name("stolen")));
        let said = String::from_utf8_lossy(&thief.stderr).into_owned();
        assert!(!thief.status.success() && said.contains("join_token_spent"), "{what}: {said}");
    })
    .await;
    let seen = seen.into_inner().unwrap();
    for state in ["open", "issued", "spent"] {
        assert!(seen.iter().any(|s| s == state), "no cut left an invite `{state}`");
    }
    println!("{cuts} cuts, each joined again with the same token");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and network namespaces: run `just test-hosts`"]
async fn a_link_that_is_back_after_two_seconds_does_not_even_break_a_join_off() {
    let site = Site::new().await;
    let joining = |cut: &Cut| {
        let host = cut.device.host.clone();
        let healer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(2));
            // What was counted stays to be seen.
            host.pass();
        });
        let first = cut.device.join(None);
        healer.join().unwrap();
        first
    };
    let cuts = at_every_packet(&site, joining, |_, came| {
        let what = format!("{:?} cut after {} packets", came.cut.way, came.cut.packets);
        assert!(came.first.status.success(), "{what}: {}", String::from_utf8_lossy(&came.first.stderr));
        assert_eq!(came.state, "spent", "{what}");
    })
    .await;
    println!("{cuts} cuts of two seconds, each joined in one go");
}

/// Devices that join at the same time, each way; the authority takes 16.
const AT_ONCE: usize = 6;
const PACKETS_MAX: usize = 60;
