//! A relay whose KMS is a fake of AWS's in this process, and customers with a secret each.

use std::time::{Duration, Instant};

use crate::figure::Plan;
use crate::paced::Load;
use crate::rig::client::Answer;
use crate::rig::clouds::aws::{AwsKms, KEY};
use crate::stage::{BuiltIn, Stage, integration};
use crate::stock::tokens;

pub struct Cloud {
    pub kms: AwsKms,
    pub stage: Stage,
    /// Each customer's secret and token.
    customers: Vec<(String, String)>,
    _vendor: BuiltIn,
}

impl Cloud {
    /// A running relay, started again after the secrets were added: no data key is at hand.
    pub fn set(plan: &Plan, customers: u64, keys: &str) -> Self {
        let kms = AwsKms::start();
        let vendor = BuiltIn::start(&plan.relay);
        let mut stage = Stage::set(&plan.relay, "", &integration("vendor", &vendor.origin, &vendor.ca));
        for (name, value) in [
            ("AWS_ACCESS_KEY_ID", "drill"),
            ("AWS_SECRET_ACCESS_KEY", "drill"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ] {
            stage.environment.push((name.to_owned(), value.to_owned()));
        }
        let mut cloud = Self { kms, stage, customers: Vec::new(), _vendor: vendor };
        cloud.keys(keys);
        cloud.stage.start();
        let token = cloud.stage.admin_token();
        let tokens = tokens(&cloud.stage, 0..customers);
        cloud.customers = tokens
            .into_iter()
            .enumerate()
            .map(|(number, caller)| {
                let body = serde_json::json!({
                    "customer": format!("customer-{number:07}"),
                    "integration": "vendor",
                    "fields": { "token": format!("sk-cloud-0123456789abcdef-{number:07}") },
                });
                let added = cloud.stage.call("POST", "/v1/secrets", &token, &body.to_string());
                assert_eq!(added.status, 201, "{}", added.text());
                (added.json()["id"].as_str().unwrap().to_owned(), caller)
            })
            .collect();
        cloud.again();
        cloud
    }

    /// Other lines in `[keys]`; they count from the next start on.
    pub fn keys(&self, lines: &str) {
        let endpoint = self.kms.endpoint();
        let aws = format!("provider = \"aws\"\nkey = \"{KEY}\"\nendpoint = \"{endpoint}\"\n{lines}\n");
        self.stage.keep_keys_by(&aws);
    }

    /// Starts relay again: nothing is at hand.
    pub fn again(&mut self) {
        self.stage.stop();
        self.stage.start();
    }

    pub fn ask(&self, customer: usize) -> Answer {
        let (id, token) = &self.customers[customer];
        let bearer = format!("Bearer {token}");
        self.stage.client().request("GET", &format!("/vendor/{id}/hello"), &[("authorization", &bearer)], b"")
    }

    pub fn request(&self, customer: usize) -> Vec<u8> {
        let (id, token) = &self.customers[customer];
        format!("GET /vendor/{id}/hello HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {token}\r\n\r\n")
            .into_bytes()
    }

    /// A load on the first so many customers, each of which is used once before.
    pub fn load(&self, customers: usize, per_second: u64) -> Load {
        for customer in 0..customers {
            let answer = self.ask(customer);
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let requests = (0..customers).map(|customer| self.request(customer)).collect();
        Load { address: self.stage.app, requests, per_second }
    }

    /// Seconds until this customer's use is answered so.
    pub fn until(&self, customer: usize, status: u16, code: &str, most: Duration) -> Option<f64> {
        let begun = Instant::now();
        while begun.elapsed() < most {
            let answer = self.ask(customer);
            if answer.status == status && answer.code() == code {
                return Some(begun.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// What relay itself counted of one operation's calls.
    pub fn counted(&self, operation: &str) -> u64 {
        let text = self.stage.call("GET", "/metrics", "", "").text();
        let lines = text.lines().filter(|line| line.starts_with("relay_kms_calls_total{"));
        let wanted = format!("operation=\"{operation}\"");
        let counts = lines.filter(|line| line.contains(&wanted)).filter_map(|line| line.rsplit(' ').next());
        counts.map(|count| count.parse::<f64>().unwrap() as u64).sum()
    }
}
