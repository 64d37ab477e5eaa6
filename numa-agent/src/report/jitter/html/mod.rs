//! The report as one self-contained page: figures, pictures, then tables. No script, nothing loaded from elsewhere.

use super::{
    digest::Digest,
    tables::{self, Shown},
    words,
};
use crate::{core::jitter::recording::Recording, report::escape::xml};

/// Rows of the table of threads.
const THREADS: usize = 300;

/// The report as an HTML document.
#[must_use]
pub fn html(recording: &Recording) -> String {
    let digest = Digest::new(recording);
    let hosts: Vec<String> = recording.runs.iter().map(|run| xml(&run.host.name)).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>Jitter report: {}</title></head><body>\n<h1>Jitter report</h1><p>{}</p>{}</body></html>\n",
        hosts.join(", "),
        words::verdict(&digest),
        shown(&tables::threads(&digest, &xml, THREADS)),
    )
}

fn shown(shown: &Shown) -> String {
    format!("<div class=\"wide\">{}</div>", shown.table.html())
}
