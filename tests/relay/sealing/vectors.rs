//! The ciphers that `envelope` and `kms` use, held to Project Wycheproof's vectors: what others got wrong.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use aws_lc_rs::hkdf;
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

/// One vector opened: its plaintext, if key, nonce, data and tag fit.
fn opened(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], text: &[u8], tag: &[u8; 16]) -> Option<Vec<u8>> {
    let mut out = vec![0; text.len()];
    let buffer = InOutBuf::new(text, &mut out).unwrap();
    let cipher = Aes256Gcm::new(key.into());
    cipher.decrypt_inout_detached(nonce.into(), aad, buffer, tag.into()).ok().map(|()| out)
}

#[test]
fn aes_256_gcm_agrees_with_every_vector_of_wycheproof() {
    let (mut valid, mut invalid) = (0, 0);
    for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
        for test in &group.tests {
            // relay uses one size of key, nonce and tag.
            let (Ok(key), Ok(nonce), Ok(tag)) = (
                <[u8; 32]>::try_from(test.key.as_ref()),
                <[u8; 12]>::try_from(test.nonce.as_ref()),
                <[u8; 16]>::try_from(test.tag.as_ref()),
            ) else {
                continue;
            };
            let (aad, text, message) = (test.aad.as_ref(), test.ct.as_ref(), test.pt.as_ref());
            let what = format!("vector {}: {}", test.tc_id, test.comment);
            let found = opened(&key, &nonce, aad, text, &tag);
            if test.result == TestResult::Invalid {
                invalid += 1;
                assert_eq!(found, None, "{what}");
                continue;
            }
            valid += 1;
            assert_eq!(found.as_deref(), Some(message), "{what}");
            let mut sealed = message.to_vec();
            let made = Aes256Gcm::new((&key).into())
                .encrypt_inout_detached((&nonce).into(), aad, sealed.as_mut_slice().into())
                .unwrap();
            assert_eq!((sealed.as_slice(), made.as_slice()), (text, tag.as_slice()), "{what}");
        }
    }
    println!("AES-256-GCM: {valid} valid vectors, {invalid} invalid ones");
    assert!(valid >= 35 && invalid >= 25, "the vectors were read: {valid} valid, {invalid} invalid");
}

/// A length in bytes.
struct Bytes(usize);

impl hkdf::KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

#[test]
fn hkdf_sha_256_agrees_with_every_vector_of_wycheproof() {
    let (mut valid, mut invalid) = (0, 0);
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let what = format!("vector {}: {}", test.tc_id, test.comment);
        let mut found = vec![0; test.size];
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, test.salt.as_ref())
            .extract(test.ikm.as_ref())
            .expand(&[test.info.as_ref()], Bytes(test.size))
            .and_then(|okm| okm.fill(&mut found));
        if test.result == TestResult::Invalid {
            invalid += 1;
            assert!(derived.is_err(), "{what}");
        } else {
            valid += 1;
            assert!(derived.is_ok() && found == test.okm.as_ref(), "{what}");
        }
    }
    println!("HKDF-SHA-256: {valid} valid vectors, {invalid} invalid ones");
    assert!(valid >= 80 && invalid >= 1, "the vectors were read: {valid} valid, {invalid} invalid");
}
