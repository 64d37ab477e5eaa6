//! Threads one by one, on request alone: their number is not the plan's.

use std::fmt;

use super::families::{Families, place};
use crate::{
    core::{jitter::totals::ThreadTotal, metrics::Sample},
    report::escape,
};

/// Encodes them.
pub(super) fn encode(sample: &Sample, page: &mut Families<'_>) -> fmt::Result {
    if sample.listed.is_empty() && sample.unlisted == 0 {
        return Ok(());
    }
    page.gauge(
        "numa_agent_threads_unlisted",
        "Threads beyond those that numa_agent_thread_... are of.",
        None,
        &sample.unlisted,
    )?;
    let all = |value: fn(&ThreadTotal) -> u64| sample.listed.iter().map(move |one| (labels(one), value(one)));
    if sample.measured.times {
        page.seconds("numa_agent_thread_cpu", "CPU time of a thread.", all(|one| one.run_ns))?;
        page.seconds(
            "numa_agent_thread_off_node",
            "CPU time of a thread outside its nodes.",
            all(|one| one.off_node_ns),
        )?;
        page.seconds(
            "numa_agent_thread_run_queue_wait",
            "Time that a thread waited for a CPU.",
            all(|one| one.wait_ns),
        )?;
    }
    if sample.measured.migrations {
        page.counters(
            "numa_agent_thread_migrations",
            "Moves of a thread between CPUs.",
            all(|one| one.moves),
        )?;
    }
    Ok(())
}

fn labels(thread: &ThreadTotal) -> [(&'static str, String); 5] {
    let [group, role] = place(&thread.place);
    let (pid, tid) = (thread.pid.to_string(), thread.task.tid.to_string());
    [("pid", pid), ("tid", tid), ("comm", escape::text(&thread.comm)), group, role]
}
