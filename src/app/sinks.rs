//! Where the audit goes: a file alone, or several sinks at once; and where traces do.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::{StartError, failed};
use crate::audit::collector;
use crate::audit::{FanOut, FileSink, MemorySink, Outlet, Sink, replica};
use crate::config::audit::{Audit, Otlp};
use crate::config::traces::Traces;
use crate::metrics::Metrics;
use crate::net::otlp::Collector;
use crate::net::spans::{Carrier, Tracer};
use crate::net::tls::{Roots, client_config};

/// The sink as configured, and whether what is written is still there at the next start.
pub(super) fn open_sink(audit: &Audit, control: &Handle) -> Result<(Box<dyn Sink>, bool), StartError> {
    let opened = |path| FileSink::rotating(path, audit.rotation.clone());
    let file = audit.path.as_deref().map(opened).transpose().map_err(failed("[audit] path"))?;
    let kept = file.is_some();
    let mut others: Vec<(&'static str, Box<dyn Outlet>)> = Vec::new();
    if audit.stdout {
        others.push(FanOut::stdout());
    }
    if let Some(otlp) = &audit.otlp {
        others.push((
            "otlp",
            Box::new(collector::Otlp {
                collector: collector_of(otlp, audit, ("[audit] otlp", "[audit] otlp ca_file"))?,
                runtime: control.clone(),
            }),
        ));
    }
    Ok(match (file, others.is_empty()) {
        (Some(file), true) => (Box::new(file), kept),
        (None, true) => (Box::new(MemorySink::default()), kept),
        (file, false) => {
            let file = file.map(|file| (file, audit.durability));
            let fan = FanOut::new(file, others).map_err(failed("[audit]"))?;
            (Box::new(fan), kept)
        }
    })
}

/// Where traces go, and what carries them there.
pub(super) fn open_traces(
    traces: Option<&Traces>,
    audit: &Audit,
    (metrics, control): (&Metrics, &Handle),
) -> Result<(Option<Tracer>, Option<Carrier>), StartError> {
    let Some(traces) = traces else { return Ok((None, None)) };
    let collector = collector_of(&traces.collector, audit, ("[traces]", "[traces] ca_file"))?;
    let kept = (traces.sample, traces.propagate);
    let (tracer, carrier) = Tracer::open(collector, kept, metrics.spans_dropped(), control);
    Ok((Some(tracer), Some(carrier)))
}

fn collector_of(
    otlp: &Otlp,
    audit: &Audit,
    (what, roots_of): (&'static str, &'static str),
) -> Result<Collector, StartError> {
    let read = |file: &PathBuf| {
        let why = |error| StartError { what, why: format!("{}: {error}", file.display()) };
        std::fs::read(file).map_err(why)
    };
    let roots = otlp.ca_file.as_ref().map(read).transpose()?;
    let roots = roots.as_deref().map_or(Roots::BuiltIn, Roots::Pem);
    let tls = client_config(roots).map_err(failed(roots_of))?;
    Ok(Collector {
        url: otlp.endpoint.clone(),
        headers: otlp.headers.clone(),
        tls: Some(Arc::clone(&tls)),
        instance: audit.replica.clone().unwrap_or_else(replica::host_name),
    })
}
