//! `rewrite = ["json"]`: in any pieces the same text comes out; JSON stays JSON, and only a URL below the base
//! path becomes another, which leads to the same place through relay.
//!
//! Input: `pieces seed text`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use relay::stage::scrub::json::{Inside, Rewritten};
use serde_json::Value;
use url::Url;

use super::place::{BASE, VENDOR, the_route};

const RELAY: &str = "http://relay.test:8480";
const PREFIX: &str = "/vendor";

pub fn run(data: &[u8]) {
    let [cut, seed, text @ ..] = data else { return };
    let whole = through(vec![text.to_vec()]);
    let longest = 1 + usize::from(*cut);
    let (mut rest, mut state, mut pieces) = (text, u32::from(*seed), Vec::new());
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, behind) = rest.split_at((1 + (state >> 16) as usize % longest).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = behind;
    }
    let parts = through(pieces);
    assert_eq!(
        String::from_utf8_lossy(&whole),
        String::from_utf8_lossy(&parts),
        "the pieces change the text"
    );
    let Ok(before) = serde_json::from_slice::<Value>(text) else { return };
    let after = serde_json::from_slice::<Value>(&parts).expect("JSON stays JSON");
    same(&before, &after);
}

fn same(before: &Value, after: &Value) {
    match (before, after) {
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len());
            before.iter().zip(after).for_each(|(before, after)| same(before, after));
        }
        (Value::Object(before), Value::Object(after)) => {
            assert!(before.keys().eq(after.keys()), "keys are never touched");
            before.values().zip(after.values()).for_each(|(before, after)| same(before, after));
        }
        (Value::String(before), Value::String(after)) if before != after => led(before, after),
        (before, after) => assert_eq!(before, after),
    }
}

/// A URI template with nothing to put in (RFC 6570).
fn expanded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((_, behind)) = behind.split_once('}') else { break };
        out.push_str(before);
        rest = behind;
    }
    out + rest
}

fn led(before: &str, after: &str) {
    let (before, after) = (&*expanded(before), &*expanded(after));
    let there = Url::parse(before).unwrap_or_else(|_| panic!("{before:?} is no URL and became {after:?}"));
    assert_eq!(there.origin(), Url::parse(VENDOR).unwrap().origin(), "{before:?} is another's");
    let path = there.path();
    assert!(path == BASE || path.starts_with(&format!("{BASE}/")), "{before:?} is outside");
    let here = Url::parse(after).unwrap_or_else(|_| panic!("{after:?} is no URL"));
    assert_eq!(here.origin(), Url::parse(RELAY).unwrap().origin());
    assert_eq!(here.path().strip_prefix(PREFIX), path.strip_prefix(BASE), "{before:?} became {after:?}");
    assert_eq!((here.query(), here.fragment()), (there.query(), there.fragment()));
}

pub fn through(pieces: Vec<Vec<u8>>) -> Vec<u8> {
    let inside = Inside {
        app_base: RELAY.to_owned(),
        prefix: PREFIX.to_owned(),
        route: the_route().clone(),
        base_path: BASE.to_owned(),
        target: "/base/things?page=1".to_owned(),
        own: Arc::from(["127.0.0.1:8480".to_owned()]),
    };
    let mut body = Rewritten::new(Pieces(pieces.into_iter()), Some(inside));
    let (mut out, mut context) = (Vec::new(), Context::from_waker(Waker::noop()));
    loop {
        match Pin::new(&mut body).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => out.extend_from_slice(&frame.into_data().unwrap()),
            Poll::Ready(None) => return out,
            Poll::Pending => panic!("nothing is waited for"),
        }
    }
}

struct Pieces(std::vec::IntoIter<Vec<u8>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(Bytes::from(piece)))))
    }
}
