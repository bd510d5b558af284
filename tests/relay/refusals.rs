use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use http::HeaderMap;
use relay::app::Options;
use relay::audit::{Durability, MemorySink, Sink};
use relay::kms::local::Local;
use relay::kms::{Call, KeyContext, Kms, KmsError};
use relay::model::{Customer, DataKeyId, RequestId, SecretId};
use relay::refusal::{Code, Refusal};
use relay::secret::Secret;
use relay::store::memory::Memory;
use relay::store::{Change, Expected, SecretRow, Store, StoreError, Upkeep};
use tokio::sync::broadcast;

use crate::rig::client::Answer;
use crate::rig::vendor::{self, raw};
use crate::rig::{Rig, Settings, callers};

/// Asserts that relay itself refused with `code`, in every form that a caller may look at.
pub fn refused(answer: &Answer, code: Code) {
    assert_eq!(answer.code(), code.as_str(), "{} {}", answer.status, answer.text());
    assert_eq!(answer.status, code.status().as_u16());
    let body = answer.json();
    assert_eq!(body["code"], code.as_str());
    assert_eq!(body["error"]["code"], code.as_str());
    assert_eq!(body["status"], code.status().as_u16());
    assert_eq!(body["type"], format!("urn:relay:refusal:{}", code.as_str()));
    assert_eq!(body["message"], body["detail"]);
    assert_eq!(body["request_id"].as_str(), answer.header("relay-request-id"));
    assert!(answer.header("proxy-status").unwrap().starts_with("relay; error="));
    assert_eq!(answer.header("retry-after").is_some(), code.passes());
}

#[test]
fn every_code_has_the_status_of_the_contract() {
    let table = [
        (
            400,
            "request_malformed path_refused token_ambiguous secret_missing secret_ambiguous request_unsignable",
        ),
        (431, "head_too_large"),
        (
            401,
            "token_missing token_invalid token_expired token_not_yet_valid token_issuer token_audience token_customer",
        ),
        (403, "scope_denied request_denied egress_denied"),
        (404, "integration_unknown secret_not_found"),
        (410, "secret_disabled secret_expired"),
        (413, "body_too_large"),
        (424, "credential_unusable reconnect_required keys_denied"),
        (429, "rate_limited too_busy"),
        (502, "vendor_unreachable vendor_tls vendor_broken response_refused"),
        (504, "vendor_timeout"),
        (503, "issuer_unavailable keys_unavailable store_unavailable audit_unavailable draining"),
    ];
    let mut listed = 0;
    for (status, codes) in table {
        for word in codes.split(' ') {
            let code =
                Code::ALL.iter().find(|code| code.as_str() == word).unwrap_or_else(|| panic!("no {word}"));
            assert_eq!(code.status().as_u16(), status, "{word}");
            let answer = relay::reply::refuse(&Refusal::from(*code), RequestId::fresh(), &HeaderMap::new());
            assert_eq!(answer.headers()["relay-error"], word);
            assert_eq!(answer.headers()["content-type"], "application/json");
            assert_eq!(answer.headers().contains_key("retry-after"), matches!(status, 429 | 503), "{word}");
            listed += 1;
        }
    }
    assert_eq!(listed, Code::ALL.len(), "every code is in the table once");
}

#[test]
fn problem_json_is_for_those_who_name_it() {
    let rig = Rig::plain();
    let plain = rig.client().request("GET", "/vendor/x", &[], b"");
    assert_eq!(plain.header("content-type"), Some("application/json"));
    let asked = rig.client().request("GET", "/vendor/x", &[("accept", "application/problem+json")], b"");
    assert_eq!(asked.header("content-type"), Some("application/problem+json"));
}

#[test]
fn what_the_request_itself_gets_wrong() {
    let settings = Settings {
        integration: "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n\
                      allow = [\"GET /**\", \"POST /ok\"]\ndeny = [\"* /admin/**\"]\n"
            .to_owned(),
        ..Settings::default()
    };
    let rig = Rig::with(settings, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let id = rig.secret("acme");
    let other = SecretId::random().to_string();
    let token = rig.token("acme");
    let pinned = rig.token_with("acme", Some(&id), None);
    let scoped = rig.token_with("acme", None, Some("read relay:use:elsewhere"));
    let foreign = rig.token("globex");
    let auth = format!("Bearer {token}");
    let a = ("authorization", auth.as_str());
    let long = "x".repeat(40 * 1024);
    let many: Vec<(String, String)> = (0..120).map(|n| (format!("x-{n}"), "1".to_owned())).collect();
    let mut many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    many.push(a);
    let good = format!("/vendor/{id}/x");
    let pair = {
        use base64::Engine;
        let both = format!("{foreign}:{token}");
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
    };
    let (pinned, scoped, foreign) =
        (format!("Bearer {pinned}"), format!("Bearer {scoped}"), format!("Bearer {foreign}"));
    let rows: Vec<(&str, String, Vec<(&str, &str)>, Code, &str)> = vec![
        ("GET", good.clone(), vec![], Code::TokenMissing, "no token"),
        ("GET", good.clone(), vec![("authorization", "Bearer sk-dummy")], Code::TokenMissing, "a dummy key"),
        ("GET", good.clone(), vec![("authorization", "Bearer a.b.c")], Code::TokenInvalid, "no token at all"),
        ("GET", good.clone(), vec![a, ("authorization", &foreign)], Code::TokenAmbiguous, "two tokens"),
        (
            "GET",
            good.clone(),
            vec![("relay-authorization", &auth), ("relay-authorization", &auth)],
            Code::TokenAmbiguous,
            "a control field twice",
        ),
        ("GET", good.clone(), vec![("authorization", &scoped)], Code::ScopeDenied, "a scope for elsewhere"),
        ("GET", "/nowhere/x".to_owned(), vec![], Code::TokenMissing, "an unknown integration tells nothing"),
        ("GET", "/nowhere/x".to_owned(), vec![a], Code::IntegrationUnknown, "an unknown integration"),
        ("GET", format!("/vendor/{id}/../x"), vec![a], Code::PathRefused, "a dot segment"),
        ("GET", format!("/vendor/{id}/%2e%2e/x"), vec![a], Code::PathRefused, "an encoded dot segment"),
        ("GET", format!("/vendor/{id}/x?key={token}"), vec![a], Code::PathRefused, "the token in the query"),
        ("PUT", good.clone(), vec![a], Code::RequestDenied, "a method that is not allowed"),
        ("GET", format!("/vendor/{id}/admin/x"), vec![a], Code::RequestDenied, "a path that is denied"),
        (
            "POST",
            format!("/vendor/{id}/ok"),
            vec![a, ("x-http-method-override", "DELETE")],
            Code::RequestDenied,
            "a method behind a method",
        ),
        (
            "POST",
            format!("/vendor/{id}/ok"),
            vec![a, ("X_HTTP-Method_Override", "DELETE")],
            Code::RequestDenied,
            "a method behind a method, in another spelling",
        ),
        ("GET", format!("/vendor/{id}//admin;a=b/5"), vec![a], Code::RequestDenied, "a denied path, untidy"),
        ("get", good.clone(), vec![a], Code::RequestDenied, "an allowed method in another case"),
        (
            "GET",
            format!("/vendor/{id}/x?key={}", token.replace('.', "%2e")),
            vec![a],
            Code::PathRefused,
            "the token, escaped",
        ),
        ("GET", good.clone(), vec![("authorization", &pair)], Code::TokenAmbiguous, "two tokens in one pair"),
        ("GET", "/vendor/x".to_owned(), vec![a], Code::SecretMissing, "no secret"),
        (
            "GET",
            "/vendor/x".to_owned(),
            vec![a, ("relay-secret", "nonsense")],
            Code::SecretMissing,
            "no UUID",
        ),
        (
            "GET",
            "/vendor/x".to_owned(),
            vec![a, ("relay-secret", &id), ("relay-secret", &id)],
            Code::SecretAmbiguous,
            "the secret twice",
        ),
        (
            "GET",
            format!("/vendor/{other}/x"),
            vec![("authorization", &pinned)],
            Code::SecretAmbiguous,
            "another secret than the token's",
        ),
        ("GET", format!("/vendor/{other}/x"), vec![a], Code::SecretNotFound, "an unknown UUID"),
        ("GET", good.clone(), vec![("authorization", &foreign)], Code::SecretNotFound, "another's UUID"),
        ("GET", good.clone(), vec![a, ("x-long", &long)], Code::HeadTooLarge, "a head over 32 KiB"),
        ("GET", good.clone(), many, Code::HeadTooLarge, "over 100 fields"),
        ("TRACE", good.clone(), vec![a], Code::RequestMalformed, "TRACE"),
    ];
    for (method, path, headers, code, mistake) in rows {
        let answer = rig.client().request(method, &path, &headers, b"");
        assert_eq!(answer.code(), code.as_str(), "{mistake}: {}", answer.text());
        refused(&answer, code);
    }
    assert!(rig.vendor.requests().is_empty(), "no refused request reaches the vendor");
    assert_eq!(rig.get(&good, &token).status, 200, "and the good one does");
}

#[test]
fn an_unknown_secret_and_another_customers_get_the_same_answer() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let unknown = SecretId::random().to_string();
    let token = rig.token("globex");
    let strip = |answer: Answer| {
        let id = answer.header("relay-request-id").unwrap().to_owned();
        let headers: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| name != "date" && name != "relay-request-id")
            .cloned()
            .collect();
        (answer.status, headers, answer.text().replace(&id, "ID"))
    };
    for _ in 0..2 {
        let foreign = strip(rig.get(&format!("/vendor/{id}/x"), &token));
        let missing = strip(rig.get(&format!("/vendor/{unknown}/x"), &token));
        assert_eq!(foreign.0, 404);
        assert_eq!(foreign, missing);
    }
}

#[test]
fn a_request_that_could_be_framed_in_two_ways_is_refused_and_its_connection_closed() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let auth = format!("authorization: Bearer {}\r\n", rig.token("acme"));
    let rows = [
        ("", "no Host"),
        ("host: a\r\nhost: b\r\n", "two Hosts"),
        ("host: a b\r\n", "a Host that is none"),
        ("host: a/x?\r\n", "a Host that would bend a rewritten link"),
        ("host: a\r\ntransfer-encoding: gzip, chunked\r\n", "a coding beside chunked"),
        ("host: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n", "two lengths"),
        ("host: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "chunked twice"),
    ];
    for (fields, mistake) in rows {
        let mut client = rig.client();
        client.send(&format!("POST /vendor/{id}/x HTTP/1.1\r\n{auth}{fields}\r\n0\r\n\r\n"));
        let answer = client.answer("POST");
        assert_eq!(answer.status, 400, "{mistake}: {}", answer.text());
        assert!(client.is_closed(), "{mistake}");
    }
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn a_target_that_names_another_host_is_refused() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let auth = format!("Bearer {}", rig.token("acme"));
    let path = format!("http://elsewhere.test/vendor/{id}/x");
    let answer = rig.client().request("GET", &path, &[("authorization", &auth)], b"");
    refused(&answer, Code::PathRefused);
    let path = format!("http://RELAY.test:80/vendor/{id}/x");
    let answer = rig.client().request("GET", &path, &[("authorization", &auth)], b"");
    assert_eq!(answer.status, 200, "the absolute form of the same host is fine");
}

#[test]
fn a_disabled_an_expired_and_a_removed_secret() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let token = rig.token("acme");
    let path = format!("/vendor/{id}/x");
    assert_eq!(rig.get(&path, &token).status, 200);
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/disable"), None).status, 200);
    refused(&until(&rig, &path, &token, 410), Code::SecretDisabled);
    refused(&rig.get(&path, &rig.token("globex")), Code::SecretNotFound);
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/enable"), None).status, 200);
    until(&rig, &path, &token, 200);
    assert_eq!(rig.admin("DELETE", &format!("/v1/secrets/{id}"), None).status, 204);
    refused(&until(&rig, &path, &token, 404), Code::SecretNotFound);

    let soon = relay::clock::rfc3339(relay::clock::unix_seconds() + 2);
    let body = serde_json::json!({ "customer": "acme", "integration": "vendor",
        "fields": { "token": rig.canary.text() }, "expires_at": soon });
    let answer = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
    let path = format!("/vendor/{}/x", answer.json()["id"].as_str().unwrap());
    assert_eq!(rig.get(&path, &token).status, 200);
    refused(&until(&rig, &path, &token, 410), Code::SecretExpired);
}

/// Revocation takes effect within a second; expiry when its second has come.
fn until(rig: &Rig, path: &str, token: &str, status: u16) -> Answer {
    for _ in 0..300 {
        let answer = rig.get(path, token);
        if answer.status == status {
            return answer;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("never {status}");
}

#[test]
fn a_secret_of_another_integration_is_not_found() {
    let more = "[integrations.other]\nupstream = \"https://localhost:{PORT}/other\"\nprivate_cidrs = [\"127.0.0.0/8\"]\n\
                inject = [{ header = \"x-key\", value = \"{token}\" }]\n";
    let rig = Rig::with(Settings { more: more.to_owned(), ..Settings::default() }, |_, out| {
        vendor::answer(out, 200, &[], b"ok");
    });
    let id = rig.secret("acme");
    refused(&rig.get(&format!("/other/{id}/x"), &rig.token("acme")), Code::SecretNotFound);
}

#[test]
fn tokens_are_refused_for_what_is_wrong_with_them() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let now = relay::clock::unix_seconds();
    let claims = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut claims = serde_json::json!({ "iss": crate::rig::ISSUER, "aud": crate::rig::AUDIENCE,
            "exp": now + 600, "customer_id": "acme" });
        change(claims.as_object_mut().unwrap());
        claims
    };
    let set = |name: &'static str, value: serde_json::Value| {
        claims(&move |claims| {
            claims.insert(name.to_owned(), value.clone());
        })
    };
    let unset = |name: &'static str| {
        claims(&move |claims| {
            claims.remove(name);
        })
    };
    let rows = [
        (unset("exp"), Code::TokenInvalid, "no exp"),
        (set("exp", "never".into()), Code::TokenInvalid, "exp as text"),
        (set("exp", (now - 31).into()), Code::TokenExpired, "expired beyond the leeway"),
        (set("exp", (now + 90_000).into()), Code::TokenInvalid, "lives longer than a day"),
        (set("nbf", (now + 60).into()), Code::TokenNotYetValid, "not valid yet"),
        (
            claims(&|claims| {
                for (claim, at) in [("iat", 0), ("nbf", 0), ("exp", 600)] {
                    claims.insert(claim.to_owned(), (now + 157_680_000 + at).into());
                }
            }),
            Code::TokenNotYetValid,
            "of an issuer whose clock is years ahead",
        ),
        (set("nbf", "soon".into()), Code::TokenInvalid, "nbf as text"),
        (set("iss", "https://else.example".into()), Code::TokenIssuer, "another issuer"),
        (unset("iss"), Code::TokenIssuer, "no issuer"),
        (set("aud", "else".into()), Code::TokenAudience, "another audience"),
        (unset("aud"), Code::TokenAudience, "no audience"),
        (unset("customer_id"), Code::TokenCustomer, "no customer"),
        (set("customer_id", 7.into()), Code::TokenCustomer, "a customer that is no text"),
        (set("customer_id", "a\u{7}b".into()), Code::TokenCustomer, "a customer with a control byte"),
        (set("secret", "nonsense".into()), Code::TokenInvalid, "a secret claim that is no UUID"),
    ];
    for (claims, code, mistake) in rows {
        let answer = rig.get(&format!("/vendor/{id}/x"), &signed(&rig, &claims));
        assert_eq!(answer.code(), code.as_str(), "{mistake}: {}", answer.text());
    }
    for (claims, why) in [
        (set("exp", (now - 20).into()), "expired within the leeway"),
        (set("nbf", (now + 20).into()), "not yet valid, within the leeway"),
        (set("aud", serde_json::json!(["else", "relay"])), "one of several audiences"),
        (set("scope", "read write".into()), "a scope that is not about relay limits nothing"),
        (set("scope", "relay:use".into()), "the whole scope"),
        (set("scope", "relay:use:vendor".into()), "the scope of this integration"),
    ] {
        assert_eq!(rig.get(&format!("/vendor/{id}/x"), &signed(&rig, &claims)).status, 200, "{why}");
    }
    let good = rig.token("acme");
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let b64 = |text: &str| {
        use base64::Engine;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    };
    let none = b64(r#"{"alg":"none"}"#);
    let crit = b64(r#"{"alg":"ES256","crit":["b64"],"b64":true}"#);
    let hs = b64(r#"{"alg":"HS256"}"#);
    let twice = b64(&format!(
        r#"{{"iss":"{}","aud":"relay","exp":{},"customer_id":"acme","customer_id":"globex"}}"#,
        crate::rig::ISSUER,
        now + 60
    ));
    let mut flipped = signature.to_owned();
    flipped.replace_range(5..6, if &signature[5..6] == "A" { "B" } else { "A" });
    for (token, mistake) in [
        (format!("{header}.{payload}.{flipped}"), "another signature"),
        (format!("{none}.{payload}.{signature}"), "alg none"),
        (format!("{hs}.{payload}.{signature}"), "an algorithm that is not configured"),
        (format!("{crit}.{payload}.{signature}"), "a critical extension"),
        (format!("{header}.{twice}.{signature}"), "a claim that stands twice"),
    ] {
        refused(&rig.get(&format!("/vendor/{id}/x"), &token), Code::TokenInvalid);
        assert!(!mistake.is_empty());
    }
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &good).status, 200);
}

pub fn signed(rig: &Rig, claims: &serde_json::Value) -> String {
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = Some(rig.issuer.kid.clone());
    let key = jsonwebtoken::EncodingKey::from_ec_pem(rig.issuer.key.expose()).unwrap();
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

#[test]
fn hs256_works_alone_and_with_its_own_key_only() {
    let key = "0123456789abcdef0123456789abcdef";
    let callers =
        callers().replace("jwks = \"file:jwks.json\"", "key = \"file:hs.key\"").replace("ES256", "HS256");
    // The key file must stand before relay starts: a folder of its own.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hs.key");
    crate::rig::write_private(&path, key);
    let callers = callers.replace("file:hs.key", &format!("file:{}", path.display()));
    let rig =
        Rig::with(Settings { callers, ..Settings::default() }, |_, out| vendor::answer(out, 200, &[], b"ok"));
    let id = rig.secret("acme");
    let claims = serde_json::json!({ "iss": crate::rig::ISSUER, "aud": "relay",
        "exp": relay::clock::unix_seconds() + 60, "customer_id": "acme" });
    let mint = |secret: &str| {
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_secret(secret.as_bytes()))
            .unwrap()
    };
    assert_eq!(rig.get(&format!("/vendor/{id}/x"), &mint(key)).status, 200);
    refused(
        &rig.get(&format!("/vendor/{id}/x"), &mint("another key of thirty-two bytes!")),
        Code::TokenInvalid,
    );
    refused(&rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")), Code::TokenInvalid);
}

#[test]
fn one_customer_cannot_take_everything() {
    let settings = Settings {
        server: "[server.limits]\nin_flight_per_customer = 1\n".to_owned(),
        integration: "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\nrate = 3\n"
            .to_owned(),
        ..Settings::default()
    };
    let rig = Rig::with(settings, |request, out| {
        if request.target().ends_with("/slow") {
            std::thread::sleep(std::time::Duration::from_millis(400));
        }
        vendor::answer(out, 200, &[], b"ok");
    });
    let (acme, globex) = (rig.secret("acme"), rig.secret("globex"));
    let token = rig.token("acme");
    let mut slow = rig.client();
    slow.send(&format!(
        "GET /vendor/{acme}/slow HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
    ));
    rig.audit_until(|records| records.iter().any(|r| r["kind"] == "intent"));
    refused(&rig.get(&format!("/vendor/{acme}/x"), &token), Code::TooBusy);
    assert_eq!(
        rig.get(&format!("/vendor/{globex}/x"), &rig.token("globex")).status,
        200,
        "another is not touched"
    );
    assert_eq!(slow.answer("GET").status, 200);
    let codes: Vec<String> =
        (0..6).map(|_| rig.get(&format!("/vendor/{acme}/x"), &token).code().to_owned()).collect();
    assert!(codes.iter().any(|code| code == "rate_limited"), "{codes:?}");
    assert_eq!(rig.get(&format!("/vendor/{globex}/x"), &rig.token("globex")).status, 200);
}

#[test]
fn vendors_that_fail_are_told_apart() {
    let rows: [(&str, fn(&mut vendor::Out<'_>), Code); 5] = [
        ("garbage", |out| raw(out, b"SSH-2.0-OpenSSH\r\n\r\n"), Code::VendorBroken),
        (
            "a close",
            |out| {
                let _ = out.sock.shutdown(std::net::Shutdown::Both);
            },
            Code::VendorBroken,
        ),
        (
            "an unasked switch",
            |out| raw(out, b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            Code::VendorBroken,
        ),
        (
            "gzip unasked",
            |out| vendor::answer(out, 200, &[("content-encoding", "gzip")], b"xxxx"),
            Code::ResponseRefused,
        ),
        ("silence", |_| std::thread::sleep(std::time::Duration::from_millis(800)), Code::VendorTimeout),
    ];
    for (mistake, script, code) in rows {
        let settings = Settings {
            integration: "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n\
                          timeout = { first_byte = \"300ms\" }\n"
                .to_owned(),
            ..Settings::default()
        };
        let rig = Rig::with(settings, move |_, out| script(out));
        let id = rig.secret("acme");
        let answer = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
        assert_eq!(answer.code(), code.as_str(), "{mistake}: {}", answer.text());
        let records = rig.audit_until(|records| records.iter().any(|r| r["kind"] == "outcome"));
        let outcome = records.iter().find(|r| r["kind"] == "outcome").unwrap();
        assert_eq!(
            (outcome["code"].as_str(), outcome["status"].as_u64()),
            (Some(code.as_str()), Some(code.status().as_u16().into())),
            "{mistake}"
        );
    }
}

#[test]
fn a_vendor_that_cannot_be_reached_costs_no_decryption_and_says_why() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rows = [
        (format!("https://{closed}"), true, Code::VendorUnreachable, "nobody listens"),
        ("https://10.255.255.1".to_owned(), true, Code::EgressDenied, "a private address that is not opened"),
        ("https://169.254.169.254".to_owned(), true, Code::EgressDenied, "the metadata service"),
    ];
    for (upstream, trust_vendor, code, mistake) in rows {
        let rig =
            Rig::with(Settings { upstream: Some(upstream), trust_vendor, ..Settings::default() }, |_, _| {});
        let id = rig.secret("acme");
        let answer = rig.get(&format!("/vendor/{id}/x"), &rig.token("acme"));
        assert_eq!(answer.code(), code.as_str(), "{mistake}: {}", answer.text());
    }
    let rig = Rig::with(Settings { trust_vendor: false, ..Settings::default() }, |_, out| {
        vendor::answer(out, 200, &[], b"ok");
    });
    let id = rig.secret("acme");
    refused(&rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")), Code::VendorTls);
}

/// A sink whose disk can be full.
struct Disk {
    inner: MemorySink,
    full: Arc<AtomicBool>,
}

impl Sink for Disk {
    fn append(&mut self, bytes: &[u8], durability: Durability) -> std::io::Result<()> {
        if self.full.load(SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.inner.append(bytes, durability)
    }
}

#[test]
fn an_audit_that_cannot_be_written_stops_everything_and_heals() {
    let full = Arc::new(AtomicBool::new(false));
    let shared = full.clone();
    let options = move || Options {
        sink: Some(Box::new(Disk { inner: MemorySink::default(), full: shared.clone() })),
        ..Options::default()
    };
    let rig = Rig::with(Settings { options: Box::new(options), ..Settings::default() }, |_, out| {
        vendor::answer(out, 200, &[], b"ok");
    });
    let id = rig.secret("acme");
    let (path, token) = (format!("/vendor/{id}/x"), rig.token("acme"));
    assert_eq!(rig.get(&path, &token).status, 200);
    full.store(true, SeqCst);
    refused(&rig.get(&path, &token), Code::AuditUnavailable);
    let add = rig.admin("POST", &format!("/v1/secrets/{id}/disable"), None);
    assert_eq!(add.code(), "audit_unavailable", "no change without its record");
    assert_eq!(rig.vendor.requests().len(), 1, "nothing was sent");
    full.store(false, SeqCst);
    until(&rig, &path, &token, 200);
}

/// A KMS that can be told to fail.
struct Moody {
    inner: Local,
    mood: Arc<std::sync::Mutex<Option<KmsError>>>,
}

impl Kms for Moody {
    fn provider(&self) -> &'static str {
        "moody"
    }

    fn key(&self) -> String {
        "moody".to_owned()
    }

    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> Call<'a, Vec<u8>> {
        self.inner.wrap(context, key)
    }

    fn new_version(&self) -> Call<'_, ()> {
        self.inner.new_version()
    }

    fn generate<'a>(&'a self, context: KeyContext<'a>) -> Call<'a, (Secret, Vec<u8>)> {
        match self.mood.lock().unwrap().clone() {
            Some(error) => Box::pin(async move { Err(error) }),
            None => self.inner.generate(context),
        }
    }

    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> Call<'a, Secret> {
        match self.mood.lock().unwrap().clone() {
            Some(error) => Box::pin(async move { Err(error) }),
            None => self.inner.unwrap(context, wrapped),
        }
    }
}

#[test]
fn an_outage_of_the_kms_and_its_denial_are_different() {
    let mood: Arc<std::sync::Mutex<Option<KmsError>>> = Arc::default();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    Local::create(&key).map(|_| ()).unwrap();
    let shared = mood.clone();
    let options = move || Options {
        kms: Some(Arc::new(Moody { inner: Local::load(&key).ok().unwrap(), mood: shared.clone() })),
        ..Options::default()
    };
    let mut rig = Rig::with(Settings { options: Box::new(options), ..Settings::default() }, |_, out| {
        vendor::answer(out, 200, &[], b"ok");
    });
    let id = rig.secret("acme");
    let token = rig.token("acme");
    rig.stop();
    rig.start();
    // The data key is cold after the restart.
    for (error, code) in [
        (KmsError::Unavailable("no route".to_owned()), Code::KeysUnavailable),
        (KmsError::Denied("the key is disabled".to_owned()), Code::KeysDenied),
    ] {
        *mood.lock().unwrap() = Some(error);
        let path = format!("/vendor/{id}/x");
        until(&rig, &path, &token, code.status().as_u16());
        refused(&rig.get(&path, &token), code);
    }
    *mood.lock().unwrap() = None;
    until(&rig, &format!("/vendor/{id}/x"), &token, 200);
}

/// A store that can be told to fail.
struct Gone {
    inner: Memory,
    gone: Arc<AtomicBool>,
}

impl Gone {
    fn check(&self) -> Result<(), StoreError> {
        if self.gone.load(SeqCst) {
            return Err(StoreError::Unavailable("told to".to_owned()));
        }
        Ok(())
    }
}

macro_rules! unless_gone {
    ($self:ident, $call:expr) => {
        match $self.check() {
            Ok(()) => $call,
            Err(error) => Box::pin(async move { Err(error) }),
        }
    };
}

impl Store for Gone {
    fn secret<'a>(&'a self, c: &'a Customer, id: SecretId) -> relay::store::Call<'a, Option<SecretRow>> {
        unless_gone!(self, self.inner.secret(c, id))
    }
    fn secrets<'a>(
        &'a self,
        c: &'a Customer,
        after: Option<SecretId>,
        n: usize,
    ) -> relay::store::Call<'a, Vec<SecretRow>> {
        unless_gone!(self, self.inner.secrets(c, after, n))
    }
    fn owner(&self, id: SecretId) -> relay::store::Call<'_, Option<Customer>> {
        unless_gone!(self, self.inner.owner(id))
    }
    fn put_secret(&self, row: SecretRow, expected: Expected) -> relay::store::Call<'_, ()> {
        unless_gone!(self, self.inner.put_secret(row, expected))
    }
    fn remove_secret<'a>(&'a self, c: &'a Customer, id: SecretId) -> relay::store::Call<'a, bool> {
        unless_gone!(self, self.inner.remove_secret(c, id))
    }
    fn data_key<'a>(&'a self, c: &'a Customer, id: DataKeyId) -> relay::store::Call<'a, Option<Bytes>> {
        unless_gone!(self, self.inner.data_key(c, id))
    }
    fn active_data_key<'a>(&'a self, c: &'a Customer) -> relay::store::Call<'a, Option<(DataKeyId, Bytes)>> {
        unless_gone!(self, self.inner.active_data_key(c))
    }
    fn add_data_key<'a>(&'a self, c: &'a Customer, id: DataKeyId, w: Bytes) -> relay::store::Call<'a, ()> {
        unless_gone!(self, self.inner.add_data_key(c, id, w))
    }
    fn meta<'a>(&'a self, name: &'a str) -> relay::store::Call<'a, Option<Bytes>> {
        unless_gone!(self, self.inner.meta(name))
    }
    fn swap_meta<'a>(
        &'a self,
        name: &'a str,
        expected: Option<Bytes>,
        value: Bytes,
    ) -> relay::store::Call<'a, ()> {
        unless_gone!(self, self.inner.swap_meta(name, expected, value))
    }
    fn lease<'a>(
        &'a self,
        name: &'a str,
        holder: uuid::Uuid,
        ttl: std::time::Duration,
    ) -> relay::store::Call<'a, bool> {
        unless_gone!(self, self.inner.lease(name, holder, ttl))
    }
    fn release<'a>(&'a self, name: &'a str, holder: uuid::Uuid) -> relay::store::Call<'a, ()> {
        unless_gone!(self, self.inner.release(name, holder))
    }
    fn put_meta<'a>(&'a self, name: &'a str, value: Bytes) -> relay::store::Call<'a, ()> {
        unless_gone!(self, self.inner.put_meta(name, value))
    }
    fn upkeep(&self) -> &dyn Upkeep {
        self.inner.upkeep()
    }
    fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.changes()
    }
}

#[test]
fn a_store_that_is_gone_serves_what_is_warm_and_refuses_the_rest() {
    let gone = Arc::new(AtomicBool::new(false));
    let shared = gone.clone();
    let options = move || Options {
        store: Some(Arc::new(Gone { inner: Memory::new(), gone: shared.clone() })),
        ..Options::default()
    };
    let rig = Rig::with(Settings { options: Box::new(options), ..Settings::default() }, |_, out| {
        vendor::answer(out, 200, &[], b"ok");
    });
    let (warm, cold) = (rig.secret("acme"), rig.secret("acme"));
    let token = rig.token("acme");
    assert_eq!(rig.get(&format!("/vendor/{warm}/x"), &token).status, 200);
    gone.store(true, SeqCst);
    assert_eq!(rig.get(&format!("/vendor/{warm}/x"), &token).status, 200);
    refused(&rig.get(&format!("/vendor/{cold}/x"), &token), Code::StoreUnavailable);
    let ready = rig.admin("GET", "/readyz", None);
    // What is at hand serves, and all relays of a store would go at once.
    assert_eq!((ready.status, &ready.json()["degraded"]), (200, &true.into()));
    gone.store(false, SeqCst);
    // A reading without an answer speaks for half a second more.
    until(&rig, &format!("/vendor/{cold}/x"), &token, 200);
}

#[test]
fn a_relay_that_shuts_down_finishes_what_it_has_and_serves_what_comes_as_the_last_of_its_connection() {
    let mut rig = Rig::answering(|request, out| {
        if request.target().ends_with("/slow") {
            std::thread::sleep(std::time::Duration::from_millis(600));
        }
        vendor::answer(out, 200, &[], b"done");
    });
    let id = rig.secret("acme");
    let token = rig.token("acme");
    let head = format!("HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n");
    let (mut slow, mut late) = (rig.client(), rig.client());
    late.send(&format!("GET /vendor/{id}/x {head}"));
    assert_eq!(late.answer("GET").status, 200);
    slow.send(&format!("GET /vendor/{id}/slow {head}"));
    rig.audit_until(|records| records.iter().filter(|r| r["kind"] == "intent").count() == 2);
    let (sender, answers) = std::sync::mpsc::channel();
    let path = format!("GET /vendor/{id}/x {head}");
    let other = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(150));
        late.send(&path);
        sender.send(late.answer("GET")).unwrap();
        let answer = slow.answer("GET");
        assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    });
    rig.stop();
    other.join().unwrap();
    let late = answers.recv().unwrap();
    assert_eq!((late.status, late.header("connection")), (200, Some("close")), "{}", late.text());
}

#[test]
fn the_callers_token_never_reaches_the_vendor_whatever_field_it_stands_in() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let token = rig.token("acme");
    let bearer = format!("Bearer {token}");
    let pair = {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("x:{token}")))
    };
    let headers = [
        ("authorization", bearer.as_str()),
        ("api-key", &token),
        ("x-debug", &format!("who={token};")),
        ("x-original-authorization", &pair),
        ("content_length", "5"),
        ("x_forwarded-for", "10.0.0.1"),
        ("x-kept", "kept"),
    ];
    assert_eq!(rig.client().request("GET", &format!("/vendor/{id}/x"), &headers, b"").status, 200);
    let got = rig.vendor.last();
    assert!(!got.head.contains(&token), "{}", got.head);
    assert_eq!((got.header("api-key"), got.header("x-debug")), (None, None));
    assert!(!got.head.contains("content_length") && !got.head.contains("x_forwarded"), "{}", got.head);
    assert_eq!((got.header("x-original-authorization"), got.header("x-kept")), (None, Some("kept")));
}
