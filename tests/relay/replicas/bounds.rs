//! How long a relay serves that hears the store's changes no more, or does not reach it.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use relay::stage::authorize::records::Bounds;
use relay::store::Feed;

use super::{SECOND, ended, pair, socket, stream};
use crate::rig::client::Client;
use crate::rig::pair::Pair;

/// Short enough to be waited for, and each clearly apart from the other.
const SHORT: Bounds =
    Bounds { deaf: Duration::from_millis(400), gone: Duration::from_secs(3), noticed: Duration::ZERO };

fn readiness(pair: &Pair, which: usize) -> (u16, bool, String) {
    let answer = pair.admin(which, "GET", "/readyz", "");
    let said = answer.json();
    let checks = said["checks"].as_array().unwrap();
    let store = checks.iter().find(|check| check["name"] == "store").unwrap();
    (answer.status, said["degraded"] == true, store["state"].as_str().unwrap().to_owned())
}

fn disable(pair: &Pair, id: &str) {
    let answer = pair.admin(0, "POST", &format!("/v1/secrets/{id}/disable"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_relay_that_hears_no_changes_obeys_a_revocation_within_two_seconds() {
    let pair = pair(Bounds::default());
    let (id, stays) = (pair.rig.secret("acme"), pair.rig.secret("acme"));
    assert_eq!((pair.ask(1, &id).status, pair.ask(1, &stays).status), (200, 200));
    let (mut one, mut two, mut other) = (stream(&pair, &id), socket(&pair, &id), stream(&pair, &stays));
    pair.ways[1].be(Feed::Deaf);
    disable(&pair, &id);
    let at = Instant::now();
    // A change of the feed, a round of judging and the bound itself, on a machine that does other things as well.
    let most = Bounds::default().deaf + SECOND;
    pair.until(1, &id, (410, "secret_disabled"), most);
    assert!(ended(&mut one) - at < most, "the stream");
    assert!(ended(&mut two) - at < most, "the WebSocket");
    assert_eq!(pair.ask(1, &stays).status, 200, "what was not revoked serves on");
    other.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(std::io::Read::read(&mut other.stream, &mut [0; 1]).is_err(), "and streams on");
    assert_eq!(readiness(&pair, 1), (200, true, "deaf".to_owned()));
    assert_eq!(readiness(&pair, 0), (200, false, "ok".to_owned()));
    pair.ways[1].be(Feed::Live);
    let begun = Instant::now();
    while readiness(&pair, 1) != (200, false, "ok".to_owned()) {
        assert!(begun.elapsed() < 5 * SECOND);
    }
}

#[test]
fn what_was_missed_is_seen_once_changes_are_heard_again() {
    // A bound that nothing here waits for.
    let pair = pair(Bounds {
        deaf: Duration::from_secs(600),
        gone: Duration::from_secs(600),
        noticed: Duration::ZERO,
    });
    let id = pair.rig.secret("acme");
    assert_eq!(pair.ask(1, &id).status, 200);
    let mut open = stream(&pair, &id);
    pair.ways[1].be(Feed::Deaf);
    disable(&pair, &id);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(pair.ask(1, &id).status, 200, "the control: it does not know yet");
    pair.ways[1].be(Feed::Live);
    let at = Instant::now();
    pair.until(1, &id, (410, "secret_disabled"), SECOND);
    assert!(ended(&mut open) - at < SECOND);
}

#[test]
fn a_secret_that_many_use_is_read_again_once_and_not_by_each() {
    let pair = pair(SHORT);
    let id = pair.rig.secret("acme");
    assert_eq!(pair.ask(1, &id).status, 200);
    let before = pair.ways[1].reads.load(SeqCst);
    assert_eq!(pair.ask(1, &id).status, 200);
    assert_eq!(pair.ways[1].reads.load(SeqCst), before, "while changes are heard nothing is read again");
    pair.ways[1].be(Feed::Deaf);
    let begun = Instant::now();
    let (app, shown, bearer) =
        (pair.app(1), pair.rig.shown.clone(), format!("Bearer {}", pair.rig.token("acme")));
    let one = || {
        let (mut client, mut asked) = (Client::connect(app, shown.clone()), 0);
        while begun.elapsed() < 2 * SECOND {
            let path = format!("/vendor/{id}/x");
            let answer = client.request("GET", &path, &[("authorization", &bearer)], b"");
            assert_eq!(answer.status, 200, "{}", answer.text());
            asked += 1;
        }
        asked
    };
    let asked: usize = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    let reads = pair.ways[1].reads.load(SeqCst) - before;
    // Once in half of the bound at most: it is read again before it has to be.
    let most = (begun.elapsed().as_millis() / (SHORT.deaf / 2).as_millis()) as usize + 2;
    assert!((2..=most).contains(&reads), "{asked} requests made {reads} readings, {most} at most");
    assert!(asked > 4 * most, "{asked} requests say little");
}

#[test]
fn a_relay_that_is_cut_off_serves_what_is_at_hand_until_its_bound_and_nothing_else() {
    for silent in [false, true] {
        let pair = pair(SHORT);
        let (warm, cold) = (pair.rig.secret("acme"), pair.rig.secret("acme"));
        assert_eq!(pair.ask(1, &warm).status, 200);
        let mut open = stream(&pair, &warm);
        pair.ways[1].silent.store(silent, SeqCst);
        pair.ways[1].be(Feed::Gone);
        let cut = Instant::now();
        assert_eq!(pair.ask(1, &warm).status, 200);
        let refused = pair.ask(1, &cold);
        assert_eq!((refused.status, refused.code()), (503, "store_unavailable"));
        assert!(refused.header("retry-after").is_some());
        assert!(cut.elapsed() < 2 * SECOND, "it took {:?} to say so", cut.elapsed());
        assert_eq!(pair.ask(1, &warm).status, 200);
        assert_eq!(pair.ask(0, &cold).status, 200, "the other relay is not touched by it");
        let mut served_until = Duration::ZERO;
        loop {
            let asked = cut.elapsed();
            let answer = pair.ask(1, &warm);
            match (answer.status, answer.code()) {
                (200, "") => served_until = asked,
                (503, "store_unavailable") => break,
                other => panic!("{other:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(served_until >= SHORT.gone / 2, "it served for {served_until:?} alone");
        assert!(served_until <= SHORT.gone + SECOND / 2, "it served for {served_until:?}");
        assert!(ended(&mut open) - cut < SHORT.gone + 2 * SECOND, "what is open ends, too");
        if !silent {
            assert_eq!(readiness(&pair, 1), (503, true, "lost".to_owned()));
        }
        pair.ways[1].silent.store(false, SeqCst);
        pair.ways[1].be(Feed::Live);
        pair.until(1, &warm, (200, ""), 5 * SECOND);
        pair.until(1, &cold, (200, ""), 5 * SECOND);
    }
}

#[test]
fn a_store_that_fails_before_the_feed_says_so_refuses_nothing_that_is_at_hand() {
    let pair = pair(SHORT);
    let id = pair.rig.secret("acme");
    assert_eq!(pair.ask(1, &id).status, 200);
    pair.ways[1].be(Feed::Deaf);
    pair.ways[1].fails.store(true, SeqCst);
    let begun = Instant::now();
    let bearer = format!("Bearer {}", pair.rig.token("acme"));
    let mut client = pair.client(1);
    // Past the bound of a deaf feed, and well before the other.
    while begun.elapsed() < 3 * SHORT.deaf {
        let answer = client.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &bearer)], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // Without naming it, too: the list of what there is serves as long.
    let only = client.request("GET", "/vendor/x", &[("authorization", &bearer)], b"");
    assert_eq!(only.code(), "store_unavailable", "a list that is not at hand cannot be read");
    pair.ways[1].fails.store(false, SeqCst);
    disable(&pair, &id);
    pair.until(1, &id, (410, "secret_disabled"), SHORT.deaf + SECOND);
}

#[test]
fn a_request_that_names_no_secret_goes_by_the_same_bounds() {
    let pair = pair(SHORT);
    let id = pair.rig.secret("acme");
    let bearer = format!("Bearer {}", pair.rig.token("acme"));
    let ask = || pair.client(1).request("GET", "/vendor/x", &[("authorization", &bearer)], b"");
    assert_eq!(ask().status, 200);
    pair.ways[1].be(Feed::Gone);
    assert_eq!(ask().status, 200, "what is at hand serves");
    pair.ways[1].be(Feed::Deaf);
    disable(&pair, &id);
    let begun = Instant::now();
    while ask().code() != "secret_not_found" {
        assert!(begun.elapsed() < SHORT.deaf + SECOND, "a list of before is still gone by");
        std::thread::sleep(Duration::from_millis(10));
    }
}
