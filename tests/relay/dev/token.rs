//! Minting and inspecting callers' tokens.

use std::time::Duration;

use relay::cli::token::{self, LocalIssuer, Order, Signer, TokenError};
use relay::model::{Customer, SecretId};
use serde_json::Value;

#[test]
fn a_minted_token_verifies_says_what_was_ordered_and_is_shown_without_its_signature() {
    let issuer = LocalIssuer::generate("k1").unwrap();
    let customer = Customer::parse("acme").unwrap();
    let secret = SecretId::random();
    let signer = Signer {
        key: &issuer.key,
        kid: Some("k1"),
        issuer: "https://auth.saas.example",
        audience: "relay",
        customer_claim: "customer_id",
        secret_claim: "secret",
    };
    let ttl = Duration::from_secs(3600);
    let order = Order { customer: &customer, secret: Some(secret), scope: Some("relay:use:demo"), ttl };
    let now = relay::clock::unix_seconds();
    let minted = token::mint(&signer, &order, now).unwrap();

    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&issuer.jwks).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(keys.find("k1").unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.set_audience(&["relay"]);
    rules.set_issuer(&["https://auth.saas.example"]);
    let verified = jsonwebtoken::decode::<Value>(&minted, &key, &rules).unwrap().claims;
    assert_eq!((&verified["customer_id"], &verified["secret"]), (&"acme".into(), &secret.to_string().into()));
    assert_eq!(verified["exp"].as_u64().unwrap() - verified["iat"].as_u64().unwrap(), 3600);
    assert_eq!((&verified["nbf"], &verified["scope"]), (&now.into(), &"relay:use:demo".into()));
    assert!(verified["jti"].as_str().is_some());

    let signature = minted.rsplit('.').next().unwrap();
    let shown = token::inspect(&format!("Bearer {minted}\n"), now + 60).unwrap();
    assert!(
        shown.to_text().contains("not verified") && shown.to_text().contains("59m left"),
        "{}",
        shown.to_text()
    );
    assert_eq!(
        (&shown.to_json()["verified"], &shown.to_json()["expires_in_seconds"]),
        (&false.into(), &3540.into())
    );
    for output in [shown.to_text(), shown.to_json().to_string()] {
        assert!(!output.contains(signature) && output.contains("acme"));
    }
    let late = token::inspect(&minted, now + 3660).unwrap();
    assert!(late.to_text().contains("expired 1m ago") && late.to_json()["expired"] == true);
}

#[test]
fn what_cannot_be_minted_or_shown_is_refused() {
    let issuer = LocalIssuer::generate("k1").unwrap();
    let customer = Customer::parse("acme").unwrap();
    let mint = |key, customer_claim, secret_claim, ttl| {
        let signer = Signer { key, kid: None, issuer: "i", audience: "relay", customer_claim, secret_claim };
        let secret = Some(SecretId::random());
        let order = Order { customer: &customer, secret, scope: None, ttl: Duration::from_secs(ttl) };
        token::mint(&signer, &order, 1_000)
    };
    let no_key = relay::secret::Secret::new(b"not a key".to_vec());
    assert!(mint(&issuer.key, "sub", "secret", 1).is_ok());
    assert_eq!(mint(&no_key, "sub", "secret", 1), Err(TokenError::Key));
    assert_eq!(mint(&issuer.key, "sub", "secret", 0), Err(TokenError::Lifetime));
    for (customer_claim, secret_claim) in
        [("aud", "secret"), ("scope", "secret"), ("c", "c"), ("c", "exp"), ("", "s")]
    {
        assert!(matches!(mint(&issuer.key, customer_claim, secret_claim, 1), Err(TokenError::Claim(_))));
    }
    let long = "a".repeat(9_000);
    for text in ["", "abc", "a.b", "a.b.c.d", "!.!.!", "e30.bm8.x", "e30.W10.x", &long] {
        assert!(matches!(token::inspect(text, 0), Err(TokenError::NoToken(_))), "{text}");
    }
    // {"a":"ESC[2J U+202E"}: a token's text may not steer the terminal of who looks at it.
    let steering = token::inspect("e30.eyJhIjoiXHUwMDFiWzJK4oCuIn0.x", 0).unwrap().to_text();
    assert!(!steering.contains('\u{1b}') && !steering.contains('\u{202e}'), "{steering:?}");
}
