//! Every provider of KMS keys does the same, and what is particular to one.

#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "gcp")]
mod gcp;
