//! PostgreSQL's upkeep: keys exchanged, versions erased, customers forgotten.
//!
//! Forgetting is many writes: the first deletes the data keys, after which nothing opens, and marks the customer's
//! row, under whose lock everything is added, so that nothing comes after it. The next opening of the store ends
//! what was begun. What must never enter: a transaction's beginning or end but through [`Inner`].

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::fault::{Fault, conflict, damaged};
use super::rows::{active_id, at_most, bytes, cell, customer, insert_data_key, number, one, uuid};
use super::sessions::Lent;
use super::{Inner, Postgres, schema};
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::moving::Moving;
use crate::store::{Call, Change, Forgotten, Info, Past, Upkeep};

/// Secrets deleted in one write.
const AT_ONCE: usize = 100;

impl Upkeep for Postgres {
    fn customers<'a>(&'a self, after: Option<&'a Customer>, limit: usize) -> Call<'a, Vec<Customer>> {
        let after = after.cloned();
        self.call(move |inner| async move {
            let sql = "SELECT customer FROM relay.customers WHERE active IS NOT NULL \
                AND ($1::text IS NULL OR customer > $1) ORDER BY customer LIMIT $2";
            let after = after.as_ref().map(Customer::as_str);
            let found = inner.read().await?.rows(sql, &[&after, &at_most(limit)]).await?;
            found.iter().map(customer).collect()
        })
    }

    fn data_keys<'a>(&'a self, customer: &'a Customer) -> Call<'a, Vec<(DataKeyId, Bytes)>> {
        let customer = customer.clone();
        self.call(|inner| async move {
            let sql = "SELECT id, wrapped FROM relay.data_keys WHERE customer = $1 ORDER BY id";
            let found = inner.read().await?.rows(sql, &[&customer.as_str()]).await?;
            let key = |row: &tokio_postgres::Row| {
                Ok((DataKeyId::from_bytes(cell::<Uuid>(row, 0)?.into_bytes()), bytes(row, 1)?))
            };
            found.iter().map(key).collect()
        })
    }

    fn rewrap_data_key<'a>(
        &'a self,
        customer: &'a Customer,
        id: DataKeyId,
        expected: Bytes,
        wrapped: Bytes,
    ) -> Call<'a, ()> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            let mut lent = inner.write().await?;
            let sql = "UPDATE relay.data_keys SET wrapped = $4 \
                WHERE customer = $1 AND id = $2 AND wrapped = $3";
            let (id, expected, wrapped) = (uuid(id.as_bytes()), expected.as_ref(), wrapped.as_ref());
            let done = lent.execute(sql, &[&customer.as_str(), &id, &expected, &wrapped]).await;
            let told = vec![Change::DataKeys(customer)];
            inner.end(lent, done.and_then(one).map(|()| ((), Some(told)))).await
        })
    }

    fn renew_data_key<'a>(
        &'a self,
        customer: &'a Customer,
        expected: DataKeyId,
        id: DataKeyId,
        wrapped: Bytes,
    ) -> Call<'a, ()> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            let mut lent = inner.write().await?;
            let done = renew(&mut lent, &customer, expected, id, &wrapped).await;
            inner.end(lent, done.map(|()| ((), Some(vec![Change::DataKeys(customer)])))).await
        })
    }

    fn remove_data_key<'a>(&'a self, customer: &'a Customer, id: DataKeyId) -> Call<'a, bool> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            let mut lent = inner.write().await?;
            let done = remove_data_key(&mut lent, &customer, id).await;
            let told = vec![Change::DataKeys(customer)];
            inner.end(lent, done.map(|found| (found, found.then_some(told)))).await
        })
    }

    fn past<'a>(&'a self, customer: &'a Customer, id: SecretId) -> Call<'a, Vec<Past>> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            let sql = "SELECT version, head, sealed, superseded_at FROM relay.past_versions \
                WHERE customer = $1 AND id = $2 ORDER BY version";
            let found = inner.read().await?.rows(sql, &[&customer.as_str(), &uuid(id.as_bytes())]).await?;
            found.iter().map(past).collect()
        })
    }

    fn replace_past<'a>(
        &'a self,
        customer: &'a Customer,
        id: SecretId,
        expected: Bytes,
        past: Past,
    ) -> Call<'a, ()> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            let mut lent = inner.write().await?;
            let done = replace_past(&mut lent, (&customer, id), &expected, &past).await;
            inner.end(lent, done.map(|()| ((), Some(Vec::new())))).await
        })
    }

    fn erase_past<'a>(&'a self, customer: &'a Customer, before: u64) -> Call<'a, u64> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            let given = (customer.as_str(), number(before));
            // Nearly always there is nothing: looked at without a transaction.
            let sql = "SELECT 1 FROM relay.past_versions WHERE customer = $1 AND superseded_at < $2 LIMIT 1";
            if inner.read().await?.row(sql, &[&given.0, &given.1]).await?.is_none() {
                return Ok(0);
            }
            let mut lent = inner.write().await?;
            let sql = "DELETE FROM relay.past_versions WHERE customer = $1 AND superseded_at < $2";
            let done = lent.execute(sql, &[&given.0, &given.1]).await;
            inner.end(lent, done.map(|erased| (erased, (erased > 0).then(Vec::new)))).await
        })
    }

    fn forget<'a>(&'a self, customer: &'a Customer) -> Call<'a, Forgotten> {
        let customer = customer.clone();
        self.call(|inner| async move { forget(&inner, &customer).await })
    }

    fn note_used(&self, notes: Vec<(Customer, SecretId, u64)>) -> Call<'_, ()> {
        self.call(|inner| async move {
            let mut lent = inner.write().await?;
            let done = note_used(&mut lent, notes).await;
            inner.end(lent, done.map(|()| ((), Some(Vec::new())))).await
        })
    }

    fn last_used<'a>(&'a self, customer: &'a Customer, ids: Vec<SecretId>) -> Call<'a, Vec<Option<u64>>> {
        let customer = customer.clone();
        self.call(|inner| async move {
            let sql = "SELECT id, used_at FROM relay.uses WHERE customer = $1 AND id = ANY($2)";
            let asked: Vec<Uuid> = ids.iter().map(|id| uuid(id.as_bytes())).collect();
            let found = inner.read().await?.rows(sql, &[&customer.as_str(), &asked]).await?;
            let mut used = BTreeMap::new();
            for row in &found {
                used.insert(cell::<Uuid>(row, 0)?, count(cell(row, 1)?)?);
            }
            Ok(asked.iter().map(|id| used.get(id).copied()).collect())
        })
    }

    fn generation(&self) -> Call<'_, u64> {
        // What can be read is durable: PostgreSQL shows a commit only when it is.
        self.call(|inner| async move {
            let sql = "SELECT sum(writes)::bigint FROM relay.writes";
            let found = inner.read().await?.row(sql, &[]).await?;
            let found = found.ok_or_else(|| damaged("the writes are not counted"))?;
            count(cell::<Option<i64>>(&found, 0)?.unwrap_or_default())
        })
    }

    fn info(&self) -> Call<'_, Info> {
        self.call(|inner| async move { info(&inner).await })
    }

    fn moving(&self) -> &dyn Moving {
        self
    }
}

async fn renew(
    lent: &mut Lent,
    customer: &Customer,
    expected: DataKeyId,
    id: DataKeyId,
    wrapped: &Bytes,
) -> Result<(), Fault> {
    let sql = "UPDATE relay.customers SET active = $3 WHERE customer = $1 AND active = $2";
    let given = (customer.as_str(), uuid(expected.as_bytes()), uuid(id.as_bytes()));
    one(lent.execute(sql, &[&given.0, &given.1, &given.2]).await?)?;
    insert_data_key(lent, customer, id, wrapped).await
}

async fn remove_data_key(lent: &mut Lent, customer: &Customer, id: DataKeyId) -> Result<bool, Fault> {
    if active_id(lent, customer).await? == Some(id) {
        return Err(conflict());
    }
    let sql = "DELETE FROM relay.data_keys WHERE customer = $1 AND id = $2";
    Ok(lent.execute(sql, &[&customer.as_str(), &uuid(id.as_bytes())]).await? > 0)
}

async fn replace_past(
    lent: &mut Lent,
    (customer, id): (&Customer, SecretId),
    expected: &Bytes,
    past: &Past,
) -> Result<(), Fault> {
    let head = past.head.as_deref().ok_or_else(conflict)?;
    let sql = "UPDATE relay.past_versions SET head = $5, sealed = $6, superseded_at = $7 \
        WHERE customer = $1 AND id = $2 AND version = $3 AND head = $4";
    let (id, version, at) = (uuid(id.as_bytes()), i64::from(past.version), number(past.superseded_at));
    let given: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
        [&customer.as_str(), &id, &version, &expected.as_ref(), &head, &past.sealed.as_ref(), &at];
    one(lent.execute(sql, &given).await?)
}

async fn note_used(lent: &mut Lent, notes: Vec<(Customer, SecretId, u64)>) -> Result<(), Fault> {
    // Each secret once, and in one order on every replica, so that no two of them wait for each other.
    let mut newest = BTreeMap::new();
    for (customer, id, at) in notes {
        let kept = newest.entry((customer, id)).or_insert(at);
        *kept = at.max(*kept);
    }
    let customers: Vec<&str> = newest.keys().map(|(customer, _)| customer.as_str()).collect();
    let ids: Vec<Uuid> = newest.keys().map(|(_, id)| uuid(id.as_bytes())).collect();
    let times: Vec<i64> = newest.values().map(|at| number(*at)).collect();
    let sql = "INSERT INTO relay.uses AS u (customer, id, used_at) \
        SELECT s.customer, s.id, n.used_at \
        FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS n (customer, id, used_at) \
        JOIN relay.secrets s ON s.customer = n.customer AND s.id = n.id \
        ORDER BY s.customer, s.id FOR KEY SHARE OF s \
        ON CONFLICT (customer, id) DO UPDATE SET used_at = greatest(u.used_at, excluded.used_at)";
    lent.execute(sql, &[&customers, &ids, &times]).await.map(drop)
}

/// Each count is a call of its own, with a call's time.
async fn info(inner: &Inner) -> Result<Info, Fault> {
    let one = async |sql| {
        let row = inner.read().await?.row(sql, &[]).await?;
        count(cell(&row.ok_or_else(|| damaged("a count has no row"))?, 0)?)
    };
    const BYTES: &str = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c \
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'relay' AND c.relkind = 'r'";
    const WRITABLE: &str = "SELECT (NOT pg_is_in_recovery() \
        AND current_setting('transaction_read_only') = 'off' \
        AND has_table_privilege('relay.secrets', 'INSERT'))::int::bigint";
    Ok(Info {
        engine: "postgres",
        format: schema::VERSION.unsigned_abs(),
        customers: one("SELECT count(*) FROM relay.customers WHERE active IS NOT NULL").await?,
        data_keys: one("SELECT count(*) FROM relay.data_keys").await?,
        secrets: one("SELECT count(*) FROM relay.secrets").await?,
        bytes: Some(one(BYTES).await?),
        writable: one(WRITABLE).await? == 1,
    })
}

/// Ends what an earlier process began to forget.
pub(super) async fn end_forgetting(inner: &Inner) -> Result<(), Fault> {
    let sql = "SELECT customer FROM relay.customers WHERE forgetting ORDER BY customer";
    let begun = inner.read().await?.rows(sql, &[]).await?;
    for row in &begun {
        forget(inner, &customer(row)?).await?;
    }
    Ok(())
}

async fn forget(inner: &Inner, customer: &Customer) -> Result<Forgotten, Fault> {
    let mut lent = inner.write().await?;
    let done = forget_keys(&mut lent, customer).await;
    let told = vec![Change::DataKeys(customer.clone())];
    let data_keys = inner.end(lent, done.map(|keys| (keys, Some(told)))).await?;
    let mut forgotten = Forgotten { data_keys, ..Forgotten::default() };
    loop {
        let mut lent = inner.write().await?;
        let done = forget_some(&mut lent, customer).await;
        let done = done.map(|ids| {
            let told = ids.iter().map(|id| Change::Secret(customer.clone(), *id)).collect();
            (ids.len(), Some(told))
        });
        match inner.end(lent, done).await? {
            0 => return Ok(forgotten),
            some => forgotten.secrets += some as u64,
        }
    }
}

async fn forget_keys(lent: &mut Lent, customer: &Customer) -> Result<u64, Fault> {
    let sql = "INSERT INTO relay.customers (customer, forgetting) VALUES ($1, true) \
        ON CONFLICT (customer) DO UPDATE SET active = NULL, forgetting = true";
    lent.execute(sql, &[&customer.as_str()]).await?;
    lent.execute("DELETE FROM relay.data_keys WHERE customer = $1", &[&customer.as_str()]).await
}

/// Deletes some of the customer's secrets, or the mark when there are none.
async fn forget_some(lent: &mut Lent, customer: &Customer) -> Result<Vec<SecretId>, Fault> {
    let sql = "DELETE FROM relay.secrets WHERE customer = $1 AND id IN \
        (SELECT id FROM relay.secrets WHERE customer = $1 ORDER BY id LIMIT $2 FOR UPDATE) RETURNING id";
    let gone = lent.rows(sql, &[&customer.as_str(), &at_most(AT_ONCE)]).await?;
    if gone.is_empty() {
        let sql = "DELETE FROM relay.customers WHERE customer = $1 AND forgetting";
        lent.execute(sql, &[&customer.as_str()]).await?;
    }
    gone.iter().map(|row| Ok(SecretId::from_bytes(cell::<Uuid>(row, 0)?.into_bytes()))).collect()
}

/// A past version: its number, head and sealed bytes, and since when.
pub(super) fn past(row: &tokio_postgres::Row) -> Result<Past, Fault> {
    Ok(Past {
        version: u32::try_from(cell::<i64>(row, 0)?).map_err(|_| damaged("a version is no such number"))?,
        head: cell::<Option<Vec<u8>>>(row, 1)?.map(Bytes::from),
        sealed: bytes(row, 2)?,
        superseded_at: count(cell(row, 3)?)?,
    })
}

/// A number that is never below zero.
pub(super) fn count(stored: i64) -> Result<u64, Fault> {
    u64::try_from(stored).map_err(|_| damaged("a number is below zero"))
}
