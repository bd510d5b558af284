//! PostgreSQL's part in export and import.
//!
//! A portion is read by one snapshot, and a block of an import is one transaction with how far the import is, which
//! is changed first: of two imports one waits there, and finds another progress than it expects. What must never enter:
//! a transaction's beginning or end but through [`Inner`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use uuid::Uuid;

use super::fault::{Fault, conflict, damaged};
use super::rows::{self, at_most, bytes, cell, customer, number, uuid};
use super::sessions::Lent;
use super::upkeep::{count, past};
use super::{Inner, Postgres};
use crate::model::{Customer, DataKeyId, SecretId};
use crate::store::moving::{IMPORT, KeyRow, Load, Moving, PastRow, Portion, Whole};
use crate::store::{Call, Past, SecretRow};

/// Secrets looked for at once.
const AT_ONCE: usize = 16;

impl Moving for Postgres {
    fn holders<'a>(&'a self, after: Option<&'a Customer>, limit: usize) -> Call<'a, Vec<Customer>> {
        let after = after.cloned();
        self.call(move |inner| async move {
            let sql = "SELECT customer FROM relay.customers c WHERE NOT forgetting \
                AND ($1::text IS NULL OR customer > $1) \
                AND (EXISTS (SELECT 1 FROM relay.data_keys k WHERE k.customer = c.customer) \
                OR EXISTS (SELECT 1 FROM relay.secrets s WHERE s.customer = c.customer)) \
                ORDER BY customer LIMIT $2";
            let after = after.as_ref().map(Customer::as_str);
            let found = inner.read().await?.rows(sql, &[&after, &at_most(limit)]).await?;
            found.iter().map(customer).collect()
        })
    }

    fn portion<'a>(
        &'a self,
        customer: &'a Customer,
        after: Option<SecretId>,
        most: usize,
    ) -> Call<'a, Portion> {
        let customer = customer.clone();
        self.call(move |inner| async move {
            let mut lent = inner.write().await?;
            let read = portion(&mut lent, &customer, after, most).await;
            lent.roll_back().await;
            read
        })
    }

    fn meta_names(&self) -> Call<'_, Vec<String>> {
        self.call(|inner| async move {
            let found = inner.read().await?.rows("SELECT name FROM relay.meta ORDER BY name", &[]).await?;
            let name = |row| {
                let name = String::from_utf8(cell::<Vec<u8>>(row, 0)?);
                name.map_err(|_| damaged("a store-wide record's name is no text"))
            };
            found.iter().map(name).collect()
        })
    }

    fn take(&self, load: Load) -> Call<'_, ()> {
        self.call(|inner| async move { take(&inner, &load).await })
    }
}

async fn portion(
    lent: &mut Lent,
    customer: &Customer,
    mut after: Option<SecretId>,
    most: usize,
) -> Result<Portion, Fault> {
    lent.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", &[]).await?;
    let mut portion = Portion::default();
    let sql = "SELECT active FROM relay.customers WHERE customer = $1 AND NOT forgetting";
    let Some(row) = lent.row(sql, &[&customer.as_str()]).await? else { return Ok(portion) };
    portion.active = cell::<Option<Uuid>>(&row, 0)?.map(|id| DataKeyId::from_bytes(id.into_bytes()));
    let sql = "SELECT id, wrapped FROM relay.data_keys WHERE customer = $1 ORDER BY id";
    for row in lent.rows(sql, &[&customer.as_str()]).await? {
        let id = DataKeyId::from_bytes(cell::<Uuid>(&row, 0)?.into_bytes());
        portion.keys.push((id, bytes(&row, 1)?));
    }
    let mut size = 0;
    loop {
        let page = rows::secrets(lent, customer, after, AT_ONCE).await?;
        let full = page.len() == AT_ONCE;
        after = page.last().map(|row| row.id);
        for whole in whole(lent, customer, page).await? {
            // The rest of the page is read again with the next portion.
            if size >= most {
                portion.more = true;
                return Ok(portion);
            }
            size += whole.size();
            portion.secrets.push(whole);
        }
        portion.more = full && size >= most;
        if !full || portion.more {
            return Ok(portion);
        }
    }
}

/// The rest of what belongs to secrets.
async fn whole(lent: &mut Lent, customer: &Customer, page: Vec<SecretRow>) -> Result<Vec<Whole>, Fault> {
    let ids: Vec<Uuid> = page.iter().map(|row| uuid(row.id.as_bytes())).collect();
    let mut used = BTreeMap::new();
    let sql = "SELECT id, used_at FROM relay.uses WHERE customer = $1 AND id = ANY($2)";
    for row in lent.rows(sql, &[&customer.as_str(), &ids]).await? {
        used.insert(cell::<Uuid>(&row, 0)?, count(cell(&row, 1)?)?);
    }
    let mut versions: BTreeMap<Uuid, Vec<Past>> = BTreeMap::new();
    let sql = "SELECT version, head, sealed, superseded_at, id FROM relay.past_versions \
        WHERE customer = $1 AND id = ANY($2) ORDER BY id, version";
    for row in lent.rows(sql, &[&customer.as_str(), &ids]).await? {
        versions.entry(cell(&row, 4)?).or_default().push(past(&row)?);
    }
    let whole = page.into_iter().zip(ids).map(|(row, id)| Whole {
        row,
        used: used.get(&id).copied(),
        past: versions.remove(&id).unwrap_or_default(),
    });
    Ok(whole.collect())
}

async fn take(inner: &Inner, load: &Load) -> Result<(), Fault> {
    let mut lent = inner.write().await?;
    let done = put(&mut lent, load).await;
    inner.end(lent, done.map(|()| ((), Some(Vec::new())))).await
}

async fn put(lent: &mut Lent, load: &Load) -> Result<(), Fault> {
    if load.expected.is_none() {
        let sql =
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM relay.customers) OR EXISTS (SELECT 1 FROM relay.meta)";
        if lent.row(sql, &[]).await?.is_some() {
            return Err(conflict());
        }
    }
    rows::swap_meta(lent, IMPORT, load.expected.as_deref(), &load.progress).await?;
    let records = &load.records;
    put_metas(lent, &records.metas).await?;
    let keys = records.keys.iter().map(|key| &key.customer);
    let customers: BTreeSet<&str> =
        keys.chain(records.secrets.iter().map(|(row, _)| &row.customer)).map(Customer::as_str).collect();
    let customers: Vec<&str> = customers.into_iter().collect();
    let sql = "INSERT INTO relay.customers (customer) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING";
    lent.execute(sql, &[&customers]).await?;
    put_keys(lent, &records.keys).await?;
    put_secrets(lent, &records.secrets).await?;
    put_past(lent, &records.past).await?;
    match load.generation {
        Some(generation) => count_as(lent, generation).await,
        None => Ok(()),
    }
}

async fn put_metas(lent: &mut Lent, metas: &[(String, Bytes)]) -> Result<(), Fault> {
    let names: Vec<&[u8]> = metas.iter().map(|(name, _)| name.as_bytes()).collect();
    let values: Vec<&[u8]> = metas.iter().map(|(_, value)| value.as_ref()).collect();
    let sql = "INSERT INTO relay.meta (name, value) SELECT * FROM unnest($1::bytea[], $2::bytea[]) \
        ON CONFLICT DO NOTHING";
    all(lent.execute(sql, &[&names, &values]).await?, metas.len())
}

async fn put_keys(lent: &mut Lent, keys: &[KeyRow]) -> Result<(), Fault> {
    let customers: Vec<&str> = keys.iter().map(|key| key.customer.as_str()).collect();
    let ids: Vec<Uuid> = keys.iter().map(|key| uuid(key.id.as_bytes())).collect();
    let wrapped: Vec<&[u8]> = keys.iter().map(|key| key.wrapped.as_ref()).collect();
    let active: Vec<bool> = keys.iter().map(|key| key.active).collect();
    let sql = "INSERT INTO relay.data_keys (customer, id, wrapped) \
        SELECT * FROM unnest($1::text[], $2::uuid[], $3::bytea[]) \
        ON CONFLICT (customer, id) DO UPDATE SET wrapped = excluded.wrapped";
    lent.execute(sql, &[&customers, &ids, &wrapped]).await?;
    let sql = "UPDATE relay.customers c SET active = k.id \
        FROM unnest($1::text[], $2::uuid[], $3::boolean[]) AS k (customer, id, active) \
        WHERE c.customer = k.customer AND k.active";
    lent.execute(sql, &[&customers, &ids, &active]).await.map(drop)
}

async fn put_secrets(lent: &mut Lent, secrets: &[(SecretRow, Option<u64>)]) -> Result<(), Fault> {
    let customers: Vec<&str> = secrets.iter().map(|(row, _)| row.customer.as_str()).collect();
    let ids: Vec<Uuid> = secrets.iter().map(|(row, _)| uuid(row.id.as_bytes())).collect();
    let versions: Vec<i64> = secrets.iter().map(|(row, _)| i64::from(row.version)).collect();
    let heads: Vec<&[u8]> = secrets.iter().map(|(row, _)| row.head.as_ref()).collect();
    let sealed: Vec<&[u8]> = secrets.iter().map(|(row, _)| row.sealed.as_ref()).collect();
    let tokens: Vec<Option<&[u8]>> = secrets.iter().map(|(row, _)| row.tokens.as_deref()).collect();
    let used: Vec<Option<i64>> = secrets.iter().map(|(_, used)| used.map(number)).collect();
    let sql = "INSERT INTO relay.secrets (customer, id, version, head, sealed, tokens) SELECT * FROM \
        unnest($1::text[], $2::uuid[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bytea[]) \
        ON CONFLICT DO NOTHING";
    let given: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&customers, &ids, &versions, &heads, &sealed, &tokens];
    all(lent.execute(sql, &given).await?, secrets.len())?;
    let sql = "INSERT INTO relay.uses (customer, id, used_at) \
        SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS u (customer, id, used_at) \
        WHERE u.used_at IS NOT NULL ON CONFLICT DO NOTHING";
    lent.execute(sql, &[&customers, &ids, &used]).await.map(drop)
}

async fn put_past(lent: &mut Lent, past: &[PastRow]) -> Result<(), Fault> {
    let customers: Vec<&str> = past.iter().map(|row| row.customer.as_str()).collect();
    let ids: Vec<Uuid> = past.iter().map(|row| uuid(row.id.as_bytes())).collect();
    let versions: Vec<i64> = past.iter().map(|row| i64::from(row.past.version)).collect();
    let heads: Vec<Option<&[u8]>> = past.iter().map(|row| row.past.head.as_deref()).collect();
    let sealed: Vec<&[u8]> = past.iter().map(|row| row.past.sealed.as_ref()).collect();
    let since: Vec<i64> = past.iter().map(|row| number(row.past.superseded_at)).collect();
    let sql = "INSERT INTO relay.past_versions (customer, id, version, head, sealed, superseded_at) \
        SELECT p.* FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bigint[]) \
        AS p (customer, id, version, head, sealed, superseded_at) \
        JOIN relay.secrets s ON s.customer = p.customer AND s.id = p.id AND s.version <> p.version \
        ON CONFLICT DO NOTHING";
    let given: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&customers, &ids, &versions, &heads, &sealed, &since];
    all(lent.execute(sql, &given).await?, past.len())
}

/// The count of writes becomes `generation` with the one that every write adds.
async fn count_as(lent: &mut Lent, generation: u64) -> Result<(), Fault> {
    let sql = "UPDATE relay.writes SET writes = CASE slot WHEN 0 THEN $1::bigint ELSE 0 END";
    lent.execute(sql, &[&number(generation.saturating_sub(1))]).await.map(drop)
}

/// What is there already is never written over.
fn all(written: u64, wanted: usize) -> Result<(), Fault> {
    if usize::try_from(written) == Ok(wanted) { Ok(()) } else { Err(conflict()) }
}
