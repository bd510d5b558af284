//! `upstream`: where a vendor is. One spelling of an origin, and a base path that nothing can climb out of.
//!
//! Read by hand, not by a URL parser, because a parser mends what should be refused: it drops dot
//! segments, folds backslashes and reads 0x7f.1 as an address.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::Origin;

/// What is wrong, and what to do about it.
pub(super) type Wrong = (&'static str, &'static str);

/// The origin, and the base path: empty, or `/api` without a slash at its end.
pub(super) fn parse(text: &str) -> Result<(Origin, String), Wrong> {
    let (secure, rest) = scheme(text)?;
    if text.contains('{') || text.contains('}') {
        return Err((
            "has a template, which relay does not have yet",
            "write one fixed address per integration",
        ));
    }
    if !text.bytes().all(|b| (0x21..0x7f).contains(&b)) {
        return Err((
            "has a space, a control character or a letter outside ASCII",
            "write the host as xn--...",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err((
            "has a query or a fragment",
            "end it with the path; a credential belongs into a secret",
        ));
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if authority.contains('@') {
        return Err(("has a user or a password in it", "leave it away; a credential belongs into a secret"));
    }
    Ok((origin(secure, authority)?, base_path(path)?))
}

fn scheme(text: &str) -> Result<(bool, &str), Wrong> {
    match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => Ok((true, rest)),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => Ok((false, rest)),
        Some(_) => Err(("is neither https nor http", "begin it with https://")),
        None => Err(("has no scheme", "begin it with https://")),
    }
}

fn origin(secure: bool, authority: &str) -> Result<Origin, Wrong> {
    let unclear = ("has no clear host", "write https://host/path or https://host:port/path");
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.ends_with(']') => {
            let shaped = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let port = digits.parse().ok().filter(|port| *port != 0 && shaped);
            (host, port.ok_or(("has a port that is none", "write a port from 1 to 65535, or none"))?)
        }
        _ => (authority, if secure { 443 } else { 80 }),
    };
    let mut host = host.to_ascii_lowercase();
    if let Some(inside) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let address: Ipv6Addr = inside.parse().map_err(|_| unclear)?;
        host = format!("[{address}]");
    } else {
        let labels: Vec<&str> = host.strip_suffix('.').unwrap_or(&host).split('.').collect();
        if labels.iter().any(|label| label.is_empty() || label.len() > 63) {
            return Err(unclear);
        }
        let last = labels.last().copied().unwrap_or_default();
        let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
        if number && host.parse::<Ipv4Addr>().is_err() {
            return Err((
                "has a host that looks like an address and is none",
                "write four numbers, or a name",
            ));
        }
    }
    Origin::new(secure, &host, port).map_err(|_| unclear)
}

fn base_path(path: &str) -> Result<String, Wrong> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.contains('\\') {
        return Err(("has a backslash in its path", "write /"));
    }
    for segment in path.split('/').skip(1) {
        if segment.is_empty() {
            return Err(("has an empty segment in its path", "write one / where there are two"));
        }
        let decoded = segment.to_ascii_lowercase().replace("%2e", ".");
        if decoded == "." || decoded == ".." {
            return Err(("has a dot segment in its path", "write the path that is meant"));
        }
        if ["%2f", "%5c", "%25", "%00"].iter().any(|escape| decoded.contains(escape)) {
            return Err((
                "has an encoded slash, backslash, percent or NUL in its path",
                "write a plain path",
            ));
        }
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_one_origin_and_one_base_path() {
        let rows = [
            ("https://slack.com/api", "https://slack.com", "/api", "plain"),
            ("https://slack.com/api/", "https://slack.com", "/api", "a slash at the end"),
            ("https://slack.com", "https://slack.com", "", "no path"),
            ("https://slack.com/", "https://slack.com", "", "the root"),
            ("HTTPS://API.Slack.COM/Api", "https://api.slack.com", "/Api", "capitals in host, kept in path"),
            ("https://h:8443/a/b", "https://h:8443", "/a/b", "a port"),
            ("https://h:443", "https://h", "", "the default port"),
            ("http://127.0.0.1:80/x", "http://127.0.0.1", "/x", "an address"),
            ("https://[2001:DB8:0::1]:8443", "https://[2001:db8::1]:8443", "", "an IPv6 address, long"),
            ("https://[::1]", "https://[::1]", "", "an IPv6 address without port"),
        ];
        for (text, origin, base, mistake) in rows {
            let (o, b) = parse(text).unwrap();
            assert_eq!((o.to_string().as_str(), b.as_str()), (origin, base), "{mistake}");
        }
    }

    #[test]
    fn what_is_unclear_is_refused() {
        for text in [
            "",
            "slack.com",
            "ftp://h",
            "https://",
            "https:///x",
            "https://h:0",
            "https://h:99999",
            "https://h:",
            "https://h:+1",
            "https://u@h",
            "https://u:p@h",
            "https://h?x",
            "https://h/a?x",
            "https://h/#x",
            "https://h/../x",
            "https://h/a/%2E%2e",
            "https://h/./x",
            "https://h/a%2fb",
            "https://h/a%5Cb",
            "https://h/a\\b",
            "https://h//a",
            "https://h/a//b",
            "https://h/a%252fb",
            "https://[::g]",
            "https://[::1",
            "https://a..b",
            "https://.a",
            "https://0x7f.1",
            "https://0x7f000001",
            "https://2130706433",
            "https://127.1",
            "https://010.0.0.1",
            "https://h h",
            "https://münchen.example",
            "https://{x}.h",
            "https://h/%00",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
