//! What the vendor gave is kept: over a store that fails, data keys that are replaced, an integration that moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use relay::app::Options;
use relay::refusal::Code;
use relay::store::memory::Memory;
use serde_json::json;

use super::{INJECT, REFRESH, add, answers, ask, connected, expire, settings};
use crate::revocation::Failing;
use crate::rig::oauth::OAuth;
use crate::rig::{Rig, Settings};

#[test]
fn a_replaced_refresh_token_outlasts_a_store_that_fails_when_it_comes() {
    let (oauth, vendor) = OAuth::start(1);
    let fails = Arc::new(AtomicBool::new(false));
    let flag = fails.clone();
    let options = Box::new(move || Options {
        store: Some(Arc::new(Failing { inner: Memory::new(), fails: flag.clone() })),
        ..Options::default()
    });
    let rig = Rig::before(Settings { options, ..settings(&vendor, REFRESH) }, vendor);
    oauth.connect(rig.canary.text());
    let id = add(&rig);
    expire();
    oauth.lives.store(5, Ordering::SeqCst);
    let failing = fails.clone();
    *oauth.replaced.lock().unwrap() = Some(Box::new(move || failing.store(true, Ordering::SeqCst)));
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(1500));
            *oauth.replaced.lock().unwrap() = None;
            fails.store(false, Ordering::SeqCst);
        });
        ask(&rig, &id)
    });
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(oauth.count(), 2);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(ask(&rig, &id).status, 200, "the vendor sees no reuse");
}

#[test]
fn renewals_and_new_data_keys_do_not_lose_each_others_work() {
    let (oauth, rig, id) = connected(1);
    let until = Instant::now() + Duration::from_secs(8);
    let mut served = 0;
    while Instant::now() < until {
        let begun = rig.admin("POST", "/v1/keys/rotate", Some("{\"data\":true}"));
        assert!(matches!(begun.status, 200 | 202), "{}", begun.text());
        for _ in 0..4 {
            let answer = ask(&rig, &id);
            // The vendor may take what expires on its way for expired.
            assert!(matches!(answer.status, 200 | 401), "{}", answer.text());
            served += u32::from(answer.status == 200);
            std::thread::sleep(Duration::from_millis(40));
        }
    }
    assert!(oauth.count() > 5, "{}", oauth.count());
    assert!(served > 50, "{served}");
    oauth.lives.store(3600, Ordering::SeqCst);
    expire();
    assert_eq!(ask(&rig, &id).status, 200, "the vendor saw no reuse");
}

#[test]
fn tokens_move_with_the_integration_and_with_its_token_endpoint() {
    let (oauth, vendor) = OAuth::start(3600);
    let port = vendor.port;
    let oauth2 = |host: &str| {
        format!("{INJECT}\noauth2 = {{ token = \"https://{host}:{port}/oauth/token\", {REFRESH} }}")
    };
    let first = Settings { integration: oauth2("127.0.0.1"), ..Settings::default() };
    let mut rig = Rig::before(first, vendor);
    oauth.connect(rig.canary.text());
    let id = add(&rig);
    assert_eq!(ask(&rig, &id).status, 200);
    rig.stop();
    rig.settings_mut().upstream = Some(format!("https://127.0.0.1:{port}/base"));
    rig.settings_mut().integration = oauth2("localhost");
    rig.start();
    assert_eq!(
        ask(&rig, &id).code(),
        Code::CredentialUnusable.as_str(),
        "nobody has said that it is the same"
    );
    let rebind = |from: &[String]| {
        let body = json!({ "from": from }).to_string();
        let begun = rig.admin("POST", "/v1/integrations/vendor/rebind", Some(&body));
        assert_eq!(begun.status, 202, "{}", begun.text());
        let ended = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(25));
            !rig.admin("GET", "/v1/jobs", None).json()["job"]["ended_at"].is_null()
        });
        assert!(ended);
    };
    rebind(&[format!("https://localhost:{port}")]);
    assert_eq!(ask(&rig, &id).code(), Code::CredentialUnusable.as_str(), "half of it is not enough");
    rebind(&[format!("https://localhost:{port}"), format!("token:https://127.0.0.1:{port}")]);
    answers(&rig, &id, "");
    assert_eq!(ask(&rig, &id).status, 200);
    assert_eq!(oauth.count(), 1, "the token went along");
}

#[test]
fn a_first_token_is_tried_by_the_integrations_own_call() {
    let (oauth, vendor) = OAuth::start(3600);
    let mut settings = settings(&vendor, REFRESH);
    settings.integration += "\nverify = { get = \"/me\", expect = 200 }";
    let rig = Rig::before(settings, vendor);
    oauth.connect(rig.canary.text());
    let id = add(&rig);
    let tried = rig.vendor.last();
    assert_eq!(tried.line(), "GET /base/me");
    assert!(tried.header("authorization").unwrap().ends_with("-access-1"));
    assert_eq!(ask(&rig, &id).status, 200);
    assert_eq!(oauth.count(), 1, "and is the one that is used");
    oauth.disconnect();
    let body = json!({ "customer": "acme", "integration": "vendor", "fields": { "refresh_token": rig.canary.text() } });
    let answer = rig.admin("POST", "/v1/secrets", Some(&body.to_string()));
    assert_eq!((answer.status, answer.code()), (424, Code::CredentialUnusable.as_str()), "{}", answer.text());
    assert!(answer.text().contains("invalid_grant"), "{}", answer.text());
    let known = rig.admin("GET", "/v1/secrets?customer=acme", None).json();
    assert_eq!(known["secrets"].as_array().unwrap().len(), 1, "nothing was sealed");
}

#[test]
fn the_command_line_seals_untried_where_it_is_told_to() {
    let (oauth, vendor) = OAuth::start(3600);
    let rig = Rig::before(settings(&vendor, REFRESH), vendor);
    oauth.disconnect();
    let run = |more: &[&str]| {
        use std::io::Write;
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_relay"))
            .args([
                "secret",
                "add",
                "--customer",
                "acme",
                "--integration",
                "vendor",
                "--field",
                "refresh_token",
            ])
            .args(more)
            .env("RELAY_ADDR", rig.running().admin.to_string())
            .env("RELAY_ADMIN_TOKEN", crate::rig::ADMIN_TOKEN)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(rig.canary.text().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        rig.shown.lock().unwrap().extend_from_slice(&[output.stdout.as_slice(), &output.stderr].concat());
        output
    };
    let refused = run(&[]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("invalid_grant"), "{said}");
    let added = run(&["--no-verify"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    assert_eq!(String::from_utf8_lossy(&added.stdout).trim().len(), 36, "the UUID alone");
}
