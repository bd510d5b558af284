use std::sync::Arc;

use relay::app::Options;
use relay::model::{Customer, SecretId};
use relay::refusal::Code;
use relay::store::memory::Memory;
use relay::store::{Expected, SecretRow, Store};

use crate::refusals::refused;
use crate::rig::client::Answer;
use crate::rig::vendor::{self, Vendor};
use crate::rig::vendor_http2;
use crate::rig::{Rig, Settings};

/// An integration whose host is each customer's own, and what its fields may be.
const SHOP: &str = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n\
    [integrations.vendor.fields]\ntoken = { label = \"Token\" }\n\
    shop = { label = \"Shop\", secret = false, match = \"[a-z0-9-]{2,40}\" }\n";

/// The same with any host.
const ANY: &str = "any_host_danger = true\ninject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n\
    [integrations.vendor.fields]\ntoken = { label = \"Token\" }\n\
    shop = { label = \"Shop\", secret = false, match = \"[a-z0-9.-]{1,300}(:[0-9]{1,6})?\" }\n";

fn shops(upstream: &str, integration: &str) -> Rig {
    before(Vendor::start(|_, out| vendor::answer(out, 200, &[], b"ok")), upstream, integration)
}

fn before(vendor: Vendor, upstream: &str, integration: &str) -> Rig {
    let upstream = Some(upstream.replace("{PORT}", &vendor.port.to_string()));
    Rig::before(
        Settings { upstream, workers: 1, integration: integration.to_owned(), ..Settings::default() },
        vendor,
    )
}

fn plain() -> Rig {
    shops("https://{shop}.shop.localhost:{PORT}/base", SHOP)
}

/// Adds the canary for a customer whose fields are these beside the token.
fn sealed(rig: &Rig, customer: &str, fields: &[(&str, &str)]) -> String {
    let canary = rig.canary.text().to_owned();
    let all: Vec<(&str, &str)> = fields.iter().copied().chain([("token", canary.as_str())]).collect();
    rig.secret_with(customer, "vendor", &all)
}

fn asked(rig: &Rig, customer: &str, fields: &serde_json::Value) -> Answer {
    let mut fields = fields.clone();
    fields["token"] = rig.canary.text().into();
    let body = serde_json::json!({ "customer": customer, "integration": "vendor", "fields": fields });
    rig.admin("POST", "/v1/secrets", Some(&body.to_string()))
}

fn shown(rig: &Rig, id: &str) -> serde_json::Value {
    rig.admin("GET", &format!("/v1/secrets/{id}"), None).json()
}

fn call(rig: &Rig, customer: &str, id: &str) -> Answer {
    rig.get(&format!("/vendor/{id}/x"), &rig.token(customer))
}

#[test]
fn each_customers_secret_goes_to_its_own_host() {
    let rig = plain();
    let port = rig.vendor.port;
    let secrets =
        ["acme", "globex"].map(|customer| (customer, sealed(&rig, customer, &[("shop", customer)])));
    for (customer, id) in &secrets {
        let answer = call(&rig, customer, id);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let got = rig.vendor.last();
        assert_eq!(got.header("host"), Some(format!("{customer}.shop.localhost:{port}").as_str()));
        assert_eq!(got.target(), "/base/x");
        assert_eq!(got.header("authorization"), Some(format!("Bearer {}", rig.canary.text()).as_str()));
        let origin = format!("https://{customer}.shop.localhost:{port}");
        assert_eq!(shown(&rig, id)["origin"], origin.as_str());
        let records =
            rig.audit_until(|all| all.iter().any(|r| r["kind"] == "outcome" && r["customer"] == *customer));
        let own: Vec<_> = records
            .iter()
            .filter(|r| r["customer"] == *customer && (r["kind"] == "intent" || r["kind"] == "outcome"))
            .collect();
        assert!(own.len() == 2 && own.iter().all(|r| r["origin"] == origin.as_str()), "{own:?}");
    }
    refused(&call(&rig, "acme", &secrets[1].1), Code::SecretNotFound);
    let records = rig.audit_until(|all| all.iter().any(|r| r["kind"] == "refused"));
    let told = records.iter().find(|r| r["kind"] == "refused").unwrap();
    assert_eq!(
        told["origin"],
        format!("https://{{shop}}.shop.localhost:{port}").as_str(),
        "it is not known whose"
    );
}

#[test]
fn what_is_more_than_a_part_of_a_host_is_not_taken_and_not_repeated() {
    let rig = plain();
    let long = "a".repeat(41);
    let rows = [
        ("evil.com#", "a host of its own, and the rest a fragment"),
        ("evil.com/", "and the rest a path"),
        ("evil.com?", "and the rest a query"),
        ("a.evil.com/", "the same, deeper"),
        ("user@evil", "and what stands before it a user"),
        ("evil.example", "a dot"),
        ("acme.", "a dot at the end"),
        (".acme", "a dot at the beginning"),
        ("..", "dots alone"),
        ("acme:8443", "a port"),
        ("acme\\evil", "a backslash"),
        ("acme%2eevil", "an escaped dot"),
        ("acme evil", "a space"),
        ("Acme", "a capital: the same host in two spellings"),
        ("m\u{fc}nchen", "a letter outside ASCII"),
        ("ac\u{ff0e}me", "a full-width dot"),
        ("xn--mnchen-3ya", "punycode"),
        ("-acme", "a hyphen at the beginning"),
        ("acme-", "a hyphen at the end"),
        (long.as_str(), "too long"),
        ("a", "too short"),
        ("", "nothing"),
    ];
    for (value, mistake) in rows {
        let answer = asked(&rig, "acme", &serde_json::json!({ "shop": value }));
        assert_eq!(
            (answer.status, answer.code()),
            (400, "request_malformed"),
            "{mistake}: {}",
            answer.text()
        );
        let said = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(said.starts_with("shop: "), "{mistake}: {said}");
        assert!(value.len() < 3 || !said.contains(value), "{mistake}: the value is repeated: {said}");
    }
    let said = asked(&rig, "acme", &serde_json::json!({ "shop": "a.b" })).json();
    let said = said["message"].as_str().unwrap();
    assert!(said.contains("\"Shop\"") && said.contains("[a-z0-9-]{2,40}"), "{said}");
    assert!(rig.vendor.requests().is_empty());
    // What is no secret of anyone's is not listed either.
    assert_eq!(rig.admin("GET", "/v1/secrets?customer=acme", None).json()["secrets"], serde_json::json!([]));
}

#[test]
fn the_request_has_no_say_in_where_it_goes() {
    let rig = plain();
    let port = rig.vendor.port;
    let id = sealed(&rig, "acme", &[("shop", "acme")]);
    let auth = format!("Bearer {}", rig.token("acme"));
    let rows: [(&str, &str, &str); 4] = [
        ("host", "evil.shop.localhost", "its Host"),
        ("x-forwarded-host", "evil.shop.localhost", "a forwarded host"),
        ("relay-host", "evil.shop.localhost", "a field of relay's own kind"),
        ("shop", "evil", "a header named as the field"),
    ];
    for (name, value, mistake) in rows {
        let host = if name == "host" { value } else { "relay.test" };
        let more = if name == "host" { String::new() } else { format!("{name}: {value}\r\n") };
        let mut client = rig.client();
        client.send(&format!(
            "GET /vendor/{id}/x?shop=evil HTTP/1.1\r\nhost: {host}\r\n{more}authorization: {auth}\r\n\r\n"
        ));
        assert_eq!(client.answer("GET").status, 200, "{mistake}");
        let wanted = format!("acme.shop.localhost:{port}");
        assert_eq!(rig.vendor.last().header("host"), Some(wanted.as_str()), "{mistake}");
    }
}

/// A rig over a store that the test holds as well.
fn over(store: &Arc<Memory>, upstream: &str, integration: &str) -> Rig {
    let vendor = Vendor::start(|_, out| vendor::answer(out, 200, &[], b"ok"));
    let upstream = Some(upstream.replace("{PORT}", &vendor.port.to_string()));
    let store = store.clone();
    let options = Box::new(move || Options { store: Some(store.clone()), ..Options::default() });
    Rig::before(
        Settings { upstream, integration: integration.to_owned(), options, ..Settings::default() },
        vendor,
    )
}

/// The stored row with one text in its head put in another's place.
fn edited(row: &SecretRow, from: &str, to: &str) -> SecretRow {
    assert_eq!(from.len(), to.len());
    let mut head = row.head.to_vec();
    let at = memchr::memmem::find(&head, from.as_bytes()).expect("the head holds it");
    head[at..at + from.len()].copy_from_slice(to.as_bytes());
    SecretRow { head: head.into(), ..row.clone() }
}

#[test]
fn a_frozen_place_that_is_edited_in_the_store_is_refused() {
    let store = Arc::new(Memory::new());
    let fields =
        format!("{SHOP}account = {{ label = \"Account\", secret = false, match = \"[0-9]{{4}}\" }}\n");
    let rig = over(&store, "https://{shop}.shop.localhost:{PORT}/accounts/{account}", &fields);
    let id = sealed(&rig, "acme", &[("shop", "acme"), ("account", "1234")]);
    assert_eq!(call(&rig, "acme", &id).status, 200);
    let customer = Customer::parse("acme").unwrap();
    let secret = SecretId::parse(&id).unwrap();
    let good = rig.runtime().block_on(store.secret(&customer, secret)).unwrap().unwrap();
    for (from, to, mistake) in [
        ("acme.shop.localhost", "evil.shop.localhost", "another host of the same template"),
        ("/accounts/1234", "/accounts/6666", "another base path of the same template"),
    ] {
        let row = edited(&good, from, to);
        rig.runtime().block_on(store.put_secret(row.clone(), Expected::Head(good.head.clone()))).unwrap();
        let seen = rig.vendor.requests().len();
        let mut answer = call(&rig, "acme", &id);
        for _ in 0..200 {
            if answer.status != 200 {
                break;
            }
            // The change is on its way to the cache of records.
            std::thread::sleep(std::time::Duration::from_millis(10));
            answer = call(&rig, "acme", &id);
        }
        refused(&answer, Code::CredentialUnusable);
        assert!(
            rig.vendor.requests()[seen..]
                .iter()
                .all(|r| !r.head.contains("evil") && !r.head.contains("6666"))
        );
        rig.runtime().block_on(store.put_secret(good.clone(), Expected::Head(row.head))).unwrap();
        let again = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            call(&rig, "acme", &id).status == 200
        });
        assert!(again, "{mistake}: the good row serves again");
    }
}

#[test]
fn a_template_that_the_frozen_place_does_not_fit_makes_it_unusable_until_it_is_sealed_anew() {
    let mut rig = plain();
    let port = rig.vendor.port;
    let id = sealed(&rig, "acme", &[("shop", "acme")]);
    let usable = |rig: &Rig| call(rig, "acme", &id);
    assert_eq!(usable(&rig).status, 200);
    let narrower = SHOP.replace("[a-z0-9-]{2,40}", "[0-9]{2,40}");
    let rows = [
        (format!("https://{{shop}}.new.shop.localhost:{port}/base"), SHOP, "another domain"),
        (format!("https://{{shop}}.shop.localhost:{}/base", port ^ 1), SHOP, "another port"),
        (format!("https://x-{{shop}}.shop.localhost:{port}/base"), SHOP, "a fixed beginning"),
        (format!("https://{{shop}}.shop.localhost:{port}/base"), narrower.as_str(), "a narrower match"),
        (format!("https://shop.shop.localhost:{port}/{{shop}}"), SHOP, "a host of its own no longer"),
    ];
    for (upstream, integration, mistake) in rows {
        rig.restart_with(|settings| {
            settings.upstream = Some(upstream);
            settings.integration = integration.to_owned();
        });
        let answer = usable(&rig);
        assert_eq!(answer.code(), Code::CredentialUnusable.as_str(), "{mistake}");
        refused(&answer, Code::CredentialUnusable);
    }
    let canary = rig.canary.text().to_owned();
    let body = serde_json::json!({ "fields": { "shop": "acme", "token": canary } }).to_string();
    let added = rig.admin("POST", &format!("/v1/secrets/{id}/versions"), Some(&body));
    assert_eq!(added.status, 201, "{}", added.text());
    assert_eq!(usable(&rig).status, 200, "the last of them, with a new version");
    assert_eq!(rig.vendor.last().target(), "/acme/x");
    assert_eq!(added.json()["base_path"], "/acme");
    let back = rig.admin("POST", &format!("/v1/secrets/{id}/rollback"), Some("{\"to\":1}"));
    assert_eq!(back.status, 400, "a version for another place is not put back: {}", back.text());
    let fixed = format!("https://acme.shop.localhost:{port}/base");
    rig.restart_with(|settings| settings.upstream = Some(fixed));
    refused(&usable(&rig), Code::CredentialUnusable);
}

#[test]
fn a_new_version_freezes_the_place_that_its_own_values_make() {
    let rig = plain();
    let id = sealed(&rig, "acme", &[("shop", "acme")]);
    assert_eq!(call(&rig, "acme", &id).status, 200);
    let canary = rig.canary.text().to_owned();
    let body = serde_json::json!({ "fields": { "shop": "acme-eu", "token": canary } }).to_string();
    assert_eq!(rig.admin("POST", &format!("/v1/secrets/{id}/versions"), Some(&body)).status, 201);
    let wanted = format!("acme-eu.shop.localhost:{}", rig.vendor.port);
    let moved = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert_eq!(call(&rig, "acme", &id).status, 200);
        rig.vendor.last().header("host") == Some(wanted.as_str())
    });
    assert!(moved);
}

#[test]
fn a_host_inside_the_own_network_is_refused_by_the_same_rules_as_any() {
    let more = "[integrations.closed]\nupstream = \"https://{shop}.shop.localhost:{PORT}\"\nca_file = \"ca.pem\"\n\
        inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n\
        [integrations.closed.fields]\ntoken = { label = \"Token\" }\n\
        shop = { label = \"Shop\", secret = false, match = \"[a-z]+\" }\n";
    let rig = Rig::with(Settings { more: more.to_owned(), ..Settings::default() }, |_, out| {
        vendor::answer(out, 200, &[], b"ok");
    });
    let canary = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "closed", &[("shop", "acme"), ("token", &canary)]);
    refused(&rig.get(&format!("/closed/{id}/x"), &rig.token("acme")), Code::EgressDenied);
    assert!(rig.vendor.requests().is_empty());
}

#[test]
fn references_are_kept_inside_the_own_host_and_left_alone_outside() {
    let vendor = Vendor::start(|request, out| {
        let host = request.header("host").unwrap().to_owned();
        let sibling = host.replace("acme", "globex");
        let location = match request.target() {
            "/base/own" => format!("https://{host}/base/next"),
            "/base/relative" => "/base/next".to_owned(),
            "/base/outside" => "/other".to_owned(),
            _ => format!("https://{sibling}/base/next"),
        };
        vendor::answer(out, 302, &[("location", &location)], b"");
    });
    let rig = before(vendor, "https://{shop}.shop.localhost:{PORT}/base", SHOP);
    let id = sealed(&rig, "acme", &[("shop", "acme")]);
    let token = rig.token("acme");
    let own = format!("http://relay.test/vendor/{id}/next");
    let sibling = format!("https://globex.shop.localhost:{}/base/next", rig.vendor.port);
    for (path, wanted, what) in [
        ("own", &own, "the own host"),
        ("relative", &own, "a path"),
        ("sibling", &sibling, "another customer's host is another origin"),
    ] {
        let answer = rig.get(&format!("/vendor/{id}/{path}"), &token);
        assert_eq!((answer.status, answer.header("location")), (302, Some(wanted.as_str())), "{what}");
    }
    refused(&rig.get(&format!("/vendor/{id}/outside"), &token), Code::ResponseRefused);
    let hosts: Vec<_> = rig.vendor.requests().iter().map(|r| r.header("host").unwrap().to_owned()).collect();
    assert!(
        hosts.len() == 4 && hosts.iter().all(|host| host.starts_with("acme.")),
        "none was followed: {hosts:?}"
    );
}

#[test]
fn a_base_path_of_the_customers_own_is_frozen_too() {
    let integration = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]\n\
        [integrations.vendor.fields]\ntoken = { label = \"Token\" }\n\
        account = { label = \"Account\", secret = false, match = \"[A-Za-z0-9._~:@-]{1,64}\" }\n";
    let vendor = Vendor::start(|request, out| match request.target() {
        "/accounts/AC12/v1/own" => vendor::answer(out, 302, &[("location", "/accounts/AC12/v1/next")], b""),
        "/accounts/AC12/v1/sibling" => vendor::answer(out, 302, &[("location", "/accounts/AC99/v1/x")], b""),
        _ => vendor::answer(out, 200, &[], b"ok"),
    });
    let rig = before(vendor, "https://localhost:{PORT}/accounts/{account}/v1", integration);
    for (value, mistake) in [
        ("..", "a dot segment"),
        (".", "another"),
        ("a/b", "two segments"),
        ("a%2fb", "an escape"),
        ("a?b", "a query"),
        ("a#b", "a fragment"),
        ("a;b", "a parameter"),
    ] {
        let answer = asked(&rig, "acme", &serde_json::json!({ "account": value }));
        assert_eq!(answer.status, 400, "{mistake}: {}", answer.text());
    }
    let id = sealed(&rig, "acme", &[("account", "AC12")]);
    assert_eq!(shown(&rig, &id)["base_path"], "/accounts/AC12/v1");
    assert_eq!(call(&rig, "acme", &id).status, 200);
    assert_eq!(rig.vendor.last().target(), "/accounts/AC12/v1/x");
    let token = rig.token("acme");
    let own = rig.get(&format!("/vendor/{id}/own"), &token);
    assert_eq!(own.header("location"), Some(format!("http://relay.test/vendor/{id}/next").as_str()));
    refused(&rig.get(&format!("/vendor/{id}/sibling"), &token), Code::ResponseRefused);
    refused(&rig.get(&format!("/vendor/{id}/../AC99/v1/x"), &token), Code::PathRefused);
}

#[test]
fn any_host_still_is_the_name_of_a_host() {
    let rig = shops("https://{shop}/base", ANY);
    let long = format!("{}.example", "a.".repeat(130));
    let label = format!("{}.example", "a".repeat(64));
    for (value, mistake) in [
        ("127.0.0.1", "an address"),
        ("10.1", "a short one"),
        ("host.0x7f", "a last label that is a number"),
        ("2130706433", "an address as one number"),
        ("localhost", "a name without a domain"),
        ("a..example", "an empty label"),
        ("a.example.", "a dot at the end"),
        (".a.example", "a dot at the beginning"),
        ("-a.example", "a label that begins with a hyphen"),
        ("a.example:0", "port 0"),
        ("a.example:99999", "a port that is none"),
        ("a.example:", "a colon without a port"),
        ("user@a.example", "a user"),
        ("a.example/x", "a path"),
        ("[::1]", "an IPv6 address"),
        (long.as_str(), "too long a name"),
        (label.as_str(), "too long a label"),
    ] {
        let answer = asked(&rig, "acme", &serde_json::json!({ "shop": value }));
        assert_eq!(answer.status, 400, "{mistake}: {}", answer.text());
    }
    let own = format!("acme.shop.localhost:{}", rig.vendor.port);
    let id = sealed(&rig, "acme", &[("shop", &own)]);
    assert_eq!(call(&rig, "acme", &id).status, 200);
    assert_eq!(rig.vendor.last().header("host"), Some(own.as_str()));
    assert_eq!(shown(&rig, &id)["origin"], format!("https://{own}").as_str());
}

#[test]
fn customers_share_a_connection_to_a_fixed_domain_and_none_to_any_host() {
    for (upstream, integration, shared) in
        [("https://{shop}.shop.localhost:{PORT}/base", SHOP, true), ("https://{shop}/base", ANY, false)]
    {
        let rig = shops(upstream, integration);
        let any = format!("same.shop.localhost:{}", rig.vendor.port);
        let shop = if shared { "same" } else { any.as_str() };
        let secrets =
            ["acme", "globex"].map(|customer| (customer, sealed(&rig, customer, &[("shop", shop)])));
        for (customer, id) in &secrets {
            for _ in 0..2 {
                assert_eq!(call(&rig, customer, id).status, 200);
            }
        }
        let connections: Vec<_> = rig.vendor.requests().iter().map(|r| r.connection).collect();
        assert_eq!(
            (connections[0], connections[2]),
            (connections[1], connections[3]),
            "a customer's own is used again"
        );
        assert_eq!(connections[0] == connections[2], shared, "{upstream}");
    }
    // Two hosts never share one, whoever asks.
    let rig = plain();
    let ids = ["one", "two"].map(|shop| sealed(&rig, "acme", &[("shop", shop)]));
    ids.iter().for_each(|id| assert_eq!(call(&rig, "acme", id).status, 200));
    let [one, two] = rig.vendor.requests().try_into().unwrap();
    assert_ne!(one.connection, two.connection);
}

#[test]
fn a_host_of_the_customers_own_is_moved_by_a_new_version_and_not_by_a_rebind() {
    let rig = plain();
    let id = sealed(&rig, "acme", &[("shop", "acme")]);
    let body = "{\"from\":[\"https://acme.old.example\"]}";
    let answer = rig.admin("POST", "/v1/integrations/vendor/rebind", Some(body));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("relay secret rotate"), "{}", answer.text());
    assert_eq!(call(&rig, "acme", &id).status, 200);
}

#[test]
fn an_integration_that_is_renamed_keeps_its_customers_places() {
    let named = |name: &str| {
        format!(
            "[integrations.{name}]\nupstream = \"https://{{shop}}.shop.localhost:{{PORT}}/base\"\nca_file = \"ca.pem\"\n\
             private_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\n{}",
            SHOP.replace("integrations.vendor", &format!("integrations.{name}"))
        )
    };
    let mut rig = Rig::with(Settings { more: named("shop"), ..Settings::default() }, |_, out| {
        vendor::answer(out, 200, &[], b"ok");
    });
    let canary = rig.canary.text().to_owned();
    let id = rig.secret_with("acme", "shop", &[("shop", "acme"), ("token", &canary)]);
    rig.restart_with(|settings| settings.more = named("store"));
    refused(&rig.get(&format!("/store/{id}/x"), &rig.token("acme")), Code::SecretNotFound);
    let begun = rig.admin("POST", "/v1/integrations/store/rebind", Some("{\"from\":[\"shop\"]}"));
    assert!((200..300).contains(&begun.status), "{}", begun.text());
    let moved = (0..300).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        rig.get(&format!("/store/{id}/x"), &rig.token("acme")).status == 200
    });
    assert!(moved);
    assert_eq!(
        rig.vendor.last().header("host"),
        Some(format!("acme.shop.localhost:{}", rig.vendor.port).as_str())
    );
}

#[test]
fn over_http2_each_host_has_its_own_connection_and_authority() {
    let vendor = vendor_http2::start(|_| Box::pin(async { http::Response::new(vendor_http2::whole("ok")) }));
    let rig = before(vendor, "https://{shop}.shop.localhost:{PORT}/base", SHOP);
    let port = rig.vendor.port;
    for (number, shop) in ["one", "two", "one"].into_iter().enumerate() {
        let id = sealed(&rig, "acme", &[("shop", shop)]);
        assert_eq!(call(&rig, "acme", &id).status, 200);
        let got = rig.vendor.last();
        assert_eq!(got.target(), format!("https://{shop}.shop.localhost:{port}/base/x"));
        assert_eq!(got.connection, number % 2, "{shop}");
    }
}
