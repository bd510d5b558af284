//! Are the issuers' keys to be had, and do they fit?

use std::path::Path;
use std::time::Duration;

use super::around::Around;
use super::finding::Findings;
use crate::app::issuers::{address, algorithms};
use crate::config::{CallerKeys, Callers};
use crate::jwks::{Algorithm, KeySet};

const CALL: Duration = Duration::from_secs(5);
const CHECK: &str = "issuers";

/// Reads the keys of each issuer as relay does.
pub(super) async fn issuers(all: Vec<Callers>, around: &mut Around, findings: &mut Findings) {
    for callers in all {
        around.leeway = around.leeway.min(callers.leeway);
        let (name, algorithms) = (callers.issuer.clone(), algorithms(&callers));
        match callers.keys {
            CallerKeys::Hs256(key) => {
                findings.ok(CHECK, format!("{name}: a shared key of {} bytes", key.len()));
            }
            CallerKeys::Jwks(document) => judge(&name, &document, &algorithms, "given directly", findings),
            CallerKeys::JwksFile(path) => match std::fs::read_to_string(&path) {
                Ok(document) => judge(&name, &document, &algorithms, &age(&path), findings),
                Err(error) => {
                    let fix = "put your issuer's JWKS document there";
                    findings.fail(CHECK, format!("{name}: {}: {error}", path.display()), fix);
                }
            },
            CallerKeys::JwksAddress(at) => {
                let fix = if at.discovery {
                    "call the issuer's /.well-known/openid-configuration from here and see; a private CA needs ca_file"
                } else {
                    "call the address from here and see; a private CA needs ca_file"
                };
                match address(at, &name).load(CALL).await {
                    Ok(loaded) => {
                        around.heard(&name, loaded.date.as_deref());
                        let age = match loaded.max_age {
                            Some(age) => format!("good for {}", humantime::format_duration(age)),
                            None => "without a max-age: read again every 5 min".to_owned(),
                        };
                        judge(&name, &loaded.document, &algorithms, &age, findings);
                    }
                    Err(error) => findings.fail(CHECK, format!("{name}: {error}"), fix),
                }
            }
        }
    }
}

fn judge(name: &str, document: &str, algorithms: &[Algorithm], age: &str, findings: &mut Findings) {
    match KeySet::parse(document, algorithms) {
        Ok(set) => {
            let kids: Vec<&str> = set.kids().collect();
            findings.ok(CHECK, format!("{name}: keys that fit: {} ({}), {age}", set.len(), kids.join(" ")));
        }
        Err(error) => {
            let fix = "compare the document with [callers] algorithms";
            findings.fail(CHECK, format!("{name}: {error}"), fix);
        }
    }
}

fn age(path: &Path) -> String {
    let changed = std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let age = changed.and_then(|at| at.elapsed().ok()).unwrap_or_default();
    format!("in a file of {} ago", humantime::format_duration(Duration::from_secs(age.as_secs())))
}
