//! A sidecar's start and end: what must be right before anything listens, and the app it leaves with.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::support::{Sidecar, Yard, free_addr, until};

/// What a start that must fail says, and its exit code.
fn refused(yard: &Yard, args: &[&str]) -> (Option<i32>, String) {
    let dir = yard.path().join("server-1");
    let ended = Sidecar::output(&dir, args);
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

fn furnished() -> (Yard, std::net::SocketAddr) {
    let (yard, door) = (Yard::new(), free_addr());
    let service = "[[inbound]]\nname = \"orders\"\ntarget = \"127.0.0.1:1\"\nprotocol = \"tcp\"\n";
    yard.furnish("server-1", &format!("[peers]\nlisten = \"{door}\"\n\n{service}"));
    (yard, door)
}

#[test]
fn a_sidecar_leaves_with_its_app_and_the_apps_exit_code() {
    let (yard, _) = furnished();
    for code in [0, 7] {
        let (ended, said) = refused(&yard, &["--", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(ended, Some(code), "{said}");
    }
    let (ended, said) = refused(&yard, &["--", "/no/such/app"]);
    assert_eq!(ended, Some(1), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_asked_to_end_when_its_sidecar_is() {
    let (yard, _) = furnished();
    let dir = yard.path().join("server-1");
    let script = format!(
        "trap 'echo asked > {0}/app; exit 3' TERM; echo up > {0}/app; sleep 60 & wait",
        dir.display()
    );
    let mut sidecar = Sidecar::spawn(&dir, &["--", "sh", "-c", &script]);
    let app = async || fs::read_to_string(dir.join("app")).unwrap_or_default();
    until("the app runs", async || (app().await == "up\n").then_some(())).await;
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.ended().await.code(), Some(0));
    assert_eq!(app().await, "asked\n");
}

#[test]
fn five_mistakes_are_five_messages_with_line_and_column_and_nothing_starts() {
    let (yard, door) = furnished();
    let dir = yard.path().join("server-1");
    let config = format!(
        "version = 1\n\n[identity]\ntrust_domain = \"Example.org\"\n\n[peers]\nlisten = \"{door}\"\n\n\
         [[inbound]]\nname = \"orders\"\ntarget = \"127.0.0.1\"\nprotocol = \"udp\"\n\n\
         [channel]\npq = \"perhaps\"\n\n[admin]\nsockett = \"x\"\n"
    );
    fs::write(dir.join("countersign.toml"), config).unwrap();
    let (code, said) = refused(&yard, &[]);
    assert_eq!(code, Some(2), "{said}");
    let places: Vec<_> = said
        .lines()
        .filter_map(|line| line.split_once("countersign.toml:"))
        .filter_map(|(_, rest)| rest.split_once(": ").map(|(place, _)| place))
        .collect();
    assert_eq!(places, ["4:16", "11:10", "12:12", "15:6", "18:1"], "{said}");
    assert!(TcpStream::connect(door).is_err());
    assert!(!dir.join("audit").exists() && !dir.join("countersign.sock").exists());
}

#[test]
fn a_key_that_others_can_read_is_refused_at_the_start() {
    let (yard, _) = furnished();
    let key = yard.path().join("server-1/certs/leaf.key");
    for mode in [0o640, 0o604] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let (code, said) = refused(&yard, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("leaf.key"), "{said}");
    }
    assert!(!yard.path().join("server-1/audit").exists());
}

#[test]
fn a_configured_revocation_list_that_is_missing_refuses_the_start() {
    let (yard, _) = furnished();
    fs::remove_file(yard.path().join("server-1/certs/crl.pem")).unwrap();
    let (code, said) = refused(&yard, &[]);
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("crl.pem"), "{said}");
}

#[test]
fn an_address_in_use_is_told_and_nothing_starts() {
    let (yard, door) = furnished();
    let _taken = std::net::TcpListener::bind(door).unwrap();
    let (code, said) = refused(&yard, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&door.to_string()), "{said}");
}
