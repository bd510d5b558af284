//! The way out: resolve, vet, dial, verified TLS, the pool.
//!
//! Only [`pool`] hands out connections, and only to addresses that [`vet`] let pass; the name is resolved
//! once per dial and exactly the vetted addresses are dialled. Proxy variables are not read. What must
//! never enter: a credential's type, configuration types, a decision about who may call.

pub mod dial;
pub mod fetch;
pub mod pool;
pub mod resolve;
pub mod tls;
pub mod vet;
