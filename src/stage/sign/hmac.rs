//! HMAC recipes carried out: pieces of the request are signed, headers and parameters are set.
//!
//! What the app wrote at those places is not there any more: headers were never copied, parameters are removed
//! here, from the query and from a form. The message is hashed piece by piece and stands nowhere whole.

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Uri};
use zeroize::Zeroizing;

use super::canonical::{hex, push_encoded};
use super::{body, field, header_value, unusable};
use crate::clock::Moment;
use crate::config::rule::decoded;
use crate::config::signing::{Algorithm, Encoding, HmacSigning, Piece, Recipe, Set, SetPlace, TimeForm};
use crate::model::FieldName;
use crate::net::body::Outgoing;
use crate::refusal::{Code, Refusal};
use crate::stage::unseal::Credential;

pub(super) fn sign(
    signing: &HmacSigning,
    credential: &Credential,
    request: &mut Request<Outgoing>,
    at: Moment,
) -> Result<(), Refusal> {
    let recipe = &signing.recipe;
    let named = |name: &Option<FieldName>| name.as_ref().map_or(Ok(&[][..]), |name| field(credential, name));
    let signer = Signer {
        recipe,
        secret: secret(recipe, field(credential, &signing.secret)?)
            .ok_or_else(|| unusable(&signing.secret, "it is not in the encoding that the recipe says"))?,
        key: named(&signing.key)?,
        passphrase: named(&signing.passphrase)?,
        time: written(recipe.time, at),
        nonce: nonce()?,
    };
    if recipe.parameters().next().is_some() {
        strip(recipe, request)?;
        append(request, &signer, None)?;
    }
    let message = Message {
        method: request.method(),
        uri: request.uri(),
        body: if recipe.message.contains(&Piece::Body) { body(request)? } else { &[] },
    };
    let signature = signer.signature(&message);
    for set in &recipe.sets {
        if let SetPlace::Header(name) = &set.place {
            let value = header_value(signer.text(set, &signature))?;
            request.headers_mut().insert(name, value);
        }
    }
    append(request, &signer, Some(&signature))
}

/// What of the request is signed.
struct Message<'a> {
    method: &'a Method,
    uri: &'a Uri,
    body: &'a [u8],
}

/// One request's signer: everything but the request.
struct Signer<'a> {
    recipe: &'a Recipe,
    secret: Zeroizing<Vec<u8>>,
    key: &'a [u8],
    passphrase: &'a [u8],
    time: String,
    nonce: String,
}

impl Signer<'_> {
    fn signature(&self, message: &Message<'_>) -> String {
        let mut context = hmac::Context::with_key(&self.hmac_key());
        for (number, piece) in self.recipe.message.iter().enumerate() {
            if number > 0 {
                context.update(self.recipe.joiner.as_bytes());
            }
            match piece {
                Piece::Method => context.update(message.method.as_str().as_bytes()),
                Piece::Path => context.update(message.uri.path().as_bytes()),
                Piece::PathAndQuery => {
                    let whole = message.uri.path_and_query().map_or("/", PathAndQuery::as_str);
                    context.update(whole.as_bytes());
                }
                Piece::Query => context.update(message.uri.query().unwrap_or_default().as_bytes()),
                Piece::Body => context.update(message.body),
                other => context.update(&self.piece(other, "")),
            }
        }
        self.encoded(context.sign().as_ref())
    }

    /// What is set at one place.
    fn text(&self, set: &Set, signature: &str) -> Zeroizing<Vec<u8>> {
        let pieces: Vec<_> = set.value.iter().map(|piece| self.piece(piece, signature)).collect();
        let mut text = Zeroizing::new(Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum()));
        pieces.iter().for_each(|piece| text.extend_from_slice(piece));
        text
    }

    /// A piece that is no part of the request.
    fn piece(&self, piece: &Piece, signature: &str) -> Zeroizing<Vec<u8>> {
        let bytes: &[u8] = match piece {
            Piece::Text(text) => text.as_bytes(),
            Piece::Time => self.time.as_bytes(),
            Piece::Nonce => self.nonce.as_bytes(),
            Piece::Key => self.key,
            Piece::Passphrase => self.passphrase,
            Piece::Signature => signature.as_bytes(),
            Piece::SignedPassphrase => {
                let tag = hmac::sign(&self.hmac_key(), self.passphrase);
                return Zeroizing::new(self.encoded(tag.as_ref()).into_bytes());
            }
            Piece::Method | Piece::Path | Piece::PathAndQuery | Piece::Query | Piece::Body => &[],
        };
        Zeroizing::new(bytes.to_vec())
    }

    fn hmac_key(&self) -> hmac::Key {
        let algorithm = match self.recipe.algorithm {
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha384 => hmac::HMAC_SHA384,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::Key::new(algorithm, &self.secret)
    }

    fn encoded(&self, tag: &[u8]) -> String {
        match self.recipe.output {
            Encoding::Base64 => STANDARD.encode(tag),
            Encoding::Hex | Encoding::Text => hex(tag),
        }
    }
}

/// The HMAC's key as bytes; `None` if the text is not in the encoding that it should be in.
fn secret(recipe: &Recipe, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let value = value.strip_prefix(recipe.secret_prefix.as_bytes()).unwrap_or(value);
    let mut bytes = Zeroizing::new(vec![0; value.len()]);
    let length = match recipe.secret {
        Encoding::Text => {
            bytes.copy_from_slice(value);
            value.len()
        }
        Encoding::Base64 => STANDARD.decode_slice(value, &mut bytes).ok()?,
        Encoding::Hex => {
            let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            for (to, pair) in bytes.iter_mut().zip(value.chunks(2)) {
                let [high, low] = pair else { return None };
                *to = digit(high)? * 16 + digit(low)?;
            }
            value.len() / 2
        }
    };
    bytes.truncate(length);
    (length > 0).then_some(bytes)
}

fn written(form: TimeForm, at: Moment) -> String {
    match form {
        TimeForm::Seconds => at.unix_seconds().to_string(),
        TimeForm::Millis => at.unix_millis().to_string(),
        TimeForm::Ahead(seconds) => at.unix_seconds().saturating_add(seconds).to_string(),
        TimeForm::Iso => {
            let whole = crate::clock::rfc3339(at.unix_seconds());
            format!("{}.{:03}Z", whole.trim_end_matches('Z'), at.unix_millis() % 1000)
        }
    }
}

fn nonce() -> Result<String, Refusal> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes)
        .map_err(|_| Refusal::from(Code::CredentialUnusable).because("the random source failed"))?;
    Ok(hex(&bytes))
}

/// Takes the recipe's parameters out of the query and out of a form.
fn strip(recipe: &Recipe, request: &mut Request<Outgoing>) -> Result<(), Refusal> {
    let ours = |pair: &&str| {
        let name = decoded(pair.split('=').next().unwrap_or_default());
        recipe.parameters().any(|parameter| parameter == name)
    };
    if let Some(query) = request.uri().query().filter(|query| query.split('&').any(|pair| ours(&pair))) {
        let kept: Vec<&str> = query.split('&').filter(|pair| !ours(pair)).collect();
        *request.uri_mut() = target(request.uri().path(), &kept.join("&"))?;
    }
    if is_form(request.headers()) {
        let text = std::str::from_utf8(body(request)?).unwrap_or_default();
        if text.split('&').any(|pair| ours(&pair)) {
            let kept: Vec<&str> = text.split('&').filter(|pair| !ours(pair)).collect();
            *request.body_mut() = Outgoing::whole(Bytes::from(kept.join("&")));
        }
    }
    Ok(())
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// Appends the recipe's parameters to the query: those that are signed, or with the signature those that hold it.
fn append(
    request: &mut Request<Outgoing>,
    signer: &Signer<'_>,
    signature: Option<&str>,
) -> Result<(), Refusal> {
    let mut query = request.uri().query().unwrap_or_default().to_owned();
    let before = query.len();
    for set in &signer.recipe.sets {
        let SetPlace::Query(name) = &set.place else { continue };
        if set.value.contains(&Piece::Signature) != signature.is_some() {
            continue;
        }
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(name);
        query.push('=');
        let value = signer.text(set, signature.unwrap_or_default());
        value.iter().for_each(|byte| push_encoded(&mut query, *byte));
    }
    if query.len() > before {
        *request.uri_mut() = target(request.uri().path(), &query)?;
    }
    Ok(())
}

fn target(path: &str, query: &str) -> Result<Uri, Refusal> {
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    Uri::try_from(text).map_err(|error| Refusal::from(Code::PathRefused).because(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::signing::named;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    struct Asked<'a>(&'a str, &'a str, &'a str);

    fn signature(recipe: &Recipe, key: &str, secret: &str, time: &str, Asked(m, u, b): Asked<'_>) -> String {
        let signer = Signer {
            recipe,
            secret: super::secret(recipe, secret.as_bytes()).unwrap(),
            key: key.as_bytes(),
            passphrase: b"phrase-of-mine",
            time: time.to_owned(),
            nonce: NONCE.to_owned(),
        };
        let (method, uri) = (m.parse().unwrap(), u.parse().unwrap());
        signer.signature(&Message { method: &method, uri: &uri, body: b.as_bytes() })
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn what_vendors_publish_comes_out() {
        let slack = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
            &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
            &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
            &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let binance = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j";
        let bitmex = "chNOOS4KvNXR_Xq4k4c9qsfoKWvnDecLATCRlcBwyKDYnWgO";
        let order = "quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559";
        let rows = [
            // The query is what append has made of it: the time stands in it already.
            (
                "binance",
                binance,
                "",
                Asked(
                    "POST",
                    &format!("/api/v3/order?symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&{order}"),
                    "",
                ),
                "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71",
                "all in the query",
            ),
            (
                "binance",
                binance,
                "",
                Asked("POST", "/api/v3/order?symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC", order),
                "0fd168b8ddb4876a0358a8d14d0c9f3da0e9b20c5d52b2a00fcf7d1c602f9a77",
                "half in the body",
            ),
            (
                "bitmex",
                bitmex,
                "1518064236",
                Asked("GET", "/api/v1/instrument", ""),
                "c7682d435d0cfe87c16098df34ef2eb5a549d4c5a3c2b1f0f77b8af73423bf00",
                "without a body",
            ),
            (
                "bitmex",
                bitmex,
                "1518064238",
                Asked(
                    "POST",
                    "/api/v1/order",
                    "{\"symbol\":\"XBTM15\",\"price\":219.0,\"clOrdID\":\"mm_bitmex_1a/oemUeQ4CAJZgP3fjHsA\",\"orderQty\":98}",
                ),
                "1749cd2ccae4aa49048ae09f0b95110cee706e0944e6a14ad0b3a8cb45bd336b",
                "with one",
            ),
            (
                "slack_v0",
                "8f742231b10e8888abcd99yyyzzz85a5",
                "1531420618",
                Asked("POST", "/hook", slack),
                "a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
                "Slack's own example",
            ),
        ];
        for (name, secret, time, asked, wanted, mistake) in rows {
            let recipe = named(name).unwrap();
            assert_eq!(signature(&recipe, "", secret, time, asked), wanted, "{name}: {mistake}");
        }
        // The specification's example has a message id of its own.
        let mut webhooks = named("standard_webhooks").unwrap();
        for piece in &mut webhooks.message {
            if *piece == Piece::Nonce {
                *piece = Piece::Text("p5jXN8AQM9LWM0D4loKWxJek".into());
            }
        }
        let asked = Asked("POST", "/", "{\"test\": 2432232314}");
        let signed = signature(&webhooks, "", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "1614265330", asked);
        assert_eq!(signed, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    // Made by Python's `hmac` from the vendors' descriptions, e.g. for OKX:
    //   base64.b64encode(hmac.new(b'secret-of-okx', b'2017-07-12T02:41:59.559Z' + b'POST' + b'/orders?a=b'
    //       + b'{"size":1}', hashlib.sha256).digest())
    #[test]
    fn every_recipe_signs_as_another_implementation_does() {
        const AT: u64 = 1_499_827_319_559;
        let rows = [
            ("coinbase_exchange", "c2VjcmV0LW9mLWNvaW5iYXNl", "aGHUUzJD+eGsXBt01ocVzNI846gy5OteQ/okKwzH/Wo="),
            ("okx_v5", "secret-of-okx", "7v58xURU6Y5P5jS/hDTcmAn13D5TP5axM5OnbejtK4o="),
            ("kucoin_v2", "secret-of-kucoin", "HVx14dZaOguHO/O3vzFcZo1NN9F0WoiXv38fiMz2KDU="),
            (
                "bitmex",
                "secret-of-bitmex",
                "f09398834e596fb0b2d175c5a9d34331f1a3cee1385211f5bc8d305ae2a3ccb2",
            ),
            (
                "slack_v0",
                "secret-of-slack",
                "6eb998292fd9e9b992a89d86762c0f41c5d85595a4aab79ae1cffafada5c0533",
            ),
            (
                "standard_webhooks",
                "whsec_c2VjcmV0LW9mLXdlYmhvb2tz",
                "S/FY+coQR8l4XNTxjRBgzz1qFwjDmYaosvdyX9DhNL4=",
            ),
        ];
        for (name, secret, wanted) in rows {
            let recipe = named(name).unwrap();
            let time = written_at(recipe.time, AT);
            let asked = Asked("POST", "/orders?a=b", "{\"size\":1}");
            assert_eq!(signature(&recipe, "key-1", secret, &time, asked), wanted, "{name}");
        }
        let bybit = named("bybit_v5").unwrap();
        let get = Asked("GET", "/v5/market?category=spot&symbol=BTCUSDT", "");
        assert_eq!(
            signature(&bybit, "key-1", "secret-of-bybit", &AT.to_string(), get),
            "b1e073fff499c1a3c5b76375c15794544e40acf6daa41ff75a6dddd13ec889ec"
        );
        let post = Asked("POST", "/v5/order", "{\"size\":1}");
        assert_eq!(
            signature(&bybit, "key-1", "secret-of-bybit", &AT.to_string(), post),
            "6f5b5d54b85c877b01268835a29b917aee683dbca759deb9662185e7010599d1"
        );
    }

    /// As [`written`], at a moment that a test may choose.
    fn written_at(form: TimeForm, millis: u64) -> String {
        match form {
            TimeForm::Seconds => (millis / 1000).to_string(),
            TimeForm::Millis => millis.to_string(),
            TimeForm::Ahead(seconds) => (millis / 1000 + seconds).to_string(),
            TimeForm::Iso => "2017-07-12T02:41:59.559Z".to_owned(),
        }
    }

    #[test]
    fn kucoins_passphrase_is_signed_too() {
        let recipe = named("kucoin_v2").unwrap();
        let signer = Signer {
            recipe: &recipe,
            secret: secret(&recipe, b"secret-of-kucoin").unwrap(),
            key: b"",
            passphrase: b"phrase-of-mine",
            time: String::new(),
            nonce: String::new(),
        };
        let text = signer.piece(&Piece::SignedPassphrase, "");
        assert_eq!(*text, b"wCmAgyFjUl7weB6Xr8Nj61b0UM5B73MMQVS1rGU+PSY=");
    }

    #[test]
    fn a_secret_in_another_encoding_than_the_recipes_signs_nothing() {
        let mut recipe = named("coinbase_exchange").unwrap();
        assert!(secret(&recipe, b"no base64!").is_none());
        assert!(secret(&recipe, b"").is_none());
        recipe.secret = Encoding::Hex;
        assert_eq!(secret(&recipe, b"00fF10").unwrap().as_slice(), [0, 255, 16]);
        assert!(secret(&recipe, b"00f").is_none());
        assert!(secret(&recipe, b"zz").is_none());
    }
}
