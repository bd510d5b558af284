//! Sealed tokens open for the secret, the version, the data key and the places that they were had for, and for
//! nothing else; no bit of a record can be changed unseen.

use bytes::Bytes;
use relay::envelope::{Binding, EnvelopeError, SealedTokens, Standing, reseal_tokens, seal_tokens};
use relay::model::{Customer, DataKeyId, IntegrationName, Origin, SecretId};
use relay::secret::{DataKey, Secret};

use super::customer;

fn key(id: DataKeyId, first: u8) -> DataKey {
    DataKey::new(id, Secret::new((first..first + 32).collect())).unwrap()
}

struct Place {
    customer: Customer,
    integration: IntegrationName,
    origin: Origin,
    tokens_at: Origin,
    elsewhere: Origin,
    id: SecretId,
}

fn place() -> Place {
    Place {
        customer: customer("acme"),
        integration: IntegrationName::parse("crm").unwrap(),
        origin: Origin::parse("https://api.crm.example").unwrap(),
        tokens_at: Origin::parse("https://login.crm.example").unwrap(),
        elsewhere: Origin::parse("https://evil.example").unwrap(),
        id: SecretId::random(),
    }
}

fn binding<'a>(place: &'a Place, key: &DataKey) -> Binding<'a> {
    Binding {
        customer: &place.customer,
        secret: place.id,
        version: 3,
        data_key: key.id(),
        integration: &place.integration,
        origin: &place.origin,
        expires_at: None,
        fields: &[],
        token_origin: Some(&place.tokens_at),
    }
}

fn standing(expires_at: u64) -> Standing {
    Standing { serial: 4, obtained_at: 100, expires_at, reconnect: None }
}

fn text(secret: Option<Secret>) -> Option<Vec<u8>> {
    secret.map(|secret| secret.expose().to_vec())
}

#[test]
fn what_was_sealed_opens_for_its_own_place_alone() {
    let (place, other) = (place(), customer("globex"));
    let key = key(DataKeyId::random(), 1);
    let own = binding(&place, &key);
    let (access, refresh) = (Secret::new(b"at-1".to_vec()), Secret::new(b"rt-1".to_vec()));
    let sealed = seal_tokens(&key, &own, &standing(200), (Some(&access), Some(&refresh))).unwrap();
    let sealed = Bytes::from(sealed);
    let tokens = SealedTokens::decode(&key, &own, &sealed).unwrap();
    assert_eq!(*tokens.standing(), standing(200));
    assert_eq!(text(tokens.open_access(&key, &own).unwrap()).unwrap(), b"at-1");
    assert_eq!(text(tokens.open_refresh(&key, &own).unwrap()).unwrap(), b"rt-1");
    let rows = [
        (Binding { customer: &other, ..own }, "another customer"),
        (Binding { secret: SecretId::random(), ..own }, "another secret"),
        (Binding { version: 4, ..own }, "another version"),
        (Binding { origin: &place.elsewhere, ..own }, "another vendor"),
        (Binding { token_origin: Some(&place.elsewhere), ..own }, "another token endpoint"),
        (Binding { token_origin: None, ..own }, "no token endpoint"),
        (Binding { expires_at: Some(1), ..own }, "another expiry"),
    ];
    for (to, mistake) in rows {
        let decoded = SealedTokens::decode(&key, &to, &sealed);
        assert_eq!(decoded.err(), Some(EnvelopeError::NotAuthentic), "{mistake}");
        assert!(tokens.open_access(&key, &to).is_err(), "{mistake}, opened past the code");
    }
    let stranger = key_of(&key);
    assert!(SealedTokens::decode(&stranger, &own, &sealed).is_err(), "another key of the same name");
}

fn key_of(own: &DataKey) -> DataKey {
    key(own.id(), 2)
}

#[test]
fn no_bit_of_a_record_can_be_changed() {
    let place = place();
    let key = key(DataKeyId::random(), 1);
    let own = binding(&place, &key);
    let access = Secret::new(b"at-1".to_vec());
    let good = seal_tokens(&key, &own, &standing(200), (Some(&access), None)).unwrap();
    for at in 0..good.len() {
        for bit in [1, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            assert!(SealedTokens::decode(&key, &own, &bad.into()).is_err(), "byte {at}");
        }
    }
    for length in 0..good.len() {
        assert!(SealedTokens::decode(&key, &own, &Bytes::copy_from_slice(&good[..length])).is_err());
    }
}

#[test]
fn a_record_sealed_anew_is_the_same_under_another_key() {
    let place = place();
    let (old, new) = (key(DataKeyId::random(), 1), key(DataKeyId::random(), 7));
    let (from, to) = (binding(&place, &old), binding(&place, &new));
    let dead = Standing { reconnect: Some("the vendor refused it".to_owned()), ..standing(0) };
    for (standing, access) in [(standing(200), Some(Secret::new(b"at-1".to_vec()))), (dead, None)] {
        let sealed = seal_tokens(&old, &from, &standing, (access.as_ref(), None)).unwrap().into();
        let moved = Bytes::from(reseal_tokens((&old, &from), &sealed, (&new, &to)).unwrap());
        assert!(SealedTokens::decode(&old, &from, &moved).is_err());
        let tokens = SealedTokens::decode(&new, &to, &moved).unwrap();
        assert_eq!(*tokens.standing(), standing);
        assert_eq!(text(tokens.open_access(&new, &to).unwrap()), text(access));
        assert!(tokens.open_refresh(&new, &to).unwrap().is_none());
    }
}
