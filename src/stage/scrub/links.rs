//! References in a vendor's head, kept inside relay.
//!
//! A client follows a relative `Location` into whatever stands at that path on relay, be it another
//! integration; it follows a paging link to the vendor itself and sends it the caller's token. So each
//! reference is resolved as RFC 3986 section 5 says, against the URL that the vendor was asked for, and
//! then either rewritten to relay's own absolute form, left alone byte for byte (another origin), or
//! dropped.
//!
//! Clients disagree about odd references, so the text is judged as it was written, before any parser has
//! tidied it up; what then counts as inside must mean the same to the WHATWG parser (the `url` crate).
//! Where the readings differ the reference is unclear, and dropped. What must never enter: a lenient
//! reading, or a path placement's credential in [`Address::target`].

use http::StatusCode;
use http::header::{CONTENT_LOCATION, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, REFRESH};

use super::reference::judge;
pub use super::reference::{Address, Verdict, Why};
use crate::stage::inject::Echo;

/// The fields whose references are looked at.
pub const FIELDS: [HeaderName; 4] = [LOCATION, CONTENT_LOCATION, LINK, REFRESH];

/// A reference that was taken out, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The field it stood in.
    pub field: HeaderName,
    /// The reason.
    pub why: Why,
}

/// A redirect without a usable `Location`: the answer must not be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a redirect's Location {0}")]
pub struct LinkRefused(pub Why);

/// Writes what a reference repeats of the request's target as the app knows it, if it then leads inside: another
/// origin must not be told what the app wrote there, which may be the caller's token. Only a whole piece of it counts,
/// between the marks of a URL: so this tells no more of the credential than overwriting it does.
pub fn restore(headers: &mut HeaderMap, echoes: &[Echo], address: &Address<'_>) {
    for field in FIELDS {
        let values: Vec<HeaderValue> = headers.get_all(&field).iter().cloned().collect();
        headers.remove(&field);
        for value in values {
            let known = restored_value(&field, &value, echoes, address);
            headers.append(&field, known.unwrap_or(value));
        }
    }
}

/// The value with such pieces written anew; `None` if there is none that leads inside.
fn restored_value(
    field: &HeaderName,
    value: &HeaderValue,
    echoes: &[Echo],
    address: &Address<'_>,
) -> Option<HeaderValue> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    let known = |text: &str, verdict: &dyn Fn(&str) -> Verdict| {
        let known = echoes.iter().fold(text.as_bytes().to_vec(), |text, echo| restored(&text, echo));
        let known = String::from_utf8(known).ok().filter(|known| known != text)?;
        matches!(verdict(&known), Verdict::Rewritten(_)).then_some(known)
    };
    let new = match *field {
        LINK => {
            let mut any = false;
            let links = link_values(text).map(|link| {
                let known = known(link, &|link| judge_link(link, address));
                any |= known.is_some();
                known.unwrap_or_else(|| link.to_owned())
            });
            let links: Vec<String> = links.collect();
            any.then(|| links.join(", "))
        }
        REFRESH => known(text, &|text| refresh(text, address)),
        _ => known(text, &|text| judge(trim(text), address)),
    };
    HeaderValue::from_bytes(new?.as_bytes()).ok()
}

fn restored(text: &[u8], echo: &Echo) -> Vec<u8> {
    let sent = echo.sent.expose();
    let is_bound = |byte: Option<&u8>| byte.is_none_or(|byte| b"/?#&;<>\"', ".contains(byte));
    let (mut known, mut from) = (Vec::with_capacity(text.len()), 0);
    for at in memchr::memmem::find_iter(text, sent) {
        // A path begins behind the origin, a parameter behind a mark.
        let begins =
            sent.starts_with(b"/") || is_bound(at.checked_sub(1).and_then(|before| text.get(before)));
        if begins && is_bound(text.get(at + sent.len())) {
            known.extend_from_slice(text.get(from..at).unwrap_or_default());
            known.extend_from_slice(echo.known.as_bytes());
            from = at + sent.len();
        }
    }
    known.extend_from_slice(text.get(from..).unwrap_or_default());
    known
}

/// Whether there is anything to rewrite, so that most answers need no [`Address`].
pub fn any(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| FIELDS.contains(name))
}

/// Rewrites or drops every reference in `headers`; says which it dropped. Refuses an answer of status
/// 3xx whose `Location` would be dropped.
pub fn rewrite(
    headers: &mut HeaderMap,
    status: StatusCode,
    address: &Address<'_>,
) -> Result<Vec<Dropped>, LinkRefused> {
    let mut dropped = Vec::new();
    for field in [LOCATION, CONTENT_LOCATION, REFRESH] {
        let Some(outcome) = single(headers, &field, address) else { continue };
        match outcome {
            Verdict::Untouched => {}
            Verdict::Rewritten(text) => put(headers, &field, &text),
            Verdict::Dropped(why) if field == LOCATION && status.is_redirection() => {
                return Err(LinkRefused(why));
            }
            Verdict::Dropped(why) => {
                headers.remove(&field);
                dropped.push(Dropped { field, why });
            }
        }
    }
    rewrite_links(headers, address, &mut dropped);
    Ok(dropped)
}

/// A field that stands for one reference. Standing twice, it is unclear which one a client takes.
fn single(headers: &HeaderMap, field: &HeaderName, address: &Address<'_>) -> Option<Verdict> {
    let mut values = headers.get_all(field).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Verdict::Dropped(Why::Unclear));
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    Some(if *field == REFRESH { refresh(&text, address) } else { judge(trim(&text), address) })
}

fn put(headers: &mut HeaderMap, field: &HeaderName, text: &str) {
    match HeaderValue::from_str(text) {
        Ok(value) => headers.insert(field, value),
        Err(_) => headers.remove(field),
    };
}

/// `5; url=REFERENCE`, the reference bare or quoted, as HTML's section on Refresh reads it.
fn refresh(text: &str, address: &Address<'_>) -> Verdict {
    let text = trim(text);
    let seconds = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (delay, rest) = text.split_at(seconds);
    let rest = trim(rest);
    if rest.is_empty() && !delay.is_empty() {
        return Verdict::Untouched;
    }
    let Some(rest) = rest.strip_prefix([';', ',']).map(trim).filter(|_| !delay.is_empty()) else {
        return Verdict::Dropped(Why::Unclear);
    };
    if rest.is_empty() {
        return Verdict::Untouched;
    }
    let named = rest.get(..3).filter(|name| name.eq_ignore_ascii_case("url"));
    let value = named.and_then(|_| rest.get(3..)).and_then(|rest| trim(rest).strip_prefix('='));
    let Some(value) = value.map(trim) else { return Verdict::Dropped(Why::Unclear) };
    let reference = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => match value.get(1..).and_then(|inner| inner.strip_suffix(quote)) {
            Some(inner) if !inner.contains(quote) => inner,
            _ => return Verdict::Dropped(Why::Unclear),
        },
        _ => value,
    };
    match judge(reference, address) {
        Verdict::Rewritten(new) => Verdict::Rewritten(format!("{delay}; url={new}")),
        other => other,
    }
}

fn rewrite_links(headers: &mut HeaderMap, address: &Address<'_>, dropped: &mut Vec<Dropped>) {
    if !headers.contains_key(LINK) {
        return;
    }
    let mut fields = Vec::new();
    for value in headers.get_all(LINK) {
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut changed = false;
        let mut kept = Vec::new();
        for link in link_values(&text) {
            match judge_link(link, address) {
                Verdict::Untouched => kept.push(link.to_owned()),
                Verdict::Rewritten(link) => {
                    changed = true;
                    kept.push(link);
                }
                Verdict::Dropped(why) => {
                    changed = true;
                    dropped.push(Dropped { field: LINK, why });
                }
            }
        }
        if !changed {
            fields.push(value.clone());
        } else if let Some(value) = Some(kept.join(", ")).filter(|text| !text.is_empty()) {
            fields.extend(HeaderValue::from_bytes(value.as_bytes()));
        }
    }
    headers.remove(LINK);
    for value in fields {
        headers.append(LINK, value);
    }
}

/// One link-value (RFC 8288 section 3): `<REFERENCE>; parameters`, the parameters left as they are. A
/// `<` elsewhere is unclear: many clients cut at `,<` without minding quotes.
fn judge_link(link: &str, address: &Address<'_>) -> Verdict {
    let parts = link.strip_prefix('<').and_then(|link| link.split_once('>'));
    let Some((reference, parameters)) = parts else { return Verdict::Dropped(Why::Unclear) };
    let separate = trim(parameters);
    let odd = reference.contains('<') || parameters.contains(['<', '>']);
    if odd || !(separate.is_empty() || separate.starts_with(';')) {
        return Verdict::Dropped(Why::Unclear);
    }
    match judge(trim(reference), address) {
        Verdict::Rewritten(new) => Verdict::Rewritten(format!("<{new}>{parameters}")),
        other => other,
    }
}

/// The link-values of one field: cut at commas outside of `<...>` and of quoted strings.
fn link_values(text: &str) -> impl Iterator<Item = &str> {
    let (mut angled, mut quoted, mut escaped) = (false, false, false);
    text.split(move |c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !angled => quoted = !quoted,
            '<' if !quoted => angled = true,
            '>' if !quoted => angled = false,
            ',' => return !angled && !quoted,
            _ => {}
        }
        false
    })
    .map(trim)
    .filter(|link| !link.is_empty())
}

/// Optional whitespace is a space or a tab (RFC 9110 section 5.6.3).
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}
