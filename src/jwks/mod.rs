//! Issuers' keys: which key may have signed a caller's token, and how that is kept true.
//!
//! `set` is one key set as it was read, `source` where it is read from, `follow` when, and `current` what
//! requests see of it. All reading is off the request path. Which algorithms count comes from configuration;
//! a token's header only picks among keys. What must never enter: a symmetric or private key inside a JWKS
//! (whoever reads the document could mint), a decision about claims.

mod current;
mod follow;
mod set;
mod source;
mod times;

pub use current::{Generation, IssuerKeys, IssuerState, Standing};
pub use follow::{News, Told, follow};
pub use set::{Algorithm, JwksError, KeySet, LARGEST_DOCUMENT};
pub use source::{Address, Bearer, Loaded, Source, SourceError};
pub use times::Times;
