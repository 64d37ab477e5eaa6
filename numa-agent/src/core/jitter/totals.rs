//! What threads did since the agent started, by group and role: sums that only grow.
//!
//! What a thread adds between two looks counts for the group and role that it has at the second.

use std::collections::BTreeMap;

use numa_ebpf::account::{cause, span};

use super::timeline::Seen;
use crate::core::{
    metrics::{Place, steps::Steps},
    task::{TaskId, ThreadRole},
};

/// Sums over threads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Total {
    /// CPU time.
    pub run_ns: u64,
    /// Outside the planned nodes.
    pub off_node_ns: u64,
    /// Outside the planned CPUs.
    pub off_plan_ns: u64,
    /// Moves by [`numa_ebpf::account::cause`].
    pub moves_by_cause: [u64; cause::COUNT],
    /// Moves by [`numa_ebpf::account::span`].
    pub moves_by_span: [u64; span::COUNT],
    /// Run-queue waits, after wake-ups and after preemption.
    pub waits: Steps,
}

/// One thread's, as far as threads are listed one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadTotal {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub task: TaskId,
    /// Its name, not safe to print as it is.
    pub comm: String,
    /// Its group and role.
    pub place: Place,
    /// CPU time.
    pub run_ns: u64,
    /// Outside the planned nodes.
    pub off_node_ns: u64,
    /// Moves between CPUs.
    pub moves: u64,
    /// Run-queue waits, all together.
    pub wait_ns: u64,
}

/// All sums.
#[derive(Debug, Default)]
pub struct Totals(BTreeMap<Option<String>, [Total; ROLES.len()]>);

const ROLES: [ThreadRole; 3] = [ThreadRole::Member, ThreadRole::Forward, ThreadRole::Other];

impl Totals {
    /// Adds what a thread of that group and role did since `before`.
    pub fn add(&mut self, group: &Option<String>, role: ThreadRole, before: &Seen, now: &Seen) {
        if !self.0.contains_key(group) {
            self.0.insert(group.clone(), Default::default());
        }
        let index = ROLES.iter().position(|known| *known == role);
        let total = self.0.get_mut(group).zip(index).and_then(|(totals, index)| totals.get_mut(index));
        if let Some(total) = total {
            now.add_since(before, total);
        }
    }

    /// All that are not nothing.
    pub fn iter(&self) -> impl Iterator<Item = (Place, &Total)> {
        let of = |(group, totals)| {
            ROLES.into_iter().zip(totals).map(move |(role, total)| ((Clone::clone(group), role), total))
        };
        self.0.iter().flat_map(of).filter(|(_, total)| **total != Total::default())
    }
}
