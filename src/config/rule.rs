//! `allow` and `deny`: one method and one path pattern each.
//!
//! A pattern is relative to the upstream's base path, case-sensitive, and looks at no query. `*` stands
//! inside one segment, `**` only as the last. A percent-encoded slash belongs to its segment, so only a
//! pattern that ends in `/**` matches a path that has one.

use http::Method;

/// `METHOD|* /pattern`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    method: Option<Method>,
    segments: Vec<String>,
    rest: bool,
    /// The pattern as `denies` reads it: decoded, without parameters and empty segments.
    tidied: Vec<String>,
}

impl Rule {
    /// Reads `GET /repos/*/issues`, `* /**`; says what is wrong in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (method, pattern) = text
            .split_once(' ')
            .ok_or_else(|| "a rule is a method or *, one space, and a path pattern".to_owned())?;
        let method = match method {
            "*" => None,
            word if !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') => {
                Some(Method::from_bytes(word.as_bytes()).map_err(|e| e.to_string())?)
            }
            _ => return Err("a rule's method is in capitals, or * for any".to_owned()),
        };
        let path = pattern.strip_prefix('/').ok_or_else(|| "a rule's pattern begins with /".to_owned())?;
        if pattern.bytes().any(|b| !(0x21..0x7f).contains(&b) || b"?#\\".contains(&b)) {
            return Err("a rule's pattern is a path: visible ASCII without ? # or \\".to_owned());
        }
        let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        let rest = segments.last().is_some_and(|s| s == "**");
        if rest {
            segments.pop();
        }
        if segments.iter().any(|s| s.contains("**")) {
            return Err("** stands only as the last segment".to_owned());
        }
        if segments.iter().any(|s| s == "." || s == "..") {
            return Err("a rule's pattern has no dot segments: relay refuses such paths anyway".to_owned());
        }
        let written = decoded(&decoded(&segments.join("/")));
        let tidied = tidy(&written).map(str::to_owned).collect();
        Ok(Self { method, segments, rest, tidied })
    }

    /// Whether this rule covers a request. `path` is the still encoded path below the base path, with
    /// its leading slash.
    pub fn matches(&self, method: &Method, path: &str) -> bool {
        self.method.as_ref().is_none_or(|m| m == method) && self.covers(path)
    }

    /// Whether this rule, as one of `deny`, covers a request. Vendors tidy up what `matches` takes as it is
    /// written, so a denied request stays denied however its path is escaped (up to twice over), whatever
    /// empty segments, `;parameters` and closing slash it has, and in whatever case its method is spelled.
    /// `/x/**` denies `/x` as well.
    pub fn denies(&self, method: &Method, path: &str) -> bool {
        // A HEAD is answered as the GET would be (RFC 9110 section 9.3.2).
        let spelled = |m: &Method| {
            m.as_str().eq_ignore_ascii_case(method.as_str())
                || (*m == Method::GET && method.as_str().eq_ignore_ascii_case("HEAD"))
        };
        if !self.method.as_ref().is_none_or(spelled) {
            return false;
        }
        self.covers_read(path, 2)
    }

    /// As some server reads the path that decodes it up to so many times, and that cuts parameters off before
    /// it decodes or only afterwards: `/a;%2Fx/b` is `/a/b` to one and `/a/x/b` to the other.
    fn covers_read(&self, path: &str, decodings: usize) -> bool {
        let cut = path.contains(';').then(|| cut(path));
        if self.covers(path) || self.covers_each(tidy(path)) {
            return true;
        }
        // Who takes no parameters for such tidies up all the same.
        if cut.as_deref().is_some_and(|cut| self.covers(cut) || self.covers_each(named(path))) {
            return true;
        }
        if decodings == 0 || !path.contains('%') {
            return false;
        }
        if self.covers_apart(path, decodings) {
            return true;
        }
        self.covers_read(&decoded(path), decodings - 1)
            || cut.is_some_and(|cut| self.covers_read(&decoded(&cut), decodings - 1))
    }

    /// The path as it is written, segment by segment.
    fn covers(&self, path: &str) -> bool {
        let mut given = path.strip_prefix('/').unwrap_or(path).split('/');
        for wanted in &self.segments {
            match given.next() {
                Some(segment) if segment_matches(wanted, segment) => {}
                _ => return false,
            }
        }
        self.rest == given.next().is_some()
    }

    /// As a server reads it that decodes each segment by itself: `%2F` in one parts nothing.
    fn covers_apart(&self, path: &str, decodings: usize) -> bool {
        let covers = |segments: &mut Vec<String>| {
            (0..decodings).any(|_| {
                segments.iter_mut().for_each(|segment| *segment = decoded(segment));
                self.covers_each(segments.iter().map(String::as_str))
            })
        };
        covers(&mut tidy(path).map(str::to_owned).collect())
            || (path.contains(';') && covers(&mut named(path).map(str::to_owned).collect()))
    }

    fn covers_each<'a>(&self, mut given: impl Iterator<Item = &'a str>) -> bool {
        let begins =
            self.tidied.iter().all(|wanted| given.next().is_some_and(|segment| glob(wanted, segment)));
        begins && (self.rest || given.next().is_none())
    }
}

/// The segments that are not empty.
fn named(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The segments that name something, without their `;parameters`.
fn tidy(path: &str) -> impl Iterator<Item = &str> {
    named(path).filter_map(|segment| segment.split(';').next()).filter(|name| !name.is_empty())
}

/// All segments, without their `;parameters`.
fn cut(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').filter_map(|segment| segment.split(';').next()).collect();
    segments.join("/")
}

/// `path` with every percent escape (RFC 3986 section 2.1) replaced by what it stands for.
pub fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).and_then(|d| char::from(*d).to_digit(16));
        let escaped = digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A segment that has an encoded slash is covered by none but `**`.
fn segment_matches(pattern: &str, segment: &str) -> bool {
    !segment.contains("%2F") && !segment.contains("%2f") && glob(pattern, segment)
}

/// `*` stands for any run of bytes inside a segment.
fn glob(pattern: &str, segment: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut left) = segment.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return left.is_empty() };
    for part in parts {
        match left.find(part) {
            Some(at) => left = left.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        let rows = [
            ("GET /a", "GET", "/a", true, "exact"),
            ("GET /a", "POST", "/a", false, "another method"),
            ("* /a", "POST", "/a", true, "any method"),
            ("GET /a", "GET", "/a/", false, "a trailing slash is another path"),
            ("GET /a", "GET", "/A", false, "case matters"),
            ("POST /chat.*", "POST", "/chat.postMessage", true, "star inside a segment"),
            ("POST /chat.*", "POST", "/chat.a/b", false, "star does not cross a slash"),
            ("GET /a/*/c", "GET", "/a/b/c", true, "star as a segment"),
            ("GET /a/*/c", "GET", "/a/b%2Fx/c", false, "an encoded slash belongs to its segment"),
            ("GET /a/**", "GET", "/a/b%2fx/c", true, "only /** takes an encoded slash"),
            ("GET /a/**", "GET", "/a", false, "/** wants what stands before it and a slash"),
            ("GET /**", "GET", "/", true, "everything"),
            ("GET /a*b*c", "GET", "/aXbYc", true, "two stars"),
            ("GET /a*b*c", "GET", "/aXcYb", false, "two stars in the wrong order"),
            ("GET /ab*ba", "GET", "/aba", false, "the parts may not overlap"),
        ];
        for (rule, method, path, wanted, mistake) in rows {
            let rule = Rule::parse(rule).unwrap();
            assert_eq!(rule.matches(&method.parse().unwrap(), path), wanted, "{mistake}");
        }
    }

    #[test]
    fn a_denied_path_stays_denied_however_it_is_escaped() {
        let rows = [
            ("/a//admin/5", true, "an empty segment"),
            ("/a/%2Fadmin/5", true, "an empty segment behind an escaped slash"),
            ("/a/admin;x/5", true, "a parameter"),
            ("/a/admin%3bx/5", true, "an escaped parameter"),
            ("/a/admin", true, "without what stands behind"),
            ("/a/users/5/", true, "a closing slash"),
            ("/a/users/5%2f", true, "an escaped closing slash"),
            ("/a/users/5%2f6", true, "an escaped slash inside a segment"),
            ("/a/users/5/6", false, "one segment more"),
            ("/a/administrator/5", false, "another name"),
        ];
        let rules = ["DELETE /a/admin/**", "DELETE /a/users/*"].map(|rule| Rule::parse(rule).unwrap());
        for (path, wanted, mistake) in rows {
            for method in ["DELETE", "delete", "Delete"] {
                let method = method.parse().unwrap();
                assert_eq!(rules.iter().any(|rule| rule.denies(&method, path)), wanted, "{mistake}");
            }
            assert!(!rules.iter().any(|rule| rule.denies(&Method::GET, path)), "another method");
        }
        let rule = Rule::parse("* /admin/**").unwrap();
        let rows = [
            ("/admin/x", true, "as written"),
            ("/%61dmin/x", true, "an escaped letter"),
            ("/admin%2Fx", true, "an escaped slash"),
            ("/admin%252fx", true, "a slash escaped twice"),
            ("/other/admin/x", false, "somewhere else"),
            ("/100%/x", false, "a percent sign that is no escape"),
        ];
        for (path, wanted, mistake) in rows {
            assert_eq!(rule.denies(&Method::GET, path), wanted, "{mistake}");
        }
    }

    #[test]
    fn a_deny_pattern_is_read_as_the_path_is() {
        let rows = [
            ("* /projects/acme%2Fprod/**", "/projects/acme%2Fprod/x", "as written"),
            ("* /projects/acme%2Fprod/**", "/projects/acme%2fprod/x", "the escape in another case"),
            ("* /projects/acme%2Fprod/**", "/projects/%61cme%2Fprod/x", "another letter escaped"),
            ("* /proj/a%2Fb", "/proj/a%2fb", "without what stands behind"),
            ("* /a/b", "/%61;%2Fv=1/b", "a parameter with an escaped slash, cut before decoding"),
            ("* /a/*", "/%61/", "an empty segment that * stands for, behind an escape"),
            ("* /a/v=1/b", "/%61;%2Fv=1/b", "the same, cut behind decoding"),
            ("* /a/b", "/%2561;%252Fv=1/b", "the same, escaped twice"),
            ("* /mat;v=1/x", "/mat;v=1/x", "a parameter in the pattern"),
            ("* /*b", "//x;b", "an empty segment, and * that stands for what only some take for a parameter"),
            ("* /*b", "//%78;%2Fb", "the same, decoded segment by segment"),
            ("* /a/*", "/a;x/", "a parameter, and an empty segment that * stands for"),
            ("* /a/*", "/%61/;%252F", "the same behind an escape"),
            ("GET /a", "/a", "a GET"),
        ];
        for (rule, path, mistake) in rows {
            let rule = Rule::parse(rule).unwrap();
            assert!(rule.denies(&Method::GET, path), "{mistake}");
            assert!(rule.denies(&Method::HEAD, path), "{mistake}, as a HEAD");
        }
    }

    #[test]
    fn what_allow_would_cover_deny_covers() {
        let patterns = ["/a", "/a/*", "/a/**", "/**", "/a*b", "/a;v=1/*", "/%61/**", "/a/", "/*"];
        let paths =
            ["/a", "/a/", "/a/b", "/a/b/c", "/a%2Fb/c", "/axb", "/a;v=1/x", "/%61/x", "/", "//a", "/a//b"];
        for pattern in patterns {
            let rule = Rule::parse(&format!("GET {pattern}")).unwrap();
            for path in paths {
                let covered = rule.matches(&Method::GET, path);
                assert!(!covered || rule.denies(&Method::GET, path), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in
            ["", "GET", "get /a", "GET a", "GET  /a", "GET /**/a", "GET /a**", "GET /a?b", "GET /../a"]
        {
            assert!(Rule::parse(text).is_err(), "{text}");
        }
    }
}
