//! The audit as OTLP log records. A batch counts as written when the collector has acknowledged all of it.

use std::io;

use serde::Deserialize;
use tokio::runtime::Handle;

use super::lane::Outlet;
use crate::clock;
use crate::net::otlp::{Collector, LogRecord};

/// Records of one request at most, so that it stays far below what collectors take.
const BATCH: usize = 1000;

/// A collector of logs.
pub struct Otlp {
    /// Which.
    pub collector: Collector,
    /// What carries the calls.
    pub runtime: Handle,
}

impl Outlet for Otlp {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        for batch in lines.chunks(BATCH) {
            let records: Vec<LogRecord<'_>> = batch.iter().map(|line| record(line)).collect();
            self.runtime.block_on(self.collector.send(&records)).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// What collectors are asked by; the rest stands in the body.
#[derive(Deserialize)]
struct Shown {
    time: String,
    kind: String,
    integration: Option<String>,
    chain: Option<String>,
    seq: Option<u64>,
}

fn record(line: &str) -> LogRecord<'_> {
    let shown = serde_json::from_str::<Shown>(line).ok();
    let at = shown.as_ref().and_then(|shown| clock::parse_rfc3339(&shown.time));
    let unix_nanos = at.unwrap_or_else(clock::unix_seconds).saturating_mul(1_000_000_000);
    let mut attributes = Vec::new();
    if let Some(Shown { kind, integration, chain, seq, .. }) = shown {
        attributes.push(("relay.audit.kind", kind));
        attributes.extend(integration.map(|integration| ("relay.integration", integration)));
        attributes.extend(chain.map(|chain| ("relay.audit.chain", chain)));
        attributes.extend(seq.map(|seq| ("relay.audit.seq", seq.to_string())));
    }
    LogRecord { unix_nanos, body: line, attributes }
}
