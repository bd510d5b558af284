//! The way out: resolve, vet, dial, verified TLS, the pool.
//!
//! Only [`pool`] hands out connections, and only to addresses that [`vet`] let pass; the name is resolved
//! once per dial and exactly the vetted addresses are dialled. Proxy variables are not read. A connection is
//! lent as a [`line::Line`], carries one request, and comes back by itself when both [`body`]s ended cleanly.
//! What must never enter: a credential's type, configuration types, a decision about who may call.

pub mod body;
pub mod channel;
mod demand;
pub mod dial;
mod failure;
pub mod fetch;
pub mod identity;
pub mod line;
pub mod otlp;
mod patience;
pub mod pool;
pub mod resolve;
pub mod spans;
mod stream;
pub mod tls;
mod trunk;
pub mod upstream;
pub mod vet;
mod wire;
