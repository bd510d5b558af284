//! Every way to write a credential, cut anywhere; and what only looks like one.

use bytes::Bytes;
use http::HeaderValue;
use relay::config::OnReflect;
use relay::stage::scrub::body::Scrubbed;
use relay::stage::scrub::content::Content;
use relay::stage::scrub::forms::Forms;
use relay::stage::scrub::passage::{Passage, Reflected};

use super::streams::{Random, Script, Seen, drain, holds, through};
use crate::rig::spellings::{Spelling, hunt, spellings};

/// A token; one whose base64 has `+` and `/`; a password with everything that is escaped somewhere.
const SECRETS: [&str; 3] =
    ["sk-live/0123456789_abcdef.XYZ", "p>?~~~?>>~?~p>?~~~?>", "pa ss\\wo\"rd & <more>'/x"];

fn forms(secret: &str, spelling: &Spelling) -> Forms {
    let content = HeaderValue::from_static(spelling.content_type);
    Forms::of([secret.as_bytes()], []).carried_by(Content::of(Some(&content)))
}

fn around(spelling: &Spelling) -> Vec<u8> {
    [b"{\"ok\":true,\"given\":\"".as_slice(), &spelling.text, b"\",\"n\":[1,2,3]}"].concat()
}

#[test]
fn every_spelling_is_overwritten_wherever_the_stream_is_cut() {
    for secret in SECRETS {
        let all = spellings(secret);
        for spelling in &all {
            let text = around(spelling);
            for cut in 0..=text.len() {
                let pieces = [text[..cut].to_vec(), text[cut..].to_vec()];
                let (out, reflected) = through(forms(secret, spelling), pieces);
                let name = spelling.name;
                assert!(reflected && out.len() == text.len(), "{name} of {secret} cut at {cut}");
                assert!(
                    hunt(&all, &out).is_empty(),
                    "{name} cut at {cut}: {}",
                    String::from_utf8_lossy(&out)
                );
                assert!(holds(&out, b"[redacted"), "{name} cut at {cut}");
                assert!(out.starts_with(b"{\"ok\":true,\"given\":\"") && out.ends_with(b"\",\"n\":[1,2,3]}"));
            }
        }
    }
}

#[test]
fn every_spelling_is_overwritten_when_it_comes_byte_by_byte() {
    for secret in SECRETS {
        let all = spellings(secret);
        for spelling in &all {
            let text = around(spelling);
            let (out, reflected) = through(forms(secret, spelling), text.chunks(1).map(<[u8]>::to_vec));
            assert!(reflected && hunt(&all, &out).is_empty(), "{} of {secret}", spelling.name);
        }
    }
}

#[test]
fn the_hunt_finds_every_spelling_that_nothing_took_away() {
    let all = spellings(SECRETS[0]);
    for spelling in &all {
        let (out, reflected) = through(Forms::of([], []), [around(spelling)]);
        assert!(!reflected && hunt(&all, &out).contains(&spelling.name), "{}", spelling.name);
    }
}

#[test]
fn what_only_looks_like_the_credential_passes_untouched() {
    for secret in SECRETS {
        // The last byte is another, in every spelling.
        let other = format!("{}#", &secret[..secret.len() - 1]);
        for spelling in spellings(&other) {
            // base64's last group of a longer text may leave the last byte undecided.
            let text = around(&spelling);
            for size in [1, 7, text.len()] {
                let (out, reflected) =
                    through(forms(secret, &spelling), text.chunks(size).map(<[u8]>::to_vec));
                assert!(out == text && !reflected, "{} in pieces of {size}", spelling.name);
            }
        }
    }
}

#[test]
fn any_cutting_of_spellings_gives_what_the_whole_would_give() {
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    for round in 0..3_000 {
        let secret = SECRETS[round % SECRETS.len()];
        let all = spellings(secret);
        let any = || Forms::of([secret.as_bytes()], []);
        let mut text = Vec::new();
        for _ in 0..1 + random.next(8) {
            let one = &all[random.next(all.len())].text;
            match random.next(5) {
                0 | 1 => text.extend_from_slice(one),
                2 => text.extend_from_slice(&one[..random.next(one.len())]),
                3 => text.extend_from_slice(&one[random.next(one.len())..]),
                _ => text.extend((0..random.next(60)).map(|i| b"ab=\r\n%\\u\"&#x -\0"[i % 15])),
            }
        }
        let mut wanted = text.clone();
        let found = any().redact(&mut wanted);
        let most = 1 + random.next(60);
        let (out, reflected) = through(any(), random.cut(&text, most));
        assert_eq!(out, wanted, "round {round}");
        assert_eq!(reflected, found);
    }
}

/// How much is out after each piece.
fn counts(secret: &str, content_type: &'static str, pieces: &[&[u8]]) -> Vec<usize> {
    let script = Script::open();
    let content = Content::of(Some(&HeaderValue::from_static(content_type)));
    let forms = Forms::of([secret.as_bytes()], []).carried_by(content);
    let mut body = Scrubbed::new(script.clone(), forms, OnReflect::Redact, Reflected::default());
    pieces
        .iter()
        .map(|piece| {
            script.push(piece);
            let mut seen = Seen::default();
            drain(&mut body, &mut seen);
            seen.bytes.len()
        })
        .collect()
}

#[test]
fn a_guesser_sees_the_same_counts_in_every_spelling() {
    let (right, wrong) = ("sk-live-0123456789abcdef", "zk-dead-9876543210fedcba");
    for (one, two) in spellings(right).iter().zip(&spellings(wrong)) {
        if one.text.len() != two.text.len() {
            continue;
        }
        for len in 1..one.text.len() {
            let pieces = |text: &[u8]| [b"{\"q\":\"".to_vec(), text[..len].to_vec(), b"\"".to_vec()];
            let (one, two) = (pieces(&one.text), pieces(&two.text));
            let slices =
                |pieces: &[Vec<u8>; 3]| counts(right, "text/html", &[&pieces[0], &pieces[1], &pieces[2]]);
            assert_eq!(slices(&one), slices(&two), "{len} right bytes and {len} others");
        }
    }
}

#[test]
fn an_event_is_never_delayed_and_a_soft_break_waits_only_where_mail_may_be() {
    let rows: [(&str, &str, usize, &str); 8] = [
        ("text/event-stream", "data: {\"n\":1}\n\n", 0, "an event"),
        ("text/event-stream", "data: abc=\n\n", 0, "an event that ends like a soft break"),
        ("text/event-stream", "data: abc=\r\n\r\n", 0, "the same with carriage returns"),
        ("text/event-stream", "data: abc\ndata: de", 2, "the run behind a line's end"),
        ("text/plain", "abc=\nde", 7, "a soft break in a text"),
        ("text/plain", "abc=\n\n", 0, "a line's end that is none"),
        ("application/json", "abc=\nde", 2, "no soft break in JSON"),
        ("application/json", "\"ab\0c", 4, "half of a wide character"),
    ];
    for (content_type, text, held, mistake) in rows {
        for cut in 0..=text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            let went: usize = counts("sk-live-0123456789abcdef", content_type, &[a, b]).iter().sum();
            assert_eq!(text.len() - went, held, "{mistake}, cut at {cut}");
        }
    }
}

#[test]
fn the_end_of_a_message_lets_everything_go() {
    let secret = SECRETS[0];
    let reflected = Reflected::default();
    let mut passage = Passage::new(Forms::of([secret.as_bytes()], []), OnReflect::Redact, reflected.clone());
    let (front, back) = secret.split_at(9);
    assert_eq!(passage.pass(Bytes::from_static(front.as_bytes()), false).unwrap(), "");
    assert_eq!(passage.pass(Bytes::new(), true).unwrap(), front, "the message ends, so it was none");
    assert_eq!(passage.pass(Bytes::from_static(back.as_bytes()), true).unwrap(), back, "nothing of the last");
    assert!(!reflected.seen());
    assert_eq!(passage.pass(Bytes::from_static(secret.as_bytes()), true).unwrap().len(), secret.len());
    assert!(reflected.seen() && passage.waiting() == 0);
}

#[test]
fn texts_made_to_be_slow_are_read_in_linear_time() {
    // Each would take hours in quadratic time.
    let secret = format!("sk{}", "a".repeat(2000));
    for (unit, mistake) in [
        ("%", "signs without escapes"),
        ("%25", "percent of percent"),
        ("\\u0061", "the secret's letter, escaped"),
        ("&#97;%61\\x61=61\0", "every escape"),
        ("&#0000097", "entities without an end"),
        ("=\n", "soft breaks alone"),
        ("\\\\\\", "backslashes"),
    ] {
        let text = unit.repeat(400_000 / unit.len());
        let begun = std::time::Instant::now();
        let (out, reflected) =
            through(Forms::of([secret.as_bytes()], []), text.as_bytes().chunks(64).map(<[u8]>::to_vec));
        assert!(out == text.as_bytes() && !reflected, "{mistake}");
        assert!(begun.elapsed().as_secs() < 30, "{mistake}: {:?}", begun.elapsed());
    }
}
