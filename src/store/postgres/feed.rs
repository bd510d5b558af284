//! The change feed: one session that listens, and the proof that it hears.
//!
//! Whatever is heard proves that everything before it was heard too: PostgreSQL delivers notes in the order of
//! their commits. Where nothing is heard for half a second, a beat is sent through the server for all replicas to
//! hear; where that does not come back, the feed is deaf. What must never enter: a row.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::{AsyncMessage, Client};
use uuid::Uuid;

use super::Inner;
use super::fault::Fault;
use super::note::{self, CHANNEL, Note};
use crate::store::{Change, Feed, NOTICED_WITHIN};

/// How long it may be quiet before a beat is sent, at least and at most: see [`quiet`].
const QUIET_AT_LEAST: Duration = Duration::from_millis(250);
const QUIET: Duration = Duration::from_millis(500);
/// How long a beat may take to come back.
const BEAT_WITHIN: Duration = Duration::from_secs(1);
/// What caches count on.
const _: () = assert!(QUIET.as_millis() + BEAT_WITHIN.as_millis() <= NOTICED_WITHIN.as_millis());
/// Between two attempts to listen: at first, and at most.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_AT_MOST: Duration = Duration::from_secs(1);

/// Listens for as long as the store is open.
pub(super) async fn follow(inner: Arc<Inner>) {
    let mut again = AGAIN;
    loop {
        let mut heard = false;
        let ended = listen(&inner, &mut heard).await;
        if heard {
            again = AGAIN;
            tracing::warn!(cause = %ended.into_error(), "the store's change feed was lost");
        } else {
            tracing::debug!(cause = %ended.into_error(), "the store's change feed cannot be had");
        }
        inner.stands(Feed::Deaf);
        let answers = timeout(BEAT_WITHIN, inner.answers()).await.unwrap_or(false);
        inner.stands(if answers { Feed::Deaf } else { Feed::Gone });
        sleep(again).await;
        again = (again * 2).min(AGAIN_AT_MOST);
    }
}

/// Listens until something is wrong, and says what. `heard` is set once the feed was proven.
async fn listen(inner: &Arc<Inner>, heard: &mut bool) -> Fault {
    let (sender, mut notes) = unbounded_channel();
    let hearer = Box::new(move |message| {
        if let AsyncMessage::Notification(note) = message {
            // Nobody listens any more when the session is given up.
            let _ = sender.send(note.payload().to_owned());
        }
    });
    let session = match inner.way.open_heard(hearer).await {
        Ok(session) => session,
        Err(fault) => return fault,
    };
    let listening = session.client.batch_execute("LISTEN relay_changes");
    let ended = match timeout(BEAT_WITHIN, listening).await {
        Ok(Ok(())) => follow_notes(inner, &session.client, &mut notes, heard).await,
        Ok(Err(error)) => Fault::Driver(error),
        Err(_) => Fault::Late("LISTEN was not answered within a second"),
    };
    session.cut();
    ended
}

async fn follow_notes(
    inner: &Arc<Inner>,
    client: &Client,
    notes: &mut UnboundedReceiver<String>,
    proven: &mut bool,
) -> Fault {
    let mut heard_at = Instant::now();
    loop {
        // The first is sent at once; whether it was sent is told by its coming back alone.
        let quiet = if *proven { quiet(inner.writer()) } else { Duration::ZERO };
        let beat = async {
            sleep_until(heard_at + quiet).await;
            // A writer is a UUID: nothing in the text needs quoting.
            let beat = format!("NOTIFY {CHANNEL}, '{}'", note::beat(inner.writer()));
            let _ = client.batch_execute(&beat).await;
            std::future::pending::<()>().await;
        };
        let note = tokio::select! {
            biased;
            note = notes.recv() => note,
            () = beat => continue,
            () = sleep_until(heard_at + quiet + BEAT_WITHIN) => {
                return Fault::Late("a beat did not come back through PostgreSQL within a second");
            }
        };
        let Some(note) = note else { return Fault::Late("the session that listens was lost") };
        heard_at = Instant::now();
        if !*proven {
            *proven = true;
            // What was missed before cannot be told apart, so all of it is forgotten.
            inner.tell(Change::Everything);
            inner.stands(Feed::Live);
            tracing::info!("the store's change feed is heard");
        }
        hear(inner, &note);
    }
}

/// Every replica has heard the same last note and hears every beat, so with one time for all they would all send at
/// once: a hundred replicas two hundred beats a second, each for a hundred to hear. With a time of its own for each,
/// one is first, and few others have sent theirs before they hear it.
fn quiet(writer: Uuid) -> Duration {
    let [first, second, ..] = *writer.as_bytes();
    let place = u32::from(u16::from_be_bytes([first, second]));
    QUIET_AT_LEAST + (QUIET - QUIET_AT_LEAST) * place / (1 << 16)
}

fn hear(inner: &Inner, text: &str) {
    match note::read(text) {
        // Told already, before the write was acknowledged.
        (Some(writer), Note::Change(_)) if writer == inner.writer() => {}
        (_, Note::Change(change)) => inner.tell(change),
        (_, Note::Beat) => {}
        (_, Note::Unclear) => {
            inner.unclear.fetch_add(1, Ordering::Relaxed);
            inner.tell(Change::Everything);
        }
    }
}
