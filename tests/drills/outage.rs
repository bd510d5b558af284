//! A KMS that takes calls and answers nothing is not noticed by customers whose data keys are at hand; one that
//! denies is obeyed by all.
//!
//! Two relays carry the same load at a fixed rate at the same time, each with a KMS of its own: one KMS goes
//! silent, the other (the control) does not. What a p99 is on a machine that does other things as well swings
//! from window to window, for both alike; so the figure is the median, over the five-second windows, of the one
//! relay's p99 over the other's. Refreshes are due every other second. Then the key is disabled, under the ages that relay has by itself, so that only the probe
//! can find it out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cloud::Cloud;
use crate::figure::{Figure, Plan};
use crate::rig::clouds::Trouble;
use crate::sample::median;

const AT_HAND: usize = 20;
/// A customer of whom nothing is at hand.
const COLD: usize = AT_HAND;
const PER_SECOND: u64 = 200;
const SHORT: &str = "refresh_after = \"2s\"\nserve_at_most = \"30m\"";

pub fn run(plan: &Plan) -> Figure {
    let outage = Duration::from_secs(plan.size(20, 600));
    let (control, mut cloud) =
        (Cloud::set(plan, AT_HAND as u64 + 1, SHORT), Cloud::set(plan, AT_HAND as u64 + 1, SHORT));
    let (well, load) = (control.load(AT_HAND, PER_SECOND), cloud.load(AT_HAND, PER_SECOND));

    plan.say("outage");
    let calls = cloud.kms.all_calls();
    cloud.kms.trouble(Trouble::BlackHole);
    let over = AtomicBool::new(false);
    let (beside, during, cold, recovered) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| well.run(outage, &over));
        let loading = scope.spawn(|| load.run(outage, &over));
        let begun = Instant::now();
        let mut cold = Vec::new();
        while begun.elapsed() < outage {
            let asked = Instant::now();
            let answer = cloud.ask(COLD);
            assert_eq!((answer.status, answer.code()), (503, "keys_unavailable"), "{}", answer.text());
            assert!(answer.header("retry-after").is_some());
            cold.push(asked.elapsed().as_secs_f64() * 1000.0);
            std::thread::sleep(Duration::from_secs(1));
        }
        cloud.kms.trouble(Trouble::None);
        let recovered = cloud.until(COLD, 200, "", Duration::from_secs(60));
        over.store(true, Ordering::Relaxed);
        (beside.join().unwrap(), loading.join().unwrap(), cold, recovered)
    });
    let calls = cloud.kms.all_calls() - calls;
    for paced in [&beside, &during] {
        paced.heads.iter().for_each(|head| eprintln!("not answered: {head}"));
    }

    plan.say("denial");
    cloud.keys("");
    cloud.again();
    drop(cloud.load(AT_HAND, PER_SECOND));
    cloud.kms.trouble(Trouble::Disabled);
    let denied = cloud.until(0, 424, "keys_denied", Duration::from_secs(90));
    let all = (0..=COLD).all(|customer| cloud.ask(customer).code() == "keys_denied");
    cloud.kms.trouble(Trouble::None);
    let enabled = cloud.until(0, 200, "", Duration::from_secs(60));
    let back = (0..=COLD).all(|customer| cloud.ask(customer).status == 200);

    let (mut ours, mut theirs) = (during.p99s(), beside.p99s());
    let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    let (windows, p99) = (ratios.len(), median(&mut ratios));
    let errors = during.errors + beside.errors;
    let slowest = cold.iter().copied().fold(0.0, f64::max);
    let seconds = |found: Option<f64>| found.map_or_else(|| "never".to_owned(), |s| format!("{s:.1}"));
    let result = format!(
        "errors={errors} p99_ratio={p99:.2} windows={windows} p99={:.2}ms control={:.2}ms cold_ms={slowest:.0} cold={} calls={calls} \
         recovered_s={} denied_s={} refused={} enabled_s={} outage_s={}",
        median(&mut ours) / 1000.0,
        median(&mut theirs) / 1000.0,
        cold.len(),
        seconds(recovered),
        seconds(denied),
        if all { "all" } else { "not_all" },
        seconds(enabled),
        outage.as_secs(),
    );
    let within = |found: Option<f64>, most: f64| found.is_some_and(|s| s <= most);
    // A few windows say little about a tail: at the small size only that it did not multiply.
    let most = if plan.full { 1.1 } else { 3.0 };
    let kept = errors == 0
        && during.answered() >= PER_SECOND * outage.as_secs()
        && p99 <= most
        && slowest <= 2000.0
        && within(recovered, 5.0)
        && within(denied, 60.0)
        && within(enabled, 5.0)
        && all
        && back;
    Figure { n: during.answered(), result, kept }
}
