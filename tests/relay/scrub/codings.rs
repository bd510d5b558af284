//! Compressed bodies: a decoded copy is scanned, the original bytes pass.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use relay::stage::coding::Coding;
use relay::stage::scrub::forms::Forms;
use relay::stage::scrub::packed::Packed;
use relay::stage::scrub::passage::Reflected;

use super::streams::{Random, Script, Seen, drain, vendor};
use crate::rig::packing::{ALL, Packing};
use crate::rig::spellings::{hunt, spellings};

const SECRET: &str = "sk-live/0123456789_abcdef.XYZ";

fn packings() -> impl Iterator<Item = Packing> {
    ALL.into_iter().filter(|packing| *packing != Packing::Identity)
}

fn scrubbed(packing: Packing, inner: Script) -> (Packed<Script>, Reflected) {
    let reflected = Reflected::default();
    let coding = Coding::named(packing.name().as_bytes()).unwrap();
    (Packed::new(inner, coding, Forms::of([SECRET.as_bytes()], []), reflected.clone()).unwrap(), reflected)
}

fn through(packing: Packing, pieces: impl IntoIterator<Item = Vec<u8>>) -> (Seen, bool) {
    let (mut body, reflected) = scrubbed(packing, vendor(pieces));
    let mut seen = Seen::default();
    // A body that has used up its turn says so by waking itself.
    for _ in 0..100_000 {
        drain(&mut body, &mut seen);
        if seen.ended {
            break;
        }
    }
    assert!(seen.ended && body.is_end_stream(), "{packing:?}");
    (seen, reflected.seen())
}

fn text(length: usize) -> Vec<u8> {
    let mut random = Random(11);
    let words = [
        "{\"id\":",
        "\"url\":\"https://api.example/x\",",
        "null,",
        " 12345 ",
        "\"name\":\"some one\"}",
        "\n",
    ];
    let mut text = Vec::new();
    while text.len() < length {
        text.extend_from_slice(words[random.next(words.len())].as_bytes());
    }
    text
}

#[test]
fn a_clean_compressed_body_passes_byte_for_byte_however_it_is_cut() {
    let long = text(300_000);
    let near = format!("before {}# behind", &SECRET[..SECRET.len() - 1]).into_bytes();
    for packing in packings() {
        for (clean, mistake) in
            [(&b""[..], "nothing"), (b"x", "one byte"), (&near, "a near miss"), (&long, "a long one")]
        {
            let packed = packing.whole(clean);
            assert_eq!(packing.unpack(&packed), clean, "{packing:?} itself");
            for size in [1, 7, 1000, packed.len()] {
                if size == 1 && packed.len() > 10_000 {
                    continue;
                }
                let (seen, reflected) = through(packing, packed.chunks(size).map(<[u8]>::to_vec));
                assert!(
                    !reflected && seen.error.is_none(),
                    "{packing:?}, {mistake}, {size}: {:?}",
                    seen.error
                );
                assert_eq!(seen.bytes, packed, "{packing:?}, {mistake}, in pieces of {size}");
            }
        }
        let (seen, _) = through(packing, []);
        assert!(seen.error.is_none() && seen.bytes.is_empty(), "{packing:?}: no body at all");
    }
}

#[test]
fn every_spelling_in_every_coding_cuts_the_body_wherever_the_vendor_cuts_it() {
    let all = spellings(SECRET);
    for packing in packings() {
        for spelling in &all {
            let body =
                [b"{\"ok\":true,\"given\":\"".as_slice(), &spelling.text, b"\",\"behind\":[1,2,3]}"].concat();
            let packed = packing.whole(&body);
            for cut in (0..packed.len()).step_by(3) {
                let (seen, reflected) = through(packing, [packed[..cut].to_vec(), packed[cut..].to_vec()]);
                let name = spelling.name;
                assert!(reflected && seen.error.is_some(), "{name}, {packing:?}, cut at {cut}");
                let got = packing.unpack(&seen.bytes);
                assert!(hunt(&all, &got).is_empty(), "{name}, {packing:?}, cut at {cut}");
                assert!(seen.bytes.len() < packed.len(), "{name}, {packing:?}: the end was sent");
            }
        }
    }
}

#[test]
fn no_prefix_of_a_form_leaves_before_the_rule_lets_it() {
    // The vendor flushes behind each byte of the credential: what is out decodes to what stood before it.
    for packing in packings() {
        let before = b"before \"".as_slice();
        let parts: Vec<&[u8]> = std::iter::once(before).chain(SECRET.as_bytes().chunks(1)).collect();
        let script = Script::open();
        let (mut body, reflected) = scrubbed(packing, script.clone());
        let mut seen = Seen::default();
        let pieces = packing.pack(&parts);
        for (number, piece) in pieces[..pieces.len() - 1].iter().enumerate() {
            script.push(piece);
            drain(&mut body, &mut seen);
            let out = packing.unpack(&seen.bytes);
            assert_eq!(out, before, "{packing:?}, after {number}");
        }
        script.push(pieces.last().unwrap());
        script.close();
        drain(&mut body, &mut seen);
        assert!(reflected.seen() && seen.error.is_some() && packing.unpack(&seen.bytes) == before);
    }
}

#[test]
fn a_flushed_event_is_not_delayed() {
    for packing in packings() {
        let events: Vec<String> =
            (0..50).map(|n| format!("id: {n}\ndata: {{\"n\":{n},\"t\":\"token\"}}\n\n")).collect();
        let parts: Vec<&[u8]> = events.iter().map(String::as_bytes).collect();
        let script = Script::open();
        let (mut body, _) = scrubbed(packing, script.clone());
        let (mut seen, mut written) = (Seen::default(), Vec::new());
        let pieces = packing.pack(&parts);
        for (number, piece) in pieces[..pieces.len() - 1].iter().enumerate() {
            script.push(piece);
            written.extend_from_slice(piece);
            drain(&mut body, &mut seen);
            assert_eq!(seen.bytes, written, "{packing:?}: event {number} is out");
            assert_eq!(packing.unpack(&seen.bytes), events[..=number].concat().as_bytes(), "{packing:?}");
        }
    }
}

#[test]
fn data_that_are_broken_cut_off_or_followed_by_others_end_visibly() {
    let clean = text(5_000);
    for packing in packings() {
        let packed = packing.whole(&clean);
        for length in 1..packed.len() {
            if length > 60 && length + 60 < packed.len() && length % 17 > 0 {
                continue;
            }
            let (seen, _) = through(packing, [packed[..length].to_vec()]);
            assert!(seen.error.is_some(), "{packing:?} cut off at {length}");
        }
        for garbage in [&b"x"[..], b"\0\0\0\0\0", b"<html>and more"] {
            let (seen, _) = through(packing, [packed.clone(), garbage.to_vec()]);
            assert!(seen.error.is_some(), "{packing:?} and then {garbage:?}");
            let (seen, _) = through(packing, [[&packed[..], garbage].concat()]);
            assert!(seen.error.is_some(), "{packing:?} with {garbage:?}");
        }
        let (seen, _) = through(packing, [b"this is no compressed body at all, it is plain text".to_vec()]);
        assert!(seen.error.is_some(), "{packing:?}: plain text");
    }
    let mut wrong = Packing::Gzip.whole(&clean);
    let at = wrong.len() - 6;
    wrong[at] ^= 1;
    assert!(through(Packing::Gzip, [wrong]).0.error.is_some(), "a wrong checksum");
}

#[test]
fn members_and_frames_may_follow_one_another_and_are_all_read() {
    for packing in [Packing::Gzip, Packing::Zstd] {
        let (one, two) = (packing.whole(b"one \""), packing.whole(b"two \""));
        let both = [one.clone(), two].concat();
        let (seen, reflected) = through(packing, [both.clone()]);
        assert!(!reflected && seen.error.is_none() && seen.bytes == both, "{packing:?}");
        let (front, back) = SECRET.split_at(8);
        let halves = [packing.whole(front.as_bytes()), packing.whole(back.as_bytes())].concat();
        let (seen, reflected) = through(packing, [halves]);
        assert!(reflected && seen.error.is_some(), "{packing:?}: one half in each");
    }
}

#[test]
fn what_stands_beside_the_data_is_looked_at_as_well() {
    // A name in gzip's header; a skippable frame of zstd.
    for size in [1, 5, 1000] {
        let mut encoder =
            flate2::GzBuilder::new().filename(SECRET).write(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, b"clean").unwrap();
        let named = encoder.finish().unwrap();
        let (seen, reflected) = through(Packing::Gzip, named.chunks(size).map(<[u8]>::to_vec));
        assert!(reflected && seen.error.is_some() && seen.bytes.is_empty(), "gzip in pieces of {size}");
        let skipped =
            [b"\x50\x2a\x4d\x18\x1d\0\0\0".as_slice(), SECRET.as_bytes(), &Packing::Zstd.whole(b"x")]
                .concat();
        let (seen, _) = through(Packing::Zstd, skipped.chunks(size).map(<[u8]>::to_vec));
        assert!(seen.error.is_some() && seen.bytes.is_empty(), "zstd in pieces of {size}");
    }
    let mut encoder = flate2::GzBuilder::new()
        .filename("report.json")
        .comment("a comment")
        .extra(vec![1, 2, 3])
        .write(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, b"clean").unwrap();
    let named = encoder.finish().unwrap();
    for size in [1, 5, 1000] {
        let (seen, _) = through(Packing::Gzip, named.chunks(size).map(<[u8]>::to_vec));
        assert!(seen.error.is_none() && seen.bytes == named, "a harmless name, in pieces of {size}");
    }
}

#[test]
fn windows_over_eight_mebibytes_and_bombs_are_cut() {
    use zstd_safe::CParameter;
    let noise = text(100_000);
    let zstd = |log: u32, text: &[u8]| {
        let mut context = zstd_safe::CCtx::create();
        context.set_parameter(CParameter::WindowLog(log)).unwrap();
        context.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
        let mut out = vec![0; zstd_safe::compress_bound(text.len())];
        // In two steps, so that the window is not cut to the text.
        let (mut input, mut output) =
            (zstd_safe::InBuffer::around(text), zstd_safe::OutBuffer::around(&mut out[..]));
        context.compress_stream(&mut output, &mut input).unwrap();
        assert_eq!(context.end_stream(&mut output).unwrap(), 0);
        let length = output.pos();
        out.truncate(length);
        out
    };
    assert!(through(Packing::Zstd, [zstd(23, &noise)]).0.error.is_none(), "8 MiB");
    assert!(through(Packing::Zstd, [zstd(24, &noise)]).0.error.is_some(), "16 MiB");
    let brotli = |window: u32| {
        let mut out = Vec::new();
        let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 5, window);
        std::io::Write::write_all(&mut encoder, &noise).unwrap();
        drop(encoder);
        out
    };
    assert!(through(Packing::Brotli, [brotli(23)]).0.error.is_none(), "8 MiB");
    assert!(through(Packing::Brotli, [brotli(24)]).0.error.is_some(), "16 MiB");
    let bomb = vec![b' '; 64 * 1024 * 1024];
    for packing in [Packing::Brotli, Packing::Zstd] {
        let packed = packing.whole(&bomb);
        assert!(packed.len() < 20_000, "{packing:?} has {}", packed.len());
        let (seen, _) = through(packing, [packed]);
        assert!(seen.error.is_some(), "{packing:?}: a bomb");
    }
}

#[test]
fn compressed_bytes_that_mean_nothing_may_not_pile_up() {
    // Empty stored blocks for ever, behind the beginning of a token.
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, b"sk-live").unwrap();
    std::io::Write::flush(&mut encoder).unwrap();
    let begun = encoder.get_ref().clone();
    let script = Script::open();
    let (mut body, _) = scrubbed(Packing::RawDeflate, script.clone());
    let mut seen = Seen::default();
    script.push(&begun);
    let empty = b"\0\0\0\xff\xff".repeat(10_000);
    for _ in 0..100 {
        script.push(&empty);
        drain(&mut body, &mut seen);
    }
    assert!(seen.error.is_some(), "5 MB wait");
}

#[test]
fn trailers_of_a_compressed_body_are_scrubbed_as_well() {
    for packing in packings() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "1234".parse().unwrap());
        trailers.insert("set-cookie", "a=b".parse().unwrap());
        let frames = [Frame::data(Bytes::from(packing.whole(b"clean"))), Frame::trailers(trailers.clone())];
        let (mut body, _) = scrubbed(packing, Script::whole(frames));
        let mut seen = Seen::default();
        drain(&mut body, &mut seen);
        assert_eq!(seen.trailers.unwrap().keys().collect::<Vec<_>>(), ["x-checksum"]);
        trailers.insert("x-echo", SECRET.parse().unwrap());
        let frames = [Frame::data(Bytes::from(packing.whole(b"clean"))), Frame::trailers(trailers)];
        let (mut body, reflected) = scrubbed(packing, Script::whole(frames));
        let mut seen = Seen::default();
        drain(&mut body, &mut seen);
        assert!(reflected.seen() && seen.error.is_some(), "{packing:?}");
    }
}
