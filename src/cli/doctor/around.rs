//! What is round relay: the clock, and the addresses that it listens on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::Here;
use super::finding::Findings;
use crate::clock;
use crate::config::{Config, Listen};
use crate::listen::{Tls, TlsFiles};

/// What tells the time beside the clock.
pub(super) struct Around {
    /// The least leeway of an issuer.
    pub(super) leeway: Duration,
    /// Who said what time it is, in seconds since 1970, and what the clock said then.
    heard: Vec<(String, u64, u64)>,
    /// The time of the newest audit anchor.
    pub(super) anchored: Option<u64>,
}

impl Default for Around {
    fn default() -> Self {
        Self { leeway: Duration::from_secs(60), heard: Vec::new(), anchored: None }
    }
}

impl Around {
    /// Somebody has answered with a Date.
    pub(super) fn heard(&mut self, who: &str, date: Option<&str>) {
        let said = date.and_then(http_date);
        self.heard.extend(said.map(|said| (who.to_owned(), said, clock::unix_seconds())));
    }

    /// Whether the clock is right, as far as anything tells.
    pub(super) fn clock(&self, findings: &mut Findings) {
        let check = "clock";
        let now = clock::unix_seconds();
        let fix = "set the clock by NTP: tokens are judged by it";
        if let Some(anchored) = self.anchored.filter(|anchored| *anchored > now + 60) {
            let found = format!("it stands before the newest audit record, of {}", clock::rfc3339(anchored));
            return findings.fail(check, found, fix);
        }
        let Some((who, said, own)) = self.heard.iter().max_by_key(|(_, said, own)| said.abs_diff(*own))
        else {
            let found = format!("{}; nothing that was called says what time it is", clock::rfc3339(now));
            return findings.ok(check, found);
        };
        let off = said.abs_diff(*own);
        let found = format!("{off} s from that of {who}");
        // An answer's Date is its whole second, and on its way it grows older.
        match off {
            0..=5 => findings.ok(check, found),
            _ if off <= self.leeway.as_secs() => findings.warn(check, found, fix),
            _ => findings.fail(check, format!("{found}: more than leeway forgives"), fix),
        }
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7) as seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    if words.next() != Some("GMT") || words.next().is_some() {
        return None;
    }
    clock::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z"))
}

/// Whether each listener answers, or could be opened.
pub(super) async fn listeners(config: &Config, here: &Here, findings: &mut Findings) {
    let admin = Listen::plain(config.server.admin_listen);
    let own = config.integrations.iter().filter_map(|integration| integration.listen.as_ref());
    for listen in [&config.server.listen, &admin].into_iter().chain(own) {
        listener(listen, here, findings).await;
    }
    if let Some(tls) = &config.server.tls {
        let files = TlsFiles {
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            client_ca: tls.client_ca.clone(),
        };
        let shown = tls.certificate.display().to_string();
        match Tls::open(files) {
            Ok(_) => findings.ok("listeners", format!("{shown} and its key belong together")),
            Err(error) => findings.fail(
                "listeners",
                error.to_string(),
                "put a certificate chain and its key there, PEM",
            ),
        }
    }
}

async fn listener(listen: &Listen, here: &Here, findings: &mut Findings) {
    let check = "listeners";
    let answers = answers(listen).await;
    match here {
        Here::Runs(_) if answers => findings.ok(check, format!("{listen} answers")),
        Here::Runs(_) => {
            let fix = "the running relay has another configuration, or its acceptor is stuck: restart it";
            findings.fail(check, format!("{listen} does not answer, though relay runs"), fix);
        }
        Here::Stopped | Here::Taken => match free(listen, answers).await {
            Ok(()) => findings.ok(check, format!("{listen} is free")),
            Err(why) => {
                let fix = "stop what listens there (ss -lptn), or change the address";
                findings.fail(check, format!("{listen} cannot be listened on: {why}"), fix);
            }
        },
    }
}

async fn answers(listen: &Listen) -> bool {
    match listen {
        Listen::Unix(path) => UnixStream::connect(path).is_ok(),
        Listen::Tcp { address, .. } => {
            let ip = match address.ip() {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            let call = TcpStream::connect(SocketAddr::new(ip, address.port()));
            matches!(timeout(Duration::from_secs(2), call).await, Ok(Ok(_)))
        }
    }
}

async fn free(listen: &Listen, answers: bool) -> Result<(), String> {
    match listen {
        Listen::Tcp { address, .. } => TcpListener::bind(address).await.map(drop).map_err(|e| e.to_string()),
        Listen::Unix(_) if answers => Err("another process answers there".to_owned()),
        Listen::Unix(path) => match path.parent().map(std::fs::metadata) {
            Some(Ok(folder)) if folder.is_dir() => Ok(()),
            _ => Err("its folder does not exist".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_http_is_read_as_the_moment_that_it_is() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        for odd in ["", "Sun, 06 Nov 1994 08:49:37 CET", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 6 Nov 1994"]
        {
            assert_eq!(http_date(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_clock_that_is_further_off_than_leeway_fails() {
        let now = clock::unix_seconds();
        for (off, words) in [(0, "OK "), (3, "OK "), (20, "WARN"), (3600, "FAIL")] {
            let mut around = Around { leeway: Duration::from_secs(30), ..Around::default() };
            around.heard.push(("somebody".to_owned(), now - off, now));
            let mut findings = Findings::default();
            around.clock(&mut findings);
            assert!(findings.to_text().starts_with(words), "{off}: {}", findings.to_text());
        }
    }
}
