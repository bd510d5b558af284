//! dev.json: who may read it, when it is believed, and what of it is printed.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use relay::cli::dev::state::{DevRelay, Whereabouts};
use relay::cli::env;
use relay::cli::exit::{Exit, Failure};
use relay::cli::token::LocalIssuer;
use relay::model::SecretId;

use super::wire::LOOPBACK;

fn dev_relay(url: String, pid: u32) -> DevRelay {
    let issuer = LocalIssuer::generate("relay-dev-test").unwrap();
    DevRelay {
        admin: url.clone(),
        url,
        admin_token: "admin".to_owned(),
        customer: "acme".to_owned(),
        secret: SecretId::random().to_string(),
        token: "a.b.c".to_owned(),
        vendor: "https://127.0.0.1:1".to_owned(),
        pid,
        issuer: "relay-dev".to_owned(),
        audience: "relay".to_owned(),
        kid: issuer.kid.clone(),
        issuer_key: String::from_utf8(issuer.key.expose().to_vec()).unwrap(),
    }
}

fn failure<T>(result: Result<T, Failure>) -> Failure {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(failure) => failure,
    }
}

#[test]
fn a_folder_that_others_can_enter_is_neither_read_nor_written() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let relay = dev_relay(format!("http://{}", port.local_addr().unwrap()), std::process::id());

    let open = dir.path().join("open");
    let place = Whereabouts::at(open.clone());
    drop(relay.publish(&place).unwrap());
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(failure(relay.publish(&place)).words.contains("entered by others"));
    std::fs::write(place.file(), "{}").unwrap();
    assert!(failure(DevRelay::running(&place)).words.contains("entered by others"));

    let real = dir.path().join("real");
    let published = relay.publish(&Whereabouts::at(real.clone())).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert!(failure(DevRelay::running(&Whereabouts::at(link))).words.contains("no folder"));
    drop(published);
}

#[test]
fn a_dev_json_whose_relay_is_gone_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    let place = Whereabouts::at(dir.path().join("relay"));
    let port = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let alive = format!("http://{}", port.local_addr().unwrap());
    let gone = {
        let closed = std::net::TcpListener::bind(LOOPBACK).unwrap();
        format!("http://{}", closed.local_addr().unwrap())
    };
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let own = std::process::id();
    let rows = [
        (gone, own, "its port is closed"),
        (alive.clone(), ended.id(), "its process is gone and a stranger has the port"),
        ("http://192.0.2.1:80".to_owned(), own, "its address is not this machine's"),
    ];
    for (url, pid, mistake) in rows {
        let published = dev_relay(url, pid).publish(&place).unwrap();
        assert_eq!(failure(DevRelay::running(&place)).exit, Exit::Unreachable, "{mistake}");
        drop(published);
    }
    // Process 1 runs and is not this one: a second dev relay must not take its place.
    let first = dev_relay(alive.clone(), 1).publish(&place).unwrap();
    assert!(failure(dev_relay(alive, own).publish(&place)).words.contains("runs already"));
    drop(first);
    assert!(!place.file().exists());
}

#[test]
fn what_a_shell_could_take_for_more_than_a_word_is_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let place = Whereabouts::at(dir.path().join("relay"));
    let port = std::net::TcpListener::bind(LOOPBACK).unwrap();
    for token in ["a.b.c; rm -rf x", "$(id)", "a\nb", "'", ""] {
        let mut relay = dev_relay(format!("http://{}", port.local_addr().unwrap()), std::process::id());
        relay.token = token.to_owned();
        let published = relay.publish(&place).unwrap();
        let mut out = Vec::new();
        let refused = env::run(&place, env::Shape::Shell, &mut out).unwrap_err();
        assert_eq!((refused.exit, out.len()), (Exit::Failed, 0), "{token:?}");
        drop(published);
    }
}

#[test]
fn the_folder_is_looked_for_in_the_order_that_is_promised() {
    let temporary = Path::new("/temporary");
    let find = |set: &[(&str, &str)]| {
        let lookup =
            |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(*value));
        Whereabouts::find(lookup, temporary).file()
    };
    let both = [("RELAY_DEV_DIR", "/mine"), ("XDG_RUNTIME_DIR", "/run/user/7")];
    assert_eq!(find(&both), Path::new("/mine/dev.json"));
    assert_eq!(find(&both[1..]), Path::new("/run/user/7/relay/dev.json"));
    assert_eq!(find(&[("RELAY_DEV_DIR", ""), both[1]]), Path::new("/run/user/7/relay/dev.json"));
    let fallback = find(&[]);
    assert!(fallback.starts_with(temporary) && fallback.to_string_lossy().contains("/relay-"));
}
