//! What comes back from the vendor carries neither the credential nor a way around relay.
//!
//! [`coding`] refuses what cannot be read, [`head`] drops fields that are not the app's and overwrites
//! the credential in the others, [`links`] keeps references inside relay. [`passage`] does the same to a
//! stream of text, by the forms that [`forms`] knows: `runs` is the cheap filter in front, `exact` and
//! `find` search, `escape` reads escaped texts, [`content`] says which escapes there can be. [`body`] feeds
//! it a body as it comes, or message by message; [`packed`] a decoded copy of a compressed one, by the
//! decoders in `decode`. `ahead` and `validators` keep what vouches for the bytes true.
//! [`json`] keeps a body's references inside, and `tunnel` does all this to WebSockets. Order on a head:
//! `coding`, then [`head::strip`], then [`head::scrub_head`], then [`links::rewrite`]: a reference that held
//! the credential then has spaces in it, and inside the integration it is dropped, not followed.
//!
//! What must never enter: a decision that depends on part of a credential. Only whole forms count;
//! everything that the app can observe before a whole form stands in the answer depends on lengths.

mod ahead;
mod answer;
pub mod body;
pub mod coding;
pub mod content;
mod decode;
mod escape;
mod exact;
mod find;
pub mod forms;
mod handshake;
pub mod head;
pub mod json;
pub mod links;
mod messages;
pub mod packed;
pub mod passage;
mod passed;
mod reference;
mod runs;
mod tunnel;
mod validators;
mod websocket;

use crate::refusal::{Code, Refusal};

pub use answer::{Surroundings, scrub};
pub use passed::Passed;
pub use tunnel::Tunnel;

impl From<coding::Unacceptable> for Refusal {
    fn from(cause: coding::Unacceptable) -> Self {
        let detail = match cause {
            coding::Unacceptable::Partial => {
                "The vendor answered with a part, or about parts, although the whole was asked for; `ranges` opens that"
            }
            _ => "The vendor's answer is encoded in a way that relay cannot read",
        };
        Self::new(Code::ResponseRefused, detail).because(cause.to_string())
    }
}

impl From<links::LinkRefused> for Refusal {
    fn from(cause: links::LinkRefused) -> Self {
        Self::new(Code::ResponseRefused, "The vendor's redirect is not passed on: it leads out of this integration, or it is unclear where to")
            .because(cause.to_string())
    }
}
