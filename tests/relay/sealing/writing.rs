//! The operators' write path, over the in-memory store and a real key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use relay::config::FieldSetting;
use relay::envelope::{self, EnvelopeError, Head};
use relay::kms::cached::DataKeys;
use relay::kms::keyring::Keyring;
use relay::kms::local::Local;
use relay::kms::{self, KeyContext, Kms, KmsError};
use relay::model::{Customer, DataKeyId, FieldName, IntegrationName, Origin, Policy, SecretId, State};
use relay::seal::{NewSecret, SealError, SealTarget, Sealer};
use relay::secret::{DataKey, Secret};
use relay::store::memory::Memory;
use relay::store::{Call, Change, Expected, SecretRow, Store, StoreError, Upkeep};
use tokio::runtime::Handle;
use tokio::sync::{Barrier, broadcast};

use super::{customer, spec};

const CANARY: &str = "xoxb-canary-9f31c0de";

fn setting(name: &str, secret: bool, scrub_off_danger: bool) -> FieldSetting {
    FieldSetting {
        spec: spec(name, secret),
        label: name.to_owned(),
        help: None,
        example: None,
        scrub_off_danger,
        optional: false,
        pem: false,
        pattern: None,
    }
}

fn target(name: &str, origin: &str, fields: Vec<FieldSetting>) -> SealTarget {
    let origin = Origin::parse(origin).unwrap();
    SealTarget {
        name: IntegrationName::parse(name).unwrap(),
        origin,
        per_customer: None,
        token_origin: None,
        fields,
        client_certificate: None,
        rate: None,
        concurrency: None,
    }
}

fn targets() -> Vec<SealTarget> {
    vec![
        target("slack", "https://slack.com", vec![setting("token", true, false)]),
        target(
            "jira",
            "https://jira.example",
            vec![setting("user", false, false), setting("password", true, false)],
        ),
        target("pins", "https://pins.example", vec![setting("pin", true, true)]),
    ]
}

fn values(given: &[(&str, &str)]) -> Vec<(FieldName, Secret)> {
    given
        .iter()
        .map(|(name, value)| (FieldName::parse(name).unwrap(), Secret::new(value.as_bytes().to_vec())))
        .collect()
}

fn new(integration: &str, fields: &[(&str, &str)]) -> NewSecret {
    NewSecret {
        customer: customer("acme"),
        integration: IntegrationName::parse(integration).unwrap(),
        label: "Acme bot".to_owned(),
        fields: values(fields),
        expires_at: None,
        policy: Policy::default(),
        idempotency: None,
    }
}

fn slack() -> NewSecret {
    new("slack", &[("token", CANARY)])
}

struct Bench {
    store: Arc<dyn Store>,
    keys: Arc<DataKeys>,
    sealer: Sealer,
}

impl Bench {
    async fn over(store: Arc<dyn Store>) -> Self {
        let keys = Arc::new(DataKeys::new(Keyring::of(Arc::new(Local::ephemeral())), 100, Handle::current()));
        let sealer = Sealer::open(store.clone(), keys.clone(), targets()).await.unwrap();
        Self { store, keys, sealer }
    }

    async fn fresh() -> Self {
        Self::over(Arc::new(Memory::new())).await
    }

    async fn row(&self, owner: &Customer, id: SecretId) -> SecretRow {
        self.store.secret(owner, id).await.unwrap().unwrap()
    }

    async fn key(&self, owner: &Customer, id: DataKeyId) -> Arc<DataKey> {
        let wrapped = self.store.data_key(owner, id).await.unwrap().unwrap();
        self.keys.open(owner, id, &wrapped).await.unwrap()
    }

    /// Reads a row as the data path does: the proven head, then the values.
    async fn opened(&self, row: &SecretRow) -> Result<(Head, Vec<Vec<u8>>), EnvelopeError> {
        let key = self.key(&row.customer, Head::data_key_of(&row.head)?).await;
        let head = Head::decode(&key, &row.customer, row.id, &row.head)?;
        let fields = envelope::open(&key, &head.binding(), &row.sealed)?;
        Ok((head, fields.iter().map(|field| field.value.expose().to_vec()).collect()))
    }
}

#[tokio::test]
async fn what_was_added_is_sealed_and_opens_for_its_own_customer() {
    let bench = Bench::fresh().await;
    let told = bench.sealer.add(slack()).await.unwrap();
    let row = bench.row(&customer("acme"), told.id).await;
    for stored in [&row.head, &row.sealed] {
        assert!(!stored.windows(6).any(|part| part == b"canary"), "plaintext stands in the store");
    }
    let (head, values) = bench.opened(&row).await.unwrap();
    assert_eq!(values, [CANARY.as_bytes()]);
    assert_eq!((head.version, head.highest_version, head.changes, head.state), (1, 1, 0, State::Active));
    assert_eq!(head.origin.to_string(), "https://slack.com");
    assert_eq!(bench.sealer.show(told.id).await.unwrap(), told);
    assert_eq!(
        bench.sealer.list(&customer("acme"), None, 10).await.unwrap().secrets,
        std::slice::from_ref(&told)
    );
    assert!(bench.sealer.list(&customer("globex"), None, 10).await.unwrap().secrets.is_empty());
    assert!(bench.sealer.list(&customer("acme"), Some(told.id), 10).await.unwrap().secrets.is_empty());
}

#[tokio::test]
async fn what_is_told_of_a_secret_has_its_times_and_no_value() {
    let bench = Bench::fresh().await;
    let told = bench.sealer.add(NewSecret { expires_at: Some(4_102_444_800), ..slack() }).await.unwrap();
    let json = serde_json::to_value(&told).unwrap();
    assert!(!json.to_string().contains("canary"));
    assert_eq!(json.get("expires_at").unwrap(), "2100-01-01T00:00:00Z");
    assert_eq!(json.get("state").unwrap(), "active");
    assert_eq!(json.get("fields").unwrap(), &serde_json::json!(["token"]));
    assert_eq!(json.get("origin").unwrap(), "https://slack.com");
    assert!(json.get("created_at").unwrap().as_str().unwrap().ends_with('Z'));
    let print = json.get("fingerprint").unwrap().as_str().unwrap();
    assert!(print.len() == 16 && print.bytes().all(|b| b.is_ascii_hexdigit()), "{print}");
}

#[tokio::test]
async fn the_same_value_has_the_same_fingerprint_and_after_a_restart_too() {
    let bench = Bench::fresh().await;
    let one = bench.sealer.add(slack()).await.unwrap();
    let again = Sealer::open(bench.store.clone(), bench.keys.clone(), targets()).await.unwrap();
    let two = again.add(slack()).await.unwrap();
    let other = again.add(new("slack", &[("token", "xoxb-canary-other")])).await.unwrap();
    assert_ne!(one.id, two.id);
    assert_eq!(one.fingerprint, two.fingerprint);
    assert_ne!(one.fingerprint, other.fingerprint);
}

/// An integration, the fields given for it, the field blamed, and the mistake.
type Given<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);
type Spoil = fn(&mut NewSecret);

#[tokio::test]
async fn a_value_that_no_header_can_carry_is_refused_without_being_told() {
    let bench = Bench::fresh().await;
    let long = format!("canary{}", "a".repeat(64 * 1024));
    let rows: &[Given<'_>] = &[
        ("slack", &[("token", "canary-12\r\nhost: evil")], "token", "a line break"),
        ("slack", &[("token", "canary-12\n")], "token", "a trailing line break"),
        ("slack", &[("token", "canary\0-12345")], "token", "NUL"),
        ("slack", &[("token", "canary-\u{e9}\u{e9}\u{e9}")], "token", "not ASCII"),
        ("slack", &[("token", &long)], "token", "over 64 KiB"),
        ("slack", &[("token", "")], "token", "empty"),
        ("slack", &[("token", "canary7")], "token", "too short to scrub"),
        ("slack", &[], "token", "missing"),
        ("slack", &[("tokn", "canary-12345")], "token", "misspelt"),
        ("slack", &[("token", "canary-12345"), ("extra", "canary-12345")], "extra", "unknown"),
        ("slack", &[("token", "canary-12345"), ("token", "canary-54321")], "token", "given twice"),
        ("jira", &[("user", "bot")], "password", "the second one missing"),
    ];
    for (integration, fields, blamed, mistake) in rows {
        let error = bench.sealer.add(new(integration, fields)).await.expect_err(mistake);
        assert!(matches!(&error, SealError::Invalid { field, .. } if field == blamed), "{mistake}: {error}");
        let said = format!("{error} {error:?}");
        assert!(!said.contains("canary"), "{mistake}: {said}");
    }
    assert!(bench.sealer.list(&customer("acme"), None, 10).await.unwrap().secrets.is_empty());
    assert!(
        bench.store.active_data_key(&customer("acme")).await.unwrap().is_none(),
        "a key was made for nothing"
    );
}

#[tokio::test]
async fn short_values_are_taken_where_nothing_secret_or_nothing_scrubbed_is_short() {
    let bench = Bench::fresh().await;
    bench.sealer.add(new("jira", &[("password", "canary-12"), ("user", "bot")])).await.unwrap();
    bench.sealer.add(new("pins", &[("pin", "1234")])).await.unwrap();
}

#[tokio::test]
async fn what_stands_beside_the_values_is_checked_too() {
    let bench = Bench::fresh().await;
    let with = |change: Spoil| {
        let mut new = slack();
        change(&mut new);
        new
    };
    let rows: &[(&str, Spoil)] = &[
        ("label", |new| new.label.clear()),
        ("label", |new| new.label = "a".repeat(201)),
        ("label", |new| new.label = "a\u{1b}[31m".to_owned()),
        ("expires_at", |new| new.expires_at = Some(1_700_000_000)),
        ("idempotency key", |new| new.idempotency = Some(String::new())),
        ("idempotency key", |new| new.idempotency = Some("k".repeat(256))),
    ];
    for (blamed, change) in rows {
        let error = bench.sealer.add(with(*change)).await.expect_err(blamed);
        assert!(matches!(&error, SealError::Invalid { field, .. } if field == blamed), "{error}");
    }
    let error = bench.sealer.add(new("github", &[("token", CANARY)])).await.unwrap_err();
    assert!(matches!(error, SealError::UnknownIntegration));
}

#[tokio::test]
async fn a_disabled_secret_keeps_its_sealed_bytes_and_can_be_enabled() {
    let bench = Bench::fresh().await;
    let acme = customer("acme");
    let told = bench.sealer.add(slack()).await.unwrap();
    let before = bench.row(&acme, told.id).await;
    for (state, changes) in [(State::Disabled, 1), (State::Disabled, 1), (State::Active, 2)] {
        assert_eq!(bench.sealer.set_state(told.id, state).await.unwrap().state, state);
        let row = bench.row(&acme, told.id).await;
        assert_eq!(row.sealed, before.sealed);
        let (head, _) = bench.opened(&row).await.unwrap();
        assert_eq!((head.state, head.changes, head.version), (state, changes, 1));
    }
}

#[tokio::test]
async fn a_new_version_replaces_the_old_one_and_leaves_the_rest() {
    let bench = Bench::fresh().await;
    let acme = customer("acme");
    let told = bench.sealer.add(NewSecret { expires_at: Some(4_102_444_800), ..slack() }).await.unwrap();
    let old = bench.row(&acme, told.id).await;
    bench.sealer.set_state(told.id, State::Disabled).await.unwrap();
    let rotated =
        bench.sealer.add_version(told.id, values(&[("token", "xoxb-canary-second")])).await.unwrap();
    assert_eq!((rotated.version, rotated.state, rotated.expires_at), (2, State::Disabled, told.expires_at));
    assert_ne!(rotated.fingerprint, told.fingerprint);
    let row = bench.row(&acme, told.id).await;
    let (head, values) = bench.opened(&row).await.unwrap();
    assert_eq!(values, [b"xoxb-canary-second"]);
    assert_eq!((head.highest_version, head.changes), (2, 2));
    let mixed = SecretRow { sealed: old.sealed, ..row };
    assert_eq!(bench.opened(&mixed).await.err(), Some(EnvelopeError::NotAuthentic), "an old version opened");
}

#[tokio::test]
async fn a_new_version_is_sealed_for_the_origin_that_the_integration_has_now() {
    let bench = Bench::fresh().await;
    let told = bench.sealer.add(slack()).await.unwrap();
    let moved = vec![target("slack", "https://slack.eu", vec![setting("token", true, false)])];
    let sealer = Sealer::open(bench.store.clone(), bench.keys.clone(), moved).await.unwrap();
    assert_eq!(sealer.show(told.id).await.unwrap().origin.to_string(), "https://slack.com");
    let rotated = sealer.add_version(told.id, values(&[("token", CANARY)])).await.unwrap();
    assert_eq!(rotated.origin.to_string(), "https://slack.eu");
    let row = bench.row(&customer("acme"), told.id).await;
    assert_eq!(bench.opened(&row).await.unwrap().1, [CANARY.as_bytes()]);
}

#[tokio::test]
async fn a_removed_secret_is_gone_and_a_damaged_one_can_be_removed() {
    let bench = Bench::fresh().await;
    let told = bench.sealer.add(slack()).await.unwrap();
    let row = bench.row(&customer("acme"), told.id).await;
    let broken = SecretRow { head: Bytes::from_static(b"\x01damaged"), ..row.clone() };
    bench.store.put_secret(broken, Expected::Head(row.head)).await.unwrap();
    assert!(matches!(bench.sealer.show(told.id).await, Err(SealError::Unusable(_))));
    assert_eq!(bench.sealer.remove(told.id).await.unwrap(), customer("acme"));
    assert!(matches!(bench.sealer.remove(told.id).await, Err(SealError::NotFound)));
    assert!(matches!(bench.sealer.show(told.id).await, Err(SealError::NotFound)));
    assert!(matches!(bench.sealer.set_state(told.id, State::Active).await, Err(SealError::NotFound)));
    let version = bench.sealer.add_version(told.id, values(&[("token", CANARY)])).await;
    assert!(matches!(version, Err(SealError::NotFound)));
}

#[tokio::test]
async fn a_row_moved_to_another_customer_or_id_does_not_open() {
    let bench = Bench::fresh().await;
    let told = bench.sealer.add(slack()).await.unwrap();
    let theirs = bench.sealer.add(NewSecret { customer: customer("globex"), ..slack() }).await.unwrap();
    let row = bench.row(&customer("acme"), told.id).await;
    let other = bench.row(&customer("globex"), theirs.id).await;
    let moved = |customer, id| SecretRow { customer, id, ..row.clone() };
    let elsewhere = SecretId::random();
    bench.store.put_secret(moved(customer("acme"), elsewhere), Expected::Absent).await.unwrap();
    bench.store.put_secret(moved(customer("globex"), theirs.id), Expected::Head(other.head)).await.unwrap();
    for id in [elsewhere, theirs.id] {
        assert!(matches!(bench.sealer.show(id).await, Err(SealError::Unusable(_))), "{id} opened");
    }
}

#[tokio::test]
async fn a_row_that_points_at_another_version_than_its_head_is_refused() {
    let bench = Bench::fresh().await;
    let told = bench.sealer.add(slack()).await.unwrap();
    let row = bench.row(&customer("acme"), told.id).await;
    let expected = Expected::Head(row.head.clone());
    bench.store.put_secret(SecretRow { version: 2, ..row }, expected).await.unwrap();
    assert!(matches!(bench.sealer.set_state(told.id, State::Disabled).await, Err(SealError::Unusable(_))));
}

#[tokio::test]
async fn the_wrong_key_file_is_told_at_start() {
    let bench = Bench::fresh().await;
    let other = Arc::new(DataKeys::new(Keyring::of(Arc::new(Local::ephemeral())), 100, Handle::current()));
    let error = Sealer::open(bench.store.clone(), other, targets()).await.err().expect("it started");
    assert!(matches!(error, SealError::Keys(KmsError::Broken(_))), "{error}");
    assert!(error.to_string().contains("made with another KMS key"), "{error}");
}

#[tokio::test]
async fn the_same_idempotency_key_gives_the_same_secret() {
    let bench = Bench::fresh().await;
    let once =
        |value| NewSecret { idempotency: Some("order-1".to_owned()), ..new("slack", &[("token", value)]) };
    let first = bench.sealer.add(once(CANARY)).await.unwrap();
    assert_eq!(bench.sealer.add(once(CANARY)).await.unwrap(), first);
    for (mistake, other) in [
        ("another value", once("xoxb-canary-other")),
        ("another label", NewSecret { label: "Other".to_owned(), ..once(CANARY) }),
        ("another expiry", NewSecret { expires_at: Some(4_102_444_800), ..once(CANARY) }),
    ] {
        let again = bench.sealer.add(other).await;
        assert!(matches!(again, Err(SealError::IdempotencyReused)), "{mistake}");
    }
    let theirs = NewSecret { customer: customer("globex"), ..once(CANARY) };
    assert_ne!(bench.sealer.add(theirs).await.unwrap().id, first.id, "the key reached another customer");
    let (one, two) = tokio::join!(bench.sealer.add(once(CANARY)), bench.sealer.add(once(CANARY)));
    assert_eq!((one.unwrap().id, two.unwrap().id), (first.id, first.id));
    assert_eq!(bench.sealer.list(&customer("acme"), None, 10).await.unwrap().secrets.len(), 1);
}

/// A KMS that answers for a customer's new key only when two have asked, so that both must race.
struct Paired(Local, Barrier);

impl Kms for Paired {
    fn provider(&self) -> &'static str {
        "paired"
    }

    fn key(&self) -> String {
        "paired".to_owned()
    }

    fn wrap<'a>(&'a self, context: KeyContext<'a>, key: &'a Secret) -> kms::Call<'a, Vec<u8>> {
        self.0.wrap(context, key)
    }

    fn new_version(&self) -> kms::Call<'_, ()> {
        self.0.new_version()
    }

    fn generate<'a>(&'a self, context: KeyContext<'a>) -> kms::Call<'a, (Secret, Vec<u8>)> {
        Box::pin(async move {
            if context.customer.as_str() == "acme" {
                self.1.wait().await;
            }
            self.0.generate(context).await
        })
    }

    fn unwrap<'a>(&'a self, context: KeyContext<'a>, wrapped: &'a [u8]) -> kms::Call<'a, Secret> {
        self.0.unwrap(context, wrapped)
    }
}

#[tokio::test]
async fn two_first_secrets_of_a_customer_at_once_are_under_one_data_key() {
    let kms = Arc::new(Paired(Local::ephemeral(), Barrier::new(2)));
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let keys = Arc::new(DataKeys::new(Keyring::of(kms), 100, Handle::current()));
    let sealer = Sealer::open(store.clone(), keys.clone(), targets()).await.unwrap();
    let bench = Bench { store, keys, sealer };
    let (one, two) = tokio::join!(bench.sealer.add(slack()), bench.sealer.add(slack()));
    let acme = customer("acme");
    let (active, _) = bench.store.active_data_key(&acme).await.unwrap().unwrap();
    for told in [one.unwrap(), two.unwrap()] {
        let (head, values) = bench.opened(&bench.row(&acme, told.id).await).await.unwrap();
        assert_eq!(head.data_key, active);
        assert_eq!(values, [CANARY.as_bytes()]);
    }
}

/// A store whose first writes over an existing head lose against someone else's.
struct Contested {
    inner: Memory,
    losses: AtomicUsize,
}

#[rustfmt::skip]
impl Store for Contested {
    fn secret<'a>(&'a self, c: &'a Customer, id: SecretId) -> Call<'a, Option<SecretRow>> { self.inner.secret(c, id) }
    fn secrets<'a>(&'a self, c: &'a Customer, after: Option<SecretId>, limit: usize) -> Call<'a, Vec<SecretRow>> { self.inner.secrets(c, after, limit) }
    fn owner(&self, id: SecretId) -> Call<'_, Option<Customer>> { self.inner.owner(id) }
    fn remove_secret<'a>(&'a self, c: &'a Customer, id: SecretId) -> Call<'a, bool> { self.inner.remove_secret(c, id) }
    fn data_key<'a>(&'a self, c: &'a Customer, id: DataKeyId) -> Call<'a, Option<Bytes>> { self.inner.data_key(c, id) }
    fn active_data_key<'a>(&'a self, c: &'a Customer) -> Call<'a, Option<(DataKeyId, Bytes)>> { self.inner.active_data_key(c) }
    fn add_data_key<'a>(&'a self, c: &'a Customer, id: DataKeyId, wrapped: Bytes) -> Call<'a, ()> { self.inner.add_data_key(c, id, wrapped) }
    fn meta<'a>(&'a self, name: &'a str) -> Call<'a, Option<Bytes>> { self.inner.meta(name) }
    fn swap_meta<'a>(&'a self, name: &'a str, expected: Option<Bytes>, value: Bytes) -> Call<'a, ()> {
        self.inner.swap_meta(name, expected, value)
    }
    fn lease<'a>(&'a self, name: &'a str, holder: uuid::Uuid, ttl: std::time::Duration) -> Call<'a, bool> {
        self.inner.lease(name, holder, ttl)
    }
    fn release<'a>(&'a self, name: &'a str, holder: uuid::Uuid) -> Call<'a, ()> {
        self.inner.release(name, holder)
    }
    fn put_meta<'a>(&'a self, name: &'a str, value: Bytes) -> Call<'a, ()> { self.inner.put_meta(name, value) }
    fn upkeep(&self) -> &dyn Upkeep { self.inner.upkeep() }
    fn changes(&self) -> broadcast::Receiver<Change> { self.inner.changes() }
    fn put_secret(&self, row: SecretRow, expected: Expected) -> Call<'_, ()> {
        let loses = matches!(expected, Expected::Head(_))
            && self.losses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if loses { Box::pin(async { Err(StoreError::Conflict) }) } else { self.inner.put_secret(row, expected) }
    }
}

#[tokio::test]
async fn a_lost_race_is_tried_again_and_in_the_end_told() {
    let store = Arc::new(Contested { inner: Memory::new(), losses: AtomicUsize::new(0) });
    let bench = Bench::over(store.clone()).await;
    let told = bench.sealer.add(slack()).await.unwrap();
    for (losses, wins) in [(2, true), (3, false)] {
        store.losses.store(losses, Ordering::SeqCst);
        let version = bench.sealer.add_version(told.id, values(&[("token", CANARY)])).await;
        assert_eq!(version.is_ok(), wins, "{losses} losses: {:?}", version.err());
        store.losses.store(losses, Ordering::SeqCst);
        let state = if wins { State::Disabled } else { State::Active };
        match bench.sealer.set_state(told.id, state).await {
            Ok(told) => assert!(wins && told.version == 2),
            Err(error) => assert!(!wins && matches!(error, SealError::Conflict), "{error}"),
        }
    }
}
