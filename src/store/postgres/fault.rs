//! What goes wrong between relay and PostgreSQL, and what of it may be told.
//!
//! PostgreSQL's messages and details may quote a row, so only those that speak of the connection or of the
//! server pass; of all others the code alone. What must never enter: a value, the URL, the password.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::Severity;

use crate::store::StoreError;

/// Why work on the store stopped.
#[derive(Debug)]
pub(super) enum Fault {
    /// The store works; this is its answer.
    Answer(StoreError),
    /// The driver or PostgreSQL says so.
    Driver(Error),
    /// Nothing came in time.
    Late(&'static str),
    /// No session can be had at this place.
    Place {
        /// Host and port.
        shown: String,
        /// What went wrong there.
        why: String,
    },
    /// A session was had, but PostgreSQL would lose what it acknowledges.
    Careless(String),
    /// Whether the write was done cannot be known.
    Unknown(&'static str),
}

impl Fault {
    /// What the store's callers are told.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Answer(error) => error,
            Self::Driver(error) => match class(&error) {
                Class::Conflict => StoreError::Conflict,
                Class::Full => StoreError::Full,
                Class::Other => StoreError::Unavailable(words(&error)),
            },
            Self::Late(what) => StoreError::Unavailable(what.to_owned()),
            Self::Place { shown, why } => StoreError::Unavailable(format!("{shown}: {why}")),
            Self::Careless(why) => StoreError::Unavailable(why),
            Self::Unknown(why) => StoreError::Unknown(why.to_owned()),
        }
    }

    /// Whether the session is as good as before.
    pub(super) fn spares_the_session(&self) -> bool {
        match self {
            Self::Answer(_) => true,
            Self::Driver(error) => class(error) == Class::Conflict,
            _ => false,
        }
    }

    /// Whether the server seems to be gone, so that other sessions with it are no better.
    pub(super) fn is_loss(&self) -> bool {
        match self {
            Self::Driver(error) => match error.as_db_error() {
                // Shutting down, crashed, starting up; a primary that is one no longer.
                Some(db) => db.code().code().starts_with("57P") || db.code().code() == "25006",
                None => true,
            },
            Self::Late(_) | Self::Unknown(_) => true,
            _ => false,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Driver(error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Conflict,
    Full,
    Other,
}

fn class(error: &Error) -> Class {
    match error.code().map(tokio_postgres::error::SqlState::code) {
        // Unique and foreign keys; serialization failure and deadlock.
        Some("23505" | "23503" | "40001" | "40P01") => Class::Conflict,
        Some("53100") => Class::Full,
        _ => Class::Other,
    }
}

/// Whether PostgreSQL refused a COMMIT before it did anything. Everything else during a COMMIT leaves open
/// whether it was done.
pub(super) fn is_refused_commit(error: &Error) -> bool {
    let Some(db) = error.as_db_error() else { return false };
    let fatal = matches!(db.parsed_severity(), None | Some(Severity::Fatal | Severity::Panic));
    let code = db.code().code();
    !fatal && ["23", "25", "40", "53", "54"].iter().any(|class| code.starts_with(class))
}

/// What an operator is told of it.
pub(super) fn words(error: &Error) -> String {
    if let Some(db) = error.as_db_error() {
        let code = db.code().code();
        // Connections, transactions' states, logins, databases, resources, limits, operators' doings; a missing
        // schema, table or right.
        let of_the_server = ["08", "25", "28", "3D", "3F", "53", "54", "55", "57"];
        let told = of_the_server.iter().any(|class| code.starts_with(class))
            || matches!(code, "42501" | "42P01" | "42704");
        return match told {
            true => format!("PostgreSQL says {code}: {}", db.message()),
            false => format!("PostgreSQL says {code}"),
        };
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// A row that has not the shape that relay writes.
pub(super) fn damaged(what: &str) -> Fault {
    Fault::Answer(StoreError::Damaged(what.into()))
}

/// What was expected is not there.
pub(super) const fn conflict() -> Fault {
    Fault::Answer(StoreError::Conflict)
}
