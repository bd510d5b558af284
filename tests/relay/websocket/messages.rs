use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use super::*;

/// A vendor that sends what it is told, byte strings as they are, and then keeps the WebSocket open.
fn told() -> (Rig, mpsc::Sender<Vec<u8>>) {
    told_with(settings())
}

fn told_with(settings: Settings) -> (Rig, mpsc::Sender<Vec<u8>>) {
    let (tell, told) = mpsc::channel::<Vec<u8>>();
    let told = Mutex::new(told);
    let vendor = Vendor::by_hand(move |request, out| {
        accept(request, out, "");
        let told = told.lock().unwrap();
        while let Ok(piece) = told.recv() {
            if piece.is_empty() {
                break;
            }
            raw(out, &piece);
        }
        // Until relay closes.
        let mut sink = Vec::new();
        while more(out, &mut sink).is_some() {}
    });
    (Rig::before(settings, vendor), tell)
}

fn redacted(text: &str, secret: &str) -> String {
    let mut marker = "[redacted by relay]".to_owned();
    marker.truncate(secret.len());
    while marker.len() < secret.len() {
        marker.push('*');
    }
    text.replace(secret, &marker)
}

#[test]
fn a_credential_in_a_message_is_overwritten_in_every_form() {
    let (rig, tell) = told();
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    let canary = rig.canary.text().to_owned();
    for opcode in [1, 2] {
        let text = format!("your key is {canary}, thanks");
        tell.send(frame(true, opcode, text.as_bytes())).unwrap();
        assert_eq!(app.message(), (opcode, redacted(&text, &canary).into_bytes(), 1));
        for skip in 0..3 {
            let coded = STANDARD.encode(format!("{}{canary}", &"abc"[..skip]));
            tell.send(frame(true, opcode, coded.as_bytes())).unwrap();
            let (_, came, _) = app.message();
            assert!(String::from_utf8_lossy(&came).contains("[redacted by relay]"));
            assert_eq!(came.len(), coded.len());
        }
    }
    drop(app);
    assert_eq!(outcome(&rig)["reflected"], true);
}

#[test]
fn a_credential_cut_at_every_place_is_overwritten() {
    let (rig, tell) = told();
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    let canary = rig.canary.text().to_owned();
    let text = format!("a {canary} b");
    for cut in 0..=text.len() {
        let (front, back) = text.as_bytes().split_at(cut);
        // Cut by frames, with a ping between them; the end of the message lets go.
        tell.send(frame(false, 1, front)).unwrap();
        tell.send(frame(true, 9, b"between")).unwrap();
        tell.send(frame(true, 0, back)).unwrap();
        assert_eq!(app.message().1, redacted(&text, &canary).into_bytes(), "cut at {cut}");
        // Cut by records: one frame stays one.
        let whole = frame(true, 2, text.as_bytes());
        let (front, back) = whole.split_at(cut + 2);
        tell.send(front.to_vec()).unwrap();
        if !back.is_empty() {
            tell.send(back.to_vec()).unwrap();
        }
        assert_eq!(app.message(), (2, redacted(&text, &canary).into_bytes(), 1), "cut at {cut}");
    }
    // Byte for byte, in frames of a byte each.
    for (at, byte) in text.bytes().enumerate() {
        tell.send(frame(at + 1 == text.len(), if at == 0 { 1 } else { 0 }, &[byte])).unwrap();
    }
    assert_eq!(app.message().1, redacted(&text, &canary).into_bytes());
}

#[test]
fn a_credential_in_a_control_frame_is_overwritten() {
    let (rig, tell) = told();
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    let canary = rig.canary.text().to_owned();
    for opcode in [9, 10] {
        tell.send(frame(true, opcode, format!("p {canary}").as_bytes())).unwrap();
        let came = app.next().unwrap();
        assert_eq!(
            (came.opcode, came.payload),
            (opcode, redacted(&format!("p {canary}"), &canary).into_bytes())
        );
    }
    let mut reason = vec![3, 232];
    reason.extend(format!("bye {canary}").bytes());
    tell.send(frame(true, 8, &reason)).unwrap();
    tell.send(Vec::new()).unwrap();
    let close = app.next().unwrap();
    assert_eq!(close.opcode, 8);
    assert_eq!(close.payload[2..], *redacted(&format!("bye {canary}"), &canary).as_bytes());
    drop(app);
    assert_eq!(outcome(&rig)["reflected"], true);
}

// What waits may depend on lengths and kinds of bytes, never on whether they are the credential's.
#[test]
fn what_waits_says_nothing_about_a_guess() {
    let (rig, tell) = told();
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    let canary = rig.canary.text().to_owned();
    let wrong: String = canary.chars().rev().collect();
    for length in [1, 5, 12, canary.len() - 1] {
        let mut seen = Vec::new();
        for guess in [&canary[..length], &wrong[..length]] {
            tell.send(frame(false, 1, format!("some text, {guess}").as_bytes())).unwrap();
            // A ping behind it shows that relay has dealt with it.
            tell.send(frame(true, 9, b"mark")).unwrap();
            let mut before = Vec::new();
            loop {
                let next = app.next().unwrap();
                if next.opcode == 9 {
                    break;
                }
                before.push((next.opcode, next.payload.len()));
            }
            tell.send(frame(true, 0, b"")).unwrap();
            let mut rest = Vec::new();
            loop {
                let next = app.next().unwrap();
                rest.push((next.fin, next.opcode, next.payload.len()));
                if next.fin {
                    break;
                }
            }
            seen.push((before, rest));
        }
        assert_eq!(seen[0], seen[1], "a right guess of {length} characters is told from a wrong one");
        assert_eq!(seen[0].0, [(1, "some text, ".len())], "what no form can begin in went on at once");
    }
}

#[test]
fn long_messages_pass_whole_in_both_directions() {
    let rig = rig(|request, out| {
        accept(request, out, "");
        let mut buffer = request.body.clone();
        for _ in 0..3 {
            let came = from_app(out, &mut buffer).unwrap();
            raw(out, &frame(came.fin, came.opcode, &came.payload));
        }
        let mut sink = Vec::new();
        while more(out, &mut sink).is_some() {}
    });
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    let mut sent = 0;
    for length in [1 << 20, 65_535, 16 * 1024] {
        let message: Vec<u8> = (0..length).map(|at: usize| b" etaoinshrdlu,.\n"[at * at % 16]).collect();
        app.client.stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut writer = app.client.stream.try_clone().unwrap();
        let bytes = masked(true, 2, &message);
        sent += bytes.len();
        let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
        let (opcode, came, frames) = app.message();
        writing.join().unwrap();
        assert!(opcode == 2 && came == message, "{length} bytes came back otherwise");
        assert_eq!(frames == 1, length <= 16 * 1024, "{frames} frames for {length} bytes");
    }
    drop(app);
    assert_eq!(outcome(&rig)["bytes_in"], sent);
}

#[test]
fn a_vendor_that_breaks_the_protocol_is_cut_off_visibly() {
    let mut rows: Vec<(&str, Vec<u8>)> = vec![
        ("masked", masked(true, 1, b"hello")),
        ("a reserved bit", vec![0xc1, 1, b'a']),
        ("a reserved opcode", frame(true, 3, b"a")),
        ("a reserved control opcode", frame(true, 11, b"a")),
        ("a fragmented ping", frame(false, 9, b"a")),
        ("a long ping", frame(true, 9, &[b'a'; 126])),
        ("a continuation of nothing", frame(true, 0, b"a")),
        ("a message in a message", [frame(false, 1, b"a "), frame(true, 2, b"b")].concat()),
        ("a length of 5 in 16 bits", vec![0x81, 126, 0, 5, b'a', b'a', b'a', b'a', b'a']),
        ("a length of 65535 in 64 bits", vec![0x81, 127, 0, 0, 0, 0, 0, 0, 255, 255]),
        ("a length with its first bit set", vec![0x81, 127, 128, 0, 0, 0, 0, 0, 0, 0]),
        ("half a close code", frame(true, 8, &[3])),
        ("no text is a close code", frame(true, 8, b"sk-live")),
        ("a close code below all", frame(true, 8, &999_u16.to_be_bytes())),
        ("a close code beyond all", frame(true, 8, &5000_u16.to_be_bytes())),
        ("a close code that says that there was none", frame(true, 8, &1005_u16.to_be_bytes())),
    ];
    for opcode in [4, 5, 6, 7, 12, 13, 14, 15] {
        rows.push(("reserved", frame(true, opcode, b"a")));
    }
    let mut notes = Vec::new();
    for (name, bytes) in rows {
        let (rig, tell) = told();
        let id = rig.secret("acme");
        let mut app = App::open(&rig, &id);
        tell.send(frame(true, 1, b"before it")).unwrap();
        assert_eq!(app.message().1, b"before it");
        tell.send(bytes).unwrap();
        tell.send(Vec::new()).unwrap();
        let began = Instant::now();
        assert_eq!(app.end().map(|(code, _)| code), Some(1002), "{name}");
        assert!(began.elapsed() < Duration::from_secs(2), "{name}: {:?}", began.elapsed());
        let note = outcome(&rig)["note"].as_str().unwrap().to_owned();
        assert!(note.starts_with("cut: the vendor broke the WebSocket protocol"), "{name}: {note}");
        notes.push(note);
    }
    notes.sort();
    notes.dedup();
    assert_eq!(notes.len(), 11, "each fault has its own words: {notes:#?}");
}

#[test]
fn on_reflect_block_ends_the_websocket() {
    let block = Settings { integration: format!("{BEARER}on_reflect = \"block\"\n"), ..settings() };
    let (rig, tell) = told_with(block);
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    tell.send(frame(false, 1, b"so far so good. ")).unwrap();
    tell.send(frame(true, 0, format!("and {} then", rig.canary.text()).as_bytes())).unwrap();
    tell.send(Vec::new()).unwrap();
    let first = app.next().unwrap();
    assert_eq!((first.fin, first.payload.starts_with(b"so far")), (false, true));
    assert_eq!(app.end().map(|(code, _)| code), Some(1008));
    let outcome = outcome(&rig);
    assert_eq!(outcome["reflected"], true);
    assert!(outcome["note"].as_str().unwrap().contains("on_reflect is block"));
}

#[test]
fn what_follows_the_vendors_close_is_not_passed_on() {
    let (rig, tell) = told();
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    tell.send([frame(true, 8, &[3, 232]), frame(true, 1, b"one more thing")].concat()).unwrap();
    tell.send(Vec::new()).unwrap();
    app.send(8, &[3, 232]);
    assert_eq!(app.next().map(|frame| frame.opcode), Some(8));
    app.client.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(app.next(), None);
}

#[test]
fn a_vendor_that_goes_on_behind_its_close_is_left() {
    let (rig, tell) = told();
    let id = rig.secret("acme");
    let mut app = App::open(&rig, &id);
    tell.send(frame(true, 8, &[3, 232])).unwrap();
    assert_eq!(app.next().map(|frame| frame.opcode), Some(8));
    // The app has not answered, so nothing else would end it.
    tell.send(frame(true, 1, b"one more thing")).unwrap();
    let began = Instant::now();
    assert_eq!(app.next(), None);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let outcome = outcome(&rig);
    assert!(outcome["note"].is_null(), "the vendor had said goodbye: {outcome}");
}
