use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use relay::audit::Durability;
use relay::model::SecretId;
use serde_json::Value;

use crate::rig::vendor::{self, raw};
use crate::rig::{Rig, Settings};

fn of_kind<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["kind"] == kind).collect()
}

#[test]
fn the_intent_stands_in_the_file_when_the_vendor_sees_the_request() {
    for durability in [Durability::Written, Durability::Synced] {
        let file: Arc<OnceLock<PathBuf>> = Arc::default();
        let found: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
        let (path, counts) = (file.clone(), found.clone());
        let rig = Rig::with(Settings { durability, ..Settings::default() }, move |_, out| {
            let text = std::fs::read_to_string(path.get().unwrap()).unwrap();
            let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            counts
                .lock()
                .unwrap()
                .push((of_kind(&records, "intent").len(), of_kind(&records, "outcome").len()));
            vendor::answer(out, 200, &[], b"ok");
        });
        file.set(rig.audit_path()).unwrap();
        let id = rig.secret("acme");
        for round in 1..=20 {
            assert_eq!(rig.get(&format!("/vendor/{id}/x"), &rig.token("acme")).status, 200);
            let (intents, outcomes) = *found.lock().unwrap().last().unwrap();
            assert_eq!(
                intents, round,
                "{durability:?}: the intent of request {round} was there before it went out"
            );
            assert!(outcomes < round, "{durability:?}: its outcome was not");
        }
    }
}

#[test]
fn every_served_request_has_one_intent_and_one_outcome_with_what_really_went() {
    let rig = Rig::answering(|request, out| match request.target().split('?').next().unwrap() {
        "/base/204" => raw(out, b"HTTP/1.1 204 No Content\r\n\r\n"),
        "/base/500" => vendor::answer(out, 500, &[], b"theirs"),
        "/base/chunks" => raw(
            out,
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
        ),
        "/base/much" => vendor::answer(out, 200, &[], &vec![b'x'; 300_000]),
        _ => vendor::answer_to(request, out, b"ok"),
    });
    let id = rig.secret("acme");
    let auth = format!("Bearer {}", rig.token("acme"));
    let body = vec![b'y'; 200_000];
    let rows: [(&str, &str, &[u8], u64, u64); 7] = [
        ("GET", "/x", b"", 200, 2),
        ("HEAD", "/x", b"", 200, 0),
        ("POST", "/x", b"hello", 200, 2),
        ("PUT", "/much", &body, 200, 300_000),
        ("GET", "/chunks", b"", 200, 7),
        ("DELETE", "/204", b"", 204, 0),
        ("GET", "/500", b"", 500, 6),
    ];
    let mut client = rig.client();
    for (number, (method, path, body, status, bytes_out)) in rows.into_iter().enumerate() {
        let answer = client.request(
            method,
            &format!("/vendor/{id}{path}?key=value"),
            &[("authorization", &auth)],
            body,
        );
        assert_eq!(u64::from(answer.status), status);
        let records = rig.audit_until(|r| of_kind(r, "outcome").len() > number);
        let (intents, outcomes) = (of_kind(&records, "intent"), of_kind(&records, "outcome"));
        assert_eq!((intents.len(), outcomes.len()), (number + 1, number + 1), "{method} {path}: one each");
        let (intent, outcome) = (intents[number], outcomes[number]);
        assert_eq!(intent["request_id"], answer.header("relay-request-id").unwrap(), "{method} {path}");
        for name in
            ["request_id", "iss", "customer", "secret", "version", "integration", "method", "path", "origin"]
        {
            assert!(!intent[name].is_null(), "{method} {path}: the intent has {name}");
            assert_eq!(intent[name], outcome[name], "{method} {path}: {name}");
        }
        assert_eq!(
            (&intent["customer"], &intent["secret"], &intent["method"]),
            (&"acme".into(), &id.as_str().into(), &method.into())
        );
        assert_eq!((&intent["path"], &intent["version"]), (&path.into(), &1.into()));
        assert_eq!(outcome["status"], status, "{method} {path}");
        assert_eq!(
            (&outcome["bytes_in"], &outcome["bytes_out"]),
            (&body.len().into(), &bytes_out.into()),
            "{method} {path}"
        );
        assert!(
            outcome.get("code").is_none() && outcome.get("note").is_none() && outcome["ms"].is_u64(),
            "{outcome}"
        );
        assert!(intent.get("status").is_none(), "{intent}");
    }
}

#[test]
fn a_refusal_after_a_valid_token_is_recorded_once_and_without_one_not_at_all() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let unknown = SecretId::random().to_string();
    let good = rig.token("acme");
    let foreign = rig.token("globex");
    for path in [format!("/vendor/{id}/x"), "/nowhere/x".to_owned()] {
        assert_eq!(rig.get(&path, "sk-dummy").status, 401);
        assert_eq!(rig.get(&path, &good.replace('.', ".x")).status, 401);
    }
    assert!(of_kind(&rig.audit(), "refused").is_empty(), "who it was is not known");
    let rows = [
        ("GET", format!("/vendor/{unknown}/x"), &good, "secret_not_found", "acme"),
        ("GET", format!("/vendor/{id}/x"), &foreign, "secret_not_found", "globex"),
        ("HEAD", format!("/vendor/{id}/%2e%2e/x"), &good, "path_refused", "acme"),
        ("POST", "/nowhere/x".to_owned(), &good, "integration_unknown", "acme"),
    ];
    for (number, (method, path, token, code, customer)) in rows.into_iter().enumerate() {
        let auth = format!("Bearer {token}");
        let answer = rig.client().request(method, &path, &[("authorization", &auth)], b"");
        assert_eq!(answer.code(), code);
        let records = rig.audit_until(|r| of_kind(r, "refused").len() > number);
        let record = of_kind(&records, "refused")[number];
        assert_eq!((&record["code"], &record["customer"]), (&code.into(), &customer.into()));
        assert_eq!(record["status"], answer.status, "{code}");
        assert_eq!(record["request_id"], answer.header("relay-request-id").unwrap());
        assert!(record.get("note").is_none(), "the app was there to the end: {record}");
        assert!(of_kind(&records, "intent").is_empty() && of_kind(&records, "outcome").is_empty());
    }
    let metrics = rig.running().metrics().render();
    assert!(metrics.contains("relay_denied_total{reason=\"token_missing\"} 2"), "{metrics}");
}

#[test]
fn ten_refusals_a_second_are_recorded_and_the_rest_is_counted() {
    const MANY: usize = 60;
    let rig = Rig::plain();
    let path = format!("/vendor/{}/x", SecretId::random());
    let auth = format!("Bearer {}", rig.token("acme"));
    let mut client = rig.client();
    for _ in 0..MANY {
        assert_eq!(client.request("GET", &path, &[("authorization", &auth)], b"").status, 404);
    }
    // Another customer's budget is another.
    assert_eq!(rig.get(&path, &rig.token("globex")).status, 404);
    let now = relay::clock::unix_seconds();
    while relay::clock::unix_seconds() == now {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(client.request("GET", &path, &[("authorization", &auth)], b"").status, 404);
    let counted = |records: &[Value]| -> (usize, usize) {
        let own: Vec<&Value> =
            of_kind(records, "refused").into_iter().filter(|r| r["customer"] == "acme").collect();
        let notes = own.iter().filter_map(|r| r["note"].as_str());
        (own.len(), notes.map(|note| note.split(' ').next().unwrap().parse::<usize>().unwrap()).sum())
    };
    let records = rig.audit_until(|r| counted(r).0 + counted(r).1 == MANY + 1);
    let (written, left_out) = counted(&records);
    assert!(
        left_out > 0,
        "{MANY} refusals in less than a second or two are more than ten a second: {written}"
    );
    let mut seconds: Vec<String> = of_kind(&records, "refused")
        .into_iter()
        .filter(|r| r["customer"] == "acme")
        .map(|r| r["time"].as_str().unwrap()[..19].to_owned())
        .collect();
    seconds.dedup();
    assert!(written <= 10 * seconds.len(), "{written} in {seconds:?}");
    assert!(of_kind(&records, "refused").iter().any(|r| r["customer"] == "globex"), "not touched by acme's");
}

#[test]
fn the_audits_path_is_the_vendors_without_query_prefix_and_uuid() {
    let rig = Rig::plain();
    let id = rig.secret("acme");
    let pinned = rig.token_with("acme", Some(&id), None);
    let long = format!("/{}", "a".repeat(2000));
    let rows = [
        (format!("/vendor/{id}/a/b?key=secret-in-a-query"), "/a/b".to_owned(), "a query"),
        (format!("/vendor/{}/a", id.to_uppercase()), "/a".to_owned(), "a UUID in upper case"),
        (format!("/vendor//{id}//a//b"), "/a//b".to_owned(), "slashes"),
        (format!("/vendor/{id}"), String::new(), "nothing"),
        ("/vendor/by/claim?x".to_owned(), "/by/claim".to_owned(), "a claim"),
        (format!("/vendor/{id}/%22%3Cscript%3E"), "/%22%3Cscript%3E".to_owned(), "escapes, as they came"),
        (format!("/vendor/{id}/a\"b"), "/a\"b".to_owned(), "a quote"),
        (format!("/vendor/{id}{long}"), long[..512].to_owned(), "more than 512 bytes"),
    ];
    for (number, (path, wanted, mistake)) in rows.into_iter().enumerate() {
        assert_eq!(rig.get(&path, &pinned).status, 200, "{mistake}");
        let records = rig.audit_until(|r| of_kind(r, "outcome").len() > number);
        for kind in ["intent", "outcome"] {
            let record = of_kind(&records, kind)[number];
            assert_eq!(record["path"].as_str().unwrap_or_default(), wanted, "{mistake}: {record}");
        }
    }
    let text = std::fs::read_to_string(rig.audit_path()).unwrap();
    assert!(!text.contains("secret-in-a-query") && !text.contains(&pinned));
}

#[test]
fn a_path_that_holds_the_callers_token_is_refused_and_not_recorded() {
    let rig = Rig::answering(|request, out| vendor::answer_to(request, out, b"ok"));
    let id = rig.secret("acme");
    let token = rig.token("acme");
    let escaped = token.replace('.', "%2E");
    let twice = token.replace('.', "%252e");
    for path in [token.clone(), format!("bot{token}/x"), format!("a/{escaped}"), twice] {
        let auth = format!("Bearer {token}");
        let answer =
            rig.client().request("GET", &format!("/vendor/{id}/{path}"), &[("authorization", &auth)], b"");
        assert_eq!(answer.code(), "path_refused", "{path}");
    }
    let answer = rig.get(&format!("/vendor/{id}/a/%2e%2e/b.c.d"), &token);
    assert_eq!(answer.code(), "path_refused");
    let records = rig.audit_until(|records| of_kind(records, "refused").len() == 5);
    // Of two workers either may be written first.
    let mut paths: Vec<&str> =
        of_kind(&records, "refused").iter().map(|r| r["path"].as_str().unwrap_or_default()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["", "", "", "", "/a/%2e%2e/b.c.d"]);
}
