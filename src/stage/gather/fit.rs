//! Whether a request has a body that the integration's body placements can stand in.
//!
//! Judged before a connection and a decryption, the head before the app is asked for its body. What must never
//! enter: a guess at what a body is.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};

use super::member;
use crate::config::{Placement, Where};
use crate::refusal::{Code, Refusal};
use crate::stage::coding;

/// Judges the head.
///
/// # Errors
/// `request_malformed`, saying which body is wanted.
pub(super) fn head(placements: &[Placement], headers: &HeaderMap, is_empty: bool) -> Result<(), Refusal> {
    let Some(wanted) = placements.iter().find_map(wanted) else { return Ok(()) };
    let refuse = |why: &str| {
        let detail =
            format!("This integration puts the credential into the body, which must be {wanted}: {why}.");
        Err(Refusal::new(Code::RequestMalformed, detail))
    };
    if is_empty {
        return refuse("the request has none");
    }
    let coded = only(headers, &CONTENT_ENCODING).map(|coding| coding.eq_ignore_ascii_case("identity"));
    if headers.contains_key(CONTENT_ENCODING) && coded != Some(true) {
        return refuse("this one is compressed");
    }
    let content = only(headers, &CONTENT_TYPE).map(str::to_ascii_lowercase);
    let content = content.as_deref().unwrap_or_default();
    let (essence, parameters) = content.split_once(';').unwrap_or((content, ""));
    let essence = essence.trim();
    let fits = match wanted {
        JSON => essence == JSON || (essence.starts_with("application/") && essence.ends_with("+json")),
        other => essence == other,
    };
    if !fits {
        return refuse("its Content-Type is another");
    }
    if !coding::is_utf8(parameters) {
        return refuse("its charset is not UTF-8");
    }
    Ok(())
}

/// Judges the body.
///
/// # Errors
/// `request_malformed`, saying what is wrong with it.
pub(super) fn body(placements: &[Placement], body: &[u8]) -> Result<(), Refusal> {
    for placement in placements {
        if let Where::Json(pointer) = &placement.at {
            let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8");
            text.and_then(|text| member::joint(text, pointer)).map_err(unfit)?;
        }
    }
    Ok(())
}

/// A body that a credential cannot be put into.
pub fn unfit(why: &'static str) -> Refusal {
    let detail = format!(
        "This integration puts the credential into a JSON body, and this is none that it fits: {why}."
    );
    Refusal::new(Code::RequestMalformed, detail)
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

const fn wanted(placement: &Placement) -> Option<&'static str> {
    match placement.at {
        Where::Json(_) => Some(JSON),
        Where::Form(_) => Some(FORM),
        Where::Header(_) | Where::Query(_) | Where::Path(_) | Where::Cookie(_) => None,
    }
}

/// A field's value if it stands once and is ASCII.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}
