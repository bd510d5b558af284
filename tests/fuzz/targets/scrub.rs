//! The scrubber: no form of a credential survives in any pieces, nothing else is changed, and what is held
//! back is told by lengths alone.
//!
//! Input: `length-of-secret kind-of-secret pieces pieces program...`. Each byte of the program stands for
//! itself, but bytes of 0xc0 and above, which stand for a form of the secret, or a part of one.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body::{Body, Frame};
use relay::config::OnReflect;
use relay::stage::scrub::body::Scrubbed;
use relay::stage::scrub::forms::Forms;
use relay::stage::scrub::passage::Reflected;

type Encoder = fn(&[u8]) -> Vec<u8>;

/// Every form that must not survive: a new one is a line here. Each writes what the secret alone decides.
const ENCODERS: &[(&str, Encoder)] = &[
    ("raw", |secret| secret.to_vec()),
    ("base64", |secret| whole(secret, STANDARD_NO_PAD.encode(secret))),
    ("base64url", |secret| whole(secret, URL_SAFE_NO_PAD.encode(secret))),
    ("base64 one behind", |secret| {
        STANDARD.encode([b"x", secret].concat()).into_bytes()[2..][..inner(secret, 1)].to_vec()
    }),
    ("base64 two behind", |secret| {
        STANDARD.encode([b"xy", secret].concat()).into_bytes()[3..][..inner(secret, 2)].to_vec()
    }),
    ("hex", |secret| each(secret, |b| format!("{b:02x}"))),
    ("upper hex", |secret| each(secret, |b| format!("{b:02X}"))),
    ("percent", |secret| each(secret, |b| format!("%{b:02x}"))),
    ("upper percent", |secret| each(secret, |b| format!("%{b:02X}"))),
    ("double percent", |secret| each(secret, |b| format!("%25{b:02X}"))),
    ("JSON", |secret| each(secret, |b| format!("\\u{b:04x}"))),
    ("decimal entities", |secret| each(secret, |b| format!("&#{b};"))),
    ("hex entities", |secret| each(secret, |b| format!("&#x{b:04X};"))),
    ("quoted-printable", |secret| each(secret, |b| format!("={b:02X}"))),
    ("quoted-printable with soft breaks", |secret| each(secret, |b| format!("={b:02X}=\r\n"))),
    ("two bytes per character", |secret| each(secret, |b| format!("{}\0", char::from(b)))),
];

fn each(secret: &[u8], spell: impl Fn(u8) -> String) -> Vec<u8> {
    secret.iter().map(|byte| spell(*byte)).collect::<String>().into_bytes()
}

/// Base64 without its last character where that is shared with what follows.
fn whole(secret: &[u8], mut text: String) -> Vec<u8> {
    text.truncate(secret.len() * 8 / 6);
    text.into_bytes()
}

/// How many characters of base64 `before` bytes behind a group's begin the secret alone decides.
fn inner(secret: &[u8], before: usize) -> usize {
    (before + secret.len()) * 8 / 6 - (before * 8).div_ceil(6)
}

pub fn run(data: &[u8]) {
    let [length, kind, cut, seed, program @ ..] = data else { return };
    let length = 8 + usize::from(length % 56);
    let (secret, other) = (secret(length, *kind, 7), secret(length, *kind, 11));
    let body = body(program, &secret);
    let pieces = pieces(&body, *cut, *seed);
    let whole = through(&secret, vec![body.clone()]);
    let parts = through(&secret, pieces.clone());
    assert_eq!(whole.bytes.len(), body.len(), "the length is kept");
    assert_eq!(parts.bytes.len(), body.len(), "the length is kept in pieces");
    // A spelling that is drawn out beyond what is held back is found where it comes in one piece.
    let may_be_drawn_out = body.iter().any(|byte| b"\0\r\n&%\\=".contains(byte));
    // Base64 of an escaped text is read, too, and the encoders here do not write it.
    let may_be_escaped_within = escapes_within(&body);
    if !may_be_drawn_out {
        assert_eq!(whole.bytes, parts.bytes, "the pieces change the text");
    }
    let before = holds(&body, &secret);
    // What was overwritten is not read: the marker has letters too, which may stand where a form's would.
    let left = |out: &[u8]| -> Vec<u8> {
        out.iter().zip(&body).map(|(out, came)| if out == came { *out } else { 0xff }).collect()
    };
    assert_eq!(holds(&left(&parts.bytes), &secret), None, "a form survives");
    assert_eq!(holds(&left(&whole.bytes), &secret), None, "a form survives in one piece");
    assert!(before.is_none() || parts.reflected, "what is found is told ({before:?})");
    assert!(parts.reflected || parts.bytes == body, "what holds no form passes unchanged");
    if !may_be_drawn_out && !may_be_escaped_within {
        assert_eq!(before.is_some(), parts.reflected, "nothing else is found");
    }
    if before.is_none() && !parts.reflected && holds(&body, &other).is_none() {
        let guess = through(&other, pieces);
        assert_eq!(guess.when, parts.when, "what is held back tells of the credential");
    }
}

/// The first form that stands in `text`. Base64 counts in either alphabet, and in both mixed.
fn holds(text: &[u8], secret: &[u8]) -> Option<&'static str> {
    let standard = |text: &[u8]| -> Vec<u8> {
        text.iter()
            .map(|byte| {
                if *byte == b'-' {
                    b'+'
                } else if *byte == b'_' {
                    b'/'
                } else {
                    *byte
                }
            })
            .collect()
    };
    let folded = standard(text);
    let stands = |(name, encoder): &(&'static str, Encoder)| {
        let form = encoder(secret);
        if name.starts_with("base64") {
            memchr::memmem::find(&folded, &standard(&form)).is_some()
        } else {
            memchr::memmem::find(text, &form).is_some()
        }
    };
    ENCODERS.iter().find(|row| stands(row)).map(|row| row.0)
}

/// Whether base64 in `text`, wherever it may begin, stands for what begins an escape.
fn escapes_within(text: &[u8]) -> bool {
    let sextet = |byte: &u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    };
    let stands_for = |group: &[u8]| {
        let sextets: Option<Vec<u8>> = group.iter().map(sextet).collect();
        sextets.is_some_and(|s| {
            [s[0] << 2 | s[1] >> 4, s[1] << 4 | s[2] >> 2, s[2] << 6 | s[3]]
                .iter()
                .any(|b| b"&%\\=".contains(b))
        })
    };
    text.windows(4).any(stands_for)
}

/// A secret of this length; kinds differ in their alphabet, seeds in nothing else.
fn secret(length: usize, kind: u8, seed: u8) -> Vec<u8> {
    let alphabet: &[u8] = match kind % 4 {
        0 => b"abcdefghijklmnopqrstuvwxyz0123456789",
        1 => b"+/=_-%\\&#;.A",
        2 => b"aaaaaaab",
        _ => b">?~!<(",
    };
    let mut state = u32::from(seed) * 2_654_435 + u32::from(kind);
    let mut step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        alphabet[(state >> 16) as usize % alphabet.len()]
    };
    (0..length).map(|_| step()).collect()
}

fn body(program: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for &byte in program.iter().take(4096) {
        if byte < 0xc0 {
            body.push(byte);
            continue;
        }
        let (_, encoder) = ENCODERS[usize::from(byte & 0x0f) % ENCODERS.len()];
        let form = encoder(secret);
        let part = match byte >> 4 {
            0xc => &form[..],
            0xd => &form[..form.len() - 1],
            0xe => &form[1..],
            _ => &form[..form.len() / 2],
        };
        body.extend_from_slice(part);
    }
    body
}

fn pieces(body: &[u8], cut: u8, seed: u8) -> Vec<Vec<u8>> {
    let longest = 1 + usize::from(cut);
    let (mut rest, mut state, mut pieces) = (body, u32::from(seed), Vec::new());
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, behind) = rest.split_at((1 + (state >> 16) as usize % longest).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = behind;
    }
    pieces
}

struct Seen {
    bytes: Vec<u8>,
    /// How much had come out when each piece had gone in.
    when: Vec<usize>,
    reflected: bool,
}

/// A vendor that hands over a piece when it is asked, and says pending in between.
struct Script {
    pieces: std::vec::IntoIter<Vec<u8>>,
    open: bool,
}

impl Body for Script {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !std::mem::take(&mut self.open) {
            return Poll::Pending;
        }
        Poll::Ready(self.pieces.next().map(|piece| Ok(Frame::data(Bytes::from(piece)))))
    }
}

impl Script {
    fn left(&self) -> usize {
        self.pieces.len()
    }
}

fn through(secret: &[u8], pieces: Vec<Vec<u8>>) -> Seen {
    let reflected = Reflected::default();
    let count = pieces.len();
    let script = Script { pieces: pieces.into_iter(), open: false };
    assert_eq!(script.left(), count);
    let forms = Forms::of([secret], []);
    let shared = std::rc::Rc::new(std::cell::RefCell::new(script));
    let mut body = Scrubbed::new(Shared(shared.clone()), forms, OnReflect::Redact, reflected.clone());
    let mut seen = Seen { bytes: Vec::new(), when: Vec::new(), reflected: false };
    let mut context = Context::from_waker(Waker::noop());
    // One more than the pieces: the last time it is the end that comes.
    'whole: for _ in 0..=count {
        shared.borrow_mut().open = true;
        loop {
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Ready(Some(frame)) => {
                    let frame = frame.unwrap_or_else(|cut| panic!("{cut}"));
                    seen.bytes.extend_from_slice(&frame.into_data().unwrap());
                }
                Poll::Ready(None) => break 'whole,
                Poll::Pending => break,
            }
        }
        seen.when.push(seen.bytes.len());
    }
    seen.reflected = reflected.seen();
    seen
}

#[derive(Clone)]
struct Shared(std::rc::Rc<std::cell::RefCell<Script>>);

impl Body for Shared {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_frame(context)
    }
}
