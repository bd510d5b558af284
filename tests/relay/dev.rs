//! `relay dev`, its built-in vendor, `relay env` and `relay token`.
#![allow(clippy::indexing_slicing)]

mod session;
mod state;
mod token;
mod vendor;
mod wire;
