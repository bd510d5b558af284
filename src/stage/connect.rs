//! Step 5: a pooled or freshly verified connection to a vetted address.
//!
//! Stands before [`super::unseal`], so that a vendor that cannot be reached never cost a decryption. What
//! must never enter: a credential, but for a client certificate, which is opened when a handshake needs it.

use tokio::sync::broadcast::error::RecvError;

use crate::net::identity::{Identity, Whose};
use crate::net::line::Line;
use crate::net::pool::{ConnectError, Pool};
use crate::refusal::{Code, Refusal};
use crate::stage::authorize::records::Records;
use crate::stage::record::Opened;

/// A connection for this grant; `fresh` forbids a pooled one. A WebSocket has one of its own. Where the vendor
/// demands a certificate, `identity` opens the secret's own for a handshake.
///
/// # Errors
/// `egress_denied`, `vendor_unreachable`, `vendor_tls`, `vendor_timeout`; what `identity` is refused with.
pub async fn connect<I>(
    pool: &Pool,
    opened: &Opened,
    fresh: bool,
    identity: impl FnOnce() -> I,
) -> Result<Line, Refusal>
where
    I: Future<Output = Result<Identity, Refusal>>,
{
    let grant = opened.grant();
    if grant.route().client_certificate.is_some() {
        // Boxed: a handshake needs much room, and most integrations have no such certificate.
        return Box::pin(showing(pool, opened, fresh, identity)).await;
    }
    let (upstream, customer) = (&grant.route().upstream, &grant.identity().customer);
    Ok(if grant.is_websocket() {
        pool.line_apart(upstream, customer).await?
    } else {
        pool.line(upstream, customer, fresh).await?
    })
}

/// A connection that only this version of this secret uses.
async fn showing<I>(
    pool: &Pool,
    opened: &Opened,
    fresh: bool,
    identity: impl FnOnce() -> I,
) -> Result<Line, Refusal>
where
    I: Future<Output = Result<Identity, Refusal>>,
{
    let grant = opened.grant();
    let (upstream, customer) = (&grant.route().upstream, &grant.identity().customer);
    let head = grant.record().head();
    let whose = Whose { secret: head.id, version: head.version };
    let apart = grant.is_websocket();
    if !fresh
        && !apart
        && let Some(line) = pool.line_of(upstream, customer, whose)
    {
        return Ok(line);
    }
    let shown = (whose, identity().await?);
    Ok(pool.line_showing(upstream, customer, shown, apart).await?)
}

/// Closes the connections that were made with a secret's certificate once that secret changes, for as long as the
/// worker lives. It is used inside a `LocalSet`, where an integration has client certificates.
pub fn part_with_changed(pool: &Pool, records: &Records) {
    let (revoke, mut changes) = (pool.revoker(), records.changes());
    tokio::task::spawn_local(async move {
        loop {
            let changed = match changes.recv().await {
                Ok(key) => key.map(|(_, secret)| secret),
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            };
            if !revoke(changed) {
                return;
            }
        }
    });
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
