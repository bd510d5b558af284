//! A fixed rate, evenly spaced, over many secrets: one request after another is due, whatever became of the
//! last one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::sample::percentile;

/// Connections, each with a thread of its own; they take turns.
const CLIENTS: u64 = 20;
/// Requests are looked at in windows of this length.
const WINDOW: Duration = Duration::from_secs(5);

/// What is sent, in turn.
pub struct Load {
    pub address: SocketAddr,
    pub requests: Vec<Vec<u8>>,
    pub per_second: u64,
}

/// What came of it.
#[derive(Default)]
pub struct Paced {
    /// When it was due, in seconds since the load began, and microseconds until the end of the answer.
    times: Vec<(f64, f64)>,
    pub errors: u64,
    /// The first few that were no 200: the head of each.
    pub heads: Vec<String>,
}

impl Load {
    /// Goes on until `over`, at least for `lasting`.
    pub fn run(&self, lasting: Duration, over: &AtomicBool) -> Paced {
        let begun = Instant::now() + Duration::from_millis(10);
        let mut all = Paced::default();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| scope.spawn(move || self.client(number, begun, lasting, over)))
                .collect();
            for client in clients {
                let one = client.join().unwrap();
                all.times.extend(one.times);
                all.errors += one.errors;
                all.heads.extend(one.heads);
            }
        });
        all
    }

    fn client(&self, client: u64, begun: Instant, lasting: Duration, over: &AtomicBool) -> Paced {
        let mut paced = Paced::default();
        let mut line = self.connect();
        let mut buffer = vec![0; 16 * 1024];
        for number in (client..).step_by(CLIENTS as usize) {
            let at = Duration::from_micros(number * 1_000_000 / self.per_second);
            if at >= lasting && over.load(Ordering::Relaxed) {
                break;
            }
            let due = begun + at;
            let early = due.checked_duration_since(Instant::now());
            early.into_iter().for_each(std::thread::sleep);
            // How late a sleeper wakes is the machine's doing; a connection that is busy when the request is
            // due is not.
            let from = if early.is_some() { Instant::now() } else { due };
            let request = &self.requests[number as usize % self.requests.len()];
            match exchange(&mut line, request, &mut buffer) {
                Ok(()) => paced.times.push((at.as_secs_f64(), from.elapsed().as_secs_f64() * 1e6)),
                Err(head) => {
                    paced.errors += 1;
                    if paced.heads.len() < 3 {
                        paced.heads.push(head);
                    }
                    line = self.connect();
                }
            }
        }
        paced
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }
}

impl Paced {
    pub fn answered(&self) -> u64 {
        self.times.len() as u64
    }

    /// The p99 of each whole window of five seconds.
    pub fn p99s(&self) -> Vec<f64> {
        let end = self.times.iter().map(|(at, _)| *at).fold(0.0, f64::max);
        let windows = (end / WINDOW.as_secs_f64()) as usize;
        let mut by_window = vec![Vec::new(); windows];
        for (at, took) in &self.times {
            if let Some(window) = by_window.get_mut((at / WINDOW.as_secs_f64()) as usize) {
                window.push(*took);
            }
        }
        by_window.iter_mut().map(|window| percentile(window, 99.0)).collect()
    }
}

/// One request, one whole answer; an error unless it is a 200 with a length.
fn exchange(line: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    line.write_all(request).map_err(failed)?;
    let (mut have, mut wanted) = (0, usize::MAX);
    while have < wanted {
        let free = buffer.get_mut(have..).filter(|free| !free.is_empty()).ok_or("a large answer")?;
        match line.read(free).map_err(failed)? {
            0 => return Err("closed".to_owned()),
            read => have += read,
        }
        if wanted == usize::MAX {
            let Some(end) = memchr::memmem::find(&buffer[..have], b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let length = head.split("\r\n").find_map(|field| field.strip_prefix("content-length:"));
            let length = length.filter(|_| head.starts_with("http/1.1 200"));
            wanted = end + 4 + length.and_then(|n| n.trim().parse::<usize>().ok()).ok_or(head)?;
        }
    }
    Ok(())
}
