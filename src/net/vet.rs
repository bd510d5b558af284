//! Which addresses relay may call: every address but the public ones is refused.
//!
//! The judgement is unconditional: there is no mode in which it is off. An integration's `private_cidrs` are
//! the only opening, and even they never open link-local and cloud metadata addresses or relay's own
//! listeners. What must never enter: names (they are resolved before) and anything a request says. If this
//! room were wrong, a vendor's DNS could turn relay against the network it stands in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use ipnet::IpNet;

/// What one integration may call, beside public addresses.
#[derive(Debug, Clone)]
pub struct Egress {
    private: Vec<IpNet>,
    own: Arc<[SocketAddr]>,
}

/// An address that relay does not call, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// The address as it was resolved.
    pub address: SocketAddr,
    /// What kind of address it is: `loopback`, `private`, ...
    pub class: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not called: {}", self.address.ip(), self.class)
    }
}

impl Egress {
    /// `private` are the integration's `private_cidrs`; `own` are relay's listeners, as bound.
    pub fn new(private: Vec<IpNet>, own: Arc<[SocketAddr]>) -> Self {
        Self { private, own }
    }

    /// Whether `address` may be called.
    ///
    /// # Errors
    /// [`Refused`] names the kind of address.
    pub fn check(&self, address: SocketAddr) -> Result<(), Refused> {
        self.class(address).map_or(Ok(()), |class| Err(Refused { address, class }))
    }

    /// Whether `address` may be called without TLS: only inside `private_cidrs`.
    ///
    /// # Errors
    /// [`Refused`] names the kind of address.
    pub fn check_plaintext(&self, address: SocketAddr) -> Result<(), Refused> {
        self.check(address)?;
        let ip = address.ip();
        if self.opens(ip) || self.opens(canonical(ip)) {
            return Ok(());
        }
        Err(Refused { address, class: "http:// is for addresses inside private_cidrs only" })
    }

    fn class(&self, address: SocketAddr) -> Option<&'static str> {
        let ip = canonical(address.ip());
        for one in std::iter::once(ip).chain(embedded(ip).map(IpAddr::V4)) {
            if self.is_own(one, address.port()) {
                return Some("relay's own listener");
            }
            if let Some(class) = row(NEVER_V4, NEVER_V6, one) {
                return Some(class);
            }
        }
        // What stands inside a transition address must be callable as well as the address itself.
        let inner = embedded(ip).find_map(|v4| self.unopened(IpAddr::V4(v4)));
        if self.opens(address.ip()) { inner } else { inner.or_else(|| self.unopened(ip)) }
    }

    fn unopened(&self, ip: IpAddr) -> Option<&'static str> {
        if self.opens(ip) { None } else { row(SPECIAL_V4, SPECIAL_V6, ip).or_else(|| not_global_unicast(ip)) }
    }

    fn opens(&self, ip: IpAddr) -> bool {
        self.private.iter().any(|net| net.contains(&ip))
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        self.own.iter().filter(|own| own.port() == port).any(|own| {
            let bound = canonical(own.ip());
            let here = bound.is_loopback() || bound.is_unspecified();
            bound == ip || (here && ip.is_loopback()) || (bound.is_unspecified() && is_of_this_host(ip))
        })
    }
}

/// A listener on the unspecified address answers on every address of this host; only those can be bound.
pub fn is_of_this_host(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// An IPv4 address written as IPv6 (RFC 4291 section 2.5.5.2, RFC 6052 section 2.1) is judged as IPv4.
fn canonical(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => IpAddr::V4(joined(high, low)),
        _ => ip,
    }
}

/// The IPv4 addresses that a transition address leads to: IPv4-compatible, local-use NAT64 (RFC 8215),
/// 6to4 (RFC 3056), both of Teredo (RFC 4380 section 4; the client's stands there inverted), translated (RFC
/// 2765 section 2.1), ISATAP under any prefix (RFC 5214 section 6.1).
fn embedded(ip: IpAddr) -> impl Iterator<Item = Ipv4Addr> {
    let found = match ip {
        IpAddr::V4(_) | IpAddr::V6(Ipv6Addr::UNSPECIFIED | Ipv6Addr::LOCALHOST) => [None, None],
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, high, low] => [Some(joined(high, low)), None],
            [0x64, 0xff9b, 1, _, _, _, high, low] => [Some(joined(high, low)), None],
            [0x2002, high, low, ..] => [Some(joined(high, low)), None],
            [0, 0, 0, 0, 0xffff, 0, high, low] => [Some(joined(high, low)), None],
            [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [Some(joined(high, low)), None],
            [0x2001, 0, high, low, _, _, x, y] => [Some(joined(high, low)), Some(joined(!x, !y))],
            _ => [None, None],
        },
    };
    found.into_iter().flatten()
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

type Row4 = ([u8; 4], u32, &'static str);
type Row6 = ([u16; 8], u32, &'static str);

/// What no setting opens.
const NEVER_V4: &[Row4] = &[
    ([0, 0, 0, 0], 8, "unspecified"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([100, 100, 100, 200], 32, "cloud metadata"),
    ([168, 63, 129, 16], 32, "cloud metadata"),
    ([192, 0, 0, 192], 32, "cloud metadata"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([255, 255, 255, 255], 32, "broadcast"),
];

/// What no setting opens. `fd00:ec2::/32` and `fd20:ce::254` are the metadata services of two clouds.
const NEVER_V6: &[Row6] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32, "cloud metadata"),
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// IANA's special-purpose registry (RFC 6890) without what is globally reachable.
const SPECIAL_V4: &[Row4] = &[
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "shared address space"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "protocol assignments"),
    ([192, 0, 2, 0], 24, "documentation"),
    ([192, 88, 99, 0], 24, "6to4 relay"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "benchmarking"),
    ([198, 51, 100, 0], 24, "documentation"),
    ([203, 0, 113, 0], 24, "documentation"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// The same for IPv6. What stands in no row and is outside 2000::/3 is refused as reserved.
const SPECIAL_V6: &[Row6] = &[
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible"),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local-use NAT64"),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo"),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "protocol assignments"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
];

fn row(v4: &[Row4], v6: &[Row6], ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => v4
            .iter()
            .find(|(base, bits, _)| (u32::from(ip) ^ u32::from_be_bytes(*base)) >> (32 - bits) == 0)
            .map(|row| row.2),
        IpAddr::V6(ip) => v6
            .iter()
            .find(|(base, bits, _)| (u128::from(ip) ^ u128::from(Ipv6Addr::from(*base))) >> (128 - bits) == 0)
            .map(|row| row.2),
    }
}

fn not_global_unicast(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V6(v6) if v6.octets().first().is_none_or(|b| b >> 5 != 1) => Some("reserved"),
        _ => None,
    }
}
