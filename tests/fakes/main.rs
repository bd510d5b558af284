//! The fakes of the clouds' key services, for other processes: drills and the clouds' own SDKs.
//!
//! `cargo test --test fakes -- [NAME...]` serves those that are named, or all. A line of JSON per fake says
//! where it is: `name`, `address`, `control`, and what else a client needs. Ends with standard input.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::disallowed_methods, clippy::print_stdout)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::print_stderr, clippy::too_many_lines)]

#[path = "../rig/clouds/mod.rs"]
mod clouds;

use std::io::Read;
use std::process::ExitCode;

use clouds::Fake;
use serde_json::{Value, json};

/// A fake, and what a client needs beside its address.
type Started = (Fake, Value);

/// A fake's name, and how it is started.
type Named = (&'static str, fn() -> Started);

const FAKES: &[Named] = &[("aws", aws), ("azure", azure), ("gcp", gcp)];

fn aws() -> Started {
    let kms = clouds::aws::AwsKms::start();
    let says = json!({ "region": clouds::aws::REGION, "keys": [clouds::aws::KEY, clouds::aws::OTHER_KEY] });
    (kms.fake, says)
}

fn azure() -> Started {
    use clouds::azure::{CLIENT, CLIENT_SECRET, HOST, KEY, TENANT};
    let (fake, _, ca_pem) = clouds::azure::start();
    let says = json!({
        "scheme": "https", "host": HOST, "ca_pem": ca_pem, "key": KEY,
        "tenant": TENANT, "client": CLIENT, "client_secret": CLIENT_SECRET,
    });
    (fake, says)
}

fn gcp() -> Started {
    use clouds::gcp::{KEY, RING};
    (clouds::gcp::start().0, json!({ "ring": RING, "key": KEY }))
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| !FAKES.iter().any(|(known, _)| known == name)) {
        let known: Vec<&str> = FAKES.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no fake named {unknown}; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let mut serving = Vec::new();
    for (name, start) in
        FAKES.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name))
    {
        let (fake, mut says) = start();
        let scheme = says["scheme"].as_str().unwrap_or("http").to_owned();
        says["name"] = json!(name);
        says["address"] = json!(format!("{scheme}://{}", fake.address));
        says["control"] = json!(format!("http://{}/control", fake.control));
        println!("{says}");
        serving.push(fake);
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}
