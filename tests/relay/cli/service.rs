//! The process as a supervisor sees it: its signals, and what systemd is told.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Home, err, out};

/// Starts `relay run` with this place to notify, and what it is told there.
fn notified(home: &mut Home, place: &str, socket: &UnixDatagram) {
    let mut command = home.command(&["run"]);
    command.env("RELAY_LOG", "debug").env("NOTIFY_SOCKET", place).env("WATCHDOG_USEC", "200000");
    home.running = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    assert!(told(socket, "READY=1").contains("STATUS=serving"));
}

/// The next message that is no watchdog's; it must say `wanted`.
fn told(socket: &UnixDatagram, wanted: &str) -> String {
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    loop {
        let mut message = [0; 512];
        let length = socket.recv(&mut message).unwrap_or_else(|error| panic!("{wanted}: {error}"));
        let message = String::from_utf8(message[..length].to_vec()).unwrap();
        if message != "WATCHDOG=1" {
            assert!(message.lines().any(|line| line == wanted), "{wanted}: {message}");
            return message;
        }
    }
}

fn signal(home: &Home, signal: Signal) {
    kill_process(Pid::from_child(home.running.as_ref().unwrap()), signal).unwrap();
}

#[test]
fn systemd_is_told_when_relay_is_ready_reloads_lives_and_stops() {
    let abstract_name = format!("relay-test-{}", std::process::id());
    for by_path in [true, false] {
        let mut home = Home::new();
        let path = home.path("notify.sock");
        let (socket, place) = if by_path {
            (UnixDatagram::bind(&path).unwrap(), path.display().to_string())
        } else {
            let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{abstract_name}"))
        };
        notified(&mut home, &place, &socket);
        let mut alive = [0; 64];
        let beats = (0..3).filter(|_| socket.recv(&mut alive).is_ok_and(|n| &alive[..n] == b"WATCHDOG=1"));
        assert_eq!(beats.count(), 3);
        signal(&home, Signal::HUP);
        let reloading = told(&socket, "RELOADING=1");
        let since = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(since.is_some_and(|micros| micros.parse::<u64>().unwrap() > 0), "{reloading}");
        assert!(told(&socket, "READY=1").ends_with("STATUS=serving"));
        std::fs::write(home.path("relay.toml"), "[server\n").unwrap();
        signal(&home, Signal::HUP);
        told(&socket, "RELOADING=1");
        assert!(told(&socket, "READY=1").contains("last good"), "a broken file is no end of serving");
        assert_eq!(home.terminate(), Some(0));
        told(&socket, "STOPPING=1");
    }
}

#[test]
fn relay_reload_prints_what_changed_or_the_same_errors_as_relay_check() {
    let mut home = Home::new();
    home.run();
    assert_eq!(home.ok(&["reload"], None), "relay.toml is what it was\n");
    let good = std::fs::read_to_string(home.path("relay.toml")).unwrap();
    std::fs::write(home.path("relay.toml"), good.replace("[server]\n", "[server]\ngrace = \"3s\"\n"))
        .unwrap();
    assert_eq!(home.ok(&["reload"], None), "server.grace\n");
    let json: serde_json::Value =
        serde_json::from_str(&home.ok(&["--format", "json", "reload"], None)).unwrap();
    assert_eq!(json["changed"], serde_json::json!([]));

    // The file is broken where the running relay reads it; the command reaches relay by its address.
    let admin = good.lines().find_map(|line| line.trim().strip_prefix("admin_listen")).unwrap();
    let admin = admin.split('"').nth(1).unwrap().to_owned();
    let token = std::fs::read_to_string(home.path("admin.token")).unwrap();
    std::fs::write(home.path("relay.toml"), good.replace("upstream = ", "upstraem = ")).unwrap();
    let by_address = |home: &Home, words: &[&str]| {
        let mut command = home.command(words);
        command.env("RELAY_ADDR", &admin).env("RELAY_ADMIN_TOKEN", token.trim_end());
        home.keep(super::finish(command, None))
    };
    let refused = by_address(&home, &["reload"]);
    assert_eq!(refused.status.code(), Some(3), "{}", err(&refused));
    let checked = home.relay(&["check", "relay.toml"], None);
    let line = err(&checked).lines().find(|line| line.contains("upstraem")).unwrap().to_owned();
    let shown = err(&refused);
    let place = line.split(':').skip(1).collect::<Vec<_>>().join(":");
    assert!(shown.contains(&place) && shown.contains("^^^^^^^^"), "{line}: {shown}");
    assert!(out(&refused).is_empty());
    std::fs::write(home.path("relay.toml"), good.replace("[server]\n", "[server]\nworkers = 7\n")).unwrap();
    let refused = by_address(&home, &["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        err(&refused).contains("restart") && err(&refused).contains("server.workers"),
        "{}",
        err(&refused)
    );
    assert_eq!(home.terminate(), Some(0));
    assert_eq!(by_address(&home, &["reload"]).status.code(), Some(4));
}

#[test]
fn a_second_signal_ends_relay_at_once() {
    let mut home = Home::new();
    let id = {
        home.run();
        home.add("acme")
    };
    let token = home.token("acme");
    // It holds the whole grace, which is 25 s: a request's head that never ends.
    let mut slow = crate::rig::client::Client::connect(home.app, home.shown.clone());
    slow.send(&format!("POST /github/{id}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-length: 9\r\n\r\nx"));
    std::thread::sleep(Duration::from_millis(300));
    signal(&home, Signal::TERM);
    std::thread::sleep(Duration::from_millis(500));
    assert!(home.running.as_mut().unwrap().try_wait().unwrap().is_none(), "it waits for what is under way");
    assert!(std::net::TcpStream::connect(home.app).is_err(), "and its listener is closed");
    let begun = Instant::now();
    assert_eq!(home.terminate(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // The audit has its end, as behind an orderly stop.
    let audit = std::fs::read_to_string(home.path("audit.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
    assert_eq!((last["kind"].as_str(), last["why"].as_str()), (Some("anchor"), Some("close")), "{last}");
    assert!(audit.contains("stop: told twice"), "{audit}");
    home.run();
    home.ok(&["audit", "verify"], None);
}
