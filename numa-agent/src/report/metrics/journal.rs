//! What is written down so that it can be undone. Without a journal there is nothing of it.

use std::fmt;

use super::families::Families;
use crate::core::{metrics::Sample, stats::Journaled};

/// Encodes them.
pub(super) fn encode(sample: &Sample, page: &mut Families<'_>) -> fmt::Result {
    let Some(Journaled { entries, failures, waiting, lost }) = sample.journaled else { return Ok(()) };
    page.counter("numa_agent_journal_entries", "Entries written to the journal.", &entries)?;
    page.counter("numa_agent_journal_failures", "Tries to write to the journal that failed.", &failures)?;
    page.gauge(
        "numa_agent_journal_waiting",
        "Entries that wait to be written; what they tell of has been changed already.",
        None,
        &waiting,
    )?;
    page.counter("numa_agent_journal_lost", "Entries for which there was no room even to wait.", &lost)
}
