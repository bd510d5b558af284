//! What every provider of KMS keys does, as relay needs it: one suite, run over each of them.
//!
//! [`conformance!`] makes a module with a test per case. A provider whose protocol knows no context says so,
//! and is held to what relay's own envelope promises in its place.

use std::any::Any;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use relay::kms::keyring::Keyring;
use relay::kms::local::Local;
use relay::kms::{KeyContext, Kms, KmsError, Shown};
use relay::model::{Customer, DataKeyId};
use relay::secret::Secret;
use tokio::runtime::Runtime;

/// One provider under test.
pub struct Subject {
    pub runtime: Runtime,
    pub kms: Arc<dyn Kms>,
    /// Another KMS key of the same provider.
    pub other: Arc<dyn Kms>,
    /// Whether the provider itself refuses a wrong context.
    pub binds: bool,
    /// Whether it answers "no" where others say that this is nothing of theirs.
    pub denies_what_is_not_its_own: bool,
    /// The service behind it, kept until the test is done.
    #[allow(dead_code, reason = "dropped last")]
    pub service: Box<dyn Any>,
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub fn acme() -> Customer {
    Customer::parse("acme \u{2603} \"quoted\"").unwrap()
}

pub fn context(customer: &Customer, id: DataKeyId) -> KeyContext<'_> {
    KeyContext { customer, id, shown: customer.as_str() }
}

/// A data key that is like no other's.
pub fn data_key() -> Secret {
    Secret::filled(32, |out| {
        aws_lc_rs::rand::fill(out).unwrap();
        Ok::<(), KmsError>(())
    })
    .unwrap()
}

fn ring(kms: &Arc<dyn Kms>, earlier: &[&Arc<dyn Kms>]) -> Keyring {
    Keyring::new(kms.clone(), earlier.iter().map(|kms| Arc::clone(kms)), Shown::Name)
}

#[track_caller]
pub fn broken<T>(result: Result<T, KmsError>, mistake: &str) {
    match result.map(drop) {
        Ok(()) => panic!("{mistake}: it opened"),
        Err(KmsError::Broken(_)) => {}
        Err(other) => panic!("{mistake}: {other}"),
    }
}

/// A test per case for the provider that `$subject` makes.
macro_rules! conformance {
    ($subject:expr) => {
        $crate::conformance_cases!(
            $subject,
            a_wrapped_key_opens_to_itself,
            a_generated_key_is_new_every_time_and_opens_to_itself,
            another_customers_context_or_another_id_opens_nothing,
            a_record_that_was_moved_opens_nothing,
            what_another_kms_key_wrapped_is_not_opened,
            a_bit_flipped_anywhere_opens_no_other_key_and_is_no_denial,
            a_new_version_wraps_from_then_on_and_the_old_still_opens,
            keys_move_to_it_from_another_provider_and_back,
            garbage_of_any_length_is_refused_without_a_panic
        );
    };
}

#[macro_export]
macro_rules! conformance_cases {
    ($subject:expr, $($case:ident),+) => {
        $(
            #[test]
            fn $case() {
                let subject = $subject;
                super::conformance::$case(&subject);
            }
        )+
    };
}

pub(crate) use conformance;

pub fn a_wrapped_key_opens_to_itself(subject: &Subject) {
    let (customer, id, key) = (acme(), DataKeyId::random(), data_key());
    subject.runtime.block_on(async {
        let wrapped = subject.kms.wrap(context(&customer, id), &key).await.unwrap();
        assert!(!wrapped.windows(32).any(|part| key.equals(part)), "the key stands in what wraps it");
        let opened = subject.kms.unwrap(context(&customer, id), &wrapped).await.unwrap();
        assert!(opened.equals(key.expose()));
        let again = subject.kms.wrap(context(&customer, id), &key).await.unwrap();
        assert_ne!(wrapped, again, "wrapping is not random");
    });
}

pub fn a_generated_key_is_new_every_time_and_opens_to_itself(subject: &Subject) {
    let (customer, ring) = (acme(), ring(&subject.kms, &[]));
    subject.runtime.block_on(async {
        let mut seen: Vec<Secret> = Vec::new();
        for _ in 0..3 {
            let id = DataKeyId::random();
            let (key, record) = ring.generate(&customer, id).await.unwrap();
            assert!(ring.unwrap(&customer, id, &record).await.unwrap().equals(key.expose()));
            assert!(!seen.iter().any(|other| other.equals(key.expose())), "the same key twice");
            let by = ring.wrapped_by(&record).unwrap();
            assert_eq!((by.place, by.provider, by.key), (0, subject.kms.provider(), subject.kms.key()));
            seen.push(key);
        }
        // A store-wide key's context is longer than any customer's, and its id is nought.
        let (name, id) = (Customer::store_wide("audit-key"), DataKeyId::from_bytes([0; 16]));
        let (key, record) = ring.generate(&name, id).await.unwrap();
        assert!(ring.unwrap(&name, id, &record).await.unwrap().equals(key.expose()));
    });
}

pub fn another_customers_context_or_another_id_opens_nothing(subject: &Subject) {
    if !subject.binds {
        return a_record_that_was_moved_opens_nothing(subject);
    }
    let (customer, id, key) = (acme(), DataKeyId::random(), data_key());
    let (other, other_id) = (Customer::parse("globex").unwrap(), DataKeyId::random());
    // A name and an id that together read as another name and id.
    let joined = Customer::parse(&format!("{}{}", customer.as_str(), &id.to_string()[..1])).unwrap();
    subject.runtime.block_on(async {
        let wrapped = subject.kms.wrap(context(&customer, id), &key).await.unwrap();
        let rows = [
            ("another customer", context(&other, id)),
            ("another id", context(&customer, other_id)),
            ("both", context(&other, other_id)),
            ("a longer name", context(&joined, id)),
        ];
        for (mistake, wrong) in rows {
            broken(subject.kms.unwrap(wrong, &wrapped).await, mistake);
            broken(subject.kms.rewrap(wrong, &wrapped).await, mistake);
        }
    });
}

pub fn a_record_that_was_moved_opens_nothing(subject: &Subject) {
    let (customer, id) = (acme(), DataKeyId::random());
    let (other, other_id) = (Customer::parse("globex").unwrap(), DataKeyId::random());
    let rings = [ring(&subject.kms, &[]), Keyring::new(subject.kms.clone(), [], Shown::Hash)];
    subject.runtime.block_on(async {
        for ring in rings {
            let (_, record) = ring.generate(&customer, id).await.unwrap();
            broken(ring.unwrap(&other, id, &record).await, "moved to another customer");
            broken(ring.unwrap(&customer, other_id, &record).await, "moved to another data key");
            // A rewrap inside the KMS must not heal what was moved.
            if let Ok(again) = ring.rewrap(&other, id, &record).await {
                broken(ring.unwrap(&other, id, &again).await, "moved, then wrapped again");
            }
            ring.unwrap(&customer, id, &record).await.map(drop).unwrap();
        }
    });
}

pub fn what_another_kms_key_wrapped_is_not_opened(subject: &Subject) {
    let (customer, id, key) = (acme(), DataKeyId::random(), data_key());
    assert!(!subject.kms.answers_to(&subject.other.key()));
    subject.runtime.block_on(async {
        let wrapped = subject.other.wrap(context(&customer, id), &key).await.unwrap();
        let refused = subject.kms.unwrap(context(&customer, id), &wrapped).await;
        if !(subject.denies_what_is_not_its_own && matches!(refused, Err(KmsError::Denied(_)))) {
            broken(refused, "another KMS key's blob");
        }
        let (own, others) = (ring(&subject.kms, &[]), ring(&subject.other, &[]));
        let (key, record) = others.generate(&customer, id).await.unwrap();
        broken(own.unwrap(&customer, id, &record).await, "a KMS key that [keys] does not name");
        broken(own.rewrap(&customer, id, &record).await, "a KMS key that [keys] does not name");
        let both = ring(&subject.kms, &[&subject.other]);
        assert!(both.unwrap(&customer, id, &record).await.unwrap().equals(key.expose()));
        let moved = both.rewrap(&customer, id, &record).await.unwrap();
        assert_eq!((both.wrapped_by(&record).unwrap().place, both.wrapped_by(&moved).unwrap().place), (1, 0));
        assert!(own.unwrap(&customer, id, &moved).await.unwrap().equals(key.expose()));
    });
}

pub fn a_bit_flipped_anywhere_opens_no_other_key_and_is_no_denial(subject: &Subject) {
    let (customer, id, key) = (acme(), DataKeyId::random(), data_key());
    subject.runtime.block_on(async {
        let wrapped = subject.kms.wrap(context(&customer, id), &key).await.unwrap();
        let (coded, mut refused) = (STANDARD.encode(key.expose()), 0);
        for at in (0..wrapped.len()).step_by(3).chain(wrapped.len() - 4..wrapped.len()) {
            let mut bent = wrapped.clone();
            bent[at] ^= 1 << (at % 7);
            match subject.kms.unwrap(context(&customer, id), &bent).await {
                Ok(opened) => assert!(opened.equals(key.expose()), "byte {at} makes another key"),
                Err(KmsError::Broken(why)) => {
                    assert!(!why.contains(&coded), "the key stands in the error");
                    refused += 1;
                }
                Err(KmsError::Denied(_)) if subject.denies_what_is_not_its_own => refused += 1,
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
        assert!(refused >= 8, "only {refused} were refused");
    });
}

pub fn a_new_version_wraps_from_then_on_and_the_old_still_opens(subject: &Subject) {
    let (customer, id, kms) = (acme(), DataKeyId::random(), &subject.kms);
    subject.runtime.block_on(async {
        let ring = ring(kms, &[]);
        let (key, old) = ring.generate(&customer, id).await.unwrap();
        let before = (ring.wrapped_by(&old).unwrap().version, kms.newest().await.unwrap());
        kms.new_version().await.unwrap();
        assert!(ring.unwrap(&customer, id, &old).await.unwrap().equals(key.expose()), "the old one is lost");
        let new = ring.rewrap(&customer, id, &old).await.unwrap();
        assert!(ring.unwrap(&customer, id, &new).await.unwrap().equals(key.expose()));
        assert_ne!(old, new);
        let after = (ring.wrapped_by(&new).unwrap().version, kms.newest().await.unwrap());
        // Where versions are told, they tell the truth.
        for (before, after) in [(before.0, after.0.clone()), (before.1, after.1.clone())] {
            assert!(before.is_none() || before != after, "the version stayed {before:?}");
        }
        assert!(after.0.is_none() || after.1.is_none() || after.0 == after.1, "{after:?}");
        // Twice is harmless.
        let again = ring.rewrap(&customer, id, &new).await.unwrap();
        assert!(ring.unwrap(&customer, id, &again).await.unwrap().equals(key.expose()));
    });
}

pub fn keys_move_to_it_from_another_provider_and_back(subject: &Subject) {
    let (customer, id) = (acme(), DataKeyId::random());
    let local: Arc<dyn Kms> = Arc::new(Local::ephemeral());
    subject.runtime.block_on(async {
        for (from, to) in [(&local, &subject.kms), (&subject.kms, &local)] {
            let (old, both, new) = (ring(from, &[]), ring(to, &[from]), ring(to, &[]));
            let (key, record) = old.generate(&customer, id).await.unwrap();
            assert!(both.unwrap(&customer, id, &record).await.unwrap().equals(key.expose()));
            let moved = both.rewrap(&customer, id, &record).await.unwrap();
            assert!(new.unwrap(&customer, id, &moved).await.unwrap().equals(key.expose()));
            assert_eq!(both.wrapped_by(&moved).unwrap().place, 0);
            broken(old.unwrap(&customer, id, &moved).await, "it was moved away");
            let other = Customer::parse("globex").unwrap();
            broken(
                both.rewrap(&other, id, &record).await,
                "moved to another customer, then to this provider",
            );
        }
    });
}

pub fn garbage_of_any_length_is_refused_without_a_panic(subject: &Subject) {
    let (customer, id) = (acme(), DataKeyId::random());
    let mut noise = vec![0; 300];
    aws_lc_rs::rand::fill(&mut noise).unwrap();
    let like_ours = [&[1, 0][..], &noise].concat();
    let garbage: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("one byte", vec![1]),
        ("a length behind which nothing stands", vec![1, 255]),
        ("noughts", vec![0; 100]),
        ("ones", vec![255; 100]),
        ("noise", noise),
        ("noise that begins as ours does", like_ours),
        ("text", b"vault:v1:not base64".to_vec()),
        ("a version beyond all", b"vault:v99999999999999999999:AAAA".to_vec()),
        (
            "a version that was never",
            b"vault:v77:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_vec(),
        ),
        ("64 KiB", [&[1, 0][..], &vec![7; 65536]].concat()),
        ("1 MiB", vec![1; 1 << 20]),
        ("1 MiB of text", [b"vault:v1:".to_vec(), vec![b'A'; 1 << 20]].concat()),
    ];
    subject.runtime.block_on(async {
        for (what, bytes) in garbage {
            broken(subject.kms.unwrap(context(&customer, id), &bytes).await, what);
            broken(subject.kms.rewrap(context(&customer, id), &bytes).await, what);
            let _ = subject.kms.version(&bytes);
            let ring = ring(&subject.kms, &[]);
            broken(ring.unwrap(&customer, id, &bytes).await, what);
            let _ = ring.wrapped_by(&bytes);
        }
    });
}
