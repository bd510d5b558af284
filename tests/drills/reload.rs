//! relay.toml is read again and again under load, good and broken in turn: no request fails, no stream is cut.
//!
//! What is offered is 300 requests a second, whatever becomes of the last one; nearly all of it must be answered.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::figure::{Figure, Plan};
use crate::stage::Stage;
use crate::traffic::{Balancer, Seen, replica, vendor};

const PER_SECOND: u64 = 300;
const STREAMS: u64 = 4;
const READS: &str = "relay_config_last_reload_successful";

pub fn run(plan: &Plan) -> Figure {
    let rounds = plan.size(6, 100);
    let vendor = vendor(Duration::from_secs(plan.size(1, 10)));
    let (stage, there) = replica(&plan.relay, &vendor);
    let balancer = Balancer { replicas: vec![there], live: AtomicUsize::new(0) };
    let (over, seen) = (AtomicBool::new(false), Seen::default());
    let good = std::fs::read_to_string(stage.config()).unwrap();
    let (mut wrong, mut slowest) = (0_u64, Duration::ZERO);
    let mut lasted = Duration::ZERO;
    std::thread::scope(|scope| {
        let loaded = Instant::now();
        scope.spawn(|| balancer.load(PER_SECOND, STREAMS, &over, &seen));
        std::thread::sleep(Duration::from_millis(500));
        for round in 0..rounds {
            // Another limit each time, so that the integration is built anew.
            let fresh = format!("{good}\n# {round}\n")
                .replace("upstream = ", &format!("concurrency = {}\nupstream = ", 400 + round));
            let broken = round % 2 == 1;
            let text = if broken { fresh.replace("upstream", "upstraem") } else { fresh };
            std::fs::write(stage.config(), text).unwrap();
            let begun = Instant::now();
            let told = if round % 4 < 2 { by_signal(&stage, !broken) } else { by_request(&stage, broken) };
            slowest = slowest.max(begun.elapsed());
            wrong += u64::from(!told);
            std::thread::sleep(Duration::from_millis(100));
        }
        lasted = loaded.elapsed();
        seen.end(&over);
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (answered, failed, refused) = (count(&seen.answered), count(&seen.failed), count(&seen.refused));
    let (all, truncated) = (count(&seen.streams), count(&seen.truncated));
    let offered = count(&seen.offered);
    let a_second = |requests: u64| requests as f64 / lasted.as_secs_f64();
    let result = format!(
        "offered={offered} offered_per_s={:.0} answered={answered} answered_per_s={:.0} failed={failed} refused={refused} streams={all} truncated={truncated} misjudged={wrong} slowest_ms={}",
        a_second(offered),
        a_second(answered),
        slowest.as_millis()
    );
    let kept = failed + refused + truncated + wrong == 0 && all > 0 && seen.kept_up();
    Figure { n: rounds, result, kept }
}

/// SIGHUP; whether the metric says in time that it was taken over, or was not.
fn by_signal(stage: &Stage, good: bool) -> bool {
    kill_process(Pid::from_child(&stage.relay().0), Signal::HUP).unwrap();
    let wanted = format!("{READS} {}\n", u8::from(good));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        let text = stage.call("GET", "/metrics", "", "").text();
        if text.contains(&wanted) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// The admin API, as `relay reload` calls it; whether it says what it should.
fn by_request(stage: &Stage, broken: bool) -> bool {
    let answer = stage.call("POST", "/v1/reload", &stage.admin_token(), "");
    answer.status == if broken { 422 } else { 200 }
}
