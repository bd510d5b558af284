//! What state each dependency is in, and since when: told once per change, shown in health and metrics.
//!
//! What must never enter: a cause in the open, which may name a key or a path; it goes to the log.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Answer, Asked, Dependency, State};
use crate::clock;

/// A dependency as operators are shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Which.
    pub dependency: Dependency,
    /// What is wrong with it.
    pub state: Option<State>,
    /// Since when, in seconds since 1970; for one that works, since relay looks at it or it works again.
    pub since: u64,
}

impl Shown {
    /// What this makes of readiness.
    pub const fn readiness(self) -> Answer {
        match self.state {
            Some(state) => state.answer(Asked::Readiness),
            None => Answer::Ready,
        }
    }

    /// The word in health and metrics.
    pub const fn as_str(self) -> &'static str {
        match self.state {
            Some(state) => state.as_str(),
            None => "ok",
        }
    }
}

/// The present state of all that relay depends on.
#[derive(Default)]
pub struct Board(Mutex<Vec<Shown>>);

impl Board {
    /// Notes what was found of a dependency; whether that is another state than before. A change is logged, with
    /// its cause.
    pub fn note(&self, dependency: Dependency, found: Option<(State, String)>) -> bool {
        let (state, cause) = found.unzip();
        let now = Shown { dependency, state, since: clock::unix_seconds() };
        let before = {
            let mut all = self.all();
            let place = all.iter_mut().find(|shown| shown.dependency == dependency);
            match place {
                Some(shown) if shown.state == state => return false,
                Some(shown) => std::mem::replace(shown, now).state,
                None => {
                    all.push(now);
                    None
                }
            }
        };
        let (name, cause) = (dependency.as_str(), cause.unwrap_or_default());
        match (before, state) {
            (None, None) => {}
            // Before anything was found wrong: at a start, what is asked for the first time has no answer yet.
            (None, Some(state)) if cause.is_empty() => {
                tracing::info!(dependency = name, state = state.as_str(), "a dependency is waited for");
            }
            (_, Some(state)) => {
                tracing::error!(
                    dependency = name,
                    state = state.as_str(),
                    cause,
                    "a dependency does not work"
                );
            }
            (Some(before), None) => {
                tracing::info!(dependency = name, before = before.as_str(), "a dependency works again");
            }
        }
        before != state
    }

    /// All that was noted.
    pub fn shown(&self) -> Vec<Shown> {
        let mut shown = self.all().clone();
        shown.sort_by_key(|shown| shown.dependency);
        shown
    }

    /// What all of it makes of readiness: the worst.
    pub fn readiness(&self) -> Answer {
        let all = self.all();
        let any = |answer| all.iter().any(|shown| shown.readiness() == answer);
        match (any(Answer::NotReady), any(Answer::Degraded)) {
            (true, _) => Answer::NotReady,
            (false, true) => Answer::Degraded,
            (false, false) => Answer::Ready,
        }
    }

    // No code under this lock can stop half-way through a change, so a poisoned lock guards whole data.
    fn all(&self) -> MutexGuard<'_, Vec<Shown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
