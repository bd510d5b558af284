//! Every provider of KMS keys: what all of them do, and what each makes of a service that fails.

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
mod conformance;
#[cfg(feature = "gcp")]
mod gcp;

mod local {
    use std::sync::Arc;

    use relay::kms::local::Local;

    use super::conformance::{Subject, conformance, runtime};

    conformance!({
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| Arc::new(Local::create(&folder.path().join(name)).unwrap());
        Subject {
            runtime: runtime(),
            kms: open("one.key"),
            other: open("other.key"),
            binds: true,
            denies_what_is_not_its_own: false,
            service: Box::new(folder),
        }
    });
}
