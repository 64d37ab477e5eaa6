//! Who is managed.

use std::fmt;

use super::families::{Families, group_of, place};
use crate::core::metrics::Sample;

/// Encodes them.
pub(super) fn encode(sample: &Sample, page: &mut Families<'_>) -> fmt::Result {
    page.gauges(
        "numa_agent_processes",
        "Managed processes by group.",
        sample.processes.iter().map(|(group, count)| ([("group", group_of(group))], *count)),
    )?;
    page.gauges(
        "numa_agent_threads",
        "Managed threads by group and role.",
        sample.threads.iter().map(|(of, count)| (place(of), *count)),
    )?;
    page.gauges(
        "numa_agent_threads_spared",
        "Of those, real-time and deadline threads: they stay where they are.",
        sample.spared.iter().map(|(of, count)| (place(of), *count)),
    )
}
