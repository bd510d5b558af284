//! What a head says beside the binding: a base path of the customer's own, and the secret's own limits.
//!
//! It stands in the head's `policy` bytes, under the head's code. Nothing at all stands for neither, which is
//! what every head had before there was either. What must never enter: a member that this relay does not know,
//! because it may be a limit.

use serde::{Deserialize, Serialize};

use super::EnvelopeError;
use super::wire::FORMAT;
use crate::model::Policy;

/// The longest that they may be as they stand in a head, in bytes.
pub const LONGEST_TERMS: usize = 4096;

/// The terms that a secret is used on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The path below which everything stays, where it is the customer's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_path: Option<String>,
    /// The secret's own limits.
    #[serde(default, skip_serializing_if = "Policy::is_empty")]
    pub policy: Policy,
}

impl Terms {
    /// Reads a head's `policy` bytes.
    ///
    /// # Errors
    /// `UnknownFormat`, `Damaged`.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        match bytes.split_first() {
            None => Ok(Self::default()),
            Some((&FORMAT, text)) => {
                serde_json::from_slice(text).map_err(|_| EnvelopeError::Damaged("its terms are unclear"))
            }
            Some((&other, _)) => Err(EnvelopeError::UnknownFormat(other)),
        }
    }

    /// As they stand in a head's `policy`.
    ///
    /// # Errors
    /// `Damaged` for terms that are too long.
    pub fn encode(&self) -> Result<Vec<u8>, EnvelopeError> {
        if *self == Self::default() {
            return Ok(Vec::new());
        }
        let text = serde_json::to_vec(self).map_err(|_| EnvelopeError::Library)?;
        if text.len() >= LONGEST_TERMS {
            return Err(EnvelopeError::Damaged("its terms are over 4 KiB"));
        }
        let mut out = Vec::with_capacity(1 + text.len());
        out.push(FORMAT);
        out.extend_from_slice(&text);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_come_back_and_nothing_unknown_is_taken_for_none() {
        let policy = Policy { rate: Some(5), deny: vec!["* /x/**".to_owned()], ..Policy::default() };
        for terms in [
            Terms::default(),
            Terms { base_path: Some("/a/b".to_owned()), policy: Policy::default() },
            Terms { base_path: None, policy },
        ] {
            assert_eq!(Terms::decode(&terms.encode().unwrap()), Ok(terms));
        }
        assert_eq!(Terms::default().encode(), Ok(Vec::new()), "as in every head of an older relay");
        for (bytes, mistake) in [
            (&b"\x02{}"[..], "another format"),
            (b"\x01{\"quota\":1}", "a limit of a later relay"),
            (b"\x01{\"policy\":{\"quota\":1}}", "one further inside"),
            (b"\x01{", "cut"),
        ] {
            assert!(Terms::decode(bytes).is_err(), "{mistake}");
        }
        let long = Terms { base_path: Some("a".repeat(LONGEST_TERMS)), policy: Policy::default() };
        assert!(long.encode().is_err());
    }
}
