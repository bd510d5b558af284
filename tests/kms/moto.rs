use std::sync::Arc;

use aws_sdk_kms::config::{Credentials, SharedCredentialsProvider};
use http::Method;
use relay::kms::aws::{Aws, AwsSetup};
use relay::kms::{Kms, KmsError};
use relay::model::DataKeyId;
use serde_json::json;
use tokio::runtime::Runtime;

use super::conformance::{Subject, acme, conformance, context, data_key, runtime};
use super::{operate, told};

conformance!(subject());

fn subject() -> Subject {
    let runtime = runtime();
    let open = || -> Arc<dyn Kms> { Arc::new(opened(&runtime, &made(&runtime))) };
    let (kms, other) = (open(), open());
    // moto says AccessDenied where AWS says IncorrectKey.
    Subject { kms, other, binds: true, denies_what_is_not_its_own: true, service: Box::new(()), runtime }
}

fn made(runtime: &Runtime) -> String {
    let authorization = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=0";
    let headers = [
        ("x-amz-target", "TrentService.CreateKey"),
        ("content-type", "application/x-amz-json-1.1"),
        ("authorization", authorization),
    ];
    let (url, nothing) = (format!("{}/", told("RELAY_TEST_MOTO")), json!({}));
    let (status, made) = runtime.block_on(operate(Method::POST, url, &headers, &nothing, None));
    assert_eq!(status, 200, "{made}");
    made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

fn opened(runtime: &Runtime, key: &str) -> Aws {
    let credentials = Credentials::new("AKIDEXAMPLE", "not-a-real-secret-key", None, None, "tests");
    let endpoint = told("RELAY_TEST_MOTO");
    let setup = AwsSetup {
        key,
        region: None,
        endpoint: Some(&endpoint),
        credentials: Some(SharedCredentialsProvider::new(credentials)),
    };
    runtime.block_on(Aws::open(setup)).unwrap()
}

#[test]
fn a_key_that_is_not_there_is_a_denial() {
    let runtime = runtime();
    let kms = opened(&runtime, "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-4000-8000-000000000000");
    let (customer, id, key) = (acme(), DataKeyId::random(), data_key());
    runtime.block_on(async {
        let context = context(&customer, id);
        for refused in [kms.generate(context).await.map(drop), kms.wrap(context, &key).await.map(drop)] {
            assert!(matches!(refused, Err(KmsError::Denied(_))), "{refused:?}");
        }
    });
}
