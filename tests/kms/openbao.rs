use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use relay::kms::transit::{Transit, TransitLogin, TransitSetup};
use relay::kms::{Kms, KmsError};
use relay::model::DataKeyId;
use relay::net::tls::{Roots, client_config};
use relay::secret::Secret;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use super::conformance::{Subject, acme, broken, conformance, context, data_key, runtime};
use super::{operate, told};

conformance!(subject());

fn subject() -> Subject {
    let runtime = runtime();
    let bao = Bao::main();
    let open = || -> Arc<dyn Kms> {
        let key = runtime.block_on(bao.derived_key());
        Arc::new(runtime.block_on(bao.opened(&key, &Login::root())))
    };
    let (kms, other) = (open(), open());
    Subject { kms, other, binds: true, denies_what_is_not_its_own: false, service: Box::new(()), runtime }
}

/// A server, as its operator sees it.
struct Bao {
    address: String,
    ca: Vec<u8>,
    namespace: Option<&'static str>,
}

enum Login {
    Token(String),
    Role { role_id: String, secret_id: String },
}

impl Login {
    fn root() -> Self {
        Self::Token(told("RELAY_TEST_OPENBAO_TOKEN"))
    }
}

impl Bao {
    /// The server that stays up, over TLS by an authority of its own.
    fn main() -> Self {
        let ca = std::fs::read(told("RELAY_TEST_OPENBAO_CA")).unwrap();
        Self { address: told("RELAY_TEST_OPENBAO"), ca, namespace: None }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let tls = client_config(Roots::Pem(&self.ca)).ok();
        let token = told("RELAY_TEST_OPENBAO_TOKEN");
        let namespace = self.namespace.map(|name| ("x-vault-namespace", name));
        let headers: Vec<(&str, &str)> =
            std::iter::once(("x-vault-token", token.as_str())).chain(namespace).collect();
        operate(method, format!("{}/v1/{path}", self.address), &headers, &body, tls).await
    }

    #[track_caller]
    fn must(&self, (status, said): (u16, Value)) -> Value {
        assert!((200..300).contains(&status), "{status} {said}");
        said
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.must(self.call(Method::POST, path, body).await)
    }

    /// The name of a new key. The engine may have been mounted by another test.
    async fn key(&self, derived: bool) -> String {
        let _ = self.call(Method::POST, "sys/mounts/transit", json!({ "type": "transit" })).await;
        let name = format!("relay-{}", DataKeyId::random());
        self.post(&format!("transit/keys/{name}"), json!({ "derived": derived })).await;
        name
    }

    async fn derived_key(&self) -> String {
        self.key(true).await
    }

    async fn opened(&self, key: &str, login: &Login) -> Transit {
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
        let (given, role);
        let login = match login {
            Login::Token(token) => {
                given = secret(token);
                TransitLogin::Token(&given)
            }
            Login::Role { role_id, secret_id } => {
                role = secret(secret_id);
                TransitLogin::AppRole { mount: "approle", role_id, secret_id: &role }
            }
        };
        let ca_pem = (!self.ca.is_empty()).then_some(self.ca.as_slice());
        let (address, namespace) = (self.address.as_str(), self.namespace);
        Transit::open(&TransitSetup { address, mount: "transit", key, namespace, login, ca_pem }).unwrap()
    }

    /// The policy that README.md has, for this key; its name is the key's.
    async fn policy(&self, key: &str) {
        let readme = include_str!("../../README.md");
        let policy = readme.split("```text\n").find(|block| block.starts_with("path \"transit/"));
        let policy = policy.expect("README.md has a policy").split("```").next().unwrap();
        let policy = policy.replace("/relay\"", &format!("/{key}\"")).replace("/relay/", &format!("/{key}/"));
        self.post(&format!("sys/policies/acl/{key}"), json!({ "policy": policy })).await;
    }

    /// A role whose tokens live so long and not longer than `most`, for this key alone; named as the key.
    async fn role(&self, key: &str, ttl: &str, most: &str) -> Login {
        let _ = self.call(Method::POST, "sys/auth/approle", json!({ "type": "approle" })).await;
        self.policy(key).await;
        let role = format!("auth/approle/role/{key}");
        let settings = json!({ "token_ttl": ttl, "token_max_ttl": most, "token_policies": [key] });
        self.post(&role, settings).await;
        let said = self.must(self.call(Method::GET, &format!("{role}/role-id"), Value::Null).await);
        let role_id = said["data"]["role_id"].as_str().unwrap().to_owned();
        let said = self.post(&format!("{role}/secret-id"), json!({ "num_uses": 1000 })).await;
        let secret_id = said["data"]["secret_id"].as_str().unwrap().to_owned();
        Login::Role { role_id, secret_id }
    }

    /// How often the role's secret was used.
    async fn logins(&self, key: &str, login: &Login) -> u64 {
        let Login::Role { secret_id, .. } = login else { panic!("no role") };
        let path = format!("auth/approle/role/{key}/secret-id/lookup");
        let said = self.post(&path, json!({ "secret_id": secret_id })).await;
        1000 - said["data"]["secret_id_num_uses"].as_u64().unwrap()
    }

    /// Takes every token back that holds this policy.
    async fn revoke(&self, policy: &str) -> usize {
        let list = Method::from_bytes(b"LIST").unwrap();
        let said = self.must(self.call(list, "auth/token/accessors", Value::Null).await);
        let mut revoked = 0;
        for accessor in said["data"]["keys"].as_array().unwrap() {
            let (status, token) =
                self.call(Method::POST, "auth/token/lookup-accessor", json!({ "accessor": accessor })).await;
            // It may have ended in between.
            let holds = token["data"]["policies"].as_array().is_some_and(|all| all.contains(&json!(policy)));
            if status == 200 && holds {
                self.post("auth/token/revoke-accessor", json!({ "accessor": accessor })).await;
                revoked += 1;
            }
        }
        revoked
    }
}

/// A data key under `kms`, and the question whether it still opens.
async fn opens(
    kms: &Transit,
    customer: &relay::model::Customer,
    id: DataKeyId,
    wrapped: &[u8],
) -> Result<(), KmsError> {
    kms.unwrap(context(customer, id), wrapped).await.map(drop)
}

#[test]
fn versions_are_told_as_the_server_counts_them() {
    let (runtime, bao) = (runtime(), Bao::main());
    runtime.block_on(async {
        let kms = bao.opened(&bao.derived_key().await, &Login::root()).await;
        let (customer, id, key) = (acme(), DataKeyId::random(), data_key());
        let old = kms.wrap(context(&customer, id), &key).await.unwrap();
        assert_eq!(kms.version(&old).as_deref(), Some("v1"));
        kms.new_version().await.unwrap();
        assert_eq!(kms.newest().await.unwrap().as_deref(), Some("v2"));
        let new = kms.rewrap(context(&customer, id), &old).await.unwrap();
        assert_eq!(kms.version(&new).as_deref(), Some("v2"));
        assert!(kms.unwrap(context(&customer, id), &new).await.unwrap().equals(key.expose()));
    });
}

#[test]
fn a_version_that_was_closed_stops_its_own_records_alone() {
    let (runtime, bao) = (runtime(), Bao::main());
    runtime.block_on(async {
        let name = bao.derived_key().await;
        let kms = bao.opened(&name, &Login::root()).await;
        let (customer, id, key) = (acme(), DataKeyId::random(), data_key());
        let old = kms.wrap(context(&customer, id), &key).await.unwrap();
        kms.new_version().await.unwrap();
        let new = kms.rewrap(context(&customer, id), &old).await.unwrap();
        bao.post(&format!("transit/keys/{name}/config"), json!({ "min_decryption_version": 2 })).await;
        broken(opens(&kms, &customer, id, &old).await, "a version below the least");
        opens(&kms, &customer, id, &new).await.unwrap();
    });
}

#[test]
fn a_key_that_is_not_derived_is_refused_with_what_to_do() {
    let (runtime, bao) = (runtime(), Bao::main());
    runtime.block_on(async {
        let kms = bao.opened(&bao.key(false).await, &Login::root()).await;
        let (customer, id) = (acme(), DataKeyId::random());
        let refused = kms.generate(context(&customer, id)).await.map(drop).unwrap_err();
        assert!(matches!(refused, KmsError::Denied(_)), "{refused}");
        assert!(refused.to_string().contains("derived=true"), "{refused}");
    });
}

#[test]
fn a_missing_key_a_missing_mount_and_a_wrong_token_are_denials() {
    let (runtime, bao) = (runtime(), Bao::main());
    runtime.block_on(async {
        let key = bao.derived_key().await;
        let (customer, id) = (acme(), DataKeyId::random());
        let rows = [
            ("no such key", bao.opened("nobody", &Login::root()).await),
            ("a wrong token", bao.opened(&key, &Login::Token("s.wrong".to_owned())).await),
            (
                "a wrong role",
                bao.opened(&key, &Login::Role { role_id: "x".to_owned(), secret_id: "y".to_owned() }).await,
            ),
        ];
        for (mistake, kms) in rows {
            let refused = kms.generate(context(&customer, id)).await.map(drop);
            assert!(matches!(refused, Err(KmsError::Denied(_))), "{mistake}: {refused:?}");
        }
    });
}

#[test]
fn the_policy_of_the_readme_is_enough_and_another_keys_is_not() {
    let (runtime, bao) = (runtime(), Bao::main());
    runtime.block_on(async {
        let (key, other) = (bao.derived_key().await, bao.derived_key().await);
        let login = bao.role(&key, "60s", "60s").await;
        let kms = bao.opened(&key, &login).await;
        let (customer, id, data) = (acme(), DataKeyId::random(), data_key());
        let context = context(&customer, id);
        kms.generate(context).await.map(drop).unwrap();
        let wrapped = kms.wrap(context, &data).await.unwrap();
        kms.unwrap(context, &wrapped).await.map(drop).unwrap();
        kms.new_version().await.unwrap();
        kms.rewrap(context, &wrapped).await.map(drop).unwrap();
        assert_eq!(kms.newest().await.unwrap().as_deref(), Some("v2"));
        let foreign = bao.opened(&other, &login).await;
        let refused = foreign.generate(context).await.map(drop).unwrap_err();
        assert!(matches!(refused, KmsError::Denied(_)), "{refused}");
        assert!(refused.to_string().contains("README.md"), "{refused}");
    });
}

#[test]
fn a_role_s_token_is_renewed_and_had_again_without_a_refusal() {
    let (runtime, bao) = (runtime(), Bao::main());
    runtime.block_on(async {
        let key = bao.derived_key().await;
        // A third of such a life is a second; without renewal seven logins would be needed.
        let login = bao.role(&key, "3s", "9s").await;
        let kms = bao.opened(&key, &login).await;
        let (customer, id) = (acme(), DataKeyId::random());
        let (_, wrapped) = kms.generate(context(&customer, id)).await.unwrap();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            opens(&kms, &customer, id, &wrapped).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        let logins = bao.logins(&key, &login).await;
        assert!((2..=4).contains(&logins), "{logins} logins in 20 s of tokens that live 9 s at most");
    });
}

#[test]
fn a_token_that_was_taken_back_costs_one_login_however_many_wait() {
    let (runtime, bao) = (runtime(), Bao::main());
    runtime.block_on(async {
        let key = bao.derived_key().await;
        let login = bao.role(&key, "600s", "600s").await;
        let kms = Arc::new(bao.opened(&key, &login).await);
        let (customer, id) = (acme(), DataKeyId::random());
        let (_, wrapped) = kms.generate(context(&customer, id)).await.unwrap();
        // A younger token would not be had again.
        sleep(Duration::from_millis(2200)).await;
        assert_eq!(bao.logins(&key, &login).await, 1);
        assert_eq!(bao.revoke(&key).await, 1);
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let (kms, customer, wrapped) = (kms.clone(), customer.clone(), wrapped.clone());
                tokio::spawn(async move { opens(&kms, &customer, id, &wrapped).await })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        assert_eq!(bao.logins(&key, &login).await, 2);
    });
}

#[test]
fn a_given_token_is_renewed_and_its_end_is_a_denial() {
    let (runtime, bao) = (runtime(), Bao::main());
    runtime.block_on(async {
        let key = bao.derived_key().await;
        bao.policy(&key).await;
        let settings = json!({ "ttl": "3s", "explicit_max_ttl": "12s", "policies": [key] });
        let said = bao.post("auth/token/create", settings).await;
        let token = said["auth"]["client_token"].as_str().unwrap().to_owned();
        let kms = bao.opened(&key, &Login::Token(token)).await;
        let (customer, id) = (acme(), DataKeyId::random());
        let (_, wrapped) = kms.generate(context(&customer, id)).await.unwrap();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(9) {
            opens(&kms, &customer, id, &wrapped).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        sleep(Duration::from_secs(4)).await;
        let ended = opens(&kms, &customer, id, &wrapped).await;
        assert!(matches!(ended, Err(KmsError::Denied(_))), "{ended:?}");
    });
}

#[test]
fn a_namespace_is_part_of_the_key() {
    let (runtime, main) = (runtime(), Bao::main());
    runtime.block_on(async {
        let _ = main.call(Method::POST, "sys/namespaces/team", json!({})).await;
        let bao = Bao { namespace: Some("team"), ..Bao::main() };
        let key = bao.derived_key().await;
        let kms = bao.opened(&key, &Login::root()).await;
        let (customer, id) = (acme(), DataKeyId::random());
        let (_, wrapped) = kms.generate(context(&customer, id)).await.unwrap();
        opens(&kms, &customer, id, &wrapped).await.unwrap();
        assert_eq!(kms.key(), format!("team/transit/{key}"));
        let outside = main.opened(&key, &Login::root()).await;
        assert!(matches!(outside.generate(context(&customer, id)).await, Err(KmsError::Denied(_))));
    });
}

#[test]
fn a_server_that_is_sealed_silent_or_gone_is_unavailable() {
    let runtime = runtime();
    let (customer, id) = (acme(), DataKeyId::random());
    // A server of its own, which nobody else calls.
    let bao = Bao { address: told("RELAY_TEST_OPENBAO_TO_SEAL"), ca: Vec::new(), namespace: None };
    let unavailable = |runtime: &Runtime, kms: &Transit, what: &str| {
        let (begin, data) = (Instant::now(), data_key());
        let away = runtime.block_on(kms.wrap(context(&customer, id), &data)).map(drop);
        assert!(matches!(away, Err(KmsError::Unavailable(_))), "{what}: {away:?}");
        assert!(begin.elapsed() < Duration::from_secs(2), "{what}: {:?}", begin.elapsed());
    };
    let (kms, wrapped) = runtime.block_on(async {
        let kms = bao.opened(&bao.derived_key().await, &Login::root()).await;
        let (_, wrapped) = kms.generate(context(&customer, id)).await.unwrap();
        bao.post("sys/seal", json!({})).await;
        (kms, wrapped)
    });
    unavailable(&runtime, &kms, "sealed");
    runtime.block_on(async {
        bao.post("sys/unseal", json!({ "key": told("RELAY_TEST_OPENBAO_UNSEAL") })).await;
        let begin = Instant::now();
        while opens(&kms, &customer, id, &wrapped).await.is_err() {
            assert!(begin.elapsed() < Duration::from_secs(5), "it is not back");
            sleep(Duration::from_millis(50)).await;
        }
    });
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |address: String| Bao { address, ca: Vec::new(), namespace: None };
    let hole = at(format!("http://{}", silent.local_addr().unwrap()));
    unavailable(&runtime, &runtime.block_on(hole.opened("relay", &Login::root())), "silent");
    let gone = at("http://127.0.0.1:1".to_owned());
    unavailable(&runtime, &runtime.block_on(gone.opened("relay", &Login::root())), "gone");
    let role = Login::Role { role_id: "x".to_owned(), secret_id: "y".to_owned() };
    unavailable(&runtime, &runtime.block_on(gone.opened("relay", &role)), "gone before the login");
}
