//! `relay dev`, wired to the real relay.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::dev::screen::{Answered, Look};
use super::dev::vendor::serve_vendor;
use super::dev::{Args, Launch, Observer, Running, Seed, run};
use super::exit::{Exit, Failure};
use super::{Context, process};
use crate::app::{self, Options};
use crate::config::Config;
use crate::listen::Seen;
use crate::model::{Policy, SecretId};
use crate::seal::NewSecret;

/// Runs the dev relay, or only its vendor, until SIGTERM or SIGINT.
pub(super) fn dev(context: &mut Context, args: &Args) -> Result<(), Failure> {
    process::close_memory(context);
    process::log(context);
    let control = process::control()?;
    let whereabouts = context.whereabouts();
    let columns = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col);
    let look = Look::of(columns, context.variable("NO_COLOR").is_some());
    let launch = Real(control.handle().clone());
    let args = Args { called: called(context), ..args.clone() };
    control.block_on(async {
        let stop = async {
            if let Err(error) = process::asked_to_stop().await {
                tracing::error!(%error, "signals cannot be watched");
            }
        };
        match (args.vendor_only, &args.ca_out) {
            (true, Some(ca_out)) => {
                serve_vendor(args.listen, args.credential_file.as_deref(), ca_out, &mut context.out, stop)
                    .await
            }
            (true, None) => Err(Failure::new(Exit::Usage, "--vendor-only wants --ca-out")),
            (false, _) => Box::pin(run(&args, &whereabouts, look, &mut context.out, launch, stop)).await,
        }
    })
}

/// This program's path, unless the shell finds this very program under its name: after `cargo run` it
/// does not, and what the banner prints must work as printed.
fn called(context: &Context) -> Option<String> {
    let own = std::env::current_exe().ok()?.canonicalize().ok()?;
    let folders = context.variable("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join("relay")).find(|file| file.is_file());
    if found.and_then(|file| file.canonicalize().ok()).is_some_and(|file| file == own) {
        return None;
    }
    let path = own.to_str().filter(|path| !path.contains(|c: char| c == '\'' || c.is_control()))?;
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    Some(if plain { path.to_owned() } else { format!("'{path}'") })
}

struct Real(Handle);

impl Launch for Real {
    type Relay = RealRunning;

    async fn start(self, config: Config, observer: Observer) -> Result<RealRunning, String> {
        let seen = move |seen: Seen| {
            observer(Answered {
                request_id: seen.request_id.to_string(),
                method: seen.method,
                path: seen.path,
                status: seen.status,
                body: seen.body.expose().to_vec(),
                took: seen.took,
            });
        };
        let options = Options { observer: Some(Arc::new(seen)), ..Options::default() };
        let running = app::start_with(config, options, self.0).await.map_err(|error| error.to_string())?;
        Ok(RealRunning(running))
    }
}

struct RealRunning(app::Running);

impl Running for RealRunning {
    fn app(&self) -> SocketAddr {
        // A dev relay listens on the loopback address that it was given.
        self.0.app.address().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn admin(&self) -> SocketAddr {
        self.0.admin
    }

    async fn seed(&self, seed: Seed) -> Result<SecretId, String> {
        let new = NewSecret {
            customer: seed.customer,
            integration: seed.integration,
            label: seed.label,
            fields: seed.fields.into_iter().map(|field| (field.spec.name, field.value)).collect(),
            expires_at: None,
            policy: Policy::default(),
            idempotency: None,
        };
        self.0.sealer().add(new).await.map(|summary| summary.id).map_err(|error| error.to_string())
    }

    async fn stop(self) {
        self.0.stop().await;
    }
}
