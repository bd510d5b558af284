//! Fields: what goes on to the vendor is the app's, unchanged, and nothing that is relay's or hop-by-hop; what
//! comes back holds neither the credential nor a reference round relay.
//!
//! Input: `name: value` a line, read once as a request's fields and once as an answer's. `{token}` in a value
//! stands for the caller's token, `{credential}` for the credential.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use relay::stage::probe;
use relay::stage::scrub::forms::Forms;
use relay::stage::scrub::head::{scrub_head, strip};
use relay::stage::scrub::links::{self, Address};
use url::Url;

use super::place::{BASE, TOKEN, VENDOR, the_route};

const CREDENTIAL: &str = "sk-live-0123456789canary";
const RELAY: &str = "http://relay.test:8480";
const PREFIX: &str = "/vendor";

pub fn run(data: &[u8]) {
    TOKEN.with(|(token, text)| {
        let fields = fields(data, text);
        to_the_vendor(&fields, &probe::headers(&fields, the_route(), token), text);
        from_the_vendor(fields);
    });
}

fn fields(data: &[u8], token: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let replaced = |value: &[u8], what: &str, by: &str| {
            let Ok(text) = std::str::from_utf8(value) else { return value.to_vec() };
            text.replace(what, by).into_bytes()
        };
        let value = replaced(value, "{token}", token);
        let value = replaced(&value, "{credential}", CREDENTIAL);
        let value = replaced(&value, "{coded}", &STANDARD.encode(CREDENTIAL));
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(&value)) {
            fields.append(name, value);
        }
    }
    fields
}

fn folded(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

fn named_by_connection(fields: &HeaderMap) -> Vec<String> {
    let values = fields
        .get_all("connection")
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    values.flat_map(|v| v.split(',').map(|n| n.trim().to_ascii_lowercase()).collect::<Vec<_>>()).collect()
}

fn to_the_vendor(came: &HeaderMap, goes: &HeaderMap, token: &str) {
    const OWN: [&str; 3] = ["host", "accept-encoding", "via"];
    const NEVER: [&str; 12] = [
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "expect",
        "cookie",
        "forwarded",
        "authorization",
        "x-api-key",
    ];
    let named = named_by_connection(came);
    for (name, value) in goes {
        let plain = folded(name);
        assert!(!NEVER.contains(&plain.as_str()), "{name} goes on");
        for prefix in ["relay-", "proxy-", "x-forwarded-"] {
            assert!(!plain.starts_with(prefix), "{name} goes on");
        }
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        assert!(!text.contains(token), "the caller's token goes on in {name}");
        for word in text.split([' ', '=', '"']) {
            let decoded = STANDARD.decode(word).unwrap_or_default();
            let pair = String::from_utf8_lossy(&decoded).into_owned();
            let basic = text.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic "));
            assert!(!basic || !pair.split(':').any(|half| half == token), "the token goes on in {name}");
        }
        if !OWN.contains(&name.as_str()) {
            assert!(!named.contains(&name.as_str().to_owned()), "{name} is hop-by-hop");
            assert!(
                came.get_all(name).iter().eq(goes.get_all(name))
                    || came.get_all(name).iter().any(|v| v == value)
            );
        }
    }
    assert_eq!(goes.get_all("host").iter().count(), 1);
    assert_eq!(goes.get_all("accept-encoding").iter().count(), 1);
    assert_eq!(goes["host"], "api.vendor.example");
}

fn from_the_vendor(mut fields: HeaderMap) {
    const NEVER: [&str; 9] = [
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "set-cookie",
        "alt-svc",
        "strict-transport-security",
    ];
    let named = named_by_connection(&fields);
    strip(&mut fields, false);
    for name in fields.keys() {
        assert!(!NEVER.contains(&name.as_str()) && !name.as_str().starts_with("relay-"), "{name} comes back");
        assert!(!named.contains(&name.as_str().to_owned()), "{name} is hop-by-hop and comes back");
    }
    let forms = Forms::of([CREDENTIAL.as_bytes()], []);
    scrub_head(&mut fields, &forms);
    hunted(&fields);
    let address = Address {
        app_base: RELAY.to_owned(),
        prefix: PREFIX.to_owned(),
        origin: &the_route().origin,
        base_path: BASE,
        target: "/base/things?page=2",
        own: &["127.0.0.1:8480".to_owned()],
    };
    for status in [StatusCode::OK, StatusCode::FOUND] {
        let mut fields = fields.clone();
        if links::rewrite(&mut fields, status, &address).is_err() {
            continue;
        }
        hunted(&fields);
        for name in ["location", "content-location"] {
            for value in fields.get_all(name) {
                followed(&String::from_utf8_lossy(value.as_bytes()));
            }
        }
        for value in fields.get_all("link") {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            if let Some((reference, _)) = text.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
                followed(reference);
            }
        }
    }
}

/// Where a client of the app goes that reads `reference` as browsers do.
fn followed(reference: &str) {
    let asked = Url::parse(&format!("{RELAY}{PREFIX}/things?page=2")).unwrap();
    let Ok(there) = asked.join(reference) else { return };
    if !matches!(there.scheme(), "http" | "https") {
        return;
    }
    let vendor = Url::parse(VENDOR).unwrap();
    assert_ne!(there.origin(), vendor.origin(), "{reference:?} leads to the vendor with the caller's token");
    if there.origin() == asked.origin() {
        let path = there.path();
        assert!(path == PREFIX || path.starts_with("/vendor/"), "{reference:?} leads to {path} at relay");
    }
}

fn hunted(fields: &HeaderMap) {
    let coded = STANDARD_NO_PAD.encode(&CREDENTIAL.as_bytes()[..CREDENTIAL.len() / 3 * 3]);
    for (name, value) in fields {
        let text = String::from_utf8_lossy(value.as_bytes());
        assert!(!text.contains(CREDENTIAL) && !text.contains(&coded), "the credential comes back in {name}");
        assert!(!name.as_str().contains(CREDENTIAL), "the credential comes back as a name");
    }
}
