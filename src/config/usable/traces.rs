//! `[traces]`.

use toml::de::DeValue;

use super::audit::collector;
use crate::config::traces::Traces;
use crate::config::written::{Table, Written};

/// The part of the traces that is kept unless said otherwise.
const SAMPLE: f64 = 0.01;
const FIX: &str = "write endpoint = \"https://HOST:4318/v1/traces\"";

/// Nothing is traced without a place to send it.
pub(super) fn traces(written: &mut Written<'_>, root: &Table<'_>) -> Option<Traces> {
    let table = written.child(root, "traces", "traces");
    let sample = sample(written, &table);
    let propagate = written.switch(&table, "propagate").is_some_and(|on| on.value);
    if written.absent(&table, "endpoint") {
        for key in ["headers", "ca_file"] {
            if !written.absent(&table, key) {
                let message = format!("{} has {key} and no endpoint", table.shown);
                written.findings.error(&table.place_of(key), message, FIX);
            }
        }
        return None;
    }
    if !cfg!(feature = "otel") {
        let message = "this relay was built without traces";
        let fix = "build it with --features otel, or full; or remove the endpoint";
        written.findings.error(&table.place_of("endpoint"), message.to_owned(), fix);
    }
    let collector = collector(written, &table, "traces.headers", FIX)?;
    Some(Traces { collector, sample, propagate })
}

fn sample(written: &mut Written<'_>, table: &Table<'_>) -> f64 {
    let given = written.scalar(table, "sample", "a number from 0 to 1 without quotes", |value| match value {
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Integer(number) => Some(number.as_str().to_owned()),
        _ => None,
    });
    let Some(given) = given else { return SAMPLE };
    match given.value.trim().parse::<f64>() {
        Ok(sample) if (0.0..=1.0).contains(&sample) => sample,
        _ => {
            let message = format!("{} sample must be a number from 0 to 1", table.shown);
            written.findings.error(&given.place, message, "write a number from 0 to 1, such as 0.01");
            SAMPLE
        }
    }
}
