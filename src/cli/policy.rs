//! `relay secret policy`, and the same limits where a secret is added.
//!
//! They narrow what the integration allows; relay says so where they would not.

use clap::Args;
use serde_json::{Map, Value};

use super::exit::{Exit, Failure};

/// A secret's own limits.
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// Allow only this, as in "GET /users/*"; may be given several times
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
    /// Never allow this, as in "DELETE /**"; may be given several times
    #[arg(long, value_name = "RULE")]
    deny: Vec<String>,
    /// Requests per second
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Requests at once where the secret was at rest; as many as --rate unless given
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// Requests under way
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
}

impl Limits {
    /// As the admin API takes them; `None` if none was given.
    pub(super) fn body(self) -> Option<Value> {
        let mut body = Map::new();
        for (name, rules) in [("allow", self.allow), ("deny", self.deny)] {
            if !rules.is_empty() {
                body.insert(name.to_owned(), rules.into());
            }
        }
        for (name, number) in [("rate", self.rate), ("burst", self.burst), ("concurrency", self.concurrency)]
        {
            body.extend(number.map(|number| (name.to_owned(), number.into())));
        }
        (!body.is_empty()).then_some(Value::Object(body))
    }

    /// The body of `relay secret policy`, which says all limits or, by `clear`, that there are none.
    ///
    /// # Errors
    /// Neither was said, or both.
    pub(super) fn or_cleared(self, clear: bool) -> Result<Value, Failure> {
        match (self.body(), clear) {
            (Some(body), false) => Ok(body),
            (None, true) => Ok(Value::Object(Map::new())),
            (None, false) => {
                let why = "give the limits, all of them: what is not given is not limited; or --clear";
                Err(Failure::new(Exit::Usage, why))
            }
            (Some(_), true) => Err(Failure::new(Exit::Usage, "--clear goes with no limit")),
        }
    }
}
