//! Looks at all that relay depends on: once a second, and whenever readiness is asked for.
//!
//! What is found goes to the board, the metrics and, once per change, the log. What must never enter: a
//! way to mend anything, a cause in the open.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Admin, CHECK_TIME};
use crate::audit::{Event, Kind};
use crate::dependency::{Dependency, State};
use crate::jwks::{self, IssuerState};
use crate::kms::cached::{KmsKeyStanding, Standing};
use crate::store::Feed;

const EVERY: Duration = Duration::from_secs(1);

/// Goes on until the admin API is gone.
pub(super) async fn keep_looking(admin: Weak<Admin>) {
    while let Some(admin) = admin.upgrade() {
        look(&admin).await;
        drop(admin);
        sleep(EVERY).await;
    }
}

/// Looks once.
pub(super) async fn look(admin: &Arc<Admin>) {
    let board = &admin.board;
    let standings = admin.keys.standings();
    let (current, earlier) = standings.split_at(standings.len().min(1));
    board.note(Dependency::Kms, worst(current, (State::KmsUnavailable, State::KmsDenied)));
    if !earlier.is_empty() {
        let states = (State::EarlierKmsUnavailable, State::EarlierKmsDenied);
        board.note(Dependency::EarlierKms, worst(earlier, states));
    }
    let found = audit(admin);
    let word = found.as_ref().map_or("works again", |(state, _)| state.as_str());
    if board.note(Dependency::Audit, found) {
        tell(admin, word);
    }
    board.note(Dependency::Issuers, issuers(admin));
    let jumped = |seconds| (State::ClockJumped, format!("the wall clock moved by {seconds} s"));
    board.note(Dependency::Clock, admin.drift.look().map(jumped));
    let draining = || (State::Draining, "relay was told to stop".to_owned());
    board.note(Dependency::Accepting, (!(admin.accepting)()).then(draining));
    board.note(Dependency::Store, store(admin).await);
    show(admin, &standings);
}

fn worst(keys: &[KmsKeyStanding], (unavailable, denied): (State, State)) -> Option<(State, String)> {
    let of = |wanted| keys.iter().find(|key| key.standing == wanted).map(|key| key.why.clone());
    let found = of(Standing::Denied).map(|why| (denied, why));
    found.or_else(|| of(Standing::Unavailable).map(|why| (unavailable, why)))
}

fn audit(admin: &Admin) -> Option<(State, String)> {
    let Err(error) = admin.log.health() else {
        let mut members = admin.log.members().iter();
        return members.find_map(|member| {
            Some((State::AuditSinkDown, format!("{}: {}", member.name(), member.fault()?)))
        });
    };
    let state = if admin.log.hangs() { State::AuditHangs } else { State::AuditFails };
    Some((state, error.to_string()))
}

/// That nothing could be recorded for a while stands in the audit itself, at its own time: a record of relay's own
/// waits until there is space. Nobody waits for it here.
fn tell(admin: &Admin, word: &str) {
    let note = format!("the audit {word}");
    let mut event = Event::of(Kind::System);
    event.note = Some(&note);
    drop(admin.chain.record(&event));
}

/// The worst of all issuers.
fn issuers(admin: &Admin) -> Option<(State, String)> {
    let states: Vec<IssuerState> = admin.now().issuers.iter().map(|issuer| issuer.state()).collect();
    let told = |state: State, of: &IssuerState| {
        let why = of.failing.as_ref().map_or("", |(_, why)| why);
        (state, format!("{}: {why}", of.issuer))
    };
    let missing = states.iter().find(|issuer| !issuer.standing.is_ready());
    let stale = || states.iter().find(|issuer| issuer.standing == jwks::Standing::Stale);
    let missing = missing.map(|issuer| told(State::IssuerKeysMissing, issuer));
    missing.or_else(|| stale().map(|issuer| told(State::IssuerKeysStale, issuer)))
}

async fn store(admin: &Admin) -> Option<(State, String)> {
    let asked = timeout(CHECK_TIME, async {
        admin.store.meta("ready").await?;
        admin.store.has_room().await
    });
    let why = match asked.await {
        Ok(Ok(has_room)) => {
            admin.records.store_answered();
            let full = || (State::StoreFull, "the disk has no space left".to_owned());
            let lost = || (State::FeedLost, "changes of other relays may be heard of late".to_owned());
            let is_live = *admin.store.feed().borrow() == Feed::Live;
            return (!has_room).then(full).or_else(|| (!is_live).then(lost));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", CHECK_TIME.as_secs()),
    };
    Some((if admin.records.serve_nothing() { State::StoreLost } else { State::StoreFails }, why))
}

fn show(admin: &Admin, standings: &[KmsKeyStanding]) {
    for shown in admin.board.shown() {
        let states = State::ALL.into_iter().filter(|state| state.of() == shown.dependency);
        for word in states.map(State::as_str).chain(["ok"]) {
            admin.metrics.dependency_state(shown.dependency.as_str(), word, word == shown.as_str());
        }
    }
    for key in standings {
        for standing in Standing::ALL {
            let is = standing == key.standing;
            admin.metrics.kms_state(key.provider, key.place, standing.as_str(), is);
        }
    }
    for member in admin.log.members() {
        admin.metrics.audit_sink(member.name(), member.fault().is_none(), member.lost());
    }
    admin.metrics.store_notes_unclear(admin.store.unclear_notes());
    admin.metrics.data_keys(admin.keys.held());
}
