//! Google Cloud KMS: checksums, versions, and what each of its answers means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::kms::cached::BUDGET;
use relay::kms::gcp::Gcp;
use relay::kms::{KeyContext, Kms, KmsError};
use relay::model::{Customer, DataKeyId};
use relay::secret::Secret;

use super::conformance::{Subject, conformance, runtime};
use crate::rig::clouds::gcp::{self, Google, KEY, Lie, OTHER_KEY};
use crate::rig::clouds::{Fake, Trouble};

conformance!({
    let (runtime, (fake, _)) = (runtime(), gcp::start());
    let open = |key: &str| -> Arc<dyn Kms> {
        Arc::new(runtime.block_on(Gcp::connect(key, Some(&endpoint(&fake)))).unwrap())
    };
    let (kms, other) = (open(KEY), open(OTHER_KEY));
    Subject { runtime, kms, other, binds: true, denies_what_is_not_its_own: false, service: Box::new(fake) }
});

async fn connected() -> (Fake, Arc<Google>, Gcp) {
    let (fake, google) = gcp::start();
    let kms = Gcp::connect(KEY, Some(&endpoint(&fake))).await.unwrap();
    (fake, google, kms)
}

fn endpoint(fake: &Fake) -> String {
    format!("http://{}", fake.address)
}

fn acme() -> Customer {
    Customer::parse("acme").unwrap()
}

fn context(customer: &Customer) -> KeyContext<'_> {
    KeyContext { customer, id: DataKeyId::from_bytes([7; 16]), shown: customer.as_str() }
}

/// What kind of error it is, by its first letter.
fn kind<T>(outcome: &Result<T, KmsError>) -> char {
    match outcome {
        Ok(_) => 'o',
        Err(KmsError::Unavailable(_)) => 'u',
        Err(KmsError::Denied(_)) => 'd',
        Err(KmsError::Broken(_)) => 'b',
    }
}

#[tokio::test]
async fn google_itself_refuses_a_wrapped_key_that_was_moved() {
    let (fake, _, kms) = connected().await;
    let customer = acme();
    let (key, wrapped) = kms.generate(context(&customer)).await.unwrap();
    assert!(kms.unwrap(context(&customer), &wrapped).await.unwrap().equals(key.expose()));
    let moved = KeyContext { shown: "globex", ..context(&customer) };
    assert_eq!(kind(&kms.unwrap(moved, &wrapped).await), 'b', "another customer");
    let moved = KeyContext { id: DataKeyId::from_bytes([8; 16]), ..context(&customer) };
    assert_eq!(kind(&kms.unwrap(moved, &wrapped).await), 'b', "another data key");
    let other = Gcp::connect(OTHER_KEY, Some(&endpoint(&fake))).await.unwrap();
    assert_eq!(kind(&other.unwrap(context(&customer), &wrapped).await), 'b', "another KMS key");
    assert_eq!((fake.calls("encrypt"), fake.calls("decrypt")), (1, 4), "no refusal was asked for twice");
}

#[tokio::test]
async fn an_answer_that_was_damaged_on_its_way_gives_no_key() {
    let (fake, google, kms) = connected().await;
    let customer = acme();
    let (_, wrapped) = kms.generate(context(&customer)).await.unwrap();
    let key = Secret::new(vec![9; 32]);
    // Tried once more where that may help; a wrong name is no damage.
    for (lie, calls) in [
        (Lie::CiphertextSum, 2),
        (Lie::NoCiphertextSum, 2),
        (Lie::PlaintextUnverified, 2),
        (Lie::AssociatedUnverified, 2),
        (Lie::Received, 2),
        (Lie::OtherKey, 1),
        (Lie::Redirect, 1),
        (Lie::Garbage, 1),
    ] {
        google.lie(lie);
        let before = fake.all_calls();
        let outcome = kms.wrap(context(&customer), &key).await;
        assert_eq!((kind(&outcome), fake.all_calls() - before), ('u', calls), "wrap: {lie:?}: {outcome:?}");
    }
    for (lie, calls) in [
        (Lie::PlaintextSum, 2),
        (Lie::NoPlaintextSum, 2),
        (Lie::Received, 2),
        (Lie::Redirect, 1),
        (Lie::Garbage, 1),
    ] {
        google.lie(lie);
        let before = fake.all_calls();
        let outcome = kms.unwrap(context(&customer), &wrapped).await;
        assert_eq!((kind(&outcome), fake.all_calls() - before), ('u', calls), "unwrap: {lie:?}");
    }
    google.lie(Lie::None);
    assert_eq!(kind(&kms.unwrap(context(&customer), &wrapped).await), 'o');
}

#[tokio::test]
async fn each_trouble_of_google_is_an_outage_or_a_denial_and_is_known_in_time() {
    let (fake, _, kms) = connected().await;
    let customer = acme();
    let (key, wrapped) = kms.generate(context(&customer)).await.unwrap();
    for (trouble, wanted, most) in [
        (Trouble::Throttled, 'u', 1),
        (Trouble::Broken, 'u', 2),
        (Trouble::Denied, 'd', 1),
        (Trouble::Disabled, 'd', 1),
        (Trouble::BlackHole, 'u', 1),
        (Trouble::Refuse, 'u', 0),
    ] {
        fake.trouble(trouble);
        for verb in ["encrypt", "decrypt"] {
            let (before, begun) = (fake.calls(verb), Instant::now());
            let outcome = match verb {
                "encrypt" => kms.wrap(context(&customer), &key).await.map(drop),
                _ => kms.unwrap(context(&customer), &wrapped).await.map(drop),
            };
            assert_eq!(kind(&outcome), wanted, "{verb}, {trouble:?}: {outcome:?}");
            assert!(begun.elapsed() < BUDGET, "{verb}, {trouble:?}: the caller gave up first");
            assert!(fake.calls(verb) - before <= most, "{verb}, {trouble:?}: asked too often");
        }
        fake.trouble(Trouble::None);
        let again = kms.unwrap(context(&customer), &wrapped).await;
        assert_eq!(kind(&again), 'o', "after {trouble:?}: {:?}", again.err());
    }
}

#[tokio::test]
async fn a_failure_in_passing_is_no_failure() {
    let (fake, google, kms) = connected().await;
    let customer = acme();
    google.lie(Lie::CiphertextSum);
    let call = kms.generate(context(&customer));
    let (outcome, ()) = tokio::join!(call, async {
        while fake.calls("encrypt") == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        google.lie(Lie::None);
    });
    assert_eq!((kind(&outcome), fake.calls("encrypt")), ('o', 2));
}

#[tokio::test]
async fn a_new_version_wraps_and_the_old_ones_open_until_they_are_disabled() {
    let (fake, google, kms) = connected().await;
    let customer = acme();
    let (key, first) = kms.generate(context(&customer)).await.unwrap();
    assert_eq!(
        (kms.version(&first).as_deref(), kms.newest().await.unwrap().as_deref()),
        (Some("1"), Some("1"))
    );

    kms.new_version().await.unwrap();
    assert_eq!(kms.newest().await.unwrap().as_deref(), Some("2"));
    let second = kms.rewrap(context(&customer), &first).await.unwrap();
    assert_eq!(kms.version(&second).as_deref(), Some("2"));
    assert!(kms.unwrap(context(&customer), &second).await.unwrap().equals(key.expose()));

    google.enable(1, false);
    let outcome = kms.unwrap(context(&customer), &first).await;
    assert_eq!(kind(&outcome), 'd', "a disabled version: {:?}", outcome.err());
    assert_eq!(kind(&kms.unwrap(context(&customer), &second).await), 'o');
    google.enable(1, true);
    assert_eq!(kind(&kms.unwrap(context(&customer), &first).await), 'o');
    google.enable(2, false);
    assert_eq!(kind(&kms.wrap(context(&customer), &key).await), 'd', "the primary version is disabled");
    assert_eq!(fake.calls("encrypt"), 4, "once as the version that was made, once as the primary one");
    assert_eq!(fake.calls("createVersion"), 1);
}

/// Google: "Encrypt operations for a CryptoKey might use the CryptoKey's previous primary version".
#[tokio::test]
async fn nothing_is_wrapped_under_the_old_version_while_google_still_would() {
    let (_fake, google, kms) = connected().await;
    let customer = acme();
    let (key, first) = kms.generate(context(&customer)).await.unwrap();
    google.lag(true);
    kms.new_version().await.unwrap();
    let second = kms.rewrap(context(&customer), &first).await.unwrap();
    assert_eq!(kms.version(&second).as_deref(), Some("2"), "it would be lost with version 1");
    google.enable(1, false);
    assert!(kms.unwrap(context(&customer), &second).await.unwrap().equals(key.expose()));
    google.enable(1, true);
    google.enable(2, false);
    let third = kms.wrap(context(&customer), &key).await.unwrap();
    assert_eq!(
        kms.version(&third).as_deref(),
        Some("1"),
        "an operator who disables the new one gets the key's own"
    );
}

#[tokio::test]
async fn a_version_that_an_hsm_still_makes_becomes_primary_when_it_is_there() {
    let (fake, google, kms) = connected().await;
    google.slow_versions(2);
    kms.new_version().await.unwrap();
    assert_eq!(kms.newest().await.unwrap().as_deref(), Some("2"));
    assert_eq!((fake.calls("createVersion"), fake.calls("getVersion")), (1, 2));
}

#[tokio::test]
async fn a_new_version_is_never_asked_for_twice() {
    let (fake, _, kms) = connected().await;
    fake.trouble(Trouble::Broken);
    assert_eq!(kind(&kms.new_version().await), 'u');
    assert_eq!(fake.calls("createVersion"), 1);
}

#[tokio::test]
async fn no_change_of_a_wrapped_key_opens_but_of_the_version_that_is_only_shown() {
    let (_fake, _, kms) = connected().await;
    let customer = acme();
    let (key, wrapped) = kms.generate(context(&customer)).await.unwrap();
    // `1 | 1 | "1"` stands before what Google wrapped.
    const SHOWN: usize = 2;
    for bit in 0..wrapped.len() * 8 {
        let mut other = wrapped.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        match kms.unwrap(context(&customer), &other).await {
            Ok(opened) => assert!(bit / 8 == SHOWN && opened.equals(key.expose()), "bit {bit} opened"),
            outcome => assert_eq!(kind(&outcome), 'b', "bit {bit}: {:?}", outcome.err()),
        }
    }
    for len in 0..wrapped.len() {
        assert_eq!(kind(&kms.unwrap(context(&customer), &wrapped[..len]).await), 'b', "cut to {len}");
    }
}
