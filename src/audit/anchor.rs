//! Anchors: the signed heads of all chains, at least every 60 s.
//!
//! Hashes alone show an edit only to someone who knows a later hash; whoever can write the file could
//! compute the whole of it anew. The signature says what stood there, and the newest anchor, kept
//! outside the file, says how far it went. The private key must never leave [`Signer`].

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::Deserialize;

use super::AuditError;
use super::line::{ANCHOR_CHAIN, ANCHOR_START, anchor_genesis};
use super::record::{Hash, Head, Stamp, base64, begin, from_text, hash, number, to_text};
use crate::secret::Secret;

const SIGNATURE_START: &[u8] = b",\"sig\":\"";
const SIGNATURE_END: &[u8] = b"\"}";

/// The Ed25519 key (RFC 8032) that signs anchors.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Signer {
    /// The key with this seed of 32 bytes.
    pub fn from_seed(seed: &Secret) -> Result<Self, AuditError> {
        let unusable = || AuditError("the signing key is not a seed of 32 bytes".into());
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| unusable())?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| unusable())?;
        Ok(Self { pair, public: PublicKey(public) })
    }

    /// What its signatures are checked with.
    pub const fn public_key(&self) -> PublicKey {
        self.public
    }
}

/// What anchors are checked with; its text is base64url without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads the text form; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        from_text(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_text(&self.0))
    }
}

/// Why an anchor was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Why {
    Start,
    Due,
    Asked,
    /// The last line of a segment that is full.
    Turn,
    /// The first line of the one that goes on.
    Segment,
    /// Says that whole segments are deleted because their time is over.
    Retain,
    Close,
}

impl Why {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Due => "due",
            Self::Asked => "asked",
            Self::Turn => "turn",
            Self::Segment => "segment",
            Self::Retain => "retain",
            Self::Close => "close",
        }
    }
}

/// One anchor: its line as it stands in the file, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    line: Arc<[u8]>,
    hash: Hash,
    seq: u64,
    prev: Hash,
    time: String,
    generation: u64,
    replica: Option<Arc<str>>,
    key: PublicKey,
    pub(super) why: Why,
    /// Up to which anchor, it included, the segments were deleted because their time was over.
    pub(super) cut: Option<u64>,
    pub(super) order: Hash,
    pub(super) heads: Vec<Head>,
}

#[derive(Deserialize)]
struct Shape<'a> {
    v: u32,
    chain: &'a str,
    seq: u64,
    prev: &'a str,
    time: &'a str,
    kind: &'a str,
    why: Why,
    replica: Option<&'a str>,
    cut: Option<u64>,
    generation: u64,
    order: &'a str,
    #[serde(borrow)]
    heads: Vec<HeadShape<'a>>,
    key: &'a str,
}

#[derive(Deserialize)]
struct HeadShape<'a> {
    chain: &'a str,
    seq: u64,
    hash: &'a str,
}

impl Anchor {
    /// Reads an anchor's line, without its line feed; `None` if it has not the shape of one. Says
    /// nothing about the signature: [`Anchor::is_signed_by`] does.
    pub fn parse(line: &[u8]) -> Option<Self> {
        if !line.starts_with(ANCHOR_START) || split(line).is_none() {
            return None;
        }
        let shape: Shape<'_> = serde_json::from_slice(line).ok()?;
        if shape.v != 1 || shape.chain != ANCHOR_CHAIN || shape.kind != "anchor" {
            return None;
        }
        let head = |h: &HeadShape<'_>| {
            from_text(h.hash).map(|hash| Head { chain: h.chain.into(), seq: h.seq, hash })
        };
        Some(Self {
            line: line.into(),
            hash: hash(line),
            seq: shape.seq,
            prev: from_text(shape.prev)?,
            time: shape.time.to_owned(),
            generation: shape.generation,
            replica: shape.replica.map(Into::into),
            cut: shape.cut,
            key: PublicKey::parse(shape.key)?,
            why: shape.why,
            order: from_text(shape.order)?,
            heads: shape.heads.iter().map(head).collect::<Option<_>>()?,
        })
    }

    /// The line, to be kept outside the file and given to [`Anchor::parse`] again.
    pub fn as_bytes(&self) -> &[u8] {
        &self.line
    }

    /// Its number among all anchors of the replica, 1 for the first.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// When it was made, RFC 3339.
    pub fn time(&self) -> &str {
        &self.time
    }

    /// The store's generation when it was made.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Which replica wrote it; files from before replicas had names do not say.
    pub fn replica(&self) -> Option<&str> {
        self.replica.as_deref()
    }

    /// The key that it says it was signed with.
    pub const fn key(&self) -> PublicKey {
        self.key
    }

    /// Whether `key` signed exactly these bytes.
    pub fn is_signed_by(&self, key: PublicKey) -> bool {
        let Some((signed, signature)) = split(&self.line) else { return false };
        self.key == key && UnparsedPublicKey::new(&ED25519, &key.0).verify(signed, &signature).is_ok()
    }

    pub(super) const fn hash(&self) -> Hash {
        self.hash
    }

    /// Whether it directly follows `before`, or is the first of all if there is none.
    pub(super) fn follows(&self, before: Option<(u64, Hash)>) -> bool {
        let (seq, hash) = before.unwrap_or_else(|| (0, anchor_genesis(self.replica())));
        self.seq == seq.saturating_add(1) && self.prev == hash
    }
}

/// What the writer puts into an anchor.
pub(super) struct Draft<'a> {
    pub(super) replica: &'a str,
    pub(super) before: Option<(u64, Hash)>,
    pub(super) why: Why,
    pub(super) cut: Option<u64>,
    pub(super) generation: u64,
    pub(super) order: Hash,
    pub(super) heads: &'a [Head],
}

impl Draft<'_> {
    /// Signs the anchor; its line has no line feed yet.
    pub(super) fn sign(&self, signer: &Signer) -> Option<Anchor> {
        let (seq, prev) = self.before.unwrap_or_else(|| (0, anchor_genesis(Some(self.replica))));
        let mut line = Vec::new();
        begin(&mut line, ANCHOR_CHAIN, seq.saturating_add(1), &prev, &mut Stamp::default());
        line.extend_from_slice(b"anchor\",\"why\":\"");
        line.extend_from_slice(self.why.as_str().as_bytes());
        line.extend_from_slice(b"\",\"replica\":\"");
        line.extend_from_slice(self.replica.as_bytes());
        line.push(b'"');
        if let Some(cut) = self.cut {
            line.extend_from_slice(b",\"cut\":");
            number(&mut line, cut);
        }
        line.extend_from_slice(b",\"generation\":");
        number(&mut line, self.generation);
        line.extend_from_slice(b",\"order\":\"");
        base64(&mut line, &self.order);
        line.extend_from_slice(b"\",\"heads\":[");
        for (index, head) in self.heads.iter().enumerate() {
            line.extend_from_slice(if index == 0 { b"{\"chain\":\"" } else { b",{\"chain\":\"" });
            line.extend_from_slice(head.chain.as_bytes());
            line.extend_from_slice(b"\",\"seq\":");
            number(&mut line, head.seq);
            line.extend_from_slice(b",\"hash\":\"");
            base64(&mut line, &head.hash);
            line.extend_from_slice(b"\"}");
        }
        line.extend_from_slice(b"],\"key\":\"");
        base64(&mut line, &signer.public.0);
        line.push(b'"');
        let signature = signer.pair.sign(&line);
        line.extend_from_slice(SIGNATURE_START);
        line.extend_from_slice(to_text(signature.as_ref()).as_bytes());
        line.extend_from_slice(SIGNATURE_END);
        Anchor::parse(&line)
    }
}

/// The signed part of a line, and the signature over it. The signature has one spelling only, so that
/// no byte of the line can change unseen.
fn split(line: &[u8]) -> Option<(&[u8], [u8; 64])> {
    let rest = line.strip_suffix(SIGNATURE_END)?;
    let (rest, signature) = rest.split_at_checked(rest.len().checked_sub(86)?)?;
    let signed = rest.strip_suffix(SIGNATURE_START)?;
    Some((signed, from_text(std::str::from_utf8(signature).ok()?)?))
}
