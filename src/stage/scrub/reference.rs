//! One reference of a vendor's answer: inside the integration, elsewhere, or not to be passed on.
//!
//! [`judge`] reads it as RFC 3986 section 3 cuts it, refuses what browsers and libraries are known to
//! read in other ways, and lets the WHATWG parser confirm what is left. A new leniency here would send a
//! client with the caller's token to a place that nobody configured.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use crate::model::Origin;
use crate::net::vet::is_of_this_host;

/// What a reference is judged against, and what it is rewritten to.
pub struct Address<'a> {
    /// How the app reaches relay: `http://127.0.0.1:8480`, without a slash at its end.
    pub app_base: String,
    /// What stood in front of the vendor's path in this request: `/slack`, `/slack/<uuid>`, or nothing.
    pub prefix: String,
    /// Where the integration is.
    pub origin: &'a Origin,
    /// The path below which the integration stays: empty, or `/api` without a slash at its end.
    pub base_path: &'a str,
    /// Path and query that were asked of the vendor, without a credential.
    pub target: &'a str,
    /// Relay's own authorities, `host[:port]`: listeners, this request's, the public URL's, and `host:*` for a name
    /// that is relay's at any port. That of `app_base` counts in any case.
    pub own: &'a [String],
}

/// What becomes of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Another origin: byte for byte as it was.
    Untouched,
    /// Inside: the absolute form at relay.
    Rewritten(String),
    /// Not to be passed on.
    Dropped(Why),
}

/// Why a reference is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// At the vendor, but not below the integration's base path.
    Outside,
    /// A path with `.` or `..` in it, however written.
    DotSegment,
    /// It points at relay itself.
    Own,
    /// Clients would not agree on what it means.
    Unclear,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outside => "points outside of the integration's base path",
            Self::DotSegment => "has dot segments",
            Self::Own => "points at relay itself",
            Self::Unclear => "is unclear",
        })
    }
}

/// Judges one reference, without the white space around it.
pub(super) fn judge(reference: &str, address: &Address<'_>) -> Verdict {
    inside(reference, address).unwrap_or_else(|verdict| verdict)
}

/// The verdict on what lies inside; everything else leaves early, as the error.
fn inside(reference: &str, address: &Address<'_>) -> Result<Verdict, Verdict> {
    let unclear = Verdict::Dropped(Why::Unclear);
    if reference.chars().any(char::is_control) {
        return Err(unclear);
    }
    let parts = Parts::of(reference).ok_or(unclear.clone())?;
    if parts.scheme.is_some_and(|scheme| !is_web(scheme)) {
        return Err(Verdict::Untouched);
    }
    let secure = match parts.scheme {
        Some(scheme) => scheme.eq_ignore_ascii_case("https"),
        None => address.origin.is_secure(),
    };
    let userinfo = match parts.authority {
        Some(authority) => elsewhere(authority, secure, address)?,
        None if parts.scheme.is_some() => return Err(unclear),
        None => false,
    };
    if userinfo || !reference.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
        return Err(unclear);
    }
    let path = resolved_path(&parts, address.target);
    let resolved = Url::parse(&format!("{}{}", address.origin, address.target))
        .and_then(|base| base.join(reference))
        .map_err(|_| unclear.clone())?;
    check_segments(&path).map_err(Verdict::Dropped)?;
    let same_host = resolved.host_str() == Some(canonical(address.origin.host()).as_str());
    let same_port = resolved.port_or_known_default() == Some(address.origin.port());
    if resolved.path() != path || !same_host || !same_port {
        return Err(unclear);
    }
    let rest = path
        .strip_prefix(address.base_path)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .ok_or(Verdict::Dropped(Why::Outside))?;
    // Slashes behind the prefix collapse on the way in, so this would come back as another path.
    if rest.starts_with("//") {
        return Err(unclear);
    }
    let query = match parts.query {
        None if parts.authority.is_none() && parts.path.is_empty() => query_of(address.target),
        query => query,
    };
    let mut text = format!("{}{}{rest}", address.app_base, address.prefix);
    for (mark, part) in [('?', query), ('#', parts.fragment)] {
        if let Some(part) = part {
            text.push(mark);
            text.push_str(part);
        }
    }
    Ok(Verdict::Rewritten(text))
}

/// A reference cut as in RFC 3986 appendix B.
struct Parts<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
    fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// `None` for an empty authority and for a backslash where a client may take it for a slash.
    fn of(reference: &'a str) -> Option<Self> {
        let (rest, fragment) = cut(reference, '#');
        let (rest, query) = cut(rest, '?');
        let (scheme, rest) = match rest.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme), rest),
            _ => (None, rest),
        };
        let Some(behind) = rest.strip_prefix("//") else {
            let safe = scheme.is_some_and(|scheme| !is_web(scheme)) || !rest.contains('\\');
            return safe.then_some(Self { scheme, authority: None, path: rest, query, fragment });
        };
        let (authority, path) = behind.split_at(behind.find('/').unwrap_or(behind.len()));
        let web = scheme.is_none_or(is_web);
        if web && (authority.is_empty() || authority.contains('\\')) {
            return None;
        }
        Some(Self { scheme, authority: Some(authority), path, query, fragment })
    }
}

/// Leaves with a verdict unless `authority` is the vendor's; says whether it has user information.
fn elsewhere(authority: &str, secure: bool, address: &Address<'_>) -> Result<bool, Verdict> {
    let unclear = || Verdict::Dropped(Why::Unclear);
    let (userinfo, place) = match authority.split_once('@') {
        Some((userinfo, place)) => (Some(userinfo), place),
        None => (None, authority),
    };
    let there = Place::of(place, secure).ok_or_else(unclear)?;
    let app = address.app_base.split_once("://").map(|(_, authority)| authority);
    let mut own = address.own.iter().map(String::as_str).chain(app);
    let vendor = (canonical(address.origin.host()), address.origin.port(), address.origin.is_secure());
    let is_vendor = (there.host.clone(), there.port, secure) == vendor;
    if own.any(|own| is_met(own, secure, &there, is_vendor)) {
        return Err(Verdict::Dropped(Why::Own));
    }
    if is_vendor {
        return if there.dotted { Err(unclear()) } else { Ok(userinfo.is_some()) };
    }
    Err(Verdict::Untouched)
}

/// Whether `there` reaches what relay answers under. An integration may have its vendor's own name as its host name:
/// what names the vendor is then meant for the vendor, and kept inside.
fn is_met(own: &str, secure: bool, there: &Place, is_vendor: bool) -> bool {
    match own.strip_suffix(":*") {
        Some(name) => !is_vendor && canonical(name) == there.host,
        None => Place::of(own, secure).is_some_and(|own| own.is_met_by(there)),
    }
}

/// A host and port, however they were spelled.
struct Place {
    host: String,
    /// Whether the name ended in a dot.
    dotted: bool,
    port: u16,
}

impl Place {
    /// `None` when it is not plainly a host with or without a port.
    fn of(authority: &str, secure: bool) -> Option<Self> {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, ""),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
        if host.is_empty() || !host.bytes().all(plain) || !port.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let port = match port {
            "" if secure => 443,
            "" => 80,
            port => port.parse().ok()?,
        };
        let named = host.strip_suffix('.');
        let host = named.unwrap_or(host);
        if host.ends_with('.') {
            return None;
        }
        Some(Self { host: Host::parse(host).ok()?.to_string(), dotted: named.is_some(), port })
    }

    /// Whether `there` reaches this place, which is relay's: the same, a loopback name for its port, or any address
    /// of this host where relay listens on all of them.
    fn is_met_by(&self, there: &Self) -> bool {
        let everywhere = || address(&self.host).is_some_and(|ip| ip.is_unspecified());
        let here = || address(&there.host).is_some_and(is_of_this_host);
        self.port == there.port
            && (self.host == there.host || is_loopback(&there.host) || (everywhere() && here()))
    }
}

fn address(host: &str) -> Option<IpAddr> {
    match Host::parse(host).ok()? {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip).to_canonical()),
        Host::Domain(_) => None,
    }
}

fn is_loopback(host: &str) -> bool {
    match Host::parse(host) {
        Ok(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Ok(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Ok(Host::Ipv6(ip)) => {
            let mapped = ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback() || ip.is_unspecified());
            ip.is_loopback() || ip.is_unspecified() || mapped
        }
        Err(_) => false,
    }
}

fn canonical(host: &str) -> String {
    Host::parse(host).map_or_else(|_| host.to_owned(), |host| host.to_string())
}

/// The path it means, not normalised (RFC 3986 section 5.2.3).
fn resolved_path(parts: &Parts<'_>, target: &str) -> String {
    let asked = cut(cut(target, '#').0, '?').0;
    if parts.authority.is_some() && parts.path.is_empty() {
        "/".to_owned()
    } else if parts.authority.is_some() || parts.path.starts_with('/') {
        parts.path.to_owned()
    } else if parts.path.is_empty() {
        asked.to_owned()
    } else {
        let folder = asked.rfind('/').map_or("/", |slash| asked.get(..=slash).unwrap_or("/"));
        format!("{folder}{}", parts.path)
    }
}

/// What relay would refuse as a request's path is not offered as a link either.
pub(super) fn check_segments(path: &str) -> Result<(), Why> {
    for segment in path.split('/') {
        let once = decoded(segment.as_bytes());
        let twice = decoded(&once);
        for form in [segment.as_bytes(), &once, &twice] {
            if form == b"." || form == b".." {
                return Err(Why::DotSegment);
            }
            if form.iter().any(|b| b.is_ascii_control() || *b == b'\\') {
                return Err(Why::Unclear);
            }
            if form.split(|b| *b == b'/').any(|part| part == b"." || part == b"..") {
                return Err(Why::DotSegment);
            }
        }
    }
    Ok(())
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (first, behind) {
            (b'%', [high, low, behind @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                out.push(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                rest = behind;
            }
            _ => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, behind)) => (before, Some(behind)),
        None => (text, None),
    }
}

fn query_of(target: &str) -> Option<&str> {
    cut(cut(target, '#').0, '?').1
}

fn is_web(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}
