use std::io::Write as _;

use relay::audit::history::Asked;
use relay::audit::several::find;
use relay::cli::audit::{Export, Tail, Wanted, export, tail};
use relay::model::SecretId;
use serde_json::Value;

use crate::rig::{Rig, Settings};

fn lines(text: &[u8]) -> Vec<Value> {
    text.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

/// A relay that was used by two customers: two uses and a refusal of acme's, one use of globex's.
fn used() -> (Rig, String) {
    let rig = Rig::plain();
    let (acme, globex) = (rig.secret("acme"), rig.secret("globex"));
    for path in ["/a?key=in-a-query", "/b"] {
        assert_eq!(rig.get(&format!("/vendor/{acme}{path}"), &rig.token("acme")).status, 200);
    }
    assert_eq!(rig.get(&format!("/vendor/{globex}/private"), &rig.token("globex")).status, 200);
    let unknown = format!("/vendor/{}/c", SecretId::random());
    assert_eq!(rig.get(&unknown, &rig.token("acme")).code(), "secret_not_found");
    rig.audit_until(|records| {
        let count = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
        count("outcome") == 3 && count("refused") == 1
    });
    (rig, acme)
}

#[test]
fn a_customers_history_has_its_own_uses_on_one_line_each_and_nothing_of_anothers() {
    let (rig, id) = used();
    let answer = rig.admin("GET", "/v1/customers/acme/history", None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = lines(answer.text().as_bytes());
    let of = |kind: &str| told.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    let uses = of("use");
    assert_eq!(uses.len(), 2, "{told:#?}");
    for (access, path) in uses.iter().zip(["/a", "/b"]) {
        assert_eq!((&access["end"], &access["status"]), (&"answered".into(), &200.into()));
        assert_eq!((&access["path"], &access["secret"]), (&path.into(), &id.as_str().into()));
        assert_eq!((&access["integration"], &access["method"]), (&"vendor".into(), &"GET".into()));
        assert_eq!((&access["bytes_out"], &access["iss"]), (&2.into(), &crate::rig::ISSUER.into()));
        assert!(access["ms"].is_u64() && access["time"].is_string() && access["replica"].is_string());
    }
    let [refused] = of("refused")[..] else { panic!("{told:#?}") };
    assert_eq!((&refused["code"], &refused["status"]), (&"secret_not_found".into(), &404.into()));
    assert!(of("admin").iter().any(|line| line["method"] == "secret.add"), "its own secret was added");
    let text = answer.text();
    for others in ["globex", "/private", "in-a-query"] {
        assert!(!text.contains(others), "{others} is in acme's history: {text}");
    }

    // A span without any of it, one with all of it, a customer that there is not, and a span that is none.
    let now = relay::clock::unix_seconds();
    for (span, wanted) in [
        (format!("?until={}", now - 3600), 0),
        (format!("?since={}", now + 3600), 0),
        (format!("?since={}&until={}", now - 3600, now + 3600), told.len()),
    ] {
        let answer = rig.admin("GET", &format!("/v1/customers/acme/history{span}"), None);
        assert_eq!((answer.status, lines(answer.text().as_bytes()).len()), (200, wanted), "{span}");
    }
    assert_eq!(rig.admin("GET", "/v1/customers/nobody/history", None).text(), "");
    assert_eq!(rig.admin("GET", "/v1/customers/acme/history?since=yesterday", None).status, 400);
}

#[test]
fn a_history_is_the_same_from_files_and_a_table_of_it_is_no_formula() {
    let (rig, _) = used();
    let api = rig.admin("GET", "/v1/customers/acme/history", None);
    let asked = Asked { customer: "acme".to_owned(), since: None, until: None };
    let told = |csv: bool| {
        let mut out = Vec::new();
        export(Export { csv }, find(&[rig.audit_path()], false).unwrap(), &asked, &mut out).unwrap();
        out
    };
    assert_eq!(lines(&told(false)), lines(api.text().as_bytes()));
    let table = String::from_utf8(told(true)).unwrap();
    let mut rows = table.split("\r\n");
    assert!(rows.next().unwrap().starts_with("time,kind,end,request_id,integration,secret,"), "{table}");
    assert_eq!(rows.filter(|row| row.contains(",use,answered,")).count(), 2, "{table}");

    // A subject that a spreadsheet would take for a formula, and that would end its cell.
    let mut file = std::fs::OpenOptions::new().append(true).open(rig.audit_path()).unwrap();
    let line = r#"{"v":1,"chain":"x/0-0","seq":1,"prev":"","time":"2026-11-22T08:00:00.000Z","kind":"refused","customer":"acme","sub":"=HYPERLINK(\"http://evil\"),x"}"#;
    writeln!(file, "{line}").unwrap();
    let table = String::from_utf8(told(true)).unwrap();
    assert!(table.contains(r#","'=HYPERLINK(""http://evil""),x","#), "{table}");
}

#[test]
fn an_unfinished_use_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let record = |seq: u64, kind: &str, id: &str| {
        format!(
            "{{\"v\":1,\"chain\":\"a/0-0\",\"seq\":{seq},\"prev\":\"\",\"time\":\"2026-11-22T08:00:0{seq}.000Z\",\"kind\":\"{kind}\",\"request_id\":\"{id}\",\"customer\":\"acme\",\"status\":200}}\n"
        )
    };
    // The second is sent twice: each time has its own intent and outcome. The first outcome's intent is older.
    let text = [
        record(1, "outcome", "0"),
        record(2, "intent", "1"),
        record(3, "intent", "2"),
        record(4, "outcome", "2"),
        record(5, "intent", "2"),
        record(6, "outcome", "2"),
    ];
    std::fs::write(&path, text.concat()).unwrap();
    let asked = Asked { customer: "acme".to_owned(), since: None, until: None };
    let mut out = Vec::new();
    export(Export { csv: false }, find(&[path], false).unwrap(), &asked, &mut out).unwrap();
    let told: Vec<(String, String)> = lines(&out)
        .iter()
        .map(|line| {
            (line["request_id"].as_str().unwrap().to_owned(), line["end"].as_str().unwrap().to_owned())
        })
        .collect();
    let row = |id: &str, end: &str| (id.to_owned(), end.to_owned());
    assert_eq!(told, [row("2", "answered"), row("2", "answered"), row("1", "unfinished")]);
}

#[test]
fn the_newest_records_are_found_by_customer_integration_secret_refusal_and_time_over_segments() {
    let (mut rig, id) = used();
    rig.stop();
    let (path, text) = (rig.audit_path(), std::fs::read_to_string(rig.audit_path()).unwrap());
    // Cut into segments, as rotation does.
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    for (number, part) in all[..all.len() - 2].chunks(3).enumerate() {
        let name = format!("audit-20261122T0800{:02}Z-{}.jsonl", number % 60, number + 1);
        std::fs::write(path.with_file_name(name), part.concat()).unwrap();
    }
    std::fs::write(&path, all[all.len() - 2..].concat()).unwrap();
    let shown = |lines: Option<usize>, wanted: Wanted| {
        let (mut out, mut talk) = (Vec::new(), Vec::new());
        let args = Tail { lines, json: true, follow: false, wanted };
        assert_eq!(tail(&args, &path, &|| false, &mut out, &mut talk), 0);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(shown(None, Wanted::default()), text, "everything, in its order");
    assert_eq!(
        shown(Some(4), Wanted::default()),
        all[all.len() - 4..].concat(),
        "the newest, over two files"
    );
    let count = |wanted: Wanted| lines(shown(None, wanted).as_bytes()).len();
    let acme = || Wanted { customer: Some("acme".to_owned()), ..Wanted::default() };
    let own = all.iter().filter(|line| line.contains("\"customer\":\"acme\"")).count();
    assert!(own >= 5);
    assert_eq!(count(acme()), own);
    assert_eq!(count(Wanted { denied: true, ..acme() }), 1);
    assert_eq!(
        count(Wanted { secret: Some(id), integration: Some("vendor".to_owned()), ..Wanted::default() }),
        {
            // Two uses, and the two records of its making.
            all.iter().filter(|line| line.contains(&rig_secret(&text))).count()
        }
    );
    assert_eq!(count(Wanted { integration: Some("other".to_owned()), ..Wanted::default() }), 0);
    let now = relay::clock::unix_seconds();
    assert_eq!(count(Wanted { since: Some(now - 3600), ..Wanted::default() }), {
        // Segments that ended before are not read: those made here ended at eight in the morning.
        let eight = relay::clock::parse_rfc3339("2026-11-22T08:00:00Z").unwrap();
        if eight < now - 3600 { 2 } else { all.len() }
    });
    assert_eq!(count(Wanted { since: Some(now + 3600), ..Wanted::default() }), 0);
    assert_eq!(lines(shown(Some(1), acme()).as_bytes()).len(), 1);
}

/// The secret of acme's first use.
fn rig_secret(text: &str) -> String {
    let all = lines(text.as_bytes());
    let intent = all.iter().find(|record| record["kind"] == "intent").unwrap();
    format!("\"secret\":\"{}\"", intent["secret"].as_str().unwrap())
}

#[test]
fn a_running_relay_turns_its_segments_and_tells_a_history_over_all_of_them() {
    let rig = Rig::with(
        Settings {
            audit_more: "rotate_bytes = 65536\nreplica = \"relay-7\"\n".to_owned(),
            ..Settings::default()
        },
        |request, out| crate::rig::vendor::answer_to(request, out, b"ok"),
    );
    let id = rig.secret("acme");
    let auth = format!("Bearer {}", rig.token("acme"));
    let mut client = rig.client();
    let mut uses = 0;
    while relay::audit::segments::segments(&rig.audit_path()).unwrap().len() < 2 {
        assert_eq!(
            client.request("GET", &format!("/vendor/{id}/x"), &[("authorization", &auth)], b"").status,
            200
        );
        uses += 1;
        assert!(uses < 2_000, "no segment has ended");
    }
    rig.audit_until(|records| records.last().is_some_and(|last| last["kind"] != "intent"));
    let told = lines(rig.admin("GET", "/v1/customers/acme/history", None).text().as_bytes());
    let answered = told.iter().filter(|line| line["end"] == "answered").count();
    assert!(answered == uses || answered + 1 == uses, "{answered} of {uses}: the last may still be ending");
    assert!(told.iter().all(|line| line["replica"] == "relay-7"));
    let anchors: Value = serde_json::from_str(&rig.admin("GET", "/v1/audit/anchors", None).text()).unwrap();
    let anchors = anchors["anchors"].as_array().unwrap();
    assert!(
        anchors.len() == 1 && anchors[0].as_str().unwrap().contains("\"replica\":\"relay-7\""),
        "{anchors:?}"
    );
}
