//! A customer's own access history: intent and outcome of each use joined into one line.
//!
//! Made to be handed to that customer, so nothing of another's may enter, nor a note, which is the
//! operators' own.

use std::collections::HashMap;
use std::io::{self, BufReader};

use serde::{Deserialize, Serialize};

use super::line::{self, Read, replica_of};
use super::several::{Found, in_order};
use crate::clock;

/// Uses whose outcome is waited for at once; relay has no more requests under way.
const MOST_OPEN: usize = 200_000;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Whose.
    pub customer: String,
    /// Begun at or after this, in seconds since 1970.
    pub since: Option<u64>,
    /// Begun before this.
    pub until: Option<u64>,
}

/// One line of it. A member that does not apply is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Access {
    /// When it began, RFC 3339.
    pub time: String,
    /// `use`, `refused`, or relay's and the operators' own acts: `system`, `admin`.
    pub kind: String,
    /// `answered`, or `unfinished` where nothing says how it ended. Of a use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The integration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integration: Option<String>,
    /// Which secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Which version of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The method; for `admin` the operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path, without query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where the credential went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The status that the app got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The refusal's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Who: the caller's token's issuer, subject and id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// See `iss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// See `iss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Body bytes from the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Body bytes to the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// How long it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// Which replica carried it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
}

/// As it stands in the audit.
#[derive(Deserialize)]
struct Line {
    chain: String,
    kind: String,
    customer: Option<String>,
    time: String,
    request_id: Option<String>,
    integration: Option<String>,
    secret: Option<String>,
    version: Option<u32>,
    method: Option<String>,
    path: Option<String>,
    origin: Option<String>,
    status: Option<u16>,
    code: Option<String>,
    iss: Option<String>,
    sub: Option<String>,
    jti: Option<String>,
    bytes_in: Option<u64>,
    bytes_out: Option<u64>,
    ms: Option<u64>,
}

impl Line {
    fn told(self) -> Access {
        Access {
            time: self.time,
            kind: if self.kind == "intent" { "use".to_owned() } else { self.kind },
            end: None,
            request_id: self.request_id,
            integration: self.integration,
            secret: self.secret,
            version: self.version,
            method: self.method,
            path: self.path.filter(|path| !path.is_empty()),
            origin: self.origin,
            status: self.status,
            code: self.code,
            iss: self.iss,
            sub: self.sub,
            jti: self.jti,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            ms: self.ms,
            replica: replica_of(&self.chain).map(str::to_owned),
        }
    }
}

/// Reads `files`, each replica's in their order, and gives `take` each access once it has ended. Those that
/// have not are given last.
///
/// # Errors
/// If a file cannot be read, or `take` fails.
pub fn history(
    files: Vec<Found>,
    asked: &Asked,
    take: &mut dyn FnMut(&Access) -> io::Result<()>,
) -> io::Result<()> {
    let mut join = Join { asked, needle: needle(&asked.customer), open: HashMap::new(), seen: 0 };
    for (_, files) in in_order(files, None)? {
        for found in files.into_iter().filter(|found| !found.ended_before(asked.since)) {
            let mut source = BufReader::with_capacity(256 * 1024, found.open()?);
            let mut text = Vec::new();
            while line::read(&mut source, &mut text)? != Read::End {
                join.line(&text, take)?;
            }
        }
    }
    join.unfinished(take)
}

struct Join<'a> {
    asked: &'a Asked,
    /// What a line of this customer's must hold, if that can be told without reading it.
    needle: Option<Vec<u8>>,
    open: HashMap<String, (u64, Access)>,
    seen: u64,
}

impl Join<'_> {
    fn line(&mut self, text: &[u8], take: &mut dyn FnMut(&Access) -> io::Result<()>) -> io::Result<()> {
        if self.needle.as_ref().is_some_and(|needle| memchr::memmem::find(text, needle).is_none()) {
            return Ok(());
        }
        let Ok(line) = serde_json::from_slice::<Line>(text) else { return Ok(()) };
        if line.customer.as_deref() != Some(self.asked.customer.as_str()) {
            return Ok(());
        }
        match line.kind.as_str() {
            "intent" if self.is_asked(&line.time) => self.begun(line.told(), take),
            "outcome" => self.ended(line, take),
            "refused" | "admin" | "system" if self.is_asked(&line.time) => take(&line.told()),
            _ => Ok(()),
        }
    }

    fn begun(&mut self, access: Access, take: &mut dyn FnMut(&Access) -> io::Result<()>) -> io::Result<()> {
        let id = access.request_id.clone().unwrap_or_default();
        if self.open.len() >= MOST_OPEN {
            return take(&unfinished(access));
        }
        self.seen += 1;
        match self.open.insert(id, (self.seen, access)) {
            Some((_, before)) => take(&unfinished(before)),
            None => Ok(()),
        }
    }

    /// An outcome alone is that of a use that began before what is asked for.
    fn ended(&mut self, end: Line, take: &mut dyn FnMut(&Access) -> io::Result<()>) -> io::Result<()> {
        let Some((_, begun)) = end.request_id.as_ref().and_then(|id| self.open.remove(id)) else {
            return Ok(());
        };
        let Line { status, code, bytes_in, bytes_out, ms, .. } = end;
        take(&Access { end: Some("answered".to_owned()), status, code, bytes_in, bytes_out, ms, ..begun })
    }

    fn unfinished(self, take: &mut dyn FnMut(&Access) -> io::Result<()>) -> io::Result<()> {
        let mut left: Vec<_> = self.open.into_values().collect();
        left.sort_by_key(|(seen, _)| *seen);
        left.into_iter().try_for_each(|(_, access)| take(&unfinished(access)))
    }

    fn is_asked(&self, time: &str) -> bool {
        let Some(at) = clock::parse_rfc3339(time) else { return false };
        self.asked.since.is_none_or(|since| at >= since) && self.asked.until.is_none_or(|until| at < until)
    }
}

fn unfinished(access: Access) -> Access {
    Access { end: Some("unfinished".to_owned()), ..access }
}

/// A name that no writer would escape stands in a line as it is.
fn needle(customer: &str) -> Option<Vec<u8>> {
    let plain = customer.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@'));
    plain.then(|| format!("\"customer\":\"{customer}\"").into_bytes())
}
