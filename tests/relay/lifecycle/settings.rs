//! `oauth2`, `login` and `verify` in relay.toml: each mistake is an error at its place, and no secret is quoted.

use std::path::Path;

use relay::config::{self, Config, Files, Report, Severity};

const HEAD: &str = r#"[server]
listen = "127.0.0.1:8480"
[callers]
jwks = "file:jwks.json"
issuer = "https://auth.saas.example"
audience = "relay"
algorithms = ["ES256"]
customer = "customer_id"
[keys]
provider = "local"
file = "relay.key"
[store]
engine = "sled"
path = "relay.db"
[audit]
path = "audit.jsonl"
[admin]
token = "env:ADMIN"
[integrations.crm]
upstream = "https://crm.example/api"
"#;

const INJECT: &str = "inject = [{ header = \"authorization\", value = \"Bearer {access_token}\" }]";
const TOKEN: &str = "token = \"https://login.example/token\"";

fn judged(lines: &str) -> (Option<Config>, Report) {
    let text = format!("{HEAD}{lines}\n");
    let variables =
        [("ADMIN".to_owned(), "a".repeat(32)), ("CLIENT".to_owned(), "operator-secret".to_owned())];
    config::examine(&text, "relay.toml", Path::new("/nonexistent"), &variables, Files::Optional)
}

#[test]
fn what_is_right_is_taken_without_a_warning() {
    let rows = [
        format!("oauth2 = {{ grant = \"refresh_token\", {TOKEN}, client_id = \"app\" }}"),
        format!("oauth2 = {{ grant = \"refresh_token\", {TOKEN}, client_id = \"app\", client_secret = \"env:CLIENT\", auth = \"basic\" }}"),
        format!("oauth2 = {{ grant = \"client_credentials\", {TOKEN} }}"),
        format!("oauth2 = {{ grant = \"client_credentials\", {TOKEN}, client_id = \"app\", client_secret = \"env:CLIENT\" }}\nfields = {{ tenant = {{ secret = false }} }}")
            .replace("grant", "parameters = { tenant = \"{tenant}\" }, grant"),
        format!("fields = {{ mail = {{}}, pem = {{}} }}\noauth2 = {{ grant = \"jwt_bearer\", {TOKEN}, assertion = {{ issuer = \"{{mail}}\", key = \"{{pem}}\" }} }}"),
        "fields = { user = {}, password = {} }\nlogin = { post = \"/login\", form = { u = \"{user}\", password = \"{password}\", app = \"web\" }, token = \"/token\" }".to_owned(),
        "verify = { get = \"/me\", json = \"/ok\", equals = \"yes\" }\noauth2 = { grant = \"refresh_token\", token = \"https://crm.example/token\", client_id = \"app\" }".to_owned(),
    ];
    for row in rows {
        let (config, report) = judged(&format!("{INJECT}\n{row}"));
        let told: Vec<_> =
            report.findings().iter().filter(|f| !f.message.contains("does not exist")).collect();
        assert!(
            config.is_some() && told.iter().all(|f| f.message.contains("no secret field")),
            "{row}: {report}"
        );
    }
}

#[test]
fn each_mistake_is_told_with_its_fix() {
    let refresh = |more: &str| format!("{INJECT}\noauth2 = {{ grant = \"refresh_token\", {TOKEN}{more} }}");
    let login =
        |keys: &str| format!("{INJECT}\nfields = {{ user = {{}}, password = {{}} }}\nlogin = {{ {keys} }}");
    let json = "json = { u = \"{user}\", p = \"{password}\" }";
    let static_key = "inject = [{ header = \"authorization\", value = \"Bearer {token}\" }]";
    let rows = [
        (format!("{INJECT}\noauth2 = {{ {TOKEN}, client_id = \"a\" }}"), "has no grant", "no grant"),
        (refresh(""), "has no client_id", "nobody asks"),
        (
            refresh(", client_id = \"a\", client_secret = \"literal\""),
            "client_secret is a secret and may not stand",
            "a literal secret",
        ),
        (refresh(", client_id = \"a\", grnat = 1"), "unknown key \"grnat\"", "an unknown key"),
        (refresh(", client_id = \"{nothing}\""), "{nothing} is not one of its fields", "an undeclared field"),
        (refresh(", client_id = \"a\", auth = \"digest\""), "auth is not one of those", "another auth"),
        (refresh(", client_id = \"a\", lifetime = \"1s\""), "lifetime must be from", "no life"),
        (
            refresh(", client_id = \"a\", answer = { token = \"token\" }"),
            "token is no JSON pointer",
            "no pointer",
        ),
        (
            refresh(", client_id = \"a\", assertion = { issuer = \"x\" }"),
            "is for grant = \"jwt_bearer\" alone",
            "an assertion for nothing",
        ),
        (
            refresh(", client_id = \"a\", parameters = { api_key = \"literal\" }"),
            "api_key is a secret",
            "a literal key",
        ),
        (
            refresh(", client_id = \"a\"").replace("https://login", "http://login"),
            "token is http",
            "in the clear",
        ),
        (
            refresh(", client_id = \"a\"").replace("login.example/token", "login.example/a/../token"),
            "no clear path",
            "dots",
        ),
        (
            refresh(", client_id = \"a\"").replace("login.example", "{host}.example"),
            "has a template",
            "a host that a customer chooses",
        ),
        (
            refresh(", client_id = \"a\"").replace("login.example", "user@login.example"),
            "has a user or a password",
            "a user in the address",
        ),
        (
            refresh(", client_id = \"a\"").replace("refresh_token\"", "password\""),
            "grant is not one of those",
            "another grant",
        ),
        (
            refresh(", client_id = \"a\"").replace("{access_token}", "x"),
            "credential may not stand",
            "a token that goes nowhere",
        ),
        (
            refresh(", client_id = \"a\"") + "\nfields = { refresh_token = {}, access_token = {} }",
            "put there themselves",
            "a field of that name",
        ),
        (
            format!("{INJECT}\noauth2 = {{ grant = \"jwt_bearer\", {TOKEN} }}"),
            "has no assertion",
            "nothing is signed",
        ),
        (
            format!(
                "{INJECT}\noauth2 = {{ grant = \"jwt_bearer\", {TOKEN}, assertion = {{ issuer = \"x\", key = \"-----BEGIN\" }} }}"
            ),
            "key is a secret",
            "a literal key",
        ),
        (
            format!(
                "{}\nlogin = {{ post = \"/l\", {json}, token = \"/t\" }}",
                refresh(", client_id = \"a\"")
            ),
            "both oauth2 and login",
            "both",
        ),
        (login(&format!("post = \"/l\", {json}")), "has no token", "an answer that is not read"),
        (login("post = \"/l\", token = \"/t\""), "has no json", "nothing is said"),
        (
            login(&format!("post = \"https://elsewhere.example/l\", {json}, token = \"/t\"")),
            "no clear path",
            "another origin",
        ),
        (
            login("post = \"/l\", token = \"/t\", json = { u = \"{user}\", password = \"hunter2hunter2\" }"),
            "password is a secret",
            "a literal password",
        ),
        (format!("{static_key}\nverify = {{ expect = 200 }}"), "has no get", "no call"),
        (
            format!("{static_key}\nverify = {{ get = \"/a\", post = \"/b\" }}"),
            "both get and post",
            "two calls",
        ),
        (format!("{static_key}\nverify = {{ get = \"me\" }}"), "no clear path", "a relative path"),
        (
            format!("{static_key}\nverify = {{ get = \"/me\", json = \"/ok\" }}"),
            "has no equals",
            "half of a question",
        ),
        (
            format!("{static_key}\nverify = {{ get = \"/me\", equals = true }}"),
            "has no json",
            "the other half",
        ),
        (
            format!("{static_key}\nverify = {{ get = \"/me\", json = \"/a\", equals = [1] }}"),
            "equals is a text",
            "a list",
        ),
        (INJECT.to_string(), "{access_token} is not one of its fields", "no oauth2 and no login"),
    ];
    for (lines, wanted, mistake) in rows {
        let (config, report) = judged(&lines);
        let errors: Vec<_> = report.findings().iter().filter(|f| f.severity == Severity::Error).collect();
        assert!(config.is_none(), "{mistake}: taken");
        assert!(errors.iter().any(|f| f.message.contains(wanted) && f.line.is_some()), "{mistake}: {report}");
        for literal in ["literal", "hunter2", "BEGIN"] {
            assert!(!report.to_string().contains(literal), "{mistake}: quoted: {report}");
        }
    }
}
