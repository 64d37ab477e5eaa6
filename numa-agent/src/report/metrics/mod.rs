//! The agent's metrics as text for Prometheus: OpenMetrics 1.0, or the older text format 0.0.4.
//!
//! Names and labels are fixed; the number of time series depends on the plan's groups alone, but for threads that are listed on
//! request. `docs/metrics.md` says what each is.

mod agent;
mod binds;
mod drift;
mod families;
mod holds;
mod journal;
mod managed;
mod measured;
mod process;
#[cfg(test)]
mod tests;
mod threads;

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use self::families::Families;
use crate::core::metrics::{Sample, Usage};

/// How the text is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/openmetrics-text`.
    OpenMetrics,
    /// `text/plain`, version 0.0.4.
    Plain,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Page {
    /// What the agent knew.
    pub sample: Arc<Sample>,
    /// How long it took to find out, in seconds.
    pub sample_seconds: f64,
    /// What the agent's process takes.
    pub usage: Usage,
}

impl Format {
    /// Both.
    pub const ALL: [Self; 2] = [Self::OpenMetrics, Self::Plain];

    /// What a client that sends `accept` gets: OpenMetrics if it takes that.
    #[must_use]
    pub fn of(accept: &str) -> Self {
        let takes = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let refused = |part: &str| part.strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0);
            parts.next() == Some("application/openmetrics-text") && !parts.any(refused)
        };
        if accept.split(',').any(takes) { Self::OpenMetrics } else { Self::Plain }
    }

    /// As HTTP names it.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All metrics.
#[must_use]
pub fn text(page: Page, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(page));
    let mut out = String::new();
    // Nothing can fail: a String takes everything.
    let _ = text::encode(&mut out, &registry);
    match format {
        Format::OpenMetrics => out,
        Format::Plain => plain(&out),
    }
}

/// What differs in the older format: a counter's family is named as its samples are, there are no units, and no end.
fn plain(open: &str) -> String {
    let mut out = String::with_capacity(open.len());
    let mut help = "";
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let help = help.strip_prefix(name).unwrap_or_default();
            out += &format!("# HELP {name}{suffix}{help}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            out += line;
            out += "\n";
        }
    }
    out
}
impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        agent::encode(self, &mut families)?;
        managed::encode(&self.sample, &mut families)?;
        binds::encode(&self.sample, &mut families)?;
        drift::encode(&self.sample, &mut families)?;
        journal::encode(&self.sample, &mut families)?;
        holds::encode(&self.sample, &mut families)?;
        measured::encode(&self.sample, &mut families)?;
        threads::encode(&self.sample, &mut families)?;
        process::encode(&self.usage, &mut families)
    }
}
