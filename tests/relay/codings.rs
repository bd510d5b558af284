use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use relay::refusal::Code;

use crate::refusals::refused;
use crate::rig::client::Answer;
use crate::rig::packing::{ALL, Packing};
use crate::rig::spellings::{hunt, spellings};
use crate::rig::vendor::{self, Out, Received, raw};
use crate::rig::{Rig, Settings};

const EVERYTHING: (&str, &str) = ("accept-encoding", "gzip, deflate, br, zstd");

fn rig(more: &str, script: impl Fn(&Received, &mut Out<'_>) + Send + Sync + 'static) -> Rig {
    let bearer = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";
    Rig::with(Settings { integration: format!("{bearer}{more}"), ..Settings::default() }, script)
}

fn credential(request: &Received) -> String {
    request.header("authorization").unwrap().split_once(' ').unwrap().1.to_owned()
}

fn get(rig: &Rig, id: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let auth = format!("Bearer {}", rig.token("acme"));
    let headers = [&[("authorization", auth.as_str())], headers].concat();
    rig.client().request("GET", &format!("/vendor/{id}/{path}"), &headers, b"")
}

fn packing(request: &Received) -> Packing {
    ALL[request.target().rsplit('/').next().unwrap().parse::<usize>().unwrap()]
}

/// In chunks of so many bytes, without an end.
fn chunked(out: &mut Out<'_>, head: &str, body: &[u8], size: usize) {
    raw(out, format!("HTTP/1.1 200 OK\r\n{head}transfer-encoding: chunked\r\n\r\n").as_bytes());
    for piece in body.chunks(size) {
        raw(out, &[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
}

fn outcome(rig: &Rig, requests: usize) -> serde_json::Value {
    let records = rig.audit_until(|r| r.iter().filter(|r| r["kind"] == "outcome").count() == requests);
    records.into_iter().rfind(|r| r["kind"] == "outcome").unwrap()
}

#[test]
fn a_clean_compressed_answer_passes_byte_for_byte_with_everything_that_vouches_for_it() {
    let text = "{\"url\":\"https://api.example/users/octocat\",\"n\":[1,2,3]}".repeat(2_000);
    let sent = text.clone();
    let rig = rig("", move |request, out| {
        let packing = packing(request);
        let fields =
            [("content-encoding", packing.name()), ("etag", "\"strong\""), ("content-digest", "sha-256=:x:")];
        vendor::answer(out, 200, &fields, &packing.whole(sent.as_bytes()));
    });
    let id = rig.secret("acme");
    for (number, packing) in ALL.into_iter().enumerate() {
        let answer = get(&rig, &id, &number.to_string(), &[EVERYTHING]);
        assert_eq!((answer.status, answer.cut), (200, false), "{packing:?}");
        assert_eq!(answer.body, packing.whole(text.as_bytes()), "{packing:?}");
        assert_eq!(answer.header("content-encoding"), Some(packing.name()), "{packing:?}");
        assert_eq!(answer.header("etag"), Some("\"strong\""), "{packing:?}");
        assert_eq!(answer.header("content-digest"), Some("sha-256=:x:"), "{packing:?}");
        assert_eq!(outcome(&rig, number + 1).get("reflected"), None, "{packing:?}");
    }
}

#[test]
fn a_credential_in_a_small_compressed_answer_is_refused_whatever_on_reflect_says() {
    for mode in ["redact", "alert", "block"] {
        let rig = rig(&format!("on_reflect = \"{mode}\"\n"), |request, out| {
            let packing = packing(request);
            let packed = packing.whole(format!("before {} behind", credential(request)).as_bytes());
            match request.target().contains("length") {
                true => vendor::answer(out, 200, &[("content-encoding", packing.name())], &packed),
                // Not known to be short, but all of it is there.
                false => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-encoding: {}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
                        packing.name(),
                        packed.len()
                    );
                    raw(out, &[head.as_bytes(), &packed, b"\r\n0\r\n\r\n"].concat());
                }
            }
        });
        let id = rig.secret("acme");
        let mut asked = 0;
        for (number, packing) in ALL.into_iter().enumerate().skip(1) {
            for framed in ["length", "chunks"] {
                let answer = get(&rig, &id, &format!("{framed}/{number}"), &[EVERYTHING]);
                assert_eq!(answer.code(), "response_refused", "{packing:?}, {framed}, {mode}: {answer:?}");
                refused(&answer, Code::ResponseRefused);
                asked += 1;
                let record = outcome(&rig, asked);
                assert_eq!(
                    (&record["reflected"], &record["code"], &record["status"]),
                    (&true.into(), &"response_refused".into(), &502.into()),
                    "{packing:?}, {framed}, {mode}: {record}"
                );
            }
        }
    }
}

#[test]
fn a_large_compressed_answer_passes_in_every_coding() {
    // More than may wait in relay, whatever the coding makes of it.
    let text: String = (0..160_000).map(|_| format!("{} ", uuid::Uuid::new_v4())).collect();
    let sent = text.clone();
    let rig = rig("", move |request, out| {
        let packing = packing(request);
        let packed = packing.whole(sent.as_bytes());
        assert!(packed.len() > 2 * 1024 * 1024, "{packing:?}: {}", packed.len());
        vendor::answer(out, 200, &[("content-encoding", packing.name())], &packed);
    });
    let id = rig.secret("acme");
    for (number, packing) in ALL.into_iter().enumerate().skip(1) {
        let answer = get(&rig, &id, &number.to_string(), &[EVERYTHING]);
        assert_eq!((answer.status, answer.cut), (200, false), "{packing:?}: {}", answer.body.len());
        assert!(packing.unpack(&answer.body) == text.as_bytes(), "{packing:?}");
    }
}

/// Text of which no coding makes less than what is read ahead.
fn much() -> String {
    (0..12_000).map(|_| format!("{} ", uuid::Uuid::new_v4())).collect()
}

#[test]
fn a_credential_far_behind_or_after_a_pause_in_a_compressed_answer_cuts_it_whatever_on_reflect_says() {
    for mode in ["redact", "alert", "block"] {
        let rig = rig(&format!("on_reflect = \"{mode}\"\n"), |request, out| {
            let packing = packing(request);
            let far = request.target().contains("far");
            let before = if far { much() } else { "before".to_owned() };
            let packed = packing.whole(format!("{before} {} behind", credential(request)).as_bytes());
            let head = format!("content-encoding: {}\r\n", packing.name());
            if far {
                return chunked(out, &head, &packed, 16 * 1024);
            }
            chunked(out, &head, &packed[..1], 1);
            std::thread::sleep(Duration::from_millis(500));
            raw(
                out,
                &[format!("{:x}\r\n", packed.len() - 1).as_bytes(), &packed[1..], b"\r\n0\r\n\r\n"].concat(),
            );
        });
        let id = rig.secret("acme");
        let all = spellings(rig.canary.text());
        let mut asked = 0;
        for (number, packing) in ALL.into_iter().enumerate().skip(1) {
            for place in ["far", "pause"] {
                let answer = get(&rig, &id, &format!("{place}/{number}"), &[EVERYTHING]);
                assert!(answer.status == 200 && answer.cut, "{packing:?}, {place}, {mode}: {answer:?}");
                let got = packing.unpack(&answer.body);
                assert!(hunt(&all, &got).is_empty(), "{packing:?}, {place}, {mode}");
                asked += 1;
                let record = outcome(&rig, asked);
                assert_eq!(record["reflected"], true, "{packing:?}, {place}, {mode}: {record}");
                assert!(
                    record["note"].as_str().unwrap().contains("compressed"),
                    "{packing:?}, {mode}: {record}"
                );
            }
        }
    }
}

#[test]
fn every_spelling_is_caught_on_the_wire_in_every_coding() {
    let rig = rig("", |request, out| {
        let mut words = request.target().rsplit('/');
        let number: usize = words.next().unwrap().parse().unwrap();
        let packing = ALL[words.next().unwrap().parse::<usize>().unwrap()];
        let spelling = spellings(&credential(request)).swap_remove(number);
        let text = [b"{\"given\":\"".as_slice(), &spelling.text, b"\",\"n\":1}"].concat();
        let head =
            format!("content-encoding: {}\r\ncontent-type: {}\r\n", packing.name(), spelling.content_type);
        chunked(out, &head, &packing.whole(&text), 11);
        raw(out, b"0\r\n\r\n");
    });
    let id = rig.secret("acme");
    let all = spellings(rig.canary.text());
    for (coding, packing) in ALL.into_iter().enumerate() {
        for (number, spelling) in all.iter().enumerate() {
            let answer = get(&rig, &id, &format!("{coding}/{number}"), &[EVERYTHING]);
            let got = packing.unpack(&answer.body);
            assert!(hunt(&all, &got).is_empty(), "{} in {packing:?}", spelling.name);
            // Which of them depends on how soon the pieces came.
            let visibly = answer.cut || answer.code() == "response_refused";
            assert_eq!(visibly, packing != Packing::Identity, "{} in {packing:?}", spelling.name);
        }
    }
}

#[test]
fn a_spelling_in_a_head_is_overwritten() {
    let rig = rig("", |request, out| {
        let mut text = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n".to_owned();
        for (number, spelling) in spellings(&credential(request)).iter().enumerate() {
            if let Ok(value) = std::str::from_utf8(&spelling.text)
                && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
            {
                text.push_str(&format!("x-{number}: a {value} b\r\n"));
            }
        }
        raw(out, format!("{text}\r\nok").as_bytes());
    });
    let id = rig.secret("acme");
    let answer = get(&rig, &id, "x", &[]);
    let all = spellings(rig.canary.text());
    let mut fields = 0;
    for (name, value) in answer.headers.iter().filter(|(name, _)| name.starts_with("x-")) {
        assert!(value.contains("[redacted by relay]") && value.ends_with(" b"), "{name}: {value}");
        assert!(hunt(&all, value.as_bytes()).is_empty(), "{name}: {value}");
        fields += 1;
    }
    assert!(fields > 30, "{fields} spellings can stand in a head");
}

#[test]
fn a_coding_that_was_not_asked_for_is_refused() {
    let rig = rig("", |request, out| {
        let coding = request.target().rsplit('/').next().unwrap().replace('+', ", ");
        vendor::answer(out, 200, &[("content-encoding", &coding)], b"xxxx");
    });
    let id = rig.secret("acme");
    for (asked, sent, mistake) in [
        ("gzip", "br", "another"),
        ("", "gzip", "none was"),
        ("identity", "gzip", "identity was"),
        ("*", "gzip", "anything was"),
        ("gzip;q=0", "gzip", "it was excluded"),
        ("gzip, br", "gzip+br", "two"),
        ("gzip, br", "gzip+gzip", "the same twice"),
        ("gzip, compress", "compress", "relay cannot read it, so it did not ask"),
        ("gzip", "made-up", "an unknown one"),
    ] {
        let asked = [("accept-encoding", asked)];
        let headers = if asked[0].1.is_empty() { &[][..] } else { &asked };
        let answer = get(&rig, &id, sent, headers);
        assert_eq!(answer.code(), Code::ResponseRefused.as_str(), "{mistake}");
        refused(&answer, Code::ResponseRefused);
    }
}

#[test]
fn compressed_data_that_break_end_visibly() {
    let rig = rig("", |request, out| {
        let packed = Packing::Gzip.whole(&b"clean and long enough ".repeat(200));
        let body = match request.target().rsplit('/').next().unwrap() {
            "cut" => packed[..packed.len() - 3].to_vec(),
            "garbage" => [packed, b"garbage".to_vec()].concat(),
            "late" => [Packing::Gzip.whole(much().as_bytes()), b"garbage".to_vec()].concat(),
            _ => b"not compressed at all".to_vec(),
        };
        vendor::answer(out, 200, &[("content-encoding", "gzip")], &body);
    });
    let id = rig.secret("acme");
    for path in ["cut", "garbage", "plain"] {
        refused(&get(&rig, &id, path, &[EVERYTHING]), Code::ResponseRefused);
    }
    let late = get(&rig, &id, "late", &[EVERYTHING]);
    assert!(late.status == 200 && late.cut, "the head is out by then");
}

#[test]
fn a_changed_body_keeps_its_length_and_loses_what_vouched_for_its_bytes() {
    let rig = rig("", |request, out| {
        let (kind, text) = match request.target().rsplit('/').next().unwrap() {
            "clean" => ("application/json", "{}".to_owned()),
            "late" => ("application/json", format!("{}{}", " ".repeat(1_000_000), credential(request))),
            "events" => ("text/event-stream", format!("data: {}\n\n", credential(request))),
            _ => ("application/json", format!("{{\"k\":\"{}\"}}", credential(request))),
        };
        let tag = if request.target().ends_with("weak") { "W/\"tag\"" } else { "\"tag\"" };
        let fields = [
            ("content-type", kind),
            ("etag", tag),
            ("digest", "sha-256=x"),
            ("content-digest", "sha-256=:x:"),
            ("repr-digest", "sha-256=:x:"),
            ("content-md5", "x"),
            ("want-content-digest", "sha-256=1"),
        ];
        vendor::answer(out, 200, &fields, text.as_bytes());
    });
    let id = rig.secret("acme");
    let digests = ["digest", "content-digest", "repr-digest", "content-md5", "want-content-digest"];
    for (path, tag, digest, mistake) in [
        ("clean", "\"tag\"", true, "nothing changed"),
        ("changed", "W/\"tag\"", false, "a byte changed"),
        ("weak", "W/\"tag\"", false, "the tag was weak"),
        ("late", "\"tag\"", true, "the head was out"),
        ("events", "\"tag\"", true, "a stream's head does not wait"),
    ] {
        let answer = get(&rig, &id, path, &[]);
        assert_eq!((answer.status, answer.cut), (200, false), "{mistake}");
        assert_eq!(answer.header("etag"), Some(tag), "{mistake}");
        for name in digests {
            assert_eq!(answer.header(name).is_some(), digest, "{mistake}: {name}");
        }
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        assert_eq!(answer.body.len(), length, "{mistake}");
        assert_eq!(answer.text().contains('*'), path != "clean", "{mistake}");
    }
}

#[test]
fn block_refuses_a_small_answer_that_vouches_for_its_bytes() {
    let rig = rig("on_reflect = \"block\"\n", |request, out| {
        vendor::answer(out, 200, &[("etag", "\"tag\"")], credential(request).as_bytes());
    });
    let id = rig.secret("acme");
    refused(&get(&rig, &id, "x", &[]), Code::ResponseRefused);
    assert_eq!(outcome(&rig, 1)["reflected"], true);
}

#[test]
fn ranges_pass_only_where_an_integration_wants_them() {
    let script = |request: &Received, out: &mut Out<'_>| match request.header("range") {
        Some(_) => vendor::answer(out, 206, &[("content-range", "bytes 0-1/9")], b"ok"),
        None if request.target().ends_with("part") => vendor::answer(out, 206, &[], b"unasked"),
        None => vendor::answer(out, 200, &[], b"whole"),
    };
    let range = [("range", "bytes=0-1"), ("if-range", "\"tag\""), EVERYTHING];
    let off = rig("", script);
    let id = off.secret("acme");
    assert_eq!(get(&off, &id, "x", &range).text(), "whole");
    let got = off.vendor.last();
    assert_eq!((got.header("range"), got.header("if-range")), (None, None));
    let on = rig("ranges = true\n", script);
    let id = on.secret("acme");
    let answer = get(&on, &id, "x", &range);
    assert_eq!((answer.status, answer.text().as_str()), (206, "ok"));
    assert_eq!(answer.header("content-range"), Some("bytes 0-1/9"));
    let got = on.vendor.last();
    assert_eq!((got.header("range"), got.header("if-range")), (Some("bytes=0-1"), Some("\"tag\"")));
    assert_eq!(got.all("accept-encoding"), ["identity"], "part of a compressed answer cannot be read");
    refused(&get(&on, &id, "part", &[]), Code::ResponseRefused);
    get(&on, &id, "x", &[EVERYTHING]);
    assert_eq!(on.vendor.last().all("accept-encoding"), [EVERYTHING.1], "without a range all is as ever");
}

#[test]
fn a_grpc_message_is_scrubbed_by_itself_and_waits_for_no_other() {
    const KIND: (&str, &str) = ("content-type", "application/grpc+proto");
    let rig = rig("", |request, out| {
        let secret = credential(request);
        let message = |text: &str| [&[0][..], &(text.len() as u32).to_be_bytes(), text.as_bytes()].concat();
        let body = match request.target().rsplit('/').next().unwrap() {
            "stall" => message("ends-in-a-run"),
            "compressed" => [message("clean "), [&[1][..], &message("x")[1..]].concat()].concat(),
            "short" => message("clean ")[..8].to_vec(),
            "broken" => [message("clean "), vec![0, 0]].concat(),
            // Its length ends within the credential, whose rest would be the next one's prefix.
            "across" => [&message(&secret[..9])[..], &secret.as_bytes()[9..], &message("x")].concat(),
            _ => [message("one"), message(&secret), message(""), message("two")].concat(),
        };
        chunked(out, "content-type: application/grpc+proto\r\n", &body, 3);
        if request.target().ends_with("stall") {
            std::thread::sleep(Duration::from_secs(3));
        }
        raw(out, b"0\r\n\r\n");
    });
    let id = rig.secret("acme");
    let answer = get(&rig, &id, "x", &[KIND, EVERYTHING, ("grpc-accept-encoding", "gzip")]);
    let got = rig.vendor.last();
    assert_eq!(got.all("grpc-accept-encoding"), ["identity"]);
    assert_eq!(got.all("accept-encoding"), ["identity"]);
    let length = rig.canary.text().len();
    let wanted = [b"\0\0\0\0\x03one\0\0\0\0".as_slice(), &[u8::try_from(length).unwrap()]].concat();
    assert!(
        answer.body.starts_with(&wanted) && answer.body.ends_with(b"*\0\0\0\0\0\0\0\0\0\x03two"),
        "{:?}",
        answer.text()
    );
    assert_eq!(answer.body.len(), 4 * 5 + 6 + length);
    for path in ["compressed", "broken", "short", "across"] {
        let answer = get(&rig, &id, path, &[KIND]);
        assert!(answer.status == 0 || answer.cut, "{path}: {answer:?}");
    }
    let begun = Instant::now();
    let mut client = rig.client();
    client.send(&format!(
        "GET /vendor/{id}/stall HTTP/1.1\r\nhost: relay.test\r\ncontent-type: {}\r\nauthorization: Bearer {}\r\n\r\n",
        KIND.1,
        rig.token("acme")
    ));
    assert_eq!(client.head().0, 200);
    let mut came = client.taken();
    while !came.ends_with(b"run\r\n") && client.more() {
        came.extend(client.taken());
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "the message was out before the next came");
}

#[test]
fn answers_that_decode_to_much_leave_the_worker_to_others() {
    const BOMBS: usize = 4;
    let bomb = Packing::Gzip.whole(&vec![0; 16 << 20]);
    let bearer = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n";
    let settings = Settings { integration: bearer.to_owned(), workers: 1, ..Settings::default() };
    let rig = Rig::with(settings, move |request, out| {
        if request.target().ends_with("/bomb") {
            vendor::answer(out, 200, &[("content-encoding", "gzip")], &bomb);
        } else {
            vendor::answer(out, 200, &[], b"ok");
        }
    });
    let id = rig.secret("acme");
    let (path, auth) = (format!("/vendor/{id}/bomb"), format!("Bearer {}", rig.token("acme")));
    let ended = AtomicUsize::new(0);
    let clients: Vec<_> = (0..BOMBS).map(|_| rig.client()).collect();
    let meanwhile = std::thread::scope(|scope| {
        for mut client in clients {
            let (path, auth, ended) = (&path, &auth, &ended);
            scope.spawn(move || {
                let headers = [("authorization", auth.as_str()), EVERYTHING];
                assert_eq!(client.request("GET", path, &headers, b"").status, 200);
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        let mut meanwhile = 0;
        while ended.load(Ordering::SeqCst) == 0 {
            assert_eq!(get(&rig, &id, "x", &[]).text(), "ok");
            meanwhile += 1;
        }
        meanwhile
    });
    assert!(meanwhile >= 5, "only {meanwhile} others were answered while four answers were decoded");
}
