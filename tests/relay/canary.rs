use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::rig::Rig;
use crate::rig::vendor::{self, Out, Received};

/// A vendor that sends everything back that it got: in the head, in the body, raw and in base64.
fn echo(request: &Received, out: &mut Out<'_>) {
    let credential = request.header("authorization").unwrap().split_once(' ').unwrap().1;
    let base64 = STANDARD.encode(credential);
    let body = format!("{}\r\n{}\n{base64}\n", request.head, String::from_utf8_lossy(&request.body));
    vendor::answer(out, 200, &[("x-echo", credential), ("x-base64", &base64)], body.as_bytes());
}

/// Calls in every way that shows a credential to someone, and what the hunt then found.
fn hunted() -> Vec<String> {
    let mut rig = Rig::answering(echo);
    let id = rig.secret("acme");
    let auth = format!("Bearer {}", rig.token("acme"));
    let headers = [("authorization", auth.as_str())];
    for (method, path, body) in [
        ("GET", format!("/vendor/{id}/x"), b"".as_slice()),
        ("POST", format!("/vendor/{id}/x"), b"hello"),
        ("GET", format!("/vendor/{id}/%2e%2e/x"), b""),
        ("GET", "/nowhere/x".to_owned(), b""),
    ] {
        rig.client().request(method, &path, &headers, body);
    }
    for (method, path) in [
        ("GET", "/v1/secrets?customer=acme".to_owned()),
        ("GET", format!("/v1/secrets/{id}")),
        ("GET", "/metrics".to_owned()),
        ("POST", format!("/v1/secrets/{id}/disable")),
    ] {
        rig.admin(method, &path, None);
    }
    rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == 2);
    rig.hunt()
}

/// The positive control: `cargo test --features leak_for_tests_danger canary::`.
#[cfg(feature = "leak_for_tests_danger")]
#[test]
fn a_relay_that_does_not_scrub_is_caught() {
    let found = hunted();
    for form in ["raw", "base64 (0)"] {
        let wanted = format!("{form} in what clients and operators were shown");
        assert!(found.contains(&wanted), "{wanted} was not found: {found:?}");
    }
}

#[cfg(not(feature = "leak_for_tests_danger"))]
#[test]
fn a_relay_before_a_vendor_that_echoes_everything_shows_nothing() {
    assert_eq!(hunted(), Vec::<String>::new());
}

#[test]
fn the_hunt_sees_every_place_and_every_form() {
    let mut rig = Rig::plain();
    let secret = rig.canary.text().to_owned();
    tracing::trace!(target: "relay::canary", "{secret}");
    let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
    std::fs::create_dir(rig.folder.path().join("deep")).unwrap();
    std::fs::write(rig.folder.path().join("deep/hex"), format!("\0{hex}\0")).unwrap();
    std::fs::write(rig.folder.path().join("percent"), secret.replace('-', "%2D")).unwrap();
    std::fs::write(rig.folder.path().join("inside"), STANDARD.encode(format!("ab{secret}cd"))).unwrap();
    rig.shown.lock().unwrap().extend_from_slice(secret.as_bytes());
    let found = rig.hunt();
    for (form, place) in [
        ("raw", "the logs"),
        ("raw", "what clients and operators were shown"),
        ("hex", "deep/hex"),
        ("percent of what must be", "percent"),
        ("base64 (1)", "inside"),
    ] {
        assert!(
            found.iter().any(|f| f.starts_with(form) && f.ends_with(place)),
            "{form} in {place}: {found:?}"
        );
    }
}
