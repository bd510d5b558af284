//! AWS Signature Version 4: the canonical request and what is signed of it.
//!
//! From "Signature Version 4 signing process: create a signed AWS API request" (IAM User Guide). Pure functions
//! without a clock: the tests hold them against AWS's published vectors, `tests/sdk/sigv4.py` against botocore.
//! The canonical request is hashed as it is made and never stands anywhere whole, because a session token is in
//! it. What must never enter: a decision about what may be signed.

use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, Method};
use zeroize::Zeroizing;

/// The header that says what the body's hash is, for S3 and its kin.
pub(super) const X_AMZ_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// What a signature is good for.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// `20150830T123600Z`
    pub(super) time: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

impl Scope<'_> {
    /// `20150830`
    fn date(&self) -> &str {
        self.time.get(..8).unwrap_or_default()
    }

    /// `20150830/us-east-1/iam/aws4_request`
    pub(super) fn text(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date(), self.region, self.service)
    }

    /// S3 takes a path as it is; every other service has it encoded once more, and empty segments left out.
    fn path_as_is(&self) -> bool {
        matches!(self.service, "s3" | "s3-object-lambda" | "s3-outposts" | "s3express")
    }
}

/// A request as it goes out.
pub(super) struct Canonical<'a> {
    pub(super) method: &'a Method,
    /// The path, encoded as it is sent.
    pub(super) path: &'a str,
    /// The query as it is sent, without its question mark.
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    /// The body's hash in hexadecimal, or what stands for it.
    pub(super) payload: &'a str,
}

impl Canonical<'_> {
    /// The signature in hexadecimal, and the names of the headers that it covers.
    pub(super) fn sign(&self, scope: Scope<'_>, secret_key: &[u8]) -> (String, String) {
        let names = signed_headers(self.headers);
        let mut hash = Context::new(&SHA256);
        self.write(scope, &names, |piece| hash.update(piece));
        let hashed = hex(hash.finish().as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{}\n{}\n{hashed}", scope.time, scope.text());
        (hex(&*tag(&*signing_key(scope, secret_key), text.as_bytes())), names.join(";"))
    }

    fn write(&self, scope: Scope<'_>, names: &[&str], mut out: impl FnMut(&[u8])) {
        let path = if scope.path_as_is() { tidied(self.path) } else { encoded_again(self.path) };
        for line in [self.method.as_str(), &path, &canonical_query(self.query)] {
            out(line.as_bytes());
            out(b"\n");
        }
        for name in names {
            out(name.as_bytes());
            let mut between: &[u8] = b":";
            for value in self.headers.get_all(*name) {
                out(between);
                folded(value.as_bytes(), &mut out);
                between = b",";
            }
            out(b"\n");
        }
        out(b"\n");
        out(names.join(";").as_bytes());
        out(b"\n");
        out(self.payload.as_bytes());
    }
}

/// As few headers as AWS asks for, because proxies on the way change others: `host`, `content-type`,
/// `content-md5` and every `x-amz-*`, in order.
fn signed_headers(headers: &HeaderMap) -> Vec<&str> {
    let fixed = [CONTENT_MD5, CONTENT_TYPE, HOST];
    let signed = |name: &&HeaderName| fixed.contains(name) || name.as_str().starts_with("x-amz-");
    let mut names: Vec<&str> = headers.keys().filter(signed).map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

/// A value without spaces round it, and one where several stand together.
fn folded(value: &[u8], mut out: impl FnMut(&[u8])) {
    let mut words = value.split(|byte| *byte == b' ' || *byte == b'\t').filter(|word| !word.is_empty());
    if let Some(first) = words.next() {
        out(first);
    }
    for word in words {
        out(b" ");
        out(word);
    }
}

/// A path with every byte written the one way that S3 writes it when it checks. `%2F` stays: it belongs to its
/// segment.
fn tidied(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 8);
    for (byte, escaped) in decoded(path) {
        match byte {
            b'/' if !escaped => out.push('/'),
            _ => push_encoded(&mut out, byte),
        }
    }
    out
}

/// A path without empty segments, encoded once more than it is.
fn encoded_again(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 16);
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        out.push('/');
        segment.bytes().for_each(|byte| push_encoded(&mut out, byte));
    }
    if path.ends_with('/') || out.is_empty() {
        out.push('/');
    }
    out
}

/// The parameters in order of their encoded names and values, each with its `=`.
pub(super) fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded_anew(name), encoded_anew(value)))
        .collect();
    pairs.sort_unstable();
    let mut out = String::with_capacity(query.len() + 16);
    for (name, value) in &pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        out.push_str(value);
    }
    out
}

/// Text of a query, decoded and encoded the one way that AWS writes it. A plus is a space there.
fn encoded_anew(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (byte, escaped) in decoded(text) {
        push_encoded(&mut out, if byte == b'+' && !escaped { b' ' } else { byte });
    }
    out
}

/// The bytes that a text stands for, and whether each was escaped. A `%` without two digits is itself.
pub(super) fn decoded(text: &str) -> impl Iterator<Item = (u8, bool)> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (first, behind) = rest.split_first()?;
        let digit = |at: usize| behind.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (*first, digit(0), digit(1)) {
            rest = behind.get(2..).unwrap_or_default();
            return u8::try_from(high * 16 + low).ok().map(|byte| (byte, true));
        }
        rest = behind;
        Some((*first, false))
    })
}

/// RFC 3986 section 2.3: everything but what is unreserved is escaped.
pub(super) fn push_encoded(out: &mut String, byte: u8) {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        out.push(char::from(byte));
    } else {
        let _ = write!(out, "%{byte:02X}");
    }
}

/// The key for one day, region and service. The library wipes its own state; the tags in between, which open no
/// more than that, are wiped here but for what the compiler left on the stack.
fn signing_key(scope: Scope<'_>, secret_key: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut first = Zeroizing::new(Vec::with_capacity(4 + secret_key.len()));
    first.extend_from_slice(b"AWS4");
    first.extend_from_slice(secret_key);
    let date = tag(&first, scope.date().as_bytes());
    let region = tag(&*date, scope.region.as_bytes());
    let service = tag(&*region, scope.service.as_bytes());
    tag(&*service, b"aws4_request")
}

fn tag(key: &[u8], data: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    out.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    out
}

/// Bytes as hexadecimal digits in lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // AWS's "Signature Version 4 test suite": the credentials and the scope that all of its vectors share.
    const SECRET: &[u8] = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const SCOPE: Scope<'_> = Scope { time: "20150830T123600Z", region: "us-east-1", service: "service" };
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    // The names are those of the suite; what it signs beside host, date and content-type is left out.
    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn the_published_vectors_have_their_published_signatures() {
        let unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let form = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
        let rows: &[(&str, &str, &str, Option<&str>, &str)] = &[
            (
                "get-vanilla",
                "GET",
                "/",
                None,
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-vanilla-empty-query-key",
                "GET",
                "/?Param1=value1",
                None,
                "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
            ),
            (
                "get-vanilla-query-order-key-case",
                "GET",
                "/?Param2=value2&Param1=value1",
                None,
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "get-vanilla-query-unreserved",
                "GET",
                &format!("/?{unreserved}={unreserved}"),
                None,
                "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
            ),
            (
                "get-vanilla-utf8-query",
                "GET",
                "/?\u{1234}=bar",
                None,
                "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
            ),
            (
                "get-unreserved",
                "GET",
                &format!("/{unreserved}"),
                None,
                "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
            ),
            (
                "get-utf8",
                "GET",
                "/\u{1234}",
                None,
                "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
            ),
            (
                "get-space",
                "GET",
                "/example space/",
                None,
                "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
            ),
            (
                "get-slashes",
                "GET",
                "//example//",
                None,
                "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
            ),
            (
                "post-vanilla",
                "POST",
                "/",
                None,
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                "POST",
                "/",
                Some("application/x-www-form-urlencoded"),
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "post-x-www-form-urlencoded-parameters",
                "POST",
                "/",
                Some("  application/x-www-form-urlencoded;   charset=utf8 "),
                "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
            ),
        ];
        for (name, method, target, kind, wanted) in rows {
            let mut headers = HeaderMap::new();
            headers.insert("host", "example.amazonaws.com".parse().unwrap());
            headers.insert("x-amz-date", SCOPE.time.parse().unwrap());
            headers.insert("user-agent", "is not signed".parse().unwrap());
            if let Some(kind) = kind {
                headers.insert("content-type", kind.parse().unwrap());
            }
            let payload = if kind.is_some() { form } else { EMPTY };
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let canonical = Canonical { method: &method, path, query, headers: &headers, payload };
            assert_eq!(canonical.sign(SCOPE, SECRET).0, *wanted, "{name}");
        }
    }

    #[test]
    fn the_published_signing_key_comes_out() {
        // IAM User Guide, "Examples of how to derive a signing key": date 20120215, us-east-1, iam.
        let scope = Scope { time: "20120215T000000Z", region: "us-east-1", service: "iam" };
        let key = signing_key(scope, b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        assert_eq!(hex(&*key), "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d");
    }

    #[test]
    fn queries_are_written_the_one_way_that_aws_writes_them() {
        let rows = [
            ("", "", "none"),
            ("b=2&a=1", "a=1&b=2", "sorted"),
            ("a=2&a=1&a=", "a=&a=1&a=2", "repeated: by value"),
            ("a", "a=", "without a value"),
            ("a=b=c", "a=b%3Dc", "a second equals sign"),
            ("&a=1&&", "a=1", "empty pairs"),
            ("a=x+y&b=x%2By", "a=x%20y&b=x%2By", "a plus is a space, an escaped one is a plus"),
            ("k=%7e%2f%c3%a9", "k=~%2F%C3%A9", "escapes in lower case, and one too many"),
            ("k=100%", "k=100%25", "a percent sign that is no escape"),
            ("a=1&A=1&a-b=1&a%3Db=1", "A=1&a=1&a%3Db=1&a-b=1", "by the encoded name"),
        ];
        for (query, wanted, mistake) in rows {
            assert_eq!(canonical_query(query), wanted, "{mistake}");
        }
    }

    #[test]
    fn s3_takes_a_path_once_and_every_other_service_twice() {
        let rows = [
            ("/", "/", "/", "the root"),
            ("/a%20b", "/a%20b", "/a%2520b", "a space"),
            ("/a%2Fb", "/a%2Fb", "/a%252Fb", "an encoded slash belongs to its segment"),
            ("//a//b/", "//a//b/", "/a/b/", "empty segments"),
            ("/a(b)!", "/a%28b%29%21", "/a%28b%29%21", "what the app need not have escaped"),
            ("/%7ea%e2%82%ac", "/~a%E2%82%AC", "/%257ea%25e2%2582%25ac", "escapes in lower case"),
        ];
        for (path, once, twice, mistake) in rows {
            assert_eq!((tidied(path).as_str(), encoded_again(path).as_str()), (once, twice), "{mistake}");
        }
    }
}
