//! How often the KMS is called: no more than the ages ask for, however many requests there are, and a cold
//! start of many customers is one call each, in turn.
//!
//! The bound is that of the ages: each data key is unwrapped once, and again each time that it is used past
//! `refresh_after`; beside it stands the probe, every 30 s. Both counts are of the fake KMS, not of relay.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::cloud::Cloud;
use crate::figure::{Figure, Plan};

/// Customers under load, and of the cold start.
const IN_USE: u64 = 50;
/// The default of `[keys]`.
const AT_ONCE: u64 = 64;
/// What the KMS takes for one call in the cold start.
const LATENCY: Duration = Duration::from_millis(20);

pub fn run(plan: &Plan) -> Figure {
    let (per_second, lasting) = (plan.size(200, 1000), plan.size(10, 300));
    let (soft, all) = (plan.size(2, 30), plan.size(300, 500));
    let ages = format!("refresh_after = \"{soft}s\"\nserve_at_most = \"30m\"");
    let mut cloud = Cloud::set(plan, all, &ages);

    plan.say("load");
    let before = cloud.kms.calls("Decrypt");
    let begun = Instant::now();
    let load = cloud.load(IN_USE as usize, per_second);
    let paced = load.run(Duration::from_secs(lasting), &AtomicBool::new(true));
    let seconds = begun.elapsed().as_secs_f64();
    let calls = cloud.kms.calls("Decrypt") - before;
    let (refreshes, probes) = (cloud.counted("refresh"), cloud.counted("probe"));
    paced.heads.iter().for_each(|head| eprintln!("not answered: {head}"));
    let times = (seconds / soft as f64).floor() as u64 + 1;
    let bound = IN_USE * times + (seconds / 30.0) as u64 + 1;

    plan.say("cold start");
    cloud.again();
    cloud.kms.latency(LATENCY);
    let before = cloud.kms.calls("Decrypt");
    let begun = Instant::now();
    let mut clients: Vec<_> = (0..all).map(|_| cloud.stage.client()).collect();
    for (customer, client) in clients.iter_mut().enumerate() {
        client.send_bytes(&cloud.request(customer));
    }
    let mut errors = 0;
    for client in &mut clients {
        let answer = client.answer("GET");
        if answer.status != 200 {
            errors += 1;
            eprintln!("the cold start: {} {}", answer.status, answer.text());
        }
    }
    let cold = (cloud.kms.calls("Decrypt") - before, begun.elapsed().as_secs_f64());

    let most = cloud.kms.most_at_once();
    let result = format!(
        "errors={} calls={calls} bound={bound} refreshes={refreshes} probes={probes} customers={IN_USE} rate={per_second} \
         soft_s={soft} cold_customers={all} cold_calls={} cold_errors={errors} cold_s={:.1} at_once={most} most={AT_ONCE}",
        paced.errors, cold.0, cold.1,
    );
    let kept = paced.errors == 0
        && paced.answered() >= per_second * lasting
        && calls <= bound
        // Keys that were never refreshed would keep any bound.
        && refreshes >= IN_USE
        && errors == 0
        && cold.0 == all
        && most <= AT_ONCE;
    Figure { n: paced.answered(), result, kept }
}
