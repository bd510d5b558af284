use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use relay::refusal::Code;

use crate::refusals::refused;
use crate::rig::client::Answer;
use crate::rig::vendor::{self, Received};
use crate::rig::{Rig, Settings};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// As a botocore with other keys, for another region, signs.
const SDKS: &str = "AWS4-HMAC-SHA256 Credential=dummy/20200101/us-west-2/s3/aws4_request, \
    SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
    Signature=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn aws(service: &str, more: &str) -> Rig {
    let integration = format!(
        "sign = {{ with = \"aws_sigv4\", region = \"eu-west-1\", service = \"{service}\", access_key = \"{{id}}\", \
         secret_key = \"{{key}}\", session_token = \"{{session}}\" }}\n{more}\n\
         [integrations.vendor.fields]\nid = {{ secret = false }}\nkey = {{}}\nsession = {{ optional = true }}\n"
    );
    signing(&integration)
}

fn signing(integration: &str) -> Rig {
    let settings = Settings { integration: integration.to_owned(), ..Settings::default() };
    Rig::with(settings, |request, out| vendor::answer_to(request, out, b"ok"))
}

fn secret(rig: &Rig, session: Option<&str>) -> String {
    let key = rig.canary.text().to_owned();
    let mut fields = vec![("id", "AKIDEXAMPLE"), ("key", key.as_str())];
    fields.extend(session.map(|session| ("session", session)));
    rig.secret_with("acme", "vendor", &fields)
}

/// A request as an AWS SDK sends it: the token stands where its session token goes.
fn ask(rig: &Rig, line: (&str, &str), more: &[(&str, &str)], body: &[u8]) -> Answer {
    let token = rig.token("acme");
    let mut headers = vec![
        ("authorization", SDKS),
        ("x-amz-date", "20200101T000000Z"),
        ("x-amz-security-token", token.as_str()),
    ];
    headers.extend_from_slice(more);
    rig.client().request(line.0, &format!("/vendor/{}", line.1), &headers, body)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac_of(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// What AWS would compute for a request whose path and query are tidy; `tests/sdk/sigv4.py` has the others.
fn signature_of(request: &Received, secret: &str, (region, service): (&str, &str), payload: &str) -> String {
    let authorization = request.header("authorization").unwrap();
    let names = authorization.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap();
    let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
    let method = request.line().split(' ').next().unwrap();
    let mut canonical = format!("{method}\n{path}\n{query}\n");
    for name in names.split(';') {
        canonical.push_str(&format!("{name}:{}\n", request.all(name).join(",")));
    }
    canonical.push_str(&format!("\n{names}\n{payload}"));
    let time = request.header("x-amz-date").unwrap();
    let scope = format!("{}/{region}/{service}/aws4_request", &time[..8]);
    let hashed = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [&time[..8], region, service, "aws4_request"] {
        key = hmac_of(&key, part.as_bytes());
    }
    let signature = hex(&hmac_of(&key, format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashed}").as_bytes()));
    format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={names}, Signature={signature}")
}

#[test]
fn what_an_sdk_signed_with_a_dummy_key_is_signed_anew() {
    let rig = aws("s3", "");
    let id = secret(&rig, None);
    let token = rig.token("acme");
    let hash = hex(digest(&SHA256, b"content").as_ref());
    let more =
        [("x-amz-content-sha256", hash.as_str()), ("x-amz-meta-a", "b"), ("content-type", "text/plain")];
    let answer = ask(&rig, ("PUT", &format!("{id}/bucket/key?partNumber=1&uploadId=x")), &more, b"content");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = rig.vendor.last();
    let wanted = signature_of(&seen, rig.canary.text(), ("eu-west-1", "s3"), &hash);
    assert_eq!(seen.all("authorization"), [wanted.as_str()]);
    let names = "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-meta-a,";
    assert!(wanted.contains(names), "{wanted}");
    assert_eq!(seen.body, b"content");
    assert_eq!(seen.all("x-amz-security-token"), [""; 0], "no session token in the secret, none sent");
    let date = seen.all("x-amz-date");
    assert!(date.len() == 1 && !date[0].starts_with("2020"), "the date is relay's own: {date:?}");
    for foreign in ["dummy", "us-west-2", token.as_str(), rig.canary.text(), id.as_str()] {
        assert!(!seen.head.contains(foreign), "{foreign} reached the vendor: {}", seen.head);
    }
}

#[test]
fn the_secrets_own_session_token_takes_the_callers_place() {
    let rig = aws("dynamodb", "");
    let session = format!("session-{}", rig.canary.text().len());
    let (with, without) = (secret(&rig, Some(&session)), secret(&rig, None));
    for (id, wanted) in [(&with, vec![session.as_str()]), (&without, vec![])] {
        let answer = ask(&rig, ("POST", &format!("{id}/")), &[("x-amz-target", "DynamoDB.List")], b"{}");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = rig.vendor.last();
        assert_eq!(seen.all("x-amz-security-token"), wanted);
        let hash = hex(digest(&SHA256, b"{}").as_ref());
        let signed = signature_of(&seen, rig.canary.text(), ("eu-west-1", "dynamodb"), &hash);
        assert_eq!(seen.header("authorization"), Some(signed.as_str()));
        assert_eq!(signed.contains("x-amz-security-token"), !wanted.is_empty());
        assert!(signed.contains("x-amz-target"), "{signed}");
    }
}

#[test]
fn a_told_hash_is_kept_and_a_missing_one_is_made_of_the_collected_body() {
    let s3 = aws("s3", "body_limit = 2048\n");
    let other = aws("execute-api", "body_limit = 2048\n");
    let (long, wrong) = (vec![b'x'; 100_000], "0".repeat(64));
    let short = hex(digest(&SHA256, b"short").as_ref());
    let unsigned = "UNSIGNED-PAYLOAD";
    let trailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    let rows: [(&Rig, &str, Option<&str>, &[u8], &str, &str); 8] = [
        (&s3, "s3", Some(unsigned), &long, unsigned, "over the limit, and not collected"),
        (&s3, "s3", Some(trailer), &long, trailer, "with checksums behind the content"),
        (&s3, "s3", Some(&wrong), &long, &wrong, "a hash is not checked here: the vendor does"),
        (&s3, "s3", None, b"short", &short, "S3 wants one, and the app told none"),
        (&s3, "s3", None, b"", EMPTY, "of nothing"),
        (&other, "execute-api", None, b"short", &short, "other services hash without telling"),
        (&other, "execute-api", None, b"", EMPTY, "of nothing"),
        (&other, "execute-api", Some(unsigned), b"short", unsigned, "told to another service"),
    ];
    for (rig, service, told, body, payload, mistake) in rows {
        let id = secret(rig, None);
        let more: Vec<_> = told.iter().map(|told| ("x-amz-content-sha256", *told)).collect();
        let answer = ask(rig, ("PUT", &format!("{id}/a")), &more, body);
        assert_eq!(answer.status, 200, "{mistake}: {}", answer.text());
        let seen = rig.vendor.last();
        let signed = signature_of(&seen, rig.canary.text(), ("eu-west-1", service), payload);
        assert_eq!(seen.header("authorization"), Some(signed.as_str()), "{mistake}");
        let said = told.or((service == "s3").then_some(payload));
        assert_eq!(seen.header("x-amz-content-sha256"), said, "{mistake}");
        assert_eq!(seen.body, body, "{mistake}");
    }
}

#[test]
fn what_cannot_be_signed_anew_is_refused_before_anything_is_opened() {
    let rig = aws("s3", "body_limit = 2048\n");
    let id = secret(&rig, None);
    let long = vec![b'x'; 4096];
    let unsignable = Code::RequestUnsignable;
    let unsigned = [("x-amz-content-sha256", "UNSIGNED-PAYLOAD")];
    let told = |value| [("x-amz-content-sha256", value)];
    let rows: Vec<(&str, Vec<(&str, &str)>, &[u8], Code, &str)> = vec![
        ("a?X-Amz-Signature=1", unsigned.to_vec(), b"", unsignable, "presigned"),
        ("a?x=1&x-amz-credential=1", unsigned.to_vec(), b"", unsignable, "in another case"),
        ("a?X%2DAmz%2DAlgorithm=1", unsigned.to_vec(), b"", unsignable, "escaped"),
        ("a?X%252DAmz-Expires=1", unsigned.to_vec(), b"", unsignable, "escaped twice"),
        ("a?AWSAccessKeyId=1&Signature=x", unsigned.to_vec(), b"", unsignable, "version 2"),
        ("a", told("STREAMING-AWS4-HMAC-SHA256-PAYLOAD").to_vec(), b"x", unsignable, "signed chunks"),
        ("a", told("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER").to_vec(), b"x", unsignable, "and a trailer"),
        ("a", told("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD").to_vec(), b"x", unsignable, "of version 4A"),
        ("a", told("sha256").to_vec(), b"x", unsignable, "no hash"),
        ("a", [unsigned, unsigned].concat(), b"x", unsignable, "told twice"),
        ("a", vec![], &long, Code::BodyTooLarge, "no hash, and too long to be hashed"),
    ];
    for (path, more, body, code, mistake) in rows {
        let answer = ask(&rig, ("PUT", &format!("{id}/{path}")), &more, body);
        assert_eq!(answer.code(), code.as_str(), "{mistake}: {}", answer.text());
        refused(&answer, code);
    }
    assert!(rig.vendor.requests().is_empty());
    let records = rig.audit();
    let unsignable = |r: &serde_json::Value| r["code"] == "request_unsignable";
    assert!(!records.iter().any(|r| unsignable(r) && r["kind"] == "intent"), "{records:#?}");
}

#[test]
fn a_body_without_a_hash_is_asked_for_before_the_vendor_is() {
    let rig = aws("s3", "");
    let id = secret(&rig, None);
    let token = rig.token("acme");
    let mut client = rig.client();
    client.send(&format!(
        "PUT /vendor/{id}/a HTTP/1.1\r\nhost: a\r\nx-amz-security-token: {token}\r\ncontent-length: 5\r\n\
         expect: 100-continue\r\n\r\n"
    ));
    let (status, _) = client.head();
    assert_eq!(status, 100);
    assert!(rig.vendor.requests().is_empty(), "nothing can be signed yet");
    client.send("hello");
    assert_eq!(client.answer("PUT").status, 200);
    assert_eq!(rig.vendor.last().header("expect"), None);
    assert_eq!(rig.vendor.last().body, b"hello");
}

#[test]
fn a_region_may_be_each_secrets_own() {
    let rig = signing(
        "sign = { with = \"aws_sigv4\", region = \"{region}\", service = \"sqs\", access_key = \"{id}\", \
         secret_key = \"{key}\" }\n[integrations.vendor.fields]\nregion = { secret = false }\n\
         id = { secret = false }\nkey = {}\n",
    );
    let key = rig.canary.text().to_owned();
    for (region, status) in [("ap-south-1", 200), ("eu west", 424), ("a/b", 424)] {
        let fields = [("region", region), ("id", "AKIDEXAMPLE"), ("key", key.as_str())];
        let id = rig.secret_with("acme", "vendor", &fields);
        let answer = ask(&rig, ("POST", &format!("{id}/")), &[], b"x");
        assert_eq!(answer.status, status, "{region}: {}", answer.text());
    }
    let hash = hex(digest(&SHA256, b"x").as_ref());
    let seen = rig.vendor.last();
    let signed = signature_of(&seen, &key, ("ap-south-1", "sqs"), &hash);
    assert_eq!(seen.header("authorization"), Some(signed.as_str()));
}

#[test]
fn an_access_key_that_would_write_into_the_signatures_own_text_signs_nothing() {
    let rig = aws("s3", "");
    let key = rig.canary.text().to_owned();
    for access in ["AKID/x", "AKID, SignedHeaders=host", "A KID"] {
        let id = rig.secret_with("acme", "vendor", &[("id", access), ("key", &key)]);
        refused(&ask(&rig, ("GET", &format!("{id}/a")), &[], b""), Code::CredentialUnusable);
    }
}

#[test]
fn a_field_named_like_a_signed_one_in_another_spelling_does_not_go_on() {
    let rig = aws("s3", "");
    let id = secret(&rig, None);
    let more = [("x_amz_date", "19990101T000000Z"), ("x_amz_security_token", "foreign")];
    assert_eq!(ask(&rig, ("GET", &format!("{id}/a")), &more, b"").status, 200);
    let seen = rig.vendor.last();
    assert_eq!((seen.all("x_amz_date").len(), seen.all("x_amz_security_token").len()), (0, 0));
}

const FIELDS: &str = "[integrations.vendor.fields]\napi_key = { secret = false }\napi_secret = {}\n";

#[test]
fn coinbases_headers_are_set_and_the_sdks_own_are_gone() {
    let rig = signing(&format!(
        "sign = {{ with = \"coinbase_exchange\", key = \"{{api_key}}\", secret = \"{{api_secret}}\", \
         passphrase = \"{{phrase}}\" }}\n{FIELDS}phrase = {{}}\n"
    ));
    let text = STANDARD.encode(rig.canary.text());
    let fields = [("api_key", "key-1"), ("api_secret", text.as_str()), ("phrase", "phrase-of-mine")];
    let id = rig.secret_with("acme", "vendor", &fields);
    // The token stands where the SDK puts its API key.
    let token = rig.token("acme");
    let headers = [
        ("cb-access-key", token.as_str()),
        ("cb-access-sign", "dummy"),
        ("cb-access-timestamp", "1"),
        ("cb-access-passphrase", "dummy"),
        ("content-type", "application/json"),
    ];
    let answer = rig.client().request("POST", &format!("/vendor/{id}/orders?a=b"), &headers, b"{\"size\":1}");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = rig.vendor.last();
    let time = seen.header("cb-access-timestamp").unwrap();
    let now = relay::clock::unix_seconds();
    assert!(time.parse::<u64>().is_ok_and(|time| now - time < 60), "{time}");
    let signed = format!("{time}POST/base/orders?a=b{{\"size\":1}}");
    let signature = STANDARD.encode(hmac_of(rig.canary.text().as_bytes(), signed.as_bytes()));
    assert_eq!(seen.all("cb-access-sign"), [signature.as_str()]);
    assert_eq!(seen.all("cb-access-key"), ["key-1"]);
    assert_eq!(seen.all("cb-access-passphrase"), ["phrase-of-mine"]);
    assert!(!seen.head.contains(&token) && !seen.head.contains("dummy"), "{}", seen.head);
}

#[test]
fn binances_parameters_are_taken_out_wherever_they_stand_and_signed_anew() {
    let rig = signing(&format!(
        "sign = {{ with = \"binance\", key = \"{{api_key}}\", secret = \"{{api_secret}}\" }}\n{FIELDS}"
    ));
    let canary = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "vendor", &[("api_key", "key-1"), ("api_secret", &canary)]);
    let form = ("content-type", "application/x-www-form-urlencoded; charset=UTF-8");
    let rows: [(&str, &str, &[u8], &str, &str); 4] = [
        ("GET", "a?symbol=X&timestamp=1&signature=dummy", b"", "symbol=X&", "in the query"),
        ("GET", "a?signa%74ure=dummy", b"", "", "escaped, and nothing beside it"),
        ("POST", "a?symbol=X", b"side=BUY&signature=dummy&timestamp=1", "symbol=X&", "in the form"),
        ("DELETE", "a", b"", "", "none"),
    ];
    for (method, path, body, kept, mistake) in rows {
        let auth = format!("Bearer {}", rig.token("acme"));
        let headers = [("authorization", auth.as_str()), form];
        let answer = rig.client().request(method, &format!("/vendor/{id}/{path}"), &headers, body);
        assert_eq!(answer.status, 200, "{mistake}: {}", answer.text());
        let seen = rig.vendor.last();
        let (query, signature) = seen
            .target()
            .split_once('?')
            .unwrap()
            .1
            .split_once("&signature=")
            .unwrap_or_else(|| panic!("{mistake}: {}", seen.target()));
        assert!(query.starts_with(&format!("{kept}timestamp=")), "{mistake}: {query}");
        let left: &[u8] = if body.is_empty() { b"" } else { b"side=BUY" };
        assert_eq!(seen.body, left, "{mistake}");
        let signed = [query.as_bytes(), left].concat();
        assert_eq!(signature, hex(&hmac_of(canary.as_bytes(), &signed)), "{mistake}");
        assert_eq!(seen.all("x-mbx-apikey"), ["key-1"], "{mistake}");
    }
}

#[test]
fn an_integration_may_write_its_own_recipe() {
    let rig = signing(&format!(
        "sign = {{ with = \"hmac_sha512\", key = \"{{api_key}}\", secret = \"{{api_secret}}\", \
         message = [\"'v1:'\", \"method\", \"path\", \"query\", \"time\", \"nonce\", \"body\"], joined_by = \"\\n\", \
         time = \"milliseconds\", output = \"base64\", signature_header = \"x-signature\", signature_prefix = \"v1=\", \
         time_header = \"x-time\", nonce_header = \"x-nonce\", key_header = \"x-key\" }}\n{FIELDS}"
    ));
    let canary = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "vendor", &[("api_key", "key-1"), ("api_secret", &canary)]);
    let auth = format!("Bearer {}", rig.token("acme"));
    let mut nonces = Vec::new();
    for body in [&b"{}"[..], b""] {
        let headers = [("authorization", auth.as_str()), ("x-signature", "dummy")];
        let answer = rig.client().request("POST", &format!("/vendor/{id}/a?b=c"), &headers, body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = rig.vendor.last();
        let (time, nonce) = (seen.header("x-time").unwrap(), seen.header("x-nonce").unwrap());
        let mut signed = format!("v1:\nPOST\n/base/a\nb=c\n{time}\n{nonce}\n").into_bytes();
        signed.extend_from_slice(body);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, canary.as_bytes()), &signed);
        assert_eq!(seen.all("x-signature"), [format!("v1={}", STANDARD.encode(tag.as_ref()))]);
        assert_eq!(seen.all("x-key"), ["key-1"]);
        nonces.push(nonce.to_owned());
    }
    assert!(nonces[0] != nonces[1] && nonces[0].len() == 32, "{nonces:?}");
}

#[test]
fn a_secret_that_is_not_what_its_recipe_needs_signs_nothing() {
    let rig = signing(
        "sign = { with = \"standard_webhooks\", secret = \"{api_secret}\" }\n\
         [integrations.vendor.fields]\napi_secret = {}\n",
    );
    let id = rig.secret_with("acme", "vendor", &[("api_secret", "this is no base64")]);
    let auth = format!("Bearer {}", rig.token("acme"));
    let headers = [("authorization", auth.as_str())];
    let answer = rig.client().request("POST", &format!("/vendor/{id}/a"), &headers, b"{}");
    refused(&answer, Code::CredentialUnusable);
    assert!(!answer.text().contains("base64"), "{}", answer.text());
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn a_placement_whose_optional_field_is_absent_is_left_out() {
    let rig = signing(
        "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }, { header = \"x-team\", value = \"team {team}\" }]\n\
         [integrations.vendor.fields]\ntoken = {}\nteam = { secret = false, optional = true }\n",
    );
    let canary = rig.canary.text().to_owned();
    let with = rig.secret_with("acme", "vendor", &[("token", &canary), ("team", "red")]);
    let without = rig.secret_with("acme", "vendor", &[("token", &canary)]);
    for (id, wanted) in [(with, vec!["team red"]), (without, vec![])] {
        let auth = format!("Bearer {}", rig.token("acme"));
        let headers = [("authorization", auth.as_str()), ("x-team", "the app's")];
        assert_eq!(rig.client().request("GET", &format!("/vendor/{id}/a"), &headers, b"").status, 200);
        let seen = rig.vendor.last();
        assert_eq!(seen.all("x-team"), wanted, "what the app wrote there does not go on either way");
        assert_eq!(seen.all("authorization"), [format!("Bearer {canary}")]);
    }
    let body =
        serde_json::json!({ "customer": "acme", "integration": "vendor", "fields": { "team": "red" } });
    assert_eq!(
        rig.admin("POST", "/v1/secrets", Some(&body.to_string())).status,
        400,
        "the other is not optional"
    );
}
