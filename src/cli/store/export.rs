//! `relay store export`: from the running relay, or from the store of a stopped one.
//!
//! Whatever comes is read as an import would read it: a file gets its name only if it can be imported.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::super::exit::{Exit, Failure};
use super::super::target::{Target, Which};
use super::super::{Context, Format};
use super::progress::Progress;
use super::save::Save;
use crate::app::providers::open_store;
use crate::clock;
use crate::config::{self, Config, Files, StoreChoice};
use crate::seal::travels;
use crate::store::moving::{Decoder, Export, Header, Part, Totals};

pub(super) async fn run(
    context: &mut Context,
    output: &Path,
    which: &Which,
    control: &Handle,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let to_stdout = output == Path::new("-");
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(Failure::new(Exit::Usage, "an export is no text: give --output FILE, or a pipe"));
    }
    let target = Target::find(context, which)?;
    let place = |error: std::io::Error| Failure::failed(format!("{}: {error}", output.display()));
    let mut file = if to_stdout { None } else { Some(Save::begin(output).map_err(place)?) };
    let mut seen = Seen::new();
    let asked = {
        let out: &mut dyn Write = match &mut file {
            Some(file) => file,
            None => &mut context.out,
        };
        let mut asked = target.stream("/v1/store/export", |piece| seen.pass(piece, out)).await;
        if let Err(failure) = &asked
            && failure.exit == Exit::Unreachable
            && seen.bytes == 0
        {
            let config = stopped(&context.environment, which);
            asked = match config {
                Some(config) => from_store(&config?, control, |piece| seen.pass(piece, out)).await,
                None => asked,
            };
        }
        asked.and_then(|()| out.flush().map_err(place))
    };
    asked?;
    let (header, totals) = seen.end()?;
    if let Some(file) = file {
        file.keep().map_err(place)?;
    }
    tell(context, to_stdout, (&header, &totals), (seen.bytes, begun))
}

fn tell(
    context: &mut Context,
    to_stdout: bool,
    (header, totals): (&Header, &Totals),
    (bytes, begun): (u64, Instant),
) -> Result<(), Failure> {
    let seconds = begun.elapsed().as_secs_f64();
    let line = format!("exported: {totals}; {bytes} bytes in {seconds:.1} s; export {}", header.id);
    if to_stdout {
        context.say(&line);
        return Ok(());
    }
    match context.format {
        Format::Json => context.json(&as_json(header, totals, bytes)),
        Format::Text => context.line(&line),
    }
}

fn as_json(header: &Header, totals: &Totals, bytes: u64) -> Value {
    json!({
        "export": header.id,
        "made_at": clock::rfc3339(header.made_at),
        "generation": header.generation,
        "customers": totals.customers,
        "data_keys": totals.data_keys,
        "secrets": totals.secrets,
        "past_versions": totals.past,
        "sum": totals.sum_text(),
        "bytes": bytes,
    })
}

/// The configuration of a relay that does not run, if there is a file to read.
pub(super) fn stopped(environment: &[(String, String)], which: &Which) -> Option<Result<Config, Failure>> {
    let file =
        which.config.clone().or_else(|| Path::new("relay.toml").exists().then(|| "relay.toml".into()))?;
    let (config, report) = config::examine_file(&file, environment, Files::Optional);
    let invalid = || Failure::new(Exit::ConfigInvalid, report.render(false));
    Some(config.ok_or_else(invalid))
}

/// The store of a relay that does not run; it is not made if it is not there.
pub(super) async fn existing(
    config: &Config,
    control: &Handle,
) -> Result<std::sync::Arc<dyn crate::store::Store>, Failure> {
    match &config.store {
        StoreChoice::Memory => return Err(Failure::failed("a store in memory ends with its relay")),
        StoreChoice::Sled { path } if !path.exists() => {
            let words = format!("no relay runs, and there is no store at {}", path.display());
            return Err(Failure::new(Exit::Denied, words));
        }
        StoreChoice::Sled { .. } | StoreChoice::Postgres(_) => {}
    }
    open_store(&config.store, control).await.map_err(Failure::failed)
}

async fn from_store(
    config: &Config,
    control: &Handle,
    mut piece: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), Failure> {
    let store = existing(config, control).await?;
    let mut export = Export::begin(store, travels).await.map_err(Failure::failed)?;
    while let Some(bytes) = export.next().await.map_err(Failure::failed)? {
        piece(&bytes).map_err(Failure::failed)?;
    }
    Ok(())
}

/// What has come so far.
struct Seen {
    decoder: Decoder,
    header: Option<Header>,
    totals: Option<Totals>,
    bytes: u64,
    customers: u64,
    secrets: u64,
    progress: Progress,
}

impl Seen {
    fn new() -> Self {
        let (decoder, progress) = (Decoder::default(), Progress::of(None));
        Self { decoder, header: None, totals: None, bytes: 0, customers: 0, secrets: 0, progress }
    }

    fn pass(&mut self, piece: &[u8], out: &mut dyn Write) -> Result<(), String> {
        out.write_all(piece).map_err(|error| error.to_string())?;
        self.bytes += piece.len() as u64;
        self.decoder.feed(piece);
        while let Some(block) = self.decoder.block().map_err(|error| error.to_string())? {
            match Part::read(&block).map_err(|error| error.to_string())? {
                Part::Header(header) => self.header = Some(header),
                Part::Records(records) => {
                    self.customers += records.keys.iter().filter(|key| key.active).count() as u64;
                    self.secrets += records.secrets.len() as u64;
                }
                Part::End(totals) => self.totals = Some(totals),
            }
        }
        let (customers, secrets) = (self.customers, self.secrets);
        self.progress.show(self.bytes, || format!("exporting: customers {customers}, secrets {secrets},"));
        Ok(())
    }

    fn end(&self) -> Result<(Header, Totals), Failure> {
        let unfinished =
            || Failure::failed("the export broke off; the relay's log says why. Nothing was kept");
        self.decoder.end().map_err(|_| unfinished())?;
        self.header.clone().zip(self.totals).ok_or_else(unfinished)
    }
}
