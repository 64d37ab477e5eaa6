//! Processes held at exec, and what they got there.

use std::fmt;

use prometheus_client::registry::Unit;

use super::families::{Families, seconds};
use crate::core::metrics::Sample;

/// Encodes them.
pub(super) fn encode(sample: &Sample, page: &mut Families<'_>) -> fmt::Result {
    let holds = &sample.holds;
    page.counter("numa_agent_holds", "Processes that were held at exec and are not any more.", &holds.held)?;
    page.counters(
        "numa_agent_holds_unanswered",
        "Those that did not wait for the agent's word, by what let them go.",
        holds.released_by.iter().map(|(by, count)| ([("by", by.as_str())], *count)),
    )?;
    page.counters(
        "numa_agent_holds_ended",
        "Those that did not go on, by why.",
        holds.ended.iter().map(|(why, count)| ([("why", why.as_str())], *count)),
    )?;
    page.gauge(
        "numa_agent_hold_longest",
        "The longest that one was held.",
        Some(Unit::Seconds),
        &seconds(holds.longest_ns),
    )?;
    let refused: u64 = holds.refused.values().sum();
    page.counters(
        "numa_agent_memory_policies",
        "Memory policies for processes that were held, by what came of it.",
        [([("result", "set")], holds.injected), ([("result", "refused")], refused)],
    )?;
    page.counter(
        "numa_agent_guards_lost",
        "Guards of held processes that had to be replaced.",
        &holds.guards_lost,
    )
}
