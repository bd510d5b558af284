//! Step 5: a pooled or freshly verified connection to a vetted address.
//!
//! Stands before [`super::unseal`], so that a vendor that cannot be reached never cost a decryption. What
//! must never enter: a credential.

use crate::net::line::Line;
use crate::net::pool::{ConnectError, Pool};
use crate::refusal::{Code, Refusal};
use crate::stage::record::Opened;

/// A connection for this grant; `fresh` forbids a pooled one. A WebSocket has one of its own.
///
/// # Errors
/// `egress_denied`, `vendor_unreachable`, `vendor_tls`, `vendor_timeout`.
pub async fn connect(pool: &Pool, opened: &Opened, fresh: bool) -> Result<Line, Refusal> {
    let grant = opened.grant();
    let (upstream, customer) = (&grant.route().upstream, &grant.identity().customer);
    Ok(if grant.is_websocket() {
        pool.line_apart(upstream, customer).await?
    } else {
        pool.line(upstream, customer, fresh).await?
    })
}

impl From<ConnectError> for Refusal {
    fn from(error: ConnectError) -> Self {
        let code = match &error {
            ConnectError::Egress(_) => Code::EgressDenied,
            ConnectError::Unreachable(_) => Code::VendorUnreachable,
            ConnectError::Tls(_) => Code::VendorTls,
            ConnectError::Timeout(_) => Code::VendorTimeout,
        };
        Self::from(code).because(error.to_string())
    }
}
