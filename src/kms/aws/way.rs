//! AWS's SDK goes out by relay's own client for control-plane calls.
//!
//! So its calls have relay's trust roots and resolver, which need no files of the system, one TLS stack
//! with the rest, and no proxy variable is read. Credentials are fetched this way too, from metadata services
//! and STS. What must never enter: a retry, a second copy of a body that is not wiped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use rustls::ClientConfig;
use zeroize::Zeroizing;

use crate::net::fetch::{FetchError, FetchRequest, fetch};
use crate::net::tls::{Roots, TlsError, client_config};

/// The longest body either way. AWS KMS and STS stay far below.
const LIMIT: usize = 256 * 1024;
/// Where the SDK sets no shorter time itself: a metadata service, STS.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Way {
    tls: Arc<ClientConfig>,
}

impl Way {
    pub(super) fn new() -> Result<Self, TlsError> {
        Ok(Self { tls: client_config(Roots::BuiltIn)? })
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}

impl HttpClient for Way {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Way {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(exchange(request, Arc::clone(&self.tls)))
    }
}

async fn exchange(request: HttpRequest, tls: Arc<ClientConfig>) -> Result<HttpResponse, ConnectorError> {
    let request = request.try_into_http1x().map_err(|e| ConnectorError::user(e.into()))?;
    let (head, body) = request.into_parts();
    let call = FetchRequest {
        method: head.method,
        url: head.uri.to_string(),
        headers: head.headers,
        body: whole(body).await?,
        limit: LIMIT,
        timeout: PATIENCE,
        tls: Some(tls),
    };
    let fetched = fetch(call).await.map_err(|error| match error {
        FetchError::Timeout(_) => ConnectorError::timeout(error.into()),
        FetchError::Unreachable(_) | FetchError::Broken(_) => ConnectorError::io(error.into()),
        FetchError::Url(_) => ConnectorError::user(error.into()),
        FetchError::Tls(_) | FetchError::TooLarge(_) => ConnectorError::other(error.into(), None),
    })?;
    let body = SdkBody::from(Bytes::from_owner(Zeroizing::new(fetched.body)));
    let mut response = Response::new(body);
    *response.status_mut() = fetched.status;
    *response.headers_mut() = fetched.headers;
    HttpResponse::try_from(response).map_err(|e| ConnectorError::other(e.into(), None))
}

/// The SDK's bodies stand in memory already; an interceptor of its own may have wrapped one.
async fn whole(mut body: SdkBody) -> Result<Vec<u8>, ConnectorError> {
    if let Some(bytes) = body.bytes() {
        return Ok(bytes.to_vec());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(ConnectorError::user)?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > LIMIT {
            return Err(ConnectorError::user(FetchError::TooLarge(LIMIT).into()));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}
