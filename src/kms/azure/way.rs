//! Microsoft's client goes out by relay's own client for control-plane calls.
//!
//! So its calls have relay's trust roots and resolver, which need no files of the system, one TLS stack with
//! the rest, and no proxy variable is read. Tokens are fetched this way too. What must never enter: a
//! retry, a redirect, a second copy of a body that is not wiped.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::request::Body;
use azure_core::http::{AsyncRawResponse, HttpClient, Request};
use azure_core::{Error, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rustls::ClientConfig;
use zeroize::Zeroizing;

use crate::net::fetch::{FetchError, FetchRequest, Fetched, fetch};
use crate::net::tls::{Roots, TlsError, client_config};

/// The longest answer that is taken. Key Vault and Entra ID stay far below.
const LIMIT: usize = 256 * 1024;
/// The caller's own patience is shorter, or as long.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(super) struct Way {
    tls: Arc<ClientConfig>,
}

impl Way {
    pub(super) fn new(roots: Roots<'_>) -> std::result::Result<Self, TlsError> {
        Ok(Self { tls: client_config(roots)? })
    }

    async fn exchange(&self, request: &Request) -> Result<AsyncRawResponse> {
        let Body::Bytes(body) = request.body() else {
            return Err(unusable("its body is a stream"));
        };
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers().iter() {
            let name = HeaderName::from_bytes(name.as_str().as_bytes());
            let value = HeaderValue::from_str(value.as_str());
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(unusable("it has a header that is none"));
            };
            headers.insert(name, value);
        }
        let call = FetchRequest {
            method: Method::from_bytes(request.method().as_str().as_bytes())
                .map_err(|_| unusable("its method is none"))?,
            url: request.url().to_string(),
            headers,
            body: body.to_vec(),
            limit: LIMIT,
            timeout: PATIENCE,
            tls: Some(Arc::clone(&self.tls)),
        };
        Ok(answer(fetch(call).await.map_err(failure)?))
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}

impl HttpClient for Way {
    // What `async_trait` makes of the trait's function.
    fn execute_request<'s, 'r, 'a>(
        &'s self,
        request: &'r Request,
    ) -> Pin<Box<dyn Future<Output = Result<AsyncRawResponse>> + Send + 'a>>
    where
        's: 'a,
        'r: 'a,
        Self: 'a,
    {
        Box::pin(self.exchange(request))
    }
}

fn answer(fetched: Fetched) -> AsyncRawResponse {
    let mut headers = Headers::new();
    for (name, value) in &fetched.headers {
        // Nothing that is read of an answer's head is more than ASCII.
        if let Ok(value) = value.to_str() {
            headers.insert(name.as_str().to_owned(), value.to_owned());
        }
    }
    let body = Bytes::from_owner(Zeroizing::new(fetched.body));
    AsyncRawResponse::from_bytes(fetched.status.as_u16().into(), headers, body)
}

fn failure(error: FetchError) -> Error {
    let kind = match &error {
        FetchError::Unreachable(_) | FetchError::Tls(_) => ErrorKind::Connection,
        FetchError::Timeout(_) | FetchError::Broken(_) => ErrorKind::Io,
        FetchError::TooLarge(_) => ErrorKind::DataConversion,
        FetchError::Url(_) => ErrorKind::Other,
    };
    Error::new(kind, error)
}

fn unusable(why: &str) -> Error {
    Error::with_message(ErrorKind::Other, format!("the request cannot be sent: {why}"))
}
