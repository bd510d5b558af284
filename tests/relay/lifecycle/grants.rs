//! The other ways to a token: client credentials, assertions, a login; and answers that are none.

use relay::refusal::Code;
use serde_json::{Value, json};

use super::{INJECT, ask, basic, claims, scripted, settings};
use crate::rig::oauth::form;
use crate::rig::vendor::{Received, Vendor};
use crate::rig::{Rig, Settings};

/// Answers requests for tokens by `answer`, and everything else with 200 and what it was sent.
fn vendor(answer: impl Fn(&Received) -> (u16, Value) + Send + Sync + 'static) -> Vendor {
    scripted(move |request| {
        if request.line().starts_with("GET ") {
            return (200, "ok".to_owned());
        }
        let (status, body) = answer(request);
        (status, body.to_string())
    })
}

fn fields(declared: &str) -> String {
    format!("\n[integrations.vendor.fields]\n{declared}\n")
}

fn asked(rig: &Rig) -> Vec<Received> {
    rig.vendor.requests().into_iter().filter(|r| r.line().starts_with("POST ")).collect()
}

fn sent(rig: &Rig) -> String {
    rig.vendor.last().header("authorization").unwrap().to_owned()
}

#[test]
fn a_client_says_who_it_is_in_each_of_three_ways() {
    for (auth, mistake) in [("post", "in the body"), ("basic", "as Basic"), ("json", "in a JSON body")] {
        let vendor = vendor(|_| {
            (200, json!({ "access_token": "at-0123456789", "token_type": "bearer", "expires_in": 3600.0 }))
        });
        let words = format!(
            "grant = \"client_credentials\", auth = \"{auth}\", audience = \"https://api.example\", parameters = {{ tenant = \"t 1\" }}"
        );
        let rig = Rig::before(settings(&vendor, &words), vendor);
        let secret = format!("{}: &é", rig.canary.text()).replace('é', "e");
        let id = rig.secret_with("acme", "vendor", &[("client_id", "id:1"), ("client_secret", &secret)]);
        let answer = ask(&rig, &id);
        assert_eq!(answer.status, 200, "{mistake}: {}", answer.text());
        assert_eq!(sent(&rig), "Bearer at-0123456789", "{mistake}");
        let all = asked(&rig);
        assert_eq!(all.len(), 1, "{mistake}");
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        let mut wanted = vec![pair("grant_type", "client_credentials")];
        if auth == "basic" {
            let coded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            assert_eq!(basic(&all[0]), format!("id%3A1:{coded}"), "{mistake}");
        } else {
            wanted.extend([pair("client_id", "id:1"), pair("client_secret", &secret)]);
        }
        wanted.extend([pair("audience", "https://api.example"), pair("tenant", "t 1")]);
        let got = if auth == "json" {
            let body: Value = serde_json::from_slice(&all[0].body).unwrap();
            let body = body.as_object().unwrap();
            body.iter().map(|(name, value)| pair(name, value.as_str().unwrap())).collect()
        } else {
            form(&all[0].body)
        };
        let sorted = |mut all: Vec<(String, String)>| {
            all.sort();
            all
        };
        assert_eq!(sorted(got), sorted(wanted), "{mistake}");
    }
}

#[test]
fn a_service_accounts_assertion_is_signed_with_its_own_key() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256);
    let Ok(key) = key else { return ecdsa_instead() };
    assertion_by(&key.serialize_pem(), "RS256");
}

fn ecdsa_instead() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    assertion_by(&key.serialize_pem(), "ES256");
}

#[test]
fn an_assertion_may_be_signed_by_ecdsa() {
    ecdsa_instead();
}

fn assertion_by(pem: &str, algorithm: &str) {
    let vendor = vendor(|_| {
        (200, json!({ "access_token": "ya29.0123456789", "expires_in": 3599, "token_type": "Bearer" }))
    });
    let port = vendor.port;
    let words = format!(
        "grant = \"jwt_bearer\", assertion = {{ algorithm = \"{algorithm}\", issuer = \"{{client_email}}\", scope = \"a b\", key = \"{{private_key}}\", key_id = \"{{key_id}}\" }}"
    );
    let mut settings = settings(&vendor, &words);
    settings.integration +=
        &fields("client_email = { secret = false }\nkey_id = { secret = false }\nprivate_key = {}");
    let rig = Rig::before(settings, vendor);
    let given = [("client_email", "robot@project.example"), ("key_id", "k1"), ("private_key", pem)];
    let id = rig.secret_with("acme", "vendor", &given);
    assert_eq!(ask(&rig, &id).status, 200);
    assert_eq!(sent(&rig), "Bearer ya29.0123456789");
    let body = form(&asked(&rig)[0].body);
    assert_eq!(body[0].1, "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(body[1].0, "assertion");
    let (head, claims) = claims(&body[1].1);
    assert_eq!((&head["alg"], &head["kid"]), (&json!(algorithm), &json!("k1")));
    assert_eq!(claims["iss"], "robot@project.example");
    assert_eq!(claims["scope"], "a b");
    assert_eq!(claims["aud"], format!("https://localhost:{port}/oauth/token"));
    let (issued, expires) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
    assert_eq!(expires - issued, 300);
    let shown = String::from_utf8_lossy(&rig.shown.lock().unwrap()).into_owned();
    let line = pem.lines().nth(1).unwrap();
    assert!(!shown.contains(line), "the key was shown");
}

#[test]
fn an_app_is_installed_and_its_token_is_read_where_it_stands() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let vendor =
        vendor(|_| (201, json!({ "token": "ghs_0123456789", "expires_at": "2099-01-01T00:00:00Z" })));
    let place = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(place.path(), key.serialize_pem()).unwrap();
    let words = format!(
        "{INJECT}\noauth2 = {{ grant = \"jwt_bearer\", token = \"https://localhost:{}/app/installations/{{installation_id}}/access_tokens\", \
         assertion = {{ algorithm = \"ES256\", issuer = \"12345\", key = \"file:{}\", send = \"bearer\" }} }}\n{}",
        vendor.port,
        place.path().display(),
        fields("installation_id = { scrub = \"off_danger\" }"),
    );
    let rig = Rig::before(Settings { integration: words, ..Settings::default() }, vendor);
    let id = rig.secret_with("acme", "vendor", &[("installation_id", "a/../7")]);
    assert_eq!(ask(&rig, &id).status, 200);
    assert_eq!(sent(&rig), "Bearer ghs_0123456789");
    let asked = &asked(&rig)[0];
    assert_eq!(asked.target(), "/app/installations/a%2F..%2F7/access_tokens", "a field is one segment");
    assert!(asked.body.is_empty());
    let (_, claims) = claims(asked.header("authorization").unwrap().strip_prefix("Bearer ").unwrap());
    assert_eq!(claims["iss"], "12345");
    assert!(claims.get("aud").is_none());
    let shown = rig.admin("GET", &format!("/v1/secrets/{id}"), None).json();
    // Ten years are the most that is believed.
    assert!(shown["token_expires_at"].as_str().unwrap().starts_with("203"), "{shown}");
}

#[test]
fn a_login_gives_a_token_and_wrong_values_are_said_once() {
    let vendor = vendor(|request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        match body["password"].as_str().unwrap().ends_with("wrong") {
            true => (401, json!({ "message": "bad password" })),
            false => (200, json!({ "data": { "session": "session-0123456789", "ttl": "600" } })),
        }
    });
    let login = "login = { post = \"/auth/login\", json = { user = \"{user}\", password = \"{password}\" }, token = \"/data/session\", expires_in = \"/data/ttl\" }";
    let fields = fields("user = { secret = false }\npassword = {}");
    let settings = Settings { integration: format!("{INJECT}\n{login}\n{fields}"), ..Settings::default() };
    let rig = Rig::before(settings, vendor);
    let id = rig.secret_with("acme", "vendor", &[("user", "bot"), ("password", rig.canary.text())]);
    assert_eq!(ask(&rig, &id).status, 200);
    assert_eq!(sent(&rig), "Bearer session-0123456789");
    assert_eq!(asked(&rig)[0].target(), "/base/auth/login", "below the upstream's own path");
    let wrong = format!("{}-wrong", rig.canary.text());
    let body = json!({ "customer": "acme", "integration": "vendor", "verify": false, "fields": { "user": "bot", "password": wrong } });
    let answer = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let before = asked(&rig).len();
    for _ in 0..3 {
        assert_eq!(ask(&rig, &id).code(), Code::ReconnectRequired.as_str());
    }
    assert_eq!(asked(&rig).len(), before + 1, "an account is not locked by trying");
}

#[test]
fn an_answer_that_is_no_token_is_none() {
    let long = "x".repeat(70_000);
    let rows: [(u16, Value, Code, &str); 12] = [
        (200, json!({}), Code::CredentialUnusable, "nothing"),
        (200, json!({ "access_token": "" }), Code::CredentialUnusable, "an empty token"),
        (
            200,
            json!({ "access_token": "short" }),
            Code::CredentialUnusable,
            "a token that cannot be scrubbed",
        ),
        (200, json!({ "access_token": 123_456_789 }), Code::CredentialUnusable, "a number"),
        (200, json!({ "access_token": "at-012345\r\n6789" }), Code::CredentialUnusable, "a line break in it"),
        (
            200,
            json!({ "access_token": "at-0123456789", "token_type": "mac" }),
            Code::CredentialUnusable,
            "one that wants a proof",
        ),
        (200, json!({ "access_token": long }), Code::VendorBroken, "an answer without an end"),
        (
            200,
            json!({ "ok": false, "error": "invalid_refresh_token" }),
            Code::ReconnectRequired,
            "a refusal with 200",
        ),
        (400, json!({ "error": "invalid_grant" }), Code::ReconnectRequired, "a refusal as specified"),
        (401, json!({ "error": "invalid_client" }), Code::CredentialUnusable, "the operator's own client"),
        (404, json!("not here"), Code::CredentialUnusable, "no endpoint"),
        (500, json!("oops"), Code::VendorBroken, "a fault of the vendor's"),
    ];
    for (status, body, code, mistake) in rows {
        let vendor = vendor(move |_| (status, body.clone()));
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), "operator-secret").unwrap();
        let words = format!(
            "grant = \"refresh_token\", client_id = \"relay\", client_secret = \"file:{}\"",
            secret.path().display()
        );
        let rig = Rig::before(settings(&vendor, &words), vendor);
        let body = json!({ "customer": "acme", "integration": "vendor", "verify": false, "fields": { "refresh_token": rig.canary.text() } });
        let added = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
        assert_eq!(added.status, 201, "{mistake}: {}", added.text());
        let id = added.json()["id"].as_str().unwrap().to_owned();
        let answer = ask(&rig, &id);
        assert_eq!(answer.code(), code.as_str(), "{mistake}: {}", answer.text());
        assert_eq!(ask(&rig, &id).code(), code.as_str(), "{mistake}, again");
        assert_eq!(asked(&rig).len(), 1, "{mistake}: the vendor is not asked again at once");
    }
}

#[test]
fn a_token_endpoint_at_a_private_address_is_not_called() {
    let vendor = vendor(|_| (200, json!({ "access_token": "at-0123456789" })));
    let token = "https://10.1.2.3/oauth/token";
    let integration = format!(
        "{INJECT}\noauth2 = {{ grant = \"refresh_token\", client_id = \"relay\", token = \"{token}\" }}"
    );
    let rig = Rig::before(Settings { integration, ..Settings::default() }, vendor);
    let body = json!({ "customer": "acme", "integration": "vendor", "fields": { "refresh_token": rig.canary.text() } });
    let added = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
    assert_eq!((added.status, added.code()), (403, Code::EgressDenied.as_str()), "{}", added.text());
}

#[test]
fn how_long_a_token_lives_is_read_however_it_is_said() {
    let rows = [
        (json!({}), 7200, "nothing: what the settings say"),
        (json!({ "expires_in": 60 }), 60, "a number"),
        (json!({ "expires_in": "60" }), 60, "a number as text"),
        (json!({ "expires_in": 60.9 }), 60, "a number with a point"),
        (json!({ "expires_in": 0 }), 7200, "no life at all"),
        (json!({ "expires_in": -1 }), 7200, "less than that"),
        (json!({ "expires_in": "soon" }), 7200, "no number"),
        (json!({ "expires_in": u64::MAX }), 315_360_000, "longer than anybody believes"),
        (json!({ "error": null, "token_type": "BEARER" }), 7200, "an error that is none"),
    ];
    for (more, wanted, mistake) in rows {
        let vendor = vendor(move |_| {
            let mut body = json!({ "access_token": "at-0123456789" });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            (200, body)
        });
        let words = "grant = \"refresh_token\", client_id = \"relay\", lifetime = \"2h\"";
        let rig = Rig::before(settings(&vendor, words), vendor);
        let id = rig.secret_with("acme", "vendor", &[("refresh_token", rig.canary.text())]);
        let shown = rig.admin("GET", &format!("/v1/secrets/{id}"), None).json();
        let at = |name: &str| relay::clock::parse_rfc3339(shown[name].as_str().unwrap()).unwrap();
        assert_eq!(at("token_expires_at") - at("token_obtained_at"), wanted, "{mistake}");
    }
}

#[test]
fn no_app_calls_the_endpoint_where_tokens_are_had_and_what_they_are_had_with_is_looked_for_in_answers() {
    let vendor = scripted(|request| {
        if request.target().ends_with("/auth/login") {
            return (200, json!({"token": "session-0123456789abcdef", "expires_in": 3600}).to_string());
        }
        (200, String::from_utf8_lossy(&request.body).into_owned())
    });
    let login = "login = { post = \"/auth/login\", json = { user = \"{user}\", password = \"{password}\" }, token = \"/token\", expires_in = \"/expires_in\" }";
    let integration = format!("{INJECT}\n{login}{}", fields("user = { secret = false }\npassword = {}"));
    let rig = Rig::before(Settings { integration, ..Settings::default() }, vendor);
    let password = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "vendor", &[("user", "jo"), ("password", &password)]);
    let post = |path: &str, body: &[u8]| {
        let auth = format!("Bearer {}", rig.token("acme"));
        rig.client().request("POST", &format!("/vendor/{id}{path}"), &[("authorization", &auth)], body)
    };
    let answer = post("/x", format!("{{\"you\":\"{password}\",\"user\":\"jo\"}}").as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.text().contains(&password) && answer.text().contains("\"jo\""), "{}", answer.text());
    let before = rig.vendor.requests().len();
    for path in ["/auth/login", "/auth//login", "/auth/%6Cogin", "/auth/login/", "/auth/login;x"] {
        assert_eq!(post(path, b"{}").code(), "request_denied", "{path}");
    }
    assert_eq!(rig.vendor.requests().len(), before, "none of them was sent");
}
