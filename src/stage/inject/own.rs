//! A request of relay's own, by which a credential is tried before it is sealed: nothing of an app's is in it.
//!
//! The credential stands in every place that configuration names, as in an app's request, and the signature over it.
//! What must never enter: a body, and with it a credential in a body; configuration refuses such a trial.

use bytes::Bytes;
use http::header::COOKIE;
use http::{HeaderMap, Method, Request, Uri};
use zeroize::Zeroizing;

use super::render::{Rendered, joined, percent_encoded, render};
use super::target::path_of;
use super::{cookie, cookies_together, is_left_out};
use crate::clock::Moment;
use crate::config::Where;
use crate::net::body::Outgoing;
use crate::refusal::{Code, Refusal};
use crate::stage::route::Route;
use crate::stage::sign::sign;
use crate::stage::unseal::Credential;
use crate::stage::wiped::{Wiped, header_value};

/// The request for `path`, which stands below the integration's upstream.
///
/// # Errors
/// As [`super::inject`]; `credential_unusable` for a credential that belongs into a body.
pub fn own_request(
    route: &Route,
    credential: &Credential,
    method: Method,
    path: &str,
) -> Result<Request<Outgoing>, Refusal> {
    let mut headers = HeaderMap::with_capacity(route.placements.len() + 3);
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut slot = Zeroizing::new(Vec::new());
    let (mut parameters, mut cookies) = (Vec::new(), Vec::new());
    for placement in &route.placements {
        if let Where::Path(_) = &placement.at {
            slot = path_of(&placement.value, credential)?.0;
            continue;
        }
        let Rendered { text, .. } = match render(&placement.value, credential) {
            Err(_) if is_left_out(&placement.value, credential, route) => continue,
            rendered => rendered?,
        };
        match &placement.at {
            Where::Header(name) => {
                headers.insert(name.clone(), header_value(text)?);
            }
            Where::Query(name) => {
                let (name, value) = (percent_encoded(name.as_bytes(), b""), percent_encoded(&text, b""));
                parameters.push(joined(&[&name, b"=", &value]));
            }
            Where::Cookie(name) => cookies.push(cookie(name, &text)?),
            Where::Path(_) => {}
            Where::Json(_) | Where::Form(_) => {
                return Err(Refusal::new(
                    Code::CredentialUnusable,
                    "A credential in a body cannot be tried.",
                ));
            }
        }
    }
    if !cookies.is_empty() {
        headers.insert(COOKIE, cookies_together(&cookies)?);
    }
    let mut pieces: Vec<&[u8]> = vec![route.base_path.as_bytes(), &slot, path.as_bytes()];
    let mut mark: &[u8] = b"?";
    for parameter in query.map(str::as_bytes).into_iter().chain(parameters.iter().map(|one| one.as_slice())) {
        pieces.extend([mark, parameter]);
        mark = b"&";
    }
    let target = Uri::from_maybe_shared(Bytes::from_owner(Wiped(joined(&pieces))));
    let mut request = Request::new(Outgoing::whole(Bytes::new()));
    *request.method_mut() = method;
    *request.uri_mut() = target.map_err(|_| Refusal::from(Code::CredentialUnusable))?;
    *request.headers_mut() = headers;
    if let Some(signing) = &route.signing {
        request.headers_mut().insert(http::header::HOST, route.host.clone());
        sign(signing, credential, &mut request, Moment::now())?;
        request.headers_mut().remove(http::header::HOST);
    }
    Ok(request)
}
