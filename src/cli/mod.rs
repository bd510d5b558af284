//! Not built yet.

pub mod check;
pub mod init;
