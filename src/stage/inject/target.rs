//! A credential in the request's target: in the query, or as a segment of its path.
//!
//! A parameter's name and value are percent-encoded; what the app had under that name is gone already. A field in
//! a path stays inside its segment: what a vendor could read as a slash, an escape or a dot segment is refused.
//! Beside the target stands what the app wrote in the same place, so that links can be written as the app knows
//! them. What must never enter: the path and the query that the app did choose, other than as they came.

use bytes::Bytes;
use http::Uri;
use zeroize::Zeroizing;

use super::render::{joined, kept, percent_encoded, usable};
use crate::config::template::{Part, Template};
use crate::refusal::{Code, Refusal};
use crate::secret::Secret;
use crate::stage::authorize::Grant;
use crate::stage::route::parameters;
use crate::stage::unseal::Credential;
use crate::stage::wiped::Wiped;

/// What stands in a segment beside letters and digits: keys of vendors that use paths have it (`123:abc`).
const IN_SEGMENT: &[u8] = b":@";

/// What is put into a target; nothing, for most requests.
#[derive(Default)]
pub(super) struct Target {
    path: Option<Zeroizing<Vec<u8>>>,
    parameters: Vec<Zeroizing<Vec<u8>>>,
    /// What stands there, and what the app wrote in its place.
    echoes: Vec<Echo>,
}

/// A piece of the vendor's target that holds a credential, and the same as the app wrote it.
pub struct Echo {
    /// The segments behind the base path, that included, or `name=value`.
    pub sent: Secret,
    /// What the app knows it by.
    pub known: String,
}

impl Target {
    /// Adds a parameter to the query; its rendered form, where that differs from `text`.
    pub(super) fn parameter(&mut self, grant: &Grant, name: &str, text: &[u8]) -> Option<Secret> {
        let value = percent_encoded(text, b"");
        let escaped = percent_encoded(name.as_bytes(), b"");
        let parameter = joined(&[&escaped, b"=", &value]);
        let query = grant.matched().query().unwrap_or_default().as_bytes();
        let written = parameters::values(query, name).next().unwrap_or_default();
        let known = [&escaped, &b"="[..], written].concat();
        let known = String::from_utf8_lossy(&known).into_owned();
        self.echoes.push(Echo { sent: kept(&parameter), known });
        self.parameters.push(parameter);
        (value.as_slice() != text).then(|| kept(&value))
    }

    /// Sets the segments behind the base path.
    ///
    /// # Errors
    /// `credential_unusable` for a value that would leave its segment.
    pub(super) fn segments(
        &mut self,
        grant: &Grant,
        template: &Template,
        credential: &Credential,
    ) -> Result<Vec<Secret>, Refusal> {
        let (path, rendered) = path_of(template, credential)?;
        let matched = grant.matched();
        let sent = joined(&[grant.route().base_path.as_bytes(), &path]);
        self.echoes.push(Echo { sent: kept(&sent), known: matched.base_path().into_owned() });
        self.path = Some(path);
        Ok(rendered)
    }

    /// The vendor's target, and what in it the app knows otherwise.
    ///
    /// # Errors
    /// `credential_unusable` if it is too long for a target.
    pub(super) fn finish(self, grant: &Grant) -> Result<(Uri, Vec<Echo>), Refusal> {
        if self.path.is_none() && self.parameters.is_empty() {
            return Ok((grant.target().clone(), self.echoes));
        }
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(4 + 2 * self.parameters.len());
        match &self.path {
            Some(path) => {
                let (base, rest) = (&grant.route().base_path, grant.matched().rest());
                pieces.extend([base.as_bytes(), path, rest.as_bytes()]);
            }
            None => pieces.push(grant.target().path().as_bytes()),
        }
        let mut mark: &[u8] = b"?";
        let own = grant.target().query().map(str::as_bytes);
        for parameter in own.into_iter().chain(self.parameters.iter().map(|parameter| parameter.as_slice())) {
            pieces.extend([mark, parameter]);
            mark = if parameter.is_empty() { b"" } else { b"&" };
        }
        let target = Bytes::from_owner(Wiped(joined(&pieces)));
        let target = Uri::from_maybe_shared(target).map_err(|_| {
            Refusal::new(
                Code::CredentialUnusable,
                "The stored credential cannot stand in a request's target.",
            )
        })?;
        Ok((target, self.echoes))
    }
}

/// The segments that a template stands for, and what in them differs from the fields.
///
/// # Errors
/// `credential_unusable` for a value that would leave its segment.
pub(super) fn path_of(
    template: &Template,
    credential: &Credential,
) -> Result<(Zeroizing<Vec<u8>>, Vec<Secret>), Refusal> {
    let Template::Text(parts) = template else { return Err(Code::CredentialUnusable.into()) };
    let (mut pieces, mut rendered) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Literal(text) => pieces.push(Zeroizing::new(text.as_bytes().to_vec())),
            Part::Field(name) => {
                let value = usable(credential, name)?;
                if value.iter().any(|byte| matches!(byte, b'/' | b'\\' | b'%')) {
                    return Err(leaves(name.as_str()));
                }
                let encoded = percent_encoded(value, IN_SEGMENT);
                if encoded.as_slice() != value && credential.is_secret(name) {
                    rendered.push(kept(&encoded));
                }
                pieces.push(encoded);
            }
        }
    }
    let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_slice()).collect();
    let path = joined(&pieces);
    if path.split(|byte| *byte == b'/').skip(1).any(is_dots) {
        return Err(leaves("in the path"));
    }
    Ok((path, rendered))
}

/// Whether a segment could be read as `.` or `..`: dots may be escaped, and servers cut parameters off.
fn is_dots(segment: &[u8]) -> bool {
    let mut name = segment;
    for mark in [&b";"[..], b"%3B", b"%3F", b"%23"] {
        if let Some(at) = memchr::memmem::find(name, mark) {
            name = name.get(..at).unwrap_or_default();
        }
    }
    matches!(name, b"" | b"." | b"..")
}

fn leaves(field: &str) -> Refusal {
    let detail = format!(
        "The stored credential's field {field:?} cannot stand in a path: a slash, a backslash, a % or dots alone would leave its segment."
    );
    Refusal::new(Code::CredentialUnusable, detail)
}
