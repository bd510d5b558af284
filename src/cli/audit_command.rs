//! `relay audit`, wired: where the file is, with which key and against which anchor it is checked.
//!
//! Key and newest anchor come from the running relay's admin API, so that whoever can write the file
//! cannot also say what it is checked with.

use std::fs::File;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::audit::{Tail, Verify, key, tail, verify};
use super::exit::{Exit, Failure};
use super::target::{Target, Which};
use super::{Context, Format};
use crate::audit::{Anchor, PublicKey};

/// The audit.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows the newest records: relay audit tail --follow
    Tail {
        /// How many to begin with
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: usize,
        /// Go on with what is added
        #[arg(short, long)]
        follow: bool,
        /// The audit file [default: as relay.toml says]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        which: Which,
    },
    /// Finds every edit, deletion, swap and cut: relay audit verify --config relay.toml
    Verify {
        /// The audit file [default: as relay.toml says]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// The public key to check with, where no relay runs; then a cut behind the newest anchor cannot be
        /// found
        // A key is base64url and may begin with a hyphen.
        #[arg(long, allow_hyphen_values = true)]
        key: Option<String>,
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
        Command::Tail { lines, follow, file, which } => {
            let mut file = open(&path(context, file, &which)?)?;
            Ok(tail(Tail { lines, follow, json }, &mut file, &|| true, &mut context.out, &mut context.err))
        }
        Command::Verify { file, key, which } => {
            let path = path(context, file, &which)?;
            let (key, newest) = trust(context, key, &which).await?;
            let file = open(&path)?;
            let terminal = std::io::stderr().is_terminal();
            let size = file.metadata().ok().filter(|_| terminal).map(|data| data.len());
            let args = Verify { json, size };
            Ok(verify(args, file, (Some(key), newest.as_ref()), &mut context.out, &mut context.err))
        }
        Command::Key { which } => {
            let public = public_key(&Target::find(context, &which)?).await?;
            Ok(key(public, &mut context.out))
        }
    }
}

fn path(context: &Context, given: Option<PathBuf>, which: &Which) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return Ok(path);
    }
    let found = Target::find(context, which)?.audit;
    found.ok_or_else(|| Failure::new(Exit::Usage, "which file? name it, or give --config relay.toml"))
}

/// The key and the newest anchor, from the running relay, or the key alone as given.
async fn trust(
    context: &mut Context,
    given: Option<String>,
    which: &Which,
) -> Result<(PublicKey, Option<Anchor>), Failure> {
    if let Some(text) = given {
        let key =
            PublicKey::parse(&text).ok_or_else(|| Failure::new(Exit::Usage, "--key is no public key"))?;
        context.say("checked with the key given: a cut behind the newest anchor cannot be found this way");
        return Ok((key, None));
    }
    let target = Target::find(context, which)?;
    let key = public_key(&target).await?;
    let answer = target.call(Method::GET, "/v1/audit/anchor", None).await?;
    let line = answer.get("anchor").and_then(Value::as_str);
    Ok((key, line.and_then(|line| Anchor::parse(line.as_bytes()))))
}

async fn public_key(target: &Target) -> Result<PublicKey, Failure> {
    let answer = target.call(Method::GET, "/v1/audit/key", None).await?;
    let text = answer.get("public_key").and_then(Value::as_str).unwrap_or_default();
    PublicKey::parse(text).ok_or_else(|| Failure::failed("the relay sent no public key"))
}

fn open(path: &PathBuf) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}
