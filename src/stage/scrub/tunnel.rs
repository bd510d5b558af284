//! One WebSocket under way: both directions, until one side ends it or may not go on.
//!
//! App to vendor goes on byte for byte; vendor to app through [`Frames`]. Each direction has one bounded buffer
//! and reads only when it is empty. Whoever ends first ends the other: a vendor's connection is never left
//! without its app. An end that no Close frame announced is one that the app can see. What must never enter:
//! a message kept as a whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::packed::give_way;
use super::passage::Passage;
use super::passed::{Passed, Socket};
use super::websocket::{Fault, Frames, close};
use crate::net::body::Meter;
use crate::net::channel::Channel;

/// What one read takes at most.
const PIECE: usize = 16 * 1024;
/// How many pieces go on before the worker looks at its other sockets: a vendor can make one of thousands of frames.
const TURNS: usize = 4;
/// How long the last bytes and the goodbyes may take where relay ends a WebSocket itself.
const FAREWELL: Duration = Duration::from_secs(1);

// RFC 6455 section 7.4.1.
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const POLICY: u16 = 1008;

/// A WebSocket between an app and its vendor.
pub struct Tunnel {
    // Holds the grant, its place among the requests under way, and the trail.
    passed: Box<Passed>,
    channel: Box<Channel>,
    passage: Passage,
    frames: Frames,
    up: BytesMut,
    up_unsent: bool,
    /// The vendor takes nothing more.
    deaf: bool,
    sent: Meter,
    down: Vec<u8>,
    written: usize,
    down_unsent: bool,
    moved: Instant,
    ending: Option<Ending>,
}

/// The last bytes to the app are on their way.
struct Ending {
    /// Why, for the audit; `None` for a clean end.
    note: Option<String>,
    until: Option<Pin<Box<Sleep>>>,
    shut: bool,
}

impl Tunnel {
    /// Takes over an answer that switched protocols; `None` for every other.
    pub fn of(mut passed: Box<Passed>) -> Option<Self> {
        let Socket { channel, passage } = passed.take_socket()?;
        let sent = Meter::counting();
        passed.trail().uploads(sent.clone());
        Some(Self {
            passed,
            channel,
            passage,
            frames: Frames::new(),
            up: BytesMut::new(),
            up_unsent: false,
            deaf: false,
            sent,
            down: Vec::new(),
            written: 0,
            down_unsent: false,
            moved: Instant::now(),
            ending: None,
        })
    }

    /// What the app sent right behind its handshake.
    pub fn begin_with(&mut self, early: &[u8]) {
        self.up.extend_from_slice(early);
    }

    /// Moves both directions on; ready once all is over. With `leaving` relay is going away and says so.
    pub fn poll<A>(&mut self, cx: &mut Context<'_>, app: &mut A, leaving: bool) -> Poll<()>
    where
        A: AsyncRead + AsyncWrite + Unpin,
    {
        if self.passed.poll_revoked(cx).is_ready() {
            // The trail learns why from the grant.
            return Poll::Ready(());
        }
        if leaving && self.ending.is_none() {
            self.end("cut: relay is shutting down", Some((GOING_AWAY, "relay is shutting down")));
        }
        for _ in 0..TURNS {
            if self.ending.is_some() {
                return self.poll_ending(cx, app);
            }
            let moved = match self.poll_both(cx, app) {
                Ok(moved) => moved,
                Err(error) => {
                    // Only the app's side ends so; its own reason is of no use to anyone but a debugger.
                    tracing::debug!(%error, "an app's WebSocket broke");
                    self.passed.trail().ended(Some("the app went away".to_owned()));
                    return Poll::Ready(());
                }
            };
            if moved {
                self.moved = Instant::now();
            } else if self.ending.is_none() {
                let Poll::Ready(idle) = self.channel.poll_idle(cx, self.moved) else { return Poll::Pending };
                let note = format!("cut: nothing moved for {} s", idle.as_secs_f32());
                self.end(&note, Some((GOING_AWAY, "nothing moved for the idle time")));
            }
        }
        give_way(cx);
        Poll::Pending
    }

    fn poll_both<A>(&mut self, cx: &mut Context<'_>, app: &mut A) -> io::Result<bool>
    where
        A: AsyncRead + AsyncWrite + Unpin,
    {
        let up = self.poll_up(cx, app)?;
        if self.ending.is_some() {
            return Ok(true);
        }
        Ok(self.poll_down(cx, app)? | up)
    }

    /// App to vendor; whether anything moved. An error is the app's.
    fn poll_up<A: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, app: &mut A) -> io::Result<bool> {
        let mut moved = false;
        if self.up.is_empty() {
            let mut room = [0; PIECE];
            let mut into = ReadBuf::new(&mut room);
            if let Poll::Ready(read) = Pin::new(app).poll_read(cx, &mut into) {
                read?;
                if into.filled().is_empty() {
                    let note = (!self.frames.is_closed()).then_some("the app went away");
                    self.ending = Some(Ending::at_once(note));
                    return Ok(true);
                }
                if !self.deaf {
                    self.up.extend_from_slice(into.filled());
                }
                moved = true;
            }
        }
        while !self.up.is_empty() {
            let Poll::Ready(wrote) = self.channel.poll_write(cx, &self.up) else { return Ok(moved) };
            moved = true;
            match wrote {
                Ok(wrote) if wrote > 0 => {
                    self.up.advance(wrote);
                    self.sent.add(wrote as u64);
                    self.up_unsent = true;
                }
                _ => self.is_not_heard(),
            }
        }
        if self.up_unsent
            && let Poll::Ready(flushed) = self.channel.poll_flush(cx)
        {
            self.up_unsent = false;
            if flushed.is_err() {
                self.is_not_heard();
            }
        }
        Ok(moved)
    }

    /// The vendor takes nothing more. What it has sent before may still wait to be read, its Close above all.
    fn is_not_heard(&mut self) {
        self.deaf = true;
        self.up.clear();
    }

    /// Vendor to app; whether anything moved. An error is the app's.
    fn poll_down<A: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, app: &mut A) -> io::Result<bool> {
        let mut moved = false;
        if self.down.is_empty() {
            let mut room = [0; PIECE];
            let mut into = ReadBuf::new(&mut room);
            if let Poll::Ready(read) = self.channel.poll_read(cx, &mut into) {
                moved = true;
                match read {
                    // Behind its Close a vendor has nothing to say, and reading on could go on for ever.
                    _ if self.frames.is_closed() => self.ending = Some(Ending::in_order()),
                    Ok(()) if !into.filled().is_empty() => self.take(Bytes::copy_from_slice(into.filled())),
                    Ok(()) => self.end("cut: the vendor closed the connection without a Close", None),
                    Err(error) => self.end(&format!("cut: the vendor's connection broke: {error}"), None),
                }
            }
        }
        Ok(self.poll_write(cx, app)? | moved)
    }

    fn take(&mut self, came: Bytes) {
        let passed = self.frames.pass(&mut self.passage, came, &mut self.down);
        self.passed.tell();
        match passed {
            Ok(()) => {}
            Err(fault @ Fault::Framing(_)) => {
                self.end(&format!("cut: {fault}"), Some((PROTOCOL_ERROR, "the vendor broke the protocol")));
            }
            Err(fault @ Fault::Reflected) => {
                self.end(&format!("cut: {fault}"), Some((POLICY, "the vendor sent the credential back")));
            }
        }
    }

    fn poll_write<A: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, app: &mut A) -> io::Result<bool> {
        let mut moved = false;
        while self.written < self.down.len() {
            let rest = self.down.get(self.written..).unwrap_or_default();
            let Poll::Ready(wrote) = Pin::new(&mut *app).poll_write(cx, rest) else { return Ok(moved) };
            let wrote = wrote?;
            if wrote == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written += wrote;
            self.passed.trail().answered(wrote as u64);
            (self.down_unsent, moved) = (true, true);
        }
        self.down.clear();
        self.written = 0;
        if self.down_unsent
            && let Poll::Ready(flushed) = Pin::new(app).poll_flush(cx)
        {
            flushed?;
            self.down_unsent = false;
        }
        Ok(moved)
    }

    /// relay ends it: what is ready still goes to the app, with a Close behind it if the app has had none.
    fn end(&mut self, note: &str, farewell: Option<(u16, &str)>) {
        if let Some((code, reason)) = farewell
            && !self.frames.is_closed()
        {
            close(&mut self.down, code, reason);
        }
        let until = farewell.map(|_| Box::pin(sleep(FAREWELL)));
        self.ending = Some(Ending { note: Some(note.to_owned()), until, shut: false });
    }

    fn poll_ending<A>(&mut self, cx: &mut Context<'_>, app: &mut A) -> Poll<()>
    where
        A: AsyncRead + AsyncWrite + Unpin,
    {
        let written = self.poll_write(cx, app);
        let Some(ending) = &mut self.ending else { return Poll::Pending };
        let sent = written.is_err() || (self.down.is_empty() && !self.down_unsent);
        if sent && !ending.shut {
            // Both sides: the vendor gets a goodbye if it takes one at once.
            let _ = self.channel.poll_shutdown(cx);
            if Pin::new(&mut *app).poll_shutdown(cx).is_pending() {
                return Poll::Pending;
            }
            ending.shut = true;
            ending.until.get_or_insert_with(|| Box::pin(sleep(FAREWELL)));
        }
        // A socket closed with bytes unread resets the connection, and the app may lose what was just written.
        let gone = written.is_err() || (ending.shut && read_out(cx, app));
        let late = ending.until.as_mut().is_some_and(|until| until.as_mut().poll(cx).is_ready());
        if !gone && !late {
            return Poll::Pending;
        }
        let note = ending.note.take();
        self.passed.trail().ended(note);
        Poll::Ready(())
    }
}

impl Ending {
    /// Both sides have said Close, or the app is gone and nothing can be said to it.
    fn at_once(note: Option<&str>) -> Self {
        Self { note: note.map(str::to_owned), until: Some(Box::pin(sleep(FAREWELL))), shut: false }
    }

    fn in_order() -> Self {
        Self { note: None, until: None, shut: false }
    }
}

/// Reads away what the app still sends; whether it has ended.
fn read_out<A: AsyncRead + Unpin>(cx: &mut Context<'_>, app: &mut A) -> bool {
    loop {
        let mut room = [0; 1024];
        let mut into = ReadBuf::new(&mut room);
        match Pin::new(&mut *app).poll_read(cx, &mut into) {
            Poll::Ready(Ok(())) if !into.filled().is_empty() => {}
            Poll::Ready(_) => return true,
            Poll::Pending => return false,
        }
    }
}
