//! The named recipes: what each vendor's own documentation says is signed, as a table.
//!
//! A row is data; nothing here computes. A row that is wrong lets no secret out: the vendor refuses the signature.
//! Each row names the document that it was written from, and `stage::sign` has a vector for each.

use std::borrow::Cow;

use http::HeaderName;

use super::{Algorithm, Encoding, Piece, Recipe, Set, SetPlace, TimeForm};

/// A recipe as the table writes it.
struct Row {
    name: &'static str,
    secret: Encoding,
    secret_prefix: &'static str,
    message: &'static [Part],
    output: Encoding,
    time: TimeForm,
    headers: &'static [(&'static str, &'static [Part])],
    parameters: &'static [(&'static str, &'static [Part])],
}

/// [`Piece`], with texts that a table can hold.
#[derive(Clone, Copy)]
enum Part {
    T(&'static str),
    Method,
    PathAndQuery,
    Query,
    Body,
    Time,
    Nonce,
    Key,
    Passphrase,
    SignedPassphrase,
    Signature,
}

use Part::{Body, Key, Method, Nonce, Passphrase, PathAndQuery, Query, Signature, SignedPassphrase, T, Time};

/// What most rows have in common.
const PLAIN: Row = Row {
    name: "",
    secret: Encoding::Text,
    secret_prefix: "",
    message: &[],
    output: Encoding::Hex,
    time: TimeForm::Millis,
    headers: &[],
    parameters: &[],
};

/// All of them HMAC-SHA256, which is what these vendors use.
const ROWS: &[Row] = &[
    // Coinbase Exchange, "REST API authentication": the secret is base64, the time in seconds.
    Row {
        name: "coinbase_exchange",
        secret: Encoding::Base64,
        message: &[Time, Method, PathAndQuery, Body],
        output: Encoding::Base64,
        time: TimeForm::Seconds,
        headers: &[
            ("cb-access-key", &[Key]),
            ("cb-access-sign", &[Signature]),
            ("cb-access-timestamp", &[Time]),
            ("cb-access-passphrase", &[Passphrase]),
        ],
        ..PLAIN
    },
    // Binance, "Spot REST API: signed endpoint security": query and body directly behind each other.
    Row {
        name: "binance",
        message: &[Query, Body],
        headers: &[("x-mbx-apikey", &[Key])],
        parameters: &[("timestamp", &[Time]), ("signature", &[Signature])],
        ..PLAIN
    },
    // Bybit V5, "Integration guidance: authentication": 5000 is the documented default of recv_window.
    Row {
        name: "bybit_v5",
        message: &[Time, Key, T("5000"), Query, Body],
        headers: &[
            ("x-bapi-api-key", &[Key]),
            ("x-bapi-timestamp", &[Time]),
            ("x-bapi-recv-window", &[T("5000")]),
            ("x-bapi-sign", &[Signature]),
        ],
        ..PLAIN
    },
    // OKX API v5, "REST authentication: making requests".
    Row {
        name: "okx_v5",
        message: &[Time, Method, PathAndQuery, Body],
        output: Encoding::Base64,
        time: TimeForm::Iso,
        headers: &[
            ("ok-access-key", &[Key]),
            ("ok-access-sign", &[Signature]),
            ("ok-access-timestamp", &[Time]),
            ("ok-access-passphrase", &[Passphrase]),
        ],
        ..PLAIN
    },
    // KuCoin, "Authentication: creating a request", keys of version 2: the passphrase is signed, too.
    Row {
        name: "kucoin_v2",
        message: &[Time, Method, PathAndQuery, Body],
        output: Encoding::Base64,
        headers: &[
            ("kc-api-key", &[Key]),
            ("kc-api-sign", &[Signature]),
            ("kc-api-timestamp", &[Time]),
            ("kc-api-passphrase", &[SignedPassphrase]),
            ("kc-api-key-version", &[T("2")]),
        ],
        ..PLAIN
    },
    // BitMEX, "API key usage: authenticating with an API key": valid for the minute that follows.
    Row {
        name: "bitmex",
        message: &[Method, PathAndQuery, Time, Body],
        time: TimeForm::Ahead(60),
        headers: &[("api-key", &[Key]), ("api-expires", &[Time]), ("api-signature", &[Signature])],
        ..PLAIN
    },
    // Slack, "Verifying requests from Slack": for receivers that check calls as Slack signs them.
    Row {
        name: "slack_v0",
        message: &[T("v0:"), Time, T(":"), Body],
        time: TimeForm::Seconds,
        headers: &[("x-slack-request-timestamp", &[Time]), ("x-slack-signature", &[T("v0="), Signature])],
        ..PLAIN
    },
    // Standard Webhooks specification 1.0, "Signature scheme", symmetric.
    Row {
        name: "standard_webhooks",
        secret: Encoding::Base64,
        secret_prefix: "whsec_",
        message: &[T("msg_"), Nonce, T("."), Time, T("."), Body],
        output: Encoding::Base64,
        time: TimeForm::Seconds,
        headers: &[
            ("webhook-id", &[T("msg_"), Nonce]),
            ("webhook-timestamp", &[Time]),
            ("webhook-signature", &[T("v1,"), Signature]),
        ],
        ..PLAIN
    },
];

/// The names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

/// The recipe of this name.
pub fn named(name: &str) -> Option<Recipe> {
    let row = ROWS.iter().find(|row| row.name == name)?;
    let header = |(name, value): &(&'static str, &'static [Part])| Set {
        place: SetPlace::Header(HeaderName::from_static(name)),
        value: pieces(value),
    };
    let parameter = |(name, value): &(&'static str, &'static [Part])| Set {
        place: SetPlace::Query(name),
        value: pieces(value),
    };
    Some(Recipe {
        algorithm: Algorithm::Sha256,
        secret: row.secret,
        secret_prefix: row.secret_prefix,
        message: pieces(row.message),
        joiner: Cow::Borrowed(""),
        output: row.output,
        time: row.time,
        sets: row.headers.iter().map(header).chain(row.parameters.iter().map(parameter)).collect(),
    })
}

fn pieces(parts: &[Part]) -> Vec<Piece> {
    let piece = |part: &Part| match part {
        T(text) => Piece::Text(Cow::Borrowed(text)),
        Method => Piece::Method,
        PathAndQuery => Piece::PathAndQuery,
        Query => Piece::Query,
        Body => Piece::Body,
        Time => Piece::Time,
        Nonce => Piece::Nonce,
        Key => Piece::Key,
        Passphrase => Piece::Passphrase,
        SignedPassphrase => Piece::SignedPassphrase,
        Signature => Piece::Signature,
    };
    parts.iter().map(piece).collect()
}
