//! The sealed record and the head.

use relay::envelope::{self, Binding, EnvelopeError, Head};
use relay::model::{Customer, DataKeyId, FieldSpec, IntegrationName, Origin, SecretId, State};
use relay::secret::{DataKey, Secret};

use super::{customer, damaged, field, spec, unhex};

const SEALED: &str = "015a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a58f69f927e6a2b4f95892ff383872\
    4a11ae5631460f03e6e8da8ef508ffd847ec3c3c3c3c3c3c3c3c3c3c3c3ef95e1d160e0b6b23e048dbd747bd97187b6472e2a4f9768a\
    d6aff3c6b2c83df8656238be19561d378138849";
const HEAD: &str = "01aaaaaaaabbbb4ccc8dddeeeeeeeeeeee0000000461636d651111111122224333844455555555555500000005736c\
    61636b0100000009736c61636b2e636f6d01bb0000000841636d6520626f740200000007000000090100000000f4865700000000020000\
    0004757365720000000005746f6b656e01000000000123456789abcdef000000006553f100000000006553f16400000000000000037ef3\
    cb1992e5538d242d590d36ce2ca0c35eea2efdf2ce22bd590e633e4e7b68";

fn key_with(id: DataKeyId, bytes: Vec<u8>) -> DataKey {
    DataKey::new(id, Secret::new(bytes)).unwrap()
}

fn key() -> DataKey {
    let id = unhex("aaaaaaaabbbb4ccc8dddeeeeeeeeeeee");
    key_with(DataKeyId::from_bytes(id.try_into().unwrap()), (0..32).collect())
}

fn head() -> Head {
    Head {
        customer: customer("acme"),
        id: SecretId::parse("11111111-2222-4333-8444-555555555555").unwrap(),
        integration: IntegrationName::parse("slack").unwrap(),
        origin: Origin::parse("https://slack.com").unwrap(),
        token_origin: None,
        label: "Acme bot".to_owned(),
        state: State::Disabled,
        version: 7,
        highest_version: 9,
        expires_at: Some(4_102_444_800),
        data_key: key().id(),
        fields: vec![spec("user", false), spec("token", true)],
        policy: Vec::new(),
        fingerprint: [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef],
        created_at: 1_700_000_000,
        updated_at: 1_700_000_100,
        changes: 3,
    }
}

#[test]
fn a_record_of_format_1_opens_for_ever() {
    let opened = envelope::open(&key(), &head().binding(), &unhex(SEALED)).unwrap();
    let opened: Vec<_> = opened.iter().map(|f| (f.spec.clone(), f.value.expose())).collect();
    assert_eq!(
        opened,
        [(spec("user", false), b"bot".as_slice()), (spec("token", true), b"xoxb-fixed-vector")]
    );
}

#[test]
fn a_head_of_format_1_has_the_fixed_bytes_and_reads_back() {
    let bytes = unhex(HEAD);
    assert_eq!(head().encode(&key()), bytes);
    assert_eq!(Head::decode(&key(), &customer("acme"), head().id, &bytes), Ok(head()));
    assert_eq!(Head::data_key_of(&bytes), Ok(key().id()));
}

#[test]
fn fingerprints_and_derived_ids_have_the_fixed_bytes() {
    let store_key = Secret::new(vec![7; 32]);
    let fields = [field("user", false, b"bot"), field("token", true, b"xoxb-fixed-vector")];
    assert_eq!(envelope::fingerprint(&store_key, &fields).as_slice(), unhex("56e4128fefa954ac"));
    let id = envelope::derived_id(&store_key, &customer("acme"), &head().integration, "once");
    assert_eq!(id.to_string(), "648d4a41-6fe3-461f-a6e7-f3aec17b84b2");
}

#[test]
fn a_fingerprint_tells_apart_what_only_runs_together_equally() {
    let store_key = Secret::new(vec![7; 32]);
    let of = |a: &[u8], b: &[u8]| {
        envelope::fingerprint(&store_key, &[field("user", false, a), field("token", true, b)])
    };
    assert_ne!(of(b"ab", b"c"), of(b"a", b"bc"));
    assert_eq!(of(b"ab", b"c"), of(b"ab", b"c"));
}

#[test]
fn sealing_twice_gives_different_bytes_that_both_open() {
    let (key, head) = (key(), head());
    let fields = [field("user", false, b"bot"), field("token", true, b"canary-51c0ffee")];
    let [one, two] = [(), ()].map(|()| envelope::seal(&key, &head.binding(), &fields).unwrap());
    assert_ne!(one, two);
    for sealed in [one, two] {
        assert!(!sealed.windows(6).any(|part| part == b"canary"), "plaintext stands in the sealed record");
        let opened = envelope::open(&key, &head.binding(), &sealed).unwrap();
        assert!(opened.last().unwrap().value.equals(b"canary-51c0ffee"));
    }
}

/// What is exchanged in the binding, and nothing else.
type Swap<'a> = (&'a str, fn(&mut Owned));

struct Owned {
    customer: Customer,
    secret: SecretId,
    version: u32,
    data_key: DataKeyId,
    integration: IntegrationName,
    origin: Origin,
    expires_at: Option<u64>,
    fields: Vec<FieldSpec>,
}

impl Owned {
    fn base() -> Self {
        let head = head();
        Self {
            customer: head.customer,
            secret: head.id,
            version: head.version,
            data_key: head.data_key,
            integration: head.integration,
            origin: head.origin,
            expires_at: head.expires_at,
            fields: head.fields,
        }
    }

    fn binding(&self) -> Binding<'_> {
        Binding {
            customer: &self.customer,
            secret: self.secret,
            version: self.version,
            data_key: self.data_key,
            integration: &self.integration,
            origin: &self.origin,
            expires_at: self.expires_at,
            fields: &self.fields,
            token_origin: None,
        }
    }
}

#[test]
fn a_record_opens_for_nothing_but_what_it_was_sealed_for() {
    let swaps: &[Swap<'_>] = &[
        ("another customer", |b| b.customer = customer("globex")),
        ("a customer that only begins alike", |b| b.customer = customer("acme2")),
        ("a customer in another case", |b| b.customer = customer("Acme")),
        ("another secret", |b| b.secret = SecretId::random()),
        ("an older version", |b| b.version = 6),
        ("a newer version", |b| b.version = 8),
        ("another data key's id over the same key", |b| b.data_key = DataKeyId::random()),
        ("another integration", |b| b.integration = IntegrationName::parse("slack2").unwrap()),
        ("another host", |b| b.origin = Origin::parse("https://slack.com.evil.example").unwrap()),
        ("another port", |b| b.origin = Origin::parse("https://slack.com:444").unwrap()),
        ("without TLS", |b| b.origin = Origin::new(false, "slack.com", 443).unwrap()),
        ("a later expiry", |b| b.expires_at = Some(4_102_444_801)),
        ("no expiry", |b| b.expires_at = None),
        ("a field's name", |b| b.fields = vec![spec("user", false), spec("token2", true)]),
        ("a field no longer scrubbed", |b| b.fields = vec![spec("user", false), spec("token", false)]),
        ("a field scrubbed", |b| b.fields = vec![spec("user", true), spec("token", true)]),
        ("the fields' order", |b| b.fields = vec![spec("token", true), spec("user", false)]),
        ("a field less", |b| b.fields = vec![spec("user", false)]),
        ("a field more", |b| b.fields.push(spec("more", false))),
        ("no field", |b| b.fields.clear()),
    ];
    let sealed = unhex(SEALED);
    for (mistake, swap) in swaps {
        let mut bound = Owned::base();
        swap(&mut bound);
        // The same 32 bytes under the binding's id, so that only the associated data can tell.
        let key = key_with(bound.data_key, (0..32).collect());
        let opened = envelope::open(&key, &bound.binding(), &sealed);
        assert_eq!(opened.err(), Some(EnvelopeError::NotAuthentic), "{mistake}");
    }
}

#[test]
fn another_data_key_is_told_before_anything_is_decrypted() {
    let sealed = unhex(SEALED);
    for (mistake, id, bytes) in [
        ("other bytes under the same id", key().id(), vec![9; 32]),
        ("the same bytes under another id", DataKeyId::random(), (0..32).collect()),
    ] {
        let key = key_with(id, bytes);
        let head = head();
        assert_eq!(
            envelope::open(&key, &head.binding(), &sealed).err(),
            Some(EnvelopeError::WrongKey),
            "{mistake}"
        );
    }
}

#[test]
fn no_bit_of_a_sealed_record_can_be_changed() {
    for (mistake, bytes) in damaged(&unhex(SEALED)) {
        assert!(envelope::open(&key(), &head().binding(), &bytes).is_err(), "{mistake}");
    }
}

#[test]
fn no_bit_of_a_head_can_be_changed() {
    let head = head();
    for (mistake, bytes) in damaged(&unhex(HEAD)) {
        assert!(Head::decode(&key(), &head.customer, head.id, &bytes).is_err(), "{mistake}");
        // The peek believes nothing, and may not panic either.
        let _ = Head::data_key_of(&bytes);
    }
}

#[test]
fn a_head_is_believed_for_its_own_customer_secret_and_key_only() {
    let (bytes, head) = (unhex(HEAD), head());
    let other_key = key_with(key().id(), vec![9; 32]);
    let other_id = key_with(DataKeyId::random(), (0..32).collect());
    let acme = customer("acme");
    for (mistake, key, owner, id, wanted) in [
        ("another customer's", key(), customer("globex"), head.id, EnvelopeError::NotAuthentic),
        ("another secret's", key(), acme.clone(), SecretId::random(), EnvelopeError::NotAuthentic),
        ("under another key", other_key, acme.clone(), head.id, EnvelopeError::NotAuthentic),
        ("under another key's id", other_id, acme, head.id, EnvelopeError::WrongKey),
    ] {
        assert_eq!(Head::decode(&key, &owner, id, &bytes), Err(wanted), "{mistake}");
    }
}

#[test]
fn an_unknown_format_is_named() {
    let head = head();
    for record in [SEALED, HEAD] {
        let mut bytes = unhex(record);
        *bytes.first_mut().unwrap() = 2;
        let wanted = EnvelopeError::UnknownFormat(2);
        assert_eq!(Head::decode(&key(), &head.customer, head.id, &bytes), Err(wanted));
        assert_eq!(envelope::open(&key(), &head.binding(), &bytes).err(), Some(wanted));
        assert!(wanted.to_string().contains("format 2"));
    }
}

#[test]
fn only_the_declared_fields_are_sealed() {
    let (key, head) = (key(), head());
    for (mistake, fields) in [
        ("one missing", vec![field("user", false, b"bot")]),
        ("another order", vec![field("token", true, b"canary-12"), field("user", false, b"bot")]),
        ("another flag", vec![field("user", true, b"bot"), field("token", true, b"canary-12")]),
    ] {
        let sealed = envelope::seal(&key, &head.binding(), &fields);
        assert_eq!(sealed.err(), Some(EnvelopeError::FieldsDiffer), "{mistake}");
    }
}

#[test]
fn a_value_is_what_a_header_can_carry() {
    let long = vec![b'a'; envelope::LONGEST_VALUE];
    let longer = vec![b'a'; envelope::LONGEST_VALUE + 1];
    for (value, fits, mistake) in [
        (b"xoxb-1 ~!".as_slice(), true, "visible ASCII and spaces"),
        (&long, true, "64 KiB"),
        (&longer, false, "a byte over 64 KiB"),
        (b"", false, "empty"),
        (b"a\rb", false, "CR"),
        (b"a\nb", false, "LF"),
        (b"a\0b", false, "NUL"),
        (b"a\tb", false, "tab"),
        (b"a\x7fb", false, "DEL"),
        (b"a\x1bb", false, "escape"),
        (b"caf\xc3\xa9", false, "UTF-8 beyond ASCII"),
        (b"\xff", false, "obs-text"),
    ] {
        assert_eq!(envelope::check_value(value).is_ok(), fits, "{mistake}");
    }
}
