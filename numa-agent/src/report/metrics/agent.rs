//! The agent itself: what it is, whether it is well, and what it has lost.

use std::fmt;

use prometheus_client::registry::Unit;

use super::{Page, families::Families};

/// Encodes them.
pub(super) fn encode(page: &Page, families: &mut Families<'_>) -> fmt::Result {
    let sample = &*page.sample;
    let about = [("version", env!("CARGO_PKG_VERSION"))];
    families.gauges("numa_agent_build_info", "What this agent is; always 1.", [(about, 1u64)])?;
    families.gauge(
        "numa_agent_enforcing",
        "1 if the agent binds, 0 if it only looks.",
        None,
        &u64::from(sample.enforcing),
    )?;
    families.gauge(
        "numa_agent_missing_programs",
        "Kernel programs that this kernel did not take; see numa-agent doctor.",
        None,
        &sample.missing_programs,
    )?;
    families.counter(
        "numa_agent_warnings",
        "Warnings said; the log has them, and after a reload those of the configuration again.",
        &sample.warnings,
    )?;
    families.gauge(
        "numa_agent_cpuset_cuts",
        "Places of the plan of which a cpuset leaves some tasks less than all CPUs, now.",
        None,
        &sample.cuts,
    )?;
    families.counter("numa_agent_scans", "Scans of all processes, the first included.", &sample.scans)?;
    families.counters(
        "numa_agent_lost_events",
        "Events that the kernel programs could not tell of, by kind.",
        sample.lost.iter().map(|(kind, count)| ([("kind", kind)], count)),
    )?;
    families.counter(
        "numa_agent_unreadable_events",
        "Events of the kernel programs that made no sense.",
        &sample.unreadable,
    )?;
    families.counter(
        "numa_agent_output_lines_dropped",
        "Lines of output that a slow reader made the agent drop.",
        &sample.lines_dropped,
    )?;
    families.counter(
        "numa_agent_unattributed_threads",
        "Threads that ended before it was known whose they were.",
        &sample.unattributed.threads,
    )?;
    families.counter(
        "numa_agent_untold_threads",
        "Threads that were born where they belong, in a storm, and ended before anybody was told of them.",
        &sample.untold.threads,
    )?;
    families.gauge(
        "numa_agent_sample_duration",
        "How long the agent took to find out all this.",
        Some(Unit::Seconds),
        &page.sample_seconds,
    )
}
