//! Masks that others changed: by whom, in three words, and what came of it. Who they are is for `status`: names have no bounds.

use std::fmt;

use super::families::{Families, place};
use crate::core::{engine::Drifted, metrics::Sample};

/// Encodes them.
pub(super) fn encode(sample: &Sample, page: &mut Families<'_>) -> fmt::Result {
    let rows = |label: &'static str, values: fn(&Drifted) -> Vec<(&'static str, u64)>| {
        sample.drifted.iter().flat_map(move |(of, drifted)| {
            let [group, role] = place(of);
            let row = move |(name, count): (&'static str, u64)| {
                ([group.clone(), role.clone(), (label, name.to_owned())], count)
            };
            values(drifted).into_iter().map(row)
        })
    };
    page.counters(
        "numa_agent_drift_changes",
        "Masks of managed threads that somebody else changed.",
        rows("by", |drifted| {
            vec![("itself", drifted.by_itself), ("other", drifted.by_other), ("unseen", drifted.unseen)]
        }),
    )?;
    page.counters(
        "numa_agent_drift_answers",
        "What came of such changes; one that is put back later is counted then.",
        rows("answer", |drifted| vec![("put_back", drifted.put_back), ("left", drifted.left)]),
    )
}
