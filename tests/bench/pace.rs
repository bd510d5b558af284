//! A fixed rate, evenly spaced: one request after another is due, whatever became of the last one.
//!
//! wrk has no rate, and h2load sends one request of every client in the same instant.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use relay::net::tls::{Roots, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

/// Connections, each with a thread of its own; they take turns.
pub const CLIENTS: u64 = 20;
pub const PER_SECOND: u64 = 2000;

trait Line: Read + Write + Send {}
impl<T: Read + Write + Send> Line for T {}

/// Where to, and what is sent each time.
pub struct Target<'t> {
    pub address: SocketAddr,
    /// Over TLS, with this CA.
    pub ca: Option<&'t Path>,
    pub path: &'t str,
    pub headers: &'t [(String, String)],
}

/// What came of it.
#[derive(Default)]
pub struct Paced {
    /// Microseconds until the end of each answer.
    pub times: Vec<f64>,
    pub failed: u64,
}

impl Target<'_> {
    /// [`PER_SECOND`] for so many seconds.
    pub fn pace(&self, seconds: u64) -> Paced {
        let each = PER_SECOND / CLIENTS * seconds;
        let lines: Vec<Box<dyn Line>> = (0..CLIENTS).map(|_| self.line()).collect();
        let (begun, mut all) = (Instant::now() + Duration::from_millis(10), Paced::default());
        std::thread::scope(|scope| {
            let client = |(number, line): (usize, Box<dyn Line>)| {
                let first = begun + Duration::from_secs(1) * number as u32 / PER_SECOND as u32;
                scope.spawn(move || self.client(line, first, each))
            };
            let clients: Vec<_> = lines.into_iter().enumerate().map(client).collect();
            for client in clients {
                let one = client.join().unwrap();
                all.times.extend(one.times);
                all.failed += one.failed;
            }
        });
        all.times.sort_by(f64::total_cmp);
        all
    }

    fn client(&self, mut line: Box<dyn Line>, first: Instant, count: u64) -> Paced {
        let mut request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n", self.path);
        self.headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
        request += "\r\n";
        let mut paced = Paced::default();
        let mut buffer = vec![0; 16 * 1024];
        for number in 0..count {
            let due = first + Duration::from_secs(1) * (number * CLIENTS) as u32 / PER_SECOND as u32;
            let early = due.checked_duration_since(Instant::now());
            early.into_iter().for_each(std::thread::sleep);
            // How late a sleeper wakes is no one's doing but the machine's; a connection that was still
            // busy when the request was due is.
            let from = if early.is_some() { Instant::now() } else { due };
            if exchange(&mut *line, request.as_bytes(), &mut buffer).is_none() {
                paced.failed += count - number;
                break;
            }
            paced.times.push(from.elapsed().as_secs_f64() * 1e6);
        }
        paced
    }

    fn line(&self) -> Box<dyn Line> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let Some(ca) = self.ca else { return Box::new(stream) };
        let pem = std::fs::read(ca).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(client_config(Roots::Pem(&pem)).unwrap(), name).unwrap();
        let mut stream = stream;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).unwrap();
        }
        Box::new(StreamOwned::new(tls, stream))
    }
}

/// One request, one whole answer; `None` unless it is a 200 with a length.
fn exchange(line: &mut dyn Line, request: &[u8], buffer: &mut [u8]) -> Option<()> {
    line.write_all(request).ok()?;
    line.flush().ok()?;
    let (mut have, mut wanted) = (0, usize::MAX);
    while have < wanted {
        let read = line.read(buffer.get_mut(have..)?).ok().filter(|read| *read > 0)?;
        have += read;
        if wanted == usize::MAX {
            let Some(end) = memchr::memmem::find(&buffer[..have], b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let length = head.split("\r\n").find_map(|field| field.strip_prefix("content-length:"));
            wanted = end
                + 4
                + length.filter(|_| head.starts_with("http/1.1 200"))?.trim().parse::<usize>().ok()?;
        }
    }
    (have == wanted).then_some(())
}
