//! What `relay dev` prints: the banner, and for each call what the vendor got beside what the app got.
//!
//! Whatever came over the wire is shown with its control characters escaped, so that an answer cannot
//! steer the terminal. What must never enter: a credential but the seeded constant; the vendor's side is
//! masked before it gets here, the app's side has been scrubbed.

use std::collections::VecDeque;
use std::time::Duration;

use super::vendor::{DEMO_CREDENTIAL, Seen};
use crate::cli::token::harmless;
use crate::clock;

/// Sightings kept for an answer that has not come yet. Past this the oldest goes.
const MOST_PENDING: usize = 1_024;
/// Two columns narrower than this each are less readable than one.
const SIDE_BY_SIDE: usize = 80;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether ANSI colours are wanted.
    pub colour: bool,
}

impl Look {
    /// How a terminal wants it: its `columns`, or none if it is a file or a pipe; `no_color` as the
    /// environment's `NO_COLOR` (set and not empty).
    pub fn of(columns: Option<u16>, no_color: bool) -> Self {
        let width = columns.filter(|columns| *columns > 0).map_or(100, usize::from);
        Self { width, colour: columns.is_some() && !no_color }
    }
}

/// What the app got for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// relay's id of it.
    pub request_id: String,
    /// The request's method.
    pub method: String,
    /// Its path as the app wrote it, with integration and secret, without the query.
    pub path: String,
    /// The answer's status.
    pub status: u16,
    /// The answer's first bytes; at most 256 are shown.
    pub body: Vec<u8>,
    /// From the head of the request to the end of the answer.
    pub took: Duration,
}

/// What the banner says.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `http://127.0.0.1:8480`
    pub app: String,
    /// `http://127.0.0.1:8481`
    pub admin: String,
    /// `https://127.0.0.1:PORT`
    pub vendor: String,
    /// The customer.
    pub customer: String,
    /// The seeded secret.
    pub secret: String,
    /// The integration.
    pub integration: String,
    /// How long the token lives, in words.
    pub token: String,
    /// How a shell calls this program, where the name `relay` alone would not find it.
    pub called: Option<String>,
}

/// The terminal's side of a dev relay.
#[derive(Debug)]
pub struct Screen {
    look: Look,
    pending: VecDeque<Seen>,
}

impl Screen {
    /// Nothing printed yet.
    pub const fn new(look: Look) -> Self {
        Self { look, pending: VecDeque::new() }
    }

    /// What stands where, and what to type. The lines to copy are never wrapped.
    pub fn banner(&self, facts: &Facts) -> String {
        let rows = [
            ("app side", facts.app.clone()),
            ("admin", facts.admin.clone()),
            (
                "vendor",
                format!("{}  built in: echoes what it was given, streams, pages, fails", facts.vendor),
            ),
            ("customer", facts.customer.clone()),
            ("secret", format!("{}  its credential is {DEMO_CREDENTIAL}", facts.secret)),
            ("integration", format!("{}  sets authorization: Bearer {{token}}", facts.integration)),
            ("token", format!("minted for {}, {}", facts.customer, facts.token)),
        ];
        let mut text = self.bold(&format!("relay {} dev", env!("CARGO_PKG_VERSION")));
        text.push_str(": in memory, loopback only, gone on exit\n\n");
        for (name, value) in rows {
            let mut name = name;
            for line in wrap(&value, self.look.width.saturating_sub(15)) {
                text.push_str(&format!("  {name:<11}  {line}\n"));
                name = "";
            }
        }
        let called = facts.called.as_deref().unwrap_or("relay");
        text.push_str(&format!("\nIn another terminal:\n\n  eval \"$({called} env)\"\n"));
        text.push_str(&format!(
            "  curl \"$RELAY_URL/{}/$RELAY_SECRET/hello\" -H \"Authorization: Bearer $RELAY_TOKEN\"\n\n",
            facts.integration
        ));
        let more = "also instead of /hello: /sse /pages /redirect /redirect/away /fail/503 /slow /drop \
                    /bytes?n=1000 /count /echo /v1/chat/completions /auth.test";
        for line in wrap(more, self.look.width) {
            text.push_str(&self.dim(&line));
            text.push('\n');
        }
        text.push('\n');
        text
    }

    /// Keeps what the vendor got until the app has its answer.
    pub fn vendor_got(&mut self, seen: Seen) {
        if self.pending.len() == MOST_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(seen);
    }

    /// One call, both sides of it.
    pub fn app_got(&mut self, answered: &Answered) -> String {
        let seen = self.take(answered);
        let path = seen.as_ref().map_or(&answered.path, |seen| &seen.path);
        let time = clock::rfc3339(clock::unix_seconds());
        let mut text = format!(
            "{}  {} -> {}  in {:.1} ms  {}\n",
            time.get(11..).unwrap_or(&time),
            self.bold(&harmless(&format!("{} {path}", answered.method))),
            self.status(answered.status),
            answered.took.as_secs_f64() * 1_000.0,
            self.dim(&harmless(&answered.request_id)),
        );
        let vendor = vendor_side(seen.as_ref());
        let app = app_side(answered);
        if self.look.width >= SIDE_BY_SIDE {
            self.beside(&mut text, &vendor, &app);
        } else {
            self.below(&mut text, &vendor, &app);
        }
        text.push('\n');
        text
    }

    /// Calls that came faster than they could be printed.
    pub fn missed(&self, calls: u64) -> String {
        format!("{}\n\n", self.dim(&format!("... and {calls} more, too fast to print")))
    }

    /// The oldest sighting that can be this call's: same method, and the path that the app's ends with.
    fn take(&mut self, answered: &Answered) -> Option<Seen> {
        let at = self
            .pending
            .iter()
            .position(|seen| seen.method == answered.method && answered.path.ends_with(&seen.path))?;
        self.pending.remove(at)
    }

    fn beside(&self, text: &mut String, vendor: &[String], app: &[String]) {
        let half = (self.look.width - 5) / 2;
        let wrapped = |side: &[String]| side.iter().flat_map(|line| wrap(line, half)).collect::<Vec<_>>();
        let (left, right) = (wrapped(vendor), wrapped(app));
        let titles = format!("  {:<half$} | {}", "the vendor got", "the app got");
        text.push_str(&self.dim(&titles));
        text.push('\n');
        for row in 0..left.len().max(right.len()) {
            let cell = |side: &[String]| side.get(row).cloned().unwrap_or_default();
            text.push_str(format!("  {:<half$} | {}", cell(&left), cell(&right)).trim_end());
            text.push('\n');
        }
    }

    fn below(&self, text: &mut String, vendor: &[String], app: &[String]) {
        for (title, side) in [("the vendor got", vendor), ("the app got", app)] {
            text.push_str(&format!("  {}\n", self.dim(title)));
            for line in side.iter().flat_map(|line| wrap(line, self.look.width.saturating_sub(4))) {
                text.push_str(&format!("    {line}\n"));
            }
        }
    }

    fn status(&self, status: u16) -> String {
        let colour = match status {
            200..400 => "32",
            400..500 => "33",
            _ => "31",
        };
        self.painted(&status.to_string(), colour)
    }

    fn bold(&self, text: &str) -> String {
        self.painted(text, "1")
    }

    fn dim(&self, text: &str) -> String {
        self.painted(text, "2")
    }

    fn painted(&self, text: &str, with: &str) -> String {
        if self.look.colour { format!("\u{1b}[{with}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn vendor_side(seen: Option<&Seen>) -> Vec<String> {
    let Some(seen) = seen else { return vec!["nothing: relay answered by itself".to_owned()] };
    let given = seen.authorization.as_deref().map_or_else(|| "none".to_owned(), harmless);
    let token =
        if seen.your_token_reached_me { "IT CAME THROUGH, which is a bug" } else { "did not come through" };
    vec![
        harmless(&format!("{} {}", seen.method, seen.path)),
        format!("authorization: {given}"),
        format!("your app's token: {token}"),
    ]
}

fn app_side(answered: &Answered) -> Vec<String> {
    let body = answered.body.get(..256).unwrap_or(&answered.body);
    let mut lines = vec![format!("status {}", answered.status)];
    // A character may have been cut in two at the end.
    let whole = match std::str::from_utf8(body) {
        Ok(text) => Some(text),
        Err(cut) if cut.error_len().is_none() => {
            body.get(..cut.valid_up_to()).and_then(|start| std::str::from_utf8(start).ok())
        }
        Err(_) => None,
    };
    match whole {
        Some(text) => lines.extend(text.lines().filter(|line| !line.is_empty()).map(harmless)),
        None => lines.push("[not text]".to_owned()),
    }
    lines
}

/// Lines of at most `width` characters, broken behind a space where there is one in the second half.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(16);
    let mut lines = Vec::new();
    let mut left: Vec<char> = text.chars().collect();
    while left.len() > width {
        let space = left.iter().take(width + 1).rposition(|c| *c == ' ').filter(|at| *at > width / 2);
        let rest = left.split_off(space.unwrap_or(width));
        lines.push(left.into_iter().collect());
        left = rest.into_iter().skip(usize::from(space.is_some())).collect();
    }
    lines.push(left.into_iter().collect());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_asked_and_none_is_lost() {
        let rows = [
            ("short", 16, vec!["short"], "a short line stays"),
            (
                "twenty characters ok",
                16,
                vec!["twenty character", "s ok"],
                "a space in the first half is too early",
            ),
            ("twelve chars and more", 16, vec!["twelve chars and", "more"], "the last space that fits"),
            ("aaaaaaaaaaaaaaaaaaaa", 16, vec!["aaaaaaaaaaaaaaaa", "aaaa"], "a word that is too long is cut"),
            ("aaaaaaaaaaaaaaaa b", 16, vec!["aaaaaaaaaaaaaaaa", "b"], "a space just behind the width"),
            ("", 16, vec![""], "an empty line stays a line"),
        ];
        for (text, width, wanted, mistake) in rows {
            assert_eq!(wrap(text, width), wanted, "{mistake}");
        }
    }
}
