use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_kms::config::{Credentials, SharedCredentialsProvider};
use relay::kms::aws::{Aws, AwsError, AwsSetup};
use relay::kms::keyring::Keyring;
use relay::kms::{Kms, KmsError, Shown};
use relay::model::DataKeyId;
use tokio::runtime::Runtime;

use super::conformance::{Subject, acme, conformance, context, data_key, runtime};
use crate::rig::clouds::Trouble;
use crate::rig::clouds::aws::{AwsKms, KEY, OTHER_KEY};
use crate::rig::vendor::{Vendor, answer_to};

conformance!(subject());

fn subject() -> Subject {
    let (runtime, service) = (runtime(), AwsKms::start());
    let open = |key: &str| -> Arc<dyn Kms> { Arc::new(opened(&runtime, &service, key)) };
    let (kms, other) = (open(KEY), open(OTHER_KEY));
    Subject {
        runtime,
        kms,
        other,
        binds: true,
        denies_what_is_not_its_own: false,
        service: Box::new(service),
    }
}

fn opened(runtime: &Runtime, service: &AwsKms, key: &str) -> Aws {
    at(runtime, &service.endpoint(), key)
}

fn at(runtime: &Runtime, endpoint: &str, key: &str) -> Aws {
    let credentials = Credentials::new("AKIDEXAMPLE", "not-a-real-secret-key", None, None, "tests");
    let setup = AwsSetup {
        key,
        region: None,
        endpoint: Some(endpoint),
        credentials: Some(SharedCredentialsProvider::new(credentials)),
    };
    runtime.block_on(Aws::open(setup)).unwrap()
}

/// Every call that a data key needs, and what became of it.
fn every_call(runtime: &Runtime, kms: &Aws) -> Vec<(&'static str, Result<(), KmsError>)> {
    let (customer, id, key) = (acme(), DataKeyId::random(), data_key());
    let context = context(&customer, id);
    let blob = [&[1, 0][..], &[7; 100]].concat();
    runtime.block_on(async {
        vec![
            ("GenerateDataKey", kms.generate(context).await.map(drop)),
            ("Encrypt", kms.wrap(context, &key).await.map(drop)),
            ("Decrypt", kms.unwrap(context, &blob).await.map(drop)),
            ("ReEncrypt", kms.rewrap(context, &blob).await.map(drop)),
            ("RotateKeyOnDemand", kms.new_version().await),
            ("DescribeKey", kms.newest().await.map(drop)),
        ]
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Unavailable,
    Denied,
    Broken,
}

fn class(error: &KmsError) -> Class {
    match error {
        KmsError::Unavailable(_) => Class::Unavailable,
        KmsError::Denied(_) => Class::Denied,
        KmsError::Broken(_) => Class::Broken,
    }
}

#[test]
fn an_outage_is_unavailable_and_a_no_is_a_denial() {
    let (runtime, service) = (runtime(), AwsKms::start());
    let kms = opened(&runtime, &service, KEY);
    let rows = [
        (Trouble::Refuse, Class::Unavailable),
        (Trouble::Throttled, Class::Unavailable),
        (Trouble::Broken, Class::Unavailable),
        (Trouble::Disabled, Class::Denied),
        (Trouble::Denied, Class::Denied),
    ];
    for (trouble, wanted) in rows {
        service.trouble(trouble);
        for (operation, answer) in every_call(&runtime, &kms) {
            let error = answer.expect_err(operation);
            assert_eq!(class(&error), wanted, "{trouble:?} {operation}: {error}");
            assert!(error.to_string().contains(operation), "it does not say which call: {error}");
        }
    }
    service.trouble(Trouble::None);
    let (customer, id) = (acme(), DataKeyId::random());
    runtime.block_on(kms.generate(context(&customer, id))).map(drop).unwrap();
}

#[test]
fn a_black_hole_is_unavailable_before_relay_itself_gives_up() {
    let (runtime, service) = (runtime(), AwsKms::start());
    let kms = opened(&runtime, &service, KEY);
    service.trouble(Trouble::BlackHole);
    let (customer, id) = (acme(), DataKeyId::random());
    let begin = Instant::now();
    let error = runtime.block_on(kms.generate(context(&customer, id))).map(drop).unwrap_err();
    assert!(matches!(error, KmsError::Unavailable(_)), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn a_server_whose_certificate_nobody_vouches_for_is_told_nothing() {
    let (runtime, vendor) = (runtime(), Vendor::start(|request, out| answer_to(request, out, b"{}")));
    let kms = at(&runtime, &format!("https://localhost:{}", vendor.port), KEY);
    let (customer, id) = (acme(), DataKeyId::random());
    let error = runtime.block_on(kms.generate(context(&customer, id))).map(drop).unwrap_err();
    assert!(matches!(error, KmsError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(vendor.received.lock().unwrap().is_empty());
}

#[test]
fn a_throttled_call_is_tried_twice_and_a_denied_one_once() {
    let (runtime, service) = (runtime(), AwsKms::start());
    let kms = opened(&runtime, &service, KEY);
    let (customer, id) = (acme(), DataKeyId::random());
    for (trouble, tries) in [(Trouble::Throttled, 2), (Trouble::Broken, 2), (Trouble::Denied, 1)] {
        service.trouble(trouble);
        let before = service.calls("GenerateDataKey");
        runtime.block_on(kms.generate(context(&customer, id))).map(drop).unwrap_err();
        assert_eq!(service.calls("GenerateDataKey") - before, tries, "{trouble:?}");
    }
}

/// Every code of the calls that relay makes (the SDK's own error types), and those of every AWS service.
const CODES: &[(u16, &str, Class)] = &[
    (400, "AccessDeniedException", Class::Denied),
    (400, "ConflictException", Class::Unavailable),
    (503, "DependencyTimeoutException", Class::Unavailable),
    (400, "DisabledException", Class::Denied),
    (400, "DryRunOperationException", Class::Denied),
    (400, "IncorrectKeyException", Class::Broken),
    (400, "InvalidArnException", Class::Denied),
    (400, "InvalidCiphertextException", Class::Broken),
    (400, "InvalidGrantTokenException", Class::Denied),
    (400, "InvalidKeyUsageException", Class::Denied),
    (500, "KeyUnavailableException", Class::Unavailable),
    (500, "KMSInternalException", Class::Unavailable),
    (400, "KMSInvalidStateException", Class::Denied),
    (400, "LimitExceededException", Class::Denied),
    (400, "NotFoundException", Class::Denied),
    (400, "UnsupportedOperationException", Class::Denied),
    (403, "ExpiredTokenException", Class::Unavailable),
    (403, "IncompleteSignature", Class::Denied),
    (403, "InvalidSignatureException", Class::Denied),
    (403, "MissingAuthenticationTokenException", Class::Denied),
    (403, "UnrecognizedClientException", Class::Denied),
    (400, "RequestExpired", Class::Unavailable),
    (500, "InternalFailure", Class::Unavailable),
    (503, "ServiceUnavailable", Class::Unavailable),
    (400, "ThrottlingException", Class::Unavailable),
    (400, "ValidationException", Class::Broken),
    (400, "AnErrorThatAwsMadeLater", Class::Denied),
    (500, "AnErrorThatAwsMadeLater", Class::Unavailable),
    (429, "AnErrorThatAwsMadeLater", Class::Unavailable),
];

#[test]
fn every_code_of_aws_has_its_meaning() {
    let (runtime, service) = (runtime(), AwsKms::start());
    let kms = opened(&runtime, &service, KEY);
    for (status, code, wanted) in CODES {
        service.say(Some((*status, code)));
        for (operation, answer) in every_call(&runtime, &kms) {
            let error = answer.expect_err(operation);
            assert_eq!(class(&error), *wanted, "{status} {code} {operation}: {error}");
            assert!(error.to_string().contains(code), "{error} does not name {code}");
        }
    }
}

#[test]
fn a_garbled_record_costs_no_call() {
    let (runtime, service) = (runtime(), AwsKms::start());
    let kms = opened(&runtime, &service, KEY);
    let (customer, id) = (acme(), DataKeyId::random());
    let long = [&[1, 0][..], &[7; 6145]].concat();
    for garbled in [&b""[..], &[1], &[1, 9, 9], &[1, 0], &[2, 0, 1, 1], &long] {
        runtime.block_on(kms.unwrap(context(&customer, id), garbled)).map(drop).unwrap_err();
    }
    assert_eq!(service.all_calls(), 0);
}

#[test]
fn aws_is_told_customer_and_data_key_by_name_or_by_hash() {
    let (runtime, service) = (runtime(), AwsKms::start());
    let kms: Arc<dyn Kms> = Arc::new(opened(&runtime, &service, KEY));
    let (customer, id) = (acme(), DataKeyId::random());
    for shown in [Shown::Name, Shown::Hash] {
        let ring = Keyring::new(kms.clone(), [], shown);
        let (_, record) = runtime.block_on(ring.generate(&customer, id)).unwrap();
        runtime.block_on(ring.unwrap(&customer, id, &record)).map(drop).unwrap();
        for told in service.contexts().iter().rev().take(2) {
            assert_eq!(told["relay:data-key"], id.to_string());
            let named = told["relay:customer"] == customer.as_str();
            assert_eq!(named, shown == Shown::Name, "{told}");
            assert_eq!(told.to_string().contains("acme"), shown == Shown::Name, "{told}");
        }
    }
}

#[test]
fn a_key_answers_to_its_id_its_arn_and_a_replicas_arn() {
    let (runtime, service) = (runtime(), AwsKms::start());
    let multi = "arn:aws:kms:eu-west-1:000000000000:key/mrk-1234";
    let rows = [
        (KEY, KEY, true),
        (KEY, "11111111-1111-4111-8111-111111111111", true),
        (KEY, OTHER_KEY, false),
        (KEY, "arn:aws:kms:eu-west-1:000000000000:key/11111111-1111-4111-8111-111111111111", false),
        (KEY, "arn:aws:kms:us-east-1:999999999999:key/11111111-1111-4111-8111-111111111111", false),
        (multi, "arn:aws:kms:us-east-1:000000000000:key/mrk-1234", true),
        (multi, "arn:aws:kms:us-east-1:999999999999:key/mrk-1234", false),
        (multi, "arn:aws-cn:kms:us-east-1:000000000000:key/mrk-1234", false),
    ];
    for (own, other, same) in rows {
        assert_eq!(opened(&runtime, &service, own).answers_to(other), same, "{own} and {other}");
    }
}

#[test]
fn a_key_by_its_id_alone_needs_a_region_from_somewhere() {
    // The machine's own environment may name one; then there is nothing to refuse.
    let runtime = runtime();
    let setup = AwsSetup { key: "11111111-1111-4111-8111-111111111111", ..AwsSetup::default() };
    match runtime.block_on(Aws::open(setup)) {
        #[allow(clippy::disallowed_methods, reason = "the SDK itself asked the environment")]
        Ok(_) => assert!(std::env::vars().any(|(name, _)| name.starts_with("AWS_")), "no region, no error"),
        Err(AwsError::Region) => {}
        Err(other) => panic!("{other}"),
    }
    let setup = AwsSetup {
        key: "11111111-1111-4111-8111-111111111111",
        region: Some("eu-west-1"),
        ..AwsSetup::default()
    };
    runtime.block_on(Aws::open(setup)).map(drop).unwrap();
}
