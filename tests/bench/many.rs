//! A thousand secrets of a hundred customers, each with its own token, in turn: no cache is right because
//! there is only one of everything.

use std::sync::Arc;

use crate::cases::{one_kib, total};
use crate::contenders::{Contender, Field, bearer, long_token};
use crate::plan::Plan;
use crate::rig::client::Client;
use crate::table::{Per, print, race};
use crate::vendor::credential_of;
use crate::wrk::Request;

const CUSTOMERS: usize = 100;
const SECRETS: usize = 1000;

pub fn run(plan: &Plan, field: &Field) -> u64 {
    plan.say("sealing secrets, minting tokens");
    let relay = field.relay();
    let many = requests(relay);
    // As many times, so that the load tool does the same.
    let one = vec![many[0].clone(); SECRETS];
    let runners = [one_kib("one secret", relay, one), one_kib("1,000 secrets", relay, many)];
    let rows = race(plan, Per::Request, &runners);
    print("many: GET, 1 KiB, 1,000 secrets of 100 customers in turn", Per::Request, &rows, "one secret");
    let mut summary = total("many", &rows);
    summary.figure("one_us", rows[0].cpu_us());
    summary.figure("many_us", rows[1].cpu_us());
    let ratio = rows[1].beside(&rows[0]);
    summary.ratio("one", ratio);
    summary.at_most("1,000 secrets / one secret", ratio.0, 1.15);
    summary.print(plan)
}

fn requests(relay: &Contender) -> Vec<Request> {
    let stage = relay.stage();
    let admin = bearer(&stage.admin_token());
    let mut api = Client::connect(stage.admin, Arc::default());
    let customer = |number: usize| format!("customer-{number:03}");
    let tokens: Vec<String> = (0..CUSTOMERS).map(|number| long_token(stage, &customer(number))).collect();
    let mut one = |number: usize| {
        let of = number % CUSTOMERS;
        let body = serde_json::json!({
            "customer": customer(of), "integration": "vendor", "fields": { "token": credential_of(number) },
        });
        let headers = [(admin.0.as_str(), admin.1.as_str()), ("content-type", "application/json")];
        let answer = api.request("POST", "/v1/secrets", &headers, body.to_string().as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
        let secret = answer.json()["id"].as_str().unwrap().to_owned();
        let headers = vec![bearer(&tokens[of]), ("relay-secret".to_owned(), secret)];
        Request { headers, ..relay.request("GET", &format!("/many/{number:04}"), 0) }
    };
    (0..SECRETS).map(&mut one).collect()
}
