//! The queries for single records. Each names the customer, so that a foreign UUID is a plain miss on the same path.
//!
//! Within a write the customer's row is read under a lock wherever the write rests on the active data key or on
//! the customer not being forgotten: `FOR SHARE` here, against the updates of `upkeep`. The count of writes comes
//! last, so that no two transactions wait for each other. What must never enter: a transaction's beginning or end.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use super::fault::{Fault, conflict, damaged};
use super::note::CHANNEL;
use super::sessions::Lent;
use crate::clock;
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::{Expected, SecretRow};

/// The secret with its current version.
pub(super) async fn secret(
    lent: &mut Lent,
    customer: &Customer,
    id: SecretId,
) -> Result<Option<SecretRow>, Fault> {
    let sql = "SELECT id, version, head, sealed, tokens FROM relay.secrets WHERE customer = $1 AND id = $2";
    let found = lent.row(sql, &[&customer.as_str(), &uuid(id.as_bytes())]).await?;
    found.map(|row| secret_row(customer, &row)).transpose()
}

/// Up to `limit` of the customer's secrets by id, behind `after`.
pub(super) async fn secrets(
    lent: &mut Lent,
    customer: &Customer,
    after: Option<SecretId>,
    limit: usize,
) -> Result<Vec<SecretRow>, Fault> {
    let sql = "SELECT id, version, head, sealed, tokens FROM relay.secrets \
        WHERE customer = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3";
    let after = after.map(|after| uuid(after.as_bytes()));
    let found = lent.rows(sql, &[&customer.as_str(), &after, &at_most(limit)]).await?;
    found.iter().map(|row| secret_row(customer, row)).collect()
}

/// Whose secret `id` is.
pub(super) async fn owner(lent: &mut Lent, id: SecretId) -> Result<Option<Customer>, Fault> {
    let found = lent.row("SELECT customer FROM relay.secrets WHERE id = $1", &[&uuid(id.as_bytes())]).await?;
    found.map(|row| customer(&row)).transpose()
}

/// Writes head, version and tokens of `row`, if the store holds what is `expected`.
pub(super) async fn put_secret(lent: &mut Lent, row: &SecretRow, expected: &Expected) -> Result<(), Fault> {
    match expected {
        Expected::Absent => {
            let sql = "INSERT INTO relay.customers (customer) VALUES ($1) ON CONFLICT DO NOTHING";
            lent.execute(sql, &[&row.customer.as_str()]).await?;
            match standing(lent, &row.customer).await? {
                Some(Standing { forgetting: false, .. }) => insert(lent, row).await,
                _ => Err(conflict()),
            }
        }
        Expected::New(key) => match standing(lent, &row.customer).await? {
            Some(Standing { forgetting: false, active: Some(active) }) if active == *key => {
                insert(lent, row).await
            }
            _ => Err(conflict()),
        },
        Expected::Head(head) => replace(lent, row, head).await,
    }
}

async fn insert(lent: &mut Lent, row: &SecretRow) -> Result<(), Fault> {
    // An id belongs to one customer: the table has it once.
    let sql = "INSERT INTO relay.secrets (customer, id, version, head, sealed, tokens) \
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    let (id, version, tokens) = (uuid(row.id.as_bytes()), i64::from(row.version), row.tokens.as_deref());
    let given: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&row.customer.as_str(), &id, &version, &row.head.as_ref(), &row.sealed.as_ref(), &tokens];
    one(lent.execute(sql, &given).await?)
}

async fn replace(lent: &mut Lent, row: &SecretRow, head: &Bytes) -> Result<(), Fault> {
    let (customer, id, version) = (row.customer.as_str(), uuid(row.id.as_bytes()), i64::from(row.version));
    let sql = "SELECT version, head FROM relay.secrets WHERE customer = $1 AND id = $2 FOR UPDATE";
    let found = lent.row(sql, &[&customer, &id]).await?.ok_or_else(conflict)?;
    if cell::<&[u8]>(&found, 1)? != head.as_ref() {
        return Err(conflict());
    }
    if cell::<i64>(&found, 0)? != version {
        let sql = "INSERT INTO relay.past_versions (customer, id, version, head, sealed, superseded_at) \
            SELECT customer, id, version, head, sealed, $3 FROM relay.secrets WHERE customer = $1 AND id = $2 \
            ON CONFLICT (customer, id, version) DO UPDATE SET head = excluded.head, sealed = excluded.sealed, \
            superseded_at = excluded.superseded_at";
        lent.execute(sql, &[&customer, &id, &number(clock::unix_seconds())]).await?;
        let sql = "DELETE FROM relay.past_versions WHERE customer = $1 AND id = $2 AND version = $3";
        lent.execute(sql, &[&customer, &id, &version]).await?;
    }
    let sql = "UPDATE relay.secrets SET version = $3, head = $4, sealed = $5, tokens = $6 \
        WHERE customer = $1 AND id = $2";
    let tokens = row.tokens.as_deref();
    let given: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&customer, &id, &version, &row.head.as_ref(), &row.sealed.as_ref(), &tokens];
    one(lent.execute(sql, &given).await?)
}

/// Removes the secret; its past versions and its uses go with it. Whether there was one.
pub(super) async fn remove_secret(lent: &mut Lent, customer: &Customer, id: SecretId) -> Result<bool, Fault> {
    let sql = "DELETE FROM relay.secrets WHERE customer = $1 AND id = $2";
    Ok(lent.execute(sql, &[&customer.as_str(), &uuid(id.as_bytes())]).await? > 0)
}

/// One wrapped data key of the customer.
pub(super) async fn data_key(
    lent: &mut Lent,
    customer: &Customer,
    id: DataKeyId,
) -> Result<Option<Bytes>, Fault> {
    let sql = "SELECT wrapped FROM relay.data_keys WHERE customer = $1 AND id = $2";
    let found = lent.row(sql, &[&customer.as_str(), &uuid(id.as_bytes())]).await?;
    found.map(|row| bytes(&row, 0)).transpose()
}

/// The customer's active data key.
pub(super) async fn active_data_key(
    lent: &mut Lent,
    customer: &Customer,
) -> Result<Option<(DataKeyId, Bytes)>, Fault> {
    let sql = "SELECT c.active, k.wrapped FROM relay.customers c LEFT JOIN relay.data_keys k \
        ON k.customer = c.customer AND k.id = c.active WHERE c.customer = $1 AND c.active IS NOT NULL";
    let Some(row) = lent.row(sql, &[&customer.as_str()]).await? else { return Ok(None) };
    let wrapped: Option<Vec<u8>> = cell(&row, 1)?;
    let wrapped = wrapped.ok_or_else(|| damaged("the active data key is missing"))?;
    Ok(Some((DataKeyId::from_bytes(cell::<Uuid>(&row, 0)?.into_bytes()), wrapped.into())))
}

/// Makes `wrapped` the customer's active data key, if it has none and is not being forgotten.
pub(super) async fn add_data_key(
    lent: &mut Lent,
    customer: &Customer,
    id: DataKeyId,
    wrapped: &Bytes,
) -> Result<(), Fault> {
    let sql = "INSERT INTO relay.customers (customer, active) VALUES ($1, $2) \
        ON CONFLICT (customer) DO UPDATE SET active = excluded.active \
        WHERE customers.active IS NULL AND NOT customers.forgetting";
    one(lent.execute(sql, &[&customer.as_str(), &uuid(id.as_bytes())]).await?)?;
    insert_data_key(lent, customer, id, wrapped).await
}

/// Adds a data key that is not there yet.
pub(super) async fn insert_data_key(
    lent: &mut Lent,
    customer: &Customer,
    id: DataKeyId,
    wrapped: &Bytes,
) -> Result<(), Fault> {
    let sql =
        "INSERT INTO relay.data_keys (customer, id, wrapped) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    one(lent.execute(sql, &[&customer.as_str(), &uuid(id.as_bytes()), &wrapped.as_ref()]).await?)
}

/// A store-wide record.
pub(super) async fn meta(lent: &mut Lent, name: &str) -> Result<Option<Bytes>, Fault> {
    let found = lent.row("SELECT value FROM relay.meta WHERE name = $1", &[&name.as_bytes()]).await?;
    found.map(|row| bytes(&row, 0)).transpose()
}

/// Writes a store-wide record.
pub(super) async fn put_meta(lent: &mut Lent, name: &str, value: &Bytes) -> Result<(), Fault> {
    let sql = "INSERT INTO relay.meta (name, value) VALUES ($1, $2) \
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    one(lent.execute(sql, &[&name.as_bytes(), &value.as_ref()]).await?)
}

/// Writes a store-wide record where `expected` stands, or nothing does.
pub(super) async fn swap_meta(
    lent: &mut Lent,
    name: &str,
    expected: Option<&[u8]>,
    value: &Bytes,
) -> Result<(), Fault> {
    let (name, value) = (name.as_bytes(), value.as_ref());
    one(match expected {
        None => {
            let sql = "INSERT INTO relay.meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            lent.execute(sql, &[&name, &value]).await?
        }
        Some(expected) => {
            let sql = "UPDATE relay.meta SET value = $3 WHERE name = $1 AND value = $2";
            lent.execute(sql, &[&name, &expected, &value]).await?
        }
    })
}

/// Takes or renews a lease, by the server's clock; whether `holder` has it now.
pub(super) async fn lease(lent: &mut Lent, name: &str, holder: Uuid, ttl: Duration) -> Result<bool, Fault> {
    let sql = "INSERT INTO relay.leases AS l (name, holder, ends_at) \
        VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3)) \
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, \
        ends_at = clock_timestamp() + make_interval(secs => $3) \
        WHERE l.holder = excluded.holder OR l.ends_at <= clock_timestamp()";
    Ok(lent.execute(sql, &[&name.as_bytes(), &holder, &ttl.as_secs_f64()]).await? == 1)
}

/// Gives a lease back, if `holder` has it.
pub(super) async fn release(lent: &mut Lent, name: &str, holder: Uuid) -> Result<(), Fault> {
    let sql = "DELETE FROM relay.leases WHERE name = $1 AND holder = $2";
    lent.execute(sql, &[&name.as_bytes(), &holder]).await.map(drop)
}

/// Counts a write and sends its notes; both come to hold with the COMMIT. Of the rows that count each session
/// has one, so that few wait for each other.
pub(super) async fn count_and_note(lent: &mut Lent, notes: &[String]) -> Result<(), Fault> {
    let sql = "WITH counted AS (UPDATE relay.writes SET writes = writes + 1 WHERE slot = pg_backend_pid() % 32) \
        SELECT pg_notify($1, note) FROM unnest($2::text[]) AS note";
    lent.rows(sql, &[&CHANNEL, &notes]).await.map(drop)
}

struct Standing {
    active: Option<DataKeyId>,
    forgetting: bool,
}

/// The customer's row, which nobody changes until this transaction ends.
async fn standing(lent: &mut Lent, customer: &Customer) -> Result<Option<Standing>, Fault> {
    let sql = "SELECT active, forgetting FROM relay.customers WHERE customer = $1 FOR SHARE";
    let Some(row) = lent.row(sql, &[&customer.as_str()]).await? else { return Ok(None) };
    let active = cell::<Option<Uuid>>(&row, 0)?.map(|id| DataKeyId::from_bytes(id.into_bytes()));
    Ok(Some(Standing { active, forgetting: cell(&row, 1)? }))
}

/// The id of the customer's active data key, which stays it until this transaction ends.
pub(super) async fn active_id(lent: &mut Lent, customer: &Customer) -> Result<Option<DataKeyId>, Fault> {
    Ok(standing(lent, customer).await?.and_then(|standing| standing.active))
}

fn secret_row(customer: &Customer, row: &Row) -> Result<SecretRow, Fault> {
    let version = u32::try_from(cell::<i64>(row, 1)?).map_err(|_| damaged("a version is no such number"))?;
    Ok(SecretRow {
        customer: customer.clone(),
        id: SecretId::from_bytes(cell::<Uuid>(row, 0)?.into_bytes()),
        version,
        head: bytes(row, 2)?,
        sealed: bytes(row, 3)?,
        tokens: cell::<Option<Vec<u8>>>(row, 4)?.map(Bytes::from),
    })
}

/// The customer in the first column.
pub(super) fn customer(row: &Row) -> Result<Customer, Fault> {
    Customer::parse(cell(row, 0)?).map_err(|_| damaged("a customer's name is none"))
}

/// One column.
pub(super) fn cell<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, Fault> {
    row.try_get(at).map_err(|_| damaged("a column has another type than relay wrote"))
}

/// One column of bytes.
pub(super) fn bytes(row: &Row, at: usize) -> Result<Bytes, Fault> {
    Ok(cell::<Vec<u8>>(row, at)?.into())
}

/// An id as PostgreSQL has it.
pub(super) const fn uuid(id: &[u8; 16]) -> Uuid {
    Uuid::from_bytes(*id)
}

/// A number as PostgreSQL has it; none of relay's is near the end.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A limit as PostgreSQL has it.
pub(super) fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Exactly one row was changed, else what was expected is not there.
pub(super) fn one(changed: u64) -> Result<(), Fault> {
    if changed == 1 { Ok(()) } else { Err(conflict()) }
}
