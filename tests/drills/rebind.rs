//! A name whose addresses change from answer to answer leads to no address that may not be called.
//!
//! A DNS server answers every question anew, without time to live: with the one address that is allowed, with
//! others on which listeners count who comes, and with both at once. relay's own resolver asks it and relay's
//! own dialler connects, by https and by http rules in turn.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::Uri;
use relay::net::dial::{Dial, DialError};
use relay::net::resolve::Resolver;
use relay::net::vet::Egress;
use tower::Service;

use crate::figure::{Figure, Plan};
use crate::sample::Noise;

/// What an A question may be answered with. Public addresses stand beside refused ones only: nothing here ever
/// leaves the machine.
const FOUR: &[&[[u8; 4]]] = &[
    &[[127, 0, 0, 1]],
    &[[127, 0, 0, 1]],
    &[],
    &[[127, 0, 0, 2]],
    &[[127, 0, 0, 1], [127, 0, 0, 3]],
    &[[8, 8, 8, 8], [127, 0, 0, 4]],
    &[[169, 254, 169, 254]],
    &[[10, 0, 0, 1], [127, 0, 0, 1]],
    &[[0, 0, 0, 0]],
    &[[192, 0, 2, 1]],
];

/// What an AAAA question may be answered with.
const SIX: &[&str] = &[
    "",
    "",
    "",
    "",
    "::1",
    "::ffff:127.0.0.2",
    "64:ff9b::7f00:3",
    "2002:7f00:4::1",
    "::7f00:5",
    "fd00:ec2::254",
    "2606:4700::5efe:7f00:2",
];

/// Refused addresses with a listener each.
const TRAPS: [&str; 6] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "::1", "127.0.0.9"];

pub fn run(plan: &Plan) -> Figure {
    let n = plan.size(200, 20_000);
    let good = Counter::on("127.0.0.1:0".parse().unwrap());
    let port = good.address.port();
    let traps: Vec<Counter> =
        TRAPS.iter().map(|ip| Counter::on(SocketAddr::new(ip.parse().unwrap(), port))).collect();
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let resolver = Arc::new(Resolver::asking(runtime.handle().clone(), server.address).unwrap());
    let egress = Egress::new(vec!["127.0.0.1/32".parse().unwrap()], Arc::from([]));
    let mut dial = Dial::vetted(resolver, egress, Duration::from_secs(3));
    let target = |scheme: &str| Uri::try_from(format!("{scheme}://rebind.example:{port}/")).unwrap();
    let targets = [target("https"), target("http")];
    let (mut connected, mut refused, mut unresolved, mut odd) = (0_u64, 0_u64, 0_u64, 0_u64);
    for round in 0..n {
        // A listener holds so many that nobody has taken, and no more.
        if round % 32 == 0 {
            std::iter::once(&good).chain(&traps).for_each(|listener| _ = listener.count());
        }
        match runtime.block_on(dial.call(targets[(round % 2) as usize].clone())) {
            Ok(stream) => {
                connected += 1;
                let peer = stream.into_inner().peer_addr().unwrap();
                odd += u64::from(peer.ip().to_canonical() != good.address.ip());
            }
            Err(DialError::Refused(_)) => refused += 1,
            Err(DialError::Unresolved(_)) => unresolved += 1,
            Err(DialError::Unreachable(why)) => panic!("the allowed address does not answer: {why}"),
        }
    }
    let trapped: u64 = traps.iter().map(Counter::count).sum();
    let answers = server.answers.load(Ordering::Relaxed);
    let (came, all) = (good.count(), connected + refused + unresolved);
    let kept = trapped == 0 && odd == 0 && came == connected && all == n && answers >= n;
    Figure {
        n,
        result: format!(
            "trapped={trapped} connected={connected} refused={refused} unresolved={unresolved} dns_answers={answers}"
        ),
        kept: kept && connected > n / 20 && refused > n / 4,
    }
}

/// A listener that counts who comes.
struct Counter {
    address: SocketAddr,
    listener: TcpListener,
    came: AtomicU64,
}

impl Counter {
    fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        listener.set_nonblocking(true).unwrap();
        Self { address: listener.local_addr().unwrap(), listener, came: AtomicU64::new(0) }
    }

    /// All that came so far.
    fn count(&self) -> u64 {
        while self.listener.accept().is_ok() {
            self.came.fetch_add(1, Ordering::Relaxed);
        }
        self.came.load(Ordering::Relaxed)
    }
}

/// A DNS server that never gives the same answer for long.
struct Server {
    address: SocketAddr,
    answers: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let address = socket.local_addr().unwrap();
        let (answers, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (answers.clone(), stop.clone());
        std::thread::spawn(move || {
            let (mut random, mut question) = (Noise::of(7), [0; 512]);
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                let Some(answer) = answer(&question[..length], &mut random) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&answer, from);
            }
        });
        Self { address, answers, stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// RFC 1035 section 4: the question back, and the addresses under its own name.
fn answer(question: &[u8], random: &mut Noise) -> Option<Vec<u8>> {
    let name = question.get(12..)?.iter().position(|byte| *byte == 0)?;
    let asked = question.get(12..12 + name + 5)?;
    let kind = u16::from_be_bytes([asked[name + 1], asked[name + 2]]);
    let found: Vec<IpAddr> = match kind {
        1 => FOUR[(random.next() % FOUR.len() as u64) as usize]
            .iter()
            .map(|ip| Ipv4Addr::from(*ip).into())
            .collect(),
        28 => SIX[(random.next() % SIX.len() as u64) as usize]
            .parse::<Ipv6Addr>()
            .into_iter()
            .map(IpAddr::V6)
            .collect(),
        _ => Vec::new(),
    };
    let mut answer = question.get(..2)?.to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::try_from(found.len()).unwrap(), 0, 0, 0, 0]);
    answer.extend_from_slice(asked);
    for ip in found {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        // Class IN, and no time to live.
        answer.extend([0, 1, 0, 0, 0, 0]);
        match ip {
            IpAddr::V4(ip) => {
                answer.extend([0, 4]);
                answer.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                answer.extend([0, 16]);
                answer.extend(ip.octets());
            }
        }
    }
    Some(answer)
}
