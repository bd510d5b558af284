//! The command line: one file per subcommand.
//!
//! stdout is data, stderr is talk; a value of a secret never comes by argv. What must never enter: the
//! data path, and any reading of the environment but at the one place that hands it down.

pub mod audit;
mod audit_command;
mod catalog;
pub mod check;
mod customer;
pub mod dev;
mod doctor;
pub mod env;
pub mod exit;
pub mod health;
pub mod init;
mod integration;
mod job;
mod key;
mod launch;
mod policy;
pub mod process;
mod prompt;
mod reload;
pub mod run;
pub mod secret;
mod store;
mod systemd;
pub mod target;
pub mod token;
mod token_command;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::Value;

use crate::config::Report;
use exit::{Exit, Failure};
use target::Which;

/// A streaming reverse proxy that injects your customers' credentials, so that your application never
/// holds them.
#[derive(Debug, Parser)]
#[command(name = "relay", version, propagate_version = true, arg_required_else_help = true)]
struct Line {
    /// How answers are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people and simple scripts.
    Text,
    /// For programs: stable names.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a whole relay in memory with a vendor to try it on: relay dev
    Dev(dev::Args),
    /// Prints how to reach the running dev relay: eval "$(relay env)"
    Env,
    /// Runs relay: relay run --config relay.toml
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "relay.toml")]
        config: PathBuf,
        /// Start although the store is older than its own audit says: after putting a backup back
        #[arg(long)]
        accept_older_store: bool,
    },
    /// Judges a configuration, every mistake at once: relay check relay.toml
    Check {
        /// The configuration
        #[arg(value_name = "FILE", default_value = "relay.toml")]
        file: PathBuf,
        /// Print what holds in the end, each value with where it comes from; secrets are not shown
        #[arg(long)]
        effective: bool,
    },
    /// Writes a first configuration and its keys: relay init --local-issuer
    Init {
        /// The folder to write into
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        dir: PathBuf,
        /// Also make an issuer of callers' tokens; whoever holds its key is every customer
        #[arg(long)]
        local_issuer: bool,
    },
    /// Works on the secrets of a running relay
    #[command(subcommand)]
    Secret(secret::Command),
    /// Works on the keys of a running relay
    #[command(subcommand)]
    Key(key::Command),
    /// Works on the store as a whole: relay store export --output store.export
    #[command(subcommand)]
    Store(store::Command),
    /// Works on customers
    #[command(subcommand)]
    Customer(customer::Command),
    /// Works on integrations
    #[command(subcommand)]
    Integration(integration::Command),
    /// Shows the vendors that relay knows: relay catalog list
    #[command(subcommand)]
    Catalog(catalog::Command),
    /// Mints and reads callers' tokens
    #[command(subcommand)]
    Token(token_command::Command),
    /// Reads and verifies the audit
    #[command(subcommand)]
    Audit(audit_command::Command),
    /// Looks at everything that relay needs, and says what to do: relay doctor --config relay.toml
    Doctor {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "relay.toml")]
        config: PathBuf,
    },
    /// Has the running relay read its relay.toml again, as SIGHUP does: relay reload
    Reload {
        #[command(flatten)]
        which: Which,
    },
    /// Whether the running relay is ready: relay health
    Health {
        #[command(flatten)]
        which: Which,
        /// Only whether it answers at all, for liveness probes: what relay waits for does not count
        #[arg(long)]
        alive: bool,
    },
}

const UNEXPECTED_VALUE: &str = "relay: there is a word too many (not shown: it may be a secret's value). \
    A value comes by stdin, --from-file or --from-env; --help says the rest";

/// What every command is handed.
pub struct Context {
    /// How to print.
    pub format: Format,
    /// The process's environment.
    pub environment: Vec<(String, String)>,
    /// Data.
    pub out: Box<dyn Write + Send>,
    /// Talk.
    pub err: Box<dyn Write + Send>,
}

/// Runs the command line of this process; the exit code is returned.
pub fn main(environment: Vec<(String, String)>) -> u8 {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let help = !error.use_stderr();
            // A closed pipe behind --help is no failure.
            let _ = match unexpected_value(&error) {
                true => writeln!(std::io::stderr(), "{UNEXPECTED_VALUE}"),
                false => error.print(),
            };
            return if help { Exit::Ok as u8 } else { Exit::Usage as u8 };
        }
    };
    let mut context = Context {
        format: line.format,
        environment,
        out: Box::new(std::io::stdout()),
        err: Box::new(std::io::stderr()),
    };
    match dispatch(&mut context, line.command) {
        Ok(code) => code,
        Err(failure) => {
            if failure.exit != Exit::Ok {
                context.say(&format!("relay: {failure}"));
            }
            failure.exit as u8
        }
    }
}

/// Whether a word stands where none belongs. It may be a credential, so it is not printed.
fn unexpected_value(error: &clap::Error) -> bool {
    let word = error.get(ContextKind::InvalidArg);
    error.kind() == ErrorKind::UnknownArgument
        && matches!(word, Some(ContextValue::String(word)) if !word.starts_with('-'))
}

fn dispatch(context: &mut Context, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Dev(args) => launch::dev(context, &args).map(ok),
        Command::Env => {
            let shape = if context.format == Format::Json { env::Shape::Json } else { env::Shape::Shell };
            env::run(&context.whereabouts(), shape, &mut context.out).map(ok)
        }
        Command::Run { config, accept_older_store } => run::run(context, &config, accept_older_store).map(ok),
        Command::Check { file, effective } => {
            let format = match context.format {
                Format::Json => check::Format::Json,
                Format::Text if context.fancy() => check::Format::Fancy,
                Format::Text => check::Format::Plain,
            };
            let run = if effective { check::effective } else { check::run };
            Ok(run(&file, format, &context.environment, &mut context.out, &mut context.err))
        }
        Command::Init { dir, local_issuer } => {
            let key = |path: &std::path::Path| {
                crate::kms::local::Local::create(path).map(|_| ()).map_err(|error| error.to_string())
            };
            Ok(init::run(&dir, local_issuer, key, &mut context.out, &mut context.err))
        }
        Command::Secret(command) => process::block_on(secret::run(context, command))?.map(ok),
        Command::Key(command) => process::block_on(key::run(context, command))?.map(ok),
        Command::Store(command) => store::run(context, command).map(ok),
        Command::Customer(command) => process::block_on(customer::run(context, command))?.map(ok),
        Command::Integration(command) => process::block_on(integration::run(context, command))?.map(ok),
        Command::Catalog(command) => catalog::run(context, command).map(ok),
        Command::Token(command) => token_command::run(context, command).map(ok),
        Command::Audit(command) => process::block_on(audit_command::run(context, command))?,
        Command::Doctor { config } => doctor::run(context, &config),
        Command::Reload { which } => process::block_on(reload::run(context, &which))?.map(ok),
        Command::Health { which, alive } => process::block_on(health::run(context, &which, alive))?.map(ok),
    }
}

/// Stdout takes no more. A reader that has gone, as `head` does, has had enough: no failure of the command.
fn unsaid(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::new(Exit::Ok, "the reader has gone"),
        _ => Failure::failed(error),
    }
}

const fn ok((): ()) -> u8 {
    Exit::Ok as u8
}

impl Context {
    /// One variable of the environment; an empty one counts as not set.
    pub fn variable(&self, name: &str) -> Option<String> {
        let found = self.environment.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    /// Where `dev.json` is.
    pub fn whereabouts(&self) -> dev::state::Whereabouts {
        dev::state::Whereabouts::find(|name| self.variable(name).map(Into::into), &std::env::temp_dir())
    }

    /// Whether stderr is a terminal that wants colours.
    pub fn fancy(&self) -> bool {
        std::io::stderr().is_terminal() && self.variable("NO_COLOR").is_none()
    }

    /// One line of data.
    ///
    /// # Errors
    /// If stdout takes no more.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}").map_err(|error| unsaid(&error))
    }

    /// One JSON value as data.
    ///
    /// # Errors
    /// If stdout takes no more.
    pub fn json(&mut self, value: &Value) -> Result<(), Failure> {
        writeln!(self.out, "{value:#}").map_err(|error| unsaid(&error))
    }

    /// One line of talk.
    pub fn say(&mut self, text: &str) {
        // Nobody is there to be told that nobody is there.
        let _ = writeln!(self.err, "{text}");
    }

    /// A configuration's report as a failure, already shown.
    pub fn invalid(&self, report: &Report) -> Failure {
        let text = report.render(self.fancy());
        Failure::new(Exit::ConfigInvalid, format!("the configuration is not valid\n{text}"))
    }
}
