//! `sign` and `client_certificate` of an integration.
//!
//! Both name fields of the secret, one each and nothing round it: what is computed with has to be the field itself.
//! A value typed where a field belongs may be a credential and is never quoted.

use http::HeaderName;

use super::super::report::Place;
use super::super::signing::{
    Algorithm, AwsSigning, ClientCertificate, Encoding, HmacSigning, Piece, Recipe, Region, Set, SetPlace,
    Signing, TimeForm, named, names,
};
use super::super::template::{Part, Template};
use super::super::written::{Given, Table, Written};
use super::super::{FieldSetting, Placement, Where};
use super::placement;
use crate::model::FieldName;

/// The declared fields, each with its place.
type Fields = [(FieldSetting, Place)];

/// The hashes of the recipe that an integration writes itself.
const OWN: [(&str, Algorithm); 3] = [
    ("hmac_sha256", Algorithm::Sha256),
    ("hmac_sha384", Algorithm::Sha384),
    ("hmac_sha512", Algorithm::Sha512),
];

const AWS_KEYS: &[&str] = &["with", "region", "service", "access_key", "secret_key", "session_token"];
const NAMED_KEYS: &[&str] = &["with", "key", "secret", "passphrase"];
const OWN_KEYS: &[&str] = &[
    "with",
    "key",
    "secret",
    "passphrase",
    "secret_is",
    "message",
    "joined_by",
    "time",
    "output",
    "signature_prefix",
    "signature_header",
    "time_header",
    "nonce_header",
    "key_header",
    "passphrase_header",
];

/// Words for the pieces of a message.
const PIECES: [(&str, Piece); 9] = [
    ("method", Piece::Method),
    ("path", Piece::Path),
    ("path_and_query", Piece::PathAndQuery),
    ("query", Piece::Query),
    ("body", Piece::Body),
    ("time", Piece::Time),
    ("nonce", Piece::Nonce),
    ("key", Piece::Key),
    ("passphrase", Piece::Passphrase),
];

/// Reads `sign`.
pub(super) fn signing(
    written: &mut Written<'_>,
    integration: &Table<'_>,
    fields: &Fields,
) -> Option<Signing> {
    integration.entry("sign")?;
    let table = written.child(integration, "sign", "integrations.*.sign");
    if !table.exists() {
        return None;
    }
    let with = written.needed_text(&table, "with", "name what signs: with = \"aws_sigv4\"")?;
    let signing = if with.value == "aws_sigv4" {
        only(written, &table, AWS_KEYS, &with.value);
        Signing::Aws(aws(written, &table, fields)?)
    } else if let Some(recipe) = named(&with.value) {
        only(written, &table, NAMED_KEYS, &with.value);
        Signing::Hmac(hmac(written, &table, fields, recipe, &with.value)?)
    } else if let Some((_, algorithm)) = OWN.iter().find(|(name, _)| *name == with.value) {
        only(written, &table, OWN_KEYS, &with.value);
        let recipe = own_recipe(written, &table, *algorithm)?;
        Signing::Hmac(hmac(written, &table, fields, recipe, &with.value)?)
    } else {
        let all: Vec<String> = ["aws_sigv4"]
            .into_iter()
            .chain(names())
            .chain(OWN.map(|(name, _)| name))
            .map(|name| format!("\"{name}\""))
            .collect();
        let message = format!("{} with is not one of those that relay has", table.shown);
        written.findings.error(&with.place, message, format!("write {}", all.join(" or ")));
        return None;
    };
    Some(signing)
}

/// Keys that mean nothing for what signs are mistakes.
fn only(written: &mut Written<'_>, table: &Table<'_>, keys: &[&str], with: &str) {
    for (key, place, _) in table.in_order() {
        let known =
            super::super::keys::known().any(|(path, name)| path == "integrations.*.sign" && name == key);
        if known && !keys.contains(&key) {
            let message = format!("{} {key} has no meaning with \"{with}\"", table.shown);
            written.findings.error(
                &place,
                message,
                format!("leave it away; the keys here are {}", keys.join(", ")),
            );
        }
    }
}

fn aws(written: &mut Written<'_>, table: &Table<'_>, fields: &Fields) -> Option<AwsSigning> {
    let region = region(written, table, fields);
    let service = service(written, table);
    let access_key = needed(written, table, "access_key", fields);
    let secret_key = needed(written, table, "secret_key", fields);
    let session_token = match table.entry("session_token") {
        Some(_) => Some(field(written, table, "session_token", fields)?),
        None => None,
    };
    Some(AwsSigning {
        region: region?,
        service: service?,
        access_key: access_key?,
        secret_key: secret_key?,
        session_token,
    })
}

fn region(written: &mut Written<'_>, table: &Table<'_>, fields: &Fields) -> Option<Region> {
    let fix =
        "write the region of the service: region = \"eu-west-1\", or a field that holds it: \"{region}\"";
    let given = written.needed_text(table, "region", fix)?;
    if given.value.contains(['{', '}']) {
        let name = field(written, table, "region", fields)?;
        let secret = |(setting, _): &&(FieldSetting, Place)| setting.spec.name == name && setting.spec.secret;
        if fields.iter().any(|field| secret(&field)) {
            let message = format!(
                "{} region: {{{name}}} is secret, and a region is seen in every request",
                table.shown
            );
            written.findings.error(&given.place, message, "declare the field with secret = false");
        }
        return Some(Region::Field(name));
    }
    word(written, table, "region", &given, fix).map(Region::Fixed)
}

fn service(written: &mut Written<'_>, table: &Table<'_>) -> Option<String> {
    let fix = "write the service's name in AWS's signatures: service = \"s3\"";
    let given = written.needed_text(table, "service", fix)?;
    word(written, table, "service", &given, fix)
}

fn word(
    written: &mut Written<'_>,
    table: &Table<'_>,
    key: &str,
    given: &Given<String>,
    fix: &str,
) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if given.value.len() > 64 || !given.value.bytes().all(plain) {
        let message = format!("{} {key} is lower-case letters, digits and -", table.shown);
        written.findings.error(&given.place, message, fix);
        return None;
    }
    Some(given.value.clone())
}

/// The fields that a recipe takes: each one that it uses, and no other.
fn hmac(
    written: &mut Written<'_>,
    table: &Table<'_>,
    fields: &Fields,
    recipe: Recipe,
    with: &str,
) -> Option<HmacSigning> {
    let secret = needed(written, table, "secret", fields);
    let signed = recipe.uses(&Piece::SignedPassphrase);
    let (uses_key, uses_phrase) = (recipe.uses(&Piece::Key), signed || recipe.uses(&Piece::Passphrase));
    let mut taken = |key: &str, used: bool| match (used, table.entry(key).is_some()) {
        (true, _) => needed(written, table, key, fields).map(Some),
        (false, false) => Some(None),
        (false, true) => {
            let message = format!("{} {key} is not used by \"{with}\"", table.shown);
            written.findings.error(&table.place_of(key), message, "leave it away");
            None
        }
    };
    let key = taken("key", uses_key);
    let passphrase = taken("passphrase", uses_phrase);
    Some(HmacSigning { recipe, secret: secret?, key: key?, passphrase: passphrase? })
}

/// The recipe that the integration writes itself.
fn own_recipe(written: &mut Written<'_>, table: &Table<'_>, algorithm: Algorithm) -> Option<Recipe> {
    let encodings = [("text", Encoding::Text), ("base64", Encoding::Base64), ("hex", Encoding::Hex)];
    let forms = [("seconds", TimeForm::Seconds), ("milliseconds", TimeForm::Millis), ("iso", TimeForm::Iso)];
    let secret = written.choice(table, "secret_is", &encodings, &[]).unwrap_or(Encoding::Text);
    let outputs = [("hex", Encoding::Hex), ("base64", Encoding::Base64)];
    let output = written.choice(table, "output", &outputs, &[]).unwrap_or(Encoding::Hex);
    let time = written.choice(table, "time", &forms, &[]).unwrap_or(TimeForm::Seconds);
    let joiner = match table.entry("joined_by") {
        Some(_) => plain(written, table, "joined_by")?,
        None => String::new(),
    };
    let prefix = match table.entry("signature_prefix") {
        Some(_) => plain(written, table, "signature_prefix")?,
        None => String::new(),
    };
    let message = message(written, table);
    let mut sets = Vec::new();
    let fix = "name the header that carries the signature: signature_header = \"x-signature\"";
    if written.needed_text(table, "signature_header", fix).is_some()
        && let Some(header) = header(written, table, "signature_header")
    {
        let value = vec![Piece::Text(prefix.into()), Piece::Signature];
        sets.push(Set { place: SetPlace::Header(header), value });
    }
    let others = [
        ("time_header", Piece::Time),
        ("nonce_header", Piece::Nonce),
        ("key_header", Piece::Key),
        ("passphrase_header", Piece::Passphrase),
    ];
    for (key, piece) in others {
        if table.entry(key).is_none() {
            continue;
        }
        let Some(name) = header(written, table, key) else { continue };
        if sets.iter().any(|set| set.place == SetPlace::Header(name.clone())) {
            let message = format!("{} {key} is a header that carries something else already", table.shown);
            written.findings.error(&table.place_of(key), message, "name another header");
        }
        sets.push(Set { place: SetPlace::Header(name), value: vec![piece] });
    }
    let message = message?;
    let (secret_prefix, joiner) = ("", joiner.into());
    Some(Recipe { algorithm, secret, secret_prefix, message, joiner, output, time, sets })
}

/// What is signed, in order.
fn message(written: &mut Written<'_>, table: &Table<'_>) -> Option<Vec<Piece>> {
    let fix = "write what is signed, in order: message = [\"time\", \"method\", \"path_and_query\", \"body\"]; \
               text of its own stands in single quotes: \"'v1:'\"";
    if table.entry("message").is_none() {
        written.missing(table, "message", fix);
        return None;
    }
    let given = written.texts(table, "message")?;
    let mut pieces = Vec::new();
    let mut whole = true;
    for text in &given.value {
        let known = PIECES.iter().find(|(word, _)| *word == text.value).map(|(_, piece)| piece.clone());
        let quoted = text.value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
        let quoted = quoted.map(|inner| Piece::Text(inner.to_owned().into()));
        if let Some(piece) = known.or(quoted) {
            pieces.push(piece);
        } else {
            written.mask(&text.place);
            let words: Vec<&str> = PIECES.iter().map(|(word, _)| *word).collect();
            let message = format!("{} message: this is none of {}", table.shown, words.join(", "));
            written.findings.error(
                &text.place,
                message,
                "text of its own stands in single quotes: \"'v1:'\"",
            );
            whole = false;
        }
    }
    if pieces.is_empty() && whole {
        written.findings.error(&given.place, format!("{} message is empty", table.shown), fix);
        return None;
    }
    whole.then_some(pieces)
}

/// Text that stands beside what is computed: printable, and no place for a credential.
fn plain(written: &mut Written<'_>, table: &Table<'_>, key: &str) -> Option<String> {
    let given = written.raw(table, key)?;
    if given.value.len() > 16
        || !given.value.bytes().all(|byte| (b' '..=b'~').contains(&byte) || byte == b'\n')
    {
        written.mask(&given.place);
        let message = format!("{} {key} is up to 16 characters of ASCII", table.shown);
        written.findings.error(&given.place, message, "write what the vendor's documentation says");
        return None;
    }
    Some(given.value)
}

fn header(written: &mut Written<'_>, table: &Table<'_>, key: &str) -> Option<HeaderName> {
    let given = written.text(table, key)?;
    placement::named_header(written, table, given).map(|given| given.value)
}

/// The one field under a key that has to be there.
fn needed(written: &mut Written<'_>, table: &Table<'_>, key: &str, fields: &Fields) -> Option<FieldName> {
    if table.entry(key).is_none() {
        written.missing(table, key, &format!("name the field that holds it: {key} = \"{{{key}}}\""));
        return None;
    }
    let name = field(written, table, key, fields)?;
    if fields.iter().any(|(setting, _)| setting.spec.name == name && setting.optional) {
        let message = format!("{} {key}: {{{name}}} is optional, and every request needs it", table.shown);
        written.findings.error(&table.place_of(key), message, "leave optional away");
    }
    Some(name)
}

/// The one field that a value names: `{name}` and nothing else.
fn field(written: &mut Written<'_>, table: &Table<'_>, key: &str, fields: &Fields) -> Option<FieldName> {
    let given = written.raw(table, key)?;
    let fix = format!("name one field of the secret: {key} = \"{{{key}}}\"");
    let parts = match Template::parse(&given.value) {
        Ok(Template::Text(parts)) => parts,
        _ => Vec::new(),
    };
    let [Part::Field(name)] = parts.as_slice() else {
        // It may be the credential itself.
        written.mask(&given.place);
        let message = format!("{} {key} is one field of the secret, and nothing round it", table.shown);
        written.findings.error(&given.place, message, fix);
        return None;
    };
    if !fields.iter().any(|(setting, _)| setting.spec.name == *name) {
        let message = format!("{} {key}: {{{name}}} is not one of its fields", table.shown);
        written.findings.error(&given.place, message, "declare it in fields");
        return None;
    }
    Some(name.clone())
}

/// Reads `client_certificate`, and marks its fields: their values have line breaks and never enter a request.
pub(super) fn client_certificate(
    written: &mut Written<'_>,
    integration: &Table<'_>,
    fields: &mut [(FieldSetting, Place)],
    secure: bool,
) -> Option<ClientCertificate> {
    integration.entry("client_certificate")?;
    let table = written.child(integration, "client_certificate", "integrations.*.client_certificate");
    if !table.exists() {
        return None;
    }
    let certificate = needed(written, &table, "certificate", fields);
    let key = needed(written, &table, "key", fields);
    let (certificate, key) = (certificate?, key?);
    if certificate == key {
        let message = format!("{} certificate and key are the same field", table.shown);
        written.findings.error(&table.place, message, "keep them in two fields");
        return None;
    }
    if !secure {
        let message = format!("{} has no meaning for an http upstream", table.shown);
        written.findings.error(&table.place, message, "write an https upstream, or leave it away");
    }
    for (setting, place) in fields.iter_mut() {
        if setting.spec.name == key && !setting.spec.secret {
            let message = format!("{} key: {{{key}}} is a private key, and not secret", table.shown);
            written.findings.error(place, message, "leave secret = false away");
        }
        setting.pem = setting.pem || setting.spec.name == key || setting.spec.name == certificate;
    }
    Some(ClientCertificate { certificate, key })
}

/// The fields that are used outside of `inject`.
pub(super) fn used(sign: Option<&Signing>, certificate: Option<&ClientCertificate>) -> Vec<FieldName> {
    let signed = sign.into_iter().flat_map(Signing::fields);
    let shown = certificate.into_iter().flat_map(|shown| [&shown.certificate, &shown.key]);
    signed.chain(shown).cloned().collect()
}

/// What signs and what is placed keep apart: no header twice, no part of a client certificate in a request.
pub(super) fn apart(
    written: &mut Written<'_>,
    integration: &Table<'_>,
    fields: &Fields,
    sign: Option<&Signing>,
    inject: &[Placement],
) {
    let headers = sign.map(Signing::headers).unwrap_or_default();
    for name in inject.iter().filter_map(Placement::header).filter(|name| headers.contains(name)) {
        let message = format!("inject of {} names the header {name}, which sign writes", integration.shown);
        written.findings.error(&integration.place_of("inject"), message, "take it out of inject");
    }
    if matches!(sign, Some(Signing::Aws(_))) && inject.iter().any(Placement::is_in_body) {
        let message =
            format!("inject of {} changes bodies whose hash the app has told already", integration.shown);
        let fix = "leave the body placement away: \"aws_sigv4\" signs the body as it came";
        written.findings.error(&integration.place_of("inject"), message, fix);
    }
    let in_target =
        |placement: &Placement| matches!(placement.at, Where::Query(_) | Where::Path(_) | Where::Form(_));
    let writes_query = matches!(sign, Some(Signing::Hmac(hmac)) if hmac.recipe.parameters().next().is_some());
    if writes_query && inject.iter().any(in_target) {
        let message =
            format!("inject of {} writes into the query or form that sign writes anew", integration.shown);
        let fix = "place the credential in a header: what sign writes anew is not wiped";
        written.findings.error(&integration.place_of("inject"), message, fix);
    }
    let signed = sign.map(Signing::fields).unwrap_or_default();
    for (setting, place) in fields.iter().filter(|(setting, _)| setting.pem) {
        let name = &setting.spec.name;
        if signed.contains(&name) || inject.iter().any(|placement| placement.value.fields().contains(&name)) {
            let message = format!(
                "the field \"{name}\" is part of the client certificate, and stands in a request, too"
            );
            written.findings.error(place, message, "use it in client_certificate alone");
        }
    }
}
