//! `relay audit`, wired: where the files are, with which key and against which anchors they are checked.
//!
//! Key and newest anchors come from the running relay's admin API, so that whoever can write the files
//! cannot also say what they are checked with.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::audit::{Export, Tail, Verify, Wanted, export, key, pass, tail, verify};
use super::exit::{Exit, Failure};
use super::target::{Target, Which};
use super::{Context, Format, unsaid};
use crate::audit::history::Asked;
use crate::audit::replica::is_name;
use crate::audit::several::{Found, Trust, find};
use crate::audit::{Anchor, PublicKey};
use crate::clock;

/// How many records `tail` begins with where nothing else is said.
const NEWEST: usize = 10;

/// The audit.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows the newest records: relay audit tail --follow --denied
    Tail {
        /// How many to begin with [default: 10; with --since all since then]
        #[arg(short = 'n', long)]
        lines: Option<usize>,
        /// Go on with what is added
        #[arg(short, long)]
        follow: bool,
        /// Only what is about this customer
        #[arg(long)]
        customer: Option<String>,
        /// Only what is about this integration
        #[arg(long)]
        integration: Option<String>,
        /// Only what is about this secret
        #[arg(long)]
        secret: Option<String>,
        /// Only what relay refused
        #[arg(long)]
        denied: bool,
        /// Only what was written since: 1h, 7d, 2026-11-22T08:00:00Z
        #[arg(long, value_parser = moment)]
        since: Option<u64>,
        /// The audit file [default: as relay.toml says]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        which: Which,
    },
    /// Finds every edit, deletion, swap and cut: relay audit verify --config relay.toml
    Verify {
        /// Audit files, their segments among them, and folders of such, of any replicas in any order [default:
        /// as relay.toml says]
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The public key to check with, where no relay runs; then a cut behind the newest anchor cannot be
        /// found
        // A key is base64url and may begin with a hyphen.
        #[arg(long, allow_hyphen_values = true)]
        key: Option<String>,
        /// Also want files of every replica that the store knows; so it is for a folder
        #[arg(long)]
        whole: bool,
        /// Check just these files, and not whether anything stood before or behind them
        #[arg(long, conflicts_with = "whole")]
        part: bool,
        #[command(flatten)]
        which: Which,
    },
    /// Prints a customer's own access history: relay audit export --customer acme --since 30d
    Export {
        /// Whose
        #[arg(long)]
        customer: String,
        /// Begun since: 30d, 2026-11-01T00:00:00Z
        #[arg(long, value_parser = moment)]
        since: Option<u64>,
        /// Begun before: 2026-12-01T00:00:00Z
        #[arg(long, value_parser = moment)]
        until: Option<u64>,
        /// Comma-separated values for a spreadsheet, instead of a line of JSON each
        #[arg(long)]
        csv: bool,
        /// Audit files and folders to read [default: the running relay tells its own]
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        which: Which,
    },
    /// Wants no files any more of a replica that is gone for good: relay audit retire pod-7
    Retire {
        /// Its name
        replica: String,
        #[command(flatten)]
        which: Which,
    },
    /// Prints the public key that anchors are checked with: relay audit key
    Key {
        #[command(flatten)]
        which: Which,
    },
}

/// Runs one of them; the exit code is returned.
pub(super) async fn run(context: &mut Context, command: Command) -> Result<u8, Failure> {
    let json = context.format == Format::Json;
    match command {
        Command::Tail { lines, follow, customer, integration, secret, denied, since, file, which } => {
            let path = path(context, file, &which)?;
            let lines = lines.or_else(|| since.is_none().then_some(NEWEST));
            // UUIDs stand in the audit in lower case.
            let secret = secret.map(|id| id.to_ascii_lowercase());
            let wanted = Wanted { customer, integration, secret, denied, since };
            let args = Tail { lines, follow, json, wanted };
            Ok(tail(&args, &path, &|| true, &mut context.out, &mut context.err))
        }
        Command::Verify { files, key, whole, part, which } => {
            let whole = whole || files.len() > 1 || files.iter().any(|path| path.is_dir());
            let paths = paths(context, files, &which)?;
            let trust = trust(context, key, &which, (whole, part)).await?;
            let files = found(&paths, part)?;
            let args = Verify { json, bar: std::io::stderr().is_terminal() };
            Ok(verify(args, files, &trust, &mut context.out, &mut context.err))
        }
        Command::Export { customer, since, until, csv, files, which } => {
            let asked = Asked { customer, since, until };
            tell(context, &asked, Export { csv }, files, &which).await.map(|()| Exit::Ok as u8)
        }
        Command::Retire { replica, which } => retire(context, &replica, &which).await,
        Command::Key { which } => {
            let public = public_key(&Target::find(context, &which)?).await?;
            Ok(key(public, &mut context.out))
        }
    }
}

async fn retire(context: &mut Context, replica: &str, which: &Which) -> Result<u8, Failure> {
    if !is_name(replica) {
        let why = "a replica's name is 1 to 64 of a-z, 0-9, '.', '_' and '-'";
        return Err(Failure::new(Exit::Usage, why));
    }
    let target = Target::find(context, which)?;
    let done = target.call(Method::DELETE, &format!("/v1/audit/replicas/{replica}"), None).await?;
    if context.format == Format::Json {
        context.json(&done)?;
    } else {
        context.line(&format!("{replica} is gone: verify wants no files of it any more"))?;
    }
    Ok(Exit::Ok as u8)
}

/// Seconds since 1970, from a time or from how long ago it was.
fn moment(text: &str) -> Result<u64, String> {
    if let Some(at) = clock::parse_rfc3339(text) {
        return Ok(at);
    }
    let ago = humantime::parse_duration(text);
    let ago = ago.map_err(|_| "write how long ago (30m, 12h, 7d) or when (2026-11-22T08:00:00Z)")?;
    Ok(clock::unix_seconds().saturating_sub(ago.as_secs()))
}

fn path(context: &Context, given: Option<PathBuf>, which: &Which) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return Ok(path);
    }
    let found = Target::find(context, which)?.audit;
    found.ok_or_else(|| Failure::new(Exit::Usage, "which file? name it, or give --config relay.toml"))
}

fn paths(context: &Context, given: Vec<PathBuf>, which: &Which) -> Result<Vec<PathBuf>, Failure> {
    if given.is_empty() { Ok(vec![path(context, None, which)?]) } else { Ok(given) }
}

fn found(paths: &[PathBuf], alone: bool) -> Result<Vec<Found>, Failure> {
    let files = find(paths, alone).map_err(Failure::failed)?;
    if files.is_empty() {
        return Err(Failure::failed("there is no audit file: their names end in .jsonl"));
    }
    Ok(files)
}

/// The history from the running relay, or out of the files that are named, or its own where it does not run.
async fn tell(
    context: &mut Context,
    asked: &Asked,
    how: Export,
    files: Vec<PathBuf>,
    which: &Which,
) -> Result<(), Failure> {
    if files.is_empty() {
        let target = Target::find(context, which)?;
        match by_relay(context, &target, asked, how).await {
            Err(failure) if failure.exit == Exit::Unreachable && target.audit.is_some() => {
                context.say("no relay runs; this is what its file says");
            }
            done => return done,
        }
    }
    let paths = paths(context, files, which)?;
    export(how, found(&paths, false)?, asked, &mut context.out).map_err(|error| unsaid(&error))
}

async fn by_relay(context: &mut Context, target: &Target, asked: &Asked, how: Export) -> Result<(), Failure> {
    let mut url = url::form_urlencoded::Serializer::new(String::new());
    for (name, at) in [("since", asked.since), ("until", asked.until)] {
        if let Some(at) = at {
            url.append_pair(name, &at.to_string());
        }
    }
    let customer: String = url::form_urlencoded::byte_serialize(asked.customer.as_bytes()).collect();
    // In a path a plus is a plus.
    let path = format!("/v1/customers/{}/history?{}", customer.replace('+', "%20"), url.finish());
    let (mut rest, mut begun) = (Vec::new(), false);
    let out = &mut context.out;
    let take = |piece: &[u8]| {
        if !std::mem::replace(&mut begun, true) {
            how.begin(out).map_err(|error| error.to_string())?;
        }
        pass(how, &mut rest, piece, out).map_err(|error| error.to_string())
    };
    target.stream(&path, take).await?;
    if !begun {
        how.begin(&mut context.out).map_err(|error| unsaid(&error))?;
    }
    context.out.flush().map_err(|error| unsaid(&error))
}

/// The key and the newest anchors, from the running relay, or the key alone as given.
async fn trust(
    context: &mut Context,
    given: Option<String>,
    which: &Which,
    (whole, part): (bool, bool),
) -> Result<Trust, Failure> {
    if let Some(text) = given {
        let key =
            PublicKey::parse(&text).ok_or_else(|| Failure::new(Exit::Usage, "--key is no public key"))?;
        context.say("checked with the key given: a cut behind the newest anchor cannot be found this way");
        return Ok(Trust { key, newest: Vec::new(), whole, part });
    }
    let target = Target::find(context, which)?;
    let key = public_key(&target).await?;
    let answer = target.call(Method::GET, "/v1/audit/anchors", None).await?;
    let lines = answer.get("anchors").and_then(Value::as_array).into_iter().flatten();
    let newest = lines.filter_map(|line| Anchor::parse(line.as_str()?.as_bytes())).collect();
    Ok(Trust { key, newest, whole, part })
}

async fn public_key(target: &Target) -> Result<PublicKey, Failure> {
    let answer = target.call(Method::GET, "/v1/audit/key", None).await?;
    let text = answer.get("public_key").and_then(Value::as_str).unwrap_or_default();
    PublicKey::parse(text).ok_or_else(|| Failure::failed("the relay sent no public key"))
}
