//! What a writer to the store can make of the rows that he finds there: nothing.
//!
//! A real relay over a store that the test writes to behind its back. Every part of a head and every sealed
//! version is exchanged between rows, each bit is flipped; each attempt must be refused, stand in the audit,
//! and reach no vendor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay::app::Options;
use relay::model::{Customer, SecretId};
use relay::store::memory::Memory;
use relay::store::{Expected, SecretRow, Store};

use super::{customer, damaged};
use crate::rig::vendor;
use crate::rig::{Rig, Settings};

/// A head's parts by their names, in the order of format 1.
fn parts(head: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut at = 0;
    let mut found = Vec::new();
    let mut take = |name, len: usize| {
        found.push((name, head[at..at + len].to_vec()));
        at += len;
        at
    };
    let long = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap()) as usize;
    take("format", 1);
    let next = take("data key", 16);
    take("customer", 4 + long(next));
    let next = take("id", 16);
    let next = take("integration", 4 + long(next));
    let next = take("origin", 1 + 4 + long(next + 1) + 2);
    take("label", 4 + long(next));
    take("state", 1);
    take("version", 4);
    take("highest version", 4);
    let next = take("expiry", 9);
    let mut end = next + 4;
    for _ in 0..long(next) {
        end += 4 + long(end) + 1;
    }
    let next = take("fields", end - next);
    take("policy", 4 + long(next));
    take("fingerprint", 8);
    take("created", 8);
    take("updated", 8);
    take("changes", 8);
    take("code", 32);
    assert_eq!(
        found.iter().map(|(_, part)| part.len()).sum::<usize>(),
        head.len(),
        "the whole head was read"
    );
    found
}

/// A secret of the matrix, and the row that stands in the store now.
struct Target {
    customer: Customer,
    id: SecretId,
    integration: &'static str,
    good: SecretRow,
    standing: Bytes,
}

struct Bench {
    rig: Rig,
    store: Arc<Memory>,
    targets: Vec<Target>,
    attempts: std::collections::BTreeMap<String, u64>,
    sent: usize,
}

impl Bench {
    fn new() -> Self {
        let store = Arc::new(Memory::new());
        let shared = store.clone();
        let options = move || Options { store: Some(shared.clone()), ..Options::default() };
        let vendor = vendor::Vendor::start(|request, out| vendor::answer_to(request, out, b"ok"));
        let second = format!(
            "[integrations.second]\nupstream = \"https://127.0.0.1:{}/base\"\nca_file = \"ca.pem\"\nprivate_cidrs = [\"127.0.0.0/8\"]\n\
             inject = [{{ header = \"x-key\", value = \"{{key}}{{user}}\" }}]\nfields = {{ key = {{ }}, user = {{ secret = false }} }}\n",
            vendor.port
        );
        let settings = Settings { options: Box::new(options), more: second, ..Settings::default() };
        let rig = Rig::before(settings, vendor);
        let canary = rig.canary.text().to_owned();
        let mut targets = Vec::new();
        for (whose, integration, expires, versions) in [
            ("acme", "vendor", None, 1),
            ("acme", "second", Some("2099-01-01T00:00:00Z"), 2),
            ("globex", "vendor", Some("2098-01-01T00:00:00Z"), 2),
            ("globex", "second", None, 1),
        ] {
            let fields = match integration {
                "vendor" => serde_json::json!({ "token": canary }),
                _ => serde_json::json!({ "key": canary, "user": "bot" }),
            };
            let mut new = serde_json::json!({
                "customer": whose, "integration": integration, "label": format!("{whose} {integration} {versions}"), "fields": fields,
            });
            if let Some(at) = expires {
                new["expires_at"] = at.into();
            }
            let answer = rig.admin("POST", "/v1/secrets", Some(&new.to_string()));
            assert_eq!(answer.status, 201, "{}", answer.text());
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            for _ in 1..versions {
                let body = serde_json::json!({ "fields": fields }).to_string();
                let answer = rig.admin("POST", &format!("/v1/secrets/{id}/versions"), Some(&body));
                assert_eq!(answer.status, 201, "{}", answer.text());
            }
            let (customer, id) = (customer(whose), SecretId::parse(&id).unwrap());
            let good = rig.runtime().block_on(store.secret(&customer, id)).unwrap().unwrap();
            targets.push(Target { customer, id, integration, standing: good.head.clone(), good });
        }
        Self { rig, store, targets, attempts: Default::default(), sent: 0 }
    }

    fn plant(&mut self, place: usize, version: u32, head: &[u8], sealed: &[u8]) {
        let target = &mut self.targets[place];
        let row = SecretRow {
            customer: target.customer.clone(),
            id: target.id,
            version,
            head: Bytes::copy_from_slice(head),
            sealed: Bytes::copy_from_slice(sealed),
            tokens: None,
        };
        target.standing = match self.rig.runtime().block_on({
            let expected = Expected::Head(target.standing.clone());
            self.store.put_secret(row.clone(), expected)
        }) {
            Ok(()) => row.head,
            Err(error) => panic!("the test could not write its row: {error}"),
        };
    }

    fn ask(&self, place: usize) -> (u16, String) {
        let target = &self.targets[place];
        let path = format!("/{}/{}/x", target.integration, target.id);
        let answer = self.rig.get(&path, &self.rig.token(target.customer.as_str()));
        (answer.status, answer.header("relay-error").unwrap_or_default().to_owned())
    }

    /// The row must be refused. A row that was good just before may be served from memory until the change is
    /// told, which is no opening of the doctored one.
    fn refused(&mut self, place: usize, mistake: &str) {
        let begun = Instant::now();
        let mut answer = self.ask(place);
        while answer.0 == 200 && begun.elapsed() < Duration::from_secs(1) {
            self.sent += 1;
            answer = self.ask(place);
        }
        assert_eq!(answer, (424, "credential_unusable".to_owned()), "{mistake}");
        *self.attempts.entry(self.targets[place].customer.as_str().to_owned()).or_default() += 1;
    }

    fn restore(&mut self, place: usize) {
        let good = self.targets[place].good.clone();
        self.plant(place, good.version, &good.head, &good.sealed);
        self.sent += 1;
        assert_eq!(self.ask(place).0, 200, "the row as relay wrote it still opens");
    }

    /// Every attempt was audited or, beyond ten a second, counted; and none reached a vendor.
    fn settle(mut self) {
        // A new second, in which the refusals that were only counted are told with the next one.
        std::thread::sleep(Duration::from_millis(1100));
        for place in 0..self.targets.len() {
            let row = self.targets[place].good.clone();
            self.plant(place, row.version, &row.head[..4], &row.sealed);
            self.refused(place, "a head of four bytes");
        }
        let all: u64 = self.attempts.values().sum();
        let records = self.rig.audit_until(|records| records.iter().map(told).sum::<u64>() >= all);
        for (customer, attempts) in &self.attempts {
            let theirs = records.iter().filter(|record| record["customer"] == customer.as_str());
            assert_eq!(theirs.map(told).sum::<u64>(), *attempts, "{customer}: attempts in the audit");
        }
        assert_eq!(
            self.rig.vendor.requests().len(),
            self.sent,
            "only rows as relay wrote them reached a vendor"
        );
        println!("{} attempts, all refused and told", self.attempts.values().sum::<u64>());
    }
}

/// How many attempts a record tells of: what a head gave away is `refused` before the intent, with those that
/// were only counted; what the sealed version gave away is the outcome of an intent.
fn told(record: &serde_json::Value) -> u64 {
    if record["code"] != "credential_unusable" {
        return 0;
    }
    let note = record["note"].as_str().unwrap_or_default();
    1 + note.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
}

#[test]
fn no_part_of_a_row_can_be_exchanged_for_another_rows() {
    let mut bench = Bench::new();
    for place in 0..bench.targets.len() {
        let own = bench.targets[place].good.clone();
        let own_parts = parts(&own.head);
        for other in (0..bench.targets.len()).filter(|other| *other != place) {
            let theirs = bench.targets[other].good.clone();
            let their_parts = parts(&theirs.head);
            for (index, (name, part)) in own_parts.iter().enumerate() {
                if *part == their_parts[index].1 {
                    continue;
                }
                let mut doctored = own_parts.clone();
                doctored[index].1.clone_from(&their_parts[index].1);
                let head: Vec<u8> = doctored.into_iter().flat_map(|(_, part)| part).collect();
                bench.plant(place, own.version, &head, &own.sealed);
                bench.refused(place, &format!("the head's {name} of row {other} in row {place}"));
            }
            bench.plant(place, theirs.version, &theirs.head, &theirs.sealed);
            bench.refused(place, &format!("the whole of row {other} in row {place}"));
            bench.plant(place, own.version, &own.head, &theirs.sealed);
            bench.refused(place, &format!("the sealed version of row {other} in row {place}"));
            bench.plant(place, theirs.version, &theirs.head, &own.sealed);
            bench.refused(place, &format!("the head of row {other} in row {place}"));
        }
        bench.plant(place, own.version + 1, &own.head, &own.sealed);
        bench.refused(place, "another version in the row than in its head");
        bench.restore(place);
    }
    bench.settle();
}

#[test]
fn no_bit_of_a_row_can_be_flipped_under_a_running_relay() {
    let mut bench = Bench::new();
    let own = bench.targets[0].good.clone();
    for (mistake, head) in damaged(&own.head) {
        bench.plant(0, own.version, &head, &own.sealed);
        bench.refused(0, &format!("head, {mistake}"));
    }
    for (mistake, sealed) in damaged(&own.sealed) {
        bench.plant(0, own.version, &own.head, &sealed);
        bench.refused(0, &format!("sealed version, {mistake}"));
    }
    bench.restore(0);
    bench.settle();
}

#[test]
fn a_data_key_moved_to_another_customer_opens_nothing() {
    let mut bench = Bench::new();
    let (store, theirs) = (bench.store.clone(), bench.targets[2].good.clone());
    let thief = customer("thief");
    bench.rig.runtime().block_on(async {
        let (id, wrapped) = store.active_data_key(&theirs.customer).await.unwrap().unwrap();
        store.add_data_key(&thief, id, wrapped).await.unwrap();
        // The row's own id belongs to its owner: the thief needs another one.
        let row = SecretRow { customer: thief.clone(), id: SecretId::random(), ..theirs.clone() };
        store.put_secret(row.clone(), Expected::Absent).await.unwrap();
        bench.targets.push(Target {
            customer: thief,
            id: row.id,
            integration: "vendor",
            standing: row.head.clone(),
            good: row,
        });
    });
    // Also when the key is warm for its own customer.
    bench.sent += 1;
    assert_eq!(bench.ask(2).0, 200);
    for _ in 0..2 {
        bench.refused(4, "another customer's data key and row under the thief's name");
    }
    bench.settle();
}
