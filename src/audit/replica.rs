//! What a replica is called: in its anchors, its chains' names, and where the store keeps its newest anchor.

use std::io;

use super::{Anchor, PublicKey, Sink};

/// Characters of a name at most.
pub const LONGEST: usize = 64;

/// Whether `name` may name a replica.
pub fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(allowed)
}

/// The machine's own name, made into one that may name a replica.
pub fn host_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let allowed = |c: char| if is_name(c.encode_utf8(&mut [0; 4])) { c } else { '-' };
    let name: String = host.chars().take(LONGEST).map(allowed).collect();
    if name.is_empty() { "relay".to_owned() } else { name }
}

/// Where the names of all replicas that ever wrote an audit stand in the store: a JSON list.
pub const REPLICAS: &str = "audit-replicas";

/// How the names begin under which the store keeps replicas' newest anchors.
const ANCHORS: &str = "anchor/";

/// Where relays kept it that had no name: read by the first one with a name that a store meets.
pub const NAMELESS_ANCHOR: &str = "audit-anchor";

/// Under which name the store keeps the newest anchor of this replica.
pub fn anchor_name(replica: &str) -> String {
    format!("{ANCHORS}{replica}")
}

/// Whether the store keeps under this name what shows that an audit is gone or cut.
pub fn is_of_audit(name: &str) -> bool {
    [REPLICAS, NAMELESS_ANCHOR].contains(&name) || name.starts_with(ANCHORS)
}

/// Who writes to `sink`: as `given`, else whoever wrote to it before, else `known`, else the machine's own name.
///
/// # Errors
/// If another replica than the one given wrote to it.
pub fn named(
    sink: &mut dyn Sink,
    given: Option<&str>,
    known: Option<String>,
    key: PublicKey,
) -> io::Result<String> {
    let before = sink.inherited()?.anchor.filter(|anchor| anchor.is_signed_by(key));
    let before = before.as_ref().and_then(Anchor::replica);
    match (given, before) {
        (Some(given), Some(before)) if given != before => Err(io::Error::other(format!(
            "this audit is the replica {before}'s and not {given}'s: give each replica a file of its own, or write \
             replica = \"{before}\""
        ))),
        (Some(name), _) | (None, Some(name)) => Ok(name.to_owned()),
        (None, None) => Ok(known.unwrap_or_else(host_name)),
    }
}
