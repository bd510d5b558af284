//! The layout in PostgreSQL: its version, how it is brought to this relay's, and who may do what with it.
//!
//! Everything is in a schema of its own, `relay`, so that one store is one database. Only an owner brings it up to
//! date, by `relay store migrate`; a relay that serves has neither the right nor the need to. What must never enter:
//! a change of the layout at start, or a serving role's right that serving does not need.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::Setup;
use super::fault::{Fault, words};
use super::rows::cell;
use super::sessions::Lent;
use super::way::Way;
use crate::store::StoreError;

/// The layout that this relay works with.
pub const VERSION: i32 = 1;

/// Each version's way from the one before.
const MIGRATIONS: [(i32, &str); 1] = [(1, include_str!("migrations/001.sql"))];

/// What a serving role may do with each table.
const RIGHTS: [(&str, &str); 9] = [
    ("migrations", "SELECT"),
    ("customers", "SELECT, INSERT, UPDATE, DELETE"),
    ("data_keys", "SELECT, INSERT, UPDATE, DELETE"),
    ("secrets", "SELECT, INSERT, UPDATE, DELETE"),
    ("past_versions", "SELECT, INSERT, UPDATE, DELETE"),
    ("uses", "SELECT, INSERT, UPDATE"),
    ("meta", "SELECT, INSERT, UPDATE"),
    ("leases", "SELECT, INSERT, UPDATE, DELETE"),
    ("writes", "SELECT, UPDATE"),
];

/// Why the store cannot be opened or migrated, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL cannot be used. Nothing of it is quoted.
    #[error("[store] url cannot be used: {0}")]
    Url(&'static str),
    /// The trust roots cannot be used.
    #[error("[store] ca_file: {0}")]
    Tls(String),
    /// No session can be had, or it would lose what it acknowledges.
    #[error("{0}")]
    Unreachable(StoreError),
    /// There is no layout yet.
    #[error(
        "the database holds no relay store yet. Make one as its owner: relay store migrate --config relay.toml"
    )]
    Empty,
    /// The layout is an older relay's.
    #[error(
        "the store's schema has version {found}, and this relay needs {VERSION}. Bring it up to date as its owner: relay store migrate --config relay.toml"
    )]
    Older {
        /// Its version.
        found: i32,
    },
    /// The layout is a newer relay's.
    #[error(
        "the store's schema has version {found}, and this relay knows {VERSION} at most. Run a newer relay"
    )]
    Newer {
        /// Its version.
        found: i32,
    },
    /// The role may not do what it must.
    #[error("{0}. A role that serves is given its rights by: relay store migrate --serving-role ROLE")]
    Denied(String),
    /// The database cannot hold every customer's name.
    #[error(
        "the database's encoding is {0}, which cannot hold every customer's name. Make it with ENCODING 'UTF8'"
    )]
    Encoding(String),
    /// The role that is to serve could do more than that.
    #[error("{0}")]
    Role(String),
    /// A customer that was being forgotten could not be forgotten to the end.
    #[error(
        "the store holds a customer that was being forgotten, and that could not be ended: {0}. Start again"
    )]
    Unended(StoreError),
}

impl OpenError {
    pub(super) fn unreachable(fault: Fault) -> Self {
        Self::Unreachable(fault.into_error())
    }

    pub(super) fn of(fault: Fault) -> Self {
        match &fault {
            Fault::Driver(error) => Self::driver(error).unwrap_or_else(|| Self::unreachable(fault)),
            _ => Self::unreachable(fault),
        }
    }

    fn driver(error: &tokio_postgres::Error) -> Option<Self> {
        let code = error.code()?.code();
        match code {
            // A schema or a table that is not there.
            "3F000" | "42P01" => Some(Self::Empty),
            "42501" => Some(Self::Denied(words(error))),
            _ => None,
        }
    }
}

/// Says so where the role that serves may do more than serve.
pub(super) async fn warn_of_rights(lent: &mut Lent) {
    const OWNS: &str = "SELECT role.rolsuper OR pg_has_role(tables.relowner, 'MEMBER') FROM pg_roles role, \
        pg_class tables WHERE role.rolname = current_user AND tables.oid = 'relay.secrets'::regclass";
    let owns = lent.row(OWNS, &[]).await.ok().flatten().and_then(|row| row.try_get(0).ok());
    if owns == Some(true) {
        tracing::warn!(
            "relay serves as a superuser or as the owner of its tables, who can drop what is stored: give it a role of \
             its own with `relay store migrate --serving-role`"
        );
    }
}

/// Refuses every layout but this relay's.
pub(super) async fn check(lent: &mut Lent) -> Result<(), OpenError> {
    let sql = "SELECT coalesce(max(version), 0) FROM relay.migrations";
    let row = lent.row(sql, &[]).await.map_err(OpenError::of)?;
    let found = row.map(|row| cell::<i32>(&row, 0)).transpose().map_err(OpenError::of)?;
    match found.unwrap_or_default() {
        0 => Err(OpenError::Empty),
        found if found < VERSION => Err(OpenError::Older { found }),
        found if found > VERSION => Err(OpenError::Newer { found }),
        _ => Ok(()),
    }
}

/// What [`migrate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The version that was found; 0 for none.
    pub from: i32,
    /// The version that it has now.
    pub to: i32,
    /// The role that was given what serving needs.
    pub serving_role: Option<String>,
}

/// Brings the layout to this relay's version and gives `serving_role` what serving needs. All of it or nothing; by
/// one process at a time; done again it changes nothing.
///
/// # Errors
/// [`OpenError`] says what stands in the way and how to mend it.
pub async fn migrate(setup: Setup<'_>, serving_role: Option<&str>) -> Result<Migrated, OpenError> {
    let session = Way::of(&setup)?.open().await.map_err(OpenError::of)?;
    let client = &session.client;
    // The first is for other processes that migrate, all the others for what serves meanwhile.
    run(client, "SET statement_timeout = 0; SET lock_timeout = '10s'; BEGIN; SELECT pg_advisory_xact_lock(8245928655720965234)")
        .await?;
    let encoding = one(client, "SHOW server_encoding").await?.unwrap_or_default();
    if encoding != "UTF8" {
        return Err(OpenError::Encoding(encoding));
    }
    run(
        client,
        "CREATE SCHEMA IF NOT EXISTS relay; CREATE TABLE IF NOT EXISTS relay.migrations \
            (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
    )
    .await?;
    let found = one(client, "SELECT coalesce(max(version), 0) FROM relay.migrations").await?;
    let from = found.and_then(|found| found.parse().ok()).unwrap_or_default();
    if from > VERSION {
        return Err(OpenError::Newer { found: from });
    }
    for (version, sql) in MIGRATIONS.into_iter().filter(|(version, _)| *version > from) {
        run(client, sql).await?;
        run(client, &format!("INSERT INTO relay.migrations (version) VALUES ({version})")).await?;
    }
    if let Some(role) = serving_role {
        grant(client, role).await?;
    }
    run(client, "COMMIT").await?;
    Ok(Migrated { from, to: VERSION, serving_role: serving_role.map(str::to_owned) })
}

async fn grant(client: &Client, role: &str) -> Result<(), OpenError> {
    let sql = "SELECT rolsuper OR pg_has_role(oid, current_user, 'MEMBER') FROM pg_roles WHERE rolname = $1";
    let found = client.query_opt(sql, &[&role]).await.map_err(|error| OpenError::of(error.into()))?;
    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
    let Some(found) = found else {
        let why = format!("there is no role {quoted}. Make it: CREATE ROLE {quoted} LOGIN PASSWORD '...'");
        return Err(OpenError::Role(why));
    };
    if cell::<bool>(&found, 0).map_err(OpenError::of)? {
        let why = format!(
            "the role {quoted} is a superuser or the store's owner, which no grant makes less. Name a role of its own"
        );
        return Err(OpenError::Role(why));
    }
    let mut sql = format!(
        "REVOKE ALL ON SCHEMA relay FROM PUBLIC, {quoted}; REVOKE ALL ON ALL TABLES IN SCHEMA relay FROM PUBLIC, {quoted}; \
            GRANT USAGE ON SCHEMA relay TO {quoted};"
    );
    for (table, rights) in RIGHTS {
        sql.push_str(&format!("GRANT {rights} ON relay.{table} TO {quoted};"));
    }
    run(client, &sql).await
}

async fn run(client: &Client, sql: &str) -> Result<(), OpenError> {
    client.batch_execute(sql).await.map_err(|error| migration(&error))
}

async fn one(client: &Client, sql: &str) -> Result<Option<String>, OpenError> {
    let answers = client.simple_query(sql).await.map_err(|error| migration(&error))?;
    Ok(answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

/// An owner is told what PostgreSQL says: nothing of a record is in a migration.
fn migration(error: &tokio_postgres::Error) -> OpenError {
    let why = match error.as_db_error() {
        Some(db) => format!("PostgreSQL says {}: {}", db.code().code(), db.message()),
        None => words(error),
    };
    OpenError::Unreachable(StoreError::Unavailable(format!(
        "the migration failed, and nothing was changed: {why}"
    )))
}
