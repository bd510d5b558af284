//! What comes back from the vendor carries neither the credential nor a way around relay.
//!
//! [`coding`] refuses what cannot be read, [`head`] drops fields that are not the app's and overwrites
//! the credential in the others, [`links`] keeps references inside relay, [`body`] does the same to the
//! stream, by the forms that [`forms`] knows and `find` looks for; [`json`] keeps a body's references inside,
//! and `tunnel` does all this to WebSockets. Order on a head: `coding`, then
//! [`head::strip`], then [`head::scrub_head`], then [`links::rewrite`]: a reference that held the
//! credential then has spaces in it, and inside the integration it is dropped, not followed.
//!
//! What must never enter: a decision that depends on part of a credential. Only whole forms count;
//! everything that the app can observe before a whole form stands in the answer depends on lengths.

mod answer;
pub mod body;
pub mod coding;
mod find;
pub mod forms;
mod handshake;
pub mod head;
pub mod json;
pub mod links;
pub mod passage;
mod reference;
mod tunnel;
mod websocket;

use crate::refusal::{Code, Refusal};

pub use answer::{Passed, Surroundings, scrub};
pub use tunnel::Tunnel;

impl From<coding::Unacceptable> for Refusal {
    fn from(cause: coding::Unacceptable) -> Self {
        Self::new(Code::ResponseRefused, "The vendor's answer is encoded in a way that relay cannot read")
            .because(cause.to_string())
    }
}

impl From<links::LinkRefused> for Refusal {
    fn from(cause: links::LinkRefused) -> Self {
        Self::new(Code::ResponseRefused, "The vendor's redirect is not passed on: it leads out of this integration, or it is unclear where to")
            .because(cause.to_string())
    }
}
