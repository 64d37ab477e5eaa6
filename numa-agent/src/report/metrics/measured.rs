//! What is measured of managed threads: CPU time, waits, moves. What is not measured is not there: a zero would be a lie.

use std::{collections::BTreeMap, fmt};

use numa_ebpf::account::{cause, span};

use super::families::{Families, place};
use crate::core::{
    jitter::totals::Total,
    metrics::{Place, Sample},
};

/// Encodes them.
pub(super) fn encode(sample: &Sample, page: &mut Families<'_>) -> fmt::Result {
    let measured = sample.measured;
    let all =
        |value: fn(&Total) -> u64| sample.totals.iter().map(move |(of, total)| (place(of), value(total)));
    if measured.times {
        page.seconds("numa_agent_cpu", "CPU time of managed threads.", all(|total| total.run_ns))?;
        page.seconds(
            "numa_agent_off_node",
            "CPU time of managed threads outside the nodes that the plan gives them.",
            all(|total| total.off_node_ns),
        )?;
        page.seconds(
            "numa_agent_off_plan",
            "CPU time of managed threads outside the CPUs that the plan gives them.",
            all(|total| total.off_plan_ns),
        )?;
        page.histograms(
            "numa_agent_run_queue_wait",
            "From being woken or preempted to having a CPU.",
            sample.totals.iter().map(|(of, total)| (place(of), &total.waits)),
        )?;
    }
    if measured.migrations {
        page.counters(
            "numa_agent_migrations",
            "Moves of managed threads between CPUs, by the smallest unit that holds both.",
            by(&sample.totals, "distance", DISTANCES, |total, index| total.moves_by_span[index]),
        )?;
        page.counters(
            "numa_agent_migrations_by_cause",
            "The same moves by what moved the thread.",
            by(&sample.totals, "cause", CAUSES, |total, index| total.moves_by_cause[index]),
        )?;
    }
    Ok(())
}

/// As in [`numa_ebpf::account::span`].
const DISTANCES: [&str; span::COUNT] = {
    let mut names = [""; span::COUNT];
    names[span::CORE] = "core";
    names[span::CLUSTER] = "cluster";
    names[span::NODE] = "node";
    names[span::SOCKET] = "socket";
    names[span::MACHINE] = "machine";
    names
};

/// As in [`numa_ebpf::account::cause`].
const CAUSES: [&str; cause::COUNT] = {
    let mut names = [""; cause::COUNT];
    names[cause::WAKE_UP] = "wake_up";
    names[cause::EXEC] = "exec";
    names[cause::AFFINITY] = "affinity";
    names[cause::NUMA_BALANCING] = "numa_balancing";
    names[cause::LOAD_BALANCER] = "load_balancer";
    names
};

/// A row for each place and each of `names`.
fn by<'a, const N: usize>(
    totals: &'a BTreeMap<Place, Total>,
    label: &'static str,
    names: [&'static str; N],
    value: fn(&Total, usize) -> u64,
) -> impl Iterator<Item = ([(&'static str, String); 3], u64)> + 'a {
    let of = move |(of, total): (&'a Place, &'a Total)| {
        let [group, role] = place(of);
        let row = move |(index, name): (usize, &'static str)| {
            ([group.clone(), role.clone(), (label, name.to_owned())], value(total, index))
        };
        names.into_iter().enumerate().map(row)
    };
    totals.iter().flat_map(of)
}
