//! Bodies: every cut, what is held back, what a guesser can see.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use relay::config::OnReflect;
use relay::stage::scrub::body::{Cut, Scrubbed};
use relay::stage::scrub::forms::Forms;
use relay::stage::scrub::passage::Reflected;

const TOKEN: &[u8] = b"sk-live-0123456789abcdef";
/// Its base64 has `+` and `/` at every alignment.
const ODD: &[u8] = b"p>?~~~?>>~?~p>?~~~?>";
const TOKEN_BYTES: &[u8] = b"+/=_-%\\&#;.";

/// A vendor whose pieces come when the test says so.
#[derive(Clone)]
pub(super) struct Script(Rc<RefCell<(VecDeque<Frame<Bytes>>, bool)>>);

impl Script {
    /// These frames, then the end.
    pub(super) fn whole(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Self {
        Self(Rc::new(RefCell::new((frames.into_iter().collect(), true))))
    }

    /// Nothing yet.
    pub(super) fn open() -> Self {
        Self(Rc::new(RefCell::new((VecDeque::new(), false))))
    }

    pub(super) fn push(&self, piece: &[u8]) {
        self.0.borrow_mut().0.push_back(Frame::data(Bytes::copy_from_slice(piece)));
    }

    pub(super) fn close(&self) {
        self.0.borrow_mut().1 = true;
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (frames, closed) = &mut *self.0.borrow_mut();
        match frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if *closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        let (frames, closed) = &*self.0.borrow();
        *closed && frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let (frames, closed) = &*self.0.borrow();
        let left = frames.iter().filter_map(Frame::data_ref).map(|piece| piece.len() as u64).sum();
        if *closed { SizeHint::with_exact(left) } else { SizeHint::default() }
    }
}

/// What the app has seen so far.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) bytes: Vec<u8>,
    frames: Vec<usize>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) error: Option<String>,
    pub(super) ended: bool,
}

pub(super) fn vendor(pieces: impl IntoIterator<Item = Vec<u8>>) -> Script {
    Script::whole(pieces.into_iter().map(|piece| Frame::data(piece.into())))
}

/// Polls until nothing more comes. Each frame must be what the size hint left room for.
pub(super) fn drain<B: Body<Data = Bytes, Error = Cut<Infallible>> + Unpin>(body: &mut B, seen: &mut Seen) {
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(next) = Pin::new(&mut *body).poll_frame(&mut context) {
        match next {
            None => {
                seen.ended = true;
                return;
            }
            Some(Err(cause)) => seen.error = Some(cause.to_string()),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) => {
                    seen.frames.push(piece.len());
                    seen.bytes.extend_from_slice(&piece);
                }
                Err(frame) => seen.trailers = frame.into_trailers().ok(),
            },
        }
    }
}

pub(super) fn through(forms: Forms, pieces: impl IntoIterator<Item = Vec<u8>>) -> (Vec<u8>, bool) {
    let (mut seen, reflected) = (Seen::default(), Reflected::default());
    let mut body = Scrubbed::new(vendor(pieces), forms, OnReflect::Redact, reflected.clone());
    let promised = body.size_hint().exact().expect("the length is known and stays the same");
    drain(&mut body, &mut seen);
    assert!(seen.ended && body.is_end_stream());
    assert_eq!(seen.bytes.len() as u64, promised);
    (seen.bytes, reflected.seen())
}

pub(super) fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }

    pub(super) fn cut(&mut self, mut text: &[u8], most: usize) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        while !text.is_empty() {
            let (piece, rest) = text.split_at((1 + self.next(most)).min(text.len()));
            pieces.push(piece.to_vec());
            text = rest;
        }
        pieces
    }
}

#[test]
fn the_credential_is_overwritten_wherever_the_stream_is_cut() {
    for secret in [TOKEN, ODD] {
        let mut echoes = vec![("as it is", secret.to_vec(), secret.to_vec())];
        for shift in 0..3 {
            let text = [b"uv".get(..shift).unwrap(), secret, b"w"].concat();
            for (alphabet, encoded) in
                [("base64", STANDARD.encode(&text)), ("url-safe", URL_SAFE.encode(&text))]
            {
                let from = [0, 2, 3][shift];
                let to = (shift + secret.len()) * 8 / 6;
                echoes.push((alphabet, encoded.as_bytes().to_vec(), encoded.as_bytes()[from..to].to_vec()));
            }
        }
        for (kind, echo, core) in echoes {
            let text = [b"{\"ok\":true,\"given\":\"".as_slice(), &echo, b"\",\"n\":[1,2,3]}"].concat();
            for cut in 0..=text.len() {
                let (out, reflected) =
                    through(Forms::of([secret], []), [text[..cut].to_vec(), text[cut..].to_vec()]);
                assert!(reflected, "{kind} cut at {cut}");
                assert_eq!(out.len(), text.len());
                assert!(holds(&out, b"[redacted by relay]"), "{kind} cut at {cut}");
                for part in core.windows(4) {
                    assert!(
                        !holds(&out, part),
                        "{kind} cut at {cut} shows four characters of the credential"
                    );
                }
                assert!(out.starts_with(b"{\"ok\":true,\"given\":\"") && out.ends_with(b"\",\"n\":[1,2,3]}"));
            }
        }
    }
}

#[test]
fn what_the_vendor_was_given_counts_as_well() {
    let basic = STANDARD.encode("user:0123456789abcdef");
    let rendered = format!("Basic {basic}");
    let forms = || Forms::of([b"0123456789abcdef".as_slice()], [rendered.as_bytes()]);
    let mut text = format!("you sent {basic}, that is {rendered}").into_bytes();
    assert!(forms().redact(&mut text));
    assert!(!holds(&text, &basic.as_bytes()[..6]), "the user's part of the token counts as well");
    assert_eq!(forms().longest(), Forms::of([], [basic.as_bytes()]).longest());
    let bearer = [b"Bearer ".as_slice(), TOKEN].concat();
    assert_eq!(
        Forms::of([TOKEN], [bearer.as_slice()]).longest(),
        Forms::of([TOKEN], []).longest(),
        "a rendered value round the secret adds nothing"
    );
}

#[test]
fn a_value_under_eight_bytes_is_not_looked_for() {
    let forms = Forms::of([b"1234567".as_slice()], [b"Bearer 1234567".as_slice()]);
    assert!(forms.is_empty());
    assert_eq!(forms.longest(), 0);
    let (out, reflected) = through(forms, [b"1234567".to_vec()]);
    assert_eq!((out.as_slice(), reflected), (b"1234567".as_slice(), false));
    assert!(!Forms::of([b"12345678".as_slice()], []).is_empty());
}

#[test]
fn occurrences_that_overlap_are_overwritten_as_a_whole() {
    let marker = "[redacted by relay]";
    for (secret, text, from, to, mistake) in [
        ("abcabcab", "xabcabcabcabz", 1, 12, "the second begins inside of the first"),
        ("aaaaaaaa", "aaaaaaaaaab", 0, 10, "a run longer than the form"),
        ("abababab", "-abababababab-abababa-", 1, 13, "a run, then one byte too few"),
        ("abcdefgh", "abcdefghabcdefgh.", 0, 16, "two that touch"),
    ] {
        let wanted = [&text[..from], &marker[..to - from], &text[to..]].concat();
        let mut out = text.as_bytes().to_vec();
        assert!(Forms::of([secret.as_bytes()], []).redact(&mut out));
        assert_eq!(String::from_utf8_lossy(&out), wanted, "{mistake}");
        for size in 1..text.len() {
            let pieces = text.as_bytes().chunks(size).map(<[u8]>::to_vec);
            let (out, _) = through(Forms::of([secret.as_bytes()], []), pieces);
            assert_eq!(String::from_utf8_lossy(&out), wanted, "{mistake}, in pieces of {size}");
        }
    }
}

#[test]
fn any_cutting_gives_what_the_whole_would_give() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let secrets: [&[u8]; 6] =
        [TOKEN, ODD, b"aaaaaaaaaa", b"abaababaab", b"pass word! with\nmore", b"\"quoted\" and \xff\x00"];
    for round in 0..4_000 {
        let secret = secrets[round % secrets.len()];
        let forms = || Forms::of([secret], [b"Basic YWFhYWFhYWFhYTo=".as_slice()]);
        let mut text = Vec::new();
        for _ in 0..1 + random.next(12) {
            match random.next(6) {
                0 => text.extend_from_slice(secret),
                1 => text.extend_from_slice(&secret[..random.next(secret.len())]),
                2 => text.extend_from_slice(&secret[random.next(secret.len())..]),
                3 => text.extend_from_slice(
                    STANDARD.encode([&b"xy"[..random.next(3)], secret].concat()).as_bytes(),
                ),
                4 => text.extend((0..random.next(40)).map(|i| b"ab \n\"x=-a"[i % 9])),
                _ => text.extend(std::iter::repeat_n(b'a', random.next(30))),
            }
        }
        let mut wanted = text.clone();
        let found = forms().redact(&mut wanted);
        let most = 1 + random.next(40);
        let (out, reflected) = through(forms(), random.cut(&text, most));
        assert_eq!(out, wanted, "round {round}: {text:?}");
        assert_eq!(reflected, found);
    }
}

#[test]
fn large_pieces_are_cut_like_small_ones() {
    let mut random = Random(7);
    for round in 0..200 {
        let mut text: Vec<u8> = (0..40_000).map(|_| b"abcdefgh ij\n"[random.next(12)]).collect();
        for _ in 0..random.next(6) {
            let at = random.next(text.len() - TOKEN.len());
            text[at..at + TOKEN.len()].copy_from_slice(TOKEN);
        }
        let mut wanted = text.clone();
        let found = Forms::of([TOKEN], []).redact(&mut wanted);
        let pieces = random.cut(&text, 17_000);
        assert_eq!(through(Forms::of([TOKEN], []), pieces), (wanted, found), "round {round}");
    }
}

/// How many bytes the app has after each piece, while nothing has ended.
fn released(secret: &[u8], pieces: &[&[u8]]) -> Vec<Vec<usize>> {
    let script = Script::open();
    let mut body =
        Scrubbed::new(script.clone(), Forms::of([secret], []), OnReflect::Redact, Reflected::default());
    let most = Forms::of([secret], []).longest() - 1;
    let (mut came, mut went) = (0, 0);
    let mut counts = Vec::new();
    for piece in pieces {
        script.push(piece);
        let mut seen = Seen::default();
        drain(&mut body, &mut seen);
        came += piece.len();
        went += seen.bytes.len();
        assert!(came - went <= most, "{} bytes are held, and {most} is the most", came - went);
        assert_eq!(body.size_hint().lower(), (came - went) as u64);
        counts.push(seen.frames);
    }
    counts
}

#[test]
fn a_guesser_sees_the_same_counts_for_a_right_and_a_wrong_guess() {
    let other: &[u8] = b"zk-dead-9876543210fedcba";
    let spaced: &[u8] = b"correct horse, battery!x";
    let spaced_other: &[u8] = b"another thing! to,know:y";
    for (one, two) in [(TOKEN, other), (spaced, spaced_other)] {
        assert_eq!(one.len(), two.len());
        for len in 0..one.len() {
            for tail in [b"".as_slice(), b"\"", b" ", b"\n", b"."] {
                let wrong = if one[len] == b'a' { b'b' } else { b'a' };
                let right = [b"{\"q\":\"", &one[..=len], tail].concat();
                let guess = [b"{\"q\":\"", &one[..len], &[wrong], tail].concat();
                if len + 1 == one.len() {
                    continue;
                }
                let class = |byte: u8| byte.is_ascii_alphanumeric() || TOKEN_BYTES.contains(&byte);
                for pieces in [right.chunks(5), right.chunks(usize::MAX)] {
                    let right: Vec<&[u8]> = pieces.collect();
                    let size = right[0].len();
                    let wrong: Vec<&[u8]> = guess.chunks(size).collect();
                    let counts = released(one, &right);
                    // Where any byte may be part of it, the guess may be any byte.
                    if class(one[len]) || one == spaced {
                        assert_eq!(counts, released(one, &wrong), "{len} right bytes and a wrong one");
                    }
                    assert_eq!(counts, released(two, &right), "{len} right bytes against another credential");
                }
            }
        }
    }
}

#[test]
fn only_what_may_be_part_of_a_token_waits() {
    let rows: &[(&[u8], &str, usize, &str)] = &[
        (TOKEN, "data: {\"n\":1}\n\n", 0, "an event stream is not delayed"),
        (TOKEN, "abc def", 3, "the run behind a delimiter"),
        (TOKEN, "abc def\"", 0, "a delimiter at the end"),
        (TOKEN, "+/=_-%\\&#;.", 11, "every kind of token character"),
        (b"pass word! here", "data: {\"n\":1}\n\n", 0, "nor for a password with spaces"),
        (b"pass word! here", "abc def\" !", 10, "a delimiter may be part of it"),
        (b"line one\nline two", "a\n\nb", 4, "a line's end may be part of it"),
    ];
    for (secret, piece, held, mistake) in rows {
        let counts = released(secret, &[piece.as_bytes()]);
        let went: usize = counts.concat().iter().sum();
        assert_eq!(piece.len() - went, *held, "{mistake}");
    }
}

#[test]
fn a_clean_body_passes_as_the_same_memory() {
    let piece = Bytes::from(vec![b' '; 20_000]);
    let frames = [Frame::data(piece.clone())];
    let mut body =
        Scrubbed::new(Script::whole(frames), Forms::of([TOKEN], []), OnReflect::Redact, Reflected::default());
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) else { panic!() };
    assert_eq!(frame.into_data().unwrap().as_ptr(), piece.as_ptr());
}

#[test]
fn ten_mebibytes_pass_unchanged_in_flat_memory() {
    let mut random = Random(3);
    let secret: Vec<u8> = (0..1_000).map(|_| b"abcdefghij"[random.next(10)]).collect();
    let most = Forms::of([secret.as_slice()], []).longest() - 1;
    for alphabet in [b"abcdefgh ij\n".as_slice(), b"aaaaaaaaaaaa"] {
        let script = Script::open();
        let reflected = Reflected::default();
        let forms = Forms::of([secret.as_slice()], []);
        let mut body = Scrubbed::new(script.clone(), forms, OnReflect::Redact, reflected.clone());
        let piece: Vec<u8> = (0..16_384).map(|_| alphabet[random.next(12)]).collect();
        let mut seen = Seen::default();
        for round in 1..=640_usize {
            script.push(&piece);
            drain(&mut body, &mut seen);
            let held = round * piece.len() - seen.bytes.len();
            assert!(held <= most, "{held} bytes are held");
        }
        script.close();
        drain(&mut body, &mut seen);
        assert!(seen.ended && !reflected.seen());
        assert_eq!(seen.bytes, piece.repeat(640));
    }
}

#[test]
fn a_credential_like_the_answer_does_not_stop_a_worker() {
    // Quadratic work here would be 4 * 10^10 comparisons.
    let secret = vec![b'a'; 64 * 1024];
    let (out, reflected) = through(Forms::of([secret.as_slice()], []), vec![vec![b'a'; 16 * 1024]; 40]);
    assert!(reflected && out.ends_with(b"***") && out.starts_with(b"[redacted by relay]*"));
    // Many beginnings that fail late, then the credential itself.
    let mut near = vec![b'a'; 40_000];
    near.push(b'b');
    let text = [near.repeat(10), secret.clone()].concat();
    let (out, reflected) = through(Forms::of([secret.as_slice()], []), [text]);
    assert!(reflected && out.starts_with(&near.repeat(10)));
    assert!(out[near.len() * 10..].starts_with(b"[redacted by relay]*"));
}

#[test]
fn block_cuts_before_a_byte_of_the_piece_goes_out() {
    let pieces = ["clean. ", "more ", "then sk-live-0123", "456789abcdef and the rest"];
    let frames = pieces.iter().map(|p| Frame::data(Bytes::from_static(p.as_bytes())));
    let reflected = Reflected::default();
    let mut body =
        Scrubbed::new(Script::whole(frames), Forms::of([TOKEN], []), OnReflect::Block, reflected.clone());
    let mut seen = Seen::default();
    drain(&mut body, &mut seen);
    assert!(reflected.seen() && seen.error.is_some() && seen.ended && body.is_end_stream());
    assert_eq!(seen.bytes, b"clean. more then ");
    assert_eq!(body.size_hint().exact(), Some(0));
}

#[test]
fn alert_overwrites_and_tells() {
    let reflected = Reflected::default();
    let mut body =
        Scrubbed::new(vendor([TOKEN.to_vec()]), Forms::of([TOKEN], []), OnReflect::Alert, reflected.clone());
    let mut seen = Seen::default();
    drain(&mut body, &mut seen);
    assert!(reflected.seen());
    assert_eq!(seen.bytes, b"[redacted by relay]*****");
}

#[test]
fn trailers_come_last_and_are_scrubbed_like_a_head() {
    let mut trailers = HeaderMap::new();
    for (name, value) in [
        ("x-checksum", "1234"),
        ("x-echo", "sk-live-0123456789abcdef"),
        ("relay-error", "x"),
        ("set-cookie", "a=b"),
        ("location", "https://vendor.example/"),
        ("content-length", "5"),
        ("content-digest", "sha-256=:x:"),
    ] {
        trailers.insert(name, value.parse().unwrap());
    }
    let frames = VecDeque::from([
        Frame::data(Bytes::from_static(b"sk-live-0123456789abcdef end of sk-live")),
        Frame::trailers(trailers),
    ]);
    let reflected = Reflected::default();
    let mut body =
        Scrubbed::new(Script::whole(frames), Forms::of([TOKEN], []), OnReflect::Redact, reflected.clone());
    let mut seen = Seen::default();
    drain(&mut body, &mut seen);
    assert_eq!(
        seen.bytes, b"[redacted by relay]***** end of sk-live",
        "what was held comes before the trailers"
    );
    let trailers = seen.trailers.unwrap();
    assert_eq!(trailers.len(), 2);
    assert_eq!(trailers["x-checksum"], "1234");
    assert_eq!(trailers["x-echo"], "[redacted by relay]*****");
    assert!(reflected.seen());
}
