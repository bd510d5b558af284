//! A request's head, judged line by line as it comes.
//!
//! Each line is looked at once, whatever the pieces that it came in, and the first one that two programs
//! could read in two ways ends it (RFC 9112 sections 2 to 6). What passes here is a subset of what hyper
//! takes, so that hyper never refuses by itself. What must never enter: a normalised copy of anything.

use http::Uri;
use memchr::memchr;

use crate::framing::{self, Field, Flaw, is_token_byte};
use crate::listen::DoorLimits;
use crate::refusal::{Code, Refusal};

/// The longest target that the `http` crate holds.
const TARGET_BYTES: usize = 65_000;

/// What comes behind a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Nothing: the request has ended.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A head so far.
#[derive(Debug, Default)]
pub struct Head {
    /// Where the line that is not yet whole begins.
    line: usize,
    /// Up to where its end was looked for.
    looked: usize,
    begun: bool,
    old: bool,
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    /// Reads on in `bytes`, which begin where the head does; says where the head ends and what follows.
    /// `None` if it is not whole.
    ///
    /// # Errors
    /// `request_malformed`, `path_refused`, `head_too_large`.
    pub fn read(&mut self, limits: &DoorLimits, bytes: &[u8]) -> Result<Option<(usize, Body)>, Refusal> {
        if !self.begun && bytes.first().is_some_and(|first| !is_token_byte(*first)) {
            return Err(malformed("A request begins with its method."));
        }
        while let Some(at) = memchr(b'\n', bytes.get(self.looked..).unwrap_or_default()) {
            let end = self.looked + at + 1;
            if end > limits.head_bytes {
                return Err(too_large(limits));
            }
            let line = framing::line(bytes.get(self.line..end).unwrap_or_default())?;
            (self.line, self.looked) = (end, end);
            if !self.begun {
                self.begun = true;
                self.old = request_line(line)?;
            } else if line.is_empty() {
                return Ok(Some((end, self.body()?)));
            } else {
                self.fields += 1;
                if self.fields > limits.head_fields {
                    return Err(too_large(limits));
                }
                self.field(line)?;
            }
        }
        self.looked = bytes.len();
        if bytes.len() >= limits.head_bytes { Err(too_large(limits)) } else { Ok(None) }
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let Field { name, value } = framing::field(line)?;
        if !value.is_ascii() {
            return Err(malformed("A field's value holds a byte that is not ASCII."));
        }
        // By its length first: most names are not looked at further.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 || !is_authority(value) {
                    return Err(malformed(ONE_HOST));
                }
            }
            6 if name.eq_ignore_ascii_case(b"expect")
                && !self.old
                && !value.eq_ignore_ascii_case(b"100-continue") =>
            {
                return Err(malformed(
                    "relay meets no expectation but `100-continue` (RFC 9110 section 10.1.1).",
                ));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(malformed("A request has at most one Content-Length."));
                }
                self.length = Some(framing::length(value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || value != b"chunked" {
                    return Err(malformed("Transfer-Encoding is exactly `chunked`, once, or absent."));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The head is whole: how its body is framed (RFC 9112 section 6.3).
    fn body(&self) -> Result<Body, Refusal> {
        match (self.hosts, self.chunked, self.length) {
            (0, _, _) => Err(malformed(ONE_HOST)),
            (_, true, Some(_)) => Err(malformed(
                "A request has a Content-Length or a Transfer-Encoding, not both (RFC 9112 section 6.3).",
            )),
            (_, true, None) if self.old => Err(malformed("HTTP/1.0 has no Transfer-Encoding.")),
            (_, true, None) => Ok(Body::Chunked),
            (_, false, Some(0) | None) => Ok(Body::None),
            (_, false, Some(length)) => Ok(Body::Length(length)),
        }
    }
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        malformed(flaw.0)
    }
}

const ONE_HOST: &str =
    "A request has exactly one Host field, a host with or without a port (RFC 9112 section 3.2).";

fn malformed(why: &'static str) -> Refusal {
    Refusal::new(Code::RequestMalformed, why)
}

fn too_large(limits: &DoorLimits) -> Refusal {
    let (bytes, fields) = (limits.head_bytes, limits.head_fields);
    let detail = format!("A request's head has at most {bytes} bytes and {fields} fields.");
    Refusal::new(Code::HeadTooLarge, detail)
}

/// `token SP target SP HTTP/1.1`; whether it is HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Refusal> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let [Some(method), Some(target), Some(version)] = [parts.next(), parts.next(), parts.next()] else {
        return Err(malformed("A request line is a method, a target and a version with one space between."));
    };
    if method.is_empty() || !method.iter().all(|byte| is_token_byte(*byte)) {
        return Err(malformed("A request's method is not a token."));
    }
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return Err(malformed("A request line ends in HTTP/1.1 or HTTP/1.0.")),
    };
    if matches!(method, b"CONNECT" | b"TRACE") {
        return Err(malformed("relay takes no CONNECT and no TRACE."));
    }
    if target.len() > TARGET_BYTES {
        let detail = format!("A request's target has at most {TARGET_BYTES} bytes.");
        return Err(Refusal::new(Code::HeadTooLarge, detail));
    }
    check_target(target)?;
    Ok(old)
}

/// Checks a request's target as it stands, a path or a URL (RFC 9112 section 3.2).
///
/// # Errors
/// `path_refused`, `request_malformed`.
pub(in crate::listen) fn check_target(target: &[u8]) -> Result<(), Refusal> {
    let refuse = |why: &'static str| Err(Refusal::new(Code::PathRefused, why));
    if target.contains(&b'\r') {
        return Err(malformed("The request line holds a CR."));
    }
    let query = memchr(b'?', target).unwrap_or(target.len());
    let (path, query) = target.split_at(query);
    if !path.iter().all(|byte| stands_in(*byte, IN_PATH))
        || !query.iter().all(|byte| stands_in(*byte, IN_QUERY))
    {
        return refuse("The request's target holds a # or a byte that must be percent-encoded.");
    }
    match target.first() {
        Some(b'/') => Ok(()),
        None => Err(malformed("A request line has one space before the target and one behind it.")),
        Some(b'*') if target.len() == 1 => Err(malformed("A request's target begins with a slash.")),
        Some(_) => {
            // Absolute form (RFC 9112 section 3.2.2): rare, so parsed as hyper will.
            let Ok(uri) = Uri::try_from(target) else {
                return refuse("The request's target is neither a path nor a URL.");
            };
            let http = matches!(uri.scheme_str(), Some("http" | "https"));
            let authority =
                uri.authority().is_some_and(|authority| is_authority(authority.as_str().as_bytes()));
            if http && authority && uri.path().starts_with('/') {
                Ok(())
            } else {
                refuse("The request's target is neither a path nor an http URL with a host.")
            }
        }
    }
}

/// `host`, `host:port` or `[ipv6]:port` (RFC 3986 section 3.2.2), as rewritten references will name it.
pub(in crate::listen) fn is_authority(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|b| *b == b':') {
        Some(colon) if host.last() != Some(&b']') => host.split_at(colon),
        _ => (host, &b":0"[..]),
    };
    let inside = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]"));
    let named = match inside {
        Some(address) => {
            !address.is_empty() && address.iter().all(|b| b.is_ascii_hexdigit() || b":.".contains(b))
        }
        None => !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b)),
    };
    let digits = port.get(1..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
    named && digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
}

const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;

fn stands_in(byte: u8, part: u8) -> bool {
    TARGET.get(usize::from(byte)).is_some_and(|parts| parts & part != 0)
}

/// What the `http` crate takes in a path and in a query, less what is not visible ASCII, and `#`.
// The compiler fills it, and sees every index.
#[allow(clippy::indexing_slicing)]
const TARGET: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0x21_u8;
    while byte < 0x7f {
        table[byte as usize] = match byte {
            b'#' | b'<' | b'>' => 0,
            b'"' => IN_PATH,
            b'`' => IN_QUERY,
            _ => IN_PATH | IN_QUERY,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_authority_is_a_host() {
        for host in ["a", "relay.internal", "127.0.0.1:8480", "[::1]", "[::1]:8480", "a_b"] {
            assert!(is_authority(host.as_bytes()), "{host}");
        }
        for host in ["", ":80", "a b", "a/x?", "user@a", "[::1", "a:", "a:b", "a:99999", "[]", "a,b"] {
            assert!(!is_authority(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn every_target_that_passes_is_one_that_hyper_takes() {
        let mut passed = 0;
        for byte in 0..=255_u8 {
            for before in [&b"/a"[..], b"/a?b", b"http://h/a", b"http://h/a?b", b"http://h", b"", b"http://"]
            {
                let target = [before, &[byte], b"c"].concat();
                if check_target(&target).is_ok() {
                    passed += 1;
                    let uri = Uri::try_from(target.as_slice());
                    let uri = uri.unwrap_or_else(|error| panic!("{}: {error}", target.escape_ascii()));
                    assert!(uri.path().starts_with('/'));
                    // Nothing is cut off, as a fragment would be.
                    assert!(target.ends_with(
                        uri.path_and_query().unwrap().as_str().trim_start_matches('/').as_bytes()
                    ));
                }
            }
        }
        assert!(passed > 300, "{passed}");
    }
}
