//! Two replicas take turns under load: each is told to stop, ends in time, and starts again. No request fails, no
//! stream is cut, nobody is refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::figure::{Figure, Plan};
use crate::stage::Stage;
use crate::traffic::{Balancer, Seen, replica, vendor};

const PER_SECOND: u64 = 300;
/// As `relay init` leaves it.
const GRACE: Duration = Duration::from_secs(25);

pub fn run(plan: &Plan) -> Figure {
    let rounds = plan.size(3, 50);
    let streaming = Duration::from_secs(plan.size(2, 20));
    let streams = plan.size(4, 10);
    let vendor = vendor(streaming);
    let (mut stages, replicas): (Vec<Stage>, Vec<_>) = (0..2).map(|_| replica(&plan.relay, &vendor)).unzip();
    let balancer = Balancer { replicas, live: AtomicUsize::new(0) };
    let (over, seen) = (AtomicBool::new(false), Seen::default());
    let (mut closed, mut ended, mut goaways) = (Duration::ZERO, Duration::ZERO, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| balancer.load(PER_SECOND, streams, &over, &seen));
        for round in 0..rounds {
            let (leaving, other) = ((round % 2) as usize, ((round + 1) % 2) as usize);
            // Until there are connections and streams on the one that goes.
            std::thread::sleep(Duration::from_secs(1));
            let mut h2 = http2(&stages[leaving]);
            balancer.live.store(other, Ordering::SeqCst);
            let told = Instant::now();
            kill_process(Pid::from_child(&stages[leaving].relay().0), Signal::TERM).unwrap();
            while TcpStream::connect(stages[leaving].app).is_ok() && told.elapsed() < GRACE {
                std::thread::sleep(Duration::from_millis(2));
            }
            closed = closed.max(told.elapsed());
            goaways += u64::from(says_goodbye(&mut h2));
            drop(h2);
            // Told again, it would end at once.
            while !stages[leaving].has_ended() && told.elapsed() < GRACE * 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
            ended = ended.max(told.elapsed());
            stages[leaving].start();
            plan.say(&format!("round {round}: ended after {:.1} s", told.elapsed().as_secs_f64()));
        }
        seen.end(&over);
    });
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (answered, failed, refused) = (count(&seen.answered), count(&seen.failed), count(&seen.refused));
    let (all, truncated) = (count(&seen.streams), count(&seen.truncated));
    let result = format!(
        "offered={} answered={answered} failed={failed} refused={refused} streams={all} truncated={truncated} closed_ms={} ended_s={:.2} goaway={goaways}",
        count(&seen.offered),
        closed.as_millis(),
        ended.as_secs_f64(),
    );
    let kept = failed == 0
        && refused == 0
        && truncated == 0
        && all > 0
        && seen.kept_up()
        && closed <= Duration::from_millis(100)
        && ended <= GRACE + Duration::from_secs(1)
        && goaways == rounds;
    Figure { n: rounds, result, kept }
}

/// An idle HTTP/2 connection.
fn http2(stage: &Stage) -> TcpStream {
    let mut stream = TcpStream::connect(stage.app).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    // Its SETTINGS, so that the connection stands.
    let mut first = [0; 9];
    stream.read_exact(&mut first).unwrap();
    let mut rest = vec![0; usize::from(first[2])];
    stream.read_exact(&mut rest).unwrap();
    stream
}

/// Whether a GOAWAY frame comes.
fn says_goodbye(stream: &mut TcpStream) -> bool {
    loop {
        let mut head = [0; 9];
        let Ok(()) = stream.read_exact(&mut head) else { return false };
        let mut rest = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        if head[3] == 7 || stream.read_exact(&mut rest).is_err() {
            return head[3] == 7;
        }
    }
}
