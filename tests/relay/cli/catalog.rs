//! `relay catalog`, `relay check --effective`, and fields that are asked for by name, by the real binary.

use serde_json::Value;

use super::{Home, binary, err, finish, out};

fn relay(args: &[&str]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = binary(folder.path());
    command.args(args);
    finish(command, None)
}

fn said(args: &[&str]) -> String {
    let output = relay(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", err(&output));
    out(&output)
}

#[test]
fn the_catalogue_is_listed_and_searched() {
    let list = said(&["catalog", "list"]);
    assert_eq!(list.lines().count(), relay::catalog::usable().count());
    assert!(list.lines().any(|line| line.starts_with("slack ") && line.contains("https://")), "{list}");
    let json: Value = serde_json::from_str(&said(&["catalog", "list", "--format", "json"])).unwrap();
    assert_eq!(json.as_array().unwrap().len(), list.lines().count());
    assert_eq!(json[0]["use"], format!("catalog:{}", json[0]["name"].as_str().unwrap()));
    let found = said(&["catalog", "search", "CRM"]);
    assert!(found.contains("hubspot") && found.contains("pipedrive") && !found.contains("slack"), "{found}");
    let found = said(&["catalog", "search", "github"]);
    assert_eq!(found.lines().count(), 1, "{found}");
}

#[test]
fn what_the_catalogue_does_not_have_is_told_with_the_nearest() {
    for (args, wanted) in [
        (["catalog", "show", "slakc"], "did you mean slack?"),
        (["catalog", "search", "gihtub"], "did you mean github?"),
        (["catalog", "show", "zzzzzzzzz"], "`relay catalog list`"),
    ] {
        let output = relay(&args);
        assert_eq!(output.status.code(), Some(5), "{args:?}");
        assert!(err(&output).contains(wanted) && out(&output).is_empty(), "{}", err(&output));
    }
}

#[test]
fn an_entry_is_shown_as_what_to_paste() {
    let shown = said(&["catalog", "show", "twilio"]);
    for wanted in [
        "[integrations.twilio]\nuse = \"catalog:twilio\"\n",
        "# upstream = \"https://api.twilio.com\"\n",
        "# field account_sid: Account SID (not secret), such as AC...; see https://console.twilio.com\n",
        "# base URL in your code: http://127.0.0.1:8480/twilio/UUID, and the JWT for the key\n",
        "client.api.base_url = \"http://127.0.0.1:8480/twilio/UUID\"",
        "# to seal one: relay secret add --customer CUSTOMER --integration twilio < FILE\n",
    ] {
        assert!(shown.contains(wanted), "{wanted} is not in {shown}");
    }
    assert_eq!(said(&["catalog", "show", "catalog:Twilio"]), shown, "as `use` names it");
    let json: Value =
        serde_json::from_str(&said(&["--format", "json", "catalog", "show", "twilio"])).unwrap();
    assert_eq!(json["integration"]["fields"]["auth_token"]["label"], "Auth token");
    assert_eq!(json["about"]["title"], "Twilio API");
}

#[test]
fn what_show_prints_is_a_configuration_and_so_is_each_line_without_its_mark() {
    for entry in relay::catalog::usable() {
        let shown = said(&["catalog", "show", entry.name]);
        let pasted: toml::Table = shown.parse().unwrap_or_else(|why| panic!("{}: {why}", entry.name));
        assert_eq!(pasted["integrations"][entry.name]["use"].as_str().unwrap().len(), entry.name.len() + 8);
        let own: Vec<&str> = entry.written().lines().collect();
        let own: Vec<String> = own.iter().map(|line| format!("# {line}")).collect();
        assert!(shown.contains(&own.join("\n")), "{shown}");
    }
}

#[test]
fn check_effective_prints_what_holds_and_a_report_where_nothing_does() {
    let home = Home::new();
    let file = home.path("relay.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[integrations.chat]\nuse = \"catalog:slack\"\n")).unwrap();
    let said = home.ok(&["check", "--effective"], None);
    let line = said.lines().find(|line| line.starts_with("upstream = \"https://slack.com/api\"")).unwrap();
    assert!(line.ends_with("# catalog:slack"), "{line}");
    let number = text.lines().count() + 3;
    assert!(said.contains(&format!("# relay.toml:{number}\n")), "{said}");
    let json = home.ok(&["--format", "json", "check", "--effective"], None);
    let json: Value = serde_json::from_str(&json).unwrap();
    let settings = json["settings"].as_array().unwrap();
    let own = |s: &&Value| s["table"] == "integrations.chat" && s["key"] == "upstream";
    assert_eq!(settings.iter().find(own).unwrap()["origin"]["entry"], "slack");
    let plain = home.ok(&["--format", "json", "check"], None);
    assert!(serde_json::from_str::<Value>(&plain).unwrap().get("settings").is_none());
    std::fs::write(&file, format!("{text}\n[integrations.chat]\nuse = \"catalog:slakc\"\n")).unwrap();
    let output = home.relay(&["check", "--effective"], None);
    assert_eq!(output.status.code(), Some(3), "{}", out(&output));
    assert!(err(&output).contains("did you mean catalog:slack?") && out(&output).contains("invalid"));
}

#[test]
fn a_field_that_is_missing_is_asked_for_in_the_words_of_the_configuration() {
    let mut home = Home::new();
    let file = home.path("relay.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let words = "label = \"Password\", help = \"https://erp.example/keys\", example = \"pw-...\"";
    std::fs::write(&file, text.replace("label = \"Password\"", words)).unwrap();
    home.run();
    let output = home.relay(
        &["secret", "add", "--customer", "acme", "--integration", "pair"],
        Some(b"{\"user\":\"bot\"}"),
    );
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));
    let wanted = "Password, such as pw-...; see https://erp.example/keys";
    assert!(err(&output).contains(wanted), "{}", err(&output));
}

#[test]
fn an_entry_carries_a_request_and_what_it_denies_is_denied() {
    let mut home = Home::new();
    let file = home.path("relay.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let own = format!(
        "\n[integrations.hub]\nuse = \"catalog:github\"\nupstream = \"https://localhost:{}/api\"\nca_file = \"ca.pem\"\n\
         private_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\n",
        home.vendor.port
    );
    std::fs::write(&file, text + &own).unwrap();
    home.run();
    let value = format!("{}\n", home.canary.text());
    let add = ["secret", "add", "--customer", "acme", "--integration", "hub"];
    let id = home.ok(&add, Some(value.as_bytes())).trim_end().to_owned();
    let token = home.token("acme");
    assert_eq!(home.get(&format!("/hub/{id}/user"), &token).status, 200);
    assert_eq!(home.vendor.last().all("authorization"), [format!("Bearer {}", home.canary.text())]);
    assert_eq!(home.get(&format!("/hub/{id}/applications/x"), &token).code(), "request_denied");
}
