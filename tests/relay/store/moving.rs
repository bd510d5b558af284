//! A store becomes a stream and a stream becomes a store, over every engine; and every stream that is not what a
//! relay wrote is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use relay::model::{Customer, DataKeyId, SecretId};
use relay::seal::travels;
use relay::store::memory::Memory;
use relay::store::moving::{
    Decoder, Export, IMPORT, Import, ImportError, Imported, Part, StreamError, Totals,
};
use relay::store::{Expected, Store, StoreError};

use super::{Case, customer, every_engine, long, row};

fn all(_: &str) -> bool {
    true
}

async fn exported(store: &Arc<dyn Store>) -> (Vec<u8>, Totals) {
    let mut export = Export::begin(store.clone(), all).await.unwrap();
    let mut stream = Vec::new();
    while let Some(piece) = export.next().await.unwrap() {
        stream.extend_from_slice(&piece);
    }
    (stream, *export.totals())
}

/// Reads a stream to its end, in pieces of `piece` bytes, without keeping anything.
fn judged(stream: &[u8], piece: usize) -> Result<Option<Totals>, StreamError> {
    let (mut decoder, mut totals) = (Decoder::default(), None);
    for piece in stream.chunks(piece) {
        decoder.feed(piece);
        while let Some(block) = decoder.block()? {
            if let Part::End(end) = Part::read(&block)? {
                totals = Some(end);
            }
        }
    }
    decoder.end()?;
    Ok(totals)
}

/// Imports as much of `stream` as there is; ends it if it is whole.
async fn imported(
    stream: &[u8],
    store: &Arc<dyn Store>,
    resume: bool,
) -> Result<(Imported, Totals, u64), ImportError> {
    let mut import = Import::new(store.clone(), all, resume);
    let mut decoder = Decoder::default();
    for piece in stream.chunks(1000) {
        decoder.feed(piece);
        while let Some(block) = decoder.block()? {
            let part = Part::read(&block)?;
            import.take(&block, part).await?;
        }
    }
    decoder.end()?;
    let kept = import.kept();
    let (imported, totals) = import.end(|_| {}).await?;
    Ok((imported, totals, kept))
}

/// Puts something of every kind into a store; whose it is.
async fn fill(store: &Arc<dyn Store>) -> Vec<Customer> {
    let upkeep = store.upkeep();
    let names = ["a", "b", "aa", "a b", "\u{e9}", &"c".repeat(128), &"b".repeat(98), "large"];
    let all: Vec<Customer> = names.iter().map(|name| customer(name)).collect();
    for (number, one) in all.iter().enumerate() {
        let (first, second) = (DataKeyId::random(), DataKeyId::random());
        store.add_data_key(one, first, long(200 + number * 700)).await.unwrap();
        if number % 2 == 0 {
            upkeep.renew_data_key(one, first, second, "second".into()).await.unwrap();
        }
        for place in 0..40 {
            let id = SecretId::random();
            let size = if one.as_str() == "large" { 30_000 } else { place * 300 };
            let mut wanted = row(one, id, 1, long(size));
            wanted.tokens = (place % 5 == 0).then(|| long(5000));
            store.put_secret(wanted, Expected::Absent).await.unwrap();
            if place % 7 == 0 {
                store.put_secret(row(one, id, 2, "two"), Expected::Head("head 1".into())).await.unwrap();
                store.put_secret(row(one, id, 3, ""), Expected::Head("head 2".into())).await.unwrap();
            }
            if place % 3 == 0 {
                upkeep.note_used(vec![(one.clone(), id, 7200)]).await.unwrap();
            }
        }
    }
    let (keyless, unused) = (customer("keyless"), customer("unused"));
    store.put_secret(row(&keyless, SecretId::random(), 1, "x"), Expected::Absent).await.unwrap();
    store.add_data_key(&unused, DataKeyId::random(), "only".into()).await.unwrap();
    store.put_meta("fingerprint-key", "wrapped".into()).await.unwrap();
    store.put_meta("anchor/one", long(9000)).await.unwrap();
    [all, vec![keyless, unused]].concat()
}

async fn assert_same(name: &str, one: &Arc<dyn Store>, other: &Arc<dyn Store>, customers: &[Customer]) {
    for customer in customers {
        let rows = one.secrets(customer, None, usize::MAX).await.unwrap();
        assert_eq!(rows, other.secrets(customer, None, usize::MAX).await.unwrap(), "{name} {customer}");
        let key = one.active_data_key(customer).await.unwrap();
        assert_eq!(key, other.active_data_key(customer).await.unwrap(), "{name} {customer}");
        let keys = |store: &Arc<dyn Store>| {
            let store = store.clone();
            async move {
                let mut keys = store.upkeep().data_keys(customer).await.unwrap();
                keys.sort();
                keys
            }
        };
        assert_eq!(keys(one).await, keys(other).await, "{name} {customer}");
        let ids: Vec<SecretId> = rows.iter().map(|row| row.id).collect();
        let used = one.upkeep().last_used(customer, ids.clone()).await.unwrap();
        assert_eq!(used, other.upkeep().last_used(customer, ids.clone()).await.unwrap(), "{name} {customer}");
        for id in ids {
            let past = one.upkeep().past(customer, id).await.unwrap();
            assert_eq!(past, other.upkeep().past(customer, id).await.unwrap(), "{name} {customer} {id}");
            assert_eq!(other.owner(id).await.unwrap().as_ref(), Some(customer), "{name}");
        }
    }
}

#[tokio::test]
async fn an_export_fills_every_engine_with_the_same() {
    for from in every_engine().await {
        let customers = fill(&from.store).await;
        let generation = from.store.upkeep().generation().await.unwrap();
        let (stream, totals) = exported(&from.store).await;
        assert_eq!(judged(&stream, 999).unwrap(), Some(totals));
        assert_eq!((totals.customers, totals.secrets, totals.metas), (10, 321, 2), "{}", from.name);
        assert_eq!((totals.data_keys, totals.past), (13, 96), "{}", from.name);
        for to in every_engine().await {
            let name = format!("{} to {}", from.name, to.name);
            let (ended, found, kept) = imported(&stream, &to.store, false).await.unwrap();
            assert_eq!((found, kept), (totals, 0), "{name}");
            assert_eq!((ended.customers, ended.secrets, ended.ended), (10, 321, true), "{name}");
            assert_same(&name, &from.store, &to.store, &customers).await;
            for meta in ["fingerprint-key", "anchor/one"] {
                let wanted = from.store.meta(meta).await.unwrap();
                assert_eq!(to.store.meta(meta).await.unwrap(), wanted, "{name} {meta}");
            }
            let now = to.store.upkeep().generation().await.unwrap();
            assert_eq!(now, generation, "{name}: it is as old as the store that was exported");
            // What it keeps of its import does not travel on.
            assert!(to.store.meta(IMPORT).await.unwrap().is_some(), "{name}");
            assert_eq!(exported(&to.store).await.1, totals, "{name}");
            to.store.put_meta("more", "x".into()).await.unwrap();
            assert!(to.store.upkeep().generation().await.unwrap() > generation, "{name}: it grows on");
        }
    }
}

#[tokio::test]
async fn a_difference_of_any_kind_changes_the_sum() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let customers = fill(&store).await;
    let mut sums = vec![exported(&store).await.1.sum];
    let mut differs = async |what: &str| {
        let sum = exported(&store).await.1.sum;
        assert!(!sums.contains(&sum), "{what} does not show");
        sums.push(sum);
    };
    let [first, ..] = &customers[..] else { panic!("nobody") };
    let rows = store.secrets(first, None, 100).await.unwrap();
    let other = relay::store::SecretRow { sealed: "other".into(), ..rows[0].clone() };
    store.put_secret(other, Expected::Head(rows[0].head.clone())).await.unwrap();
    differs("a sealed version").await;
    store.upkeep().note_used(vec![(first.clone(), rows[1].id, 3)]).await.unwrap();
    differs("a use").await;
    let (id, wrapped) = store.active_data_key(first).await.unwrap().unwrap();
    store.upkeep().rewrap_data_key(first, id, wrapped, "anew".into()).await.unwrap();
    differs("a wrapped key").await;
    store.upkeep().renew_data_key(first, id, DataKeyId::random(), "next".into()).await.unwrap();
    differs("a new key").await;
    store.put_meta("anchor/one", "another".into()).await.unwrap();
    differs("a store-wide record").await;
    store.remove_secret(first, rows[2].id).await.unwrap();
    differs("a removed secret").await;
}

#[tokio::test]
async fn an_import_that_was_cut_off_goes_on_behind_the_last_block_and_never_takes_another_export() {
    let source: Arc<dyn Store> = Arc::new(Memory::new());
    let customers = fill(&source).await;
    let (stream, totals) = exported(&source).await;
    let (other, _) = exported(&source).await;
    for Case { name, store, .. } in every_engine().await {
        let mut kept_before = 0;
        for tenths in [3, 5, 8] {
            let part = &stream[..stream.len() * tenths / 10];
            let cut = imported(part, &store, tenths > 3).await.map(drop);
            assert!(matches!(cut, Err(ImportError::Stream(StreamError::Cut(_)))), "{name}: {cut:?}");
            let kept = Imported::of(&*store).await.unwrap().expect("it is marked");
            assert!(!kept.ended && kept.blocks > kept_before, "{name}: {kept:?}");
            kept_before = kept.blocks;
        }
        let again = imported(&stream, &store, false).await.map(drop);
        assert!(
            matches!(again, Err(ImportError::Begun(blocks)) if blocks == kept_before),
            "{name}: {again:?}"
        );
        let foreign = imported(&other, &store, true).await.map(drop);
        assert!(matches!(foreign, Err(ImportError::Other)), "{name}: {foreign:?}");
        let (_, found, kept) = imported(&stream, &store, true).await.unwrap();
        assert_eq!((found, kept), (totals, kept_before), "{name}");
        assert_same(name, &source, &store, &customers).await;
        let twice = imported(&stream, &store, true).await.map(drop);
        assert!(matches!(twice, Err(ImportError::Ended)), "{name}: {twice:?}");
    }
}

#[tokio::test]
async fn a_store_that_holds_anything_takes_no_import() {
    let source: Arc<dyn Store> = Arc::new(Memory::new());
    fill(&source).await;
    let (stream, _) = exported(&source).await;
    for what in ["a data key", "a secret", "a store-wide record"] {
        for Case { name, store, .. } in every_engine().await {
            let ours = customer("acme");
            match what {
                "a data key" => store.add_data_key(&ours, DataKeyId::random(), "k".into()).await.unwrap(),
                "a secret" => {
                    let row = row(&ours, SecretId::random(), 1, "s");
                    store.put_secret(row, Expected::Absent).await.unwrap();
                }
                _ => store.put_meta("fingerprint-key", "w".into()).await.unwrap(),
            }
            let before = exported(&store).await.1;
            for resume in [false, true] {
                let refused = imported(&stream, &store, resume).await.map(drop);
                assert!(matches!(refused, Err(ImportError::NotNew(_))), "{name} {what}: {refused:?}");
            }
            assert_eq!(exported(&store).await.1, before, "{name} {what}: something was written");
            assert_eq!(store.meta(IMPORT).await.unwrap(), None, "{name} {what}");
        }
    }
}

#[tokio::test]
async fn every_cut_and_every_flipped_bit_is_found() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let ours = customer("acme");
    store.add_data_key(&ours, DataKeyId::random(), "key".into()).await.unwrap();
    store.put_secret(row(&ours, SecretId::random(), 1, long(400)), Expected::Absent).await.unwrap();
    store.put_meta("fingerprint-key", "wrapped".into()).await.unwrap();
    let (stream, totals) = exported(&store).await;
    for piece in [1, 7, stream.len()] {
        assert_eq!(judged(&stream, piece).unwrap(), Some(totals), "as it is");
    }
    for length in 0..stream.len() {
        let cut = judged(&stream[..length], 64);
        assert!(matches!(cut, Err(StreamError::Cut(_))), "cut to {length}: {cut:?}");
    }
    for bit in 0..stream.len() * 8 {
        let mut flipped = stream.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(judged(&flipped, 64).is_err(), "bit {bit}");
    }
    let longer = [&stream[..], b"x"].concat();
    assert_eq!(judged(&longer, 64), Err(StreamError::Behind));
    assert_eq!(judged(&[&stream[..], &stream[..]].concat(), 64), Err(StreamError::Behind));
    assert_eq!(judged(b"", 64), Err(StreamError::Cut(0)));
    assert_eq!(judged(b"{\"not\":\"an export\"}", 3), Err(StreamError::Foreign));
    let mut newer = stream.clone();
    newer[18] = 2;
    assert_eq!(judged(&newer, 64), Err(StreamError::Version(2)));
}

#[tokio::test]
async fn random_cuts_flips_swaps_and_repeats_of_a_long_export_are_found_and_leave_no_whole_store() {
    let source: Arc<dyn Store> = Arc::new(Memory::new());
    fill(&source).await;
    let (stream, totals) = exported(&source).await;
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for round in 0..300 {
        let mut bytes = stream.clone();
        let (at, length) = (chance.below(bytes.len()), 1 + chance.below(3000));
        let end = (at + length).min(bytes.len());
        match round % 5 {
            0 => bytes[at] ^= 1 << chance.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1)),
        }
        if bytes == stream {
            continue;
        }
        assert!(judged(&bytes, 5000).is_err(), "round {round} at {at}");
        if round % 10 < 5 {
            let store: Arc<dyn Store> = Arc::new(Memory::new());
            imported(&bytes, &store, false).await.map(drop).unwrap_err();
            let left = Imported::of(&*store).await.unwrap();
            assert!(left.is_none_or(|left| !left.ended), "round {round}: half a store looks whole");
        }
    }
    assert_eq!(judged(&stream, 5000).unwrap(), Some(totals));
}

#[test]
fn keys_and_what_is_known_of_the_audit_travel_and_the_state_of_jobs_stays() {
    for name in ["fingerprint-key", "audit-key", "anchor/one", relay::audit::replica::REPLICAS] {
        assert!(travels(name), "{name}");
    }
    for name in ["job", "tidied", "import", "ready", "audit-key-2", ""] {
        assert!(!travels(name), "{name}");
    }
}

/// xorshift64: the same in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }
}

/// A stream with right checks over whatever payloads.
fn forged(blocks: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut stream = b"relay-store-export\x01".to_vec();
    let mut check = digest(&SHA256, &stream).as_ref().to_vec();
    for (kind, payload) in blocks {
        let head = [&[*kind][..], &(payload.len() as u32).to_be_bytes()].concat();
        check = digest(&SHA256, &[&check[..], &head, payload].concat()).as_ref().to_vec();
        stream.extend([&head[..], payload, &check].concat());
    }
    stream
}

fn part(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn header() -> (u8, Vec<u8>) {
    (1, [&[7; 16][..], &[0; 16], &part(b"relay")].concat())
}

fn secret(customer: &[u8], id: u8, version: u8) -> Vec<u8> {
    let parts = [part(customer), vec![id; 16], vec![0, 0, 0, version], part(b"head"), part(b"sealed")];
    [&b"s"[..], &parts.concat(), &[0], &[0], &[0; 8]].concat()
}

fn past(customer: &[u8], id: u8, version: u8) -> Vec<u8> {
    let parts = [part(customer), vec![id; 16], vec![0, 0, 0, version], vec![1], part(b"head"), vec![0; 8]];
    [&b"p"[..], &parts.concat(), &part(b"sealed")].concat()
}

fn meta(name: &[u8]) -> Vec<u8> {
    [&b"m"[..], &part(name), &part(b"value")].concat()
}

fn end() -> (u8, Vec<u8>) {
    (3, vec![0; 72])
}

#[tokio::test]
async fn a_forged_export_is_refused_with_an_error_and_ends_no_import() {
    let (twice, apart) = (secret(b"acme", 1, 1), secret(b"globex", 1, 1));
    let long_field = [&b"m"[..], &u32::MAX.to_be_bytes(), b"x"].concat();
    let rows: Vec<(&str, Vec<(u8, Vec<u8>)>)> = vec![
        ("no header", vec![(2, secret(b"acme", 1, 1)), end()]),
        ("two headers", vec![header(), header(), end()]),
        ("an end alone", vec![end()]),
        ("an unknown block", vec![header(), (9, vec![]), end()]),
        ("an unknown record", vec![header(), (2, b"z".to_vec()), end()]),
        ("a field of 4 GiB", vec![header(), (2, long_field), end()]),
        ("a customer without a name", vec![header(), (2, secret(b"", 1, 1)), end()]),
        ("a customer that is too long", vec![header(), (2, secret(&[b'a'; 129], 1, 1)), end()]),
        ("a customer with a control byte", vec![header(), (2, secret(b"a\nb", 1, 1)), end()]),
        ("a customer that is no text", vec![header(), (2, secret(&[0xff], 1, 1)), end()]),
        ("a secret twice in a block", vec![header(), (2, [&twice[..], &twice].concat()), end()]),
        ("a secret twice", vec![header(), (2, twice.clone()), (2, twice.clone()), end()]),
        ("a secret of two customers", vec![header(), (2, twice.clone()), (2, apart), end()]),
        ("a version of no secret", vec![header(), (2, past(b"acme", 1, 1)), end()]),
        ("a version of another's secret", vec![header(), (2, twice.clone()), (2, past(b"b", 1, 2)), end()]),
        (
            "the current version as past",
            vec![header(), (2, [twice.clone(), past(b"acme", 1, 1)].concat()), end()],
        ),
        ("the state of an import", vec![header(), (2, meta(b"import")), end()]),
        ("a job", vec![header(), (2, meta(b"job")), end()]),
        ("other totals than records", vec![header(), (2, twice.clone()), end()]),
        ("no end", vec![header(), (2, twice)]),
        ("a header cut short", vec![(1, vec![1; 20]), end()]),
        ("a header too long", vec![(1, [header().1, vec![0]].concat()), end()]),
        ("an end cut short", vec![header(), (3, vec![0; 71])]),
    ];
    for (what, blocks) in rows {
        let stream = forged(&blocks);
        for Case { name, store, .. } in every_engine().await {
            let mut import = Import::new(store.clone(), travels, false);
            let ended = async {
                let mut decoder = Decoder::default();
                decoder.feed(&stream);
                while let Some(block) = decoder.block()? {
                    let part = Part::read(&block)?;
                    import.take(&block, part).await?;
                }
                decoder.end()?;
                import.end(|_| {}).await
            };
            let refused = ended.await.map(drop).map_err(|error| error.to_string());
            let said = refused.expect_err(&format!("{name}: {what}"));
            let id = uuid::Uuid::from_bytes([1; 16]).to_string();
            let named: &[&str] = match what {
                "a secret twice in a block" => &["record 2 in block 2 of the export, of customer \"acme\","],
                "a secret twice" | "a secret of two customers" => &["block 3", &id, "\"acme\""],
                _ => &[],
            };
            assert!(named.iter().all(|word| said.contains(word)), "{name}: {what}: {said}");
            let left = Imported::of(&*store).await.unwrap();
            assert!(left.is_none_or(|left| !left.ended), "{name}: {what}");
        }
    }
    // The control: what the rows above are made of is taken where it is right.
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let records = [secret(b"acme", 1, 2), past(b"acme", 1, 1), secret(b"acme", 2, 1)].concat();
    let stream = forged(&[header(), (2, records), end()]);
    let unequal = imported(&stream, &store, false).await.map(drop);
    assert!(matches!(unequal, Err(ImportError::Unequal { .. })), "{unequal:?}");
    assert_eq!(store.secrets(&customer("acme"), None, 9).await.unwrap().len(), 2);
}

#[test]
fn random_payloads_with_right_checks_and_lengths_that_promise_much_do_nothing() {
    let mut chance = Chance(0x2545_f491_4f6c_dd1d);
    for _ in 0..3000 {
        let kind = 1 + chance.below(3) as u8;
        let mut payload: Vec<u8> = (0..chance.below(200)).map(|_| chance.next() as u8).collect();
        if let Some(first) = payload.first_mut() {
            *first = b"mksp"[chance.below(4)];
        }
        // Whatever it says, it says it without a panic.
        let _ = judged(&forged(&[header(), (kind, payload), end()]), 100);
    }
    let mut long = forged(&[header()]);
    long.extend([2, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(judged(&long, 100), Err(StreamError::Damaged(2)), "a block of 4 GiB");
}

#[tokio::test]
async fn an_export_beside_writers_holds_whole_secrets_and_each_ones_key() {
    for Case { name, store, .. } in every_engine().await {
        let customers: Vec<Customer> = (0..6).map(|number| customer(&format!("c{number}"))).collect();
        let over = Arc::new(AtomicBool::new(false));
        for one in &customers {
            let key = DataKeyId::random();
            store.add_data_key(one, key, key.as_bytes().to_vec().into()).await.unwrap();
            for _ in 0..60 {
                let id = SecretId::random();
                store.put_secret(under(one, id, 1, key), Expected::Absent).await.unwrap();
            }
        }
        let writers: Vec<_> = customers
            .iter()
            .map(|one| tokio::spawn(rotate_until(store.clone(), one.clone(), over.clone())))
            .collect();
        for _ in 0..5 {
            let (stream, totals) = exported(&store).await;
            let target: Arc<dyn Store> = Arc::new(Memory::new());
            let (_, found, _) = imported(&stream, &target, false).await.unwrap();
            assert_eq!(found, totals, "{name}");
            for one in &customers {
                let keys = target.upkeep().data_keys(one).await.unwrap();
                let has = |id: &[u8]| keys.iter().any(|(key, _)| key.as_bytes() == id);
                let rows = target.secrets(one, None, 1000).await.unwrap();
                assert_eq!(rows.len(), 60, "{name}");
                for row in rows {
                    assert_eq!(row.head, row.sealed, "{name}: head and version of two moments");
                    assert!(has(&row.head[..16]), "{name}: a secret without its data key");
                    assert_eq!(row.head[16..], row.version.to_be_bytes(), "{name}");
                    for past in target.upkeep().past(one, row.id).await.unwrap() {
                        assert_eq!(past.head, Some(past.sealed), "{name}");
                        assert!(past.version < row.version, "{name}");
                    }
                }
            }
        }
        over.store(true, Ordering::SeqCst);
        for writer in writers {
            assert!(writer.await.unwrap() > 0, "{name}: nothing was written meanwhile");
        }
    }
}

/// A secret whose head and version say which data key they are under.
fn under(customer: &Customer, id: SecretId, version: u32, key: DataKeyId) -> relay::store::SecretRow {
    let says = Bytes::from([&key.as_bytes()[..], &version.to_be_bytes()].concat());
    relay::store::SecretRow {
        customer: customer.clone(),
        id,
        version,
        head: says.clone(),
        sealed: says,
        tokens: None,
    }
}

/// Gives the customer new data keys and its secrets new versions, as rotation does; how many writes.
async fn rotate_until(store: Arc<dyn Store>, one: Customer, over: Arc<AtomicBool>) -> u64 {
    let mut writes = 0;
    while !over.load(Ordering::SeqCst) {
        let (before, _) = store.active_data_key(&one).await.unwrap().unwrap();
        let key = DataKeyId::random();
        let wrapped = key.as_bytes().to_vec().into();
        store.upkeep().renew_data_key(&one, before, key, wrapped).await.unwrap();
        for row in store.secrets(&one, None, 1000).await.unwrap() {
            let next = under(&one, row.id, row.version + 1, key);
            store.put_secret(next, Expected::Head(row.head)).await.unwrap();
            writes += 1;
            tokio::task::yield_now().await;
        }
        // Past versions are under the key before: they go first.
        store.upkeep().erase_past(&one, u64::MAX).await.unwrap();
        let removed = store.upkeep().remove_data_key(&one, before).await;
        assert!(matches!(removed, Ok(true) | Err(StoreError::Conflict)), "{removed:?}");
    }
    writes
}
