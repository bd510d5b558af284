use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use relay::config::Listen;

use crate::rig::certificates::Certificates;
use crate::rig::client::{Answer, Client};
use crate::rig::vendor::{self, Received};
use crate::rig::{Rig, Settings};

const BEARER: &str = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";

fn with(integration: &str) -> Settings {
    Settings { integration: format!("{BEARER}{integration}"), ..Settings::default() }
}

fn echo(request: &Received, out: &mut vendor::Out<'_>) {
    vendor::answer(out, 200, &[("location", "/base/next")], request.target().as_bytes());
}

/// The port that the kernel gave to the integration's own listener.
fn own_port(rig: &Rig) -> std::net::SocketAddr {
    let doors = &rig.running().doors;
    assert_eq!(doors.len(), 1);
    assert_eq!(doors[0].0.as_str(), "vendor");
    doors[0].1.address().unwrap()
}

fn ask(client: &mut Client, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut text = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    client.send(&format!("{text}\r\n"));
    client.answer("GET")
}

#[test]
fn behind_an_own_port_the_whole_path_is_the_vendors() {
    let rig = Rig::with(with("listen = \"127.0.0.1:0\"\n"), echo);
    let (id, token) = (rig.secret("acme"), format!("Bearer {}", rig.token("acme")));
    let port = own_port(&rig);
    let mut client = Client::connect(port, rig.shown.clone());
    let rows = [
        ("/v1/charges?x=1", "/base/v1/charges?x=1", "the first segment names no integration here"),
        ("/vendor/v1", "/base/vendor/v1", "nor does its own name"),
        ("/", "/base/", "the root"),
    ];
    for (path, wanted, mistake) in rows {
        let answer =
            ask(&mut client, "relay.test", path, &[("authorization", &token), ("relay-secret", &id)]);
        assert_eq!((answer.status, answer.text().as_str()), (200, wanted), "{mistake}");
        assert_eq!(
            answer.header("location"),
            Some("http://relay.test/next"),
            "{mistake}: a link stays behind this port"
        );
    }
    let answer = ask(&mut client, "relay.test", &format!("/{id}/v1"), &[("authorization", &token)]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "/base/v1"));
    assert_eq!(answer.header("location"), Some(format!("http://relay.test/{id}/next").as_str()));
    let scoped = rig.token_with("acme", Some(&id), Some("relay:use:vendor"));
    let answer = ask(&mut client, "relay.test", "/v1", &[("authorization", &format!("Bearer {scoped}"))]);
    assert_eq!(answer.status, 200, "the scope names the integration that the port leads to");
    let scoped = rig.token_with("acme", Some(&id), Some("relay:use:v1"));
    let answer = ask(&mut client, "relay.test", "/v1", &[("authorization", &format!("Bearer {scoped}"))]);
    assert_eq!(answer.code(), "scope_denied", "and not the one that the path seems to name");
}

#[test]
fn a_host_name_leads_to_its_integration_and_no_other_does() {
    let rig = Rig::with(with("host = \"vendor.relay.internal\"\n"), echo);
    let (id, token) = (rig.secret("acme"), format!("Bearer {}", rig.token("acme")));
    let headers = [("authorization", token.as_str()), ("relay-secret", id.as_str())];
    let port = rig.app().port();
    let rows = [
        ("vendor.relay.internal", "/v1", 200, "/base/v1", "by name"),
        (&format!("vendor.relay.internal:{port}"), "/vendor/v1", 200, "/base/vendor/v1", "with a port"),
        ("VENDOR.relay.internal.", "/v1", 200, "/base/v1", "names have no case, and may end in a dot"),
        ("other.relay.internal", "/vendor/v1", 200, "/base/v1", "another name: by the path"),
        ("other.relay.internal", "/v1", 404, "", "another name, no integration in the path"),
    ];
    for (host, path, status, wanted, mistake) in rows {
        let answer = ask(&mut rig.client(), host, path, &headers);
        assert_eq!(answer.status, status, "{mistake}: {}", answer.text());
        if status == 200 {
            assert_eq!(answer.text(), wanted, "{mistake}");
        }
    }
}

#[test]
fn a_port_of_one_and_a_name_of_another_integration_are_refused() {
    let other = "[integrations.other]\nupstream = \"https://localhost:{PORT}/other\"\nhost = \"other.internal\"\n\
        inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";
    let settings = Settings { more: other.to_owned(), ..with("listen = \"127.0.0.1:0\"\n") };
    let rig = Rig::with(settings, echo);
    let (id, token) = (rig.secret("acme"), format!("Bearer {}", rig.token("acme")));
    let headers = [("authorization", token.as_str()), ("relay-secret", id.as_str())];
    let answer =
        ask(&mut Client::connect(own_port(&rig), rig.shown.clone()), "other.internal", "/x", &headers);
    assert_eq!((answer.status, answer.code()), (400, "path_refused"));
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn a_unix_socket_serves_and_goes_with_relay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    // Left by a relay that was killed: nobody listens there.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let settings = with(&format!("listen = \"unix:{}\"\n", path.display()));
    let mut rig = Rig::with(settings, echo);
    assert_eq!(rig.running().doors[0].1, Listen::Unix(path.clone()));
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(
            format!(
                "GET /v1 HTTP/1.1\r\nhost: relay\r\nrelay-secret: {id}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
            )
            .as_bytes(),
        )
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/base/v1"), "{answer}");
    rig.stop();
    assert!(!path.exists(), "a stopped relay leaves no socket behind");
}

fn over_tls(rig: &Rig, config: &Arc<ClientConfig>, request: &str) -> std::io::Result<String> {
    let name = ServerName::try_from("localhost").unwrap();
    let tcp = std::net::TcpStream::connect(rig.app())?;
    tcp.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    let mut tls = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), tcp);
    tls.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn tls_settings(certificates: &Certificates, more: &str) -> Settings {
    // The rig's own listen line stands before this; a table's keys follow its header.
    Settings {
        server: format!("{}{more}\n", certificates.section()),
        listen: "tls:127.0.0.1:0".to_owned(),
        ..with("")
    }
}

#[test]
fn tls_on_the_apps_side_serves_links_as_https_and_nothing_in_the_clear() {
    let certificates = Certificates::new();
    let rig = Rig::with(tls_settings(&certificates, ""), echo);
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let request = format!(
        "GET /vendor/v1 HTTP/1.1\r\nhost: localhost\r\nrelay-secret: {id}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    let answer = over_tls(&rig, &certificates.client(&["http/1.1"], false), &request).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/base/v1"), "{answer}");
    assert!(answer.contains("location: https://localhost/vendor/next"), "{answer}");
    let mut clear = rig.client();
    clear.send(&request);
    let (status, _) = clear.head();
    assert_eq!(status, 0, "a plain request at a TLS port gets no answer");
    assert_eq!(rig.vendor.requests().len(), 1);
}

#[test]
fn with_client_ca_only_an_app_with_a_certificate_gets_in() {
    let certificates = Certificates::new();
    let more = format!("client_ca = \"{}\"", certificates.path("ca.pem").display());
    let rig = Rig::with(tls_settings(&certificates, &more), echo);
    let (id, token) = (rig.secret("acme"), rig.token("acme"));
    let request = format!(
        "GET /vendor/v1 HTTP/1.1\r\nhost: localhost\r\nrelay-secret: {id}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    let foreign = Certificates::new();
    assert!(over_tls(&rig, &certificates.client(&[], false), &request).is_err(), "no certificate");
    assert!(over_tls(&rig, &foreign.client(&[], true), &request).is_err(), "another authority's");
    let answer = over_tls(&rig, &certificates.client(&[], true), &request).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(rig.vendor.requests().len(), 1);
}

#[test]
fn a_renewed_certificate_is_taken_over_and_a_broken_one_is_not() {
    let certificates = Certificates::new();
    let rig = Rig::with(tls_settings(&certificates, ""), echo);
    let config = certificates.client(&[], false);
    let served = || {
        let name = ServerName::try_from("localhost").unwrap();
        let tcp = std::net::TcpStream::connect(rig.app()).unwrap();
        let mut tls = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), tcp);
        tls.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        tls.conn.peer_certificates().map(|chain| chain[0].to_vec())
    };
    let first = served().unwrap();
    std::fs::write(certificates.path("server.pem"), "broken").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(served().as_ref(), Some(&first), "a broken file keeps the last good one");
    certificates.renew("localhost");
    let renewed = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        served().is_some_and(|now| now != first)
    });
    assert!(renewed, "the renewed certificate was never served");
}
