use std::sync::mpsc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use rcgen::ExtendedKeyUsagePurpose::ClientAuth;
use relay::refusal::Code;
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::refusals::refused;
use crate::rig::canary::Canary;
use crate::rig::certificates::Certificates;
use crate::rig::client::Answer;
use crate::rig::vendor::{self, Out, Received, Vendor, identity_demanding};
use crate::rig::{Rig, Settings, vendor_http2};

const INTEGRATION: &str = "client_certificate = { certificate = \"{certificate}\", key = \"{private_key}\" }\n\
    [integrations.vendor.fields]\ncertificate = { secret = false }\nprivate_key = {}\n";

/// One worker, so that every request meets the same pool.
fn before(vendor: Vendor, integration: &str) -> Rig {
    Rig::before(Settings { integration: integration.to_owned(), workers: 1, ..Settings::default() }, vendor)
}

/// A vendor that demands a certificate of this authority and answers with the hash of the one it saw.
fn demanding(authority: &Certificates) -> (Rig, mpsc::Receiver<usize>) {
    let (config, ca_pem) = identity_demanding(&["localhost"], Some(authority.ca_pem()));
    let (vendor, ended) = Vendor::with((*config).clone(), ca_pem, shown);
    (before(vendor, INTEGRATION), ended)
}

fn shown(request: &Received, out: &mut Out<'_>) {
    let seen = out.conn.peer_certificates().map(|chain| hash(&chain[0])).unwrap_or_default();
    let resumed = out.conn.handshake_kind() == Some(HandshakeKind::Resumed);
    let resumed = if resumed { "yes" } else { "no" };
    let body = if request.line().starts_with("HEAD ") { "" } else { seen.as_str() };
    vendor::answer(out, 200, &[("x-resumed", resumed)], body.as_bytes());
}

fn hash(der: &[u8]) -> String {
    digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash_of(pem: &str) -> String {
    hash(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
}

fn secret(rig: &Rig, customer: &str, (certificate, key): &(String, String)) -> String {
    rig.secret_with(customer, "vendor", &[("certificate", certificate), ("private_key", key)])
}

fn get(rig: &Rig, customer: &str, id: &str) -> Answer {
    rig.get(&format!("/vendor/{id}/x"), &rig.token(customer))
}

/// A line of a key's PEM, which must be nowhere.
fn line_of(key: &str) -> Canary {
    Canary::of(key.lines().nth(1).unwrap())
}

#[test]
fn the_vendor_sees_the_secrets_own_certificate_and_nobody_sees_its_key() {
    let authority = Certificates::new();
    let pair = authority.issue("acme", ClientAuth);
    let (mut rig, _ended) = demanding(&authority);
    rig.canary = line_of(&pair.1);
    let id = secret(&rig, "acme", &pair);
    let answer = get(&rig, "acme", &id);
    assert_eq!((answer.status, answer.text()), (200, hash_of(&pair.0)), "{}", answer.text());
    let head = rig.vendor.last().head;
    assert!(!head.contains("CERTIFICATE") && !head.contains("PRIVATE"), "{head}");
    assert!(rig.hunt().is_empty());
}

#[test]
fn no_two_secrets_ever_share_a_connection_or_a_session() {
    let authority = Certificates::new();
    let pairs: Vec<_> = ["a", "b", "c"].iter().map(|name| authority.issue(name, ClientAuth)).collect();
    let (rig, _ended) = demanding(&authority);
    let ids = [
        ("acme", secret(&rig, "acme", &pairs[0]), &pairs[0]),
        ("globex", secret(&rig, "globex", &pairs[1]), &pairs[1]),
        ("acme", secret(&rig, "acme", &pairs[2]), &pairs[2]),
        // The same certificate in another secret is another identity.
        ("initech", secret(&rig, "initech", &pairs[0]), &pairs[0]),
    ];
    let mut connections = vec![None; ids.len()];
    for round in 0..4 {
        for (number, (customer, id, pair)) in ids.iter().enumerate() {
            let answer = get(&rig, customer, id);
            assert_eq!((answer.status, answer.text()), (200, hash_of(&pair.0)), "round {round}, {customer}");
            assert_eq!(answer.header("x-resumed"), Some("no"), "round {round}, {customer}");
            let connection = rig.vendor.last().connection;
            let own = *connections[number].get_or_insert(connection);
            assert_eq!(own, connection, "round {round}: its own connection is used again");
        }
    }
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), ids.len());
}

#[test]
fn a_rotated_certificate_is_shown_and_the_old_ones_connection_ends() {
    let authority = Certificates::new();
    let (old, new) = (authority.issue("old", ClientAuth), authority.issue("new", ClientAuth));
    let (rig, ended) = demanding(&authority);
    let id = secret(&rig, "acme", &old);
    assert_eq!(get(&rig, "acme", &id).text(), hash_of(&old.0));
    let first = rig.vendor.last().connection;
    let fields = serde_json::json!({ "fields": { "certificate": new.0, "private_key": new.1 } });
    let answer = rig.admin("POST", &format!("/v1/secrets/{id}/versions"), Some(&fields.to_string()));
    assert!(answer.status < 300, "{}", answer.text());
    assert_eq!(ended.recv_timeout(Duration::from_secs(5)), Ok(first), "before anything uses the new one");
    let answer = get(&rig, "acme", &id);
    assert_eq!((answer.text(), answer.header("x-resumed")), (hash_of(&new.0), Some("no")));
    assert_ne!(rig.vendor.last().connection, first);
}

#[test]
fn a_revoked_secrets_idle_connection_ends() {
    let authority = Certificates::new();
    let pair = authority.issue("acme", ClientAuth);
    for how in ["disable", "rm"] {
        let (rig, ended) = demanding(&authority);
        let (id, other) = (secret(&rig, "acme", &pair), secret(&rig, "globex", &pair));
        assert_eq!(get(&rig, "acme", &id).status, 200);
        let connection = rig.vendor.last().connection;
        assert_eq!(get(&rig, "globex", &other).status, 200);
        let kept = rig.vendor.last().connection;
        let path = format!("/v1/secrets/{id}");
        let answer = match how {
            "rm" => rig.admin("DELETE", &path, None),
            _ => rig.admin("POST", &format!("{path}/disable"), None),
        };
        assert!(answer.status < 300, "{how}: {}", answer.text());
        assert_eq!(ended.recv_timeout(Duration::from_secs(5)), Ok(connection), "{how}");
        assert_eq!(get(&rig, "globex", &other).status, 200);
        assert_eq!(rig.vendor.last().connection, kept, "{how}: another secret's connection stays");
        assert!(get(&rig, "acme", &id).status >= 400, "{how}");
    }
}

#[test]
fn over_http2_each_secret_has_a_connection_of_its_own() {
    let authority = Certificates::new();
    let (config, ca_pem) = identity_demanding(&["localhost"], Some(authority.ca_pem()));
    let vendor = vendor_http2::start_with((*config).clone(), ca_pem, |_| {
        Box::pin(async { Response::new(Full::new(Bytes::from_static(b"ok")).boxed_unsync()) })
    });
    let rig = before(vendor, INTEGRATION);
    let acme = secret(&rig, "acme", &authority.issue("acme", ClientAuth));
    let globex = secret(&rig, "globex", &authority.issue("globex", ClientAuth));
    let mut seen = Vec::new();
    for (customer, id) in [("acme", &acme), ("globex", &globex), ("acme", &acme), ("globex", &globex)] {
        let answer = get(&rig, customer, id);
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{customer}: {}", answer.text());
        seen.push(rig.vendor.last().connection);
    }
    assert_eq!((seen[0], seen[1]), (seen[2], seen[3]));
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn a_certificate_and_a_placed_key_go_together() {
    let authority = Certificates::new();
    let (config, ca_pem) = identity_demanding(&["localhost"], Some(authority.ca_pem()));
    let (vendor, _ended) = Vendor::with((*config).clone(), ca_pem, shown);
    let integration = format!(
        "inject = [{{ header = \"authorization\", value = \"Bearer {{token}}\" }}]\n{INTEGRATION}token = {{}}\n"
    );
    let rig = before(vendor, &integration);
    let (certificate, key) = authority.issue("acme", ClientAuth);
    let canary = rig.canary.text().to_owned();
    let fields = [("certificate", certificate.as_str()), ("private_key", &key), ("token", &canary)];
    let id = rig.secret_with("acme", "vendor", &fields);
    let answer = get(&rig, "acme", &id);
    assert_eq!((answer.status, answer.text()), (200, hash_of(&certificate)));
    assert_eq!(rig.vendor.last().header("authorization"), Some(format!("Bearer {canary}").as_str()));
    let broken = "Bearer\nx: y";
    let fields = [("certificate", certificate.as_str()), ("private_key", &key), ("token", broken)];
    let body = serde_json::json!({ "customer": "acme", "integration": "vendor", "fields": std::collections::BTreeMap::from(fields) });
    let answer = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
    assert!(answer.status >= 400 && answer.text().contains("line break"), "{}", answer.text());
}

#[test]
fn a_vendor_refuses_another_authoritys_certificate_and_the_app_learns_no_more() {
    let (authority, foreign) = (Certificates::new(), Certificates::new());
    let (rig, _ended) = demanding(&authority);
    let id = secret(&rig, "acme", &foreign.issue("acme", ClientAuth));
    let answer = get(&rig, "acme", &id);
    refused(&answer, Code::VendorTls);
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn a_websocket_shows_the_certificate_too_and_its_connection_serves_nothing_else() {
    let authority = Certificates::new();
    let (config, ca_pem) = identity_demanding(&["localhost"], Some(authority.ca_pem()));
    let (vendor, _ended) = Vendor::with((*config).clone(), ca_pem, |request, out| {
        let seen = out.conn.peer_certificates().map(|chain| hash(&chain[0])).unwrap_or_default();
        if request.header("upgrade").is_some() {
            let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
            let fields =
                format!("upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}");
            vendor::raw(out, format!("HTTP/1.1 101 S\r\n{fields}\r\nx-seen: {seen}\r\n\r\n").as_bytes());
        } else {
            vendor::answer(out, 200, &[], seen.as_bytes());
        }
    });
    let rig = before(vendor, &format!("websocket = true\n{INTEGRATION}"));
    let pair = authority.issue("acme", ClientAuth);
    let (id, token) = (secret(&rig, "acme", &pair), rig.token("acme"));
    assert_eq!(get(&rig, "acme", &id).text(), hash_of(&pair.0));
    let mut client = rig.client();
    client.send(&format!(
        "GET /vendor/{id}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nconnection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ));
    let (status, fields) = client.head();
    assert_eq!(status, 101);
    assert!(fields.contains(&("x-seen".to_owned(), hash_of(&pair.0))), "{fields:?}");
    assert_eq!(rig.vendor.last().connection, 1, "another connection than the one that stands idle");
}

#[test]
fn what_is_no_certificate_with_its_key_is_not_taken() {
    let authority = Certificates::new();
    let (rig, _ended) = demanding(&authority);
    let (certificate, key) = authority.issue("acme", ClientAuth);
    let (_, others) = authority.issue("globex", ClientAuth);
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let torn = key.replace("-----END", "");
    let rows = [
        (&certificate, &others, "the key is not the certificate's", "another certificate's key"),
        (&certificate, &encrypted, "encrypted", "an encrypted key"),
        (&certificate, &torn, "no PEM block PRIVATE KEY", "a torn key"),
        (&certificate, &certificate, "no PEM block PRIVATE KEY", "the certificate twice"),
        (&key, &key, "no PEM block CERTIFICATE", "the key twice"),
    ];
    for (certificate, key, wanted, mistake) in rows {
        let fields = std::collections::BTreeMap::from([("certificate", certificate), ("private_key", key)]);
        let body = serde_json::json!({ "customer": "acme", "integration": "vendor", "fields": fields });
        let answer = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
        assert!(answer.status >= 400 && answer.text().contains(wanted), "{mistake}: {}", answer.text());
        assert!(!answer.text().contains("BEGIN"), "{mistake}");
    }
    refused(&get(&rig, "acme", &relay::model::SecretId::random().to_string()), Code::SecretNotFound);
}
