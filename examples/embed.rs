//! relay inside your own program: no second process, no file on disk.
//!
//!     cargo run --example embed
//!
//! It starts a relay in memory from a `relay.toml` written in code, seals one credential, sends one
//! request through, and shows what the vendor got and what the app got. The vendor here is a few lines on
//! a loopback port; a real one is an https:// upstream and needs neither `plaintext_danger` nor
//! `private_cidrs`.

use std::error::Error;
use std::io::{Read as _, Write as _, stdout};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use relay::app::{self, Options, Running};
use relay::audit::MemorySink;
use relay::cli::token::{LocalIssuer, Order, Signer, mint};
use relay::clock;
use relay::config::{self, CallerKeys, Config, Files};
use relay::kms::local::Local;
use relay::model::{Customer, FieldName, IntegrationName, Policy};
use relay::seal::NewSecret;
use relay::secret::Secret;
use relay::store::memory::Memory;
use tokio::runtime::Handle;

type Failure = Box<dyn Error + Send + Sync>;

const CREDENTIAL: &str = "a-credential-that-the-app-never-sees";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (vendor, seen) = vendor()?;
    // In your program the tokens come from your own issuer, and its JWKS document goes into [callers].
    let issuer = LocalIssuer::generate("embed")?;
    let relay = start(vendor, &issuer).await?;

    let customer = Customer::parse("acme")?;
    let sealed = relay
        .sealer()
        .add(NewSecret {
            customer: customer.clone(),
            integration: IntegrationName::parse("vendor")?,
            label: "acme's key".to_owned(),
            fields: vec![(FieldName::parse("token")?, Secret::new(CREDENTIAL.as_bytes().to_vec()))],
            expires_at: None,
            policy: Policy::default(),
            idempotency: None,
        })
        .await?;
    let token = token(&issuer, &customer)?;

    let (app, id) = (relay.app.address().ok_or("relay listens on TCP")?, sealed.id);
    let asked = tokio::task::spawn_blocking(move || {
        let head = format!("GET /vendor/{id}/hello HTTP/1.1\r\nauthorization: Bearer {token}");
        ask(app, &head)
    });
    let answer = asked.await??;
    let given = seen.join().map_err(|_| "the vendor failed")??;
    relay.stop().await;

    let mut out = stdout();
    writeln!(out, "the vendor got:\n{}\n\nthe app got:\n{}", given.trim_end(), answer.trim_end())?;
    if !given.contains(CREDENTIAL) || answer.contains(CREDENTIAL) {
        return Err("the credential is not where it belongs".into());
    }
    Ok(())
}

/// A relay with nothing on disk: key, store and audit are put in from here.
async fn start(vendor: SocketAddr, issuer: &LocalIssuer) -> Result<Running, Failure> {
    let options = Options {
        kms: Some(Arc::new(Local::ephemeral())),
        store: Some(Arc::new(Memory::new())),
        sink: Some(Box::new(MemorySink::default())),
        ..Options::default()
    };
    Ok(app::start_with(configuration(vendor, issuer)?, options, Handle::current()).await?)
}

/// The same text as in a file. The parts that [`start`] puts in take the place of [keys], [store] and
/// [audit]; the issuer's public keys take the place of [callers] jwks.
fn configuration(vendor: SocketAddr, issuer: &LocalIssuer) -> Result<Config, Failure> {
    let text = format!(
        r#"
[server]
listen       = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
workers      = 1

[callers]
jwks       = "file:jwks.json"
issuer     = "https://auth.saas.example"
audience   = "relay"
algorithms = ["ES256"]
customer   = "customer_id"

[keys]
provider = "local"
file     = "relay.key"

[store]
engine = "sled"
path   = "relay.db"

[audit]
path = "audit.jsonl"

[admin]
token = "env:ADMIN_TOKEN"

[integrations.vendor]
upstream = "http://{vendor}"
inject   = [{{ header = "x-api-key", value = "{{token}}" }}]
plaintext_danger = true
private_cidrs    = ["127.0.0.0/8"]
"#
    );
    let environment = [("ADMIN_TOKEN".to_owned(), "an admin token of at least 32 bytes".to_owned())];
    let mut config = config::parse(&text, "embed", Path::new("."), &environment, Files::Optional)
        .map_err(|report| report.render(false))?;
    for callers in &mut config.callers {
        callers.keys = CallerKeys::Jwks(issuer.jwks.clone());
    }
    Ok(config)
}

fn token(issuer: &LocalIssuer, customer: &Customer) -> Result<String, Failure> {
    let signer = Signer {
        key: &issuer.key,
        kid: Some(&issuer.kid),
        issuer: "https://auth.saas.example",
        audience: "relay",
        customer_claim: "customer_id",
        secret_claim: "secret",
    };
    let order = Order { customer, secret: None, scope: None, ttl: Duration::from_secs(60) };
    Ok(mint(&signer, &order, clock::unix_seconds())?)
}

/// Answers one request with its own head, as no real vendor should; then says what it was sent.
fn vendor() -> Result<(SocketAddr, JoinHandle<std::io::Result<String>>), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let seen = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut head = Vec::new();
        let mut piece = [0; 1024];
        while !head.ends_with(b"\r\n\r\n") {
            let count = stream.read(&mut piece)?;
            head.extend(piece.iter().take(count));
            if count == 0 {
                break;
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let said = format!("You sent me:\n{head}");
        let length = said.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n{said}"
        )?;
        Ok(head)
    });
    Ok((address, seen))
}

/// The app's side: any HTTP client will do.
fn ask(relay: SocketAddr, head: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(relay)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "{head}\r\nhost: {relay}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
