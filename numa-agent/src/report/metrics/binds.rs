//! Masks set, how long that took, and what had to wait for it.

use std::fmt;

use super::families::Families;
use crate::core::metrics::Sample;

/// Encodes them.
pub(super) fn encode(sample: &Sample, page: &mut Families<'_>) -> fmt::Result {
    let attempts = sample.attempts.iter().map(|(attempt, count)| {
        ([("result", attempt.result), ("cause", attempt.cause), ("role", attempt.role)], *count)
    });
    page.counters("numa_agent_binds", "Attempts to put a thread where the plan has it.", attempts)?;
    page.counter(
        "numa_agent_binds_deferred",
        "Binds that were put off because of max_bind_rate.",
        &sample.deferred,
    )?;
    page.gauge("numa_agent_binds_waiting", "Those of them that wait now.", None, &sample.waiting)?;
    page.histograms(
        "numa_agent_event_to_bound",
        "From an event in the kernel to the mask in force.",
        sample.event_to_bound.iter().map(|(cause, steps)| ([("cause", *cause)], steps)),
    )
}
