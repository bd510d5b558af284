//! Where the audit goes: a file alone, or several sinks at once.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::{StartError, failed};
use crate::audit::collector;
use crate::audit::{FanOut, FileSink, MemorySink, Outlet, Sink, replica};
use crate::config::audit::{Audit, Otlp};
use crate::net::otlp::Collector;
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
        others.push(("otlp", Box::new(collector(otlp, audit, control)?)));
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

fn collector(otlp: &Otlp, audit: &Audit, control: &Handle) -> Result<collector::Otlp, StartError> {
    let read = |file: &PathBuf| {
        let why = |error| StartError { what: "[audit] otlp", why: format!("{}: {error}", file.display()) };
        std::fs::read(file).map_err(why)
    };
    let roots = otlp.ca_file.as_ref().map(read).transpose()?;
    let roots = roots.as_deref().map_or(Roots::BuiltIn, Roots::Pem);
    let tls = client_config(roots).map_err(failed("[audit] otlp ca_file"))?;
    let collector = Collector {
        url: otlp.endpoint.clone(),
        headers: otlp.headers.clone(),
        tls: Some(Arc::clone(&tls)),
        instance: audit.replica.clone().unwrap_or_else(replica::host_name),
    };
    Ok(collector::Otlp { collector, runtime: control.clone() })
}
