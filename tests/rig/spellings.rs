//! The ways in which a vendor may write a credential, made here without relay's own code.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// One of them.
pub struct Spelling {
    pub name: &'static str,
    /// What the vendor writes.
    pub text: Vec<u8>,
    /// What of it must not reach the app.
    pub core: Vec<u8>,
    /// A content type that can carry it.
    pub content_type: &'static str,
}

fn each(secret: &str, spell: impl Fn(u8) -> String) -> String {
    secret.bytes().map(spell).collect()
}

/// Every spelling of an ASCII `secret`.
#[allow(clippy::too_many_lines)]
pub fn spellings(secret: &str) -> Vec<Spelling> {
    let json = "application/json";
    let mut all = Vec::new();
    let mut add = |name, text: String, content_type| {
        let text = text.into_bytes();
        all.push(Spelling { name, core: text.clone(), text, content_type });
    };
    add("as it is", secret.to_owned(), json);
    add("hex", each(secret, |b| format!("{b:02x}")), json);
    add("upper hex", each(secret, |b| format!("{b:02X}")), json);
    add(
        "mixed hex",
        each(secret, |b| if b % 2 == 0 { format!("{b:02x}") } else { format!("{b:02X}") }),
        json,
    );
    add("percent", each(secret, |b| format!("%{b:02x}")), json);
    add("upper percent", each(secret, |b| format!("%{b:02X}")), json);
    add(
        "percent where it must be",
        each(
            secret,
            |b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") },
        ),
        json,
    );
    add("one percent in the middle", one(secret, |b| format!("%{b:02X}")), json);
    add("double percent", each(secret, |b| format!("%25{b:02X}")), json);
    add("percent of percent", each(&each(secret, |b| format!("%{b:02x}")), |b| format!("%{b:02x}")), json);
    add("JSON", each(secret, |b| format!("\\u{b:04x}")), json);
    add("upper JSON", each(secret, |b| format!("\\u{b:04X}")), json);
    add("one JSON escape at the beginning", format!("\\u{:04x}{}", secret.as_bytes()[0], &secret[1..]), json);
    add(
        "one JSON escape at the end",
        format!("{}\\u{:04x}", &secret[..secret.len() - 1], secret.as_bytes()[secret.len() - 1]),
        json,
    );
    add("JSON's short escapes", secret.replace('\\', "\\\\").replace('"', "\\\"").replace('/', "\\/"), json);
    add("JSON in JSON", each(secret, |b| format!("\\\\u{b:04x}")), json);
    add("percent in JSON", each(secret, |b| format!("\\u0025{b:02X}")), json);
    add("decimal entities", each(secret, |b| format!("&#{b};")), "text/html");
    add("hex entities", each(secret, |b| format!("&#x{b:x};")), "text/html");
    add("entities with zeros", each(secret, |b| format!("&#{b:07};")), "text/html");
    add("one entity", one(secret, |b| format!("&#x{b:04X};")), "application/xml");
    add(
        "named entities",
        secret
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&apos;"),
        "text/html",
    );
    add("quoted-printable", each(secret, |b| format!("={b:02X}")), "message/rfc822");
    add(
        "quoted-printable with a soft break",
        one(secret, |b| format!("=\r\n{}", char::from(b))),
        "multipart/mixed",
    );
    add("quoted-printable with a bare soft break", one(secret, |b| format!("=\n={b:02x}")), "text/plain");
    for (name, order) in
        [("UTF-16LE", u16::to_le_bytes as fn(u16) -> [u8; 2]), ("UTF-16BE", u16::to_be_bytes)]
    {
        let text: Vec<u8> = secret.encode_utf16().flat_map(order).collect();
        // The NUL at the outer edge says nothing.
        let core = text.strip_suffix(b"\0").or(text.strip_prefix(b"\0")).unwrap().to_vec();
        all.push(Spelling { name, text, core, content_type: "text/plain; charset=utf-16" });
    }
    let encoded = STANDARD_NO_PAD.encode(secret);
    // The last character may be half a neighbour's.
    let sure = &encoded[..secret.len() * 8 / 6];
    for (name, escape) in [
        ("base64 with JSON's slashes", (|text| text.replace('/', "\\/")) as fn(&str) -> String),
        ("base64, percent-escaped", |text| each(text, |b| format!("%{b:02X}"))),
    ] {
        let (text, core) = (escape(&encoded).into_bytes(), escape(sure).into_bytes());
        all.push(Spelling { name, text, core, content_type: json });
    }
    for (name, hexed, document) in documents(secret) {
        let hex = each(&document, |b| format!("{b:02x}")).into_bytes();
        all.push(Spelling { name: hexed, core: hex.clone(), text: hex, content_type: json });
        for (shift, lead) in ["", "u", "uv"].into_iter().enumerate() {
            let encoded = STANDARD.encode(format!("{lead}{document}w"));
            let (from, to) = ([0, 2, 3][shift], (shift + document.len()) * 8 / 6);
            let core = encoded.as_bytes()[from..to].to_vec();
            all.push(Spelling { name, text: encoded.into_bytes(), core, content_type: json });
        }
    }
    for (shift, lead) in ["", "u", "uv"].into_iter().enumerate() {
        let text = format!("{lead}{secret}w");
        let (from, to) = ([0, 2, 3][shift], (shift + secret.len()) * 8 / 6);
        let encoded = [
            ("base64", STANDARD.encode(&text)),
            ("base64 without padding", STANDARD_NO_PAD.encode(&text)),
            ("base64url", URL_SAFE.encode(&text)),
            ("base64url without padding", URL_SAFE_NO_PAD.encode(&text)),
        ];
        for (name, encoded) in encoded {
            let core = encoded.as_bytes()[from..to].to_vec();
            all.push(Spelling { name, text: encoded.into_bytes(), core, content_type: json });
        }
    }
    all
}

/// A secret as documents write it that are then encoded as a whole: the names of its base64 and its hex.
fn documents(secret: &str) -> [(&'static str, &'static str, String); 7] {
    let json = secret.replace('\\', "\\\\").replace('"', "\\\"");
    let for_html = json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let plain = |b: u8| char::from(b).to_string();
    let html = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let upper = each(secret, |b| if unreserved(b) { plain(b) } else { format!("%{b:02X}") });
    let lower = each(secret, |b| if unreserved(b) { plain(b) } else { format!("%{b:02x}") });
    [
        ("base64 of JSON with slashes", "hex of JSON with slashes", json.replace('/', "\\/")),
        ("base64 of JSON", "hex of JSON", json),
        ("base64 of JSON for HTML", "hex of JSON for HTML", for_html),
        ("base64 of form", "hex of form", upper.replace("%20", "+")),
        ("base64 of percent", "hex of percent", upper),
        ("base64 of lower percent", "hex of lower percent", lower),
        ("base64 of HTML", "hex of HTML", html),
    ]
}

/// One character in the middle spelled otherwise.
fn one(secret: &str, spell: impl Fn(u8) -> String) -> String {
    let at = secret.len() / 2;
    format!("{}{}{}", &secret[..at], spell(secret.as_bytes()[at]), &secret[at + 1..])
}

/// The spellings of `secret` that stand in `text`.
pub fn hunt(all: &[Spelling], text: &[u8]) -> Vec<&'static str> {
    all.iter().filter(|one| memchr::memmem::find(text, &one.core).is_some()).map(|one| one.name).collect()
}
