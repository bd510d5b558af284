//! One connection, driven by whoever uses it.
//!
//! The connection has no task of its own: the request that borrowed it polls it, from the head it sends to the
//! last byte of the answer, so that an answer wakes one task and not two. Nobody polls an idle one; the
//! event loop still notes what happens to its socket, and whoever takes it from the shelf asks first. An
//! upload that outlives the answer's head gets a task, because an app that does not read on must not stop
//! what it sends. What must never enter: a decision about who may use it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::{AbortHandle, unconstrained};
use tokio::time::timeout;

use super::body::Outgoing;
use super::channel::Channel;
use super::identity::Badge;
use super::patience::Patience;
use super::tap::{self, Pulse, Stream, Tap};
use super::upstream::ConnectError;
use crate::model::Customer;

/// The longest head of an answer, in bytes; more than 100 fields are refused by hyper's own limit. It is the
/// size of a body's pieces too, of which up to four wait for an app that reads slowly: at twice as much a
/// stalled app costs more than 256 KiB.
const HEAD_BYTES: usize = 32 * 1024;
/// Bytes of encrypted records that may wait for a vendor that reads slowly.
const RECORDS: usize = 32 * 1024;

/// How long an idle connection may take to end, which is one record; a vendor need not read it.
const GOODBYE: Duration = Duration::from_secs(5);

type Connection = Pin<Box<http1::Connection<TokioIo<Tap>, Outgoing>>>;

/// One connection. Dropped unclean, it is closed at once, whatever it waits for.
pub(super) struct Wire {
    sender: SendRequest<Outgoing>,
    drive: Drive,
    pub(super) pulse: Rc<Pulse>,
    pub(super) patience: Patience,
    place: u64,
    /// The identity that it was made with.
    badge: Option<Rc<Badge>>,
    pub(super) peer: SocketAddr,
    customer: Option<Customer>,
    clean: bool,
    /// It may switch protocols, and is never lent again.
    apart: bool,
}

/// Who moves the connection on.
enum Drive {
    /// Whoever holds the wire.
    Holder(Connection),
    /// A task of its own.
    Task(AbortHandle),
    /// HTTP has ended on it, the connection has not.
    Switched(Connection),
    /// It has ended.
    Over,
}

impl Wire {
    /// Starts HTTP/1.1 on a fresh connection that stands at `place` in the pool. `customer` if it is only theirs.
    pub(super) async fn start(
        mut stream: Stream,
        peer: SocketAddr,
        place: u64,
        customer: Option<Customer>,
    ) -> Result<Self, ConnectError> {
        tap::hold_at_most(&mut stream, RECORDS);
        let pulse = Rc::new(Pulse::default());
        let tap = TokioIo::new(Tap::new(stream, Rc::clone(&pulse)));
        let started = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .max_header_size(HEAD_BYTES)
            .handshake::<_, Outgoing>(tap)
            .await;
        let (sender, connection) = started.map_err(|e| ConnectError::Unreachable(e.to_string()))?;
        let (drive, patience) = (Drive::Holder(Box::pin(connection)), Patience::default());
        let (badge, clean, apart) = (None, true, false);
        Ok(Self { sender, drive, pulse, patience, place, badge, peer, customer, clean, apart })
    }

    /// Sends a request and waits for the head of its answer; `None` once `overdue` says so, which is asked
    /// whenever nothing has moved on.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Outgoing>,
        mut overdue: impl FnMut(&mut Patience, &mut Context<'_>) -> Poll<()>,
    ) -> Option<Result<Response<Incoming>, TrySendError<Request<Outgoing>>>> {
        self.clean = false;
        let Self { sender, drive, patience, apart, .. } = self;
        let apart = *apart;
        // Unconstrained: a reply that waited for its task's budget would wait for a wake-up that nobody sends.
        let mut reply = std::pin::pin!(unconstrained(sender.try_send_request(request)));
        poll_fn(|cx| {
            drive.poll(cx, apart);
            // Only the drive makes the reply ready, and it is this request's: nobody has to be woken for it.
            match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answered) => Poll::Ready(Some(answered)),
                Poll::Pending => overdue(patience, cx).map(|()| None),
            }
        })
        .await
    }

    /// Polls the answer's body, moving the connection on where that is needed.
    pub(super) fn poll_answer<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if matches!(self.drive, Drive::Task(_)) {
            return poll(cx);
        }
        // As above: what is polled becomes ready by the drive alone.
        let mut quiet = Context::from_waker(Waker::noop());
        let polled = poll(&mut quiet);
        if polled.is_ready() {
            return polled;
        }
        self.drive.poll(cx, self.apart);
        poll(&mut quiet)
    }

    /// Gives the connection a task of its own, for an upload that goes on behind the answer's head. It is not
    /// used again: who waits for an answer here is not woken by that task.
    pub(super) fn go_on_alone(&mut self) {
        if !matches!(self.drive, Drive::Holder(_)) {
            return;
        }
        if let Drive::Holder(connection) = std::mem::replace(&mut self.drive, Drive::Over) {
            // Whoever waits for the body learns of a failure.
            let task = tokio::task::spawn_local(async move { drop(connection.await) });
            self.drive = Drive::Task(task.abort_handle());
        }
    }

    /// It is for one request only, which may switch protocols.
    pub(super) fn keep_apart(&mut self) {
        self.apart = true;
    }

    /// Whether it is for one request only.
    pub(super) const fn is_apart(&self) -> bool {
        self.apart
    }

    /// What is left of it when the vendor has switched protocols.
    pub(super) fn channel(&mut self, idle: Duration) -> Option<Channel> {
        // The answer's head may have been told before HTTP's end was.
        self.drive.poll(&mut Context::from_waker(Waker::noop()), self.apart);
        match std::mem::replace(&mut self.drive, Drive::Over) {
            Drive::Switched(connection) => {
                let parts = Pin::into_inner(connection).into_parts();
                Some(Channel::new(parts.io.into_inner(), parts.read_buf, idle))
            }
            _ => None,
        }
    }

    /// Where it stands in the pool: its upstream's place, or its identity's.
    pub(super) const fn place(&self) -> u64 {
        self.place
    }

    /// It was made with this identity.
    pub(super) fn carry(&mut self, badge: Rc<Badge>) {
        self.badge = Some(badge);
    }

    /// Whether it was made with an identity that is not shown any more.
    pub(super) fn is_revoked(&self) -> bool {
        self.badge.as_ref().is_some_and(|badge| badge.is_revoked())
    }

    /// Whether `customer` may use it: nobody else's request body has gone over it, and it is not another's.
    pub(super) fn serves(&self, customer: &Customer) -> bool {
        self.customer.as_ref().is_none_or(|one| one == customer)
    }

    /// From now on it is `customer`'s alone, if it was not another's before.
    pub(super) fn belongs_to(&mut self, customer: &Customer) {
        self.customer.get_or_insert_with(|| customer.clone());
    }

    /// Whether, as far as the event loop knows, it is open and done with its last exchange.
    pub(super) fn is_ready(&mut self) -> bool {
        self.drive.poll(&mut Context::from_waker(Waker::noop()), self.apart);
        self.is_drivable() && self.sender.is_ready() && !self.sender.is_closed()
    }

    /// Whether another request could drive it.
    pub(super) const fn is_drivable(&self) -> bool {
        matches!(self.drive, Drive::Holder(_))
    }

    /// Marks it as idle between two requests: when dropped it says goodbye (RFC 8446 section 6.1).
    pub(super) fn rest(&mut self) {
        self.clean = true;
    }
}

impl Drive {
    fn poll(&mut self, cx: &mut Context<'_>, apart: bool) {
        if let Self::Holder(connection) = self
            && let Poll::Ready(ended) = connection.as_mut().poll(cx)
        {
            // Without an error it may have ended by switching; only one that is kept apart is held on for that.
            *self = match std::mem::replace(self, Self::Over) {
                Self::Holder(connection) if apart && ended.is_ok() => Self::Switched(connection),
                _ => Self::Over,
            };
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.drive, Drive::Over) {
            // Outside of a task the worker is ending, and nobody would carry the goodbye.
            Drive::Holder(connection) if self.clean && tokio::task::try_id().is_some() => {
                tokio::task::spawn_local(async move { drop(timeout(GOODBYE, connection).await) });
            }
            Drive::Task(task) if !self.clean => task.abort(),
            Drive::Holder(_) | Drive::Task(_) | Drive::Switched(_) | Drive::Over => {}
        }
    }
}
