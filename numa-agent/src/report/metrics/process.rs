//! The agent's process, under the names that every Prometheus client has for them.

use std::fmt;

use super::families::Families;
use crate::core::metrics::Usage;

/// Encodes what could be read.
pub(super) fn encode(usage: &Usage, page: &mut Families<'_>) -> fmt::Result {
    let Usage { cpu_seconds, resident_bytes, virtual_bytes, open_fds, max_fds, threads, started_at_seconds } =
        *usage;
    if let Some(cpu_seconds) = cpu_seconds {
        page.counter("process_cpu_seconds", "CPU time of the agent.", &cpu_seconds)?;
    }
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory of the agent.", resident_bytes),
        ("process_virtual_memory_bytes", "Virtual memory of the agent.", virtual_bytes),
        ("process_open_fds", "Open file descriptors of the agent.", open_fds),
        ("process_max_fds", "The most file descriptors that the agent may have.", max_fds),
        ("process_threads", "Threads of the agent.", threads),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            page.gauge(name, help, None, &value)?;
        }
    }
    match started_at_seconds {
        Some(at) => page.gauge(
            "process_start_time_seconds",
            "When the agent started, in seconds since 1970.",
            None,
            &at,
        ),
        None => Ok(()),
    }
}
