//! What the clients of Google and Microsoft have in common here: patience, an error's words, and the
//! version of the KMS key that stands before what was wrapped.
//!
//! Their own patience is up to a minute and ten tries, which would outlast the request that waits; here it
//! is one more try, and less time than [`BUDGET`]. What must never enter: a provider's own type.

use std::error::Error;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::KmsError;
use super::cached::BUDGET;

/// The first byte of what a cloud wrapped.
const FORMAT: u8 = 1;
/// How long one operation may take, the second try included: less than [`BUDGET`], so that what is told is
/// the provider's own failure.
const PATIENCE: Duration = BUDGET.saturating_sub(Duration::from_millis(100));
/// How long a new version may take to be made: an operator waits for it, no request does.
const MAKING: Duration = Duration::from_secs(30);
/// A failure that took longer than this is not tried again, for there would be no time to wait for it.
const QUICK: Duration = Duration::from_millis(900);
const PAUSE: Duration = Duration::from_millis(50);
/// More of a provider's text than this tells nobody more.
const LONGEST: usize = 300;

/// A failed call, and whether the same call may succeed when it is made again at once.
pub(super) struct Fault {
    pub(super) error: KmsError,
    pub(super) again: bool,
}

impl Fault {
    pub(super) const fn last(error: KmsError) -> Self {
        Self { error, again: false }
    }

    pub(super) const fn passing(text: String) -> Self {
        Self { error: KmsError::Unavailable(text), again: true }
    }
}

/// Makes the call, and makes it once more if it failed quickly and in passing.
pub(super) async fn twice<T, F>(call: impl Fn() -> F) -> Result<T, KmsError>
where
    F: Future<Output = Result<T, Fault>>,
{
    let begun = Instant::now();
    within(PATIENCE, async {
        match call().await {
            Err(fault) if fault.again && begun.elapsed() < QUICK => {
                sleep(PAUSE).await;
                call().await
            }
            first => first,
        }
    })
    .await
}

/// Makes the call that makes a new version: once, since a second one would make another.
pub(super) async fn once<T>(call: impl Future<Output = Result<T, Fault>>) -> Result<T, KmsError> {
    within(MAKING, call).await
}

async fn within<T>(patience: Duration, call: impl Future<Output = Result<T, Fault>>) -> Result<T, KmsError> {
    let slow = |_| KmsError::Unavailable(format!("no answer within {} ms", patience.as_millis()));
    timeout(patience, call).await.map_err(slow)?.map_err(|fault| fault.error)
}

/// An error and what caused it, in one line. Errors of these clients hold addresses and the service's own
/// words; none holds a request's body.
pub(super) fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    one_line(&text)
}

/// Someone else's text, fit for a log.
pub(super) fn one_line(text: &str) -> String {
    let plain = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = plain.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    if cut.len() < plain.len() { format!("{cut}...") } else { cut }
}

/// `1 | version behind its length | what the provider wrapped`
pub(super) fn with_version(version: &str, wrapped: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![FORMAT, u8::try_from(version.len()).ok()?];
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(wrapped);
    Some(out)
}

/// The version and what the provider wrapped. Whoever writes to the store chose the version: it is a word,
/// so that it can stand in a path, and no more is known of it.
pub(super) fn parted(bytes: &[u8]) -> Result<(&str, &[u8]), KmsError> {
    let damaged = || KmsError::Broken("it is not what this provider wrapped".to_owned());
    let (format, rest) = bytes.split_first().ok_or_else(damaged)?;
    if *format != FORMAT {
        return Err(KmsError::Broken(format!("it has format {format}, and this relay reads {FORMAT}")));
    }
    let (len, rest) = rest.split_first().ok_or_else(damaged)?;
    let (version, wrapped) = rest.split_at_checked((*len).into()).ok_or_else(damaged)?;
    let version = std::str::from_utf8(version).ok().filter(|version| is_version(version));
    Ok((version.ok_or_else(damaged)?, wrapped))
}

/// Google counts, Microsoft draws 32 hex digits.
pub(super) fn is_version(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
