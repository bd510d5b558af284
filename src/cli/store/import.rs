//! `relay store import`: an export becomes the store that relay.toml names.
//!
//! A file is read to its end and tried with the KMS keys before the store is touched; a pipe is judged block by block
//! as it comes. What must never enter: a write into a store that holds something.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tokio::runtime::Handle;

use super::super::exit::Failure;
use super::super::{Context, Format};
use super::progress::Progress;
use crate::app::providers::{open_keyring, open_store};
use crate::clock;
use crate::config::{self, Config, StoreChoice};
use crate::kms::cached::DataKeys;
use crate::seal::{KeyCheck, travels};
use crate::store::Store;
use crate::store::moving::{Block, Decoder, Import, Imported, Part, Totals};

/// What is read at once.
const PIECE: usize = 128 * 1024;

/// What was asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) file: &'a Path,
    pub(super) config: &'a Path,
    pub(super) resume: bool,
    pub(super) without_key_check_danger: bool,
}

pub(super) async fn run(context: &mut Context, asked: Asked<'_>, control: &Handle) -> Result<(), Failure> {
    let begun = Instant::now();
    let loaded = config::load(asked.config, &context.environment);
    let config = loaded.map_err(|report| context.invalid(&report))?.config;
    if matches!(config.store, StoreChoice::Memory) {
        return Err(Failure::failed("a store in memory ends with its relay: name another [store] engine"));
    }
    let keys = match asked.without_key_check_danger {
        true => None,
        false => Some(open_keys(&config, control).await?),
    };
    if asked.without_key_check_danger {
        context.say("the KMS keys are not tried: what they do not open is lost to this relay");
    }
    let shown = asked.file.display().to_string();
    if asked.file != Path::new("-") {
        let (mut source, size) = open(asked.file)?;
        let mut check = keys.as_ref().map(KeyCheck::with);
        let mut stream = Stream::of(&mut source, Progress::of(Some(size)), "looking through");
        while let Some((block, part)) = stream.next(&shown)? {
            judge(&mut check, block.number, &part).await?;
        }
    }
    let store = open_store(&config.store, control).await.map_err(Failure::failed)?;
    let (imported, totals) = match asked.file {
        dash if dash == Path::new("-") => {
            let mut check = keys.as_ref().map(KeyCheck::with);
            let stream = Stream::of(std::io::stdin().lock(), Progress::of(None), "importing");
            fill(context, &asked, store, (stream, &mut check)).await?
        }
        file => {
            let (source, size) = open(file)?;
            let stream = Stream::of(source, Progress::of(Some(size)), "importing");
            fill(context, &asked, store, (stream, &mut None)).await?
        }
    };
    tell(context, &imported, &totals, begun)
}

fn tell(context: &mut Context, imported: &Imported, totals: &Totals, begun: Instant) -> Result<(), Failure> {
    let made = clock::rfc3339(imported.made_at);
    match context.format {
        Format::Json => context.json(&json!({
            "export": imported.id,
            "made_at": made,
            "generation": imported.generation,
            "customers": totals.customers,
            "data_keys": totals.data_keys,
            "secrets": totals.secrets,
            "past_versions": totals.past,
            "sum": totals.sum_text(),
        })),
        Format::Text => {
            let seconds = begun.elapsed().as_secs_f64();
            context.line(&format!(
                "imported: {totals}; the same as in export {} of {made}, in {seconds:.1} s",
                imported.id
            ))
        }
    }
}

async fn open_keys(config: &Config, control: &Handle) -> Result<DataKeys, Failure> {
    let ring = open_keyring(&config.keys, control).await.map_err(Failure::failed)?;
    Ok(DataKeys::new(ring, 1, control.clone()))
}

fn open(file: &Path) -> Result<(File, u64), Failure> {
    let failed = |error| Failure::failed(format!("{}: {error}", file.display()));
    let source = File::open(file).map_err(failed)?;
    let size = source.metadata().map_err(failed)?.len();
    Ok((source, size))
}

async fn judge(check: &mut Option<KeyCheck<'_>>, block: u64, part: &Part) -> Result<(), Failure> {
    let (Some(check), Part::Records(records)) = (check, part) else { return Ok(()) };
    check.look(records).await.map_err(|error| {
        Failure::failed(format!(
            "the KMS keys of [keys] do not open what the export holds in block {block}: {error}. Nothing more was written. Name the KMS \
             key that wrapped it in [keys], or in previous; --without-key-check-danger imports it all the same"
        ))
    })
}

/// Fills the store, and walks over it at the end.
async fn fill<R: Read>(
    context: &mut Context,
    asked: &Asked<'_>,
    store: Arc<dyn Store>,
    (mut stream, check): (Stream<R>, &mut Option<KeyCheck<'_>>),
) -> Result<(Imported, Totals), Failure> {
    let shown = asked.file.display().to_string();
    let mut import = Import::new(store, travels, asked.resume);
    let mut told = false;
    while let Some((block, part)) = stream.next(&shown)? {
        judge(check, block.number, &part).await?;
        import.take(&block, part).await.map_err(Failure::failed)?;
        if !told && import.kept() > 0 {
            context.say(&format!("goes on behind block {} of the export", import.kept()));
            told = true;
        }
    }
    let mut progress = Progress::of(None);
    let seen = |totals: &Totals| progress.show(0, || format!("comparing: {totals}"));
    import.end(seen).await.map_err(Failure::failed)
}

/// A source, block by block.
struct Stream<R> {
    source: R,
    piece: Vec<u8>,
    decoder: Decoder,
    bytes: u64,
    progress: Progress,
    what: &'static str,
}

impl<R: Read> Stream<R> {
    fn of(source: R, progress: Progress, what: &'static str) -> Self {
        Self { source, piece: vec![0; PIECE], decoder: Decoder::default(), bytes: 0, progress, what }
    }

    fn next(&mut self, shown: &str) -> Result<Option<(Block, Part)>, Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure::failed(format!("{shown}: {error}"));
        loop {
            if let Some(block) = self.decoder.block().map_err(|error| wrong(&error))? {
                let part = Part::read(&block).map_err(|error| wrong(&error))?;
                return Ok(Some((block, part)));
            }
            let count = match self.source.read(&mut self.piece) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| wrong(&error))?,
            };
            if count == 0 {
                self.decoder.end().map_err(|error| wrong(&error))?;
                return Ok(None);
            }
            self.decoder.feed(self.piece.get(..count).unwrap_or_default());
            self.bytes += count as u64;
            let what = self.what;
            self.progress.show(self.bytes, || what.to_owned());
        }
    }
}
