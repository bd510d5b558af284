//! `relay dev`: a whole relay in memory with a vendor to try it on, in one command.
//!
//! It shows for every call what the vendor got beside what the app got. Loopback only, because it holds
//! a token for everything it has; nothing of it is kept. What must never enter: a real credential, or a
//! way to make its keys those of `relay run`.

pub mod screen;
pub mod settings;
pub mod state;
pub mod vendor;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::exit::{Exit, Failure};
use super::token::{LocalIssuer, Order};
use crate::config::Config;
use crate::model::{Customer, FieldName, FieldSpec, IntegrationName, Malformed, SecretId};
use crate::secret::{Field, Secret};

use screen::{Answered, Facts, Look, Screen};
use settings::{AUDIENCE, CUSTOMER, FIELD, INTEGRATION, ISSUER};
use state::{DevRelay, Published, Whereabouts};
use vendor::{DEMO_CREDENTIAL, Seen, Vendor};

/// How long the minted token lives.
const TOKEN_TTL: Duration = Duration::from_secs(12 * 60 * 60);
/// Calls waiting to be printed. More are counted, so that a slow terminal never slows relay.
const MOST_WAITING: usize = 2_048;

/// The arguments of `relay dev`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the app talks to relay; loopback only
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8480")]
    pub listen: SocketAddr,
    /// Where operators do; loopback only
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8481")]
    pub admin_listen: SocketAddr,
    /// Only the built-in vendor, without relay, at --listen
    #[arg(long, requires = "ca_out")]
    pub vendor_only: bool,
    /// With --vendor-only: where its CA's certificate is written, PEM
    #[arg(long, requires = "vendor_only", value_name = "FILE")]
    pub ca_out: Option<PathBuf>,
    /// With --vendor-only: a file with the credential that it takes instead of the demo one
    #[arg(long, requires = "vendor_only", value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
    /// How the banner calls this program, where the name `relay` alone would not find it
    #[arg(skip)]
    pub called: Option<String>,
}

/// Told of every call that relay answered. Called on the data path: must not block.
pub type Observer = Arc<dyn Fn(Answered) + Send + Sync>;

/// Starts a relay. `app` is behind it; a test may put something smaller there.
pub trait Launch {
    /// What was started.
    type Relay: Running;

    /// Starts a relay with this configuration; the error is in words for the operator.
    fn start(
        self,
        config: Config,
        observer: Observer,
    ) -> impl Future<Output = Result<Self::Relay, String>> + Send;
}

/// A relay that runs.
pub trait Running {
    /// Where the app talks to it.
    fn app(&self) -> SocketAddr;

    /// Where operators do.
    fn admin(&self) -> SocketAddr;

    /// Seals and stores a secret, and says its UUID; the error is in words for the operator.
    fn seed(&self, seed: Seed) -> impl Future<Output = Result<SecretId, String>> + Send;

    /// Stops it, after at most the configured grace.
    fn stop(self) -> impl Future<Output = ()> + Send;
}

/// The secret that a dev relay begins with.
pub struct Seed {
    /// Whose.
    pub customer: Customer,
    /// For which integration.
    pub integration: IntegrationName,
    /// What people call it.
    pub label: String,
    /// Its one field, with [`DEMO_CREDENTIAL`].
    pub fields: Vec<Field>,
}

/// Runs a dev relay until `until` is ready. Prints to `out` from the calling task, which should
/// therefore not share its thread with relay's own tasks (`Runtime::block_on` does not).
pub async fn run(
    args: &Args,
    whereabouts: &Whereabouts,
    look: Look,
    out: &mut (dyn Write + Send),
    launch: impl Launch,
    until: impl Future<Output = ()>,
) -> Result<(), Failure> {
    for (flag, address) in [("--listen", args.listen), ("--admin-listen", args.admin_listen)] {
        loopback_only(flag, address)?;
    }
    DevRelay::none_but(std::process::id(), whereabouts)?;
    let (events, waiting) = Events::new();
    let vendor = Vendor::start(SocketAddr::from(([127, 0, 0, 1], 0)), events.vendor())
        .await
        .map_err(|cause| Failure::because("the built-in vendor does not start", &cause))?;
    let issuer = LocalIssuer::generate(&settings::fresh_kid()?)
        .map_err(|cause| Failure::because("no issuer's key could be made", &cause))?;
    let made = settings::make(args.listen, args.admin_listen, &issuer, &vendor)?;
    let relay = launch
        .start(made.config, events.app())
        .await
        .map_err(|cause| Failure::because("relay does not start", &cause))?;
    let screen = Screen::new(look);
    let opened = open(&relay, &issuer, made.admin_token, &vendor, whereabouts).await;
    let ended = match opened {
        Ok((mut facts, published)) => {
            facts.called.clone_from(&args.called);
            let ended = show(screen, &facts, out, waiting, &events.lost, until).await;
            // First, so that nobody finds a relay that is going.
            drop(published);
            ended
        }
        Err(failure) => Err(failure),
    };
    relay.stop().await;
    ended
}

/// Anything but this machine's own loopback would offer the token's power to the network.
fn loopback_only(flag: &str, address: SocketAddr) -> Result<(), Failure> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let words = format!(
        "{flag} {address}: relay dev listens on loopback only (127.0.0.1 or ::1), because its keys and its \
         secret are for trying; `relay init` and `relay run` are for a network"
    );
    Err(Failure::new(Exit::Usage, words))
}

/// Seeds the secret, mints the token, and writes `dev.json`.
async fn open(
    relay: &impl Running,
    issuer: &LocalIssuer,
    admin_token: String,
    vendor: &Vendor,
    whereabouts: &Whereabouts,
) -> Result<(Facts, Published), Failure> {
    let inner = |cause: Malformed| Failure::because("relay dev's own names", &cause);
    let customer = Customer::parse(CUSTOMER).map_err(inner)?;
    let field = Field {
        spec: FieldSpec { name: FieldName::parse(FIELD).map_err(inner)?, secret: true },
        value: Secret::new(DEMO_CREDENTIAL.as_bytes().to_vec()),
    };
    let seed = Seed {
        customer: customer.clone(),
        integration: IntegrationName::parse(INTEGRATION).map_err(inner)?,
        label: "demo key".to_owned(),
        fields: vec![field],
    };
    let secret =
        relay.seed(seed).await.map_err(|cause| Failure::because("the secret was not sealed", &cause))?;
    let mut published = DevRelay {
        url: format!("http://{}", relay.app()),
        admin: format!("http://{}", relay.admin()),
        admin_token,
        customer: customer.to_string(),
        secret: secret.to_string(),
        token: String::new(),
        vendor: vendor.origin(),
        pid: std::process::id(),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        kid: issuer.kid.clone(),
        issuer_key: String::from_utf8_lossy(issuer.key.expose()).into_owned(),
    };
    // Without the claim that pins a secret: it may use those that are added later, too.
    let order = Order { customer: &customer, secret: None, scope: None, ttl: TOKEN_TTL };
    published.token =
        published.mint(&order).map_err(|cause| Failure::because("no token was minted", &cause))?;
    let facts = Facts {
        app: published.url.clone(),
        admin: published.admin.clone(),
        vendor: published.vendor.clone(),
        customer: published.customer.clone(),
        secret: published.secret.clone(),
        integration: INTEGRATION.to_owned(),
        token: humantime::format_duration(TOKEN_TTL).to_string(),
        called: None,
    };
    Ok((facts, published.publish(whereabouts)?))
}

/// Prints the banner and then every call, until told to end.
async fn show(
    mut screen: Screen,
    facts: &Facts,
    out: &mut (dyn Write + Send),
    mut waiting: mpsc::Receiver<Event>,
    lost: &AtomicU64,
    until: impl Future<Output = ()>,
) -> Result<(), Failure> {
    out.write_all(screen.banner(facts).as_bytes())
        .and_then(|()| out.flush())
        .map_err(|cause| Failure::because("the banner cannot be printed", &cause))?;
    let mut until = pin!(until);
    loop {
        let event = tokio::select! {
            () = &mut until => return Ok(()),
            event = waiting.recv() => event,
        };
        let mut text = match event {
            None => return Ok(()),
            Some(Event::Vendor(seen)) => {
                screen.vendor_got(seen);
                continue;
            }
            Some(Event::App(answered)) => screen.app_got(&answered),
        };
        match lost.swap(0, Ordering::Relaxed) {
            0 => {}
            calls => text.push_str(&screen.missed(calls)),
        }
        // A terminal that went away is no reason to stop serving.
        drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    }
}

enum Event {
    Vendor(Seen),
    App(Answered),
}

/// The two ends that tell of a call. The vendor's word for a call stands in the queue before the app's,
/// because it is put there before the vendor answers.
struct Events {
    queue: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
}

impl Events {
    fn new() -> (Self, mpsc::Receiver<Event>) {
        let (queue, waiting) = mpsc::channel(MOST_WAITING);
        (Self { queue, lost: Arc::default() }, waiting)
    }

    fn vendor(&self) -> impl Fn(Seen) + Send + Sync + 'static {
        let queue = self.queue.clone();
        // Lost calls are counted once, at the app's side.
        move |seen| drop(queue.try_send(Event::Vendor(seen)))
    }

    fn app(&self) -> Observer {
        let (queue, lost) = (self.queue.clone(), Arc::clone(&self.lost));
        Arc::new(move |answered| {
            if queue.try_send(Event::App(answered)).is_err() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        })
    }
}
