//! Just enough of OpenAI's and Slack's APIs for their official SDKs to work against.
//!
//! Both are strict about the credential, as the real ones are, and both put it into an answer, as the
//! real ones do not, so that it can be seen that relay takes it out. What must never enter: a network.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Desk;
use super::echo;
use super::feed::{self, Body};
use crate::clock;

const LARGEST_BODY: usize = 256 * 1024;
const MODEL: &str = "relay-dev";

/// The calls that are played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Models,
    Chat,
    AuthTest,
    PostMessage,
}

impl Call {
    /// The call that a request is, if it is one.
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        let slack = path.strip_prefix("/api").unwrap_or(path);
        match (method.as_str(), path, slack) {
            ("GET", "/v1/models", _) => Some(Self::Models),
            ("POST", "/v1/chat/completions", _) => Some(Self::Chat),
            ("GET" | "POST", _, "/auth.test") => Some(Self::AuthTest),
            ("POST", _, "/chat.postMessage") => Some(Self::PostMessage),
            _ => None,
        }
    }

    const fn is_slack(self) -> bool {
        matches!(self, Self::AuthTest | Self::PostMessage)
    }
}

/// Answers a call, or refuses it in the vendor's own words.
pub(super) async fn answer(desk: &Desk, call: Call, head: &Parts, body: Incoming) -> Response<Body> {
    let body = read(body).await;
    if !desk.accepted.takes(&head.headers) {
        return refuse(
            call,
            StatusCode::UNAUTHORIZED,
            "the credential is not the one that this vendor takes",
        );
    }
    let Some(body) = body else {
        return refuse(call, StatusCode::PAYLOAD_TOO_LARGE, "the body broke off or is over 256 KiB");
    };
    let given = echo::authorization(desk, &head.headers).unwrap_or_default();
    let form = head.headers.get(CONTENT_TYPE).is_some_and(|media| media.as_bytes().ends_with(b"urlencoded"));
    let asked = if form { Some(form_values(&body)) } else { json_values(&body) };
    let Some(asked) = asked else {
        return refuse(call, StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    match call {
        Call::Models => {
            let model = json!({ "id": MODEL, "object": "model", "created": 0, "owned_by": "relay" });
            feed::json(StatusCode::OK, &json!({ "object": "list", "data": [model] }))
        }
        Call::Chat => chat(&asked, &given),
        Call::AuthTest => {
            let who = json!({
                "ok": true, "url": "https://workspace.example/", "team": "relay dev", "user": "demo",
                "team_id": "T00000000", "user_id": "U00000000", "i_was_given": given,
            });
            feed::json(StatusCode::OK, &who)
        }
        Call::PostMessage => post_message(&asked),
    }
}

fn chat(asked: &Value, given: &str) -> Response<Body> {
    let Some(said) = asked.get("messages").and_then(Value::as_array).and_then(|all| text_of(all.last()?))
    else {
        return refuse(Call::Chat, StatusCode::BAD_REQUEST, "messages must hold a message with a text");
    };
    let model = asked.get("model").and_then(Value::as_str).unwrap_or(MODEL).to_owned();
    let text = format!("You said: {said} -- I was given {given} to answer with.");
    let usage = json!({ "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 });
    if asked.get("stream").and_then(Value::as_bool) == Some(true) {
        let counted = asked.pointer("/stream_options/include_usage").and_then(Value::as_bool) == Some(true);
        return chat_stream(&text, &model, counted.then_some(usage));
    }
    let message = json!({ "role": "assistant", "content": text, "refusal": null });
    let answer = json!({
        "id": "chatcmpl-relay-dev", "object": "chat.completion", "created": clock::unix_seconds(),
        "model": model, "usage": usage,
        "choices": [{ "index": 0, "message": message, "logprobs": null, "finish_reason": "stop" }],
    });
    feed::json(StatusCode::OK, &answer)
}

/// A word per event, then the end as OpenAI says it.
fn chat_stream(text: &str, model: &str, usage: Option<Value>) -> Response<Body> {
    let created = clock::unix_seconds();
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": "chatcmpl-relay-dev", "object": "chat.completion.chunk", "created": created,
            "model": model, "choices": choices,
        });
        if let (Some(usage), Some(members)) = (usage, chunk.as_object_mut()) {
            members.insert("usage".to_owned(), usage);
        }
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, end: Option<&str>| {
        chunk(json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": end }]), None)
    };
    let mut events = vec![delta(json!({ "role": "assistant", "content": "" }), None)];
    events.extend(text.split_inclusive(' ').map(|word| delta(json!({ "content": word }), None)));
    events.push(delta(json!({}), Some("stop")));
    events.extend(usage.map(|usage| chunk(json!([]), Some(usage))));
    events.push("data: [DONE]\n\n".to_owned());
    let mut events = events.into_iter();
    feed::events(Duration::from_millis(20), move || events.next())
}

/// A message's text: a string, or the text parts of a list.
fn text_of(message: &Value) -> Option<String> {
    match message.get("content")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part.get("text")?.as_str()).collect()),
        _ => None,
    }
}

fn post_message(asked: &Value) -> Response<Body> {
    let text = |name: &str| asked.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let refused = |error: &str| feed::json(StatusCode::OK, &json!({ "ok": false, "error": error }));
    let Some(channel) = text("channel") else { return refused("channel_not_found") };
    let Some(said) = text("text") else { return refused("no_text") };
    let ts = format!("{}.000100", clock::unix_seconds());
    let message = json!({ "type": "message", "user": "U00000000", "text": said, "ts": ts });
    feed::json(StatusCode::OK, &json!({ "ok": true, "channel": channel, "ts": ts, "message": message }))
}

fn refuse(call: Call, status: StatusCode, words: &str) -> Response<Body> {
    let unauthorized = status == StatusCode::UNAUTHORIZED;
    if call.is_slack() {
        let error = if unauthorized { "invalid_auth" } else { "invalid_arguments" };
        return feed::json(status, &json!({ "ok": false, "error": error }));
    }
    let code = unauthorized.then_some("invalid_api_key");
    let error = json!({ "message": words, "type": "invalid_request_error", "param": null, "code": code });
    feed::json(status, &json!({ "error": error }))
}

/// The body, if it ends within [`LARGEST_BODY`].
async fn read(mut body: Incoming) -> Option<Bytes> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Some(piece) = frame.ok()?.data_ref() {
            if all.len() + piece.len() > LARGEST_BODY {
                return None;
            }
            all.extend_from_slice(piece);
        }
    }
    Some(all.into())
}

fn json_values(body: &[u8]) -> Option<Value> {
    if body.is_empty() { Some(Value::Null) } else { serde_json::from_slice(body).ok() }
}

fn form_values(body: &[u8]) -> Value {
    url::form_urlencoded::parse(body)
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
