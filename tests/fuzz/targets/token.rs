//! A caller's token: what is let in says so by itself, under a configured key, and says it again from memory.
//!
//! Input: `mode header-json \n claims-json`. Mode 0 signs them, mode 1 signs them for another key, any other
//! mode takes the whole input as the field's value. `NOW` in the claims stands for the present second.

use http::{HeaderMap, HeaderValue, Request};
use relay::clock::{Moment, unix_seconds};
use relay::stage::authenticate::{TokenRules, Verdicts, authenticate};
use relay::stage::route::{Entrance, route};
use serde_json::Value;

use super::place::{LEEWAY, ROUTES, TOKEN, at_once, rules, signed};

thread_local! {
    static RULES: TokenRules = rules();
}

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode {
        0 | 1 => {
            let mut parts = rest.splitn(2, |byte| *byte == b'\n');
            let header = parts.next().unwrap_or_default();
            let claims = parts.next().unwrap_or_default();
            let now = unix_seconds();
            let claims = match std::str::from_utf8(claims) {
                Ok(text) => text.replace("NOW", &now.to_string()).into_bytes(),
                Err(_) => claims.to_vec(),
            };
            let mut token = signed(header, &claims);
            if *mode == 1 {
                let last = if token.ends_with('A') { 'Q' } else { 'A' };
                token.pop();
                token.push(last);
            }
            let let_in = asked(&[("authorization", &format!("Bearer {token}"))]);
            assert!(!let_in || *mode == 0, "a token of another key is let in");
            assert!(
                !let_in || deserves(header, &claims, now),
                "let in: {}",
                String::from_utf8_lossy(&claims)
            );
        }
        _ => {
            let text = String::from_utf8_lossy(rest);
            let mut fields = Vec::new();
            for (name, value) in ["authorization", "relay-authorization", "x-api-key", "authorization"]
                .into_iter()
                .zip(text.split('\n'))
            {
                fields.push((name, value));
            }
            TOKEN.with(|(_, valid)| {
                assert!(!asked(&fields) || text.contains(valid.as_str()), "nothing signed, and let in");
            });
        }
    }
}

/// Whether these fields let a request in; the same from memory as the first time.
fn asked(fields: &[(&'static str, &str)]) -> bool {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(*name, value);
        }
    }
    let verdicts = Verdicts::new(4);
    let once = || {
        let head = Request::get("/vendor/x").body(()).unwrap().into_parts().0;
        let matched = route(&ROUTES, &Entrance::default(), &head).unwrap();
        RULES.with(|rules| at_once(authenticate(rules, &verdicts, matched, &headers, Moment::now())).is_ok())
    };
    let first = once();
    assert_eq!(first, once(), "a verdict from memory is another");
    first
}

/// What a careful reader would let in, read by another parser than relay's.
fn deserves(header: &[u8], claims: &[u8], now: u64) -> bool {
    let (Ok(header), Ok(claims)) =
        (serde_json::from_slice::<Value>(header), serde_json::from_slice::<Value>(claims))
    else {
        return false;
    };
    let audience = match &claims["aud"] {
        Value::String(one) => one == "relay",
        Value::Array(many) => many.iter().any(|one| one == "relay"),
        _ => false,
    };
    let customer = claims["customer_id"].as_str().is_some_and(|text| (1..=128).contains(&text.len()));
    let exp = claims["exp"].as_f64().is_some_and(|exp| exp + 1.0 > now.saturating_sub(LEEWAY + 2) as f64);
    let begun =
        claims.get("nbf").is_none_or(|nbf| nbf.as_f64().is_some_and(|nbf| nbf < (now + LEEWAY + 3) as f64));
    header["alg"] == "HS256"
        && header.get("crit").is_none()
        && claims["iss"] == "https://auth.saas.example"
        && audience
        && customer
        && exp
        && begun
}
