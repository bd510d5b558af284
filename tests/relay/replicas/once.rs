//! What only one relay of all on a store does at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use relay::stage::authorize::records::Bounds;
use relay::store::Store;
use serde_json::Value;
use uuid::Uuid;

use crate::rig::Settings;
use crate::rig::client::Client;
use crate::rig::oauth::OAuth;
use crate::rig::pair::{Pair, stores};

/// Two relays, a vendor whose refresh tokens are good once, and a customer that has connected.
fn connected(stores: [Arc<dyn Store>; 2], lives: u64) -> (Arc<OAuth>, Pair, String) {
    let (oauth, vendor) = OAuth::start(lives);
    let token = format!("token = \"https://localhost:{}/oauth/token\"", vendor.port);
    let integration = format!(
        "inject = [{{ header = \"authorization\", value = \"Bearer {{access_token}}\" }}]\n\
         oauth2 = {{ {token}, grant = \"refresh_token\", client_id = \"relay\" }}"
    );
    let settings = Settings { integration, ..Settings::default() };
    let pair = Pair::over(stores, settings, vendor, Bounds::default());
    oauth.connect(pair.rig.canary.text());
    let id = pair.rig.secret_with("acme", "vendor", &[("refresh_token", pair.rig.canary.text())]);
    (oauth, pair, id)
}

fn expire(oauth: &OAuth) {
    std::thread::sleep(Duration::from_millis(2100));
    oauth.lives.store(3600, Ordering::SeqCst);
}

/// So many requests at once, in turn over both relays: their statuses.
fn at_once(pair: &Pair, id: &str, count: usize) -> Vec<u16> {
    let bearer = format!("Bearer {}", pair.rig.token("acme"));
    let path = format!("/vendor/{id}/x");
    let (apps, shown) = ([pair.app(0), pair.app(1)], pair.rig.shown.clone());
    let one = |number: usize| {
        let mut client = Client::connect(apps[number % 2], shown.clone());
        client.request("GET", &path, &[("authorization", &bearer)], b"").status
    };
    let one = &one;
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|number| scope.spawn(move || one(number))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn two_hundred_requests_on_two_relays_renew_an_expired_token_once() {
    for stores in stores() {
        let (oauth, pair, id) = connected(stores, 1);
        expire(&oauth);
        oauth.thinks.store(500, Ordering::SeqCst);
        let answers = at_once(&pair, &id, 200);
        assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
        assert_eq!(oauth.count(), 2, "one when it was added, one for the two hundred");
        let used = pair.rig.vendor.requests().into_iter().filter(|r| r.target().starts_with("/base"));
        assert!(used.clone().all(|r| r.header("authorization").unwrap().ends_with("-access-2")));
        assert_eq!(used.count(), 200);
    }
}

#[test]
fn a_token_that_the_vendor_refuses_on_both_relays_is_replaced_once() {
    for stores in stores() {
        let (oauth, pair, id) = connected(stores, 3600);
        assert_eq!((pair.ask(0, &id).status, pair.ask(1, &id).status), (200, 200));
        oauth.thinks.store(300, Ordering::SeqCst);
        oauth.revoked.store(true, Ordering::SeqCst);
        let answers = at_once(&pair, &id, 20);
        assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
        assert_eq!(oauth.count(), 2, "one when it was added, one for both relays");
    }
}

/// Somebody has this turn, and does not renew it.
fn dies_in_its_turn(pair: &Pair, name: &str, lasts: Duration) {
    let had = pair.rig.runtime().block_on(pair.ways[0].lease(name, Uuid::new_v4(), lasts));
    assert!(had.unwrap());
}

#[test]
fn a_relay_that_died_at_a_renewal_is_waited_for_until_its_turn_is_over() {
    for stores in stores() {
        let (oauth, pair, id) = connected(stores, 1);
        expire(&oauth);
        let (begun, lasts) = (Instant::now(), Duration::from_secs(2));
        dies_in_its_turn(&pair, &format!("renew/{id}"), lasts);
        let answers = at_once(&pair, &id, 8);
        assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
        assert!(
            begun.elapsed() >= lasts,
            "the dead one's own call may still be under way: nobody asks beside it"
        );
        assert_eq!(oauth.count(), 2);
    }
}

fn job(pair: &Pair, which: usize) -> Value {
    pair.admin(which, "GET", "/v1/jobs", "").json()["job"].clone()
}

fn ended(pair: &Pair, which: usize) -> Value {
    let begun = Instant::now();
    loop {
        let told = job(pair, which);
        if told["ended_at"].is_string() {
            return told;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not end: {told}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_job_runs_on_one_relay_and_both_tell_of_it() {
    for pair in super::pairs() {
        let id = pair.rig.secret("acme");
        let (begun, lasts) = (Instant::now(), Duration::from_secs(2));
        dies_in_its_turn(&pair, "jobs", lasts);
        let asked = pair.admin(0, "POST", "/v1/keys/rotate", r#"{"data":true}"#);
        assert_eq!(asked.status, 202, "{}", asked.text());
        let (first, second) = (job(&pair, 0), job(&pair, 1));
        assert_eq!(first["id"], asked.json()["job"]["id"]);
        assert_eq!((&first, first["ended_at"].is_null()), (&second, true), "both tell what the store has");
        let again = pair.admin(1, "POST", "/v1/keys/rotate", "{}");
        assert_eq!((again.status, &again.json()["begun"]), (200, &Value::Bool(false)), "{}", again.text());
        assert_eq!(again.json()["job"]["id"], first["id"], "one job for all of them");
        let (first, second) = (ended(&pair, 0), ended(&pair, 1));
        assert!(begun.elapsed() >= lasts, "nobody works beside whoever has the turn");
        assert_eq!(first, second);
        assert_eq!((&first["customers"], &first["left"]), (&1.into(), &0.into()), "{first}");
        for which in 0..2 {
            let answer = pair.ask(which, &id);
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
}

#[test]
fn a_job_that_one_relay_began_is_ended_by_the_other_when_that_one_stops() {
    for mut pair in super::pairs() {
        for number in 0..41 {
            pair.rig.secret(&format!("customer-{number}"));
        }
        let asked = pair.admin(1, "POST", "/v1/keys/rotate", r#"{"data":true}"#);
        assert_eq!(asked.status, 202, "{}", asked.text());
        pair.stop_second();
        let told = ended(&pair, 0);
        assert_eq!(told["id"], asked.json()["job"]["id"]);
        assert_eq!((&told["customers"], &told["left"]), (&41.into(), &0.into()), "{told}");
        pair.start_second();
        assert_eq!(job(&pair, 1), told, "also a relay that starts later tells of it");
    }
}
