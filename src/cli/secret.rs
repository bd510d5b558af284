//! `relay secret`: add, list, show, rotate, versions, rollback, expire, policy, disable, enable, rm.
//!
//! A value comes from a hidden prompt, stdin, a file or a variable, never from the command line, where
//! every process could read it.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use zeroize::Zeroizing;

use super::exit::{Exit, Failure};
use super::policy::Limits;
use super::target::{Target, Which};
use super::{Context, Format, prompt};
use crate::config::FieldSetting;
use crate::model::Members;

/// Fields of 64 KiB, escaped, and room for several.
const LARGEST_INPUT: u64 = 1024 * 1024;

/// Works on the secrets of a running relay.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Seals a credential and prints its UUID:
    /// relay secret add --customer acme --integration slack < token.txt
    Add {
        /// Whose credential it is
        #[arg(long)]
        customer: String,
        /// The integration it is for, as named in relay.toml
        #[arg(long)]
        integration: String,
        /// What people call it
        #[arg(long)]
        label: Option<String>,
        /// Until when it may be used, as in 2027-01-31T00:00:00Z
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        /// Seal it without asking the vendor whether it works
        #[arg(long)]
        no_verify: bool,
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        value: ValueFrom,
        #[command(flatten)]
        which: Which,
    },
    /// Lists a customer's secrets: relay secret list --customer acme
    List {
        /// Whose
        #[arg(long)]
        customer: String,
        #[command(flatten)]
        which: Which,
    },
    /// Shows one secret, never its value: relay secret show UUID
    Show(One),
    /// Seals a new value under the same UUID: relay secret rotate UUID < token.txt
    Rotate {
        /// The secret's UUID
        id: String,
        /// Seal it without asking the vendor whether it works
        #[arg(long)]
        no_verify: bool,
        #[command(flatten)]
        value: ValueFrom,
        #[command(flatten)]
        which: Which,
    },
    /// Lists a secret's versions: relay secret versions UUID
    Versions(One),
    /// Seals an old version's value as the new version: relay secret rollback UUID --to 3
    Rollback {
        /// The secret's UUID
        id: String,
        /// The version
        #[arg(long, value_name = "VERSION")]
        to: u32,
        #[command(flatten)]
        which: Which,
    },
    /// Changes until when a secret may be used: relay secret expire UUID 2027-01-31T00:00:00Z
    Expire {
        /// The secret's UUID
        id: String,
        /// The time, or "never"
        at: String,
        #[command(flatten)]
        which: Which,
    },
    /// Gives a secret limits of its own, in place of those it has:
    /// relay secret policy UUID --allow "GET /**" --rate 5
    Policy {
        /// The secret's UUID
        id: String,
        #[command(flatten)]
        limits: Limits,
        /// No limits of its own any more
        #[arg(long)]
        clear: bool,
        #[command(flatten)]
        which: Which,
    },
    /// Stops a secret's use at once: relay secret disable UUID
    Disable(One),
    /// Allows it again: relay secret enable UUID
    Enable(One),
    /// Deletes a secret and all its versions: relay secret rm UUID --yes
    Rm {
        /// The secret's UUID
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        which: Which,
    },
}

/// One secret.
#[derive(Debug, Args)]
pub(super) struct One {
    /// The secret's UUID
    id: String,
    #[command(flatten)]
    which: Which,
}

/// Where a value comes from; a hidden prompt or stdin unless told otherwise.
#[derive(Debug, Args)]
pub(super) struct ValueFrom {
    /// Read the value from this file
    #[arg(long, value_name = "FILE", conflicts_with = "from_env")]
    from_file: Option<PathBuf>,
    /// Read the value from this environment variable
    #[arg(long, value_name = "NAME")]
    from_env: Option<String>,
    /// The field that the value is for; without it a JSON object gives several fields, and anything else
    /// is the field "token"
    #[arg(long)]
    field: Option<String>,
}

/// Runs one of them.
///
/// # Errors
/// As the admin API answers.
pub(super) async fn run(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add { customer, integration, label, expires_at, no_verify, limits, value, which } => {
            let target = Target::find(context, &which)?;
            let known = target.integrations.iter().find(|known| known.name.as_str() == integration);
            let fields = match known {
                Some(known) if value.is_asked_for() => prompt::fields(context, &known.fields)?,
                _ => value.read(context, known.and_then(|known| only_field(&known.fields)))?,
            };
            let mut body = serde_json::Map::new();
            body.insert("customer".into(), customer.into());
            body.insert("integration".into(), integration.into());
            body.extend(label.map(|label| ("label".to_owned(), label.into())));
            body.extend(expires_at.map(|at| ("expires_at".to_owned(), at.into())));
            body.extend(limits.body().map(|policy| ("policy".to_owned(), policy)));
            body.extend(untried(no_verify));
            let summary =
                target.call(Method::POST, "/v1/secrets", Some(with_fields(&body, &fields)?)).await?;
            match context.format {
                Format::Text => context.line(summary.get("id").and_then(Value::as_str).unwrap_or_default()),
                Format::Json => context.json(&summary),
            }
        }
        Command::List { customer, which } => list(context, &customer, &which).await,
        Command::Show(One { id, which }) => {
            let summary = Target::find(context, &which)?.call(Method::GET, &path(&id, "")?, None).await?;
            show(context, &summary)
        }
        Command::Rotate { id, no_verify, value, which } => {
            let target = Target::find(context, &which)?;
            let body = with_fields(&untried(no_verify).into_iter().collect(), &value.read(context, None)?)?;
            let summary = target.call(Method::POST, &path(&id, "/versions")?, Some(body)).await?;
            show(context, &summary)
        }
        Command::Versions(One { id, which }) => versions(context, &id, &which).await,
        Command::Rollback { id, to, which } => {
            let body = serde_json::json!({ "to": to });
            post(context, &id, "/rollback", &body, &which).await
        }
        Command::Expire { id, at, which } => {
            let at = (at != "never").then_some(at);
            post(context, &id, "/expire", &serde_json::json!({ "expires_at": at }), &which).await
        }
        Command::Policy { id, limits, clear, which } => {
            let (path, body) = (path(&id, "/policy")?, limits.or_cleared(clear)?.to_string().into_bytes());
            let summary = Target::find(context, &which)?.call(Method::PUT, &path, Some(body)).await?;
            show(context, &summary)
        }
        Command::Disable(One { id, which }) => change(context, &id, "/disable", &which).await,
        Command::Enable(One { id, which }) => change(context, &id, "/enable", &which).await,
        Command::Rm { id, yes, which } => remove(context, &id, yes, &which).await,
    }
}

/// What says that the vendor is not to be asked.
fn untried(no_verify: bool) -> Option<(String, Value)> {
    no_verify.then(|| ("verify".to_owned(), false.into()))
}

async fn list(context: &mut Context, customer: &str, which: &Which) -> Result<(), Failure> {
    let target = Target::find(context, which)?;
    let mut all: Vec<Value> = Vec::new();
    let mut after = String::new();
    loop {
        let customer: String = url::form_urlencoded::byte_serialize(customer.as_bytes()).collect();
        let page = target.call(Method::GET, &format!("/v1/secrets?customer={customer}{after}"), None).await?;
        all.extend(page.get("secrets").and_then(Value::as_array).cloned().unwrap_or_default());
        for id in page.get("unusable").and_then(Value::as_array).into_iter().flatten() {
            context.say(&format!(
                "{} is damaged in the store and cannot be used",
                id.as_str().unwrap_or_default()
            ));
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    if context.format == Format::Json {
        return context.json(&Value::Array(all));
    }
    if all.is_empty() {
        context.say("this customer has no secrets");
    }
    for secret in &all {
        let text = |name: &str| secret.get(name).and_then(Value::as_str).unwrap_or("-");
        let version = secret.get("version").and_then(Value::as_u64).unwrap_or_default();
        let line = format!(
            "{}  {:<16} {:<8} v{version:<3} {}  {}",
            text("id"),
            text("integration"),
            text("state"),
            text("fingerprint"),
            text("label")
        );
        context.line(&line)?;
    }
    Ok(())
}

async fn versions(context: &mut Context, id: &str, which: &Which) -> Result<(), Failure> {
    let path = path(id, "/versions")?;
    let answer = Target::find(context, which)?.call(Method::GET, &path, None).await?;
    if context.format == Format::Json {
        return context.json(&answer);
    }
    for version in answer.get("versions").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| version.get(name).and_then(Value::as_str);
        let number = version.get("version").and_then(Value::as_u64).unwrap_or_default();
        let since = match text("superseded_at") {
            Some(at) => format!("until {at}"),
            None => "current".to_owned(),
        };
        let print = text("fingerprint").unwrap_or("cannot be opened");
        context.line(&format!("v{number:<4} {print}  {}  {since}", text("origin").unwrap_or("-")))?;
    }
    Ok(())
}

async fn post(
    context: &mut Context,
    id: &str,
    action: &str,
    body: &Value,
    which: &Which,
) -> Result<(), Failure> {
    let (path, body) = (path(id, action)?, body.to_string().into_bytes());
    let summary = Target::find(context, which)?.call(Method::POST, &path, Some(body)).await?;
    show(context, &summary)
}

async fn change(context: &mut Context, id: &str, action: &str, which: &Which) -> Result<(), Failure> {
    let summary = Target::find(context, which)?.call(Method::POST, &path(id, action)?, None).await?;
    show(context, &summary)
}

async fn remove(context: &mut Context, id: &str, yes: bool, which: &Which) -> Result<(), Failure> {
    let target = Target::find(context, which)?;
    if !yes {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(Exit::Usage, "deleting asks first; give --yes where nobody can answer"));
        }
        let summary = target.call(Method::GET, &path(id, "")?, None).await?;
        show(context, &summary)?;
        context.say("delete this secret and all its versions? type yes:");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(Failure::failed)?;
        if answer.trim() != "yes" {
            return Err(Failure::failed("not deleted"));
        }
    }
    target.call(Method::DELETE, &path(id, "")?, None).await?;
    context.say("deleted");
    Ok(())
}

fn show(context: &mut Context, summary: &Value) -> Result<(), Failure> {
    if context.format == Format::Json {
        return context.json(summary);
    }
    for (name, value) in summary.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        context.line(&format!("{name:<12} {value}"))?;
    }
    Ok(())
}

fn path(id: &str, action: &str) -> Result<String, Failure> {
    let id = crate::model::SecretId::parse(id).map_err(|why| Failure::new(Exit::Usage, why.to_string()))?;
    Ok(format!("/v1/secrets/{id}{action}"))
}

type Fields = BTreeMap<String, Zeroizing<String>>;

impl ValueFrom {
    /// Whether a person at a terminal is asked.
    fn is_asked_for(&self) -> bool {
        let told = self.from_file.is_some() || self.from_env.is_some() || self.field.is_some();
        !told && std::io::stdin().is_terminal()
    }

    /// The fields as given; a bare value is the `only` field's, if there is one alone.
    fn read(&self, context: &mut Context, only: Option<&str>) -> Result<Fields, Failure> {
        let text = self.text(context)?;
        if self.field.is_none() && text.trim_start().starts_with('{') {
            let fields: Members<String, String> = serde_json::from_str(&text)
                .map_err(|_| Failure::new(Exit::Usage, "the input begins like JSON but is no object of texts; give --field for a value that begins with {"))?;
            return Ok(fields.0.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect());
        }
        let name = self.field.clone().unwrap_or_else(|| only.unwrap_or("token").to_owned());
        Ok(Fields::from([(name, text)]))
    }

    fn text(&self, context: &mut Context) -> Result<Zeroizing<String>, Failure> {
        let mut text = Zeroizing::new(String::new());
        if let Some(name) = &self.from_env {
            let value = context.variable(name);
            *text = value.ok_or_else(|| Failure::new(Exit::Usage, not_set(name)))?;
            return Ok(text);
        }
        if let Some(file) = &self.from_file {
            let file = std::fs::File::open(file)
                .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", file.display())))?;
            limited(file, &mut text)?;
        } else if std::io::stdin().is_terminal() {
            *text = rpassword::prompt_password("value (not shown): ").map_err(Failure::failed)?;
        } else {
            limited(std::io::stdin().lock(), &mut text)?;
        }
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

/// The name of the field, where there is one alone.
fn only_field(fields: &[FieldSetting]) -> Option<&str> {
    match fields {
        [field] => Some(field.spec.name.as_str()),
        _ => None,
    }
}

/// Whoever writes `--from-env "$TOKEN"` has given the value: what is no variable's name is not printed.
fn not_set(name: &str) -> String {
    if name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_') {
        format!("the variable {name} is not set")
    } else {
        "--from-env wants the name of a variable, and none is set by the one given".to_owned()
    }
}

fn limited(source: impl Read, text: &mut String) -> Result<(), Failure> {
    let read = source.take(LARGEST_INPUT + 1).read_to_string(text);
    read.map_err(|_| Failure::new(Exit::Usage, "the value could not be read as text"))?;
    if text.len() as u64 > LARGEST_INPUT {
        return Err(Failure::new(Exit::Usage, "the value is larger than 1 MiB"));
    }
    Ok(())
}

/// The body with the values last, so that they are written once, into the buffer that is sent.
fn with_fields(rest: &serde_json::Map<String, Value>, fields: &Fields) -> Result<Vec<u8>, Failure> {
    let mut body: Vec<u8> = Vec::with_capacity(64 * 1024);
    body.push(b'{');
    for (name, value) in rest {
        write!(body, "{}:{value},", Value::from(name.as_str())).map_err(Failure::failed)?;
    }
    body.extend_from_slice(b"\"fields\":");
    let plain: BTreeMap<&str, &str> =
        fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    serde_json::to_writer(&mut body, &plain).map_err(Failure::failed)?;
    body.push(b'}');
    Ok(body)
}
