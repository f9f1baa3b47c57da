//! Hosts of the test's own: network namespaces on one switch, with links that can be cut. Needs root.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sidecar::binary;

/// A switch and the hosts at it; all go when dropped, also when the test panics.
pub struct Hosts {
    prefix: String,
    made: Mutex<Vec<String>>,
}

/// One host: a network of its own, files of this machine.
#[derive(Clone, Debug)]
pub struct Host {
    pub ip: Ipv4Addr,
    namespace: String,
}

/// Whose packets are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// What the host sends.
    Out,
    /// What it receives.
    In,
}

impl Hosts {
    /// A switch with nobody at it.
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        sweep();
        let prefix = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let hosts = Self { prefix, made: Mutex::new(Vec::new()) };
        let switch = hosts.namespace("switch");
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        hosts
    }

    /// One more host.
    pub fn host(&self, name: &str) -> Host {
        let namespace = self.namespace(name);
        let nth = u8::try_from(self.made.lock().unwrap().len()).expect("no more hosts than addresses");
        let (switch, port) = (format!("{}-switch", self.prefix), format!("p{nth}"));
        // TEST-NET-1 (RFC 5737): nothing of it is ever routed.
        let address = Ipv4Addr::new(192, 0, 2, nth);
        ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", LINK, "netns", &namespace]);
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", LINK]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["-n", &namespace, "link", "set", LINK, "up"]);
        Host { ip: address, namespace }
    }

    fn namespace(&self, name: &str) -> String {
        let namespace = format!("{}-{name}", self.prefix);
        ip(&["netns", "add", &namespace]);
        self.made.lock().unwrap().push(namespace.clone());
        namespace
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for namespace in self.made.lock().unwrap().iter() {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

impl Host {
    /// The binary under test, on this host.
    pub fn countersign(&self) -> Command {
        self.command(&binary())
    }

    /// A command of choice, on this host. What it starts as stays the process's id.
    fn command(&self, what: &Command) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(what.get_program()).args(what.get_args());
        command
    }

    /// The peers' door of a sidecar here.
    pub fn door(&self) -> SocketAddr {
        (self.ip, DOOR).into()
    }

    /// Lets so many TCP packets to or from a peers' door pass one way, then none in either direction.
    pub fn cut_after(&self, way: Way, packets: usize) {
        let (counted, other, port) = match way {
            Way::Out => ("output", "input", "dport"),
            Way::In => ("input", "output", "sport"),
        };
        self.nft(&format!(
            "table inet cut {{\n\
               set dead {{ type inet_proto; size 4; flags dynamic; }}\n\
               chain counted {{\n\
                 type filter hook {counted} priority 0;\n\
                 meta l4proto @dead drop;\n\
                 tcp {port} {DOOR} numgen inc mod 1000000 >= {packets} add @dead {{ meta l4proto }} drop;\n\
               }}\n\
               chain other {{ type filter hook {other} priority 0; meta l4proto @dead drop; }}\n\
             }}"
        ));
    }

    /// Lets no packet pass in either direction.
    pub fn cut(&self) {
        let chain =
            |hook: &str| format!("chain {hook} {{ type filter hook {hook} priority 0; policy drop; }}");
        self.nft(&format!("table inet cut {{\n{}\n{}\n}}", chain("output"), chain("input")));
    }

    /// Whether the count of [`Host::cut_after`] was reached.
    pub fn is_cut(&self) -> bool {
        let mut nft = Command::new("nft");
        nft.args(["list", "set", "inet", "cut", "dead"]);
        done(&mut self.command(&nft)).contains("elements")
    }

    /// Lets everything pass again; [`Host::is_cut`] still tells what was.
    pub fn pass(&self) {
        self.nft("flush table inet cut");
    }

    /// Lets everything pass again, and forgets.
    pub fn heal(&self) {
        self.nft("delete table inet cut");
    }

    /// Pulls the cable out, or puts it back in.
    pub fn cable(&self, hosts: &Hosts, plugged: bool) {
        let port = format!("p{}", self.ip.octets()[3]);
        let state = if plugged { "up" } else { "down" };
        ip(&["-n", &format!("{}-switch", hosts.prefix), "link", "set", &port, state]);
    }

    fn nft(&self, rules: &str) {
        let mut nft = Command::new("nft");
        nft.arg(rules);
        done(&mut self.command(&nft));
    }
}

/// Removes what a test left that was killed: the process it was named after is gone.
fn sweep() {
    for namespace in done(Command::new("ip").args(["netns", "list"])).lines() {
        let name = namespace.split(' ').next().unwrap_or_default();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(args: &[&str]) {
    done(Command::new("ip").args(args));
}

/// Runs a command that must do; gives what it printed.
fn done(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| {
        panic!("{command:?}: {e}; this needs root, `ip` (iproute2) and `nft` (nftables): .ci/hosts")
    });
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.into_owned()
}

/// The port of the peers' door on every host.
const DOOR: u16 = 15443;
/// The network device of every host.
const LINK: &str = "eth0";
const PREFIX: &str = "countersign-";
