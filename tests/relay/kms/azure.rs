//! Azure Key Vault: challenge and token, versions, and what each of its answers means.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use relay::kms::azure::{Azure, Login, Reach};
use relay::kms::cached::BUDGET;
use relay::kms::keyring::Keyring;
use relay::kms::{KeyContext, Kms, KmsError};
use relay::model::{Customer, DataKeyId};
use relay::secret::Secret;

use super::conformance::{Subject, conformance, runtime};
use crate::rig::clouds::azure::{
    self, CLIENT, CLIENT_SECRET, FEDERATED, HOST, KEY, OTHER_KEY, TENANT, Vault,
};
use crate::rig::clouds::{Fake, Trouble};

conformance!({
    let runtime = runtime();
    let rigged = Rigged::new();
    let secret = Secret::new(CLIENT_SECRET.into());
    let open = |key: &str| -> Arc<dyn Kms> {
        Arc::new(rigged.kms(key, Login::Secret { tenant: TENANT, client: CLIENT, secret: &secret }))
    };
    let (kms, other) = (open(KEY), open(OTHER_KEY));
    Subject {
        runtime,
        kms,
        other,
        binds: false,
        denies_what_is_not_its_own: false,
        service: Box::new(rigged),
    }
});

struct Rigged {
    fake: Fake,
    vault: Arc<Vault>,
    ca_pem: String,
}

impl Rigged {
    fn new() -> Self {
        let (fake, vault, ca_pem) = azure::start();
        Self { fake, vault, ca_pem }
    }

    fn kms(&self, key: &str, login: Login<'_>) -> Azure {
        let (vault, authority) = self.addresses();
        let roots = Some(self.ca_pem.as_bytes());
        let reach = Reach { vault: &vault, key, roots, authority: Some(&authority) };
        Azure::new(&reach, login).unwrap()
    }

    fn connected(&self) -> Azure {
        let secret = Secret::new(CLIENT_SECRET.into());
        self.kms(KEY, Login::Secret { tenant: TENANT, client: CLIENT, secret: &secret })
    }

    fn addresses(&self) -> (String, String) {
        let port = self.fake.address.port();
        (format!("https://{HOST}:{port}"), format!("https://localhost:{port}"))
    }
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

fn text<T>(outcome: Result<T, KmsError>) -> String {
    outcome.err().map(|error| error.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn one_token_serves_and_no_request_before_it_carries_the_key() {
    let rigged = Rigged::new();
    let kms = rigged.connected();
    let customer = acme();
    let (key, wrapped) = kms.generate(context(&customer)).await.unwrap();
    for _ in 0..3 {
        assert!(kms.unwrap(context(&customer), &wrapped).await.unwrap().equals(key.expose()));
    }
    let calls = ["challenge", "token", "wrapkey", "unwrapkey"].map(|verb| rigged.fake.calls(verb));
    assert_eq!(calls, [1, 1, 1, 3]);
    let other = Login::Secret { tenant: TENANT, client: CLIENT, secret: &Secret::new(CLIENT_SECRET.into()) };
    let outcome = rigged.kms(OTHER_KEY, other).unwrap(context(&customer), &wrapped).await;
    assert_eq!(kind(&outcome), 'b', "another key has no such version: {:?}", outcome.err());
}

#[tokio::test]
async fn the_token_comes_from_a_client_secret_or_from_the_file_of_the_workload() {
    let rigged = Rigged::new();
    let customer = acme();
    let folder = tempfile::tempdir().unwrap();
    let (file, missing) = (folder.path().join("token"), folder.path().join("missing"));
    std::fs::write(&file, FEDERATED).unwrap();
    let workload = |file: &'static Path| Login::Workload { tenant: TENANT, client: CLIENT, file };
    let file: &'static Path = Box::leak(file.into_boxed_path());
    let missing: &'static Path = Box::leak(missing.into_boxed_path());
    assert_eq!(kind(&rigged.kms(KEY, workload(file)).generate(context(&customer)).await), 'o');
    let (vault, authority) = rigged.addresses();
    let reach =
        Reach { vault: &vault, key: KEY, roots: Some(rigged.ca_pem.as_bytes()), authority: Some(&authority) };
    assert_eq!(kind(&Azure::new(&reach, workload(missing))), 'u', "no token file");

    let wrong = Secret::new(b"canary-wrong-client-secret".to_vec());
    let wrong = rigged.kms(KEY, Login::Secret { tenant: TENANT, client: CLIENT, secret: &wrong });
    let outcome = wrong.generate(context(&customer)).await;
    assert_eq!(kind(&outcome), 'd', "a wrong client secret");
    let said = text(outcome);
    assert!(said.contains("AADSTS7000215") && !said.contains("canary"), "{said}");
    rigged.fake.trouble(Trouble::Broken);
    assert_eq!(kind(&wrong.generate(context(&customer)).await), 'u', "the tokens' place is down");
}

#[tokio::test]
async fn a_challenge_for_another_host_gets_no_token_of_ours() {
    let rigged = Rigged::new();
    let kms = rigged.connected();
    let customer = acme();
    for resource in ["https://vault.example", "https://localhost.example", "https://t.localhost", "nonsense"]
    {
        rigged.vault.challenge_for(resource);
        let outcome = kms.generate(context(&customer)).await;
        assert!(outcome.is_err(), "{resource}");
        assert_eq!((rigged.fake.calls("token"), rigged.fake.calls("wrapkey")), (0, 0), "{resource}");
    }
    rigged.vault.challenge_for("https://vault.localhost");
    assert_eq!(kind(&kms.generate(context(&customer)).await), 'o');
}

#[tokio::test]
async fn each_trouble_of_a_vault_is_an_outage_or_a_denial_and_is_known_in_time() {
    let rigged = Rigged::new();
    let kms = rigged.connected();
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
        rigged.fake.trouble(trouble);
        for verb in ["wrapkey", "unwrapkey"] {
            let (before, begun) = (rigged.fake.calls(verb), Instant::now());
            let outcome = match verb {
                "wrapkey" => kms.wrap(context(&customer), &key).await.map(drop),
                _ => kms.unwrap(context(&customer), &wrapped).await.map(drop),
            };
            assert_eq!(kind(&outcome), wanted, "{verb}, {trouble:?}: {outcome:?}");
            assert!(begun.elapsed() < BUDGET, "{verb}, {trouble:?}: the caller gave up first");
            assert!(rigged.fake.calls(verb) - before <= most, "{verb}, {trouble:?}: asked too often");
        }
        rigged.fake.trouble(Trouble::None);
        let again = kms.unwrap(context(&customer), &wrapped).await;
        assert_eq!(kind(&again), 'o', "after {trouble:?}: {:?}", again.err());
    }
    rigged.vault.delete();
    assert_eq!(kind(&kms.unwrap(context(&customer), &wrapped).await), 'd', "the key is gone");
}

#[tokio::test]
async fn a_wrapped_key_opens_under_its_own_version_alone() {
    let rigged = Rigged::new();
    let kms = rigged.connected();
    let customer = acme();
    let (key, first) = kms.generate(context(&customer)).await.unwrap();
    assert_eq!(kms.version(&first), kms.newest().await.unwrap());
    kms.new_version().await.unwrap();
    assert_eq!(rigged.fake.calls("rotate"), 1);
    let second = kms.rewrap(context(&customer), &first).await.unwrap();
    assert_ne!(kms.version(&second), kms.version(&first));
    assert_eq!(kms.version(&second), kms.newest().await.unwrap());
    assert!(kms.unwrap(context(&customer), &second).await.unwrap().equals(key.expose()));

    rigged.vault.enable(1, false);
    assert_eq!(kind(&kms.unwrap(context(&customer), &first).await), 'd', "a disabled version");
    rigged.vault.enable(1, true);
    assert_eq!(kind(&kms.unwrap(context(&customer), &first).await), 'o');

    // 1 | 32 | the version's 32 digits | what the vault wrapped
    let mixed = [&first[..34], &second[34..]].concat();
    assert_eq!(
        kind(&kms.unwrap(context(&customer), &mixed).await),
        'b',
        "one version's blob under another's name"
    );
    let never = [&[1, 32], "0".repeat(32).as_bytes(), &first[34..]].concat();
    assert_eq!(kind(&kms.unwrap(context(&customer), &never).await), 'b', "a version that never was");
    rigged.vault.name_other_version(true);
    assert_eq!(
        kind(&kms.unwrap(context(&customer), &second).await),
        'u',
        "another version says it opened it"
    );
}

#[tokio::test]
async fn a_version_in_the_store_never_leads_to_another_path() {
    let rigged = Rigged::new();
    let kms = rigged.connected();
    let customer = acme();
    let (_, wrapped) = kms.generate(context(&customer)).await.unwrap();
    let before = rigged.fake.all_calls();
    for version in ["", "..", "../other/x", "a/b", "%2e%2e", "a?b", "a#b", "a b", "\u{e9}", &"a".repeat(65)] {
        let len = u8::try_from(version.len()).unwrap();
        let blob = [&[1, len], version.as_bytes(), &wrapped[34..]].concat();
        assert_eq!(kind(&kms.unwrap(context(&customer), &blob).await), 'b', "{version:?}");
    }
    for garbage in [&[][..], &[1], &[1, 200, 1], &[9; 40], &[2, 1, b'a', 0], &[0xff; 70_000]] {
        assert_eq!(kind(&kms.unwrap(context(&customer), garbage).await), 'b');
    }
    assert_eq!(rigged.fake.all_calls(), before, "nothing was asked");
}

#[tokio::test]
async fn a_data_key_moved_to_another_customer_is_found_by_relays_own_envelope() {
    let rigged = Rigged::new();
    let ring = Keyring::of(Arc::new(rigged.connected()));
    let (acme, globex) = (acme(), Customer::parse("globex").unwrap());
    let (id, other) = (DataKeyId::random(), DataKeyId::random());
    let (key, record) = ring.generate(&acme, id).await.unwrap();
    assert!(ring.unwrap(&acme, id, &record).await.unwrap().equals(key.expose()));
    assert_eq!(kind(&ring.unwrap(&globex, id, &record).await), 'b', "another customer");
    assert_eq!(kind(&ring.unwrap(&acme, other, &record).await), 'b', "another data key");
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let rigged = Rigged::new();
    let kms = rigged.connected();
    let customer = acme();
    let (key, _) = kms.generate(context(&customer)).await.unwrap();
    rigged.vault.redirect(true);
    let outcome = kms.wrap(context(&customer), &key).await;
    assert_eq!(kind(&outcome), 'u', "{outcome:?}");
}

#[tokio::test]
async fn only_the_given_roots_are_trusted() {
    let rigged = Rigged::new();
    let (vault, authority) = rigged.addresses();
    let secret = Secret::new(CLIENT_SECRET.into());
    let login = Login::Secret { tenant: TENANT, client: CLIENT, secret: &secret };
    let customer = acme();
    let reach = Reach { vault: &vault, key: KEY, roots: None, authority: Some(&authority) };
    let outcome = Azure::new(&reach, login).unwrap().generate(context(&customer)).await;
    assert_eq!(kind(&outcome), 'u');
    assert!(text(outcome).contains("certificate"), "the reason is told");
    let reach = Reach { roots: Some(b"no pem"), ..reach };
    assert_eq!(kind(&Azure::new(&reach, login)), 'u');
}
